//! A tokenizer from a Hugging Face `tokenizer.json`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::bpe::Bpe;
use super::charsmap::Charsmap;
use super::metadata::{PUNCTUATION, bert_cuts};
use super::normalizer::{self, Bert, Normalizer, REPLACEMENT_MAX, STEPS_MAX};
use super::pattern::Pattern;
use super::pieces::{Cut, Matches, Prefix, Thousands};
use super::special::{AddedToken, AddedTokens};
use super::texts::{Ids, Texts};
use super::unigram::Unigram;
use super::wordpiece::WordPiece;
use super::{Model, SpecialTokens, Tokenizer, TokenizerError, Tokens};
use super::{byte_level, byte_of_token, byte_tokens, end_ids};

/// GPT-2's pattern, which the `ByteLevel` pre-tokenizer implies.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Ids that no token may have on top of as many as the vocabulary has entries: a larger id would ask for a table of its
/// size.
const GAPS_MAX: usize = 1 << 16;

/// The file; parts that do not matter for ids are left out.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<NormalizerPart>,
    pre_tokenizer: Option<PreTokenizerPart>,
    post_processor: Option<PostPart>,
    decoder: Option<Value>,
    model: ModelPart,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum NormalizerPart {
    Sequence {
        normalizers: Vec<NormalizerPart>,
    },
    #[serde(rename = "NFC")]
    Nfc,
    #[serde(rename = "NFD")]
    Nfd,
    #[serde(rename = "NFKC")]
    Nfkc,
    #[serde(rename = "NFKD")]
    Nfkd,
    Lowercase,
    StripAccents,
    Strip {
        strip_left: bool,
        strip_right: bool,
    },
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: PatternPart,
        content: String,
    },
    ByteLevel,
    Nmt,
    BertNormalizer {
        clean_text: bool,
        handle_chinese_chars: bool,
        strip_accents: Option<bool>,
        lowercase: bool,
    },
    Precompiled {
        precompiled_charsmap: Option<String>,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
enum PatternPart {
    String(String),
    Regex(String),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizerPart {
    Sequence {
        pretokenizers: Vec<PreTokenizerPart>,
    },
    ByteLevel {
        #[serde(default)]
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Split {
        pattern: PatternPart,
        behavior: Behavior,
        #[serde(default)]
        invert: bool,
    },
    Metaspace {
        #[serde(default = "visible_space")]
        replacement: char,
        add_prefix_space: Option<bool>,
        prepend_scheme: Option<Scheme>,
        #[serde(default = "yes")]
        split: bool,
    },
    Whitespace,
    WhitespaceSplit,
    BertPreTokenizer,
    Punctuation {
        #[serde(default)]
        behavior: Behavior,
    },
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    CharDelimiterSplit {
        delimiter: char,
    },
    FixedLength {
        length: usize,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize, Default, Clone, Copy)]
enum Behavior {
    Removed,
    #[default]
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Scheme {
    First,
    Never,
    Always,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostPart {
    Sequence {
        processors: Vec<PostPart>,
    },
    TemplateProcessing {
        single: Vec<TemplatePart>,
        #[serde(default)]
        special_tokens: HashMap<String, TemplateToken>,
    },
    BertProcessing {
        sep: (String, u32),
        cls: (String, u32),
    },
    RobertaProcessing {
        sep: (String, u32),
        cls: (String, u32),
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum TemplatePart {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Deserialize)]
struct TemplateToken {
    ids: Vec<u32>,
}

/// A model of any kind: each has some of these.
#[derive(Deserialize, Default)]
struct ModelPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Vocab,
    merges: Option<Merges>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    max_input_chars_per_word: Option<usize>,
}

/// A vocabulary as an object of ids or as a list of tokens with scores, in the memory that its texts take.
#[derive(Default)]
struct Vocab {
    texts: Texts,
    ids: Vec<u32>,
    /// Empty where the tokens have ids.
    scores: Vec<f64>,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Vocab;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of ids or a list of tokens and scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                while let Some((text, id)) = from.next_entry::<String, u32>()? {
                    vocab.texts.push(&text);
                    vocab.ids.push(id);
                }
                Ok(vocab)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                while let Some((text, score)) = from.next_element::<(String, f64)>()? {
                    vocab.ids.push(vocab.texts.len() as u32);
                    vocab.texts.push(&text);
                    vocab.scores.push(score);
                }
                Ok(vocab)
            }
        }
        from.deserialize_any(Read)
    }
}

impl Vocab {
    fn entries(&self) -> impl Iterator<Item = (&str, u32)> + Clone {
        self.texts.iter().zip(self.ids.iter().copied())
    }
}

/// Merges as pairs, as they are written since tokenizers 0.20, or each as one text, as before.
#[derive(Default)]
struct Merges {
    left: Texts,
    right: Texts,
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Merges;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::default();
                while let Some(Merge(left, right)) = from.next_element()? {
                    merges.left.push(&left);
                    merges.right.push(&right);
                }
                Ok(merges)
            }
        }
        from.deserialize_seq(Read)
    }
}

