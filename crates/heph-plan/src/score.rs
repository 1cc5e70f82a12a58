//! The cost model: what a shape costs, from profiles alone. `docs/planner.md` writes the same sums out with units.

use crate::ground::{DESK, Way};
use crate::request::CodecProfile;
use crate::space::{Phase, Segment, Shape, Space};
use heph_types::{Exactness, Leaves};

/// Bytes around the payload of one message.
const FRAME_BYTES: f64 = 64.0;
/// Bytes of one token id on the wire.
pub(crate) const TOKEN_BYTES: f64 = 4.0;

/// By how much a plan of twice the most credits seems dearer.
const OVER: f64 = 8.0;

/// What a shape costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    /// Seconds, all wishes weighed in: what is made small.
    pub(crate) objective: f64,
    pub(crate) first_token: f64,
    pub(crate) per_token: f64,
    pub(crate) credits: f64,
    pub(crate) bytes_up: f64,
    pub(crate) bytes_down: f64,
    pub(crate) exactness: Exactness,
}

impl Space<'_> {
    /// What a shape costs, or `None` where it breaks a rule: memory, privacy, a missing layer. Whether it costs more than
    /// the most credits is for [`Space::affordable`] to say.
    pub(crate) fn score(&self, shape: &Shape) -> Option<Score> {
        if !self.keeps_the_rules(shape) || !self.fits(shape) {
            return None;
        }
        let request = self.ground.permitted.request;
        let rows = shape.draft.map_or(1, |(_, length)| u32::from(length) + 1);
        let (gain, length, draft) = match shape.draft {
            Some((source, length)) => {
                let draft = &request.drafts[source];
                (expected_tokens(draft.acceptance, length), length, Some(draft))
            }
            None => (1.0, 0, None),
        };
        let credits = self.credits(shape, gain, f64::from(rows));
        let both = self.passes(shape, rows)?;
        let (pass, chunk) = (&both.answer, &both.prompt);
        // The next round is drafted while this one is verified elsewhere; that helps when every guess was right.
        let drafting = draft.map_or(0.0, |d| {
            let seconds = f64::from(length) * d.seconds_per_token;
            let hidden = d.acceptance.powi(i32::from(length) + 1) * seconds.min(pass.seconds - pass.desk);
            seconds - hidden
        });
        let per_token = (pass.seconds + drafting) / gain;

        let first = &both.first;
        let (cold, chunk_count) = (first.cold, f64::from(self.chunks[shape.chunk].1));
        let waits = first.load + first.queue + draft.map_or(0.0, |d| d.seconds_for_prompt) + self.choosing();
        let prefill = cold * (chunk.seconds + (chunk_count - 1.0) * chunk.bottleneck);
        let first_token = waits + prefill + first.head;
        let inexact = match both.exactness {
            Exactness::Exact => 0.0,
            Exactness::Close | Exactness::Unknown => request.objective.inexact_loss,
        };
        let time = request.objective.first_token_weight * first_token + self.answer * per_token;
        let rounds = self.answer / gain;
        let sent = chunk_count * cold;
        if !self.saves_bytes(sent * chunk.up) {
            return None;
        }
        Some(Score {
            objective: time * (self.patience + inexact) + request.objective.seconds_per_credit * credits,
            first_token,
            per_token,
            credits,
            bytes_up: sent * chunk.up + rounds * pass.up,
            bytes_down: sent * chunk.down + rounds * pass.down,
            exactness: both.exactness,
        })
    }

    /// What rounds of this shape cost whose guesses have so many tokens at most, and what a token costs without guesses.
    /// `None` where the stages cannot be.
    pub(crate) fn rounds(&self, shape: &Shape) -> Option<Rounds> {
        let (_, length) = shape.draft?;
        let plain = Shape {
            draft: None,
            ..shape.clone()
        };
        let rows = |rows: u16| Some(self.passes(shape, u32::from(rows))?.answer);
        let (one, most) = (rows(1)?, rows(length + 1)?);
        let per_row = (most.seconds - one.seconds).max(0.0) / f64::from(length.max(1));
        Some(Rounds {
            plain: self.passes(&plain, 1)?.answer.seconds,
            fixed: (one.seconds - per_row).max(0.0),
            per_row,
            way: one.way,
        })
    }

    /// Whether the answer costs no more than the most credits.
    pub(crate) fn affordable(&self, score: &Score) -> bool {
        let most = self.ground.permitted.request.objective.credits_max;
        most.is_none_or(|most| score.credits <= most)
    }

    /// The objective, much larger where the answer costs too much: so that small changes lead back below the most.
    pub(crate) fn weighed(&self, score: &Score) -> f64 {
        let most = self.ground.permitted.request.objective.credits_max;
        let over = most.map_or(0.0, |most| (score.credits / most.max(1e-12) - 1.0).max(0.0));
        score.objective * (1.0 + OVER * over)
    }

    /// Whether so many bytes of a prompt are what spans are chosen for: fewer than the whole documents would be. Rows of
    /// hidden states are more, even of a sixth of the text.
    fn saves_bytes(&self, up: f64) -> bool {
        let whole = f64::from(self.ground.permitted.request.prompt_tokens);
        !self.preprocess || up <= FRAME_BYTES + whole * TOKEN_BYTES
    }

    /// Seconds of choosing spans here.
    fn choosing(&self) -> f64 {
        let document = self.ground.permitted.request.document;
        document.filter(|_| self.preprocess).map_or(0.0, |d| d.seconds)
    }

    /// Whether the shape is one that the policy allows: an independent second look at what the permit let through.
    pub(crate) fn keeps_the_rules(&self, shape: &Shape) -> bool {
        let (first_local, last_local) = self.ground.permitted.local;
        let layers = self.layers();
        let (Some(first), Some(last)) = (shape.segments.first(), shape.segments.last()) else {
            return false;
        };
        let local = |g: &Segment, wanted: u16| {
            wanted == 0 || g.site == DESK && g.end - g.start >= usize::from(wanted).min(layers)
        };
        local(first, first_local)
            && local(last, last_local)
            && shape
                .segments
                .iter()
                .all(|g| match self.ground.sites[g.site].leaves {
                    Leaves::Text => true,
                    Leaves::Activations => g.start > 0 && g.end < layers,
                    Leaves::Nothing | Leaves::Embeddings => false,
                })
    }

    /// No node but the desk comes twice in a shape.
    fn fits(&self, shape: &Shape) -> bool {
        let last = shape.segments.len() - 1;
        let stays = |at: usize, g: &Segment| {
            let own = self.bytes[g.end] - self.bytes[g.start] + self.ends_bytes(at == 0, at == last);
            g.site == DESK || own <= self.ground.sites[g.site].memory
        };
        // A draft takes room at the desk even where no layer does.
        self.bytes_at(shape, DESK) <= self.ground.sites[DESK].memory
            && shape
                .segments
                .iter()
                .enumerate()
                .all(|(at, g)| stays(at, g) && self.can_have(g.site, g.start, g.end))
    }

    /// Bytes that the segments of one site take there.
    pub(crate) fn bytes_at(&self, shape: &Shape, site: usize) -> f64 {
        let own = shape.segments.iter().filter(|g| g.site == site);
        let layers: f64 = own.map(|g| self.bytes[g.end] - self.bytes[g.start]).sum();
        let first = shape.segments.first().is_some_and(|g| g.site == site);
        let last = shape.segments.last().is_some_and(|g| g.site == site);
        let draft = shape.draft.filter(|_| site == DESK);
        let draft = draft.map_or(0, |(d, _)| self.ground.permitted.request.drafts[d].memory);
        layers + self.ends_bytes(first, last) + draft as f64
    }

    fn credits(&self, shape: &Shape, gain: f64, rows: f64) -> f64 {
        let last = shape.segments.len() - 1;
        let mut credits = 0.0;
        for (at, g) in shape.segments.iter().enumerate() {
            let price = self.ground.sites[g.site].profile.price;
            let head = match at == last {
                true => 1.0 - self.work[self.layers()],
                false => 0.0,
            };
            let share = self.work[g.end] - self.work[g.start] + head;
            let answer = price.answer_token * self.answer * rows / gain;
            credits += share * (price.prompt_token * f64::from(self.prompt) + answer);
        }
        credits
    }

    /// Codecs of hidden states into and out of a segment's site; `None` where tokens cross, or nothing does.
    pub(crate) fn wires(&self, shape: &Shape, at: usize) -> (Option<CodecProfile>, Option<CodecProfile>) {
        let segment = shape.segments[at];
        if segment.site == DESK {
            return (None, None);
        }
        let [before, after] = self.ways(shape, at);
        let codec = |way: Option<&Way>| {
            let way = way.unwrap_or(&self.ground.sites[segment.site].way);
            way.codec(shape.lossy)
        };
        let last = at + 1 == shape.segments.len();
        ((at > 0).then(|| codec(before)), (!last).then(|| codec(after)))
    }

    /// The ways to the neighbours of a segment, where it does not go through the desk and the way is known.
    fn ways(&self, shape: &Shape, at: usize) -> [Option<&Way>; 2] {
        let own = shape.segments[at].site;
        let remote = |other: Option<usize>| {
            let site = shape.segments.get(other?)?.site;
            (shape.direct && site != DESK).then_some(site)
        };
        let before = remote(at.checked_sub(1)).and_then(|from| self.ground.between(from, own));
        let after = remote(at.checked_add(1)).and_then(|to| self.ground.between(own, to));
        [before, after]
    }

    /// One pass of a round's rows and one of a chunk's through all stages, and what stands before the first.
    fn passes(&self, shape: &Shape, rows: u32) -> Option<Passes> {
        let mut both = Passes::default();
        let last = shape.segments.len() - 1;
        for (at, segment) in shape.segments.iter().enumerate() {
            let site = &self.ground.sites[segment.site];
            let answer = self.sums(segment.site, Phase::Decode(rows));
            let prompt = self.sums(segment.site, Phase::Prefill(shape.chunk));
            let mut own = [
                site.overhead + answer.span(segment.start, segment.end),
                site.overhead + prompt.span(segment.start, segment.end),
            ];
            if at == last {
                own[0] += answer.head;
                both.first.head = self.head_seconds(segment.site);
            }
            both.first.load += self.load_seconds(segment.site, segment.start, segment.end);
            both.first.queue = both.first.queue.max(site.queue);
            both.exactness = both.exactness.max(site.profile.exactness);
            for (pass, seconds) in [&mut both.answer, &mut both.prompt].into_iter().zip(own) {
                pass.seconds += seconds;
                match segment.site {
                    DESK => pass.desk += seconds,
                    _ => pass.bottleneck = pass.bottleneck.max(seconds),
                }
            }
            if segment.site != DESK {
                self.hop(shape, at, rows, &mut both)?;
            }
        }
        // A prefix in a cache helps only where the whole model runs in one place.
        both.first.cold = match last {
            0 => self.cold(shape.segments[0].site),
            _ => 1.0,
        };
        for pass in [&mut both.answer, &mut both.prompt] {
            pass.bottleneck = pass.bottleneck.max(pass.desk);
        }
        Some(both)
    }

    /// Adds the way to a remote stage, and back to the desk where it does not go on to a neighbour.
    fn hop(&self, shape: &Shape, at: usize, rows: u32, both: &mut Passes) -> Option<()> {
        let site = &self.ground.sites[shape.segments[at].site];
        let width = f64::from(self.model.width);
        let message = |codec: Option<CodecProfile>, rows: f64, tokens: f64| match codec {
            Some(codec) => Message {
                bytes: FRAME_BYTES + rows * width * codec.bytes_per_number,
                work: rows * width * codec.seconds_per_number,
            },
            None => Message {
                bytes: FRAME_BYTES + tokens * TOKEN_BYTES,
                work: 0.0,
            },
        };
        let (into, out) = self.wires(shape, at);
        if [into, out].into_iter().flatten().any(|c| !c.codec.is_exact()) {
            both.exactness = both.exactness.max(Exactness::Close);
        }
        let (chunk, rows) = (f64::from(self.chunks[shape.chunk].0), f64::from(rows));
        let remote = |other: Option<&Segment>| shape.direct && other.is_some_and(|g| g.site != DESK);
        let [before, _] = self.ways(shape, at);
        let from_neighbour = at > 0 && remote(shape.segments.get(at - 1));
        let to_neighbour = remote(shape.segments.get(at + 1));
        // The node goes on by itself and tells each token; only the telling can hold it up.
        let streams = shape.segments.len() == 1 && shape.draft.is_none();
        for (pass, rows, told, streams) in [
            (&mut both.answer, rows, rows, streams),
            (&mut both.prompt, chunk, 1.0, false),
        ] {
            let (sent, back) = (message(into, rows, rows), message(out, rows, told));
            if streams {
                pass.seconds = pass.seconds.max(back.bytes / site.way.down);
                pass.down += back.bytes;
                continue;
            }
            match from_neighbour {
                true => pass.cross(before?.round_trip, before?.up, sent),
                false => {
                    pass.up += sent.bytes;
                    pass.cross(site.way.round_trip, site.way.up, sent);
                }
            }
            if !to_neighbour {
                pass.down += back.bytes;
                pass.cross(site.way.round_trip, site.way.down, back);
            }
        }
        Some(())
    }
}

