//! The network log: what left this machine, to whom, for what.

use axum::Json;
use axum::extract::{Query, State};
use heph_runtime::egress::{Journal, Report};
use heph_runtime::network::seconds_since_1970;
use serde::Deserialize;

use crate::error::Refusal;
use crate::house::Door;

/// How far back it is looked.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Since {
    /// Only the last hours; all that is kept where nothing is said.
    hours: Option<usize>,
}

/// What left this machine and came to it, by destination.
#[utoipa::path(get, path = "/heph/v1/egress", tag = "HEPH", params(Since),
    responses((status = 200, description = "The sums"), (status = 500, description = "The log cannot be read")))]
pub(crate) async fn egress(
    State(door): State<Door>,
    Query(since): Query<Since>,
) -> Result<Json<Report>, Refusal> {
    let journal = Journal::at(&door.settings.home);
    let from = since
        .hours
        .map(|hours| seconds_since_1970().saturating_sub((hours as u64).saturating_mul(3600)));
    let read = tokio::task::spawn_blocking(move || journal.read()).await;
    let noted = read.map_err(std::io::Error::other).flatten();
    let noted = noted.map_err(|error| Refusal::ours(format!("the network log cannot be read: {error}")))?;
    Ok(Json(noted.report(from)))
}
