//! HEPH's own paths, under `/heph/v1`: what the page asks.

pub(crate) mod chats;
pub(crate) mod egress;
pub(crate) mod knowledge;
pub(crate) mod meeting;
pub(crate) mod models;
pub(crate) mod pairing;
pub(crate) mod places;
pub(crate) mod policy;
pub(crate) mod reports;
pub(crate) mod servers;
pub(crate) mod streams;
pub(crate) mod workshop;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use heph_plan::Mode;
use heph_runtime::blocks::BlockStore;
use heph_runtime::hardware::{self, Hardware};
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::house::Door;
use crate::recall::Memory;

/// Says that the model can answer.
#[utoipa::path(get, path = "/health", tag = "HEPH", responses((status = 200, description = "It can")))]
pub(crate) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Counts, as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", tag = "HEPH", responses((status = 200, description = "The counts")))]
pub(crate) async fn metrics(State(door): State<Door>) -> impl IntoResponse {
    let disk = door.engines.blocks().map(BlockStore::counts).unwrap_or_default();
    let memory = door.memory.as_ref().map(Memory::counts).unwrap_or_default();
    let limited = door.guard.rate.refusals();
    let text = door.counters.text(door.load(), disk, memory, limited);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// What this process is and does.
#[utoipa::path(get, path = "/heph/v1/status", tag = "HEPH", responses((status = 200, description = "The status")))]
pub(crate) async fn status(State(door): State<Door>) -> Json<Value> {
    let served = &door.engines.served;
    let hardware = Hardware::look();
    let load = door.load();
    let (answered, failed, refused) = door.counters.summary();
    Json(json!({
        "name": "HEPH",
        "version": env!("CARGO_PKG_VERSION"),
        "model": served.name,
        "context": served.service.context(),
        "threads": served.threads,
        "isa": served.isa.name(),
        "kv": served.kv.to_string(),
        "cpu": hardware.cpu,
        "memory": {
            "total_bytes": hardware.memory_bytes,
            "available_bytes": hardware.memory_available_bytes,
            "peak_bytes": hardware::peak_memory_bytes(),
        },
        "uptime_s": door.began.elapsed().as_secs_f64(),
        "auth": if door.guard.token.is_some() { "token" } else { "none" },
        "modes": modes(&door),
        "requests": {
            "running": load.open.saturating_sub(load.waiting), "waiting": load.waiting,
            "answered": answered, "failed": failed, "refused": refused, "tokens": load.tokens,
        },
    }))
}

/// The modes that may be asked for by name, where other machines were met; whether one is possible now, a plan says.
fn modes(door: &Door) -> Vec<&'static str> {
    let others = [
        Mode::Remote,
        Mode::Layered,
        Mode::Speculative,
        Mode::LayeredSpeculative,
        Mode::Preprocess,
    ];
    let any = door.machines.as_ref().is_some_and(|machines| machines.any());
    let others = others.into_iter().filter(|_| any);
    let named = [Mode::Local].into_iter().chain(others).map(Mode::name);
    std::iter::once("auto").chain(named).collect()
}

/// A receipt as text that this machine signed, for `heph receipt verify`, while it is kept.
#[utoipa::path(get, path = "/heph/v1/receipts/{id}/signed", tag = "HEPH",
    params(("id" = String, Path, description = "As the header `heph-receipt` named it")),
    responses((status = 200, description = "The receipt, signed"), (status = 404, description = "It is not kept")))]
pub(crate) async fn signed_receipt(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<String, Refusal> {
    let sign = move || door.receipts.signed(&id, &door.settings.home);
    let signed = tokio::task::spawn_blocking(sign).await.map_err(Refusal::ours)?;
    signed
        .ok_or_else(|| Refusal::missing("no receipt of that id is kept"))?
        .map_err(Refusal::ours)
}

/// A receipt, while it is kept.
#[utoipa::path(get, path = "/heph/v1/receipts/{id}", tag = "HEPH",
    params(("id" = String, Path, description = "As the header `heph-receipt` named it")),
    responses((status = 200, description = "The receipt"), (status = 404, description = "It is not kept")))]
pub(crate) async fn receipt(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Refusal> {
    let told = door.receipts.find(&id);
    let told = told.ok_or_else(|| Refusal::missing("no receipt of that id is kept"))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], told))
}
