//! `heph node`: lend this machine to others.

mod backend;

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use heph_engine::model::Packing;
use heph_kernels::kv::KvFormat;
use heph_net::address::RelayAddress;
use heph_net::discovery::Discovery;
use heph_net::endpoint::{AtRelay, EndpointOptions};
use heph_net::ticket::Ticket;
use heph_providers::Address;
use heph_runtime::attendance::Attendance;
use heph_runtime::cancel::Cancel;
use heph_runtime::guard::{Lends, Outlet};
use heph_runtime::hardware::Hardware;
use heph_runtime::members::{Claim, Load, Members};
use heph_runtime::network::Network;
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::pressure::Pressure;
use heph_runtime::profile;
use heph_runtime::serve::{ServeRules, Serving, serve};
use heph_runtime::settings::Settings;
use heph_runtime::shards::{Intake, Shard, Shelf};
use heph_runtime::store::Progress;
use heph_types::{
    Exactness, Held, LayerRange, ModelHash, NodeId, NodeProfile, NodeState, Price, Role, Speed, hex,
};
use serde::Serialize;

use crate::asking;
use crate::caps::{CapsArguments, bytes};
use crate::commands::providers::rates;
use crate::engine::{Engine, EngineArguments};
use crate::failure::{Exit, Failure};
use crate::machine;
use crate::terminal::{self, Style};
use backend::Backed;

/// The usual port, so that an address that was met once stays right.
const PORT: u16 = 7842;

/// Longest that a ticket may work: a year.
const TICKET_MINUTES_MAX: u64 = 366 * 24 * 60;

/// How often a running node looks whether it should stop, who is there and whether it is its hour.
const LOOK: Duration = Duration::from_millis(200);

/// How often it looks what the disk has room for.
const DISK_LOOK: Duration = Duration::from_secs(3);

/// How long the goodbye to all peers may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// How long a relay may take to know this machine before the ticket is printed without waiting any further.
const RELAY_DEADLINE: Duration = Duration::from_secs(5);

/// How long a relay may be away before that is said: one that begins anew is back sooner.
const RELAY_MISSED_AFTER: Duration = Duration::from_secs(3);

/// Lend this machine's models to your other machines.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints a ticket, as text and as a picture: `heph join TICKET` on another machine makes the two \
                        meet. At a terminal, Enter prints another ticket; each works once. Ctrl-C ends the node."
)]
pub(crate) struct Arguments {
    /// A model to lend; may be given several times [default: heph-story, unless layers are fetched]
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// Lend the model by a serving engine that runs it, as in `openai:http://127.0.0.1:8000/v1`: what it answers is of the
    /// class `unknown`. The engine is one that takes and tells tokens: vLLM, SGLang, or `heph serve`
    #[arg(long, value_name = "openai:ADDRESS", value_parser = backend::address)]
    backend: Option<Address>,
    /// What the engine calls the model [default: the only one that it has]
    #[arg(long, value_name = "MODEL", requires = "backend")]
    backend_model: Option<String>,
    /// The variable that holds the engine's key
    #[arg(long, value_name = "VARIABLE", requires = "backend")]
    backend_key_env: Option<String>,
    /// Let the machines that this one has met fetch layers of the models that it lends
    #[arg(long)]
    offer: bool,
    /// Fetch layers of this model from machines that offer it, and lend them: its hash, as `heph node --offer` prints it there
    #[arg(long, value_name = "HASH", value_parser = content, requires = "layers", conflicts_with = "backend")]
    fetch: Option<ModelHash>,
    /// Which layers to fetch, as 0..8
    #[arg(long, value_name = "FROM..TO", value_parser = layers, requires = "fetch")]
    layers: Option<LayerRange>,
    /// Take layers that your other machines send when their plans need them here, up to so many bytes on the disk, as 4GB, and
    /// lend them; nobody else's
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "backend")]
    accept_layers: Option<u64>,
    /// What the work costs here: credits for a million tokens of prompts and of answers, as 0.5,1.5. It is announced, and
    /// planned with; nothing is charged yet
    #[arg(long, value_name = "PROMPT,ANSWER", value_parser = price)]
    price: Option<Price>,
    /// UDP socket to listen at; port 0 for any free one
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)), value_name = "ADDRESS", value_parser = machine::socket)]
    listen: SocketAddr,
    /// What to call this machine [default: what its system calls it]
    #[arg(long, value_parser = machine::name)]
    name: Option<String>,
    /// What it is to those who ask it: own, cloud, miner or edge
    #[arg(long, default_value = "own")]
    role: Role,
    /// A relay to wait at, as `heph relay` printed it
    #[arg(long, value_name = "ADDRESS")]
    relay: Option<RelayAddress>,
    /// Be found on the local network, also where the address has changed
    #[arg(long)]
    lan: bool,
    /// How long a ticket works
    #[arg(long, default_value = "60", value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=TICKET_MINUTES_MAX))]
    ticket_minutes: u64,
    /// Print the ticket as one JSON object and nothing else
    #[arg(long)]
    json: bool,
    /// End when standard input ends
    #[arg(long, hide = true)]
    while_input_open: bool,
    #[command(flatten)]
    caps: CapsArguments,
}

