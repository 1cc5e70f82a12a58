//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use data_encoding::BASE64;
use heph_types::TokenId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::read;
use crate::ask::not_there;
use crate::engines::Reader;
use crate::error::Refusal;
use crate::house::Door;

/// Texts of one request.
const TEXTS_MAX: usize = 2048;

/// A request for vectors.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct EmbeddingRequest {
    /// An encoder of `/v1/models`. A model that writes is answered by the bundled encoder, and the answer says so.
    #[serde(default)]
    model: Option<String>,
    /// A text, texts, tokens, or lists of tokens.
    input: Input,
    /// `float` or `base64`.
    encoding_format: Option<String>,
    /// The first so many numbers, brought to length 1 again.
    dimensions: Option<i64>,
}

/// What is read.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Input {
    /// A text.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
    /// Texts.
    Texts(Vec<String>),
    /// Lists of tokens.
    TokenLists(Vec<Vec<u32>>),
}

/// A vector for each text.
pub(crate) struct Vectors {
    pub(crate) model: String,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) tokens: usize,
}

/// What is too long for the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooLong {
    Refuse,
    Cut,
}

/// Reads texts with the encoder called `name`.
pub(crate) async fn encode(
    door: &Door,
    name: &str,
    input: Input,
    too_long: TooLong,
) -> Result<Vectors, Refusal> {
    let name = name.strip_suffix(":latest").unwrap_or(name);
    let reader = door.engines.reader(name).await.map_err(not_there)?;
    let work = move || vectors(&reader, input, too_long);
    tokio::task::spawn_blocking(work).await.map_err(Refusal::ours)?
}

fn vectors(reader: &Arc<Reader>, input: Input, too_long: TooLong) -> Result<Vectors, Refusal> {
    let count = match &input {
        Input::Text(_) => 1,
        Input::Tokens(ids) => usize::from(!ids.is_empty()),
        Input::Texts(texts) => texts.len(),
        Input::TokenLists(lists) => lists.len(),
    };
    if count == 0 || count > TEXTS_MAX {
        return Err(Refusal::param(
            "input",
            format!("there must be 1 to {TEXTS_MAX} texts"),
        ));
    }
    let mut lists: Vec<Vec<TokenId>> = match input {
        Input::Text(text) => vec![tokens(reader, &text)],
        Input::Texts(texts) => texts.iter().map(|text| tokens(reader, text)).collect(),
        Input::Tokens(ids) => vec![ids.into_iter().map(TokenId).collect()],
        Input::TokenLists(lists) => lists
            .into_iter()
            .map(|ids| ids.into_iter().map(TokenId).collect())
            .collect(),
    };
    let (vocab, context) = (reader.words.tokenizer.vocab_size(), reader.context);
    for (at, list) in lists.iter_mut().enumerate() {
        if list.is_empty() {
            return Err(Refusal::param("input", format!("text {at} is empty")));
        }
        if list.iter().any(|token| token.index() >= vocab) {
            return Err(Refusal::param(
                "input",
                format!("text {at} has a token that the model does not know"),
            ));
        }
        if list.len() > context && too_long == TooLong::Cut {
            list.truncate(context);
        }
        if list.len() > context {
            let sentence = format!(
                "text {at} has {} tokens and the model reads {context} at once",
                list.len()
            );
            return Err(Refusal::param("input", sentence).code("context_length_exceeded"));
        }
    }
    let slices: Vec<&[TokenId]> = lists.iter().map(Vec::as_slice).collect();
    let vectors = reader.encode(&slices).map_err(Refusal::ours)?;
    Ok(Vectors {
        model: reader.name.clone(),
        vectors,
        tokens: lists.iter().map(Vec::len).sum(),
    })
}

/// An empty text is read as the tokens that stand around it.
fn tokens(reader: &Reader, text: &str) -> Vec<TokenId> {
    reader
        .words
        .tokenizer
        .encode_within(text, usize::MAX)
        .unwrap_or_default()
}

/// Turns texts into vectors.
#[utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingRequest, tag = "OpenAI",
    responses((status = 200, description = "A vector for each text")))]
pub(crate) async fn embeddings(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let request: EmbeddingRequest = read(&body)?;
    let base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(Refusal::param(
                "encoding_format",
                format!("{other:?} is neither float nor base64"),
            ));
        }
    };
    let wanted = match request.dimensions {
        None => None,
        Some(n) => Some(
            usize::try_from(n)
                .ok()
                .filter(|&n| n > 0)
                .ok_or_else(|| Refusal::param("dimensions", "dimensions must be at least 1"))?,
        ),
    };
    let read = encode(
        &door,
        request
            .model
            .as_deref()
            .unwrap_or(heph_runtime::bundled::EMBED.name),
        request.input,
        TooLong::Refuse,
    )
    .await?;
    let width = read.vectors.first().map_or(0, Vec::len);
    if let Some(wanted) = wanted.filter(|&wanted| wanted > width) {
        return Err(Refusal::param(
            "dimensions",
            format!("the model's vectors have {width} numbers, not {wanted}"),
        ));
    }
    let data = read.vectors.into_iter().enumerate().map(|(at, vector)| {
        let vector = wanted.map_or_else(|| vector.clone(), |wanted| shortened(&vector, wanted));
        let embedding = if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
            json!(BASE64.encode(&bytes))
        } else {
            json!(vector)
        };
        json!({ "object": "embedding", "index": at, "embedding": embedding })
    });
    Ok(Json(json!({
        "object": "list",
        "data": data.collect::<Vec<_>>(),
        "model": read.model,
        "usage": { "prompt_tokens": read.tokens, "total_tokens": read.tokens },
    })))
}

fn shortened(vector: &[f32], wanted: usize) -> Vec<f32> {
    let kept = &vector[..wanted];
    let norm = kept
        .iter()
        .map(|v| f64::from(*v) * f64::from(*v))
        .sum::<f64>()
        .sqrt();
    match norm > 0.0 {
        true => kept.iter().map(|v| (f64::from(*v) / norm) as f32).collect(),
        false => kept.to_vec(),
    }
}
