//! The person's servers: started or reached when a model first needs them, and let go of when they do not answer in time.
//!
//! What a server says beside its answers is heard while it is asked: how far it is, and that its tools are others now.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heph_privacy::policy::{Destination, Kind as Place};
use heph_privacy::{Clearance, Cleared, Stays};
use heph_runtime::discretion::Discretion;
use heph_runtime::egress::{self, Errand, Kind};
use heph_runtime::guard::{self, Outlet};
use heph_runtime::seal;
use serde::Serialize;
use serde_json::{Number, Value, json};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};

use super::config::{Config, ConfigError, Policy, Server};
use super::offers::Offer;
use super::{Code, Line, MESSAGE_BYTES_MAX, VERSIONS, failed, line_waited_for};

/// The way of answering as rules name it.
const TOOLS: &str = "tools";

/// Tools of one server that models hear of.
const TOOLS_MAX: usize = 128;

/// Prompts, resources or forms of resources of one server that are told.
const OFFERS_MAX: usize = 1024;

/// Pages of a server's list.
const PAGES_MAX: usize = 16;

/// Bytes of one tool's description and of the shape of what it takes: a model reads all of them.
const TOOL_BYTES_MAX: usize = 16 << 10;

/// Messages that a server may say beside the one that is waited for.
const OTHERS_MAX: usize = 1000;

/// How often a server's word of how far it is goes further; what it says in between is passed over.
const FAR_EVERY: Duration = Duration::from_millis(250);

/// Of those, the ones that wait for whoever is told; more are told to nobody.
const FAR_WAITING: usize = 8;

/// Letters of what a server says to that.
const FAR_WORD_MAX: usize = 200;

/// How long a server may take to hear that its session ends.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

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
    #[error("what is to be told to the server {server:?} was cleared for another place")]
    Elsewhere { server: String },
    #[error("the server {server:?} cannot be reached: {why}")]
    Away { server: String, why: String },
}

impl McpError {
    /// Whether a server may have been told what it was asked.
    pub(crate) fn may_have_told(&self) -> bool {
        match self {
            Self::Config(_) | Self::Unknown(_) | Self::Start { .. } | Self::Elsewhere { .. } => false,
            Self::Silent { .. }
            | Self::Ended { .. }
            | Self::TooLong { .. }
            | Self::Form { .. }
            | Self::Version { .. }
            | Self::Refused { .. }
            | Self::Away { .. } => true,
        }
    }
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

/// How far a server is with what it was asked, by its own word.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Far {
    pub(crate) progress: Number,
    /// What `progress` will be at the end, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

impl Far {
    /// As the parameters of a notice tell it; nothing where they tell no number.
    fn of(params: &Value) -> Option<Self> {
        let word = |word: &str| {
            word.chars()
                .filter(|c| !c.is_control())
                .take(FAR_WORD_MAX)
                .collect()
        };
        Some(Self {
            progress: params["progress"].as_number()?.clone(),
            total: params["total"].as_number().cloned(),
            message: params["message"].as_str().map(word),
        })
    }
}

/// Whom a server tells how far it is with one request.
#[derive(Debug, Clone)]
pub(crate) struct Ear {
    /// By this the server's word is known.
    token: u64,
    to: mpsc::Sender<Far>,
}

/// Numbers the ears of this process.
static EARS: AtomicU64 = AtomicU64::new(1);

/// An ear, and what it hears.
pub(crate) fn ear() -> (Ear, mpsc::Receiver<Far>) {
    let (to, far) = mpsc::channel(FAR_WAITING);
    let token = EARS.fetch_add(1, Ordering::Relaxed);
    (Ear { token, to }, far)
}

/// What is asked, with the wish that `ear` be told how far it is.
fn heard_by(ear: Option<&Ear>, mut params: Value) -> Value {
    if let (Some(ear), Some(params)) = (ear, params.as_object_mut()) {
        params.insert("_meta".to_owned(), json!({ "progressToken": ear.token }));
    }
    params
}

/// What a server says beside the answer that is waited for.
#[derive(Default)]
struct Aside {
    ear: Option<Ear>,
    /// When it was told last.
    told: Option<Instant>,
    /// Its tools are others now.
    changed: bool,
}

impl Aside {
    fn to(ear: Option<&Ear>) -> Self {
        Self {
            ear: ear.cloned(),
            ..Self::default()
        }
    }