impl Arguments {
    /// Who has its connections: a guard that is told what it does for others.
    fn outlet(&self, settings: &Settings) -> Outlet {
        let engine = self.backend.as_ref();
        let lends = Lends {
            offers: self.offer,
            engine: engine.map(|address| (address.bare_host().to_owned(), address.port())),
        };
        Outlet::lending(&settings.home, &settings.allow, lends)
    }

    /// The models to lend that lie here.
    fn lent(&self) -> Vec<String> {
        match self.models.is_empty() && self.fetch.is_none() {
            true => vec!["heph-story".to_owned()],
            false => self.models.clone(),
        }
    }

    /// What other machines call the models whose layers they may fetch here.
    fn offered(&self, profile: &NodeProfile) -> Vec<String> {
        let own = profile.holds.iter().map(|held| held.model);
        let own = own.filter(|model| self.offer && Some(*model) != self.fetch);
        own.map(|model| hex::write(&model.0)).collect()
    }
}

fn content(text: &str) -> Result<ModelHash, String> {
    let hash = hex::read(text.trim());
    hash.map(ModelHash)
        .map_err(|error| format!("{error}, as `heph node --offer` prints them"))
}

fn layers(text: &str) -> Result<LayerRange, String> {
    let number = |word: &str| word.trim().parse::<usize>().ok();
    let ends = text
        .split_once("..")
        .and_then(|(from, to)| number(from).zip(number(to)));
    let (from, to) = ends.ok_or_else(|| "two numbers are needed, as 0..8".to_owned())?;
    LayerRange::new(from, to, usize::from(u16::MAX)).map_err(|e| e.to_string())
}

fn price(text: &str) -> Result<Price, String> {
    let rates = rates(text)?;
    Ok(Price {
        prompt_token: rates.prompt / TOKENS_OF_A_RATE,
        answer_token: rates.answer / TOKENS_OF_A_RATE,
    })
}

/// Tokens that a price is said for.
const TOKENS_OF_A_RATE: f64 = 1e6;

fn part_words(layers: LayerRange) -> String {
    format!("layers {}..{}", layers.start(), layers.end())
}

/// What a script reads, a line for each ticket.
#[derive(Debug, Serialize)]
struct Report<'a> {
    node: String,
    name: &'a str,
    models: &'a [String],
    /// What `--fetch` takes on another machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    offers: Vec<String>,
    addresses: Vec<SocketAddr>,
    ticket: String,
    expires_unix_s: u64,
}

