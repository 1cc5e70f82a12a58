//! Which path is answered by whom.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use axum::{Json, Router};
use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
use heph_types::TokenId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ask::writer;
use crate::error::{Refusal, shaped};
use crate::guard::guarded;
use crate::heph::{
    self, chats, egress, knowledge, meeting, models, pairing, places, policy, servers, streams, workshop,
};
use crate::house::Door;
use crate::openai::{self, read};
use crate::pace::{BODIES_MAX, Bodies, paced};
use crate::{anthropic, document, mcp, ollama, page};

/// Bytes of a body.
const BODY_MAX: usize = 8 << 20;

/// Bytes of the body of a page that asks to be let in: everybody may send one.
const PAIRING_MAX: usize = 16 << 10;

/// Bytes of a body that holds many chats.
const IMPORT_MAX: usize = 256 << 20;

/// The whole door.
pub(crate) fn router(door: Door) -> Router {
    let guard = Arc::clone(&door.guard);
    let foreign = Router::new()
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*id}", get(openai::models::one))
        .route("/v1/chat/completions", post(openai::chat::completions))
        .route("/v1/completions", post(openai::completions::completions))
        .route("/v1/embeddings", post(openai::embeddings::embeddings))
        .route("/v1/responses", post(openai::responses::create))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/embed", post(ollama::embed))
        .route("/api/embeddings", post(ollama::embeddings))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::ps))
        .route("/api/show", post(ollama::show))
        .route("/api/pull", post(ollama::pull))
        .route("/api/version", get(ollama::version))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize));
    let own = Router::new()
        .route(
            "/mcp",
            post(mcp::server::over_http).layer(DefaultBodyLimit::max(mcp::MESSAGE_BYTES_MAX)),
        )
        .route("/health", get(heph::health))
        .route("/metrics", get(heph::metrics))
        .route("/openapi.json", get(document::document))
        .route("/heph/v1/status", get(heph::status))
        .route("/heph/v1/receipts/{id}", get(heph::receipt))
        .route("/heph/v1/receipts/{id}/signed", get(heph::signed_receipt))
        .route("/heph/v1/streams/{id}", get(streams::stream).delete(streams::end))
        .route("/heph/v1/plan", post(places::plan))
        .route("/heph/v1/nodes", get(places::nodes))
        .route("/heph/v1/servers", get(servers::list))
        .route("/heph/v1/egress", get(egress::egress))
        .route("/heph/v1/policy", get(policy::look).put(policy::change))
        .route("/heph/v1/hardware", get(workshop::hardware))
        .route(
            "/heph/v1/pairing",
            post(pairing::ask).layer(DefaultBodyLimit::max(PAIRING_MAX)),
        )
        .route("/heph/v1/pairing/{id}", get(pairing::look))
        .route("/heph/v1/pairing/{id}/approve", post(pairing::approve))
        .route("/heph/v1/pairing/{id}/refuse", post(pairing::refuse))
        .route("/heph/v1/pairings", get(pairing::list))
        .route("/heph/v1/pairings/{id}", axum::routing::delete(pairing::revoke))
        .route("/heph/v1/machines/invite", post(meeting::invite))
        .route("/heph/v1/machines/join", post(meeting::join))
        .route("/heph/v1/knowledge", get(knowledge::list).post(knowledge::add))
        .route("/heph/v1/knowledge/search", post(knowledge::search))
        .route(
            "/heph/v1/knowledge/{id}",
            axum::routing::delete(knowledge::remove).put(knowledge::mark),
        )
        .route("/heph/v1/knowledge/{id}/span", get(knowledge::span))
        .route("/heph/v1/folders", get(knowledge::folders))
        .route("/heph/v1/models", get(models::list))
        .route("/heph/v1/models/pull", post(models::pull))
        .route("/heph/v1/models/look", post(workshop::offers))
        .route("/heph/v1/models/{name}/formats", get(workshop::formats))
        .route("/heph/v1/models/{name}/quantize", post(workshop::quantize))
        .route("/heph/v1/models/{name}/certify", post(workshop::certify))
        .route("/heph/v1/models/{name}", get(models::one).delete(models::remove))
        .route("/heph/v1/chats", get(chats::list))
        .route(
            "/heph/v1/chats/{id}",
            get(chats::one).put(chats::put).delete(chats::remove),
        )
        .route("/heph/v1/chats/{id}/export", get(chats::export))
        .route("/heph/v1/export", get(chats::export_all))
        .route(
            "/heph/v1/import",
            post(chats::import).layer(DefaultBodyLimit::max(IMPORT_MAX)),
        );
    foreign
        .merge(own)
        .fallback(page_or_nothing)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(Arc::new(Bodies::new(BODIES_MAX)), paced))
        .layer(from_fn_with_state(guard, guarded))
        .layer(from_fn(shaped))
        .with_state(door)
}

/// The page for those who only look; nothing for the rest.
async fn page_or_nothing(method: axum::http::Method, uri: axum::http::Uri) -> axum::response::Response {
    use axum::response::IntoResponse;
    match method {
        axum::http::Method::GET | axum::http::Method::HEAD => page::page(uri).await,
        _ => Refusal::missing(format!("there is nothing at {}", uri.path())).into_response(),
    }
}

/// A text, as llama-server takes it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub(crate) struct Tokenize {
    #[serde(default)]
    model: String,
    /// The text.
    content: String,
    /// Whether the tokens stand around it that the model wants there.
    #[serde(default)]
    add_special: bool,
    /// Whether control tokens that are written in it are read as such.
    #[serde(default)]
    parse_special: bool,
}

/// The tokens of a text.
#[utoipa::path(post, path = "/tokenize", request_body = Tokenize, tag = "llama-server",
    responses((status = 200, description = "The tokens")))]
pub(crate) async fn tokenize(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let Tokenize {
        model,
        content,
        add_special,
        parse_special,
    } = read(&body)?;
    let writer = writer(&door, &model).await?;
    let work = move || {
        let add = if add_special {
            AddSpecial::Yes
        } else {
            AddSpecial::No
        };
        let parse = if parse_special {
            ParseSpecial::Yes
        } else {
            ParseSpecial::No
        };
        let tokens = writer.service.words().tokenizer.encode(&content, add, parse);
        tokens.into_iter().map(|token| token.0).collect::<Vec<_>>()
    };
    let tokens = tokio::task::spawn_blocking(work).await.map_err(Refusal::ours)?;
    Ok(Json(json!({ "tokens": tokens })))
}

/// Tokens, as llama-server takes them.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub(crate) struct Detokenize {
    #[serde(default)]
    model: String,
    /// The tokens.
    tokens: Vec<u32>,
}

/// The text of tokens.
#[utoipa::path(post, path = "/detokenize", request_body = Detokenize, tag = "llama-server",
    responses((status = 200, description = "The text")))]
pub(crate) async fn detokenize(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let Detokenize { model, tokens } = read(&body)?;
    let writer = writer(&door, &model).await?;
    let work = move || {
        let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
        writer.service.words().tokenizer.decode(&tokens)
    };
    let content = tokio::task::spawn_blocking(work).await.map_err(Refusal::ours)?;
    Ok(Json(json!({ "content": content })))
}
