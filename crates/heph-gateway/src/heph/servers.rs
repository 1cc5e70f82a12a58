//! The person's servers of tools, by name: what a chat may ask to use.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::house::Door;
use crate::mcp::client::McpError;
use crate::mcp::config::Config;

/// Names the servers of `mcp.json`, and what their tools may do. Starts none of them.
#[utoipa::path(get, path = "/heph/v1/servers", tag = "HEPH",
    responses((status = 200, description = "The servers, each with its name, whether it is a program or an address, and its policies"),
              (status = 500, description = "The file cannot be read")))]
pub(crate) async fn list(State(door): State<Door>) -> Result<Json<Value>, Refusal> {
    let home = door.settings.home.clone();
    let config = tokio::task::spawn_blocking(move || Config::read(&home))
        .await
        .map_err(Refusal::ours)?;
    let config = config.map_err(McpError::from)?;
    let servers = config.servers.iter().map(|(name, server)| {
        let kind = if server.url.is_some() {
            "address"
        } else {
            "program"
        };
        json!({ "name": name, "kind": kind, "tools": server.tools, "others": server.others })
    });
    Ok(Json(json!({ "servers": servers.collect::<Vec<_>>() })))
}
