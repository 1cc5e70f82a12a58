//! One model, one cache format and one prompt on the ground: running sums over the layers, made when they are first asked
//! for.

use crate::ground::{DESK, Ground, Site};
use crate::moves::is_line;
use crate::plan::{DraftSource, Forwarding};
use crate::request::{Request, WarmPrefix};
use core::cell::OnceCell;
use heph_types::{KvFormat, LayerProfile, ModelProfile, NodeProfile};

/// Rows of a prompt that may go through a stage together.
const CHUNKS: [u32; 6] = [16, 32, 64, 128, 256, 512];
/// Longest round of drafted tokens that a plan may choose.
pub(crate) const DRAFT_MAX: u16 = 16;
/// Passes whose running sums are made at once: one for which nobody waits costs hardly more than none.
pub(crate) const LANES: usize = 8;

/// Consecutive layers at one site. Empty only for a desk that keeps nothing but the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    pub(crate) site: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Segment {
    pub(crate) fn new(site: usize, start: usize, end: usize) -> Segment {
        Segment { site, start, end }
    }
}

/// Everything that is chosen once the model and its cache format are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// In layer order; the first embeds, the last runs the head.
    pub(crate) segments: Vec<Segment>,
    /// Whether neighbouring stages send to each other.
    pub(crate) direct: bool,
    /// Whether codecs that are not exact may be used.
    pub(crate) lossy: bool,
    /// Rows of the prompt that go together: an index into [`Space::chunks`].
    pub(crate) chunk: usize,
    /// Which draft, and how many tokens a round.
    pub(crate) draft: Option<(usize, u16)>,
}

/// One model, one cache format, one prompt, on what is permitted.
pub(crate) struct Space<'a> {
    pub(crate) ground: &'a Ground<'a>,
    pub(crate) model: &'a ModelProfile,
    /// Index among the request's models and among its cache formats.
    pub(crate) choice: (usize, usize),
    /// Whether spans are chosen here first.
    pub(crate) preprocess: bool,
    /// Rows of a chunk and number of chunks.
    pub(crate) chunks: Vec<(u32, u32)>,
    /// Share of all multiplications before each layer; the head's comes last.
    pub(crate) work: Vec<f64>,
    /// Bytes of weights and cache before each layer.
    pub(crate) bytes: Vec<f64>,
    pub(crate) prompt: u32,
    pub(crate) answer: f64,
    /// One plus everything that the person would rather not have.
    pub(crate) patience: f64,
    kv: KvFormat,
    /// The model's different layers, and which of them each layer is.
    pub(crate) kinds: Vec<Kind<'a>>,
    kind_of: Vec<usize>,
    /// Which layers the desk holds.
    held_here: Vec<bool>,
    /// Where the beginning of the prompt lies.
    pub(crate) left: Vec<Left>,
    /// For each site, what it has not got; `None` where it holds all layers.
    lacks: Vec<OnceCell<Option<Box<Lacks>>>>,
    /// All passes: a row of the answer, each chunk size, then 2, 3, .. rows of the answer.
    pub(crate) phases: Vec<Phase>,
    /// For each site, these in blocks.
    sums: Vec<OnceCell<Box<Sums>>>,
    begins: Vec<OnceCell<Begins>>,
}

/// Layers that are alike.
pub(crate) struct Kind<'a> {
    layer: &'a LayerProfile,
    /// What of it a row costs that nobody asks about.
    unasked: &'a LayerProfile,
    /// Which is the first of them, and how many there are.
    pub(crate) first: usize,
    count: usize,
}

impl Kind<'_> {
    /// What a row costs in such a pass.
    fn of(&self, phase: Phase) -> &LayerProfile {
        match phase {
            Phase::Prefill(_) => self.unasked,
            Phase::Decode(_) => self.layer,
        }
    }
}

/// Where layers of a site may begin.
#[derive(Clone)]
pub(crate) struct Begins {
    /// For each end, the first layer from which on a site can have all layers up to there: what comes before has no room
    /// beside them, or is not to be had.
    pub(crate) first: Vec<u32>,
    /// The most bytes of layers that it can have.
    pub(crate) bytes: f64,
}

/// What a conversation left in the caches of some stages: the beginning of the prompt.
pub(crate) struct Left {
    pub(crate) segments: Vec<Segment>,
    pub(crate) direct: bool,
    pub(crate) lossy: bool,
    pub(crate) draft: Option<DraftSource>,
    pub(crate) tokens: u32,
}

