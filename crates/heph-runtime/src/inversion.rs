//! What a split gives away: how many tokens of a text can be read back from the rows that leave after a layer.
//!
//! A person's text goes through the first layers of a model here, as in layered mode, and its rows are written and read as
//! on the way to another machine. Then this machine plays the other one, which has the model's file as anyone may, and reads
//! the text back in three ways: by matching the vocabulary (`vocabulary`), by the nearest embedding and by an
//! inverter that was trained on other text (`nearest`). Only the strongest of them says anything about a split: against
//! rows that were turned by a secret rotation the last two find nothing and the first one finds everything. No split is a
//! measure of privacy, whatever is found here, and the planner never asks this module.

mod nearest;
mod vocabulary;

use heph_engine::tokenizer::{AddSpecial, ParseSpecial, Tokenizer};
use heph_engine::worker::{ForwardError, Hidden, Keep, Part, Worker};
use heph_net::codec::{CodecError, pack, unpack};
use heph_types::{LayerRange, Position, TokenId, WireCodec};
use serde::Serialize;

use crate::cancel::Cancel;

/// What is read back where no other text is given: a letter written for this, and nobody's.
pub const ASKED: &str = include_str!("inversion/asked.txt");

/// What the inverter learns from beside tokens in no order: the second chapter of Alice's Adventures in Wonderland (Lewis
/// Carroll, 1865), in the public domain.
const LEARNED: &str = include_str!("inversion/learned.txt");

/// Tokens of the vocabulary that go through the layers together: enough to read each weight seldom, and the rows of a
/// chunk of the widest model there is take 64 MB.
const CANDIDATES: usize = 256;

/// Tokens of a sequence that the inverter learns from.
const LESSON: usize = 64;

/// How near the right token has to be to count as found at all.
const NEAREST: usize = 5;

/// A way to read rows back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// Token by token from the left: every candidate goes through the same layers, and the nearest rows win.
    VocabularyMatching,
    /// A linear map from rows to embeddings, trained on rows of other text; the nearest embedding wins.
    TrainedInverter,
    /// The embedding that points most nearly where the row does.
    NearestEmbedding,
}

impl Attack {
    /// All of them, the strongest first.
    pub const ALL: [Attack; 3] = [
        Attack::VocabularyMatching,
        Attack::TrainedInverter,
        Attack::NearestEmbedding,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Attack::VocabularyMatching => "vocabulary matching",
            Attack::TrainedInverter => "trained inverter",
            Attack::NearestEmbedding => "nearest embedding",
        }
    }
}

/// What one attack read of the rows in one format.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Finding {
    /// How it was read.
    pub attack: Attack,
    /// How the rows were written.
    pub codec: WireCodec,
    /// Tokens whose first guess is right.
    pub first: usize,
    /// Tokens that are among the five nearest guesses.
    pub among_five: usize,
}

/// What was read back of one text at one split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Layers that run before rows leave.
    pub split: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Tokens whose rows left and that had to be guessed.
    pub tokens: usize,
    /// Entries of the vocabulary, each of which was tried.
    pub vocabulary: usize,
    /// Every attack on every format.
    pub findings: Vec<Finding>,
}

impl Report {
    /// What the strongest attack read: it alone says what the split gives away.
    pub fn strongest(&self) -> Option<&Finding> {
        // The first of equals, which is the strongest by its kind.
        self.findings.iter().rev().max_by_key(|finding| finding.first)
    }

    /// Of all tokens, the share that the strongest attack read: 0 to 1.
    pub fn recovered(&self) -> f64 {
        let first = self.strongest().map_or(0, |finding| finding.first);
        first as f64 / self.tokens.max(1) as f64
    }
}

/// Why a split could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InversionError {
    /// Nothing to read back.
    #[error("the text has no token")]
    NoText,
    /// The model has fewer layers, or fewer are held.
    #[error("a split after layer {split} of a model that holds {held} of its layers")]
    Split {
        /// Layers that were to run before rows leave.
        split: usize,
        /// Layers at hand, from the first on.
        held: usize,
    },
    /// The attack missed rows that it made itself, so that its figures would say nothing.
    #[error(
        "the matching missed its own rows at token {position}: its figures would be too low; this is a defect of heph"
    )]
    Blind {
        /// Where.
        position: usize,
    },
    /// A pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Rows that cannot be written.
    #[error(transparent)]
    Rows(#[from] CodecError),
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
}

/// A text as its sender and the one who reads along see it.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its tokens.
    tokens: Vec<TokenId>,
    /// Of them, those at the beginning that every text of this model has.
    known: usize,
}

impl Secret {
    /// The first `most` tokens of a text, and what the model expects before them.
    pub fn new(text: &str, tokenizer: &Tokenizer, most: usize) -> Secret {
        let bare = tokenizer.encode(text.trim(), AddSpecial::No, ParseSpecial::No);
        let mut tokens = tokenizer.encode(text.trim(), AddSpecial::Yes, ParseSpecial::No);
        let known = tokens.windows(bare.len().max(1)).position(|part| part == bare);
        let known = known.unwrap_or(0);
        tokens.truncate(known + bare.len().min(most));
        Secret { tokens, known }
    }

    /// Tokens that have to be guessed.
    pub fn guessed(&self) -> usize {
        self.tokens.len() - self.known
    }

    /// Positions that a model has to hold for it, and for what the inverter learns from.
    pub fn positions(&self) -> usize {
        self.tokens.len().max(LESSON)
    }
}

/// Sequences that a model has to have room for.
pub const SEQUENCES: usize = CANDIDATES + 2 * WireCodec::ALL.len();

/// Times that [`report`] calls `step` for a text: once for each token, once for the inverter and once for the embeddings.
pub fn steps(secret: &Secret) -> usize {
    secret.guessed() + 2
}

