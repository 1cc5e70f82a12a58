//! What is measured of nodes, links and models, and what a person allows: everything that a plan is made from.
//!
//! Only numbers and their checks: who measures them is the runtime's affair, who decides by them the planner's.

use crate::{KvFormat, LayerRange, ModelHash, NodeId, Role};
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Points of a [`Speed`] table that are kept; a longer list from a peer is refused.
pub const SPEED_POINTS_MAX: usize = 32;

/// One machine as a planner sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeProfile {
    /// Who it is.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// What it is to the desk's owner.
    pub role: Role,
    /// How fast it takes rows through layers.
    pub speed: Speed,
    /// Bytes that weights and caches may take together, those already loaded included.
    pub memory: u64,
    /// What of which model lies ready there. Other layers have to be sent first.
    pub holds: Vec<Held>,
    /// What its results are worth.
    pub exactness: Exactness,
    /// What its owner allows.
    pub caps: Caps,
    /// Whether it takes work now.
    pub state: NodeState,
    /// How long a new request waits there before it begins.
    pub queue: Duration,
    /// What it asks for its work.
    pub price: Price,
}

impl NodeProfile {
    /// Bytes for weights and caches after the owner's cap.
    pub fn memory_usable(&self) -> u64 {
        self.caps.memory.map_or(self.memory, |cap| cap.min(self.memory))
    }

    /// Whether the node has this layer of the model already.
    pub fn holds_layer(&self, model: ModelHash, layer: usize) -> bool {
        let has = |h: &Held| h.model == model && h.layers.iter().contains(&layer);
        self.holds.iter().any(has)
    }
}

/// Layers that lie ready on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Of this model.
    pub model: ModelHash,
    /// These layers.
    pub layers: LayerRange,
}

/// How fast a node computes, as measured: the larger of two floors (weights read from memory, multiplications done),
/// times how far the node stays above it at each batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Bytes of weights and cache read in a second where reading is the bound.
    pub bytes_per_second: f64,
    /// Multiplications and additions, counted singly, in a second where arithmetic is the bound.
    pub flops_per_second: f64,
    /// Time that every pass through a stage costs besides: dispatch, threads, framing.
    pub overhead: Duration,
    /// Measured time over the larger floor, by rows in a pass, ascending; empty means one.
    pub measured: Vec<SpeedPoint>,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SpeedPoint {
    /// Rows that went through together.
    pub rows: u32,
    /// Measured time over the larger of the two floors.
    pub factor: f64,
}

/// One timed pass through a layer, from which a [`Speed`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimedPass {
    /// Rows that went through together.
    pub rows: u32,
    /// Seconds for one layer.
    pub seconds: f64,
}

impl Speed {
    /// The speed behind timed passes of one layer: bandwidth from the pass with fewest rows, arithmetic from the pass
    /// with most rows a second, and the rest as factors. Empty or senseless times give `None`.
    pub fn from_passes(layer: &LayerProfile, passes: &[TimedPass]) -> Option<Speed> {
        let mut passes: Vec<TimedPass> = passes.to_vec();
        passes.retain(|p| p.rows > 0 && p.seconds > 0.0 && p.seconds.is_finite());
        passes.sort_by_key(|p| p.rows);
        passes.dedup_by_key(|p| p.rows);
        passes.truncate(SPEED_POINTS_MAX);
        let first = passes.first()?;
        let bytes_per_second = layer.weight_bytes_read(first.rows) / first.seconds;
        let rate = |p: &TimedPass| layer.flops_per_token * f64::from(p.rows) / p.seconds;
        let flops_per_second = passes.iter().map(rate).fold(0.0, f64::max);
        let mut speed = Speed {
            bytes_per_second,
            flops_per_second,
            overhead: Duration::ZERO,
            measured: Vec::new(),
        };
        let factor = |p: &TimedPass| p.seconds / speed.floor(layer, p.rows, 0.0, KvFormat::F16);
        let measured = passes.iter().map(|p| SpeedPoint {
            rows: p.rows,
            factor: factor(p),
        });
        speed.measured = measured.collect();
        let valid = speed.bytes_per_second > 0.0 && speed.flops_per_second > 0.0;
        valid.then_some(speed)
    }

