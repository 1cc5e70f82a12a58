//! Text to tokens and back, exactly as the model was trained.
//!
//! Two readers, [`Tokenizer::from_metadata`] for GGUF files and [`Tokenizer::from_json`] for
//! `tokenizer.json`, build the same pipeline: added tokens are cut out, the text between them is rewritten
//! (`normalizer`), cut into pieces (`pieces`) and each piece is spelled by a model (`bpe`, `spm`, `unigram`,
//! `wordpiece`). Knows no file, chat or model weights.

mod bpe;
mod byte_level;
mod charsmap;
mod families;
mod gguf;
mod guarded;
mod json;
mod metadata;
mod normalizer;
mod pattern;
mod pieces;
mod special;
mod spm;
#[cfg(test)]
mod tests;
mod texts;
mod trie;
mod unigram;
mod wordpiece;

use std::sync::{Arc, OnceLock};

use heph_types::TokenId;

pub use metadata::VocabularyMetadata;
pub use texts::Texts;

use bpe::Bpe;
use guarded::Spellings;
use normalizer::Normalizer;
use pieces::{Cut, Pieces};
use special::{AddedTokens, Section};
use spm::Spm;
use texts::Ids;
use unigram::Unigram;
use wordpiece::WordPiece;

/// A vocabulary and the rules by which text becomes tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    tokens: Tokens,
    /// Found in the text as it comes.
    added: AddedTokens,
    /// Found in the text after it was rewritten.
    added_normalized: AddedTokens,
    normalizers: Vec<Normalizer>,
    cuts: Vec<Cut>,
    model: Model,
    /// Tokens that stand before and after each text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    special: SpecialTokens,
    /// Whether each text gets a space in front that [`Tokenizer::decode`] takes away again.
    space_prefix: bool,
    /// Looked up once somebody's words are guarded.
    spellings: OnceLock<Spellings>,
}

/// The entries of a vocabulary.
#[derive(Debug, Clone, Default)]
struct Tokens {
    /// How the vocabulary spells each.
    texts: Arc<Texts>,
    /// What each adds to a text, one after another.
    bytes: Vec<u8>,
    /// Where each one's bytes end.
    ends: Vec<u32>,
    control: Vec<bool>,
}

impl Tokens {
    /// The tokens spelled `texts`; `entry` adds what one stands for to the bytes it is given and says whether it is a
    /// control token.
    fn new(texts: Arc<Texts>, mut entry: impl FnMut(u32, &str, &mut Vec<u8>) -> bool) -> Self {
        let mut tokens = Self {
            bytes: Vec::with_capacity(texts.len()),
            ends: Vec::with_capacity(texts.len()),
            control: Vec::with_capacity(texts.len()),
            texts: Arc::clone(&texts),
        };
        for (text, id) in texts.iter().zip(0..) {
            tokens.control.push(entry(id, text, &mut tokens.bytes));
            // No spelling is longer in bytes than twice its text, and there are less than 4 GiB of texts.
            tokens
                .ends
                .push(u32::try_from(tokens.bytes.len()).unwrap_or(u32::MAX));
        }
        tokens.bytes.shrink_to_fit();
        tokens
    }

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn bytes(&self, at: usize) -> &[u8] {
        let Some(&end) = self.ends.get(at) else {
            return &[];
        };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }

    fn is_control(&self, at: usize) -> bool {
        self.control.get(at).copied().unwrap_or_default()
    }
}

/// The tokens with a part to play.
#[derive(Debug, Clone, Default)]
struct SpecialTokens {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    end_of_generation: Vec<TokenId>,
}

#[derive(Debug, Clone)]
enum Model {
    Bpe(Box<Bpe>),
    Spm(Spm),
    Unigram(Unigram),
    WordPiece(WordPiece),
    /// Each piece is one token or the unknown one.
    Words {
        ids: Box<Ids>,
        unknown: Option<u32>,
    },
}

/// Whether the tokens that frame a text are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddSpecial {
    /// Those that the model expects around a text: beginning, end, separator.
    Yes,
    /// None.
    No,
}

/// Whether the spelling of a control token in a text becomes that token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseSpecial {
    /// It does: for text that a chat template made.
    Yes,
    /// It stays text: for words of a user.
    No,
}

