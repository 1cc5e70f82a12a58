//! What can be done with a model beside asking it: see what is offered and what fits, write it in another format, and certify
//! that it gives the same bits in whatever way it is run.

use std::sync::PoisonError;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use heph_engine::quantize::FileType;
use heph_runtime::cancel::Cancel;
use heph_runtime::certify::{self, Depth};
use heph_runtime::guard::Outlet;
use heph_runtime::hardware::Hardware;
use heph_runtime::open;
use heph_runtime::pull::{self, Hub, Offered, Patience, Repository};
use heph_runtime::store::{Found, ModelName, Progress, bytes_as};
use heph_types::TokenId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ask::writer;
use crate::error::Refusal;
use crate::heph::models::store_refusal;
use crate::heph::policy::not_cut_off;
use crate::heph::reports::told;
use crate::house::Door;
use crate::openai::read;

/// Positions that are certified, as `heph certify` does.
const CERTIFIED: usize = 72;

/// A person waits for what a hub offers: it is asked so often, and a download is more patient.
const LOOKS: u32 = 2;

/// Of a hundred steps of a long work one is told.
const TOLD_OF: u64 = 100;

/// This machine, and the largest models that fit into its memory, by how their weights are stored.
#[utoipa::path(get, path = "/heph/v1/hardware", tag = "HEPH", responses((status = 200, description = "The machine")))]
pub(crate) async fn hardware() -> Result<Json<Value>, Refusal> {
    let look = || {
        let hardware = Hardware::look();
        let fits = hardware.fits(None);
        let mut told = json!(hardware);
        told["fits"] = json!(fits);
        told
    };
    tokio::task::spawn_blocking(look)
        .await
        .map(Json)
        .map_err(Refusal::ours)
}

/// A repository that is looked at.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct LookRequest {
    /// `owner/name` at the hub.
    repository: String,
    revision: Option<String>,
}

/// Asks the hub what a repository offers: models with their sizes, whether they fit, and the licence. Downloads nothing.
#[utoipa::path(post, path = "/heph/v1/models/look", request_body = LookRequest, tag = "HEPH",
    responses((status = 200, description = "What it offers"), (status = 403, description = "This machine is cut off"),
        (status = 502, description = "The hub does not answer, or has no such model")))]
pub(crate) async fn offers(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let LookRequest { repository, revision } = read(&body)?;
    not_cut_off(&door.rules)?;
    let repository =
        Repository::new(&repository).map_err(|error| Refusal::param("repository", error.to_string()))?;
    let work = move || {
        let settings = &door.settings;
        let hub = Hub::new(
            &settings.hub,
            settings.hub_token.as_deref(),
            Patience {
                attempts: LOOKS,
                ..Patience::default()
            },
            Outlet::of(settings),
        );
        let revision = revision.as_deref().unwrap_or("main");
        let offer = pull::offer(&hub, &repository, revision, &Cancel::new());
        let offer = offer.map_err(|error| {
            let sentence = [Some(error.to_string()), error.hint()].into_iter().flatten();
            Refusal::new(
                axum::http::StatusCode::BAD_GATEWAY,
                sentence.collect::<Vec<_>>().join("; "),
            )
            .code("hub")
        })?;
        let available = Hardware::look().memory_available_bytes;
        let models = offer.models.iter().map(|model| {
            let Offered { file, bytes, files } = model;
            let fit = bytes.map(|bytes| fit(bytes, available));
            json!({ "file": file, "bytes": bytes, "files": files, "fit": fit })
        });
        Ok::<_, Refusal>(json!({
            "repository": offer.repository, "hub": hub.address(), "licence": offer.licence, "gated": offer.gated,
            "models": models.collect::<Vec<_>>(),
        }))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Refusal::ours)?
        .map(Json)
}

/// Whether weights of so many bytes fit into memory, with a quarter of them for caches and buffers.
pub(crate) fn fit(bytes: u64, available: u64) -> Value {
    let memory = bytes.saturating_add(bytes / 4);
    let fits = memory <= available;
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let verb = if fits { "fits" } else { "does not fit" };
    json!({
        "fits": fits, "memory_bytes": memory, "available_bytes": available,
        "sentence": format!("{verb}: about {} of {}", mb(memory), mb(available)),
    })
}

/// The model of that name, which is a name and no path.
fn found(door: &Door, name: &str) -> Result<Found, Refusal> {
    ModelName::new(name).map_err(|error| Refusal::param("name", error.to_string()))?;
    door.engines.by_name(name).map_err(store_refusal)
}

