//! The page's conversations, kept on this machine.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::history::{Chat, HistoryError, Page};
use crate::house::Door;
use crate::openai::read;

impl From<HistoryError> for Refusal {
    fn from(error: HistoryError) -> Self {
        let sentence = error.to_string();
        match error {
            HistoryError::Id | HistoryError::TooLong | HistoryError::Body => Self::bad(sentence),
            HistoryError::Sqlite(_) | HistoryError::Folder(_) | HistoryError::Forgotten => {
                Self::ours(sentence)
            }
        }
    }
}

/// Runs `work` where it may wait for the disk.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, Refusal> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(Refusal::ours)??)
}

/// Which chats.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Words that stand in them.
    query: Option<String>,
    /// How many, 50 unless said otherwise.
    limit: Option<usize>,
    /// The `next` of the page before.
    before: Option<String>,
}

/// Chats, newest first.
#[utoipa::path(get, path = "/heph/v1/chats", tag = "Chats", params(Which), responses((status = 200, description = "Chats")))]
pub(crate) async fn list(
    State(door): State<Door>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Refusal> {
    let Page { chats, next } = on_disk(move || {
        door.history.list(
            which.query.as_deref(),
            which.limit.unwrap_or(50),
            which.before.as_deref(),
        )
    })
    .await?;
    Ok(Json(json!({ "chats": chats, "next": next })))
}

/// One chat.
#[utoipa::path(get, path = "/heph/v1/chats/{id}", tag = "Chats", params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The chat"), (status = 404, description = "There is none")))]
pub(crate) async fn one(State(door): State<Door>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let chat = find(&door, id).await?;
    Ok(Json(json!(chat)))
}

async fn find(door: &Door, id: String) -> Result<Chat, Refusal> {
    let door = door.clone();
    let found = on_disk(move || door.history.find(&id)).await?;
    found.ok_or_else(|| Refusal::missing("there is no chat of that id"))
}

/// What is kept.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct Put {
    title: String,
    /// The page's own object.
    #[schema(value_type = Object)]
    body: Value,
}

/// Keeps a chat, or what became of it.
#[utoipa::path(put, path = "/heph/v1/chats/{id}", request_body = Put, tag = "Chats",
    params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "It is kept")))]
pub(crate) async fn put(
    State(door): State<Door>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let Put { title, body } = read(&body)?;
    let kept = on_disk(move || door.history.put(&id, &title, &body, crate::house::now_ms())).await?;
    Ok(Json(json!(kept)))
}

/// Removes a chat.
#[utoipa::path(delete, path = "/heph/v1/chats/{id}", tag = "Chats", params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is gone"), (status = 404, description = "There was none")))]
pub(crate) async fn remove(State(door): State<Door>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    match on_disk(move || door.history.remove(&id)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refusal::missing("there is no chat of that id")),
    }
}

/// In which form.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct As {
    /// `markdown` or `json`.
    format: Option<String>,
}

/// A chat as a file.
#[utoipa::path(get, path = "/heph/v1/chats/{id}/export", tag = "Chats", params(As, ("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The file")))]
pub(crate) async fn export(
    State(door): State<Door>,
    Path(id): Path<String>,
    Query(form): Query<As>,
) -> Result<Response, Refusal> {
    let (kind, end) = match form.format.as_deref() {
        None | Some("markdown") => ("text/markdown; charset=utf-8", "md"),
        Some("json") => ("application/json", "json"),
        Some(other) => {
            return Err(Refusal::param(
                "format",
                format!("{other:?} is neither markdown nor json"),
            ));
        }
    };
    let chat = find(&door, id).await?;
    let name = format!("attachment; filename=\"chat-{}.{end}\"", chat.id);
    let text = if end == "md" {
        markdown(&chat)
    } else {
        crate::shape::text(&chat)
    };
    Ok((
        [
            (header::CONTENT_TYPE, kind.to_owned()),
            (header::CONTENT_DISPOSITION, name),
        ],
        text,
    )
        .into_response())
}

fn markdown(chat: &Chat) -> String {
    let messages = chat.body["messages"].as_array();
    let turn = |message: &Value| {
        let (role, content) = (message["role"].as_str()?, message["content"].as_str()?);
        Some(format!("**{role}**\n\n{content}\n"))
    };
    let turns: Vec<String> = messages.into_iter().flatten().filter_map(turn).collect();
    format!("# {}\n\n{}", chat.title, turns.join("\n"))
}

/// All chats as one document.
#[utoipa::path(get, path = "/heph/v1/export", tag = "Chats", responses((status = 200, description = "The document")))]
pub(crate) async fn export_all(State(door): State<Door>) -> Result<Response, Refusal> {
    let text = on_disk(move || {
        let chats = door.history.all()?;
        Ok(crate::shape::text(&json!({ "heph_chats": 1, "chats": chats })))
    })
    .await?;
    let heads = [
        (header::CONTENT_TYPE, "application/json"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"heph-chats.json\"",
        ),
    ];
    Ok((heads, text).into_response())
}

/// What an export holds.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct Exported {
    heph_chats: u32,
    #[schema(value_type = Vec<Object>)]
    chats: Vec<Chat>,
}

/// Takes chats back. One that is here already is replaced.
#[utoipa::path(post, path = "/heph/v1/import", request_body = Exported, tag = "Chats",
    responses((status = 200, description = "How many there were")))]
pub(crate) async fn import(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    // So much takes a while to be read.
    let work = move || {
        let Exported { heph_chats, chats } = read(&body)?;
        drop(body);
        if heph_chats != 1 {
            return Err(Refusal::bad("this export is of a later version"));
        }
        door.history.import(&chats)?;
        Ok(chats.len())
    };
    let count = tokio::task::spawn_blocking(work).await.map_err(Refusal::ours)??;
    Ok(Json(json!({ "imported": count })))
}
