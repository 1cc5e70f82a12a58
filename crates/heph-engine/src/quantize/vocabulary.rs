//! A folder's tokenizer as GGUF metadata.
//!
//! Two kinds have a place there: byte-level BPE (`gpt2`), merges in their order, and BPE over visible spaces
//! with byte fallback (`llama`), where a token's score is the rank of the merge that makes it.

use crate::gguf::Header;
use crate::hf::FolderTexts;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

/// Why a vocabulary cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// The folder has no `tokenizer.json`.
    #[error("the folder has no tokenizer.json, so the file would have no vocabulary")]
    Missing,
    /// A JSON file that is none.
    #[error("{file} cannot be read: {why}")]
    Json {
        /// Name of the file.
        file: &'static str,
        /// What the JSON reader said.
        why: String,
    },
    /// A tokenizer that has no place in GGUF.
    #[error("a tokenizer with {what} cannot be written to GGUF")]
    Unsupported {
        /// What it has.
        what: String,
    },
}

/// The kinds of tokens, numbered as in the file.
#[derive(Clone, Copy)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: usize,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

/// Merges are pairs since tokenizers 0.20, and one string before.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

impl Merge {
    fn text(&self) -> String {
        match self {
            Merge::Pair(left, right) => format!("{left} {right}"),
            Merge::Text(text) => text.clone(),
        }
    }

    /// The token that the merge makes.
    fn token(&self) -> String {
        match self {
            Merge::Pair(left, right) => format!("{left}{right}"),
            // Visible spaces are not blanks, so the one blank divides the halves.
            Merge::Text(text) => text.replacen(' ', "", 1),
        }
    }
}

/// Writes the vocabulary, filled up to `size` tokens.
pub(super) fn put(texts: &FolderTexts, size: usize, header: &mut Header) -> Result<(), VocabularyError> {
    let file: File = json(
        "tokenizer.json",
        texts.tokenizer.as_deref().ok_or(VocabularyError::Missing)?,
    )?;
    if file.model.kind.as_deref() == Some("WordPiece") {
        return wordpiece(&file, size, header);
    }
    if file.model.kind.as_deref().unwrap_or("BPE") != "BPE" {
        return unsupported(format!("a {} model", file.model.kind.unwrap_or_default()));
    }
    let (tokens, kinds) = tokens(&file, size)?;
    let byte_level = mentions(file.pre_tokenizer.as_ref(), "ByteLevel");
    if byte_level {
        header.text("tokenizer.ggml.model", "gpt2");
        header.text("tokenizer.ggml.pre", pre(file.pre_tokenizer.as_ref())?);
        let merges: Vec<String> = file.model.merges.iter().map(Merge::text).collect();
        header.texts("tokenizer.ggml.merges", &merges);
    } else {
        header.text("tokenizer.ggml.model", "llama");
        header.text("tokenizer.ggml.pre", "default");
        header.f32s("tokenizer.ggml.scores", &scores(&file.model.merges, &tokens));
        header.flag("tokenizer.ggml.add_space_prefix", prepends_space(&file));
    }
    header.texts("tokenizer.ggml.tokens", &tokens);
    header.i32s("tokenizer.ggml.token_type", &kinds);
    special(texts, &file, &tokens, header)
}

/// BERT's vocabulary: in the folder what goes on a word is marked, in the file what begins one.
fn wordpiece(file: &File, size: usize, header: &mut Header) -> Result<(), VocabularyError> {
    let (tokens, mut kinds) = tokens(file, size)?;
    let around = |text: &str| text.starts_with('[') && text.ends_with(']');
    let spelled: Vec<String> = tokens
        .iter()
        .zip(&mut kinds)
        .map(|(token, kind)| match token.strip_prefix("##") {
            Some(rest) => rest.to_owned(),
            None if around(token) => {
                *kind = if *kind == Kind::Normal as i32 {
                    Kind::Unused as i32
                } else {
                    *kind
                };
                token.clone()
            }
            None => format!("\u{2581}{token}"),
        })
        .collect();
    header.text("tokenizer.ggml.model", "bert");
    header.text("tokenizer.ggml.pre", "default");
    let lowercase = file.normalizer.as_ref().and_then(|n| n.get("lowercase"));
    let lowercase = lowercase.and_then(Value::as_bool).unwrap_or(true);
    header.flag("tokenizer.ggml.normalizer.lowercase", lowercase);
    for (key, name) in [
        ("bos_token_id", "[CLS]"),
        ("cls_token_id", "[CLS]"),
        ("seperator_token_id", "[SEP]"),
        ("padding_token_id", "[PAD]"),
        ("unknown_token_id", "[UNK]"),
        ("mask_token_id", "[MASK]"),
    ] {
        if let Some(id) = tokens.iter().position(|token| token == name) {
            header.u32(
                &format!("tokenizer.ggml.{key}"),
                u32::try_from(id).unwrap_or(u32::MAX),
            );
        }
    }
    header.texts("tokenizer.ggml.tokens", &spelled);
    header.i32s("tokenizer.ggml.token_type", &kinds);
    Ok(())
}