/// What a site has not got.
struct Lacks {
    /// Seconds to send it, before each layer.
    load: Vec<f64>,
    /// Bytes of it, before each layer.
    bytes: Vec<f64>,
    /// Layers that the desk cannot send either, before each layer.
    missing: Vec<u32>,
}

/// Running seconds of some passes, beside each other.
struct Sums {
    /// Before each layer.
    layers: Vec<[f64; LANES]>,
    /// Of the head.
    heads: [f64; LANES],
    /// Of the quickest layer.
    least: [f64; LANES],
    /// Of the last layer, what rows spare that nobody asks about.
    spared: [f64; LANES],
}

/// Running seconds of a pass.
#[derive(Clone, Copy)]
pub(crate) struct Seconds<'s> {
    sums: &'s Sums,
    lane: usize,
}

impl Seconds<'_> {
    /// Of the layers before this one.
    pub(crate) fn before(&self, layer: usize) -> f64 {
        self.sums.layers[layer][self.lane]
    }

    /// Of the layers before each one, and of all.
    pub(crate) fn running(&self) -> impl Iterator<Item = f64> {
        let lane = self.lane;
        self.sums.layers.iter().map(move |sums| sums[lane])
    }

    /// Of these layers.
    pub(crate) fn span(&self, start: usize, end: usize) -> f64 {
        self.before(end) - self.before(start)
    }

    /// Of the head, behind rows of the answer.
    pub(crate) fn head(&self) -> f64 {
        self.sums.heads[self.lane]
    }

    /// As [`Seconds::span`], of this pass and those behind it in its block.
    pub(crate) fn spans<const N: usize>(&self, start: usize, end: usize) -> [f64; N] {
        let [start, end] = [start, end].map(|layer| &self.sums.layers[layer][self.lane..][..N]);
        core::array::from_fn(|lane| end[lane] - start[lane])
    }

    /// As [`Seconds::head`], of this pass and those behind it in its block.
    pub(crate) fn heads<const N: usize>(&self) -> [f64; N] {
        let heads = &self.sums.heads[self.lane..][..N];
        core::array::from_fn(|lane| heads[lane])
    }

    /// As [`Seconds::heads`], of what these passes spare in the last layer.
    pub(crate) fn spared<const N: usize>(&self) -> [f64; N] {
        let spared = &self.sums.spared[self.lane..][..N];
        core::array::from_fn(|lane| spared[lane])
    }

    /// Of the quickest layer.
    pub(crate) fn least(&self) -> f64 {
        self.sums.least[self.lane]
    }
}

/// Which of the two passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Phase {
    /// A chunk of the prompt, by index.
    Prefill(usize),
    /// So many rows of the answer.
    Decode(u32),
}

