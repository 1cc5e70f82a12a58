//! Prompts and resources of the person's servers, offered to programs that speak the protocol with this door.
//!
//! Nobody can be asked for a word here, so offered is only what the entry of a server allows. Each goes by the name of its server,
//! and what a server says is passed on within bounds, field by field.

use heph_privacy::{Clearance, Stays};
use heph_runtime::discretion::{Discretion, unsaid};
use serde_json::{Map, Value, json};

use super::client::{McpError, ear, leave};
use super::config::{Config, Policy, Server};
use super::server::Progress;
use super::{Listening, Next};
use crate::house::Door;

/// Begins the address of a resource here; its server and the address that this has there follow.
const SCHEME: &str = "heph-mcp://";

/// A kind of thing that servers offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Prompts,
    Resources,
    Templates,
}

impl Offer {
    /// How lists of them are asked for.
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// Where they stand in the answer.
    pub(super) fn list(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// What a server that has them says that it can.
    pub(super) fn capability(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Resources | Self::Templates => "resources",
        }
    }

    /// The field that names one, and those that are passed on with it.
    fn fields(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Prompts => ("name", &["title", "description", "arguments"]),
            Self::Resources => ("uri", &["name", "title", "description", "mimeType", "size"]),
            Self::Templates => ("uriTemplate", &["name", "title", "description", "mimeType"]),
        }
    }

    fn policy(self, server: &Server) -> Policy {
        match self {
            Self::Prompts => server.prompts,
            Self::Resources | Self::Templates => server.resources,
        }
    }

    /// What one is called here.
    fn name(self, server: &str, name: &str) -> String {
        match self {
            Self::Prompts => format!("{server}/{name}"),
            Self::Resources | Self::Templates => format!("{SCHEME}{server}/{name}"),
        }
    }

    /// Its server, and what it is called there.
    fn place(self, name: &str) -> Option<(&str, &str)> {
        match self {
            Self::Prompts => name.split_once('/'),
            Self::Resources | Self::Templates => name.strip_prefix(SCHEME)?.split_once('/'),
        }
    }
}

/// What this door says that it can.
pub(super) async fn capabilities(door: &Door) -> Map<String, Value> {
    // What is wrong with the file is told to whoever asks for a list.
    let config = config(door).await.unwrap_or_default();
    let any = |offer: Offer| {
        config
            .servers
            .values()
            .any(|server| offer.policy(server) == Policy::Allow)
    };
    [Offer::Prompts, Offer::Resources]
        .into_iter()
        .filter(|offer| any(*offer))
        .map(|offer| (offer.capability().to_owned(), json!({ "listChanged": false })))
        .collect()
}

/// All of a kind, of all servers that may show theirs. A server that does not answer is named beside them.
///
/// # Errors
/// A sentence where the file of servers is of no use.
pub(super) async fn list(door: &Door, offer: Offer) -> Result<Value, String> {
    let config = config(door).await?;
    let (mut all, mut away) = (Vec::new(), Vec::new());
    for (name, server) in &config.servers {
        if offer.policy(server) != Policy::Allow {
            continue;
        }
        let told = match asked_for(door, &config, name, &json!({})) {
            Ok(leave) => door.servers.offers(&config, name, offer, &leave).await,
            Err(stays) => {
                away.push(json!({ "server": name, "why": stays.to_string() }));
                continue;
            }
        };
        match told {
            Ok(listed) => all.extend(listed.iter().filter_map(|one| shown(offer, name, one))),
            Err(error) => away.push(json!({ "server": name, "why": error.to_string() })),
        }
    }
    let mut answer = json!({ offer.list(): all });
    if !away.is_empty() {
        answer["_meta"] = json!({ "heph/away": away });
    }
    Ok(answer)
}

