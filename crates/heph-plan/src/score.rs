//! The cost model: what a shape costs, from profiles alone. `docs/planner.md` writes the same sums out with units.

use crate::ground::{DESK, Site, Way};
use crate::pass::{Lanes, Pass};
use crate::request::{CodecProfile, READYING_PASSES};
use crate::space::{LANES, Phase, Segment, Shape, Space};
use heph_types::{Exactness, Leaves};

/// So many chunks have short pieces at both ends: one with a third of the rows, one with two thirds.
const SHORT_ENDS_FROM: f64 = 3.0;

/// Bytes around the payload of one message that keep the way busy: of its packet and of its frame.
pub(crate) const FRAME_BYTES: f64 = 64.0;
/// Bytes of one token id on the way, with what is seldom sent beside it.
pub(crate) const TOKEN_BYTES: f64 = 4.0;
/// Bytes of a message beside its payload, and of one token id, as receipts count them: without packets.
pub(crate) const HEAD_BYTES: f64 = 6.0;
pub(crate) const ID_BYTES: f64 = 2.0;
/// Bytes of greeting a node and opening a session there, as receipts count them: what the desk says, and what the node says
/// of itself.
const OPENING_BYTES: (f64, f64) = (110.0, 1000.0);

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
        self.score_below(shape, f64::INFINITY)
    }

    /// As [`Space::score`], or `None` where it is seen on the way that the objective is `most` or more.
    pub(crate) fn score_below(&self, shape: &Shape, most: f64) -> Option<Score> {
        let still = self.with_left(shape, self.still(shape)?);
        let part = self.answered(&self.guessing(shape), &still, &self.answer_pass(shape));
        if part.objective_at(0.0, self) >= most {
            return None;
        }
        self.summed(shape, &still, &part, &self.prompt_pass(shape))
    }

    /// What stands of a shape whatever is drafted, whatever lies in caches, and however the prompt is cut; `None` where it breaks a
    /// rule.
    fn still(&self, shape: &Shape) -> Option<Still> {
        let mut still = Still::default();
        for at in 0..shape.segments.len() {
            still.add(&self.still_of(shape, at)?);
        }
        self.stands(shape).then_some(still)
    }

    /// With what lies in caches along these very stages: it is not computed again, and their sessions are open. A desk that
    /// begins computes while others open theirs.
    fn with_left(&self, shape: &Shape, still: Still) -> Still {
        match self.left_along(shape) {
            Some(tokens) => Still {
                cold: self.cold(tokens),
                waits: still.queue,
                ..still
            },
            None if shape.segments.len() > 1 && shape.segments[0].site == DESK => Still {
                waits: still.here,
                late: (still.opening - still.here).max(0.0),
                ..still
            },
            None => Still {
                waits: still.opening.max(still.here),
                ..still
            },
        }
    }

    /// Whether a stage breaks no rule by itself: it sees no more than it may, and its node has room and can have the layers.
    fn may_stand(&self, shape: &Shape, at: usize) -> bool {
        let segment = shape.segments[at];
        let site = &self.ground.sites[segment.site];
        let (first, last) = (at == 0, at + 1 == shape.segments.len());
        let sees = match site.leaves {
            Leaves::Text => true,
            Leaves::Activations => segment.start > 0 && segment.end < self.layers(),
            Leaves::Nothing | Leaves::Embeddings => false,
        };
        let bytes = self.bytes[segment.end] - self.bytes[segment.start];
        // No node but the desk comes twice in a shape.
        let fits = segment.site == DESK || bytes + self.ends_bytes(first, last) <= site.memory;
        sees && fits && self.can_have(segment.site, segment.start, segment.end)
    }

    /// What one stage adds to that, or `None` where it breaks a rule by itself.
    fn still_of(&self, shape: &Shape, at: usize) -> Option<Still> {
        self.may_stand(shape, at).then_some(())?;
        let segment = shape.segments[at];
        let site = &self.ground.sites[segment.site];
        let (first, last) = (at == 0, at + 1 == shape.segments.len());
        let mut still = Still {
            load: self.load_seconds(segment.site, segment.start, segment.end),
            queue: site.queue,
            here: if segment.site == DESK { site.queue } else { 0.0 },
            opening: site.queue + site.way.round_trip,
            readying: self.readying(segment.site),
            exactness: site.profile.exactness,
            ..Still::default()
        };
        if last {
            still.head = self.head_seconds(segment.site);
        }
        (still.prompt_credits, still.answer_credits) = self.credits(shape, at);
        if segment.site != DESK {
            (still.bytes_up, still.bytes_down) = OPENING_BYTES;
            let from_neighbour = !first && shape.direct && shape.segments[at - 1].site != DESK;
            if from_neighbour && self.ways(shape, at)[0].is_none() {
                return None;
            }
            let rounds = |codec: Option<CodecProfile>| codec.is_some_and(|c| !c.codec.is_exact());
            if shape.lossy {
                let (into, out) = self.wires(shape, at);
                if rounds(into) || rounds(out) {
                    still.exactness = still.exactness.max(Exactness::Close);
                }
            }
        }
        Some(still)
    }

    /// Credits of a stage: of the prompt, and of an answer in which each pass has one row and brings one token.
    fn credits(&self, shape: &Shape, at: usize) -> (f64, f64) {
        let segment = shape.segments[at];
        let price = self.ground.sites[segment.site].profile.price;
        if price.prompt_token == 0.0 && price.answer_token == 0.0 {
            return (0.0, 0.0);
        }
        let last = at + 1 == shape.segments.len();
        let head = if last { 1.0 - self.work[self.layers()] } else { 0.0 };
        let share = self.work[segment.end] - self.work[segment.start] + head;
        (
            share * price.prompt_token * f64::from(self.prompt),
            share * price.answer_token * self.answer,
        )
    }

    /// Whether the desk has what must be there, and room for what is: the rules that no stage breaks by itself.
    fn stands(&self, shape: &Shape) -> bool {
        let (first_local, last_local) = self.ground.permitted.local;
        let (Some(first), Some(last)) = (shape.segments.first(), shape.segments.last()) else {
            return false;
        };
        let local = |g: &Segment, wanted: u16| {
            wanted == 0 || g.site == DESK && g.end - g.start >= usize::from(wanted).min(self.layers())
        };
        let memory = self.ground.sites[DESK].memory;
        local(first, first_local)
            && local(last, last_local)
            && self.bytes_of_layers_at(shape, DESK) + self.draft_bytes(shape) <= memory
    }

    /// What a site has still to do with the model: of others than the desk nothing is known.
    fn readying(&self, site: usize) -> (f64, f64) {
        let readying = self.ground.permitted.request.readying;
        match site {
            DESK => (readying.first.as_secs_f64(), readying.rest.as_secs_f64()),
            _ => (0.0, 0.0),
        }
    }

    fn draft_bytes(&self, shape: &Shape) -> f64 {
        let drafts = &self.ground.permitted.request.drafts;
        shape
            .draft
            .map_or(0.0, |(source, _)| drafts[source].memory as f64)
    }

    /// One pass of a round's rows through all stages.
    fn answer_pass(&self, shape: &Shape) -> Pass<1> {
        self.pass(shape, Phase::Decode(rows(shape)))
    }

    /// One pass of a chunk of the prompt through all stages.
    fn prompt_pass(&self, shape: &Shape) -> Pass<1> {
        self.pass(shape, Phase::Prefill(shape.chunk))
    }

    /// What the draft of a shape makes of a pass.
    fn guessing(&self, shape: &Shape) -> Guessing {
        let Some((source, length)) = shape.draft else {
            return Guessing::NONE;
        };
        let draft = &self.ground.permitted.request.drafts[source];
        Guessing {
            rows: f64::from(rows(shape)),
            gain: expected_tokens(draft.acceptance, length),
            passes: f64::from(length),
            drafting: f64::from(length) * draft.seconds_per_token,
            all_right: draft.acceptance.powi(i32::from(length) + 1),
            readying: draft.readying.first.as_secs_f64(),
            reading: draft.seconds_for_prompt,
            packing: draft.readying.rest.as_secs_f64(),
        }
    }

    /// What the answer takes.
    fn answered(&self, guessing: &Guessing, still: &Still, pass: &Pass<1>) -> Answered {
        // The next round is drafted while this one is verified elsewhere; that helps when every guess was right.
        let hidden = guessing.all_right * guessing.drafting.min(pass.seconds[0] - pass.desk[0]);
        let rounds = self.answer / guessing.gain;
        let (first, rest) = still.readying;
        let packing = packed_by(rounds, rest) + packed_by(rounds * guessing.passes, guessing.packing);
        let inexact = match still.exactness {
            Exactness::Exact => 0.0,
            Exactness::Close | Exactness::Unknown => self.ground.permitted.request.objective.inexact_loss,
        };
        // Whoever drafts for stages that hold the beginning has read it, too.
        let before = guessing.readying + still.cold * guessing.reading;
        Answered {
            per_token: (pass.seconds[0] + (guessing.drafting - hidden)) / guessing.gain
                + packing / self.answer.max(1.0),
            waits: first + still.load + still.waits + before + self.choosing(),
            drafter_waits: before,
            credits: still.prompt_credits + still.answer_credits * guessing.rows / guessing.gain,
            patience: self.patience + inexact,
            bytes_up: still.bytes_up + rounds * pass.up[0],
            bytes_down: still.bytes_down + rounds * pass.down[0],
        }
    }

    /// The whole, once what a chunk takes is known too. `None` where chosen spans would save no bytes.
    fn summed(&self, shape: &Shape, still: &Still, part: &Answered, chunk: &Pass<1>) -> Option<Score> {
        let sent = f64::from(self.chunks[shape.chunk].1) * still.cold;
        if !self.saves_bytes(sent * chunk.up[0]) {
            return None;
        }
        let prompt = self.prompt_seconds(shape, still, part, chunk) + still.head;
        Some(Score {
            objective: part.objective_at(prompt, self),
            first_token: part.waits + prompt,
            per_token: part.per_token,
            credits: part.credits,
            bytes_up: sent * chunk.up[0] + part.bytes_up,
            bytes_down: sent * chunk.down[0] + part.bytes_down,
            exactness: still.exactness,
        })
    }

    /// Seconds of a prompt whose chunks pass so, less what the draft does meanwhile: it gets ready and takes the prompt in
    /// while other stages compute. A single stage is sent the first guesses with the prompt, so they are waited for.
    fn prompt_seconds(&self, shape: &Shape, still: &Still, part: &Answered, chunk: &Pass<1>) -> f64 {
        let count = f64::from(self.chunks[shape.chunk].1);
        let anew = passes_of_prompt(chunk, count, still.late);
        // However little is left to be computed, it goes all the way.
        let way = chunk.way[0];
        let all = way + still.cold * (anew - way);
        let elsewhere = match shape.segments.len() {
            1 => 0.0,
            _ => (all - still.cold * count * chunk.desk[0]).max(0.0),
        };
        all - part.drafter_waits.min(elsewhere)
    }

    /// What rounds of this shape cost whose guesses have so many tokens at most, and what a token costs without guesses.
    /// `None` where the stages cannot be.
    pub(crate) fn rounds(&self, shape: &Shape) -> Option<Rounds> {
        let (_, length) = shape.draft?;
        let plain = Shape {
            draft: None,
            ..shape.clone()
        };
        self.still(shape)?;
        let rows = |rows: u16| self.pass(shape, Phase::Decode(u32::from(rows)));
        let (one, most) = (rows(1), rows(length + 1));
        let per_row = (most.seconds[0] - one.seconds[0]).max(0.0) / f64::from(length.max(1));
        Some(Rounds {
            plain: self.answer_pass(&plain).seconds[0],
            fixed: (one.seconds[0] - per_row).max(0.0),
            per_row,
            way: one.way[0],
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
        !self.preprocess || up <= HEAD_BYTES + whole * ID_BYTES
    }

    /// Whether any shape saves bytes. Where the text must stay here, the rows of the whole prompt go up.
    pub(crate) fn may_save_bytes(&self) -> bool {
        let others = &self.ground.sites[DESK + 1..];
        let begins = |site: &Site| site.leaves == Leaves::Text;
        if self.ground.permitted.local.0 == 0 && others.iter().any(begins) {
            return true;
        }
        let codecs = others
            .iter()
            .flat_map(|site| [false, true].map(|lossy| site.way.codec(lossy)));
        let number = codecs
            .map(|codec| codec.bytes_per_number)
            .fold(f64::INFINITY, f64::min);
        self.saves_bytes(f64::from(self.prompt) * f64::from(self.model.width) * number)
    }

    /// Seconds of choosing spans here.
    fn choosing(&self) -> f64 {
        let document = self.ground.permitted.request.document;
        document.filter(|_| self.preprocess).map_or(0.0, |d| d.seconds)
    }

    /// Bytes that the segments of one site take there, and at the desk the draft: it takes room even where no layer does.
    pub(crate) fn bytes_at(&self, shape: &Shape, site: usize) -> f64 {
        let draft = if site == DESK {
            self.draft_bytes(shape)
        } else {
            0.0
        };
        self.bytes_of_layers_at(shape, site) + draft
    }

    fn bytes_of_layers_at(&self, shape: &Shape, site: usize) -> f64 {
        let own = shape.segments.iter().filter(|g| g.site == site);
        let layers: f64 = own.map(|g| self.bytes[g.end] - self.bytes[g.start]).sum();
        let first = shape.segments.first().is_some_and(|g| g.site == site);
        let last = shape.segments.last().is_some_and(|g| g.site == site);
        layers + self.ends_bytes(first, last)
    }

    /// Codecs of hidden states into and out of a segment's site; `None` where tokens cross, or nothing does.
    pub(crate) fn wires(&self, shape: &Shape, at: usize) -> (Option<CodecProfile>, Option<CodecProfile>) {
        let segment = shape.segments[at];
        if segment.site == DESK {
            return (None, None);
        }
        self.codecs(shape, at, self.ways(shape, at))
    }

    /// As [`Space::wires`], of a remote segment with these ways to its neighbours.
    pub(crate) fn codecs(
        &self,
        shape: &Shape,
        at: usize,
        [before, after]: [Option<&Way>; 2],
    ) -> (Option<CodecProfile>, Option<CodecProfile>) {
        let own = &self.ground.sites[shape.segments[at].site].way;
        let codec = |way: Option<&Way>| way.unwrap_or(own).codec(shape.lossy);
        let last = at + 1 == shape.segments.len();
        ((at > 0).then(|| codec(before)), (!last).then(|| codec(after)))
    }

    /// The ways to the neighbours of a segment, where it does not go through the desk and the way is known.
    pub(crate) fn ways(&self, shape: &Shape, at: usize) -> [Option<&Way>; 2] {
        let own = shape.segments[at].site;
        let remote = |other: Option<usize>| {
            let site = shape.segments.get(other?)?.site;
            (shape.direct && site != DESK).then_some(site)
        };
        let before = remote(at.checked_sub(1)).and_then(|from| self.ground.between(from, own));
        let after = remote(at.checked_add(1)).and_then(|to| self.ground.between(own, to));
        [before, after]
    }
}

/// Shapes that differ in nothing but the draft and the cut of the prompt, scored one after another: what was counted for
/// one of them is not counted again.
pub(crate) struct Reckoning<'s, 'a> {
    space: &'s Space<'a>,
    /// Of the stages, and `None` where they break a rule.
    still: Option<Still>,
    /// Passes, by blocks of those that were asked for.
    passes: Vec<Option<Pass<LANES>>>,
}

impl<'s, 'a> Reckoning<'s, 'a> {
    pub(crate) fn new(space: &'s Space<'a>, shape: &Shape) -> Reckoning<'s, 'a> {
        Reckoning {
            space,
            still: space.still(&Shape {
                draft: None,
                ..shape.clone()
            }),
            passes: vec![None; space.phases.len().div_ceil(LANES)],
        }
    }

    /// As [`Space::score_below`], of a shape with the stages, the codecs and the forwarding of the first.
    pub(crate) fn score_below(&mut self, shape: &Shape, most: f64) -> Option<Score> {
        let space = self.space;
        let still = space.with_left(shape, self.still.filter(|_| space.stands(shape))?);
        // A draft of no tokens is a round all the same, and no stream.
        let answer = match shape.draft {
            Some((_, 0)) => space.answer_pass(shape),
            _ => self.pass(shape, Phase::Decode(rows(shape))),
        };
        let part = space.answered(&space.guessing(shape), &still, &answer);
        if part.objective_at(0.0, space) >= most {
            return None;
        }
        space.summed(
            shape,
            &still,
            &part,
            &self.pass(shape, Phase::Prefill(shape.chunk)),
        )
    }

    fn pass(&mut self, shape: &Shape, phase: Phase) -> Pass<1> {
        let number = self.space.number(phase);
        let block = number / LANES;
        let passes = self.passes[block]
            .get_or_insert_with(|| self.space.passes(shape, &Lanes::block(self.space, block)));
        passes.lane(number % LANES)
    }
}

/// A shape, and what each of its stages adds: shapes with some of these stages are scored from it.
pub(crate) struct Neighbours<'s, 'a> {
    space: &'s Space<'a>,
    shape: Shape,
    guessing: Guessing,
    stages: Vec<Option<Added>>,
    /// What all stages before each one add, and all from each one on.
    before: Vec<Option<Added>>,
    behind: Vec<Option<Added>>,
}

/// What is known of a stage of another shape, by a stage of the known one.
#[derive(Clone, Copy)]
enum Known {
    /// It is the same, between neighbours that make no difference to it.
    Same(usize),
    /// Its node and what matters of its neighbours are the same; its layers are others.
    Moved(usize),
    New,
}

/// What a stage adds to a shape.
#[derive(Clone, Copy, Default)]
struct Added {
    still: Still,
    answer: Pass<1>,
    prompt: Pass<1>,
}

/// An estimate adds in another order than a score, so it may be so much higher, as a share.
const ROUNDED: f64 = 1e-9;

impl<'s, 'a> Neighbours<'s, 'a> {
    pub(crate) fn new(space: &'s Space<'a>, shape: Shape) -> Neighbours<'s, 'a> {
        let stages = (0..shape.segments.len()).map(|at| Added::of(space, &shape, at));
        let stages: Vec<Option<Added>> = stages.collect();
        let before = running_sums(stages.iter());
        let mut behind = running_sums(stages.iter().rev());
        behind.reverse();
        Neighbours {
            space,
            guessing: space.guessing(&shape),
            shape,
            stages,
            before,
            behind,
        }
    }

    /// Whether a shape differs in nothing but its stages.
    pub(crate) fn are(&self, shape: &Shape) -> bool {
        let all = |s: &Shape| (s.direct, s.lossy, s.chunk, s.draft);
        all(&self.shape) == all(shape)
    }

    /// As [`Space::score_below`], of a shape that differs in nothing but its stages.
    pub(crate) fn score_below(&self, shape: &Shape, most: f64) -> Option<Score> {
        let space = self.space;
        if !self.may_cost_less(shape, most) || !space.stands(shape) {
            return None;
        }
        let (mut sum, mut new) = (Added::default(), Vec::new());
        for at in 0..shape.segments.len() {
            match self.known(shape, at) {
                Known::Same(known) => sum.add(self.stages[known].as_ref()?),
                Known::Moved(_) | Known::New => {
                    let added = Added::of(space, shape, at)?;
                    sum.still.add(&added.still);
                    sum.answer.add(&added.answer);
                    new.push(added.prompt);
                }
            }
        }
        new.iter().for_each(|prompt| sum.prompt.add(prompt));
        sum.still = space.with_left(shape, sum.still);
        let part = space.answered(&self.guessing, &sum.still, &sum.answer);
        space.summed(shape, &sum.still, &part, &sum.prompt)
    }

    /// Whether a shape is not seen to break a rule, or to cost `most` or more, by what is soon counted.
    fn may_cost_less(&self, shape: &Shape, most: f64) -> bool {
        let space = self.space;
        let most = most * (1.0 + ROUNDED);
        let (ahead, end) = self.alike(shape);
        let behind = self.shape.segments.len() - (shape.segments.len() - end);
        let (Some(mut sum), Some(rest)) = (self.before[ahead], &self.behind[behind]) else {
            return false;
        };
        if !(ahead..end).all(|at| space.may_stand(shape, at)) {
            return false;
        }
        sum.add(rest);
        for at in ahead..end {
            let Some((still, answer)) = self.answer_at_least(shape, at) else {
                return false;
            };
            sum.still.add(&still);
            sum.answer.add(&answer);
        }
        sum.still = space.with_left(shape, sum.still);
        let part = space.answered(&self.guessing, &sum.still, &sum.answer);
        if part.objective_at(0.0, space) >= most {
            return false;
        }
        for at in ahead..end {
            sum.prompt.add(&self.prompt_at_least(shape, at));
        }
        let prompt = space.prompt_seconds(shape, &sum.still, &part, &sum.prompt);
        part.objective_at(prompt + sum.still.head, space) < most
    }

    /// What a stage adds to the answer, or less where only its layers are others; `None` where it is seen to break a rule.
    fn answer_at_least(&self, shape: &Shape, at: usize) -> Option<(Still, Pass<1>)> {
        let space = self.space;
        let phase = Phase::Decode(rows(shape));
        match self.known(shape, at) {
            Known::Same(known) => self.stages[known].map(|known| (known.still, known.answer)),
            Known::Moved(known) => {
                let (segment, added) = (shape.segments[at], &self.stages[known]);
                let Some(added) = added else {
                    return Some((space.still_of(shape, at)?, space.pass_of(shape, at, phase)));
                };
                let mut still = added.still;
                still.load = space.load_seconds(segment.site, segment.start, segment.end);
                (still.prompt_credits, still.answer_credits) = space.credits(shape, at);
                Some((still, self.moved(segment, known, added.answer, phase)))
            }
            Known::New => Some((space.still_of(shape, at)?, space.pass_of(shape, at, phase))),
        }
    }

    /// What a stage adds to the prompt, or less where only its layers are others.
    fn prompt_at_least(&self, shape: &Shape, at: usize) -> Pass<1> {
        let phase = Phase::Prefill(shape.chunk);
        let known = match self.known(shape, at) {
            Known::Same(known) => self.stages[known].map(|added| added.prompt),
            Known::Moved(known) => {
                let added = self.stages[known].as_ref();
                added.map(|added| self.moved(shape.segments[at], known, added.prompt, phase))
            }
            Known::New => None,
        };
        known.unwrap_or_else(|| self.space.pass_of(shape, at, phase))
    }

    /// A pass of a known stage, with the layers that the stage of the shape in its place has. Of what may hold it up, only the
    /// computing.
    fn moved(&self, segment: Segment, known: usize, mut pass: Pass<1>, phase: Phase) -> Pass<1> {
        let (first, last) = (known == 0, known + 1 == self.shape.segments.len());
        let known = self.shape.segments[known];
        let sums = self.space.sums(segment.site, phase);
        let span = |of: Segment| {
            let spares = last || of.end < self.space.layers();
            sums.span(of.start, of.end) + if spares { 0.0 } else { sums.spared::<1>()[0] }
        };
        let more = span(segment) - span(known);
        pass.seconds[0] += more;
        match (segment.site, first) {
            (DESK, true) => pass.front[0] += more,
            _ => pass.bottleneck[0] = span(segment),
        }
        if segment.site == DESK {
            pass.desk[0] += more;
        }
        pass
    }

    /// How many stages at the beginning are those of the known shape, and where those begin that are so at the end.
    fn alike(&self, shape: &Shape) -> (usize, usize) {
        let (own, known) = (&shape.segments, &self.shape.segments);
        let equal = |of: &(&Segment, &Segment)| of.0 == of.1;
        let same =
            |at: usize, as_in: usize| matches!(self.known(shape, at), Known::Same(known) if known == as_in);
        let mut ahead = own.iter().zip(known).take_while(equal).count();
        if ahead > 0 && !same(ahead - 1, ahead - 1) {
            ahead -= 1;
        }
        let most = own.len().min(known.len()) - ahead;
        let ends = own.iter().rev().zip(known.iter().rev()).take(most);
        let mut end = own.len() - ends.take_while(equal).count();
        if end < own.len() && !same(end, known.len() - (own.len() - end)) {
            end += 1;
        }
        (ahead, end)
    }

    /// What is known of a stage. Before a change the stages have the same number, and behind one the same number from the end.
    fn known(&self, shape: &Shape, at: usize) -> Known {
        let (own, known) = (&shape.segments, &self.shape.segments);
        let (first, last) = (at == 0, at + 1 == own.len());
        // Who they are matters where stages send to each other, and else only whether there are any.
        let beside = |other: usize| {
            let ends = first == (other == 0) && last == (other + 1 == known.len());
            ends && (!shape.direct
                || (first || own[at - 1].site == known[other - 1].site)
                    && (last || own[at + 1].site == known[other + 1].site))
        };
        let from_end = (at + known.len()).checked_sub(own.len());
        let places = [Some(at), from_end.filter(|from_end| *from_end != at)];
        let mut found = Known::New;
        for other in places.into_iter().flatten() {
            let node = known.get(other).is_some_and(|known| known.site == own[at].site);
            if node && beside(other) {
                if known[other] == own[at] {
                    return Known::Same(other);
                }
                found = Known::Moved(other);
            }
        }
        found
    }
}

/// Seconds of so many chunks that pass so, one behind the other, where others than the desk begin so late.
fn passes_of_prompt(chunk: &Pass<1>, count: f64, late: f64) -> f64 {
    let (front, behind) = (chunk.front[0], chunk.desk[0] - chunk.front[0]);
    let (elsewhere, others) = (chunk.seconds[0] - chunk.desk[0], chunk.bottleneck[0]);
    let busiest = others.max(front);
    // Others wait for the desk's stage until the first piece is through, the first two, or a whole one behind them, less what they
    // do meanwhile; and so behind the last one. What a busier stage spares them here it costs at the chunks behind the first.
    let end = |stage: f64| {
        let ends = [stage / 3.0, stage - busiest / 3.0, 2.0 * stage - busiest];
        match count < SHORT_ENDS_FROM {
            true => stage,
            false => ends.into_iter().fold(0.0, f64::max),
        }
    };
    let behind_last = elsewhere + end(behind);
    let in_turn = end(front) + behind_last + (count - 1.0) * busiest;
    let from_late = late + behind_last + (count - 1.0) * others;
    // A desk that begins and ends has both to do. Behind the last piece it has nothing but the last layers of those that are
    // ahead by a pass elsewhere: it waits for as much of that as they are less than the first layers.
    let waits = match front > behind {
        true => elsewhere * (1.0 - behind / front),
        false => 0.0,
    };
    in_turn.max(from_late).max(count * chunk.desk[0] + waits)
}

/// Sums before each of some stages, and of all; `None` from one on that breaks a rule.
fn running_sums<'s>(stages: impl Iterator<Item = &'s Option<Added>>) -> Vec<Option<Added>> {
    let mut sum = Some(Added::default());
    let sums = stages.map(|stage| {
        sum = sum.zip(stage.as_ref()).map(|(mut sum, stage)| {
            sum.add(stage);
            sum
        });
        sum
    });
    std::iter::once(Some(Added::default())).chain(sums).collect()
}