impl<'a> Space<'a> {
    /// `preprocess` needs the request's document.
    pub(crate) fn new(ground: &'a Ground<'a>, choice: (usize, usize), preprocess: bool) -> Space<'a> {
        let request = ground.permitted.request;
        let model = &request.models[choice.0];
        let kv = request.kv[choice.1];
        let document = request.document.filter(|_| preprocess);
        let prompt = document.map_or(request.prompt_tokens, |d| {
            d.kept_tokens.min(request.prompt_tokens)
        });
        let losses = model.loss + kv.loss + document.map_or(0.0, |d| d.loss);
        let context = f64::from(request.context);
        let bytes = |l: &LayerProfile| l.weight_bytes as f64 + l.kv_bytes(kv.format) * context;
        let (kinds, kind_of) = kinds(&model.profile);
        let longest = request.drafts.iter().map(|d| d.length_max.min(DRAFT_MAX)).max();
        let chunks = chunks(prompt);
        let rounds = (2..=u32::from(longest.unwrap_or(0)) + 1).map(Phase::Decode);
        let phases = std::iter::once(Phase::Decode(1)).chain((0..chunks.len()).map(Phase::Prefill));
        let phases: Vec<Phase> = phases.chain(rounds).collect();
        let blocks = phases.len().div_ceil(LANES) * ground.sites.len();
        let mut space = Space {
            ground,
            model: &model.profile,
            choice,
            preprocess,
            chunks,
            work: work(&model.profile),
            bytes: running(model.profile.layers.iter().map(bytes)),
            prompt,
            answer: f64::from(request.answer_tokens.saturating_sub(1)),
            patience: 1.0 + losses,
            kv: kv.format,
            kinds,
            kind_of,
            held_here: Vec::new(),
            left: Vec::new(),
            lacks: std::iter::repeat_with(OnceCell::new)
                .take(ground.sites.len())
                .collect(),
            phases,
            sums: std::iter::repeat_with(OnceCell::new).take(blocks).collect(),
            begins: vec![OnceCell::new(); ground.sites.len()],
        };
        space.held_here = space.held(ground.sites[DESK].profile);
        if !preprocess {
            let warm = request.warm.iter();
            space.left = warm.filter_map(|warm| space.left_of(warm)).collect();
        }
        space
    }

    /// What was left, by sites; `None` where it is of another model or cache format, where one of its stages is at none of the sites, or
    /// they make no line.
    fn left_of(&self, warm: &WarmPrefix) -> Option<Left> {
        if (warm.model, warm.kv) != (self.model.model, self.kv) {
            return None;
        }
        let segments = warm.stages.iter().map(|stage| {
            let at = |site: &Site| site.profile.node == stage.node;
            let site = self.ground.sites.iter().position(at)?;
            Some(Segment::new(site, stage.layers.start(), stage.layers.end()))
        });
        let segments = segments.collect::<Option<Vec<Segment>>>()?;
        is_line(&segments, self.layers()).then_some(Left {
            segments,
            direct: warm.forwarding == Forwarding::Direct,
            lossy: warm.rounded,
            draft: warm.draft,
            tokens: warm.tokens,
        })
    }

    /// Number of layers.
    pub(crate) fn layers(&self) -> usize {
        self.model.layers.len()
    }

    /// Running seconds of a pass at a site.
    pub(crate) fn sums(&self, site: usize, phase: Phase) -> Seconds<'_> {
        self.sums_from(site, self.number(phase))
    }

    /// Running seconds of the passes from this number on at a site.
    pub(crate) fn sums_from(&self, site: usize, number: usize) -> Seconds<'_> {
        let (block, lane) = (number / LANES, number % LANES);
        let blocks = self.phases.len().div_ceil(LANES);
        let sums = self.sums[site * blocks + block].get_or_init(|| Box::new(self.sums_of(site, block)));
        Seconds { sums, lane }
    }

    /// Which of all passes it is.
    pub(crate) fn number(&self, phase: Phase) -> usize {
        match phase {
            Phase::Decode(1) => 0,
            Phase::Prefill(chunk) => 1 + chunk,
            Phase::Decode(rows) => self.chunks.len() + rows as usize - 1,
        }
    }

    /// The sums of a block of passes at a site; nothing for those that there are not.
    fn sums_of(&self, site: usize, block: usize) -> Sums {
        let mut kinds = vec![[0.0; LANES]; self.kinds.len()];
        let (mut heads, mut least, mut spared) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (lane, phase) in self.phases[block * LANES..].iter().take(LANES).enumerate() {
            let (seconds, head) = self.seconds(site, *phase);
            // A prompt's last token alone goes through the head, in a pass of its own.
            heads[lane] = if matches!(phase, Phase::Decode(_)) {
                head
            } else {
                0.0
            };
            least[lane] = f64::INFINITY;
            for (kind, kinds) in self.kinds.iter().zip(&mut kinds) {
                kinds[lane] = seconds(kind.of(*phase));
                least[lane] = least[lane].min(kinds[lane]);
            }
            if let Some(last) = self.kind_of.last() {
                spared[lane] = seconds(self.kinds[*last].layer) - kinds[*last][lane];
            }
        }
        let mut sums = [0.0; LANES];
        let mut layers = Vec::with_capacity(self.layers() + 1);
        layers.push(sums);
        layers.extend(self.kind_of.iter().map(|kind| {
            let seconds = &kinds[*kind];
            sums = core::array::from_fn(|lane| sums[lane] + seconds[lane]);
            sums
        }));
        Sums {
            layers,
            heads,
            least,
            spared,
        }
    }

    /// Seconds of a pass through all layers at a site, where nobody asks for a part of them.
    pub(crate) fn through(&self, site: usize, phase: Phase) -> f64 {
        let (seconds, _) = self.seconds(site, phase);
        let kinds = self.kinds.iter();
        kinds
            .map(|kind| seconds(kind.of(phase)) * kind.count as f64)
            .sum()
    }

    /// What a layer takes in a pass at a site, and the head.
    fn seconds(&self, site: usize, phase: Phase) -> (impl Fn(&LayerProfile) -> f64, f64) {
        let half = f64::from(self.prompt) / 2.0;
        let (rows, seen) = match phase {
            Phase::Prefill(chunk) => (self.chunks[chunk].0, half),
            Phase::Decode(rows) => (rows, 2.0 * half + self.answer / 2.0),
        };
        let (speed, kv) = (&self.ground.sites[site].profile.speed, self.kv);
        let factor = self.ground.factor(site, rows);
        let seconds = move |layer: &LayerProfile| speed.floor(layer, rows, seen, kv) * factor;
        (seconds, speed.floor(&self.model.head, rows, 0.0, kv) * factor)
    }

    /// Seconds of the head for one row, and of the last layer where the rows of a prompt spare it.
    pub(crate) fn head_seconds(&self, site: usize) -> f64 {
        let (one, layers) = (self.sums(site, Phase::Decode(1)), self.layers());
        let asked = self
            .model
            .unasked
            .map_or(0.0, |_| one.span(layers.saturating_sub(1), layers));
        one.head() + asked
    }

    /// Seconds to send the site what it lacks of these layers.
    pub(crate) fn load_seconds(&self, site: usize, start: usize, end: usize) -> f64 {
        let lacks = self.lacks(site);
        lacks.map_or(0.0, |l| l.load[end] - l.load[start])
    }

    /// As [`Space::load_seconds`], of the layers before each one; `None` where it lacks none.
    pub(crate) fn loads(&self, site: usize) -> Option<&[f64]> {
        self.lacks(site).map(|lacks| lacks.load.as_slice())
    }

    /// Whether the site has these layers, or the desk can send what it lacks and it takes as much.
    pub(crate) fn can_have(&self, site: usize, start: usize, end: usize) -> bool {
        let accepts = self.ground.sites[site].accepts;
        let lacks = self.lacks(site);
        lacks.is_none_or(|l| l.missing[end] == l.missing[start] && l.bytes[end] - l.bytes[start] <= accepts)
    }

    /// Bytes of these layers that the site lacks.
    pub(crate) fn lacking_bytes(&self, site: usize, start: usize, end: usize) -> f64 {
        let lacks = self.lacks(site);
        lacks.map_or(0.0, |l| l.bytes[end] - l.bytes[start])
    }

    pub(crate) fn begins(&self, site: usize) -> &Begins {
        self.begins[site].get_or_init(|| {
            let (memory, mut begin, mut bytes) = (self.ground.sites[site].memory, 0, 0.0f64);
            let first = |end: usize| {
                let fits = |start| self.bytes[end] - self.bytes[start] <= memory;
                while begin < end && !(fits(begin) && self.can_have(site, begin, end)) {
                    begin += 1;
                }
                bytes = bytes.max(self.bytes[end] - self.bytes[begin]);
                begin as u32
            };
            let first = (0..=self.layers()).map(first).collect();
            Begins { first, bytes }
        })
    }

    /// Share of the prompt that is still to be computed where caches hold so many tokens of it.
    pub(crate) fn cold(&self, left: u32) -> f64 {
        1.0 - f64::from(left.min(self.prompt.saturating_sub(1))) / f64::from(self.prompt.max(1))
    }

    /// These stages, with nothing chosen beside them: no guesses, exact rows through the desk, the longest chunks.
    pub(crate) fn plain(&self, segments: Vec<Segment>) -> Shape {
        Shape {
            segments,
            direct: false,
            lossy: false,
            chunk: self.chunks.len() - 1,
            draft: None,
        }
    }

    /// Tokens of the prompt that the caches of a shape's stages hold, if any do. What they hold of a prompt as it was is of no use once spans
    /// are chosen.
    pub(crate) fn left_along(&self, shape: &Shape) -> Option<u32> {
        if self.left.is_empty() {
            return None;
        }
        let drafts = &self.ground.permitted.request.drafts;
        let draft = shape.draft.map(|(at, _)| drafts[at].source);
        let along = self.left.iter().filter(|left| {
            let same = left.segments == shape.segments;
            same && (left.direct, left.lossy, left.draft) == (shape.direct, shape.lossy, draft)
        });
        along.map(|left| left.tokens).max()
    }

    /// Shapes that go on where a prompt's beginning lies.
    pub(crate) fn left_shapes(&self) -> impl Iterator<Item = Shape> {
        let drafts = &self.ground.permitted.request.drafts;
        self.left.iter().flat_map(move |left| {
            let plain = left.draft.is_none().then_some(None);
            let drafted = drafts
                .iter()
                .enumerate()
                .filter(move |(_, draft)| left.draft == Some(draft.source) && draft.length_max > 0);
            let drafts = plain.into_iter().chain(drafted.map(|(at, _)| Some((at, 1))));
            drafts.map(|draft| Shape {
                direct: left.direct,
                lossy: left.lossy,
                draft,
                ..self.plain(left.segments.clone())
            })
        })
    }

    /// The objective of the whole model at a site without guesses is no less.
    pub(crate) fn whole_at_least(&self, site: usize) -> f64 {
        let weight = self.ground.permitted.request.objective.first_token_weight;
        let prefill = self.through(site, Phase::Prefill(self.chunks.len() - 1));
        let whole = self.plain(vec![Segment::new(site, 0, self.layers())]);
        let cold = self.cold(self.left_along(&whole).unwrap_or(0));
        let answer = self.answer * self.through(site, Phase::Decode(1));
        // What is added in another order may be a little more.
        (weight * cold * prefill + answer) * self.patience * (1.0 - 1e-9)
    }

    /// Bytes of token table and head for a site that is first, last or both. Where both are one tensor, either needs it.
    pub(crate) fn ends_bytes(&self, first: bool, last: bool) -> f64 {
        let head = self.model.head.weight_bytes as f64;
        let table = match self.model.embed_bytes {
            0 => head,
            own => own as f64,
        };
        match (first, last) {
            (true, true) => head + self.model.embed_bytes as f64,
            (true, false) => table,
            (false, true) => head,
            (false, false) => 0.0,
        }
    }

    fn held(&self, profile: &NodeProfile) -> Vec<bool> {
        let mut held = vec![false; self.layers()];
        for part in profile.holds.iter().filter(|h| h.model == self.model.model) {
            let end = part.layers.end().min(held.len());
            held[part.layers.start().min(end)..end].fill(true);
        }
        held
    }

    fn lacks(&self, site: usize) -> Option<&Lacks> {
        let lacks = || {
            let of = &self.ground.sites[site];
            let held = self.held(of.profile);
            if !held.contains(&false) {
                return None;
            }
            let layers = self.model.layers.iter();
            let bytes = layers.zip(&held).map(|(layer, held)| match held {
                true => 0.0,
                false => layer.weight_bytes as f64,
            });
            let here = held.iter().zip(&self.held_here);
            Some(Box::new(Lacks {
                load: running(bytes.clone().map(|bytes| bytes / of.way.up)),
                bytes: running(bytes),
                missing: running(here.map(|(held, here)| u32::from(!held && !here))),
            }))
        };
        self.lacks[site].get_or_init(lacks).as_deref()
    }
}

