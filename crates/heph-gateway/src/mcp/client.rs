//! The person's servers: started or reached when a model first needs them, and let go of when they do not answer in time.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use super::config::{Config, ConfigError, Policy, Server};
use super::{Code, Line, MESSAGE_BYTES_MAX, VERSIONS, failed, line_waited_for};

/// Tools of one server that models hear of.
const TOOLS_MAX: usize = 128;

/// Pages of a server's list of tools.
const PAGES_MAX: usize = 16;

/// Bytes of one tool's description and of the shape of what it takes: a model reads all of them.
const TOOL_BYTES_MAX: usize = 16 << 10;

/// Messages that a server may say beside the one that is waited for.
const OTHERS_MAX: usize = 1000;

/// Messages that wait between a server's pipes and us: four of the longest are what it may make us keep.
const PIPED: usize = 4;

/// Of our settings those that a program needs to run; tokens and keys are not among them.
const PASSED_ON: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SHELL",
    "SystemRoot",
    "APPDATA",
];

/// Why a server's tools are not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum McpError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("there is no server {0:?} in mcp.json")]
    Unknown(String),
    #[error("the server {server:?} cannot be started: {cause}")]
    Start {
        server: String,
        #[source]
        cause: io::Error,
    },
    #[error("the server {server:?} did not answer within {} s", within.as_secs())]
    Silent { server: String, within: Duration },
    #[error("the server {server:?} ended the connection")]
    Ended { server: String },
    #[error("the server {server:?} sent a message of more than {} MiB", MESSAGE_BYTES_MAX >> 20)]
    TooLong { server: String },
    #[error("the server {server:?} sent what is no answer: {why}")]
    Form { server: String, why: String },
    #[error("the server {server:?} speaks version {version:?} of the protocol, which is not spoken here")]
    Version { server: String, version: String },
    #[error("the server {server:?} refused: {message}")]
    Refused { server: String, message: String },
    #[error("the server {server:?} cannot be reached: {why}")]
    Away { server: String, why: String },
}

/// A tool of a server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: String,
    /// What it takes, as a JSON schema.
    pub(crate) takes: Value,
    pub(crate) policy: Policy,
}

/// What a call brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Brought {
    pub(crate) text: String,
    /// The tool says itself that it failed.
    pub(crate) failed: bool,
}

/// The links to the servers of a home folder.
#[derive(Default)]
pub(crate) struct Servers {
    links: Mutex<BTreeMap<String, Arc<Mutex<Link>>>>,
}

impl Servers {
    /// The tools of a server, without those that are denied.
    pub(crate) async fn tools(&self, config: &Config, name: &str) -> Result<Vec<Tool>, McpError> {
        let server = known(config, name)?;
        let link = self.link(name, server).await?;
        let link = link.lock().await;
        let tools = link.tools.iter().map(|tool| Tool {
            policy: server.policy(&tool.name),
            ..tool.clone()
        });
        Ok(tools.filter(|tool| tool.policy != Policy::Deny).collect())
    }

    /// Calls a tool. Whether it may be called was looked at before.
    pub(crate) async fn call(
        &self,
        config: &Config,
        name: &str,
        tool: &str,
        arguments: &Value,
    ) -> Result<Brought, McpError> {
        let server = known(config, name)?;
        let link = self.link(name, server).await?;
        let asked = json!({ "name": tool, "arguments": arguments });
        let result = {
            let mut link = link.lock().await;
            within(name, server.deadline(), link.request("tools/call", asked)).await
        };
        // A server that refuses is well; from any other the next call begins anew.
        if matches!(&result, Err(error) if !matches!(error, McpError::Refused { .. })) {
            self.links.lock().await.remove(name);
        }
        result.map(|result| brought(&result))
    }

    async fn link(&self, name: &str, server: &Server) -> Result<Arc<Mutex<Link>>, McpError> {
        // Several servers are not begun at once; each has its own deadline.
        let mut links = self.links.lock().await;
        if let Some(link) = links.get(name) {
            let same = link.try_lock().map_or(true, |link| link.server == *server);
            if same {
                return Ok(Arc::clone(link));
            }
        }
        let begun = within(name, server.deadline(), Link::begin(name, server)).await?;
        let link = Arc::new(Mutex::new(begun));
        links.insert(name.to_owned(), Arc::clone(&link));
        Ok(link)
    }
}

