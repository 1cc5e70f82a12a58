//! `GET /v1/models`.

use axum::Json;
use axum::extract::{Path, State};
use heph_runtime::bundled;
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::house::Door;
use crate::outside;

/// A model that can be asked for: its name, and when it came, in seconds since 1970.
fn names(door: &Door) -> Vec<(String, u64)> {
    let served = door.engines.served.name.clone();
    let bundled = bundled::ALL.iter().map(|model| (model.name.to_owned(), 0));
    let stored = door
        .engines
        .store()
        .list()
        .unwrap_or_default()
        .into_iter()
        .flatten();
    let stored = stored.map(|record| (record.name.to_string(), record.added_unix_s));
    let mut names = vec![(served.clone(), 0)];
    names.extend(bundled.chain(stored).filter(|(name, _)| *name != served));
    names.extend(outside::names(door).into_iter().map(|name| (name, 0)));
    names
}

fn entry(name: &str, created: u64) -> Value {
    let owner = name.split_once('/').map_or("heph", |(provider, _)| provider);
    json!({ "id": name, "object": "model", "created": created.max(1_700_000_000), "owned_by": owner })
}

/// Names the models, the served one first.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, description = "The models")))]
pub(crate) async fn list(State(door): State<Door>) -> Json<Value> {
    let data: Vec<_> = names(&door)
        .iter()
        .map(|(name, created)| entry(name, *created))
        .collect();
    Json(json!({ "object": "list", "data": data }))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "OpenAI", params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "The model"), (status = 404, description = "There is none")))]
pub(crate) async fn one(State(door): State<Door>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let known = names(&door);
    let found = known.iter().find(|(name, _)| *name == id);
    match found {
        Some((name, created)) => Ok(Json(entry(name, *created))),
        None => Err(Refusal::missing(format!("the model {id:?} is not here")).code("model_not_found")),
    }
}