/// One merge; a text without a space is a merge of nothing.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Merge;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("two tokens, or a text of two tokens and a space")
            }

            fn visit_str<E: serde::de::Error>(self, merge: &str) -> Result<Merge, E> {
                let (left, right) = merge.split_once(' ').unwrap_or_default();
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Merge, A::Error> {
                let short = || A::Error::custom("a merge of less than two tokens");
                let left = from.next_element()?.ok_or_else(short)?;
                let right = from.next_element()?.ok_or_else(short)?;
                match from.next_element::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::custom("a merge of more than two tokens")),
                    None => Ok(Merge(left, right)),
                }
            }
        }
        from.deserialize_any(Read)
    }
}

/// How the tokens of a vocabulary spell text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// By the stand-ins of bytes.
    Bytes,
    /// As it is, with this mark for a space.
    Marked(char),
    /// As it is; a token without the mark of a continuation starts a word.
    Words,
}

impl Tokenizer {
    /// The tokenizer that a `tokenizer.json` describes. Beginning and end of text are what its
    /// post-processor puts there; [`Tokenizer::with_special`] can name others.
    ///
    /// # Errors
    /// Files of another form, parts of kinds that are not known, patterns that do not compile.
    pub fn from_json(file: &[u8]) -> Result<Self, TokenizerError> {
        let mut file: File = serde_json::from_slice(file)?;
        let (model, texts) = model(std::mem::take(&mut file.model), &file.added_tokens)?;
        let mut normalizers = Vec::new();
        file.normalizer
            .iter()
            .try_for_each(|part| add_normalizer(part, &mut normalizers))?;
        let mut cuts = Vec::new();
        file.pre_tokenizer
            .iter()
            .try_for_each(|part| add_cuts(part, &mut cuts))?;
        for (what, steps) in [
            ("steps of rewriting", normalizers.len()),
            ("steps of cutting", cuts.len()),
        ] {
            at_most(STEPS_MAX, steps, what)?;
        }
        let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
        file.post_processor
            .iter()
            .for_each(|part| frame(part, &mut prefix, &mut suffix));
        let known = |id: &u32| (*id as usize) < texts.len();
        prefix.retain(known);
        suffix.retain(known);
        let spelling = spelling(&model, &file, &cuts);
        let tokens = tokens(texts, spelling, &file.added_tokens, &model);
        let special = SpecialTokens {
            bos: prefix.first().copied(),
            eos: suffix.last().copied(),
            unknown: model.unknown(),
            end_of_generation: end_ids(&tokens.texts, [suffix.last().copied()]),
        };
        let rewritten = |text: &str| normalizer::apply_all(&normalizers, text);
        let added = |normalized: bool| {
            let wanted = file
                .added_tokens
                .iter()
                .filter(|token| token.normalized == normalized);
            AddedTokens::new(wanted.map(|token| token.finder(rewritten)))
        };
        Ok(Self {
            added: added(false),
            added_normalized: added(true),
            space_prefix: strips_first_space(file.decoder.as_ref()) || spelling == Spelling::Words,
            tokens,
            cuts,
            model,
            prefix,
            suffix,
            special,
            normalizers,
            spellings: OnceLock::new(),
        })
    }

    /// The same tokenizer with the beginning, end and further ends of text that a model's configuration
    /// names. Ids outside the vocabulary are left out.
    #[must_use]
    pub fn with_special(mut self, bos: Option<u32>, eos: Option<u32>, ends: &[u32]) -> Self {
        let valid = |id: Option<u32>| id.filter(|&id| (id as usize) < self.tokens.len());
        self.special.bos = valid(bos).or(self.special.bos);
        self.special.eos = valid(eos).or(self.special.eos);
        let named = ends.iter().copied().chain(self.special.eos).map(Some);
        self.special.end_of_generation = end_ids(&self.tokens.texts, named);
        self.spellings = OnceLock::new();
        self
    }
}

