//! Where an answer would be computed, and the machines that may.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use heph_engine::batch::Asker;
use heph_engine::prefix::Share;
use heph_plan::{Decision, Mode, Place, Record};
use heph_runtime::cancel::Cancel;
use heph_runtime::hardware::Hardware;
use heph_types::Leaves;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ahead;
use crate::ask::{Ask, Source, Text, Wishes, writer};
use crate::caller;
use crate::error::Refusal;
use crate::heph::policy::not_cut_off;
use crate::house::Door;
use crate::machines::{WaitHere, Wish};
use crate::openai::chat::{Content, count};
use crate::openai::read;

/// What is to be planned.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct PlanRequest {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    messages: Option<Vec<PlanMessage>>,
    #[serde(default)]
    prompt: Option<String>,
    max_tokens: Option<i64>,
    mode: Option<String>,
    privacy: Option<String>,
    labels: Option<Vec<String>>,
    exactness: Option<String>,
    /// That the question is still being written: where it would be answered here, what stands there is read meanwhile.
    #[serde(default)]
    ahead: bool,
}

/// One message.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct PlanMessage {
    role: String,
    content: Content,
}

/// Says where an answer would be computed, what that takes, and who would see what.
#[utoipa::path(post, path = "/heph/v1/plan", request_body = PlanRequest, tag = "HEPH",
    responses((status = 200, description = "The plan"), (status = 409, description = "No plan meets the wish")))]
pub(crate) async fn plan(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let request: PlanRequest = read(&body)?;
    let model = writer(&door, request.model.as_deref().unwrap_or_default()).await?;
    let source = match (request.messages, request.prompt) {
        (Some(messages), _) => {
            let turn = |m: PlanMessage| m.content.turn(&m.role);
            Source::Chat(messages.into_iter().map(turn).collect::<Result<_, _>>()?)
        }
        (None, Some(prompt)) => Source::Texts(vec![Text::Words(prompt)]),
        (None, None) => return Err(Refusal::bad("a plan needs messages or a prompt")),
    };
    let wishes = Wishes {
        mode: request.mode,
        privacy: request.privacy,
        labels: request.labels,
        exactness: request.exactness,
        ..Wishes::default()
    };
    let mode = wishes.mode()?;
    let most = count("max_tokens", request.max_tokens, 1)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let any_bits = wishes.any_bits()?;
    let share = caller::share(&wishes, None, door.keeping)?;
    // What was being written before is read no further.
    let turn = request.ahead.then(|| door.ahead.turn());
    let (house, writer) = (Arc::clone(&door), Arc::clone(&model));
    let machines = door.machines.clone();
    let Some(machines) = machines.filter(|_| Arc::ptr_eq(&model, &door.engines.served)) else {
        let sentence = "only the served model is planned for, by a program that knows other machines";
        return Err(Refusal::new(StatusCode::CONFLICT, sentence).code("no_plan"));
    };
    let work = move |cancel: &Cancel| {
        let ask = Ask {
            wishes,
            ..Ask::new(String::new(), source)
        };
        let prompt_tokens = ask.prompts(&model, cancel)?.first().map_or(0, Vec::len);
        let wish = Wish {
            prompt_tokens,
            excerpts_tokens: None,
            answer_tokens_max: most,
            mode,
            price_max: ask.wishes.max_price,
            discretion: ask.discretion(&house, Some(model.service.words()))?,
            any_bits,
            wait_here: WaitHere::at(&model),
            asker: Asker::default(),
            prompt: Vec::new(),
            share: Share::NONE,
        };
        let course = machines.course(&wish).map_err(Refusal::from)?;
        let alone = mode.is_none() && !machines.any();
        let here = alone || course.record().decision.plan.mode == Mode::Local;
        let settled = match turn {
            Some(_) if here => ahead::settled(&ask, &model, cancel)?,
            _ => Vec::new(),
        };
        Ok::<_, Refusal>((told(course.record()), settled))
    };
    let (told, settled) = caller::on_thread(work).await??;
    if let Some(turn) = turn.filter(|_| !settled.is_empty()) {
        tokio::spawn(ahead::read(door, writer, settled, share, turn));
    }
    Ok(Json(told))
}

fn told(record: &Record) -> Value {
    let Decision {
        plan,
        reason,
        alternatives,
    } = &record.decision;
    let stages = plan.stages.iter().map(|stage| {
        json!({
            "name": stage.name, "node": stage.node, "here": stage.place == Place::Desk, "role": stage.role,
            "layers": { "start": stage.layers.start(), "end": stage.layers.end() }, "sees": stage.sees, "memory_bytes": stage.memory,
        })
    });
    let refused = alternatives
        .iter()
        .map(|other| json!({ "mode": other.mode, "why": other.why_not, "possible": other.plan.is_some() }));
    let leaves = plan
        .remote_stages()
        .map(|stage| stage.sees)
        .max()
        .unwrap_or(Leaves::Nothing);
    let per_token = plan.expected.per_token.as_secs_f64();
    json!({
        "prompt_tokens": record.request.prompt_tokens,
        "answer_tokens": record.request.answer_tokens,
        "mode": plan.mode,
        "exactness": plan.exactness,
        "stages": stages.collect::<Vec<_>>(),
        "first_token_s": plan.expected.first_token.as_secs_f64(),
        "tokens_per_s": if per_token > 0.0 { 1.0 / per_token } else { 0.0 },
        "total_s": plan.expected.total.as_secs_f64(),
        "bytes_up": plan.expected.bytes_up,
        "bytes_down": plan.expected.bytes_down,
        "price": plan.expected.credits,
        "leaves": leaves,
        "reasons": [reason.to_string()],
        "refused": refused.collect::<Vec<_>>(),
        "digest": record.digest.to_string(),
        "decision": record.decision,
    })
}

/// This machine and those that were met.
#[utoipa::path(
    get, path = "/heph/v1/nodes", tag = "HEPH",
    responses(
        (status = 200, description = "The machines"), (status = 403, description = "This machine is cut off"),
        (status = 503, description = "The network cannot be opened"),
    )
)]
pub(crate) async fn nodes(State(door): State<Door>) -> Result<Json<Value>, Refusal> {
    not_cut_off(&door.rules)?;
    let served = &door.engines.served;
    let (threads, isa) = (served.threads, served.isa.name());
    let machines = door.machines.clone();
    let work = move || {
        let here = machines.as_ref().and_then(|machines| machines.here());
        let nodes = machines.map_or(Ok(Vec::new()), |machines| machines.nodes());
        let unavailable = |sentence| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
        Ok::<_, Refusal>(json!({
            "here": {
                "node": here, "name": "here", "threads": threads, "isa": isa,
                "memory_bytes": Hardware::look().memory_bytes,
            },
            "nodes": nodes.map_err(unavailable)?,
        }))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Refusal::ours)?
        .map(Json)
}
