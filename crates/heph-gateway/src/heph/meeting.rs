//! Meeting other machines: an invitation of this one, and the ticket of another.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::house::Door;
use crate::machines::Machines;
use crate::openai::read;

/// Characters of a ticket, with the spaces and line breaks that people hand it on with.
const TICKET_MAX: usize = 4096;

/// Asks those who know the machines, where it may take a while.
async fn asked<T: Send + 'static>(
    door: Door,
    what: impl FnOnce(&dyn Machines) -> Result<T, String> + Send + 'static,
) -> Result<T, Refusal> {
    let conflict = |sentence: String| Refusal::new(StatusCode::CONFLICT, sentence).code("not_met");
    let work = move || match &door.machines {
        Some(machines) => what(&**machines),
        None => Err("this program knows no other machines".to_owned()),
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Refusal::ours)?
        .map_err(conflict)
}

/// Invites another machine: a ticket as text and as a picture, which works once. An earlier one works no longer.
#[utoipa::path(post, path = "/heph/v1/machines/invite", tag = "Machines",
    responses((status = 201, description = "The ticket"), (status = 409, description = "Nobody can be invited")))]
pub(crate) async fn invite(State(door): State<Door>) -> Result<(StatusCode, Json<Value>), Refusal> {
    let made = asked(door, |machines| machines.invite()).await?;
    let picture = made
        .picture
        .map(|(side, path)| json!({ "side": side, "path": path }));
    let said = json!({ "ticket": made.ticket, "expires_ms": made.expires_ms, "picture": picture });
    Ok((StatusCode::CREATED, Json(said)))
}

/// The ticket of a machine.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct Ticket {
    /// As the other machine shows it; spaces and line breaks do no harm.
    ticket: String,
}

/// Meets the machine whose ticket this is.
#[utoipa::path(post, path = "/heph/v1/machines/join", request_body = Ticket, tag = "Machines",
    responses((status = 200, description = "It was met"), (status = 400, description = "The body has no meaning"),
              (status = 409, description = "It was not met: why")))]
pub(crate) async fn join(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let Ticket { ticket } = read(&body)?;
    if ticket.len() > TICKET_MAX {
        return Err(Refusal::param("ticket", "no ticket is that long"));
    }
    let met = asked(door, move |machines| machines.join(&ticket)).await?;
    Ok(Json(json!(met)))
}
