//! One model, one cache format and one prompt on the ground: running sums over the layers, made when they are first asked
//! for.

use crate::ground::{Ground, Way};
use core::cell::OnceCell;
use heph_types::{KvFormat, LayerProfile, ModelProfile, NodeProfile};

/// Rows of a prompt that may go through a stage together.
const CHUNKS: [u32; 6] = [16, 32, 64, 128, 256, 512];
/// Longest round of drafted tokens that a plan may choose.
pub(crate) const DRAFT_MAX: u16 = 16;

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
#[derive(Debug, Clone, PartialEq)]
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
    kinds: Vec<&'a LayerProfile>,
    kind_of: Vec<usize>,
    costs: Vec<Costs>,
}

/// What the layers cost at one site.
struct Costs {
    /// `None` where the site holds them all.
    lacks: Option<Lacks>,
    /// Share of the prompt that is not in a cache of the whole model there.
    cold: f64,
    /// For each chunk size, and for 1, 2, .. rows of the answer.
    prefill: Vec<OnceCell<Sums>>,
    decode: Vec<OnceCell<Sums>>,
}

/// What a site has not got.
struct Lacks {
    /// Seconds to send it, before each layer.
    load: Vec<f64>,
    /// Layers that the desk cannot send either, before each layer.
    missing: Vec<u32>,
}

/// Running seconds of one pass.
pub(crate) struct Sums {
    /// Before each layer.
    pub(crate) layers: Vec<f64>,
    /// Of the head.
    pub(crate) head: f64,
}

impl Sums {
    pub(crate) fn span(&self, start: usize, end: usize) -> f64 {
        self.layers[end] - self.layers[start]
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
        let (kinds, kind_of) = kinds(&model.profile.layers);
        let mut space = Space {
            ground,
            model: &model.profile,
            choice,
            preprocess,
            chunks: chunks(prompt),
            work: work(&model.profile),
            bytes: running(model.profile.layers.iter().map(bytes)),
            prompt,
            answer: f64::from(request.answer_tokens.saturating_sub(1)),
            patience: 1.0 + losses,
            kv: kv.format,
            kinds,
            kind_of,
            costs: Vec::with_capacity(ground.sites.len()),
        };
        let desk = space.held(ground.sites[crate::ground::DESK].profile);
        for site in &ground.sites {
            space.costs.push(space.costs(site.profile, &site.way, &desk));
        }
        space
    }

    /// Number of layers.
    pub(crate) fn layers(&self) -> usize {
        self.model.layers.len()
    }

    /// Running seconds of a pass at a site.
    pub(crate) fn sums(&self, site: usize, phase: Phase) -> &Sums {
        let costs = &self.costs[site];
        let half = f64::from(self.prompt) / 2.0;
        let (cell, rows, seen) = match phase {
            Phase::Prefill(chunk) => (&costs.prefill[chunk], self.chunks[chunk].0, half),
            Phase::Decode(rows) => (
                &costs.decode[rows as usize - 1],
                rows,
                2.0 * half + self.answer / 2.0,
            ),
        };
        cell.get_or_init(|| {
            let of = &self.ground.sites[site];
            let seconds = |layer: &LayerProfile, seen| {
                of.profile.speed.layer_seconds(layer, rows, seen, self.kv) / of.share
            };
            let kinds: Vec<f64> = self.kinds.iter().map(|kind| seconds(kind, seen)).collect();
            Sums {
                layers: running(self.kind_of.iter().map(|kind| kinds[*kind])),
                head: seconds(&self.model.head, 0.0),
            }
        })
    }

    /// Seconds of the head alone for one row.
    pub(crate) fn head_seconds(&self, site: usize) -> f64 {
        self.sums(site, Phase::Decode(1)).head
    }

    /// Seconds to send the site what it lacks of these layers.
    pub(crate) fn load_seconds(&self, site: usize, start: usize, end: usize) -> f64 {
        let lacks = self.costs[site].lacks.as_ref();
        lacks.map_or(0.0, |l| l.load[end] - l.load[start])
    }

    /// Whether the site has these layers, or the desk can send them.
    pub(crate) fn can_have(&self, site: usize, start: usize, end: usize) -> bool {
        let lacks = self.costs[site].lacks.as_ref();
        lacks.is_none_or(|l| l.missing[end] == l.missing[start])
    }

    /// Share of the prompt that is still to be computed where a site runs the whole model.
    pub(crate) fn cold(&self, site: usize) -> f64 {
        self.costs[site].cold
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

    fn costs(&self, profile: &NodeProfile, way: &Way, desk: &[bool]) -> Costs {
        let request = self.ground.permitted.request;
        let held = self.held(profile);
        let layers = self.model.layers.iter();
        let load = layers.zip(&held).map(|(layer, held)| match held {
            true => 0.0,
            false => layer.weight_bytes as f64 / way.up,
        });
        let missing = held
            .iter()
            .zip(desk)
            .map(|(held, desk)| u32::from(!held && !desk));
        let lacks = || Lacks {
            load: running(load),
            missing: running(missing),
        };
        let longest = request.drafts.iter().map(|d| d.length_max.min(DRAFT_MAX)).max();
        let rows = usize::from(longest.unwrap_or(0)) + 1;
        Costs {
            lacks: held.contains(&false).then(lacks),
            cold: self.cold_share(profile),
            prefill: empty(self.chunks.len()),
            decode: empty(rows),
        }
    }

    /// A cache of the prompt as it was is of no use once spans are chosen.
    fn cold_share(&self, profile: &NodeProfile) -> f64 {
        let warm = self.ground.permitted.request.warm.iter();
        let warm = warm.filter(|w| w.node == profile.node && !self.preprocess);
        let held = warm.map(|w| w.tokens).max().unwrap_or(0);
        1.0 - f64::from(held.min(self.prompt.saturating_sub(1))) / f64::from(self.prompt.max(1))
    }
}

fn empty(count: usize) -> Vec<OnceCell<Sums>> {
    (0..count).map(|_| OnceCell::new()).collect()
}

/// The different layers of a model, and which of them each is.
fn kinds(layers: &[LayerProfile]) -> (Vec<&LayerProfile>, Vec<usize>) {
    let mut kinds: Vec<&LayerProfile> = Vec::new();
    let of = layers.iter().map(|layer| {
        let known = kinds.iter().position(|kind| *kind == layer);
        known.unwrap_or_else(|| {
            kinds.push(layer);
            kinds.len() - 1
        })
    });
    let of = of.collect();
    (kinds, of)
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