fn json<'a, T: Deserialize<'a>>(file: &'static str, bytes: &'a [u8]) -> Result<T, VocabularyError> {
    serde_json::from_slice(bytes).map_err(|error| VocabularyError::Json {
        file,
        why: error.to_string(),
    })
}

fn unsupported<T>(what: String) -> Result<T, VocabularyError> {
    Err(VocabularyError::Unsupported { what })
}

/// Text and kind of every token, by id.
fn tokens(file: &File, size: usize) -> Result<(Vec<String>, Vec<i32>), VocabularyError> {
    let Some(vocab) = file.model.vocab.as_object() else {
        return unsupported("no table of tokens".to_owned());
    };
    let mut tokens: Vec<Option<(String, Kind)>> = vec![None; size];
    let mut set = |id: Option<usize>, text: &str, kind: Kind| {
        let slot = id.and_then(|id| tokens.get_mut(id));
        let what = || format!("the id of token {text:?} beyond the model's {size}");
        let slot = slot.ok_or_else(|| VocabularyError::Unsupported { what: what() })?;
        *slot = Some((text.to_owned(), kind));
        Ok(())
    };
    for (text, id) in vocab {
        let byte = file.model.byte_fallback && is_byte(text);
        let kind = if byte { Kind::Byte } else { Kind::Normal };
        set(id.as_u64().and_then(|id| usize::try_from(id).ok()), text, kind)?;
    }
    for added in &file.added_tokens {
        let unknown = file.model.unk_token.as_deref() == Some(&added.content) && file.model.byte_fallback;
        let kind = match added.special {
            _ if unknown => Kind::Unknown,
            true => Kind::Control,
            false => Kind::UserDefined,
        };
        set(Some(added.id), &added.content, kind)?;
    }
    let filled = |(id, token): (usize, Option<(String, Kind)>)| {
        token.unwrap_or_else(|| (format!("[PAD{id}]"), Kind::Unused))
    };
    Ok(tokens
        .into_iter()
        .enumerate()
        .map(filled)
        .map(|(text, kind)| (text, kind as i32))
        .unzip())
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The earliest merge that makes a token, counted down from zero; what no merge makes is never merged to.
fn scores(merges: &[Merge], tokens: &[String]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(merge.token()).or_insert(rank);
    }
    let last = merges.len();
    tokens
        .iter()
        .map(|token| -(ranks.get(token).copied().unwrap_or(last) as f32))
        .collect()
}

/// Whether a JSON value names this type anywhere.
fn mentions(value: Option<&Value>, kind: &str) -> bool {
    match value {
        Some(Value::Object(map)) => {
            map.get("type").and_then(Value::as_str) == Some(kind)
                || map.values().any(|v| mentions(Some(v), kind))
        }
        Some(Value::Array(items)) => items.iter().any(|item| mentions(Some(item), kind)),
        _ => false,
    }
}

/// Whether a text is read as if it began with a blank.
fn prepends_space(file: &File) -> bool {
    let scheme = |part: &Value| part.get("prepend_scheme").and_then(Value::as_str) != Some("never");
    mentions(file.normalizer.as_ref(), "Prepend")
        || file
            .pre_tokenizer
            .as_ref()
            .is_some_and(|part| mentions(Some(part), "Metaspace") && scheme(part))
}