impl Added {
    fn add(&mut self, stage: &Added) {
        self.still.add(&stage.still);
        self.answer.add(&stage.answer);
        self.prompt.add(&stage.prompt);
    }

    fn of(space: &Space, shape: &Shape, at: usize) -> Option<Added> {
        Some(Added {
            still: space.still_of(shape, at)?,
            answer: space.pass_of(shape, at, Phase::Decode(rows(shape))),
            prompt: space.pass_of(shape, at, Phase::Prefill(shape.chunk)),
        })
    }
}

/// Seconds that so many passes spend on packing a model, of which [`READYING_PASSES`] take `rest`.
fn packed_by(passes: f64, rest: f64) -> f64 {
    rest * (passes / f64::from(READYING_PASSES)).min(1.0)
}

/// Rows of a round.
fn rows(shape: &Shape) -> u32 {
    shape.draft.map_or(1, |(_, length)| u32::from(length) + 1)
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

/// What stands of a shape whatever is drafted and however the prompt is cut.
#[derive(Debug, Clone, Copy)]
struct Still {
    /// Seconds until the nodes have what they lack.
    load: f64,
    queue: f64,
    /// Of this, what waits at the desk.
    here: f64,
    /// Until their sessions are open: what waits, and for others than the desk the way there and back.
    opening: f64,
    /// Of all that, what is waited for before anything is computed, and how much later than the desk others begin.
    waits: f64,
    late: f64,
    /// Seconds that a model takes that was not computed with yet: of the first pass, and of those behind it.
    readying: (f64, f64),
    head: f64,
    /// Share of the prompt that is still to be computed.
    cold: f64,
    exactness: Exactness,
    /// Credits of the prompt, and of an answer in which each pass has one row and brings one token.
    prompt_credits: f64,
    answer_credits: f64,
    /// Bytes of opening sessions.
    bytes_up: f64,
    bytes_down: f64,
}

impl Default for Still {
    fn default() -> Still {
        Still {
            load: 0.0,
            queue: 0.0,
            here: 0.0,
            opening: 0.0,
            waits: 0.0,
            late: 0.0,
            readying: (0.0, 0.0),
            head: 0.0,
            cold: 1.0,
            exactness: Exactness::Exact,
            prompt_credits: 0.0,
            answer_credits: 0.0,
            bytes_up: 0.0,
            bytes_down: 0.0,
        }
    }
}

impl Still {
    /// Adds what a stage behind these adds. The last one has the head.
    fn add(&mut self, stage: &Still) {
        self.load += stage.load;
        self.queue = self.queue.max(stage.queue);
        self.here = self.here.max(stage.here);
        self.opening = self.opening.max(stage.opening);
        let (first, rest) = stage.readying;
        self.readying = (self.readying.0.max(first), self.readying.1.max(rest));
        self.head += stage.head;
        self.exactness = self.exactness.max(stage.exactness);
        self.prompt_credits += stage.prompt_credits;
        self.answer_credits += stage.answer_credits;
        self.bytes_up += stage.bytes_up;
        self.bytes_down += stage.bytes_down;
    }
}

/// What a draft makes of a pass.
#[derive(Clone, Copy)]
struct Guessing {
    /// Rows of a round, and tokens that it brings.
    rows: f64,
    gain: f64,
    /// Seconds of drafting a round, and the draft's passes in it.
    drafting: f64,
    passes: f64,
    /// Seconds of getting ready for the first guess, of taking the prompt in, and of packing the draft's model behind that.
    readying: f64,
    reading: f64,
    packing: f64,
    /// How likely every guess is right.
    all_right: f64,
}

impl Guessing {
    const NONE: Guessing = Guessing {
        rows: 1.0,
        gain: 1.0,
        drafting: 0.0,
        passes: 0.0,
        readying: 0.0,
        reading: 0.0,
        packing: 0.0,
        all_right: 0.0,
    };
}

/// What a shape costs but for its prompt.
struct Answered {
    per_token: f64,
    /// What the first token waits for besides the prompt's passes.
    waits: f64,
    /// Of that, what the draft takes before its first guess.
    drafter_waits: f64,
    credits: f64,
    /// One plus everything that the person would rather not have.
    patience: f64,
    bytes_up: f64,
    bytes_down: f64,
}

impl Answered {
    /// The objective where the prompt takes so many seconds.
    fn objective_at(&self, prompt: f64, space: &Space) -> f64 {
        let objective = &space.ground.permitted.request.objective;
        let time = objective.first_token_weight * (self.waits + prompt) + space.answer * self.per_token;
        time * self.patience + objective.seconds_per_credit * self.credits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::Ground;
    use crate::moves::{FAMILIES, From, well_formed};
    use crate::permit::permit;
    use crate::scenes::crowd;
    use crate::search::{Effort, Search};
    use crate::space::Left;
    use heph_types::{Policy, Role};

    /// Spaces for chosen spans in which nothing is looked for have no shape.
    #[test]
    fn where_no_shape_may_save_bytes_none_is_found() {
        let (mut left_out, mut kept) = (0, 0);
        for seed in 0..16 {
            let (mut request, cluster) = crowd(seed, 6, 12, 0.4);
            match seed % 4 {
                0 => request.policy = Policy::open(Leaves::Activations, &Role::ALL),
                1 => request.policy.layers_local_first = 0,
                // Rows that are shorter than an id.
                2 => request.models.iter_mut().for_each(|m| m.profile.width = 1),
                _ => {}
            }
            let permitted = permit(&request, &cluster);
            let ground = Ground::new(&permitted);
            let space = Space::new(&ground, (0, 0), true);
            let mut search = Search::seeds(&space, Effort::Full, None);
            search.improve(None);
            let found = search.best.iter().any(Option::is_some);
            assert!(space.may_save_bytes() || !found, "seed {seed}");
            left_out += usize::from(!space.may_save_bytes());
            kept += usize::from(found);
        }
        assert!(
            left_out >= 4 && kept >= 4,
            "{left_out} left out, {kept} with a shape"
        );
    }

    /// What is known of a shape spares counting; it changes no score, and nothing that costs less is left out.
    #[test]
    fn a_changed_shape_is_scored_as_if_nothing_were_known() {
        let (mut scored, mut along) = (0, 0);
        for seed in 0..6 {
            let (request, cluster) = crowd(seed, 12, 24, 0.3);
            let permitted = permit(&request, &cluster);
            let ground = Ground::new(&permitted);
            let mut space = Space::new(&ground, (seed as usize % 2, 0), false);
            let search = Search::seeds(&space, Effort::Glance, None);
            let best: Vec<Shape> = search.best.iter().flatten().map(|b| b.0.clone()).collect();
            // What conversations left lies along some of the shapes to come.
            for base in &best {
                let (segments, unused) = (&base.segments[..], &[][..]);
                FAMILIES[0](&From { segments, unused }, &mut |segments| {
                    crate::cover::join(segments);
                    space.left.push(Left {
                        segments: segments.clone(),
                        direct: base.direct,
                        lossy: base.lossy,
                        draft: base.draft.map(|(at, _)| request.drafts[at].source),
                        tokens: request.prompt_tokens / 2,
                    });
                    false
                });
            }
            let unused: Vec<usize> = (DESK + 1..ground.sites.len()).take(4).collect();
            for (base, direct) in best.iter().flat_map(|base| [(base, false), (base, true)]) {
                let base = Shape {
                    direct,
                    ..base.clone()
                };
                let known = Neighbours::new(&space, base.clone());
                let unused: Vec<usize> = unused
                    .iter()
                    .copied()
                    .filter(|site| base.segments.iter().all(|g| g.site != *site))
                    .collect();
                let from = From {
                    segments: &base.segments,
                    unused: &unused,
                };
                for family in FAMILIES {
                    family(&from, &mut |segments| {
                        crate::cover::join(segments);
                        if !well_formed(segments, space.layers()) {
                            return false;
                        }
                        let trial = Shape {
                            segments: segments.clone(),
                            ..base.clone()
                        };
                        let (plain, quick) = (space.score(&trial), known.score_below(&trial, f64::INFINITY));
                        assert_eq!(plain.is_some(), quick.is_some(), "seed {seed}: {trial:?}");
                        let Some((plain, quick)) = plain.zip(quick) else {
                            return false;
                        };
                        scored += 1;
                        along += usize::from(space.left_along(&trial).is_some());
                        assert!(
                            (quick.objective / plain.objective - 1.0).abs() < 1e-9,
                            "seed {seed}: {trial:?}"
                        );
                        let most = plain.objective * (1.0 + 1e-6);
                        assert!(
                            known.score_below(&trial, most).is_some(),
                            "seed {seed}: {trial:?}"
                        );
                        false
                    });
                }
            }
        }
        assert!(scored > 1000, "{scored} changes were scored");
        assert!(along > 100, "{along} along what was left");
    }
}
