//! The folder of models, as the page shows it.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use heph_engine::graph::Graph;
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::guard::Outlet;
use heph_runtime::hardware::Hardware;
use heph_runtime::open;
use heph_runtime::pull::{self, Hub, Patience, Repository, Request};
use heph_runtime::store::{Found, ModelName, Origin, Progress, Record, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::{Dialect, Refusal};
use crate::heph::policy::not_cut_off;
use crate::heph::workshop::fit;
use crate::house::Door;
use crate::openai::read;
use crate::shape::text;

/// Reports of a download that may wait to be sent; what is too many is left out, the last one never.
const REPORTS_WAITING: usize = 16;

/// Bytes between two reports.
const REPORT_EVERY: u64 = 1 << 20;

fn described(door: &Door, name: &str, found: &Found) -> Value {
    let served = &door.engines.served;
    let serving = served.name == name;
    let loaded = serving || door.engines.others().contains_key(name);
    let (bytes, about, source) = match found {
        Found::Bundled(model) => (
            model.bytes.len() as u64,
            model.about.to_owned(),
            "part of the program".to_owned(),
        ),
        Found::Stored(_, record) => (record.bytes(), String::new(), origin(record)),
        Found::Path(_) => (0, String::new(), "a file".to_owned()),
    };
    let mut line = json!({
        "name": name, "kind": "chat", "about": about, "bytes": bytes, "bundled": matches!(found, Found::Bundled(_)),
        "loaded": loaded, "serving": serving, "context": null, "layers": null, "source": source,
    });
    let available = Hardware::look().memory_available_bytes;
    // What is in memory already needs none of what is free.
    line["fit"] = fit(bytes, if loaded { u64::MAX } else { available });
    line["fit"]["available_bytes"] = json!(available);
    match open::open(found) {
        Ok(opened) => {
            let config = opened.config();
            line["kind"] = json!(if config.encoder.is_some() {
                "encoder"
            } else {
                "chat"
            });
            line["context"] = json!(config.context);
            line["layers"] =
                Graph::build(config, &opened).map_or(Value::Null, |graph| json!(graph.layers.len()));
        }
        Err(error) => line["broken"] = json!(error.to_string()),
    }
    line
}

fn origin(record: &Record) -> String {
    match &record.origin {
        Origin::Import { path } => format!("imported from {}", path.display()),
        Origin::Pull { hub, repository, .. } => format!("{repository} of {hub}"),
        Origin::Quantised { from, file_type } => format!("{from} as {file_type}"),
    }
}

/// Names every model, the served one first.
#[utoipa::path(get, path = "/heph/v1/models", tag = "HEPH", responses((status = 200, description = "The models")))]
pub(crate) async fn list(State(door): State<Door>) -> Result<Json<Value>, Refusal> {
    let work = move || {
        let mut names: Vec<String> = bundled::ALL.iter().map(|model| model.name.to_owned()).collect();
        let stored = door.engines.store().list().map_err(Refusal::ours)?;
        names.extend(stored.into_iter().flatten().map(|record| record.name.to_string()));
        names.sort_by_key(|name| *name != door.engines.served.name);
        let found = names
            .iter()
            .filter_map(|name| Some((name, door.engines.by_name(name).ok()?)));
        let models: Vec<Value> = found
            .map(|(name, found)| described(&door, name, &found))
            .collect();
        Ok::<_, Refusal>(json!({ "models": models }))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Refusal::ours)?
        .map(Json)
}

/// One model.
#[utoipa::path(get, path = "/heph/v1/models/{name}", tag = "HEPH", params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The model"), (status = 404, description = "There is none")))]
pub(crate) async fn one(State(door): State<Door>, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    let work = move || {
        ModelName::new(&name).map_err(|e| Refusal::bad(e.to_string()))?;
        let found = door.engines.by_name(&name).map_err(store_refusal)?;
        Ok::<_, Refusal>(described(&door, &name, &found))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Refusal::ours)?
        .map(Json)
}

pub(crate) fn store_refusal(error: StoreError) -> Refusal {
    let sentence = error.to_string();
    match error {
        StoreError::Unknown { .. } => Refusal::missing(sentence).code("model_not_found"),
        StoreError::Name(_) => Refusal::bad(sentence),
        StoreError::Taken(_) | StoreError::PartOfTheProgram(_) | StoreError::Busy(_) => {
            Refusal::new(StatusCode::CONFLICT, sentence)
        }
        _ => Refusal::ours(sentence),
    }
}

/// Removes a model.
#[utoipa::path(delete, path = "/heph/v1/models/{name}", tag = "HEPH", params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is gone"), (status = 409, description = "It is bundled, or serving")))]
pub(crate) async fn remove(
    State(door): State<Door>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    if name == door.engines.served.name {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!("{name} is the model that is served"),
        ));
    }
    let work = move || {
        door.engines.store().remove(&name).map_err(store_refusal)?;
        door.engines.forget(&name);
        Ok::<_, Refusal>(StatusCode::NO_CONTENT)
    };
    tokio::task::spawn_blocking(work).await.map_err(Refusal::ours)?
}