/// Lends until Ctrl-C.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let cancel = terminal::cancel_on_ctrl_c()?;
    let threads = arguments.caps.threads_of(settings.threads);
    let endpoint = EndpointOptions {
        bind: arguments.listen,
        relay: arguments.relay.clone(),
        discovery: if arguments.lan {
            Discovery::Lan
        } else {
            Discovery::Off
        },
    };
    let outlet = arguments.outlet(settings);
    let options = machine::lending(settings, arguments.name.as_deref(), endpoint, &outlet);
    let network = Network::start(options)?;
    network
        .endpoint()
        .throttle()
        .limit(arguments.caps.bandwidth.and_then(NonZeroU64::new));
    let lending = lend(arguments, settings, &network, threads)
        .and_then(|lent| Lending::begin(&network, lent, arguments));
    let lending = match lending {
        Ok(lending) => lending,
        Err(failure) => {
            network.close(GOODBYE);
            return Err(failure);
        }
    };
    let mut relay = arguments
        .relay
        .as_ref()
        .map(|relay| Relay::new(relay, arguments.json));
    if !network.block_on(network.endpoint().waiting_at_relay(RELAY_DEADLINE))
        && let Some(relay) = &mut relay
        && let Some(news) = relay.news(&network.endpoint().at_relay(), Instant::now(), Duration::ZERO)
    {
        relay.say(&news);
    }
    let ended = attend(arguments, &network, &lending, relay, &cancel);
    lending.serving.stop();
    lending.members.leave(GOODBYE);
    network.close(GOODBYE);
    ended
}

/// Prints tickets, keeps the hours and says how it goes, until somebody ends it.
fn attend(
    arguments: &Arguments,
    network: &Network,
    lending: &Lending,
    mut relay: Option<Relay>,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let asked = input();
    let mut attendance = Attendance::new(arguments.caps.caps());
    invite(arguments, network, &lending.profile())?;
    let bar = terminal::spinner();
    let (mut look, mut looked) = (None, Instant::now());
    while !cancel.is_raised() {
        if let Some(denied) = network.denied() {
            bar.finish_and_clear();
            return Err(denied.into());
        }
        match asked.recv_timeout(LOOK) {
            Ok(()) => bar.suspend(|| invite(arguments, network, &lending.profile()))?,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) if arguments.while_input_open => break,
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
        }
        if let Some(relay) = &mut relay {
            let standing = network.endpoint().at_relay();
            if let Some(news) = relay.news(&standing, Instant::now(), RELAY_MISSED_AFTER) {
                bar.suspend(|| relay.say(&news));
            }
        }
        lending.be(attendance.look());
        if looked.elapsed() >= DISK_LOOK && look.as_ref().is_none_or(JoinHandle::is_finished) {
            looked = Instant::now();
            look = lending.look_at_disk();
        }
        lending.tell();
        bar.set_message(lending.status());
    }
    bar.finish_and_clear();
    Ok(())
}

/// What is said of the relay that this machine waits at: that it is away, and that it is there again.
struct Relay {
    address: String,
    /// For a script, or for people.
    json: bool,
    /// Since when it is away; `None` while it is there.
    away: Option<Instant>,
    /// Whether that was said.
    said: bool,
}

/// What a script reads of it.
#[derive(Debug, Serialize)]
struct Notice<'a> {
    notice: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    relay: &'a str,
    reached: bool,
}

/// What is news of it.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// It cannot be reached, for this reason where one is known.
    Away(Option<String>),
    /// It is reached again.
    Back,
}

impl Relay {
    fn new(address: &RelayAddress, json: bool) -> Self {
        Self {
            address: address.to_string(),
            json,
            away: None,
            said: false,
        }
    }

    /// What is news at `now`: nothing of a relay that is away for less than `patience`, and each thing once.
    fn news(&mut self, standing: &AtRelay, now: Instant, patience: Duration) -> Option<News> {
        let why = match standing {
            AtRelay::There => {
                self.away = None;
                return std::mem::take(&mut self.said).then_some(News::Back);
            }
            AtRelay::Away(why) => Some(why.clone()),
            AtRelay::Unknown => None,
        };
        let since = *self.away.get_or_insert(now);
        if self.said || now.saturating_duration_since(since) < patience {
            return None;
        }
        self.said = true;
        Some(News::Away(why))
    }

