//! What is asked: a prompt's size, the models that may answer it, and what matters to the person who asks.

use crate::plan::{DraftSource, Forwarding, Plan};
use core::time::Duration;
use heph_types::{KvFormat, LayerRange, ModelHash, ModelProfile, NodeId, Policy, WireCodec};
use serde::{Deserialize, Serialize};

/// A request as the planner sees it: sizes and wishes, never a word of the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The models that may answer, for instance one model in several quantisations, best first.
    pub models: Vec<ModelChoice>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens that the answer is expected to have.
    pub answer_tokens: u32,
    /// Positions that every cache must be able to hold; at least prompt and answer.
    pub context: u32,
    /// Cache formats that may be used, best first.
    pub kv: Vec<KvChoice>,
    /// Wire codecs that the model's certificate allows, with what they cost.
    pub codecs: Vec<CodecProfile>,
    /// What could draft tokens at the desk.
    pub drafts: Vec<DraftProfile>,
    /// Present where the prompt is a question about documents whose spans can be chosen here before anything is sent.
    pub document: Option<DocumentProfile>,
    /// Stages that hold the beginning of this prompt in their caches.
    pub warm: Vec<WarmPrefix>,
    /// Whether rows may be rounded by the formats of `codecs` that do so, though only exact machines may answer.
    pub rounds: bool,
    /// What the desk still has to do with the model before it computes as fast as it was timed.
    pub readying: Readying,
    /// What may leave: the hard constraint.
    pub policy: Policy,
    /// What matters.
    pub objective: Objective,
    /// A mode that the person asked for by name.
    pub mode: Option<crate::Mode>,
    /// Whether stages may send to each other, or only through the desk.
    pub direct: DirectForwarding,
}

/// A model that may answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelChoice {
    /// What it costs.
    pub profile: ModelProfile,
    /// How much longer, as a share, the person would wait for the best choice rather than take this one. 0 for the best.
    pub loss: f64,
}

/// A cache format that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KvChoice {
    /// The format.
    pub format: KvFormat,
    /// As in [`ModelChoice::loss`].
    pub loss: f64,
}

/// A wire codec with its measured cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CodecProfile {
    /// The codec.
    pub codec: WireCodec,
    /// Bytes that a number takes on the wire.
    pub bytes_per_number: f64,
    /// Seconds to write and read a number.
    pub seconds_per_number: f64,
}

impl CodecProfile {
    /// A codec with the size that its form fixes and no time; the lossless code's size was measured on hidden states.
    pub fn nominal(codec: WireCodec) -> CodecProfile {
        let bytes_per_number = match codec {
            WireCodec::F32 => 4.0,
            WireCodec::Packed => 3.5,
            WireCodec::Bf16 => 2.0,
            // 32 codes and one scale of two bytes.
            WireCodec::Int8 => 34.0 / 32.0,
        };
        CodecProfile {
            codec,
            bytes_per_number,
            seconds_per_number: 0.0,
        }
    }
}

/// Something that proposes tokens at the desk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DraftProfile {
    /// What it is.
    pub source: DraftSource,
    /// Probability that the target agrees with one more token, as estimated from what it did before.
    pub acceptance: f64,
    /// Seconds for one drafted token.
    pub seconds_per_token: f64,
    /// Seconds to take the prompt in.
    pub seconds_for_prompt: f64,
    /// What the desk still has to do with its model before it drafts as fast as it was timed; nothing where it has none.
    pub readying: Readying,
    /// Bytes that it takes at the desk.
    pub memory: u64,
    /// Most tokens in a round; 0 never drafts.
    pub length_max: u16,
}

/// Documents, and what choosing their spans here would do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DocumentProfile {
    /// Tokens that remain of the prompt: the question, the chosen spans, and what they cite.
    pub kept_tokens: u32,
    /// Seconds that choosing takes at the desk.
    pub seconds: f64,
    /// As in [`ModelChoice::loss`]: an answer from spans may miss what was left out.
    pub loss: f64,
}

/// A prompt's beginning that lies in the caches of a line of stages: of use to the same stages with the same draft alone, and where rows
/// travel as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmPrefix {
    /// Where, in layer order.
    pub stages: Vec<WarmStage>,
    /// How they are connected.
    pub forwarding: Forwarding,
    /// What drafts for them.
    pub draft: Option<DraftSource>,
    /// Whether rows are rounded on the way between them.
    pub rounded: bool,
    /// Of which model these are layers.
    pub model: ModelHash,
    /// How its caches keep what it read.
    pub kv: KvFormat,
    /// How much of it.
    pub tokens: u32,
}

/// A stage that holds a prompt's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmStage {
    /// Where.
    pub node: NodeId,
    /// What it holds it for.
    pub layers: LayerRange,
}

impl WarmPrefix {
    /// What the line of a plan holds.
    pub fn of(plan: &Plan, tokens: u32) -> WarmPrefix {
        WarmPrefix {
            stages: plan
                .stages
                .iter()
                .map(|stage| WarmStage {
                    node: stage.node,
                    layers: stage.layers,
                })
                .collect(),
            forwarding: plan.forwarding,
            draft: plan.draft.map(|draft| draft.source),
            rounded: plan.rounds(),
            model: plan.model,
            kv: plan.kv,
            tokens,
        }
    }

    /// Whether a plan goes on where it lies.
    pub fn lies_along(&self, plan: &Plan) -> bool {
        *self == WarmPrefix::of(plan, self.tokens)
    }
}

/// Work with a model that was not computed with since the program began: its weights are read where they lie in the file,
/// and packed little by little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Readying {
    /// How much longer the first pass takes.
    pub first: Duration,
    /// How much longer [`READYING_PASSES`] passes behind it take together.
    pub rest: Duration,
}

/// Passes that share the packing of a model's weights.
pub const READYING_PASSES: u32 = 32;

/// What matters to the person who asks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// How many seconds of the rest of the answer one second before the first token is worth.
    pub first_token_weight: f64,
    /// Seconds that the person would wait to save one credit.
    pub seconds_per_credit: f64,
    /// Most credits that the answer may cost.
    pub credits_max: Option<f64>,
    /// As in [`ModelChoice::loss`], for an answer that is not of the exact class.
    pub inexact_loss: f64,
}

impl Default for Objective {
    fn default() -> Objective {
        Objective {
            first_token_weight: 1.0,
            seconds_per_credit: 0.0,
            credits_max: None,
            inexact_loss: 0.05,
        }
    }
}

/// Whether hidden states may go from stage to stage without passing the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectForwarding {
    /// Everything passes the desk.
    Never,
    /// Where a link between the two is known and it is shorter.
    Allowed,
}

/// How long nothing heard of a node's clock may matter: bounds on durations that the planner accepts, one hour.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(3600);
