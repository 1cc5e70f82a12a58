//! `/openapi.json`, made from the code.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::ResponseBuilder;
use utoipa::{Modify, OpenApi};

use crate::{anthropic, heph, mcp, ollama, openai, routes};

#[derive(OpenApi)]
#[openapi(
    modifiers(&Refusals),
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
        routes::tokenize,
        routes::detokenize,
        mcp::server::over_http,
        heph::health,
        heph::metrics,
        heph::status,
        heph::receipt,
        heph::signed_receipt,
        heph::streams::stream,
        heph::streams::end,
        heph::places::plan,
        heph::places::nodes,
        heph::servers::list,
        heph::egress::egress,
        heph::policy::look,
        heph::policy::change,
        heph::workshop::hardware,
        heph::workshop::offers,
        heph::workshop::formats,
        heph::workshop::quantize,
        heph::workshop::certify,
        heph::pairing::ask,
        heph::pairing::look,
        heph::pairing::list,
        heph::pairing::approve,
        heph::pairing::refuse,
        heph::pairing::revoke,
        heph::meeting::invite,
        heph::meeting::join,
        heph::knowledge::list,
        heph::knowledge::add,
        heph::knowledge::remove,
        heph::knowledge::mark,
        heph::knowledge::search,
        heph::knowledge::span,
        heph::knowledge::folders,
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

/// Adds to every operation the refusals that it shares with all others; what it says of its own stays.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let takes_name = path.contains('{');
            let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                let has_body = operation.request_body.is_some();
                let has_parameters = operation.parameters.as_ref().is_some_and(|list| !list.is_empty());
                let shared = [
                    ("400", has_body || has_parameters, "The request has no meaning"),
                    ("401", true, "The token is missing or wrong"),
                    (
                        "403",
                        true,
                        "The host's name, or the page's origin, is not known here",
                    ),
                    ("404", has_body || takes_name, "There is no such model or thing"),
                    ("408", has_body, "The body came too slowly"),
                    ("413", has_body, "The body is too long"),
                    (
                        "429",
                        true,
                        "The caller came too often, and is told when to come again",
                    ),
                    ("503", has_body, "Too many answers or bodies are under way"),
                ];
                for (status, _, about) in shared.into_iter().filter(|(_, may, _)| *may) {
                    let told = || ResponseBuilder::new().description(about).build().into();
                    operation
                        .responses
                        .responses
                        .entry(status.to_owned())
                        .or_insert_with(told);
                }
            }
        }
    }
}

static TEXT: LazyLock<String> = LazyLock::new(|| {
    let text = Document::openapi().to_json().unwrap_or_default();
    // The format of an unsigned number as OpenAPI's registry of formats has it; the library hyphenates it.
    text.replace("\"u-int", "\"uint")
});

/// The document.
pub(crate) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_door_stands_in_the_document() {
        let (_, routed) = include_str!("routes.rs").split_once("fn router").unwrap();
        let (routed, _) = routed.split_once(".fallback").unwrap();
        let paths = routed
            .split('"')
            .skip(1)
            .step_by(2)
            .filter(|text| text.starts_with('/'));
        let paths: Vec<String> = paths
            // What names itself is no thing of the door's API, and a name with slashes is a name.
            .filter(|path| *path != "/openapi.json")
            .map(|path| path.replace("{*", "{"))
            .collect();
        let document = Document::openapi();
        let told: Vec<&String> = document.paths.paths.keys().collect();
        assert!(paths.len() > 50, "{paths:?}");
        for path in &paths {
            assert!(told.contains(&path), "{path} is answered and not told");
        }
        for path in told {
            assert!(paths.contains(path), "{path} is told and not answered");
        }
    }
}
