//! What a desk asks of a stage, and what the stage answers: a stage is a range of layers held by one node for
//! one session. Seats carry these out (a local worker, a peer), and the wire carries them.

use crate::{Hidden, KvFormat, LayerRange, Position, SamplingOptions, TokenId, WireCodec};
use serde::{Deserialize, Serialize};

/// One conversation's place on a node: the node keeps a KV cache under this number. Chosen by the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// BLAKE3 of a model's files, in order. The same hash means the same weights, words and template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelHash(pub [u8; 32]);

/// Opens a session on a node.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSpec {
    /// The model.
    pub model: ModelHash,
    /// The layers that the node is to run. The first layer's stage may be given tokens.
    pub layers: LayerRange,
    /// Positions that the cache must be able to hold.
    pub context: u32,
    /// Number format of the cache: part of what names an answer's bits.
    pub kv_format: KvFormat,
    /// With options the stage goes on through the model's head and answers with chosen tokens; only the stage that
    /// holds the last layer can. Without, it answers with hidden states.
    pub choose: Option<SamplingOptions>,
}

/// What a stage is asked to do next. A stage carries out its orders one after another.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Takes tokens through the layers.
    Forward(Forward),
    /// Forgets everything from this position on.
    Rollback(Position),
    /// Goes on alone from the end of its cache, token after token, each told as soon as it is chosen. Only for a stage
    /// that holds the whole model and chooses.
    Generate {
        /// The token to begin with: the last of the history, not yet in the cache.
        last: TokenId,
        /// Tokens to choose at most.
        tokens_max: u32,
        /// Tokens that end the answer; the one chosen is told too.
        ends: Vec<TokenId>,
    },
}

/// Consecutive tokens of one session on their way through a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Position of the first of them. Where the stage's cache is longer, it is rolled back to here first.
    pub first: Position,
    /// The tokens themselves, or what the layers before made of them.
    pub input: StageInput,
    /// How many of the last rows are to be answered: all of them for a stage in the middle, one for the last stage of a
    /// prompt, none for a chunk of a prompt that the last stage only has to remember.
    pub answers: u32,
    /// The rows that are answered also go straight to the node of the next stage: all of them are, then.
    pub pass: Option<Pass>,
}

/// Names rows on their way from one stage to the next past the desk. The desk counts them, and no number comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(pub u64);

/// Hands the rows of an order on to the next stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Under which name.
    pub tag: Tag,
    /// In which format: that of the answer, so that the desk remembers the very bits that went on.
    pub codec: WireCodec,
}

/// What shows that a node may hand rows to another for one session: known to the desk and these two alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub [u8; 32]);

/// A secret is not shown.
impl core::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Ticket")
    }
}

/// What goes into a stage.
#[derive(Debug, Clone, PartialEq)]
pub enum StageInput {
    /// Token ids, for the stage that holds the first layer.
    Tokens(Vec<TokenId>),
    /// Hidden states, one row a token.
    Rows {
        /// The rows.
        hidden: Hidden,
        /// The ids of the same tokens, for a stage that chooses with penalties on what was said before; else empty.
        tokens: Vec<TokenId>,
    },
    /// Hidden states that come from the node of the stage before.
    Handed {
        /// Under which name.
        tag: Tag,
        /// How many rows.
        count: usize,
        /// As beside rows.
        tokens: Vec<TokenId>,
    },
}

impl StageInput {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Rows { hidden, .. } => hidden.tokens(),
            Self::Handed { count, .. } => *count,
        }
    }
}

/// What a stage answers to a [`Forward`] or, once a token, to a `Generate`.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Hidden states after the stage's last layer.
    Rows {
        /// Position of the first row.
        first: Position,
        /// The rows.
        hidden: Hidden,
    },
    /// What the model says comes next, one token for each answered row.
    Choices {
        /// Position of the first chosen token: one after its row's.
        first: Position,
        /// The tokens.
        tokens: Vec<TokenId>,
    },
}

/// What a stage's caches hold of consecutive positions, bit for bit: how a stage goes to another node without its history
/// being computed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePart {
    /// The first position.
    pub first: Position,
    /// How many.
    pub tokens: u32,
    /// BLAKE3 of the layers, the places and the bytes.
    pub check: [u8; 32],
    /// Layer after layer, position after position: keys and values in the cache's own number format.
    pub bytes: Vec<u8>,
}