    fn say(&self, news: &News) {
        let address = &self.address;
        let (sentence, hint) = match news {
            News::Back => (format!("the relay {address} is reached again"), None),
            News::Away(why) => {
                let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                (
                    format!("the relay {address} cannot be reached{why}"),
                    Some(RELAY_HINT),
                )
            }
        };
        if self.json {
            terminal::note_json(&Notice {
                notice: &sentence,
                hint,
                relay: address,
                reached: *news == News::Back,
            });
            return;
        }
        terminal::note(&sentence);
        if let Some(hint) = hint {
            terminal::note(&format!("hint: {hint}"));
        }
    }
}

/// What to do about a relay that is away.
const RELAY_HINT: &str = "is `heph relay` running there, at this very address? The node goes on, for machines that reach it directly, and \
                          tries the relay again";

/// The node at work, and whether it takes work now.
struct Lending {
    serving: Serving,
    members: Members,
    _claim: Claim,
    /// What is offered to others, and where layers are taken.
    shelf: Arc<Shelf>,
    /// Bytes of layers that are taken at most, where any are.
    accepts_max: Option<u64>,
    /// What it says of itself; layers that it takes are added.
    profile: Arc<Mutex<NodeProfile>>,
    state: Arc<Mutex<NodeState>>,
    sessions_max: u16,
    /// What the members were told last.
    told: Mutex<Option<(NodeProfile, Load)>>,
}

/// What a node begins with.
struct Start {
    node: Node,
    profile: NodeProfile,
    shelf: Arc<Shelf>,
    /// Opens layers that come later; `None` where none may.
    parts: Option<Parts>,
}

/// Loads parts of models, as far as there is memory.
struct Parts {
    how: EngineArguments,
    sessions: usize,
    settings: Settings,
    memory: Mutex<u64>,
}

impl Parts {
    fn load(&self, part: &Shard, layers: LayerRange) -> Result<Engine, Failure> {
        let name = part_words(layers);
        let mut opened = self
            .how
            .open_found(&name, part.found(), None, self.sessions, &self.settings)?;
        let mut left = held(&self.memory);
        opened.options.memory = Some(*left);
        let engine = opened.try_load(Some(layers), Packing::AtLoad)?;
        let counted = profile::of_model(part.model, &name, engine.model.graph(), engine.model.context());
        let weights = counted.layers.get(layers.iter()).unwrap_or_default().iter();
        *left = left.saturating_sub(weights.map(|layer| layer.weight_bytes).sum());
        Ok(engine)
    }
}

impl Lending {
    fn begin(
        network: &Network,
        Start {
            node,
            profile,
            shelf,
            parts,
        }: Start,
        arguments: &Arguments,
    ) -> Result<Self, Failure> {
        let (node, state) = (Arc::new(node), Arc::new(Mutex::new(NodeState::Open)));
        let profile = Arc::new(Mutex::new(profile));
        let (now, said) = (Arc::clone(&state), Arc::clone(&profile));
        let say = move || NodeProfile {
            state: *held(&now),
            ..held(&said).clone()
        };
        let rules = ServeRules {
            sessions_of_a_peer: arguments.caps.sessions.into(),
            profile: Some(Arc::new(say)),
            ..ServeRules::default()
        };
        let twice = || {
            Failure::new(
                Exit::Usage,
                "another node runs on this machine from the same folder",
            )
            .hint("end it first, or give this one a folder of its own: HEPH_HOME")
        };
        let claim = Claim::take(network.home())?.ok_or_else(twice)?;
        let members = Members::start(network)?;
        let taking = parts.zip(arguments.accept_layers);
        let intake = taking.map(|(parts, most)| {
            let (node, said, taken) = (Arc::clone(&node), Arc::clone(&profile), Arc::downgrade(&shelf));
            Intake::new(most, move |part: Shard| {
                let engine = parts.load(&part, part.layers);
                let engine = engine.map_err(|failure| failure.sentence())?;
                node.lend(part.model, Lent::of(&engine.worker()));
                let takes = taken.upgrade().map_or(0, |shelf| shelf.takes(most));
                let mut said = held(&said);
                said.holds.retain(|known| known.model != part.model);
                said.holds.push(Held {
                    model: part.model,
                    layers: part.layers,
                });
                said.caps.accepts_bytes = takes;
                Ok(())
            })
        });
        // Without an offer it answers those who measure the way.
        shelf.serve(network, intake);
        let said = members.say(&held(&profile), Load::default());
        said.map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
        Ok(Self {
            serving: serve(network, node, rules),
            members,
            _claim: claim,
            shelf,
            accepts_max: arguments.accept_layers,
            profile,
            state,
            sessions_max: arguments.caps.sessions,
            told: Mutex::default(),
        })
    }