impl Model {
    fn unknown(&self) -> Option<u32> {
        match self {
            Self::Bpe(bpe) => bpe.unknown,
            Self::Spm(spm) => spm.unknown,
            Self::Unigram(unigram) => unigram.unknown(),
            Self::WordPiece(words) => words.unknown(),
            Self::Words { unknown, .. } => *unknown,
        }
    }
}

impl Added {
    /// The text by which it is found, and what is found.
    fn finder(&self, rewritten: impl Fn(&str) -> String) -> (String, AddedToken) {
        let text = match self.normalized {
            true => rewritten(&self.content),
            false => self.content.clone(),
        };
        let token = AddedToken {
            id: self.id,
            special: self.special,
            strip_left: self.lstrip,
            strip_right: self.rstrip,
            single_word: self.single_word,
        };
        (text, token)
    }
}

/// The model and the spelling of each of its tokens, by id; empty where no token has an id.
fn model(part: ModelPart, added: &[Added]) -> Result<(Model, Texts), TokenizerError> {
    let texts = texts(&part.vocab, added)?;
    let kind = part.kind.clone().unwrap_or_else(|| kind_of(&part).to_owned());
    let listed = !part.vocab.scores.is_empty();
    match kind.as_str() {
        "Unigram" if !listed && !part.vocab.texts.is_empty() => Err(no("scores")),
        "BPE" | "WordPiece" | "WordLevel" if listed => Err(no("ids")),
        "BPE" => Ok((Model::Bpe(Box::new(bpe(part))), texts)),
        "Unigram" => Ok((Model::Unigram(unigram(part)), texts)),
        "WordPiece" => Ok((Model::WordPiece(wordpiece(&part)?), texts)),
        "WordLevel" => {
            let unknown = part.unk_token.as_deref().ok_or_else(|| no("unk_token"))?;
            let ids = Box::new(Ids::new(part.vocab.texts, part.vocab.ids));
            let unknown = ids.get(unknown);
            Ok((Model::Words { ids, unknown }, texts))
        }
        other => Err(TokenizerError::UnknownModel(other.to_owned())),
    }
}

fn no(what: &str) -> TokenizerError {
    TokenizerError::UnknownPart(format!("a vocabulary without {what}"))
}

/// Old files do not name their model.
fn kind_of(part: &ModelPart) -> &'static str {
    match (&part.merges, part.unk_id, part.max_input_chars_per_word) {
        (Some(_), _, _) => "BPE",
        (_, Some(_), _) => "Unigram",
        (_, _, Some(_)) => "WordPiece",
        _ => "WordLevel",
    }
}

fn bpe(part: ModelPart) -> Bpe {
    let prefix = part.continuing_subword_prefix.unwrap_or_default();
    let bytes = part
        .byte_fallback
        .then(|| byte_tokens(part.vocab.entries()))
        .flatten();
    let ids = Ids::new(part.vocab.texts, part.vocab.ids);
    let Merges { left, right } = part.merges.unwrap_or_default();
    let mut merges = HashMap::with_capacity(left.len().min(ids.len()));
    let mut joined = String::new();
    for ((left, right), rank) in left.iter().zip(right.iter()).zip(0..) {
        joined.clear();
        joined.extend([left, right.strip_prefix(&prefix).unwrap_or(right)]);
        let pair = ids.get(left).zip(ids.get(right)).zip(ids.get(&joined));
        if let Some((pair, id)) = pair {
            merges.insert(pair, (rank, id));
        }
    }
    Bpe {
        merges,
        bytes,
        unknown: part.unk_token.and_then(|text| ids.get(&text)),
        fuse_unknown: part.fuse_unk,
        whole_pieces: part.ignore_merges,
        continuing_prefix: prefix,
        end_suffix: part.end_of_word_suffix.unwrap_or_default(),
        ids,
    }
}

fn unigram(part: ModelPart) -> Unigram {
    let rarest = part.vocab.scores.iter().copied().fold(f64::INFINITY, f64::min);
    let bytes = part
        .byte_fallback
        .then(|| byte_tokens(part.vocab.entries()))
        .flatten();
    Unigram::new(
        part.vocab.entries(),
        part.vocab.scores.clone(),
        rarest,
        part.unk_id,
        bytes,
    )
}