    /// Hears a notice. True where it is the word of how far the request is, which may come as often as the server likes.
    fn hears(&mut self, notice: &Value) -> bool {
        match (notice["method"].as_str(), &self.ear) {
            (Some("notifications/tools/list_changed"), _) => self.changed = true,
            (Some("notifications/progress"), Some(ear))
                if notice["params"]["progressToken"] == json!(ear.token) =>
            {
                let is_soon = self.told.is_some_and(|told| told.elapsed() < FAR_EVERY);
                if let Some(far) = Far::of(&notice["params"]).filter(|_| !is_soon) {
                    self.told = Some(Instant::now());
                    // Whoever listens slowly hears of the next one.
                    let _ = ear.to.try_send(far);
                }
                return true;
            }
            _ => {}
        }
        false
    }
}

/// What a call brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Brought {
    pub(crate) text: String,
    /// The tool says itself that it failed.
    pub(crate) failed: bool,
    /// Bytes of the result, without what HTTP and TLS put around them.
    pub(crate) down: u64,
}

/// The links to the servers of a home folder.
pub(crate) struct Servers {
    links: Mutex<BTreeMap<String, Arc<Mutex<Link>>>>,
    /// Who opens connections to those with an address.
    outlet: Outlet,
}

impl Servers {
    /// Those of the home folder of `outlet`, which opens connections to those with an address. None is begun before it is asked.
    pub(crate) fn of(outlet: Outlet) -> Self {
        Self {
            links: Mutex::default(),
            outlet,
        }
    }

    /// The tools of a server, without those that are denied. It is told nothing but that somebody asks.
    pub(crate) async fn tools(
        &self,
        config: &Config,
        name: &str,
        leave: &Clearance,
    ) -> Result<Vec<Tool>, McpError> {
        meant(name, leave.to())?;
        let server = known(config, name)?;
        let link = self.link(name, server, leave).await?;
        // Whoever asks it something now has a deadline of its own.
        let mut link = link.lock().await;
        link.leave = leave.clone();
        let asking = async {
            link.keeps_up().await?;
            let tools = link.tools.iter().map(|tool| Tool {
                policy: server.policy(&tool.name),
                ..tool.clone()
            });
            Ok(tools.filter(|tool| tool.policy != Policy::Deny).collect())
        };
        let tools = within(name, server.deadline(), asking).await;
        self.minded(name, tools).await
    }

    /// Calls a tool with what was cleared for its server ([`call_of`]), which may tell `ear` how far it is. Whether the person lets it
    /// be called was looked at before.
    pub(crate) async fn call(
        &self,
        config: &Config,
        name: &str,
        asked: Cleared<Value>,
        ear: Option<&Ear>,
    ) -> Result<Brought, McpError> {
        let result = self.request(config, name, "tools/call", asked, ear).await;
        result.map(|result| Brought {
            down: result.to_string().len() as u64,
            ..brought(&result)
        })
    }

    /// Asks a server something that was cleared for it. Whether the person lets it be asked was looked at before.
    pub(crate) async fn request(
        &self,
        config: &Config,
        name: &str,
        method: &str,
        params: Cleared<Value>,
        ear: Option<&Ear>,
    ) -> Result<Value, McpError> {
        meant(name, params.to())?;
        let (leave, params) = (params.clearance(), heard_by(ear, params.value().clone()));
        let server = known(config, name)?;
        let link = self.link(name, server, &leave).await?;
        let asking = async {
            let mut link = link.lock().await;
            link.leave = leave;
            link.request(method, params, ear).await
        };
        let result = within(name, server.deadline(), asking).await;
        self.minded(name, result).await
    }