/// How large a model would be in each format.
#[utoipa::path(get, path = "/heph/v1/models/{name}/formats", tag = "HEPH", params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "Formats with their sizes, the smallest first"), (status = 404, description = "There is none")))]
pub(crate) async fn formats(
    State(door): State<Door>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let work = move || {
        let found = found(&door, &name)?;
        let source = open::open(&found).map_err(Refusal::ours)?;
        let mut sizes: Vec<(u64, &str)> = FileType::all()
            .map(|file_type| (bytes_as(&source, file_type), file_type.name()))
            .collect();
        sizes.sort_unstable();
        let formats = sizes
            .iter()
            .map(|(bytes, word)| json!({ "type": word, "bytes": bytes }));
        Ok::<_, Refusal>(json!({ "formats": formats.collect::<Vec<_>>() }))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Refusal::ours)?
        .map(Json)
}

/// A model that is to be written in another format.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct QuantizeRequest {
    /// How its weights are stored, as `q4_k_m`.
    r#type: String,
    /// What it is called then.
    name: Option<String>,
}

/// Writes a model of the store, or a bundled one, in another format, as a model of its own.
#[utoipa::path(post, path = "/heph/v1/models/{name}/quantize", request_body = QuantizeRequest, tag = "HEPH",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "Events: `working`, then `done` or `failed`"),
        (status = 400, description = "There is no such format, or no model may be called so"), (status = 404, description = "There is none")))]
pub(crate) async fn quantize(
    State(door): State<Door>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let QuantizeRequest { r#type, name: called } = read(&body)?;
    let file_type = r#type.parse::<FileType>();
    let file_type = file_type.map_err(|error| Refusal::param("type", error.to_string()))?;
    let called = called.unwrap_or_else(|| format!("{name}-{file_type}"));
    let called = ModelName::new(&called).map_err(|error| Refusal::param("name", error.to_string()))?;
    let found = found(&door, &name)?;
    Ok(told(move |cancel, teller| {
        let source = match open::open(&found) {
            Ok(source) => source,
            Err(error) => return failed(&error.to_string()),
        };
        let mut last = 0;
        let mut step = |p: Progress| {
            let share = p.done.saturating_mul(TOLD_OF) / p.total.unwrap_or(u64::MAX).max(1);
            if share > last {
                last = share;
                teller.tell(json!({ "status": "working", "done": p.done, "total": p.total }));
            }
        };
        let of = (name.as_str(), &source);
        let store = door.engines.store();
        let made = store.quantise(of, file_type, &called, door.engines.pool(), cancel, &mut step);
        match made {
            Ok(record) => {
                json!({ "status": "done", "model": { "name": record.name.as_str(), "bytes": record.bytes() } })
            }
            Err(error) => failed(&error.to_string()),
        }
    }))
}

/// Runs a prompt through a model in every way there is on this machine and compares the bits.
#[utoipa::path(post, path = "/heph/v1/models/{name}/certify", tag = "HEPH", params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "Events: `working`, then `done` with the hash of all bits, or `failed`"),
        (status = 404, description = "There is none")))]
pub(crate) async fn certify(State(door): State<Door>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let writer = writer(&door, &name).await?;
    Ok(told(move |cancel, teller| {
        // The model that answers is the one that is certified, not another copy of it.
        let model = {
            let prober = writer.prober.lock().unwrap_or_else(PoisonError::into_inner);
            std::sync::Arc::clone(prober.model())
        };
        let layers = model.graph().layers.len();
        let tokens = CERTIFIED.min(model.context());
        let ways = certify::ways(Depth::EachChoice, tokens, layers, writer.threads.max(3));
        let vocabulary = writer.service.words().tokenizer.vocab_size().max(1) as u64;
        let prompt: Vec<TokenId> = (0..tokens as u64)
            .map(|i| TokenId((i.wrapping_mul(2_654_435_761).wrapping_add(17) % vocabulary) as u32))
            .collect();
        let mut done = 0_u64;
        let mut step = || {
            done += 1;
            teller.tell(json!({ "status": "working", "done": done, "total": ways.len() }));
        };
        match certify::scan(&model, &prompt, &ways, cancel, &mut step) {
            Ok(certificate) => {
                let holds = certificate.holds();
                json!({ "status": "done", "certificate": certificate, "holds": holds, "arithmetic": heph_kernels::ARITHMETIC_VERSION })
            }
            Err(error) => failed(&error.to_string()),
        }
    }))
}

fn failed(sentence: &str) -> Value {
    json!({ "status": "failed", "error": { "message": sentence, "hint": null } })
}