fn wordpiece(part: &ModelPart) -> Result<WordPiece, TokenizerError> {
    let unknown = part.unk_token.as_deref().ok_or_else(|| no("unk_token"))?;
    let prefix = part.continuing_subword_prefix.as_deref().unwrap_or("##");
    let tokens = || part.vocab.entries();
    let continues = tokens().filter_map(|(text, id)| Some((text.strip_prefix(prefix)?, id)));
    let unknown = tokens()
        .filter(|token| token.0 == unknown)
        .map(|token| token.1)
        .last();
    let longest = part.max_input_chars_per_word.unwrap_or(100);
    Ok(WordPiece::new(tokens(), continues, unknown, longest))
}

/// The spellings by id, with gaps where no token has an id. Added tokens hide those of the vocabulary.
fn texts(vocab: &Vocab, added: &[Added]) -> Result<Texts, TokenizerError> {
    let entries = || {
        vocab
            .entries()
            .chain(added.iter().map(|token| (token.content.as_str(), token.id)))
    };
    let largest = entries().map(|entry| entry.1 as usize).max().unwrap_or(0);
    if largest >= entries().count().saturating_mul(2).saturating_add(GAPS_MAX) {
        return Err(TokenizerError::Size(largest));
    }
    let mut by_id = vec![""; largest + 1];
    entries().for_each(|(text, id)| by_id[id as usize] = text);
    Ok(by_id.into_iter().collect())
}

fn tokens(texts: Texts, spelling: Spelling, added: &[Added], model: &Model) -> Tokens {
    let by_id: HashMap<u32, &Added> = added.iter().map(|token| (token.id, token)).collect();
    let bytes_fall_back = matches!(model, Model::Bpe(bpe) if bpe.bytes.is_some()) || model.unigram_bytes();
    Tokens::new(Arc::new(texts), |id, text, out| {
        let byte = byte_of_token(text).filter(|_| bytes_fall_back);
        match (byte, by_id.get(&id)) {
            (Some(byte), _) => out.push(byte),
            (None, Some(_)) => out.extend(text.as_bytes()),
            (None, None) => out.extend(spelling.bytes_of(text)),
        }
        byte.is_none() && by_id.get(&id).is_some_and(|token| token.special)
    })
}

impl Model {
    fn unigram_bytes(&self) -> bool {
        matches!(self, Self::Unigram(unigram) if unigram.falls_back_to_bytes())
    }
}

impl Spelling {
    fn bytes_of(self, text: &str) -> Vec<u8> {
        match self {
            Self::Bytes => byte_level::decode(text).unwrap_or_else(|| text.as_bytes().to_vec()),
            Self::Marked(mark) => text.replace(mark, " ").into_bytes(),
            Self::Words => match text.strip_prefix("##") {
                Some(rest) => rest.as_bytes().to_vec(),
                None => format!(" {text}").into_bytes(),
            },
        }
    }
}

fn spelling(model: &Model, file: &File, cuts: &[Cut]) -> Spelling {
    if matches!(model, Model::WordPiece(_)) {
        return Spelling::Words;
    }
    let decoder = file.decoder.as_ref();
    let decodes_bytes = decoder.is_some_and(|decoder| mentions(decoder, "ByteLevel"));
    if decodes_bytes || cuts.iter().any(|cut| matches!(cut, Cut::ByteLevel)) {
        return Spelling::Bytes;
    }
    let mark = cuts.iter().find_map(|cut| match cut {
        Cut::Metaspace { mark, .. } => Some(*mark),
        _ => None,
    });
    Spelling::Marked(mark.unwrap_or(visible_space()))
}

/// Whether a decoder is, or holds, one of this type.
fn mentions(decoder: &Value, kind: &str) -> bool {
    let inner = decoder
        .get("decoders")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    decoder.get("type").and_then(Value::as_str) == Some(kind)
        || inner.into_iter().any(|part| mentions(part, kind))
}

