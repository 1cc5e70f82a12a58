//! What a plan says.

use core::time::Duration;
use heph_types::{Exactness, KvFormat, LayerRange, Leaves, ModelHash, NodeId, Role, WireCodec};
use serde::{Deserialize, Serialize};

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything runs at the desk.
    Local,
    /// The whole model runs on one other node.
    Remote,
    /// The layers are shared among several nodes.
    Layered,
    /// The desk drafts tokens and one place, here or remote, verifies them.
    Speculative,
    /// The desk drafts tokens and several nodes together verify them.
    LayeredSpeculative,
    /// Spans of documents are chosen here; the question and these spans are answered elsewhere.
    Preprocess,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 6] = [
        Mode::Local,
        Mode::Remote,
        Mode::Layered,
        Mode::Speculative,
        Mode::LayeredSpeculative,
        Mode::Preprocess,
    ];

    /// The word for it in settings and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Local => "local",
            Mode::Remote => "remote",
            Mode::Layered => "layered",
            Mode::Speculative => "speculative",
            Mode::LayeredSpeculative => "layered-speculative",
            Mode::Preprocess => "preprocess",
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no mode; known are local, remote, layered, speculative, layered-speculative and preprocess"
)]
pub struct UnknownMode(pub String);

impl std::str::FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(word: &str) -> Result<Mode, UnknownMode> {
        let named = Mode::ALL.into_iter().find(|mode| mode.name() == word);
        named.ok_or_else(|| UnknownMode(word.to_owned()))
    }
}

/// What proposes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DraftSource {
    /// A small model.
    Model,
    /// What followed the same words before.
    NGram,
    /// A small model that proposes several ways to go on.
    Tree,
}

impl std::fmt::Display for DraftSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DraftSource::Model => "model",
            DraftSource::NGram => "n-gram",
            DraftSource::Tree => "tree",
        })
    }
}

/// Where every part of a request runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How the request is answered.
    pub mode: Mode,
    /// The model.
    pub model: ModelHash,
    /// Its name.
    pub model_name: String,
    /// Number format of every stage's cache.
    pub kv: KvFormat,
    /// Positions that every cache holds.
    pub context: u32,
    /// The stages in layer order. The first embeds, the last runs the head and chooses.
    pub stages: Vec<Stage>,
    /// How hidden states travel between stages.
    pub forwarding: Forwarding,
    /// Rows of the prompt that go through a stage together, on average; chunks follow one another without waiting.
    pub chunk_rows: u32,
    /// Tokens of the prompt that are sent through the stages.
    pub prompt_tokens: u32,
    /// What is drafted at the desk; nothing where absent.
    pub draft: Option<DraftPlan>,
    /// The class of the answer's bits.
    pub exactness: Exactness,
    /// What it is expected to take.
    pub expected: Expected,
}

impl Plan {
    /// Whether rows are rounded on the way between its stages.
    pub fn rounds(&self) -> bool {
        let wires = self
            .stages
            .iter()
            .flat_map(|stage| [stage.wire_in, stage.wire_out]);
        wires.flatten().any(|codec| !codec.is_exact())
    }

    /// Mode, nodes and layers: what two plans must share to be called the same to a person.
    pub fn same_places(&self, other: &Plan) -> bool {
        let places = |p: &Plan| p.stages.iter().map(|s| (s.node, s.layers)).collect::<Vec<_>>();
        self.mode == other.mode && self.model == other.model && places(self) == places(other)
    }

    /// The stages that run elsewhere.
    pub fn remote_stages(&self) -> impl Iterator<Item = &Stage> {
        self.stages.iter().filter(|s| s.place == Place::Peer)
    }
}

/// A range of layers at one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What it is to the desk's owner.
    pub role: Role,
    /// Here or elsewhere.
    pub place: Place,
    /// The layers. Empty for a desk that keeps only the head.
    pub layers: LayerRange,
    /// What the node sees of the text; nothing for the desk.
    pub sees: Leaves,
    /// How hidden states come in; `None` where tokens do, or nothing crosses a link.
    pub wire_in: Option<WireCodec>,
    /// How hidden states go out; `None` where tokens do, or nothing crosses a link.
    pub wire_out: Option<WireCodec>,
    /// Bytes of weights and cache that the node needs for all its stages.
    pub memory: u64,
    /// Bytes of weights that the node lacks and that are to be sent there first.
    pub send_bytes: u64,
}

/// Whether a stage runs at the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// It does.
    Desk,
    /// It runs on another node.
    Peer,
}

/// How hidden states travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// Each stage answers the desk.
    ThroughDesk,
    /// Neighbouring stages send to each other.
    Direct,
}

/// What is drafted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftPlan {
    /// By what.
    pub source: DraftSource,
    /// Index among the request's drafts.
    pub choice: usize,
    /// Tokens in a round, to begin with; the online control goes on from measurements.
    pub length: u16,
}

/// What a plan is expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Until the first token.
    pub first_token: Duration,
    /// Between two tokens after that, on average.
    pub per_token: Duration,
    /// Until the last token.
    pub total: Duration,
    /// Bytes away from the desk.
    pub bytes_up: u64,
    /// Bytes towards it.
    pub bytes_down: u64,
    /// Money.
    pub credits: f64,
    /// Seconds with all wishes weighed in: what the planner made small.
    pub objective: f64,
}

/// A plan, and why it is this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The plan.
    pub plan: Plan,
    /// Why.
    pub reason: crate::Reason,
    /// The best plan of every other mode, or what stands against the mode.
    pub alternatives: Vec<Alternative>,
}

/// A mode that was not chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// The mode.
    pub mode: Mode,
    /// Its best plan, if there is one.
    pub plan: Option<Box<Plan>>,
    /// Why not, as one sentence.
    pub why_not: String,
}
