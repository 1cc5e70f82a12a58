//! `/openapi.json`, made from the code.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::OpenApi;

use crate::{anthropic, heph, ollama, openai};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "HEPH",
        description = "Language models on your own machine: OpenAI's, Ollama's and Anthropic's shapes, and HEPH's own."
    ),
    paths(
        openai::models::list,
        openai::models::one,
        openai::chat::completions,
        openai::completions::completions,
        openai::embeddings::embeddings,
        openai::responses::create,
        ollama::chat,
        ollama::generate,
        ollama::embed,
        ollama::embeddings,
        ollama::tags,
        ollama::ps,
        ollama::show,
        ollama::pull,
        ollama::version,
        anthropic::messages,
        anthropic::count_tokens,
        heph::health,
        heph::metrics,
        heph::status,
        heph::receipt,
        heph::streams::stream,
        heph::streams::end,
        heph::places::plan,
        heph::places::nodes,
        heph::models::list,
        heph::models::one,
        heph::models::pull,
        heph::models::remove,
        heph::chats::list,
        heph::chats::one,
        heph::chats::put,
        heph::chats::remove,
        heph::chats::export,
        heph::chats::export_all,
        heph::chats::import,
    )
)]
struct Document;

static TEXT: LazyLock<String> = LazyLock::new(|| Document::openapi().to_json().unwrap_or_default());

/// The document.
pub(crate) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}