    /// Seconds that `rows` rows take through one layer when each looks back on `context` positions of a cache.
    pub fn layer_seconds(&self, layer: &LayerProfile, rows: u32, context: f64, kv: KvFormat) -> f64 {
        self.floor(layer, rows, context, kv) * self.factor(rows)
    }

    /// How far above its floor the node stays with `rows` rows: between two measured points in proportion to the
    /// logarithm of the rows, outside of them the nearest point.
    pub fn factor(&self, rows: u32) -> f64 {
        let points = &self.measured;
        let above = points.partition_point(|p| p.rows < rows);
        let (Some(low), high) = (points.get(above.saturating_sub(1)), points.get(above)) else {
            return 1.0;
        };
        match high {
            Some(high) if high.rows > low.rows && rows > low.rows => {
                let share = f64::from(rows.max(1)).ln() - f64::from(low.rows.max(1)).ln();
                let whole = f64::from(high.rows).ln() - f64::from(low.rows.max(1)).ln();
                low.factor + (high.factor - low.factor) * (share / whole).clamp(0.0, 1.0)
            }
            _ => low.factor,
        }
    }

    /// The seconds of [`Speed::layer_seconds`] before [`Speed::factor`], which is the same for all layers.
    pub fn floor(&self, layer: &LayerProfile, rows: u32, context: f64, kv: KvFormat) -> f64 {
        let bytes = layer.weight_bytes_read(rows) + layer.kv_bytes(kv) * context;
        let flops = f64::from(rows) * (layer.flops_per_token + layer.flops_per_position * context);
        (bytes / self.bytes_per_second).max(flops / self.flops_per_second)
    }
}

/// What a node's results are worth to somebody who wants the same bits everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exactness {
    /// The bits of `docs/arithmetic.md`.
    Exact,
    /// Close to them: a lossy codec on the way, or arithmetic in another order.
    Close,
    /// Nothing is promised.
    Unknown,
}

impl std::fmt::Display for Exactness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Exactness::Exact => "exact",
            Exactness::Close => "close",
            Exactness::Unknown => "unknown",
        })
    }
}

/// What a node's owner allows. `None` allows everything.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Caps {
    /// Bytes for weights and caches.
    pub memory: Option<u64>,
    /// Share of the processor, above 0 and at most 1.
    pub cpu: Option<f64>,
    /// Bytes a second on the network, each way.
    pub bytes_per_second: Option<f64>,
    /// When it works.
    pub hours: Option<Hours>,
    /// Takes no work while its owner uses it.
    pub pause_while_i_work: bool,
    /// Bytes of layers that it still takes from its owner's other machines, to lend them.
    #[serde(default)]
    pub accepts_bytes: u64,
}

impl Caps {
    /// Whether the node takes work at this minute of its day.
    pub fn state(&self, minute_of_day: u16, owner_works: bool) -> NodeState {
        if self.hours.is_some_and(|h| !h.contains(minute_of_day)) {
            NodeState::OutOfHours
        } else if self.pause_while_i_work && owner_works {
            NodeState::OwnerWorks
        } else {
            NodeState::Open
        }
    }
}

/// A part of each day, in minutes after midnight; it may run over midnight. `from` equal to `until` is the whole day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// First minute.
    pub from: u16,
    /// First minute that is outside again.
    pub until: u16,
}

impl Hours {
    /// Whether a minute of the day lies inside.
    pub fn contains(self, minute: u16) -> bool {
        match self.from.cmp(&self.until) {
            std::cmp::Ordering::Less => (self.from..self.until).contains(&minute),
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Greater => minute >= self.from || minute < self.until,
        }
    }
}

/// Whether a node takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It does.
    Open,
    /// Its hours are others.
    OutOfHours,
    /// Its owner is at it and wants it alone.
    OwnerWorks,
    /// It takes no new work because it is going away.
    Leaving,
}