    /// What it says of itself.
    fn profile(&self) -> NodeProfile {
        held(&self.profile).clone()
    }

    /// Offers to take no more layers than the disk has room for by now. Beside whatever goes on, since a disk may hang.
    fn look_at_disk(&self) -> Option<JoinHandle<()>> {
        let most = self.accepts_max?;
        let (shelf, profile) = (Arc::clone(&self.shelf), Arc::clone(&self.profile));
        Some(std::thread::spawn(move || {
            let takes = shelf.takes(most);
            held(&profile).caps.accepts_bytes = takes;
        }))
    }

    /// Tells the members what this machine does now, where that is news.
    fn tell(&self) {
        let served = self.serving.served();
        let profile = NodeProfile {
            state: *held(&self.state),
            ..self.profile()
        };
        let load = Load {
            sessions: u32::try_from(served.sessions).unwrap_or(u32::MAX),
            sessions_max: self.sessions_max.into(),
            tokens: served.tokens,
        };
        let mut told = held(&self.told);
        let news = Some((profile.clone(), load));
        if *told != news {
            *told = news;
            let profile = NodeProfile {
                queue: self.serving.queue(),
                ..profile
            };
            // What fitted at the start fits now.
            let _ = self.members.say(&profile, load);
        }
    }

    /// Takes work or not, from now on. Who stops taking work ends what is under way: the desks go on elsewhere.
    fn be(&self, state: NodeState) {
        let mut now = held(&self.state);
        if *now != state {
            *now = state;
            match state {
                NodeState::Open => self.serving.resume(),
                NodeState::OutOfHours | NodeState::OwnerWorks | NodeState::Leaving => self.serving.pause(),
            }
        }
    }

    /// One line on how it goes.
    fn status(&self) -> String {
        let doing = match *held(&self.state) {
            NodeState::Open => "ready",
            NodeState::OutOfHours => "outside its hours",
            NodeState::OwnerWorks => "paused while you work",
            NodeState::Leaving => "leaving",
        };
        let served = self.serving.served();
        let (sessions, desks) = (served.sessions, self.serving.desks().len());
        let met = self.members.count();
        format!(
            "{doing}: {met} machines here, {sessions} sessions of {desks} machines, {} tokens so far",
            served.tokens
        )
    }
}

/// What a lock guards; every change behind it is one step.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Full contexts that a model's caches have room for; more sessions share them.
const CONTEXTS: usize = 4;