/// A download that is asked for.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct PullRequest {
    /// `owner/name` at the hub.
    repository: String,
    revision: Option<String>,
    file: Option<String>,
    sha256: Option<String>,
    name: Option<String>,
}

/// A checked download.
pub(crate) struct Pull(Request);

impl Pull {
    pub(crate) fn new(
        repository: &str,
        revision: Option<String>,
        file: Option<String>,
        sha256: Option<String>,
        name: Option<String>,
    ) -> Result<Self, Refusal> {
        let bad = |e: &dyn std::fmt::Display| Refusal::bad(e.to_string());
        let name = match &name {
            Some(name) => ModelName::new(name),
            None => ModelName::suggested_by(file.as_deref().unwrap_or(repository)),
        };
        Ok(Self(Request {
            repository: Repository::new(repository).map_err(|e| bad(&e))?,
            revision: revision.unwrap_or_else(|| "main".to_owned()),
            file,
            sha256,
            name: name.map_err(|e| bad(&e))?,
        }))
    }
}

/// Downloads a model and tells how far it is.
#[utoipa::path(post, path = "/heph/v1/models/pull", request_body = PullRequest, tag = "HEPH",
    responses((status = 200, description = "Events: `downloading`, then `done` or `failed`")))]
pub(crate) async fn pull(State(door): State<Door>, body: Bytes) -> Result<Response, Refusal> {
    let PullRequest {
        repository,
        revision,
        file,
        sha256,
        name,
    } = read(&body)?;
    let pull = Pull::new(&repository, revision, file, sha256, name)?;
    pull_stream(&door, pull, Dialect::OpenAi, true).await
}

/// Stops the download when nobody hears of it any more.
struct Watch(Cancel);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// The download as a stream of reports, in HEPH's events or in Ollama's lines.
pub(crate) async fn pull_stream(
    door: &Door,
    pull: Pull,
    dialect: Dialect,
    streamed: bool,
) -> Result<Response, Refusal> {
    not_cut_off(&door.rules)?;
    let (reports, mut heard) = mpsc::channel::<Value>(REPORTS_WAITING);
    let cancel = Cancel::new();
    let (job_cancel, job_door) = (cancel.clone(), door.clone());
    tokio::task::spawn_blocking(move || {
        let hub = Hub::new(
            &job_door.settings.hub,
            job_door.settings.hub_token.as_deref(),
            Patience::default(),
            Outlet::of(&job_door.settings),
        );
        let mut told = 0;
        let mut tell = |p: Progress| {
            if p.done >= told + REPORT_EVERY || p.total == Some(p.done) {
                told = p.done;
                let line = match dialect {
                    Dialect::Ollama => json!({ "status": "pulling", "completed": p.done, "total": p.total }),
                    Dialect::OpenAi | Dialect::Anthropic => {
                        json!({ "status": "downloading", "done": p.done, "total": p.total })
                    }
                };
                let _ = reports.try_send(line);
            }
        };
        let result = pull::pull(&hub, job_door.engines.store(), &pull.0, &job_cancel, &mut tell);
        let last = match (result, dialect) {
            (Ok(_), Dialect::Ollama) => json!({ "status": "success" }),
            (Err(error), Dialect::Ollama) => json!({ "error": error.to_string() }),
            (Ok(record), _) => {
                json!({ "status": "done", "model": { "name": record.name.as_str(), "bytes": record.bytes() } })
            }
            (Err(error), _) => {
                json!({ "status": "failed", "error": { "message": error.to_string(), "hint": error.hint() } })
            }
        };
        let _ = reports.blocking_send(last);
    });
    let watch = Watch(cancel);
    if !streamed {
        let mut last = Value::Null;
        while let Some(report) = heard.recv().await {
            last = report;
        }
        // A stream tells of a failure in a line, since its status has been told; one answer has a status of its own.
        return match last["error"].as_str() {
            Some(sentence) => Err(Refusal::new(StatusCode::BAD_GATEWAY, sentence).code("hub")),
            None => Ok(Json(last).into_response()),
        };
    }
    let kind = if dialect == Dialect::Ollama {
        "application/x-ndjson"
    } else {
        "text/event-stream"
    };
    let body = stream::unfold((heard, watch), move |(mut heard, watch)| async move {
        let report = heard.recv().await?;
        let frame = match dialect {
            Dialect::Ollama => format!("{}\n", text(&report)),
            Dialect::OpenAi | Dialect::Anthropic => format!("data: {}\n\n", text(&report)),
        };
        Some((Ok::<_, Infallible>(Bytes::from(frame)), (heard, watch)))
    });
    Ok((
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")],
        Body::from_stream(body),
    )
        .into_response())
}