fn known<'a>(config: &'a Config, name: &str) -> Result<&'a Server, McpError> {
    config
        .servers
        .get(name)
        .ok_or_else(|| McpError::Unknown(name.to_owned()))
}

async fn within<T>(
    name: &str,
    deadline: Duration,
    what: impl Future<Output = Result<T, McpError>>,
) -> Result<T, McpError> {
    let late = |_| McpError::Silent {
        server: name.to_owned(),
        within: deadline,
    };
    tokio::time::timeout(deadline, what).await.map_err(late)?
}

/// A connection to one server, after both have said who they are.
struct Link {
    name: String,
    server: Server,
    way: Way,
    next: u64,
    tools: Vec<Tool>,
}

enum Way {
    /// A program of ours; it ends with the link.
    Program(Program),
    /// An address.
    Http {
        agent: ureq::Agent,
        session: Option<String>,
        version: Option<String>,
    },
}

/// A server's program and the two threads that wait for its pipes.
struct Program {
    child: Child,
    to: mpsc::Sender<String>,
    from: mpsc::Receiver<Line>,
}

/// A program that does not answer has no say in how it ends.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Link {
    async fn begin(name: &str, server: &Server) -> Result<Self, McpError> {
        let way = match &server.command {
            Some(command) => start(name, command, server)?,
            None => Way::Http {
                agent: ureq::Agent::new_with_config(
                    ureq::Agent::config_builder()
                        .timeout_global(Some(server.deadline()))
                        .http_status_as_error(false)
                        .max_redirects(0)
                        .build(),
                ),
                session: None,
                version: None,
            },
        };
        let mut link = Self {
            name: name.to_owned(),
            server: server.clone(),
            way,
            next: 1,
            tools: Vec::new(),
        };
        let hello = json!({
            "protocolVersion": VERSIONS[0], "capabilities": {},
            "clientInfo": { "name": "heph", "title": "HEPH", "version": env!("CARGO_PKG_VERSION") },
        });
        let welcome = link.request("initialize", hello).await?;
        let agreed = welcome["protocolVersion"].as_str().unwrap_or_default().to_owned();
        if !VERSIONS.contains(&agreed.as_str()) {
            return Err(McpError::Version {
                server: name.to_owned(),
                version: agreed.chars().take(40).collect(),
            });
        }
        if let Way::Http { version, .. } = &mut link.way {
            *version = Some(agreed);
        }
        link.notice("notifications/initialized").await?;
        link.learn().await?;
        Ok(link)
    }

    /// Learns which tools there are.
    async fn learn(&mut self) -> Result<(), McpError> {
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let page = after
                .as_ref()
                .map_or_else(|| json!({}), |cursor| json!({ "cursor": cursor }));
            let page = self.request("tools/list", page).await?;
            let listed = page["tools"].as_array().into_iter().flatten().filter_map(tool);
            self.tools.extend(listed);
            self.tools.truncate(TOOLS_MAX);
            after = page["nextCursor"].as_str().map(str::to_owned);
            if after.is_none() || self.tools.len() == TOOLS_MAX {
                break;
            }
        }
        Ok(())
    }

    async fn notice(&mut self, method: &str) -> Result<(), McpError> {
        let said = json!({ "jsonrpc": "2.0", "method": method });
        match &mut self.way {
            Way::Program(program) => write(&self.name, program, &said).await,
            Way::Http { .. } => self.post(&said, None).await.map(drop),
        }
    }

    /// Asks and waits for the answer; how long is the caller's affair.
    async fn request(&mut self, method: &str, params: Value) -> Result<Value, McpError> {
        let id = self.next;
        self.next += 1;
        let asked = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let mut answer = match &mut self.way {
            Way::Program(program) => {
                write(&self.name, program, &asked).await?;
                heard(&self.name, program, id).await?
            }
            Way::Http { .. } => self.post(&asked, Some(id)).await?,
        };
        if let Some(error) = answer.get("error") {
            let message = error["message"].as_str().unwrap_or("without a word");
            return Err(McpError::Refused {
                server: self.name.clone(),
                message: message.chars().take(500).collect(),
            });
        }
        Ok(answer["result"].take())
    }

    /// Sends a message to an address; with an id the answer of that id comes back.
    async fn post(&mut self, message: &Value, id: Option<u64>) -> Result<Value, McpError> {
        let Way::Http {
            agent,
            session,
            version,
        } = &mut self.way
        else {
            return Err(McpError::Ended {
                server: self.name.clone(),
            });
        };
        let mut request = agent
            .post(self.server.url.as_deref().unwrap_or_default())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        for (name, value) in &self.server.headers {
            request = request.header(name, value);
        }
        if let Some(session) = session {
            request = request.header("mcp-session-id", session.as_str());
        }
        if let Some(version) = version {
            request = request.header("mcp-protocol-version", version.as_str());
        }
        let (body, server) = (message.to_string(), self.name.clone());
        let done = tokio::task::spawn_blocking(move || exchanged(&server, request, &body, id)).await;
        let away = |why: String| McpError::Away {
            server: self.name.clone(),
            why,
        };
        let (answer, named) = done.map_err(|e| away(e.to_string()))??;
        if let Way::Http { session, .. } = &mut self.way
            && named.is_some()
        {
            *session = named;
        }
        Ok(answer)
    }
}