    /// What a server lists of one kind; nothing where it has none of it. It is told nothing but that somebody asks.
    pub(crate) async fn offers(
        &self,
        config: &Config,
        name: &str,
        offer: Offer,
        leave: &Clearance,
    ) -> Result<Vec<Value>, McpError> {
        meant(name, leave.to())?;
        let server = known(config, name)?;
        let link = self.link(name, server, leave).await?;
        let asking = async {
            let mut link = link.lock().await;
            link.leave = leave.clone();
            match link.can[offer.capability()].is_object() {
                true => link.listed(offer.method(), offer.list(), OFFERS_MAX).await,
                false => Ok(Vec::new()),
            }
        };
        let result = within(name, server.deadline(), asking).await;
        self.minded(name, result).await
    }

    /// A server that refuses is well; from any other the next call begins anew.
    async fn minded<T>(&self, name: &str, result: Result<T, McpError>) -> Result<T, McpError> {
        if matches!(&result, Err(error) if !matches!(error, McpError::Refused { .. })) {
            self.links.lock().await.remove(name);
        }
        result
    }

    async fn link(
        &self,
        name: &str,
        server: &Server,
        leave: &Clearance,
    ) -> Result<Arc<Mutex<Link>>, McpError> {
        // Several servers are not begun at once; each has its own deadline.
        let mut links = self.links.lock().await;
        if let Some(link) = links.get(name) {
            let same = link.try_lock().map_or(true, |link| link.server == *server);
            if same {
                return Ok(Arc::clone(link));
            }
        }
        let begin = Link::begin(name, server, &self.outlet, leave);
        let begun = within(name, server.deadline(), begin).await?;
        let link = Arc::new(Mutex::new(begun));
        links.insert(name.to_owned(), Arc::clone(&link));
        Ok(link)
    }
}

/// Leave to tell a server what is made of a request. Where the person wrote no policy, those of `mcp.json` may be told.
///
/// # Errors
/// Why it stays.
pub(crate) fn leave(config: &Config, name: &str, discretion: &Discretion) -> Result<Clearance, Stays> {
    let server = config.servers.get(name);
    let place = server.and_then(|server| server.url.as_ref().or(server.command.as_ref()));
    let to = Destination {
        kind: Place::ToolServer,
        name: name.to_owned(),
        id: place.cloned().unwrap_or_default(),
        region: String::new(),
        retention_days: None,
    };
    let discretion = discretion
        .clone()
        .in_mode(TOOLS)
        .with_usual(vec![guard::named(name)]);
    discretion.clearance(&to)
}

/// What a server is told where one of its tools is called, with the wish that `ear` be told how far it is.
pub(crate) fn call_of(tool: &str, arguments: Cleared<Value>, ear: Option<&Ear>) -> Cleared<Value> {
    arguments.map(|arguments| heard_by(ear, json!({ "name": tool, "arguments": arguments })))
}

/// Bytes of what is to be told, without what carries it.
pub(crate) fn bytes_of(asked: &Cleared<Value>) -> u64 {
    asked.value().to_string().len() as u64
}

