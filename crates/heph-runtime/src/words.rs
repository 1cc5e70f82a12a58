//! The text side of a model: its tokenizer, its chat template and its special tokens, from whichever files hold them.

mod conversation;

use heph_engine::chat::{ChatError, ChatTemplate};
use heph_engine::constrain::{ConstraintError, Shaper, TokenText};
use heph_engine::gguf::{GgufError, Metadata};
use heph_engine::hf::FolderTexts;
use heph_engine::source::Vocabulary;
use heph_engine::tokenizer::{Tokenizer, TokenizerError, VocabularyMetadata};
use heph_types::TokenId;
use serde_json::Value;

/// What a model needs to read and write text.
#[derive(Debug)]
pub struct Words {
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// How a conversation is written; not every model has one.
    pub template: Option<ChatTemplate>,
}

/// Why a model's text side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WordsError {
    /// The folder has no tokenizer.
    #[error("the model's folder has no tokenizer.json")]
    NoTokenizer,
    /// The vocabulary cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The file's metadata is broken.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The template is not valid.
    #[error(transparent)]
    Template(#[from] ChatError),
}

impl Words {
    /// The text side of the model whose vocabulary this is.
    ///
    /// # Errors
    /// When there is no tokenizer, or it or the template cannot be used.
    pub fn of(vocabulary: &Vocabulary<'_>) -> Result<Self, WordsError> {
        match vocabulary {
            Vocabulary::Gguf(metadata) => Self::of_gguf(metadata),
            Vocabulary::Folder(texts) => Self::of_folder(texts),
        }
    }

    fn of_gguf(metadata: &Metadata<'_>) -> Result<Self, WordsError> {
        let tokenizer = Tokenizer::from_metadata(&VocabularyMetadata::from_gguf(metadata)?)?;
        let template = metadata
            .text("tokenizer.chat_template")?
            .map(ChatTemplate::new)
            .transpose()?;
        Ok(Self { tokenizer, template })
    }

    fn of_folder(texts: &FolderTexts) -> Result<Self, WordsError> {
        let tokenizer = Tokenizer::from_json(texts.tokenizer.as_deref().ok_or(WordsError::NoTokenizer)?)?;
        let settings = json(texts.tokenizer_config.as_deref());
        let special = special(texts, &settings, &tokenizer);
        let tokenizer = tokenizer.with_special(special.bos, special.eos, &special.ends);
        let own = texts
            .chat_template
            .as_ref()
            .map(|t| String::from_utf8_lossy(t).into_owned());
        let template = own
            .or_else(|| template(&settings))
            .map(|t| ChatTemplate::new(&t))
            .transpose()?;
        Ok(Self { tokenizer, template })
    }

    /// What answers of a shape are made with; nothing for a vocabulary without an end.
    ///
    /// # Errors
    /// When the vocabulary cannot be indexed.
    pub fn shaper(&self) -> Result<Option<Shaper>, ConstraintError> {
        let tokenizer = &self.tokenizer;
        let Some(&end) = tokenizer.eog_ids().first() else {
            return Ok(None);
        };
        let tokens = (0..tokenizer.vocab_size() as u32).map(TokenId).map(|token| {
            let is_control = tokenizer.is_control(token);
            let bytes = match is_control {
                true => tokenizer.token_text(token).unwrap_or_default().as_bytes(),
                false => tokenizer.token_bytes(token),
            };
            TokenText { bytes, is_control }
        });
        Shaper::new(tokens, end).map(Some)
    }

    /// How the vocabulary spells `token`; nothing for a model without such a token.
    pub fn spelling(&self, token: Option<TokenId>) -> &str {
        token
            .and_then(|t| self.tokenizer.token_text(t))
            .unwrap_or_default()
    }
}

/// A small JSON file, or nothing where it is absent or broken: what it names has other sources too.
fn json(file: Option<&[u8]>) -> Value {
    file.and_then(|text| serde_json::from_slice(text).ok())
        .unwrap_or_default()
}

/// The template of `tokenizer_config.json`: one, or the one called `default` of several.
fn template(settings: &Value) -> Option<String> {
    let named = |list: &Vec<Value>| {
        let default = list.iter().find(|t| t["name"] == "default")?;
        default["template"].as_str().map(str::to_owned)
    };
    match &settings["chat_template"] {
        Value::String(one) => Some(one.clone()),
        Value::Array(several) => named(several),
        _ => None,
    }
}

/// Special tokens by id.
struct Special {
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
}

/// What the folder's files name: spellings in `tokenizer_config.json` or `special_tokens_map.json`, ids in
/// `generation_config.json` or `config.json`. The first one that names a token counts.
fn special(texts: &FolderTexts, settings: &Value, tokenizer: &Tokenizer) -> Special {
    let map = json(texts.special_tokens_map.as_deref());
    let generation = json(texts.generation_config.as_deref());
    let config = json(Some(&texts.config));
    let spelled = |name: &str| {
        let text = |v: &Value| v.as_str().or_else(|| v["content"].as_str()).map(str::to_owned);
        let text = text(&settings[name]).or_else(|| text(&map[name]))?;
        tokenizer.token_of_text(&text).map(|t| t.0)
    };
    let ids = |v: &Value| -> Vec<u32> {
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        v.as_array().map_or_else(
            || id(v).into_iter().collect(),
            |list| list.iter().filter_map(id).collect(),
        )
    };
    let ends = [&generation, &config]
        .into_iter()
        .flat_map(|file| ids(&file["eos_token_id"]));
    let bos = || ids(&config["bos_token_id"]).first().copied();
    let ends: Vec<u32> = ends.collect();
    Special {
        bos: spelled("bos_token").or_else(bos),
        eos: spelled("eos_token").or(ends.first().copied()),
        ends,
    }
}