/// Tokens that a round of `length` drafted ones is worth when each is accepted with this probability.
pub(crate) fn expected_tokens(acceptance: f64, length: u16) -> f64 {
    let (mut sum, mut power) = (0.0, 1.0);
    for _ in 0..=length {
        sum += power;
        power *= acceptance;
    }
    sum
}

/// Seconds of rounds in which guesses are verified.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounds {
    /// A token without any guess, as the stages of the plan give it: a node with the whole model goes on alone.
    pub plain: f64,
    /// What a round costs whatever its length: the way there and back, and reading the weights.
    pub fixed: f64,
    /// What each verified row costs.
    pub per_row: f64,
    /// What of `fixed` is the way there and back.
    pub way: f64,
}

/// One message, and the seconds of writing and reading it.
struct Message {
    bytes: f64,
    work: f64,
}

/// Both passes of a shape.
struct Passes {
    answer: Pass,
    prompt: Pass,
    first: First,
    exactness: Exactness,
}

impl Default for Passes {
    fn default() -> Passes {
        Passes {
            answer: Pass::default(),
            prompt: Pass::default(),
            first: First::default(),
            exactness: Exactness::Exact,
        }
    }
}

/// What the first token waits for besides the prompt's passes.
#[derive(Default)]
struct First {
    load: f64,
    queue: f64,
    head: f64,
    /// Share of the prompt that is still to be computed.
    cold: f64,
}

/// Seconds and bytes of one pass.
#[derive(Debug, Clone, Copy, Default)]
struct Pass {
    seconds: f64,
    /// Of these, spent computing at the desk.
    desk: f64,
    /// The busiest machine or wire: what a long row of chunks waits for.
    bottleneck: f64,
    /// Of the seconds, spent by messages that are on their way, however short.
    way: f64,
    up: f64,
    down: f64,
}

impl Pass {
    /// Half a round trip and the bytes of one message.
    fn cross(&mut self, round_trip: f64, rate: f64, message: Message) {
        let busy = message.bytes / rate + message.work;
        self.seconds += round_trip / 2.0 + busy;
        self.way += round_trip / 2.0;
        self.bottleneck = self.bottleneck.max(busy);
    }
}