/// Whether something was cleared for this server and no other place.
fn meant(name: &str, to: &Destination) -> Result<(), McpError> {
    match (to.kind, to.name.as_str()) == (Place::ToolServer, name) {
        true => Ok(()),
        false => Err(McpError::Elsewhere {
            server: name.to_owned(),
        }),
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
    /// What the server says that it can.
    can: Value,
    tools: Vec<Tool>,
    /// It said that they are others now.
    changed: bool,
    /// By what it is told what it is told now.
    leave: Clearance,
}

enum Way {
    /// A program of ours; it ends with the link.
    Program(Program),
    /// An address.
    Http(Address),
}

/// A server's address, and the session that it keeps for us there.
struct Address {
    agent: ureq::Agent,
    errand: Errand,
    url: String,
    headers: BTreeMap<String, String>,
    session: Option<String>,
    version: Option<String>,
}

impl Address {
    /// No proxy stands between: the guard knows the server by its address.
    fn of(server: &Server, outlet: &Outlet) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(server.deadline()))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build();
        let errand = Errand::new(Kind::Tools, "tools");
        Self {
            agent: egress::agent(config, outlet.clone(), errand.clone()),
            errand,
            url: server.url.clone().unwrap_or_default(),
            headers: server.headers.clone(),
            session: None,
            version: None,
        }
    }

    /// Says what the next request sends, heads that the person named included.
    fn sends(&self, server: &str, leave: &Clearance, body: &str) {
        let heads = self.headers.iter().map(|(name, value)| name.len() + value.len());
        let bytes = heads.sum::<usize>() + body.len();
        self.errand.next(server, Some(leave), bytes as u64);
    }

    /// A request with everything that the server has to see.
    fn headed<B>(&self, mut request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session.as_str());
        }
        if let Some(version) = &self.version {
            request = request.header("mcp-protocol-version", version.as_str());
        }
        request
    }
}

/// A session that nobody needs any more is ended, so that the server need not keep it. The guard lets nothing through while this machine is cut off.
impl Drop for Address {
    fn drop(&mut self) {
        if self.session.is_none() {
            return;
        }
        let request = self.headed(self.agent.delete(&self.url)).config();
        let request = request.timeout_global(Some(GOODBYE_WITHIN)).build();
        // A server that does not know how, or is gone, keeps it or not: that is its own affair.
        let goodbye = move || drop(request.call());
        match Handle::try_current() {
            Ok(threads) => drop(threads.spawn_blocking(goodbye)),
            Err(_) => goodbye(),
        }
    }
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
    async fn begin(
        name: &str,
        server: &Server,
        outlet: &Outlet,
        leave: &Clearance,
    ) -> Result<Self, McpError> {
        let way = match &server.command {
            Some(command) => start(name, command, server)?,
            None => Way::Http(Address::of(server, outlet)),
        };
        let mut link = Self {
            name: name.to_owned(),
            server: server.clone(),
            way,
            next: 1,
            can: Value::Null,
            tools: Vec::new(),
            changed: false,
            leave: leave.clone(),
        };
        let hello = json!({
            "protocolVersion": VERSIONS[0], "capabilities": {},
            "clientInfo": { "name": "heph", "title": "HEPH", "version": env!("CARGO_PKG_VERSION") },
        });
        let mut welcome = link.request("initialize", hello, None).await?;
        link.can = welcome["capabilities"].take();
        let agreed = welcome["protocolVersion"].as_str().unwrap_or_default().to_owned();
        if !VERSIONS.contains(&agreed.as_str()) {
            return Err(McpError::Version {
                server: name.to_owned(),
                version: agreed.chars().take(40).collect(),
            });
        }
        if let Way::Http(address) = &mut link.way {
            address.version = Some(agreed);
        }
        link.notice("notifications/initialized").await?;
        link.learn().await?;
        Ok(link)
    }

    /// Learns anew which tools there are where the server said that they are others now. One with an address is asked each time where
    /// it says that it may change them: nothing of it is heard in between.
    async fn keeps_up(&mut self) -> Result<(), McpError> {
        match &mut self.way {
            Way::Program(program) => {
                let mut aside = Aside::default();
                for _ in 0..OTHERS_MAX {
                    let Ok(line) = program.from.try_recv() else { break };
                    // An answer here is one that nobody waited for.
                    taken(&self.name, program, line, 0, &mut aside).await?;
                }
                self.changed |= aside.changed;
            }
            Way::Http(_) => self.changed |= self.can["tools"]["listChanged"] == json!(true),
        }
        if std::mem::take(&mut self.changed) {
            self.learn().await?;
        }
        Ok(())
    }