/// The different layers of a model, and which of them each is.
fn kinds(model: &ModelProfile) -> (Vec<Kind<'_>>, Vec<usize>) {
    let mut kinds: Vec<Kind> = Vec::new();
    let of = model.layers.iter().enumerate().map(|(first, layer)| {
        let unasked = model.unasked(first);
        let known = kinds
            .iter()
            .position(|kind| (kind.layer, kind.unasked) == (layer, unasked));
        let at = known.unwrap_or(kinds.len());
        match kinds.get_mut(at) {
            Some(kind) => kind.count += 1,
            None => kinds.push(Kind {
                layer,
                unasked,
                first,
                count: 1,
            }),
        }
        at
    });
    let of = of.collect();
    (kinds, of)
}

/// Rows of every pass that a request may ask for.
pub(crate) fn rows(request: &Request) -> Vec<u32> {
    let longest = request.drafts.iter().map(|d| d.length_max.min(DRAFT_MAX)).max();
    let kept = request.document.map(|d| d.kept_tokens.min(request.prompt_tokens));
    let prompts = std::iter::once(request.prompt_tokens).chain(kept);
    let mut rows: Vec<u32> = prompts.flat_map(chunks).map(|(rows, _)| rows).collect();
    rows.extend(1..=u32::from(longest.unwrap_or(0)) + 1);
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Ways to cut a prompt into chunks of nearly equal size: rows of one and how many.
fn chunks(prompt: u32) -> Vec<(u32, u32)> {
    let whole = prompt.max(1);
    let smaller = CHUNKS.iter().filter(|c| **c < whole).map(|c| {
        let count = whole.div_ceil(*c);
        (whole.div_ceil(count), count)
    });
    smaller.chain([(whole, 1)]).collect()
}

/// Share of a token's multiplications before each layer.
fn work(model: &ModelProfile) -> Vec<f64> {
    let sums = running(model.layers.iter().map(|l| l.flops_per_token));
    let all = (sums.last().copied().unwrap_or(0.0) + model.head.flops_per_token).max(f64::MIN_POSITIVE);
    sums.into_iter().map(|s| s / all).collect()
}

/// Running sums, one more than there are layers. A sum that became infinite stays so.
fn running<T: Copy + Default + std::ops::AddAssign>(of: impl Iterator<Item = T>) -> Vec<T> {
    let mut sum = T::default();
    let sums = of.map(|value| {
        sum += value;
        sum
    });
    std::iter::once(T::default()).chain(sums).collect()
}