/// The patterns of the vocabularies in use, by the name that GGUF files give them.
const PATTERNS: &[(&str, &str)] = &[
    (
        "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "gpt-4o",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "tekken",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// The GGUF name of a pre-tokenizer: by its pattern, or GPT-2's where the byte level cuts by itself.
fn pre(part: Option<&Value>) -> Result<&'static str, VocabularyError> {
    let mut found = Vec::new();
    patterns(part, &mut found);
    match found.as_slice() {
        [] => Ok("gpt-2"),
        [pattern] => {
            let known = PATTERNS.iter().find(|(_, known)| known == pattern);
            known.map_or_else(
                || unsupported(format!("the pattern {pattern:?}")),
                |(name, _)| Ok(*name),
            )
        }
        many => unsupported(format!("{} patterns", many.len())),
    }
}

/// Every regular expression in a pre-tokenizer.
fn patterns<'a>(value: Option<&'a Value>, found: &mut Vec<&'a str>) {
    match value {
        Some(Value::Object(map)) => {
            found.extend(map.get("Regex").and_then(Value::as_str));
            map.values().for_each(|value| patterns(Some(value), found));
        }
        Some(Value::Array(items)) => items.iter().for_each(|item| patterns(Some(item), found)),
        _ => {}
    }
}

/// Ids of the tokens that begin and end a text, and how a chat is written.
fn special(
    texts: &FolderTexts,
    file: &File,
    tokens: &[String],
    header: &mut Header,
) -> Result<(), VocabularyError> {
    let settings = optional("tokenizer_config.json", texts.tokenizer_config.as_deref())?;
    let config = optional("config.json", Some(&texts.config))?;
    let ids: HashMap<&str, u32> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.as_str(), id as u32))
        .collect();
    let named = |key: &str| {
        let token = settings.get(key)?;
        let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
        ids.get(text).copied()
    };
    let numbers = |key: &str| -> Vec<u32> {
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match config.get(key) {
            Some(Value::Array(items)) => items.iter().filter_map(one).collect(),
            Some(value) => one(value).into_iter().collect(),
            None => Vec::new(),
        }
    };
    let ends = numbers("eos_token_id");
    let begin = named("bos_token").or_else(|| numbers("bos_token_id").first().copied());
    let end = named("eos_token").or_else(|| ends.first().copied());
    let turn_end = ends.iter().copied().find(|&id| Some(id) != end);
    let found = [
        ("tokenizer.ggml.bos_token_id", begin),
        ("tokenizer.ggml.eos_token_id", end),
        ("tokenizer.ggml.eot_token_id", turn_end),
        ("tokenizer.ggml.unknown_token_id", named("unk_token")),
        ("tokenizer.ggml.padding_token_id", named("pad_token")),
    ];
    found
        .iter()
        .filter_map(|(key, id)| Some((key, (*id)?)))
        .for_each(|(key, id)| header.u32(key, id));
    header.flag(
        "tokenizer.ggml.add_bos_token",
        begin.is_some() && begins(file, begin, &settings),
    );
    if let Some(template) = template(texts, &settings) {
        header.text("tokenizer.chat_template", &template);
    }
    Ok(())
}

fn optional(file: &'static str, bytes: Option<&[u8]>) -> Result<Value, VocabularyError> {
    bytes.map_or(Ok(Value::Null), |bytes| json(file, bytes))
}

/// Whether texts begin with the token `begin`: as the tokenizer itself does it, else as its settings say.
fn begins(file: &File, begin: Option<u32>, settings: &Value) -> bool {
    let token = begin.and_then(|id| file.added_tokens.iter().find(|added| added.id == id as usize));
    let template = mentions(file.post_processor.as_ref(), "TemplateProcessing");
    if !template {
        return settings
            .get("add_bos_token")
            .and_then(Value::as_bool)
            .unwrap_or(false);
    }
    token.is_some_and(|token| starts_with(file.post_processor.as_ref(), &token.content))
}

/// Whether the template for one text starts with this token.
fn starts_with(part: Option<&Value>, token: &str) -> bool {
    match part {
        Some(Value::Object(map)) => {
            let first = map.get("single").and_then(|single| single.get(0));
            let id = first.and_then(|first| first.get("SpecialToken")?.get("id")?.as_str());
            id == Some(token)
                || map
                    .get("processors")
                    .is_some_and(|all| starts_with(Some(all), token))
        }
        Some(Value::Array(items)) => items.iter().any(|item| starts_with(Some(item), token)),
        _ => false,
    }
}

/// The chat template: a file of its own, or a setting, where several have names the one called `default`.
fn template(texts: &FolderTexts, settings: &Value) -> Option<String> {
    if let Some(file) = &texts.chat_template {
        return String::from_utf8(file.clone()).ok();
    }
    match settings.get("chat_template")? {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => {
            let default = named
                .iter()
                .find(|one| one.get("name").and_then(Value::as_str) == Some("default"));
            Some(default?.get("template")?.as_str()?.to_owned())
        }
        _ => None,
    }
}