    /// Learns which tools there are.
    async fn learn(&mut self) -> Result<(), McpError> {
        // A server of prompts alone need not know of tools; one that says nothing of itself is asked.
        if self.can.is_object()
            && self.can["tools"].is_null()
            && self.can.as_object().is_some_and(|can| !can.is_empty())
        {
            return Ok(());
        }
        let listed = self.listed("tools/list", "tools", TOOLS_MAX).await?;
        self.tools = listed.iter().filter_map(tool).collect();
        Ok(())
    }

    /// What the server lists in answer to `method` under `list`, page by page.
    async fn listed(&mut self, method: &str, list: &str, most: usize) -> Result<Vec<Value>, McpError> {
        let mut all: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let page = after
                .as_ref()
                .map_or_else(|| json!({}), |cursor| json!({ "cursor": cursor }));
            let mut page = self.request(method, page, None).await?;
            after = page["nextCursor"].as_str().map(str::to_owned);
            if let Value::Array(listed) = page[list].take() {
                let short = |one: &Value| one.to_string().len() <= TOOL_BYTES_MAX;
                all.extend(listed.into_iter().filter(short));
            }
            all.truncate(most);
            if after.is_none() || all.len() == most {
                break;
            }
        }
        Ok(all)
    }

    async fn notice(&mut self, method: &str) -> Result<(), McpError> {
        let said = json!({ "jsonrpc": "2.0", "method": method });
        match &mut self.way {
            Way::Program(program) => write(&self.name, program, &said).await,
            Way::Http(_) => self.post(&said, None, Aside::default()).await.map(drop),
        }
    }

    /// Asks and waits for the answer; how long is the caller's affair. Meanwhile `ear` is told how far it is.
    async fn request(&mut self, method: &str, params: Value, ear: Option<&Ear>) -> Result<Value, McpError> {
        let id = self.next;
        self.next += 1;
        let mut aside = Aside::to(ear);
        let asked = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let mut answer = match &mut self.way {
            Way::Program(program) => {
                write(&self.name, program, &asked).await?;
                let answer = heard(&self.name, program, id, &mut aside).await?;
                self.changed |= aside.changed;
                answer
            }
            Way::Http(_) => self.post(&asked, Some(id), aside).await?,
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
    async fn post(&mut self, message: &Value, id: Option<u64>, aside: Aside) -> Result<Value, McpError> {
        let Way::Http(address) = &mut self.way else {
            return Err(McpError::Ended {
                server: self.name.clone(),
            });
        };
        let request = address.headed(address.agent.post(&address.url));
        let request = request
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        let (body, server) = (message.to_string(), self.name.clone());
        address.sends(&server, &self.leave, &body);
        let done = tokio::task::spawn_blocking(move || exchanged(&server, request, &body, id, aside)).await;
        let away = |why: String| McpError::Away {
            server: self.name.clone(),
            why,
        };
        let Exchange {
            answer,
            session,
            changed,
        } = done.map_err(|e| away(e.to_string()))??;
        if session.is_some() {
            address.session = session;
        }
        self.changed |= changed;
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
    let mut starting = Command::new(command);
    starting
        .args(&server.args)
        .env_clear()
        .envs(passed_on)
        .envs(&server.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What it says there may hold what it was asked, and our logs hold none of that.
        .stderr(Stdio::null());
    // What the person's programs reach is their own affair.
    let mut child = seal::unsealed(move || starting.spawn()).map_err(refused)?;
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

/// The answer with that id.
async fn heard(name: &str, program: &mut Program, id: u64, aside: &mut Aside) -> Result<Value, McpError> {
    let mut others = 0;
    while others < OTHERS_MAX {
        let line = program.from.recv().await.ok_or_else(|| McpError::Ended {
            server: name.to_owned(),
        })?;
        match taken(name, program, line, id, aside).await? {
            Taken::Answer(message) => return Ok(message),
            Taken::Far => {}
            Taken::Other => others += 1,
        }
    }
    Err(McpError::Form {
        server: name.to_owned(),
        why: format!("{OTHERS_MAX} other messages"),
    })
}

/// What a line of a server's program was.
enum Taken {
    /// The answer that is waited for.
    Answer(Value),
    /// How far it is.
    Far,
    Other,
}

/// Takes a line of a server's program while the answer `id` is waited for. What the server wants to know meanwhile is answered: that
/// it may ask nothing here.
async fn taken(
    name: &str,
    program: &Program,
    line: Line,
    id: u64,
    aside: &mut Aside,
) -> Result<Taken, McpError> {
    let server = || name.to_owned();
    let bytes = match line {
        Line::TooLong => return Err(McpError::TooLong { server: server() }),
        Line::Whole(bytes) if bytes.trim_ascii().is_empty() => return Ok(Taken::Other),
        Line::Whole(bytes) => bytes,
    };
    let message: Value = serde_json::from_slice(&bytes).map_err(|why| McpError::Form {
        server: server(),
        why: why.to_string(),
    })?;
    if message.get("method").is_none() {
        return Ok(match message["id"] == json!(id) {
            true => Taken::Answer(message),
            false => Taken::Other,
        });
    }
    let Some(theirs) = message.get("id") else {
        return Ok(match aside.hears(&message) {
            true => Taken::Far,
            false => Taken::Other,
        });
    };
    let answer = match message["method"].as_str() {
        Some("ping") => super::done(theirs, &json!({})),
        _ => failed(theirs, Code::Method, "nothing is answered on this side"),
    };
    write(name, program, &answer).await?;
    Ok(Taken::Other)
}

/// What an exchange over HTTP brought.
struct Exchange {
    answer: Value,
    /// The session that the server names.
    session: Option<String>,
    /// It said that its tools are others now.
    changed: bool,
}

/// One exchange over HTTP. The agent's deadline holds for all of it.
fn exchanged(
    server: &str,
    request: ureq::RequestBuilder<ureq::typestate::WithBody>,
    body: &str,
    id: Option<u64>,
    mut aside: Aside,
) -> Result<Exchange, McpError> {
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
    let session = named.filter(|session| session.len() <= 256).map(str::to_owned);
    let exchange = |answer, changed| Exchange {
        answer,
        session,
        changed,
    };
    let Some(id) = id else {
        return Ok(exchange(Value::Null, false));
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
            true => Ok(exchange(message, false)),
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
                match message.get("method").is_some() {
                    true => drop(aside.hears(&message)),
                    false if message["id"] == json!(id) => return Ok(exchange(message, aside.changed)),
                    false => {}
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
        down: 0,
    }
}

#[cfg(test)]
mod tests {
    use heph_privacy::Purpose;
    use heph_privacy::label::Label;
    use heph_privacy::policy::{Policies, Policy as OfPerson, Preset};

    use super::*;

    #[test]
    fn a_server_is_not_told_what_was_cleared_for_another_place() {
        let home = tempfile::tempdir().unwrap();
        let cleared = |kind, name: &str| {
            let to = Destination {
                kind,
                name: name.to_owned(),
                id: String::new(),
                region: String::new(),
                retention_days: None,
            };
            let purpose = Purpose {
                to: &to,
                mode: "tools",
                credits: 0,
            };
            let policies = Policies::new(OfPerson::of(Preset::Open), Vec::new());
            Clearance::of(&Label::public(), purpose, &policies)
                .unwrap()
                .clear_part(json!({}))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let call = |arguments| {
            let (servers, config) = (Servers::of(Outlet::at(home.path(), &[])), Config::default());
            runtime.block_on(servers.call(&config, "far", call_of("echo", arguments, None), None))
        };
        for (kind, name) in [(Place::ToolServer, "near"), (Place::Provider, "far")] {
            let said = call(cleared(kind, name));
            assert!(matches!(said, Err(McpError::Elsewhere { .. })), "{said:?}");
        }
        let said = call(cleared(Place::ToolServer, "far"));
        assert!(matches!(said, Err(McpError::Unknown(_))), "{said:?}");
    }
}
