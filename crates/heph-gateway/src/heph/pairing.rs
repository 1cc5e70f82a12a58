//! Letting pages and extensions of other origins in: what they ask, and what the person says to it.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::guard::bearer;
use crate::house::{Door, now_ms};
use crate::openai::read;
use crate::pairing::{Claim, PairingError, Pairings, Scope};

/// Seconds between two looks of an origin that waits for the person.
const LOOK_EVERY_S: u64 = 2;

impl From<PairingError> for Refusal {
    fn from(error: PairingError) -> Self {
        let sentence = error.to_string();
        match error {
            PairingError::Name => Self::param("name", sentence),
            PairingError::NoScope => Self::param("scopes", sentence),
            PairingError::Origin(_) => Self::new(StatusCode::FORBIDDEN, sentence).code("origin"),
            PairingError::TooOften(seconds) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, sentence).retry_after(seconds)
            }
            PairingError::Full => Self::new(StatusCode::CONFLICT, sentence),
            PairingError::NoRequest(_) => Self::missing(sentence).code("no_request"),
            PairingError::Open(_)
            | PairingError::Damaged(_)
            | PairingError::Held(_)
            | PairingError::Io { .. }
            | PairingError::Random => Self::ours(sentence),
        }
    }
}

/// Does `work` on the book where it may wait for the disk.
async fn on_book<T: Send + 'static>(
    door: Door,
    work: impl FnOnce(&Pairings) -> Result<T, PairingError> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(move || work(&door.guard.pairings)).await;
    Ok(done.map_err(Refusal::ours)??)
}

fn origin(headers: &HeaderMap) -> Result<String, Refusal> {
    let origin = headers
        .get(header::ORIGIN)
        .and_then(|origin| origin.to_str().ok());
    origin.map(str::to_owned).ok_or_else(|| {
        Refusal::bad("pairing is for pages and extensions, whose requests say where they come from; programs use the token")
    })
}

/// Who asks to be let in.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct AskToPair {
    /// What it calls itself, up to 60 characters.
    name: String,
    /// What it wants to do: `chat` and `models` unless said otherwise.
    scopes: Option<Vec<Scope>>,
}

/// Asks the person to let a page or an extension in. Needs no token, only an origin.
#[utoipa::path(post, path = "/heph/v1/pairing", request_body = AskToPair, tag = "Pairing",
    responses((status = 201, description = "Show the code to the person, and look with the secret what became of it"),
              (status = 400, description = "The request has no meaning, or no origin"),
              (status = 403, description = "That is no origin"),
              (status = 429, description = "Too many ask")))]
pub(crate) async fn ask(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let AskToPair { name, scopes } = read(&body)?;
    let origin = origin(&headers)?;
    let scopes = scopes.unwrap_or_else(|| vec![Scope::Chat, Scope::Models]);
    let asked = on_book(door, move |book| book.ask(now_ms(), &origin, &name, &scopes)).await?;
    let said = json!({
        "id": asked.id, "code": asked.code, "secret": asked.secret, "expires_ms": asked.expires_ms,
        "look_every_s": LOOK_EVERY_S,
    });
    Ok((StatusCode::CREATED, Json(said)))
}

/// Says what became of a request, to the origin that made it and shows its secret as a bearer token.
#[utoipa::path(get, path = "/heph/v1/pairing/{id}", tag = "Pairing", params(("id" = String, Path, description = "As asking told it")),
    responses((status = 200, description = "Whether it waits, or the token, once"),
              (status = 400, description = "The request has no origin"),
              (status = 404, description = "It was refused, fetched or is too old")))]
pub(crate) async fn look(
    State(door): State<Door>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let origin = origin(&headers)?;
    let secret = bearer(&headers).unwrap_or_default().to_owned();
    let claim = on_book(door, move |book| book.claim(now_ms(), &id, &origin, &secret)).await?;
    Ok(Json(match claim {
        Claim::Waiting => json!({ "state": "waiting", "look_every_s": LOOK_EVERY_S }),
        Claim::Token(token, scopes) => json!({ "state": "paired", "token": token, "scopes": scopes }),
    }))
}

/// Who was let in, and who asks.
#[utoipa::path(get, path = "/heph/v1/pairings", tag = "Pairing", responses((status = 200, description = "Both lists")))]
pub(crate) async fn list(State(door): State<Door>) -> Result<Json<Value>, Refusal> {
    let book = on_book(door, |book| book.book(now_ms())).await?;
    let pairings = book.pairings.iter().map(|pairing| {
        json!({
            "id": pairing.id, "name": pairing.name, "origin": pairing.origin, "scopes": pairing.scopes,
            "created_ms": pairing.created_ms, "last_used_ms": pairing.last_used_ms,
        })
    });
    let requests = book.requests.iter().map(|request| {
        json!({
            "id": request.id, "name": request.name, "origin": request.origin, "scopes": request.scopes,
            "code": request.code, "expires_ms": request.expires_ms, "approved": request.approved,
        })
    });
    Ok(Json(json!({
        "pairings": pairings.collect::<Vec<_>>(), "requests": requests.collect::<Vec<_>>(),
    })))
}

/// What the person compared.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct Approval {
    /// The six digits that the page or extension shows.
    code: String,
}

/// Lets a page or an extension in whose code the person compared.
#[utoipa::path(post, path = "/heph/v1/pairing/{id}/approve", request_body = Approval, tag = "Pairing",
    params(("id" = String, Path, description = "The request")),
    responses((status = 204, description = "It may fetch its token"), (status = 400, description = "The body has no meaning"),
              (status = 404, description = "Nobody asks with that id and code")))]
pub(crate) async fn approve(
    State(door): State<Door>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let Approval { code } = read(&body)?;
    on_book(door, move |book| book.approve(now_ms(), Some(&id), &code)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a page or an extension away that asks.
#[utoipa::path(post, path = "/heph/v1/pairing/{id}/refuse", tag = "Pairing", params(("id" = String, Path, description = "The request")),
    responses((status = 204, description = "It is sent away"), (status = 404, description = "Nobody asks with that id")))]
pub(crate) async fn refuse(State(door): State<Door>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    on_book(door, move |book| book.refuse(now_ms(), &id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes the leave of a page or an extension back, also from the answers that it is reading.
#[utoipa::path(delete, path = "/heph/v1/pairings/{id}", tag = "Pairing", params(("id" = String, Path, description = "The pairing")),
    responses((status = 204, description = "It is out"), (status = 404, description = "It was not in")))]
pub(crate) async fn revoke(State(door): State<Door>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    match on_book(door, move |book| book.revoke(now_ms(), &id)).await? {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(Refusal::missing("there is no pairing of that id")),
    }
}
