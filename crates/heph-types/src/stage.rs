//! What a desk asks of a stage, and what the stage answers: a stage is a range of layers held by one node for
//! one session. Seats carry these out (a local worker, a peer), and the wire carries them.

use crate::{Hidden, KvFormat, LayerRange, Position, SamplingOptions, TokenId, WireCodec};
use serde::{Deserialize, Serialize};

/// One conversation's place on a node: the node keeps a KV cache under this number. Chosen by the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// BLAKE3 of a model's files, in order. The same hash means the same weights, words and template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelHash(#[serde(with = "crate::hex")] pub [u8; 32]);

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
    /// Guesses to be confirmed, for a stage that holds the whole model and chooses: token ids as above, and other ways in
    /// which they may go on. Its choices end with the first that was not guessed.
    Guesses {
        /// The likeliest way.
        tokens: Vec<TokenId>,
        /// Others; see [`Branch::check`].
        branches: Vec<Branch>,
    },
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
            Self::Tokens(tokens) | Self::Guesses { tokens, .. } => tokens.len(),
            Self::Rows { hidden, .. } => hidden.tokens(),
            Self::Handed { count, .. } => *count,
        }
    }
}

/// Other ways that one order's guesses may go at most.
pub const BRANCHES_MAX: usize = 4;

/// Tokens of an order whose guesses branch, at most: twice the longest round, and what stands before it.
pub const GUESSES_MAX: usize = 64;

/// Another way in which guesses may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Which of the order's tokens its first one may stand for.
    pub at: u32,
    /// The tokens.
    pub tokens: Vec<TokenId>,
}

impl Branch {
    /// Whether branches are ones of an order with these tokens, of which the last `answers` are answered: each leaves the
    /// tokens where something was guessed, with a token that nobody else guesses there, and goes no further than they do.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(branches: &[Branch], tokens: &[TokenId], answers: usize) -> Result<(), &'static str> {
        if branches.len() > BRANCHES_MAX || !branches.is_empty() && tokens.len() > GUESSES_MAX {
            return Err("its guesses branch more often, or go further, than they may");
        }
        for (number, branch) in branches.iter().enumerate() {
            let (at, length) = (branch.at as usize, branch.tokens.len());
            if length == 0 || at >= tokens.len() || length > tokens.len() - at {
                return Err("a branch is empty or goes further than the guesses");
            }
            if at + answers <= tokens.len() {
                return Err("a branch leaves the tokens where nothing was guessed");
            }
            let first = branch.tokens[0];
            let again = |other: &Branch| other.at == branch.at && other.tokens[0] == first;
            if tokens[at] == first || branches[..number].iter().any(again) {
                return Err("a branch begins with what is guessed there already");
            }
        }
        Ok(())
    }
}

/// How chosen tokens ran through guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// Guesses that were chosen one after another, from the first.
    pub agreed: usize,
    /// The branch that was taken then, and how many of its tokens were chosen.
    pub branch: Option<(usize, usize)>,
}

impl Course {
    /// The course of what was `chosen` for the last `answers` of an order's tokens. Choices that go on behind one that was
    /// not guessed are on no branch.
    pub fn of(tokens: &[TokenId], answers: usize, branches: &[Branch], chosen: &[TokenId]) -> Course {
        let guessed = &tokens[(tokens.len() + 1).saturating_sub(answers).min(tokens.len())..];
        let same = |a: &[TokenId], b: &[TokenId]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let agreed = same(guessed, chosen);
        let at = tokens.len() - guessed.len() + agreed;
        let left = &chosen[agreed..];
        let taken = |branch: &Branch| branch.at as usize == at && left.first() == branch.tokens.first();
        let which = branches.iter().position(taken).filter(|_| at < tokens.len());
        Course {
            agreed,
            branch: which.map(|which| (which, same(&branches[which].tokens, left))),
        }
    }

    /// Choices that were guessed: all but the last, where a stage tells no more than it has to.
    pub fn right(&self) -> usize {
        self.agreed + self.branch.map_or(0, |(_, along)| along)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().copied().map(TokenId).collect()
    }

    fn branch(at: u32, tokens: &[u32]) -> Branch {
        Branch {
            at,
            tokens: ids(tokens),
        }
    }

    #[test]
    fn a_branch_leaves_the_guesses_where_one_stands_and_goes_no_further() {
        let tokens = ids(&[1, 2, 3, 4, 5]);
        let fits = |branches: &[Branch]| Branch::check(branches, &tokens, 4).is_ok();
        assert!(fits(&[branch(2, &[9, 9, 9]), branch(2, &[8]), branch(4, &[9])]));
        // The second token is the last known one: what follows it is the first guess.
        for wrong in [
            branch(1, &[9]),
            branch(0, &[9]),
            branch(5, &[9]),
            branch(u32::MAX, &[9]),
            branch(2, &[]),
            branch(2, &[9; 4]),
            branch(2, &[3]),
        ] {
            assert!(!fits(std::slice::from_ref(&wrong)), "{wrong:?}");
        }
        assert!(!fits(&[branch(2, &[9, 1]), branch(2, &[9, 2])]), "twice the same");
        assert!(
            !fits(&[6, 7, 8, 9, 10].map(|first| branch(2, &[first]))),
            "too many"
        );
        let long = vec![TokenId(1); GUESSES_MAX + 1];
        assert!(Branch::check(&[branch(9, &[2])], &long, long.len()).is_err());
    }

    #[test]
    fn chosen_tokens_run_along_the_guesses_or_along_one_branch() {
        let tokens = ids(&[1, 2, 3, 4]);
        let branches = [branch(2, &[7, 8]), branch(3, &[9])];
        let course = |chosen: &[u32]| Course::of(&tokens, 4, &branches, &ids(chosen));
        let of = |agreed, branch| Course { agreed, branch };
        assert_eq!(course(&[2, 3, 4, 5]), of(3, None));
        assert_eq!(course(&[2, 6]), of(1, None));
        assert_eq!(course(&[2, 7, 8, 5]), of(1, Some((0, 2))));
        assert_eq!(course(&[2, 7, 5]), of(1, Some((0, 1))));
        assert_eq!(course(&[2, 3, 9, 1]), of(2, Some((1, 1))));
        assert_eq!(course(&[7]), of(0, None));
        assert_eq!(course(&[2, 3, 9, 1]).right(), 3);
        assert_eq!(Course::of(&tokens, 1, &[], &ids(&[5])), of(0, None));
    }
}