/// Loads what is to be lent, and writes down what this machine says of itself.
fn lend(
    arguments: &Arguments,
    settings: &Settings,
    network: &Network,
    threads: usize,
) -> Result<Start, Failure> {
    let shelf = Arc::new(Shelf::new(network.home()));
    let mut memory = Hardware::look().memory_available_bytes;
    if let Some(cap) = arguments.caps.memory {
        memory = memory.min(cap);
    }
    let how = EngineArguments {
        threads: Some(threads),
        ..EngineArguments::with_kv(KvFormat::F16)
    };
    let sessions = usize::from(arguments.caps.sessions);
    let mut node = Node::new(network.node(), NodeCaps { sessions });
    if let Some(pressure) = Pressure::watch() {
        node = node.with_pressure(pressure);
    }
    if let Some(address) = &arguments.backend {
        let Backed {
            node,
            speed,
            held,
            memory,
        } = backend::lend(node, address, arguments, &how, settings)?;
        let profile = NodeProfile {
            exactness: Exactness::Unknown,
            ..profile(arguments, network, speed, memory, vec![held])
        };
        return Ok(Start {
            node,
            profile,
            shelf,
            parts: None,
        });
    }
    let (mut holds, mut speed, mut left) = (Vec::new(), None, memory);
    for name in &arguments.lent() {
        let mut opened = how.open(name, None, sessions.min(CONTEXTS), settings)?;
        opened.options.memory = Some(left);
        let engine = Arc::new(opened.load(Packing::AtLoad)?);
        let hash = opened.hash()?;
        let counted = profile::of_model(hash, name, engine.model.graph(), engine.model.context());
        let weights: u64 = counted.layers.iter().map(|layer| layer.weight_bytes).sum();
        left = left.saturating_sub(weights + counted.head.weight_bytes + counted.embed_bytes);
        let measured = asking::speed(hash, &opened, settings, || Ok(Arc::clone(&engine)))?;
        speed.get_or_insert(measured);
        node = node.with(hash, Lent::of(&engine.worker()));
        let count = counted.layers.len();
        let layers =
            LayerRange::new(0, count, count).map_err(|e| Failure::new(Exit::Input, e.to_string()))?;
        holds.push(Held { model: hash, layers });
        if arguments.offer
            && let Some(found) = opened.sendable()
        {
            // Of several files the parts would have another name than the whole.
            if shelf.put(found)? != hash {
                let sentence =
                    format!("{name} has several files, and only models of one file can be offered");
                return Err(Failure::new(Exit::Usage, sentence));
            }
        }
    }
    let parts = Parts {
        how,
        sessions: sessions.min(CONTEXTS),
        settings: settings.clone(),
        memory: Mutex::new(left),
    };
    let mut brought = Vec::new();
    for (model, layers) in arguments.fetch.iter().zip(arguments.layers) {
        brought.push((fetch(network, &shelf, *model, layers)?, layers));
    }
    if arguments.accept_layers.is_some() {
        // What was taken before is lent again. Of one model one part is, the first that lies there.
        for part in shelf.shards()? {
            let known = brought.iter().any(|(other, _)| other.model == part.model);
            if !known && !holds.iter().any(|known: &Held| known.model == part.model) {
                let layers = part.layers;
                brought.push((part, layers));
            }
        }
    }
    for (part, layers) in brought {
        let engine = parts.load(&part, layers)?;
        let measured = match &speed {
            Some(measured) => measured.clone(),
            None => asking::part_speed(&engine)?,
        };
        speed.get_or_insert(measured);
        node = node.with(part.model, Lent::of(&engine.worker()));
        holds.push(Held {
            model: part.model,
            layers,
        });
    }
    let speed = speed.ok_or_else(|| Failure::new(Exit::Usage, "there is no model to lend"))?;
    let mut profile = profile(arguments, network, speed, memory, holds);
    let most = arguments.accept_layers.unwrap_or(0);
    profile.caps.accepts_bytes = shelf.takes(most);
    Ok(Start {
        node,
        profile,
        shelf,
        parts: Some(parts),
    })
}

fn profile(
    arguments: &Arguments,
    network: &Network,
    speed: Speed,
    memory: u64,
    holds: Vec<Held>,
) -> NodeProfile {
    NodeProfile {
        node: network.node(),
        name: network.name().to_owned(),
        role: arguments.role,
        speed,
        memory,
        holds,
        exactness: Exactness::Exact,
        caps: arguments.caps.caps(),
        state: NodeState::Open,
        queue: Duration::ZERO,
        price: arguments.price.unwrap_or_default(),
    }
}

/// Brings layers from the machines that are known and offer them, with a bar; what arrived before is not brought twice.
fn fetch(network: &Network, shelf: &Shelf, model: ModelHash, layers: LayerRange) -> Result<Shard, Failure> {
    if let Some(part) = shelf.shard(model, layers)? {
        return Ok(part);
    }
    let peers: Vec<NodeId> = network.peers()?.iter().map(|peer| peer.node).collect();
    let bar = terminal::bytes_bar(&format!("fetching {}", part_words(layers)));
    let mut show = |step: heph_net::transfer::Progress| {
        terminal::show(
            &bar,
            Progress {
                done: step.done_bytes,
                total: Some(step.total_bytes),
            },
        );
    };
    let brought = network.block_on(shelf.bring(network, &peers, model, layers, u64::MAX, &mut show));
    bar.finish_and_clear();
    Ok(brought?)
}