/// Why a vocabulary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The kind of tokenizer is not known.
    #[error("tokenizers of kind {0:?} are not known")]
    UnknownModel(String),
    /// The pre-tokenizer is not known.
    #[error("the pre-tokenizer {0:?} is not known")]
    UnknownPreTokenizer(String),
    /// The vocabulary is empty or has more tokens than ids.
    #[error("a vocabulary of {0} tokens cannot be used")]
    Size(usize),
    /// A list that runs beside the tokens has another length.
    #[error("the vocabulary has {tokens} tokens but {entries} {what}")]
    Uneven {
        /// What the list holds.
        what: &'static str,
        /// Tokens of the vocabulary.
        tokens: usize,
        /// Entries of the list.
        entries: usize,
    },
    /// The normalisation table is broken.
    #[error("the precompiled normalisation table is broken")]
    Charsmap,
    /// A pattern does not compile.
    #[error("the pattern {pattern:?} cannot be used")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the engine says.
        #[source]
        cause: Box<fancy_regex::Error>,
    },
    /// The file is not JSON, or not of the form of a `tokenizer.json`.
    #[error("the tokenizer file cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A part of a `tokenizer.json` is of a kind that is not known.
    #[error("the tokenizer file asks for {0}, which is not known")]
    UnknownPart(String),
    /// A part of the file is larger than any vocabulary needs.
    #[error("the tokenizer file holds {what}, and {most} is the most")]
    TooMuch {
        /// What there is too much of.
        what: String,
        /// What may be there.
        most: usize,
    },
}

