//! What may leave this machine: how the policy stands, its preset, and the switch that cuts everything off.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use heph_privacy::policy::Preset;
use heph_runtime::rules::{By, CutOff, PresetError, Rules};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::house::Door;
use crate::openai::read;
use crate::outside;

/// What is to be changed; what is not named stays.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyChange {
    /// `local-only`, `own-devices`, `redact-then-remote` or `open`.
    #[schema(value_type = Option<String>)]
    preset: Option<Preset>,
    /// Whether this machine is cut off: nothing leaves then, whatever the policy says.
    cut: Option<bool>,
}

/// How the policy stands.
#[utoipa::path(get, path = "/heph/v1/policy", tag = "Privacy", responses((status = 200, description = "How it stands")))]
pub(crate) async fn look(State(door): State<Door>) -> Result<Json<Value>, Refusal> {
    tokio::task::spawn_blocking(move || stands(&door))
        .await
        .map(Json)
        .map_err(Refusal::ours)
}

/// Changes the preset of the policy, or cuts this machine off, at once and for every process of this home folder.
#[utoipa::path(put, path = "/heph/v1/policy", request_body = PolicyChange, tag = "Privacy",
    responses((status = 200, description = "How it stands now"), (status = 400, description = "The body has no meaning"),
        (status = 409, description = "The file of the policy cannot be changed")))]
pub(crate) async fn change(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let PolicyChange { preset, cut } = read(&body)?;
    if preset.is_none() && cut.is_none() {
        return Err(Refusal::bad(
            "name a preset, or say whether this machine is cut off",
        ));
    }
    let work = move || {
        // What makes it stricter comes first, and what makes it looser last: in between nothing is let out that neither allows.
        if cut == Some(true) {
            door.rules.cut_off(CutOff::Begin).map_err(Refusal::ours)?;
            if let Some(machines) = &door.machines {
                machines.part();
            }
        }
        if let Some(preset) = preset {
            door.rules.set_preset(preset).map_err(unchanged)?;
        }
        if cut == Some(false) {
            door.rules.cut_off(CutOff::End).map_err(Refusal::ours)?;
        }
        Ok::<_, Refusal>(stands(&door))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Refusal::ours)?
        .map(Json)
}

/// How the policy stands, and which providers' models may be asked where nobody wrote one: a leave that was given to a provider
/// counts then, and not beside a file.
fn stands(door: &Door) -> Value {
    let standing = door.rules.standing();
    let providers = match standing.by {
        By::Usual => outside::names(door),
        By::File | By::Unread => Vec::new(),
    };
    let mut told = json!(standing);
    told["providers"] = json!(providers);
    told
}

fn unchanged(error: PresetError) -> Refusal {
    let sentence = error.to_string();
    match error {
        PresetError::Read { .. } | PresetError::Form { .. } | PresetError::Place { .. } => {
            Refusal::new(StatusCode::CONFLICT, sentence).code("policy_unchanged")
        }
        PresetError::NoFile | PresetError::Write(_) => Refusal::ours(sentence),
    }
}

/// What is no question of a policy, as a download, has no leave either while this machine is cut off.
pub(crate) fn not_cut_off(rules: &Rules) -> Result<(), Refusal> {
    match rules.is_cut() {
        true => Err(
            Refusal::new(StatusCode::FORBIDDEN, "this machine is cut off; end that first").code("cut_off"),
        ),
        false => Ok(()),
    }
}