/// Starts a server's program, with the settings that its entry names and the few that any program needs.
fn start(name: &str, command: &str, server: &Server) -> Result<Way, McpError> {
    let refused = |cause| McpError::Start {
        server: name.to_owned(),
        cause,
    };
    let passed_on = PASSED_ON
        .iter()
        .filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let mut child = Command::new(command)
        .args(&server.args)
        .env_clear()
        .envs(passed_on)
        .envs(&server.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What it says there may hold what it was asked, and our logs hold none of that.
        .stderr(Stdio::null())
        .spawn()
        .map_err(refused)?;
    let ended = || refused(io::ErrorKind::BrokenPipe.into());
    let mut stdin = child.stdin.take().ok_or_else(ended)?;
    let mut stdout = io::BufReader::new(child.stdout.take().ok_or_else(ended)?);
    let (to, mut said) = mpsc::channel::<String>(PIPED);
    let (heard, from) = mpsc::channel(PIPED);
    std::thread::spawn(move || {
        while let Some(line) = said.blocking_recv() {
            if stdin
                .write_all(line.as_bytes())
                .and_then(|()| stdin.flush())
                .is_err()
            {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        while let Ok(Some(line)) = line_waited_for(&mut stdout, MESSAGE_BYTES_MAX) {
            if heard.blocking_send(line).is_err() {
                return;
            }
        }
    });
    Ok(Way::Program(Program { child, to, from }))
}

async fn write(name: &str, program: &Program, message: &Value) -> Result<(), McpError> {
    let ended = |_| McpError::Ended {
        server: name.to_owned(),
    };
    program.to.send(format!("{message}\n")).await.map_err(ended)
}

/// The answer with that id. What the server wants to know meanwhile is answered: that it may ask nothing here.
async fn heard(name: &str, program: &mut Program, id: u64) -> Result<Value, McpError> {
    let server = || name.to_owned();
    for _ in 0..OTHERS_MAX {
        let bytes = match program.from.recv().await {
            None => return Err(McpError::Ended { server: server() }),
            Some(Line::TooLong) => return Err(McpError::TooLong { server: server() }),
            Some(Line::Whole(bytes)) if bytes.trim_ascii().is_empty() => continue,
            Some(Line::Whole(bytes)) => bytes,
        };
        let message: Value = serde_json::from_slice(&bytes).map_err(|why| McpError::Form {
            server: server(),
            why: why.to_string(),
        })?;
        if message.get("method").is_some() {
            if let Some(theirs) = message.get("id") {
                let answer = match message["method"].as_str() {
                    Some("ping") => super::done(theirs, &json!({})),
                    _ => failed(theirs, Code::Method, "nothing is answered on this side"),
                };
                write(name, program, &answer).await?;
            }
        } else if message["id"] == json!(id) {
            return Ok(message);
        }
    }
    Err(McpError::Form {
        server: server(),
        why: format!("{OTHERS_MAX} other messages"),
    })
}

/// One exchange over HTTP, and the session that the server names. The agent's deadline holds for all of it.
fn exchanged(
    server: &str,
    request: ureq::RequestBuilder<ureq::typestate::WithBody>,
    body: &str,
    id: Option<u64>,
) -> Result<(Value, Option<String>), McpError> {
    let server = || server.to_owned();
    let form = |why: String| McpError::Form {
        server: server(),
        why,
    };
    let response = request.send(body).map_err(|error| McpError::Away {
        server: server(),
        why: error.to_string(),
    })?;
    let status = response.status();
    if !status.is_success() {
        return Err(McpError::Away {
            server: server(),
            why: format!("it answers {status}"),
        });
    }
    let named = response
        .headers()
        .get("mcp-session-id")
        .and_then(|value| value.to_str().ok());
    let named = named.filter(|session| session.len() <= 256).map(str::to_owned);
    let Some(id) = id else {
        return Ok((Value::Null, named));
    };
    let kind = response
        .headers()
        .get("content-type")
        .and_then(|kind| kind.to_str().ok());
    let is_stream = kind.is_some_and(|kind| kind.starts_with("text/event-stream"));
    let reader = response
        .into_body()
        .into_with_config()
        .limit(MESSAGE_BYTES_MAX as u64)
        .reader();
    let broken = |error: io::Error| match error.to_string().contains("limit") {
        true => McpError::TooLong { server: server() },
        false => McpError::Away {
            server: server(),
            why: error.to_string(),
        },
    };
    if !is_stream {
        let text = io::read_to_string(reader).map_err(broken)?;
        let message: Value = serde_json::from_str(&text).map_err(|why| form(why.to_string()))?;
        return match message["id"] == json!(id) {
            true => Ok((message, named)),
            false => Err(form("it answers another question".to_owned())),
        };
    }
    // A stream stays open after its answer with some servers: it is read no further than that.
    let mut data = String::new();
    for line in io::BufReader::new(reader).lines() {
        let line = line.map_err(broken)?;
        match line.strip_prefix("data:") {
            Some(rest) => data.push_str(rest.strip_prefix(' ').unwrap_or(rest)),
            None if line.is_empty() && !data.is_empty() => {
                let message: Value = serde_json::from_str(&data).map_err(|why| form(why.to_string()))?;
                if message["id"] == json!(id) && message.get("method").is_none() {
                    return Ok((message, named));
                }
                data.clear();
            }
            None => {}
        }
    }
    Err(McpError::Ended { server: server() })
}

/// A tool as a server lists it; nothing where it has no name that a model could say, or says too much.
fn tool(listed: &Value) -> Option<Tool> {
    let name = listed["name"]
        .as_str()
        .filter(|name| (1..=64).contains(&name.len()))?;
    let takes = match &listed["inputSchema"] {
        schema @ Value::Object(_) => schema.clone(),
        _ => json!({ "type": "object" }),
    };
    let description = listed["description"].as_str().unwrap_or_default();
    (description.len() + takes.to_string().len() <= TOOL_BYTES_MAX).then(|| Tool {
        name: name.to_owned(),
        description: description.to_owned(),
        takes,
        policy: Policy::Ask,
    })
}

/// The texts of a result; what is no text is named.
fn brought(result: &Value) -> Brought {
    let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => text.to_owned(),
        (Some("resource"), _) if part["resource"]["text"].is_string() => {
            part["resource"]["text"].as_str().unwrap_or_default().to_owned()
        }
        (kind, _) => format!("[{} that was left out]", kind.unwrap_or("something")),
    };
    let parts: Vec<String> = result["content"]
        .as_array()
        .into_iter()
        .flatten()
        .map(part)
        .collect();
    let text = match parts.is_empty() && !result["structuredContent"].is_null() {
        true => result["structuredContent"].to_string(),
        false => parts.join("\n"),
    };
    Brought {
        text,
        failed: result["isError"] == json!(true),
    }
}