impl Tokenizer {
    /// The tokens of `text`. Any text has tokens; characters the vocabulary cannot spell become its unknown
    /// token or, without one, nothing. Time is `n log n` in the length of the text.
    pub fn encode(&self, text: &str, add: AddSpecial, parse: ParseSpecial) -> Vec<TokenId> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add == AddSpecial::Yes {
            ids.extend(&self.prefix);
        }
        let mut scratch = bpe::Scratch::default();
        for section in self.added.sections(text, parse) {
            match section {
                Section::Token(id) => ids.push(id),
                Section::Text(range) => {
                    self.encode_section(
                        &text[range.clone()],
                        range.start == 0,
                        parse,
                        &mut scratch,
                        &mut ids,
                    );
                }
            }
        }
        if add == AddSpecial::Yes {
            ids.extend(&self.suffix);
        }
        ids.into_iter().map(TokenId).collect()
    }

    /// The tokens of `text` with those that the model expects around it, `limit` at most: what is too much is left
    /// out at the end of the text, and the closing token stays. `None` where not even the tokens around it fit.
    pub fn encode_within(&self, text: &str, limit: usize) -> Option<Vec<TokenId>> {
        let room = limit.checked_sub(self.prefix.len() + self.suffix.len())?;
        let inner = self.encode(text, AddSpecial::No, ParseSpecial::No);
        let around = |ids: &[u32]| ids.iter().map(|&id| TokenId(id)).collect::<Vec<_>>();
        let inner = &inner[..inner.len().min(room)];
        Some([around(&self.prefix).as_slice(), inner, &around(&self.suffix)].concat())
    }

    /// The text that `tokens` stand for, without control tokens. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|&token| self.token_bytes(token))
            .copied()
            .collect();
        let bytes = if self.space_prefix {
            bytes.strip_prefix(b" ").unwrap_or(&bytes)
        } else {
            &bytes
        };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The bytes that `token` adds to a text: none for control tokens and ids outside the vocabulary. May be
    /// a part of a character only.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        match self.tokens.is_control(token.index()) {
            true => &[],
            false => self.tokens.bytes(token.index()),
        }
    }

    /// How the vocabulary itself spells `token`, control tokens included.
    pub fn token_text(&self, token: TokenId) -> Option<&str> {
        self.tokens.texts.get(token.index())
    }

    /// The token that the vocabulary spells exactly `text`. Looks at every token: for set-up, not per token.
    pub fn token_of_text(&self, text: &str) -> Option<TokenId> {
        let at = self.tokens.texts.iter().position(|token| token == text)?;
        Some(TokenId(at as u32))
    }

    /// Whether `token` steers the model and stands for no text.
    pub fn is_control(&self, token: TokenId) -> bool {
        self.tokens.is_control(token.index())
    }

    /// The tokens that end an answer, in order of their ids.
    pub fn eog_ids(&self) -> &[TokenId] {
        &self.special.end_of_generation
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<TokenId> {
        self.special.bos.map(TokenId)
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<TokenId> {
        self.special.eos.map(TokenId)
    }

    /// The token for what the vocabulary cannot spell.
    pub fn unknown(&self) -> Option<TokenId> {
        self.special.unknown.map(TokenId)
    }

    /// Whether each id is the same token in both, so that what one model drafts another can verify.
    pub fn same_tokens(&self, other: &Tokenizer) -> bool {
        self.tokens.ends == other.tokens.ends && self.tokens.bytes == other.tokens.bytes
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// Whether [`AddSpecial::Yes`] puts the beginning-of-text token in front.
    pub fn adds_bos(&self) -> bool {
        self.special
            .bos
            .is_some_and(|bos| self.prefix.first() == Some(&bos))
    }

    fn encode_section(
        &self,
        text: &str,
        first: bool,
        parse: ParseSpecial,
        scratch: &mut bpe::Scratch,
        ids: &mut Vec<u32>,
    ) {
        let text = normalizer::apply_all(&self.normalizers, text);
        let sections = self.added_normalized.sections(&text, parse);
        self.encode_sections(&text, sections, first, scratch, ids);
    }

    fn encode_sections(
        &self,
        text: &str,
        sections: Vec<Section>,
        first: bool,
        scratch: &mut bpe::Scratch,
        ids: &mut Vec<u32>,
    ) {
        for section in sections {
            match section {
                Section::Token(id) => ids.push(id),
                Section::Text(range) => {
                    let pieces = Pieces::new(text[range.clone()].to_owned(), first && range.start == 0);
                    let pieces = self.cuts.iter().fold(pieces, Pieces::cut);
                    pieces
                        .iter()
                        .for_each(|piece| self.model.encode(piece, scratch, ids));
                }
            }
        }
    }
}

impl Model {
    fn encode(&self, piece: &str, scratch: &mut bpe::Scratch, ids: &mut Vec<u32>) {
        match self {
            Self::Bpe(bpe) => bpe.encode(piece, scratch, ids),
            Self::Spm(spm) => spm.encode(piece, ids),
            Self::Unigram(unigram) => unigram.encode(piece, ids),
            Self::WordPiece(words) => words.encode(piece, ids),
            Self::Words { ids: known, unknown } => ids.extend(known.get(piece).or(*unknown)),
        }
    }
}

/// The token of each byte in a vocabulary that spells bytes `<0x00>` to `<0xFF>`, or `None` without any.
fn byte_tokens<'a>(tokens: impl Iterator<Item = (&'a str, u32)>) -> Option<Box<[Option<u32>; 256]>> {
    let mut table = Box::new([None; 256]);
    for (text, id) in tokens {
        if let Some(byte) = byte_of_token(text)
            && !text
                .bytes()
                .any(|digit| digit.is_ascii_lowercase() && digit != b'x')
        {
            table[usize::from(byte)] = Some(id);
        }
    }
    table.iter().any(Option::is_some).then_some(table)
}

/// The byte that a token spelled `<0x41>` stands for.
fn byte_of_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Tokens that end a turn or a text in the vocabularies in use, for files that do not name theirs.
const ENDS: [&str; 18] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
];

/// The ids that end an answer: `named` by the file, and those whose spelling says so. Where a vocabulary
/// ends its answers with `<|return|>` or `<|call|>`, `<|end|>` ends only a message.
fn end_ids(tokens: &Texts, named: impl IntoIterator<Item = Option<u32>>) -> Vec<TokenId> {
    let spelled = (0..).zip(tokens.iter()).filter(|(_, token)| ENDS.contains(token));
    let mut ends: Vec<u32> = spelled.map(|(id, _)| id).collect();
    let has = |text: &str| ends.iter().any(|&id| tokens.get(id as usize) == Some(text));
    if (has("<|return|>") && has("<|call|>")) || (has("<|flush|>") && (has("<|calls|>") || has("<|call|>"))) {
        ends.retain(|&id| tokens.get(id as usize) != Some("<|end|>"));
    }
    ends.extend(
        named
            .into_iter()
            .flatten()
            .filter(|&id| (id as usize) < tokens.len()),
    );
    ends.sort_unstable();
    ends.dedup();
    ends.into_iter().map(TokenId).collect()
}