/// Whether a decoder takes a space away from the start of a text.
fn strips_first_space(decoder: Option<&Value>) -> bool {
    let Some(decoder) = decoder else { return false };
    let strips = |part: &Value| {
        let never = part.get("prepend_scheme").and_then(Value::as_str) == Some("never")
            || part.get("add_prefix_space").and_then(Value::as_bool) == Some(false);
        match part.get("type").and_then(Value::as_str) {
            Some("Metaspace") => !never,
            Some("Strip") => part.get("content").and_then(Value::as_str) == Some(" "),
            _ => false,
        }
    };
    let inner = decoder
        .get("decoders")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    strips(decoder) || inner.into_iter().any(strips)
}

fn add_normalizer(part: &NormalizerPart, out: &mut Vec<Normalizer>) -> Result<(), TokenizerError> {
    let step = match part {
        NormalizerPart::Sequence { normalizers } => {
            return normalizers.iter().try_for_each(|part| add_normalizer(part, out));
        }
        NormalizerPart::Nfc => Normalizer::Nfc,
        NormalizerPart::Nfd => Normalizer::Nfd,
        NormalizerPart::Nfkc => Normalizer::Nfkc,
        NormalizerPart::Nfkd => Normalizer::Nfkd,
        NormalizerPart::Lowercase => Normalizer::Lowercase,
        NormalizerPart::StripAccents => Normalizer::StripAccents,
        NormalizerPart::Strip {
            strip_left,
            strip_right,
        } => Normalizer::Strip {
            left: *strip_left,
            right: *strip_right,
        },
        NormalizerPart::Prepend { prepend } => {
            at_most(REPLACEMENT_MAX, prepend.len(), "bytes to put in front of a text")?;
            Normalizer::Prepend(prepend.clone())
        }
        NormalizerPart::Replace { content, .. } if content.len() > REPLACEMENT_MAX => {
            return at_most(REPLACEMENT_MAX, content.len(), "bytes to replace others by");
        }
        NormalizerPart::Replace {
            pattern: PatternPart::String(from),
            content,
        } => Normalizer::ReplaceText {
            from: from.clone(),
            to: content.clone(),
        },
        NormalizerPart::Replace {
            pattern: PatternPart::Regex(from),
            content,
        } => Normalizer::ReplacePattern {
            from: Pattern::new(from)?,
            to: content.clone(),
        },
        NormalizerPart::ByteLevel => Normalizer::ByteLevel,
        NormalizerPart::Nmt => Normalizer::Nmt,
        NormalizerPart::BertNormalizer {
            clean_text,
            handle_chinese_chars,
            strip_accents,
            lowercase,
        } => Normalizer::Bert(Bert {
            clean_text: *clean_text,
            space_chinese: *handle_chinese_chars,
            strip_accents: strip_accents.unwrap_or(*lowercase),
            lowercase: *lowercase,
        }),
        NormalizerPart::Precompiled {
            precompiled_charsmap: None,
        } => return Ok(()),
        NormalizerPart::Precompiled {
            precompiled_charsmap: Some(table),
        } => {
            let table = base64(table).ok_or(TokenizerError::Charsmap)?;
            Normalizer::Precompiled(Charsmap::new(&table)?)
        }
        NormalizerPart::Unknown => return Err(unknown("a normalizer")),
    };
    out.push(step);
    Ok(())
}

fn add_cuts(part: &PreTokenizerPart, out: &mut Vec<Cut>) -> Result<(), TokenizerError> {
    match part {
        PreTokenizerPart::Sequence { pretokenizers } => {
            return pretokenizers.iter().try_for_each(|part| add_cuts(part, out));
        }
        PreTokenizerPart::ByteLevel {
            add_prefix_space,
            use_regex,
        } => {
            if *add_prefix_space {
                out.push(Cut::SpacePrefix);
            }
            if *use_regex {
                out.push(cut(GPT2, Matches::Isolated, false)?);
            }
            out.push(Cut::ByteLevel);
        }
        PreTokenizerPart::Split {
            pattern,
            behavior,
            invert,
        } => out.push(split(pattern, *behavior, *invert)?),
        PreTokenizerPart::Metaspace {
            replacement,
            add_prefix_space,
            prepend_scheme,
            split,
        } => {
            let prefix = match (prepend_scheme, add_prefix_space) {
                (Some(Scheme::First), _) => Prefix::First,
                (Some(Scheme::Never), _) | (None, Some(false)) => Prefix::Never,
                (Some(Scheme::Always) | None, _) => Prefix::Always,
            };
            out.push(Cut::Metaspace {
                mark: *replacement,
                prefix,
                cut: *split,
            });
        }
        PreTokenizerPart::Whitespace => out.push(cut(r"\w+|[^\w\s]+", Matches::Removed, true)?),
        PreTokenizerPart::WhitespaceSplit => out.push(cut(r"\s", Matches::Removed, false)?),
        PreTokenizerPart::BertPreTokenizer => out.extend(bert_cuts()?),
        PreTokenizerPart::Punctuation { behavior } => out.push(cut(PUNCTUATION, behavior.matches(), false)?),
        PreTokenizerPart::Digits { individual_digits } => {
            let matches = if *individual_digits {
                Matches::Isolated
            } else {
                Matches::Contiguous
            };
            out.push(cut(r"\p{N}", matches, false)?);
        }
        PreTokenizerPart::CharDelimiterSplit { delimiter } => {
            let pattern = Pattern::literal(delimiter.encode_utf8(&mut [0; 4]))?;
            out.push(Cut::Pattern {
                pattern,
                matches: Matches::Removed,
                invert: false,
            });
        }
        PreTokenizerPart::FixedLength { length } => out.push(Cut::Length(*length)),
        PreTokenizerPart::Unknown => return Err(unknown("a pre-tokenizer")),
    }
    Ok(())
}