/// Reads `secret` back from the rows that leave after the first `split` layers of the worker's model, for each of `codecs`.
/// `tokenizer` is the model's. Deterministic; takes a pass through those layers for each token and each entry of the
/// vocabulary, and holds the rows of the text and of a few hundred candidates at a time.
///
/// # Errors
/// When the model cannot run, the attack misses its own rows, or `cancel` is raised.
pub fn report(
    worker: Worker,
    tokenizer: &Tokenizer,
    secret: &Secret,
    split: usize,
    codecs: &[WireCodec],
    cancel: &Cancel,
    step: &mut dyn FnMut(),
) -> Result<Report, InversionError> {
    let mut front = Front::new(worker, split)?;
    if secret.guessed() == 0 {
        return Err(InversionError::NoText);
    }
    let sent = front.rows(&secret.tokens)?;
    let received = codecs.iter().map(|codec| cross(&sent, *codec));
    let received = received.collect::<Result<Vec<Hidden>, CodecError>>()?;
    let mut wires: Vec<Wire> = codecs.iter().copied().zip(&received).map(Wire::from).collect();

    vocabulary::read(&mut front, secret, &mut wires, cancel, step)?;
    let lessons = lessons(tokenizer, front.vocab(), front.width());
    nearest::read(&mut front, &lessons, secret, &mut wires, cancel, step)?;

    let findings = Attack::ALL.iter().flat_map(|&attack| {
        wires.iter().map(move |wire| {
            let ranks = wire.ranks(attack);
            Finding {
                attack,
                codec: wire.codec,
                first: ranks.iter().filter(|rank| **rank < 1).count(),
                among_five: ranks.iter().filter(|rank| **rank < NEAREST).count(),
            }
        })
    });
    Ok(Report {
        split,
        layers: front.worker.all_layers().len(),
        tokens: secret.guessed(),
        vocabulary: front.vocab(),
        findings: findings.collect(),
    })
}

/// The rows of a text as they arrive in one format, and how near the right tokens came: for each token, how many others were
/// nearer.
struct Wire<'a> {
    codec: WireCodec,
    received: &'a Hidden,
    matched: Vec<usize>,
    inverted: Vec<usize>,
    nearest: Vec<usize>,
}

impl<'a> From<(WireCodec, &'a Hidden)> for Wire<'a> {
    fn from((codec, received): (WireCodec, &'a Hidden)) -> Self {
        let none = Vec::new;
        Self {
            codec,
            received,
            matched: none(),
            inverted: none(),
            nearest: none(),
        }
    }
}

impl Wire<'_> {
    fn row(&self, position: usize) -> &[f32] {
        let width = self.received.width;
        &self.received.rows[position * width..][..width]
    }

    fn ranks(&self, attack: Attack) -> &[usize] {
        match attack {
            Attack::VocabularyMatching => &self.matched,
            Attack::TrainedInverter => &self.inverted,
            Attack::NearestEmbedding => &self.nearest,
        }
    }
}

/// Rows as they arrive at another machine.
fn cross(rows: &Hidden, codec: WireCodec) -> Result<Hidden, CodecError> {
    unpack(&pack(rows, codec)?)
}

/// The layers before the split, which whoever has the model's file can run too.
struct Front {
    worker: Worker,
    layers: LayerRange,
}

impl Front {
    fn new(worker: Worker, split: usize) -> Result<Self, InversionError> {
        let held = worker.model().held().len();
        let layers = LayerRange::new(0, split, worker.all_layers().len());
        let layers = layers.ok().filter(|layers| worker.model().holds(*layers));
        let layers = layers.ok_or(InversionError::Split { split, held })?;
        Ok(Self { worker, layers })
    }

    fn vocab(&self) -> usize {
        self.worker.model().graph().vocab
    }

    fn width(&self) -> usize {
        self.worker.model().graph().hidden
    }

    /// The rows that a text leaves with: `(tokens, width)`.
    fn rows(&mut self, tokens: &[TokenId]) -> Result<Hidden, ForwardError> {
        let mut cache = self.worker.model().new_cache(self.layers);
        let mut hidden = self.worker.embed(tokens)?;
        let parts = &mut [Part {
            cache: &mut cache,
            tokens: tokens.len(),
            first: Position(0),
        }];
        self.worker.forward(self.layers, parts, &mut hidden, Keep::All)?;
        Ok(hidden)
    }
}

/// What the inverter learns from: sequences of the story, and as many of tokens from all over the vocabulary, so that each
/// has been seen among others. More rows than a row has numbers, as far as the story goes.
fn lessons(tokenizer: &Tokenizer, vocab: usize, width: usize) -> Vec<Vec<TokenId>> {
    let story = tokenizer.encode(LEARNED, AddSpecial::No, ParseSpecial::No);
    let told = story.chunks(LESSON).map(<[TokenId]>::to_vec);
    let mixed = 2 * story.len().max(4 * width).max(vocab.min(MIXED_MAX)) / LESSON;
    told.chain((0..mixed).map(|number| mixture(number, vocab)))
        .collect()
}

/// Tokens of a large vocabulary that are learned in no order: more would only take longer.
const MIXED_MAX: usize = 8192;

/// Tokens from all over the vocabulary, the same on every machine.
fn mixture(number: usize, vocab: usize) -> Vec<TokenId> {
    let (start, vocab) = ((number * LESSON) as u64, vocab.max(1) as u64);
    let spread = |i: u64| i.wrapping_mul(2_654_435_761).wrapping_add(i >> 7) % vocab;
    (start..start + LESSON as u64)
        .map(|i| TokenId(spread(i) as u32))
        .collect()
}

#[cfg(test)]
mod tests;