/// What a node asks: credits for one token taken through all layers. A stage earns its share of the layers' work.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Price {
    /// For a token of the prompt.
    pub prompt_token: f64,
    /// For a token of the answer, and for a drafted token that is verified.
    pub answer_token: f64,
}

/// The way between two nodes, as measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinkProfile {
    /// One small message there and back.
    pub rtt: Duration,
    /// Bytes of payload a second away from the desk (or from the first-named node).
    pub up: f64,
    /// Bytes of payload a second towards it.
    pub down: f64,
    /// Share of packets that are lost, 0 to below 1.
    pub loss: f64,
}

impl LinkProfile {
    /// Expected seconds there and back for messages that fit a packet each: a lost one costs one more round trip.
    pub fn round_trip_seconds(&self) -> f64 {
        self.rtt.as_secs_f64() * (1.0 + self.loss)
    }
}

/// A model as a planner sees it: counted from its graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelProfile {
    /// Which model.
    pub model: ModelHash,
    /// What people call it, with its quantisation.
    pub name: String,
    /// Its layers, in order.
    pub layers: Vec<LayerProfile>,
    /// What of the last layer a row costs that nobody asks about: all rows of a prompt but one. `None` where it costs all of it.
    #[serde(default)]
    pub unasked: Option<LayerProfile>,
    /// Numbers in a row of hidden states.
    pub width: u32,
    /// Norm and matrix that turn a row into logits. `kv_bytes_f16` and `flops_per_position` are 0.
    pub head: LayerProfile,
    /// Bytes of the token table; 0 where the head's matrix is the same tensor.
    pub embed_bytes: u64,
    /// Positions that it was trained for.
    pub context_max: u32,
}

impl ModelProfile {
    /// What of a layer a row costs that nobody asks about.
    pub fn unasked(&self, layer: usize) -> &LayerProfile {
        let last = self.unasked.as_ref().filter(|_| layer + 1 == self.layers.len());
        last.unwrap_or(&self.layers[layer])
    }
}

/// What one layer costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerProfile {
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Bytes of them that one row reads: fewer than all only in a mixture of experts.
    pub weight_bytes_one_row: u64,
    /// Multiplications and additions for one token, attention left out.
    pub flops_per_token: f64,
    /// Multiplications and additions of attention for one token and one position that it sees.
    pub flops_per_position: f64,
    /// Bytes of one position in a cache of half precision.
    pub kv_bytes_f16: f64,
}

impl LayerProfile {
    /// Bytes of weights that a pass of `rows` rows reads: each row may wake other experts, until all are read.
    pub fn weight_bytes_read(&self, rows: u32) -> f64 {
        let one = self.weight_bytes_one_row as f64;
        (one * f64::from(rows.max(1))).min((self.weight_bytes as f64).max(one))
    }

    /// Bytes of one position in a cache of this format.
    pub fn kv_bytes(&self, format: KvFormat) -> f64 {
        match format {
            KvFormat::F32 => self.kv_bytes_f16 * 2.0,
            KvFormat::F16 => self.kv_bytes_f16,
            // 34 bytes hold 32 numbers.
            KvFormat::Q8_0 => self.kv_bytes_f16 * (34.0 / 64.0),
        }
    }
}

/// How much of a request another machine may see. Each step includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leaves {
    /// Nothing.
    Nothing,
    /// Embedding vectors of whole spans. No mode that makes text needs only these.
    Embeddings,
    /// Hidden states after at least one layer that ran here. They can be inverted to text with effort.
    Activations,
    /// Token ids: the text itself.
    Text,
}

impl std::fmt::Display for Leaves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Leaves::Nothing => "nothing",
            Leaves::Embeddings => "embeddings",
            Leaves::Activations => "activations",
            Leaves::Text => "text",
        })
    }
}

/// What a person allows for a request. The default lets nothing leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What nodes of each role may see.
    pub may_see: Vec<(Role, Leaves)>,
    /// What single nodes may see; it counts in place of what their role may.
    pub nodes: Vec<(NodeId, Leaves)>,
    /// The first so many layers run at the desk.
    pub layers_local_first: u16,
    /// The last so many layers, and with them the head, run at the desk.
    pub layers_local_last: u16,
    /// These nodes see nothing.
    pub forbidden: Vec<NodeId>,
    /// Whether an answer that is not of the exact class is refused.
    pub exact_only: bool,
}