fn cut(pattern: &str, matches: Matches, invert: bool) -> Result<Cut, TokenizerError> {
    Ok(Cut::Pattern {
        pattern: Pattern::new(pattern)?,
        matches,
        invert,
    })
}

/// Two patterns in use look at the rest of a number again for each digit; they have a cut of their own.
fn split(pattern: &PatternPart, behavior: Behavior, invert: bool) -> Result<Cut, TokenizerError> {
    let matches = behavior.matches();
    match pattern {
        PatternPart::String(text) => Ok(Cut::Pattern {
            pattern: Pattern::literal(text)?,
            matches,
            invert,
        }),
        PatternPart::Regex(regex) => match (regex.as_str(), matches, invert) {
            (r"\d{1,3}(?=(?:\d{3})*\b)", Matches::Isolated, false) => Ok(Cut::Thousands(Thousands::Isolated)),
            (r"(?=(\d{3})+(?!\d))", Matches::Isolated, false) => Ok(Cut::Thousands(Thousands::Before)),
            (regex, matches, invert) => cut(regex, matches, invert),
        },
    }
}

impl Behavior {
    fn matches(self) -> Matches {
        match self {
            Self::Removed => Matches::Removed,
            Self::Isolated => Matches::Isolated,
            Self::MergedWithPrevious => Matches::WithPrevious,
            Self::MergedWithNext => Matches::WithNext,
            Self::Contiguous => Matches::Contiguous,
        }
    }
}

/// Adds the tokens that a post-processor puts before and after a text.
fn frame(part: &PostPart, prefix: &mut Vec<u32>, suffix: &mut Vec<u32>) {
    match part {
        PostPart::Sequence { processors } => processors.iter().for_each(|part| frame(part, prefix, suffix)),
        PostPart::TemplateProcessing {
            single,
            special_tokens,
        } => {
            let mut before = true;
            for part in single {
                match part {
                    TemplatePart::Sequence {} => before = false,
                    TemplatePart::SpecialToken { id } => {
                        let ids = special_tokens.get(id).into_iter().flat_map(|token| &token.ids);
                        if before {
                            prefix.extend(ids)
                        } else {
                            suffix.extend(ids)
                        }
                    }
                }
            }
        }
        PostPart::BertProcessing { sep, cls } | PostPart::RobertaProcessing { sep, cls } => {
            prefix.push(cls.1);
            suffix.push(sep.1);
        }
        PostPart::Other => {}
    }
}

/// Refuses a file that holds more than `most` of something.
fn at_most(most: usize, there: usize, what: &str) -> Result<(), TokenizerError> {
    match there > most {
        true => Err(TokenizerError::TooMuch {
            what: format!("{there} {what}"),
            most,
        }),
        false => Ok(()),
    }
}

fn unknown(what: &str) -> TokenizerError {
    TokenizerError::UnknownPart(format!("{what} of another kind"))
}

/// Base64 with padding, as tables are written in the file.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut bits = 0u32;
        for &c in group {
            bits = bits << 6 | u32::from(digit(c)?);
        }
        bits <<= 6 * (4 - group.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(out)
}

fn yes() -> bool {
    true
}

fn visible_space() -> char {
    super::normalizer::SPACE
}