/// A prompt, filled in by its server, which may tell how far it is.
///
/// # Errors
/// A sentence where there is none, or its server refuses.
pub(super) async fn prompt(door: &Door, params: &Value, progress: Option<Progress>) -> Result<Value, String> {
    let name = params["name"].as_str().unwrap_or_default();
    let mut asked = json!({});
    if params["arguments"].is_object() {
        asked["arguments"] = params["arguments"].clone();
    }
    let said = given(door, Offer::Prompts, name, "prompts/get", asked, progress).await?;
    let message = |one: &Value| {
        let role = one["role"]
            .as_str()
            .filter(|role| ["user", "assistant"].contains(role))?;
        one["content"]
            .is_object()
            .then(|| json!({ "role": role, "content": one["content"] }))
    };
    let messages: Option<Vec<Value>> = said["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(message)
        .collect();
    let messages = messages.ok_or_else(|| format!("the server of {name:?} sent a message that is none"))?;
    let mut answer = json!({ "messages": messages });
    if said["description"].is_string() {
        answer["description"] = said["description"].clone();
    }
    Ok(answer)
}

/// What is in a resource, whose server may tell how far it is.
///
/// # Errors
/// A sentence where there is none, or its server refuses.
pub(super) async fn read(door: &Door, params: &Value, progress: Option<Progress>) -> Result<Value, String> {
    let name = params["uri"].as_str().unwrap_or_default();
    let (server, _) = Offer::Resources.place(name).unwrap_or_default();
    let asked = given(
        door,
        Offer::Resources,
        name,
        "resources/read",
        json!({}),
        progress,
    );
    let said = asked.await?;
    let content = |one: &Value| {
        let kind = ["text", "blob"].into_iter().find(|kind| one[*kind].is_string())?;
        let mut shown = shown_fields(one, &["mimeType", kind]);
        let uri = Offer::Resources.name(server, one["uri"].as_str()?);
        shown.insert("uri".to_owned(), uri.into());
        Some(Value::Object(shown))
    };
    let contents: Option<Vec<Value>> = said["contents"]
        .as_array()
        .into_iter()
        .flatten()
        .map(content)
        .collect();
    let contents = contents.ok_or_else(|| format!("the server of {name:?} sent a content that is none"))?;
    Ok(json!({ "contents": contents }))
}

/// Leave to ask a server for something: as private as what is found in it.
fn asked_for(door: &Door, config: &Config, server: &str, asked: &Value) -> Result<Clearance, Stays> {
    let discretion = Discretion::new(&door.rules, unsaid());
    discretion.about([asked.to_string().as_str()]);
    leave(config, server, &discretion)
}

/// What a server says of the one thing that is called `name` here.
async fn given(
    door: &Door,
    offer: Offer,
    name: &str,
    method: &str,
    mut asked: Value,
    progress: Option<Progress>,
) -> Result<Value, String> {
    let config = config(door).await?;
    let unknown = || format!("there is no {name:?}; {} names what there is", offer.method());
    let (server, there) = offer.place(name).ok_or_else(unknown)?;
    // What is not offered is told of as what is not there.
    let entry = config.servers.get(server).ok_or_else(unknown)?;
    if offer.policy(entry) != Policy::Allow {
        return Err(unknown());
    }
    asked[offer.fields().0] = there.into();
    let leave = asked_for(door, &config, server, &asked).map_err(|stays| stays.to_string())?;
    let cleared = leave.clear_part(asked);
    let (told, far) = ear();
    let told = progress.as_ref().map(|_| &told);
    let said = door.servers.request(&config, server, method, cleared, told);
    let mut listening = Listening::new(said, far);
    loop {
        match listening.next().await {
            Next::Told(far) => progress.iter().for_each(|progress| progress.pass_on(&far)),
            Next::Said(said) => return said.map_err(|error: McpError| error.to_string()),
        }
    }
}

async fn config(door: &Door) -> Result<Config, String> {
    let home = door.settings.home.clone();
    let read = tokio::task::spawn_blocking(move || Config::read(&home)).await;
    let config = read.map_err(|error| error.to_string())?;
    config.map_err(|error| error.to_string())
}

/// One of a server's list, as it is called here; nothing where it has no name.
fn shown(offer: Offer, server: &str, one: &Value) -> Option<Value> {
    let (named, fields) = offer.fields();
    let name = offer.name(server, one[named].as_str()?);
    let mut shown = shown_fields(one, fields);
    shown.insert(named.to_owned(), name.into());
    Some(Value::Object(shown))
}

fn shown_fields(one: &Value, fields: &[&str]) -> Map<String, Value> {
    let had = fields.iter().filter(|field| !one[**field].is_null());
    had.map(|field| ((*field).to_owned(), one[*field].clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_server() {
        for offer in [Offer::Prompts, Offer::Resources, Offer::Templates] {
            for there in ["file:///a/b c", "x", "", "heph-mcp://b/c", "ü/?#"] {
                let name = offer.name("files", there);
                assert_eq!(offer.place(&name), Some(("files", there)), "{name}");
            }
        }
        assert_eq!(Offer::Resources.place("file:///etc/passwd"), None);
        assert_eq!(Offer::Resources.place("heph-mcp://files"), None);
        assert_eq!(Offer::Prompts.place("files"), None);
    }

    #[test]
    fn what_a_server_lists_is_passed_on_field_by_field() {
        let listed =
            json!({ "uri": "file:///a", "name": "a", "size": 3, "annotations": { "x": 1 }, "title": null });
        assert_eq!(
            shown(Offer::Resources, "files", &listed),
            Some(json!({ "uri": "heph-mcp://files/file:///a", "name": "a", "size": 3 }))
        );
        assert_eq!(shown(Offer::Prompts, "files", &json!({ "title": "x" })), None);
        assert_eq!(shown(Offer::Prompts, "files", &json!(7)), None);
    }
}
