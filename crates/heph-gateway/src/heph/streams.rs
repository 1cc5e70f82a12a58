//! Going on with a reply after a lost connection.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::error::Refusal;
use crate::house::Door;
use crate::kept;
use crate::shape;

fn last_event(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .filter(|id| !id.trim().is_empty())
}

/// The rest of the reply that the header `Last-Event-ID` names; nothing where there is no such header.
pub(crate) fn resume(door: &Door, headers: &HeaderMap) -> Result<Option<Response>, Refusal> {
    let Some(id) = last_event(headers) else {
        return Ok(None);
    };
    let (stream, number) =
        kept::parse(id).ok_or_else(|| Refusal::bad("Last-Event-ID is not of the form STREAM:NUMBER"))?;
    let stream = door.kept.find(stream).ok_or_else(gone)?;
    shape::resumed(stream, number).ok_or_else(gone).map(Some)
}

fn gone() -> Refusal {
    Refusal::missing("that reply is not kept any more").code("stream_gone")
}

/// The rest of a kept reply.
#[utoipa::path(get, path = "/heph/v1/streams/{id}", tag = "HEPH",
    params(("id" = String, Path, description = "The part of an event's id before the colon"),
           ("last-event-id" = Option<String>, Header, description = "The last event that came")),
    responses((status = 200, description = "The events after it"), (status = 404, description = "It is not kept")))]
pub(crate) async fn stream(
    State(door): State<Door>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let after = match last_event(&headers).map(kept::parse) {
        None => 0,
        Some(Some((stream, number))) if stream == id => number,
        Some(_) => return Err(Refusal::bad("Last-Event-ID is of another stream")),
    };
    let kept = door.kept.find(&id).ok_or_else(gone)?;
    shape::resumed(kept, after).ok_or_else(gone)
}

/// Ends a kept answer, which would go on for a while without its reader.
#[utoipa::path(delete, path = "/heph/v1/streams/{id}", tag = "HEPH",
    params(("id" = String, Path, description = "The part of an event's id before the colon")),
    responses((status = 204, description = "It ends"), (status = 404, description = "It is not kept")))]
pub(crate) async fn end(State(door): State<Door>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    door.kept.find(&id).ok_or_else(gone)?.cut();
    Ok(StatusCode::NO_CONTENT)
}