/// Prints a new ticket.
fn invite(arguments: &Arguments, network: &Network, profile: &NodeProfile) -> Result<(), Failure> {
    let lasts = Duration::from_secs(arguments.ticket_minutes * 60);
    let ticket = network
        .invite(lasts)
        .map_err(|e| Failure::new(Exit::No, e.to_string()))?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let report = Report {
            node: network.node().to_string(),
            name: network.name(),
            models: &arguments.lent(),
            offers: arguments.offered(profile),
            addresses: network.address().direct,
            ticket: ticket.to_string(),
            expires_unix_s: ticket.expires,
        };
        serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    write_ticket(&mut out, arguments, network, &ticket)?;
    for offered in arguments.offered(profile) {
        writeln!(
            out,
            "Layers can be fetched:\n\n  heph node --fetch {offered} --layers 0..8\n"
        )?;
    }
    Ok(out.flush()?)
}

fn write_ticket(
    out: &mut impl Write,
    arguments: &Arguments,
    network: &Network,
    ticket: &Ticket,
) -> io::Result<()> {
    let style = Style::of_stdout();
    let mut models = arguments.lent();
    models.extend(arguments.layers.map(part_words));
    let models = models.join(", ");
    let address = network
        .address()
        .direct
        .first()
        .map_or(String::new(), |a| format!(" at {a}"));
    writeln!(out, "{} lends {models}{address}.", network.name())?;
    let minutes = arguments.ticket_minutes;
    // What it is to others is theirs to say: this is how.
    let role = match arguments.role {
        Role::Own => String::new(),
        role => format!(" --role {role}"),
    };
    writeln!(
        out,
        "On the other machine, once and within {minutes} minutes:\n\n  heph join {ticket}{role}\n"
    )?;
    if io::stdout().is_terminal()
        && let Some(picture) = ticket.qr()
    {
        writeln!(out, "{picture}")?;
    }
    let more = if io::stdin().is_terminal() {
        "Enter prints another ticket, "
    } else {
        ""
    };
    writeln!(out, "{}", style.dim(&format!("{more}Ctrl-C ends the node.")))
}

/// Rings for each line of standard input, and hangs up when it ends.
fn input() -> Receiver<()> {
    let (ring, rung) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let mut lines = io::stdin().lock();
        // Whoever writes a line without an end gets no second ticket for it.
        while lines
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_line(&mut line)
            .is_ok_and(|n| n > 0)
        {
            line.clear();
            if ring.send(()).is_err() {
                return;
            }
        }
    });
    rung
}

/// Longest line of standard input that counts as one.
const LINE_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_is_away_for_a_while_is_said_to_be_once_and_so_is_its_return() {
        let address: RelayAddress = "https://relay.example:7843".parse().unwrap();
        let mut relay = Relay::new(&address, false);
        let (began, patience) = (Instant::now(), Duration::from_secs(3));
        let refused = AtRelay::Away("refused".to_owned());
        let mut at = |after_ms: u64, standing: &AtRelay| {
            let now = began + Duration::from_millis(after_ms);
            relay.news(standing, now, patience)
        };
        assert_eq!(at(0, &AtRelay::There), None);
        assert_eq!(at(1_000, &refused), None);
        assert_eq!(at(3_900, &AtRelay::There), None, "it was back soon");
        assert_eq!(at(5_000, &AtRelay::Unknown), None);
        assert_eq!(at(7_999, &refused), None);
        assert_eq!(at(8_000, &refused), Some(News::Away(Some("refused".to_owned()))));
        assert_eq!(at(60_000, &refused), None, "it was said");
        assert_eq!(at(61_000, &AtRelay::There), Some(News::Back));
        assert_eq!(at(62_000, &AtRelay::There), None);
    }
}