impl Policy {
    /// Nothing leaves.
    pub fn closed() -> Policy {
        Policy {
            may_see: Vec::new(),
            nodes: Vec::new(),
            layers_local_first: 0,
            layers_local_last: 0,
            forbidden: Vec::new(),
            exact_only: false,
        }
    }

    /// Nodes of these roles may see so much; all others nothing.
    pub fn open(leaves: Leaves, roles: &[Role]) -> Policy {
        Policy {
            may_see: roles.iter().map(|role| (*role, leaves)).collect(),
            ..Policy::closed()
        }
    }

    /// What this node may see: the least that any line says of it, or else of its role; nothing where no line does.
    pub fn seen_by(&self, node: NodeId, role: Role) -> Leaves {
        if self.forbidden.contains(&node) {
            return Leaves::Nothing;
        }
        let of_it = self.nodes.iter().filter(|(of, _)| *of == node);
        if let Some(leaves) = of_it.map(|(_, leaves)| *leaves).min() {
            return leaves;
        }
        let lines = self.may_see.iter().filter(|(of, _)| *of == role);
        lines.map(|(_, leaves)| *leaves).min().unwrap_or(Leaves::Nothing)
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> LayerProfile {
        LayerProfile {
            weight_bytes: 40_000_000,
            weight_bytes_one_row: 40_000_000,
            flops_per_token: 80e6,
            flops_per_position: 8192.0,
            kv_bytes_f16: 1024.0,
        }
    }

    #[test]
    fn a_speed_gives_back_the_times_it_was_made_from() {
        let passes = [(1, 0.001), (8, 0.0015), (64, 0.004), (512, 0.03)];
        let passes = passes.map(|(rows, seconds)| TimedPass { rows, seconds });
        let speed = Speed::from_passes(&layer(), &passes).unwrap();
        for pass in passes {
            let said = speed.layer_seconds(&layer(), pass.rows, 0.0, KvFormat::F16);
            assert!((said / pass.seconds - 1.0).abs() < 1e-9, "{pass:?}: {said}");
        }
        let between = speed.layer_seconds(&layer(), 128, 0.0, KvFormat::F16);
        assert!(between > 0.004 && between < 0.03);
        assert!(Speed::from_passes(&layer(), &[]).is_none());
    }

    #[test]
    fn hours_may_run_over_midnight() {
        let night = Hours {
            from: 22 * 60,
            until: 6 * 60,
        };
        assert!(night.contains(23 * 60) && night.contains(0) && !night.contains(12 * 60));
        let caps = Caps {
            hours: Some(night),
            pause_while_i_work: true,
            ..Caps::default()
        };
        assert_eq!(caps.state(720, false), NodeState::OutOfHours);
        assert_eq!(caps.state(0, true), NodeState::OwnerWorks);
        assert_eq!(caps.state(0, false), NodeState::Open);
    }

    #[test]
    fn a_policy_that_says_nothing_of_a_role_shows_it_nothing() {
        let node = NodeId([1; 32]);
        let mut policy = Policy::open(Leaves::Text, &[Role::Own]);
        assert_eq!(policy.seen_by(node, Role::Own), Leaves::Text);
        assert_eq!(policy.seen_by(node, Role::Miner), Leaves::Nothing);
        policy.may_see.push((Role::Own, Leaves::Activations));
        assert_eq!(policy.seen_by(node, Role::Own), Leaves::Activations);
        policy.nodes.push((node, Leaves::Text));
        assert_eq!(policy.seen_by(node, Role::Miner), Leaves::Text);
        policy.nodes.push((node, Leaves::Nothing));
        assert_eq!(policy.seen_by(node, Role::Own), Leaves::Nothing);
        policy.nodes.clear();
        policy.forbidden.push(node);
        assert_eq!(policy.seen_by(node, Role::Own), Leaves::Nothing);
    }
}
