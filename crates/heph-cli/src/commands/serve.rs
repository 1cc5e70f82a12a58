//! `heph serve`: the door for other programs and for the page.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use heph_gateway::{
    Bound, CacheChoice, EngineChoice, EngineError, Guard, LocalError, LocalSocket, Options, Pairings, Rate,
    ServeError, Server, Standing, Tls, TlsError, TokenError,
};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_net::picture;
use heph_runtime::bundled;
use heph_runtime::settings::Settings;

use crate::arguments::count;
use crate::caps;
use crate::complete;
use crate::engine::{EngineArguments, threads};
use crate::failure::{Exit, Failure};
use crate::machine;
use crate::terminal;
use standing::{Attached, Socket};

pub(super) mod met;
mod standing;

/// How often the wish to stop is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Answer other programs (OpenAI's, Ollama's and Anthropic's shapes) and show a page.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:11500", value_name = "ADDRESS", value_parser = machine::socket)]
    listen: SocketAddr,
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(long, default_value = bundled::STORY.name, add = complete::model())]
    model: String,
    /// A socket for programs of this user, who need no token there [default: run/gateway.sock in HEPH's home folder]
    #[arg(long, value_name = "PATH", conflicts_with = "no_socket")]
    socket: Option<PathBuf>,
    /// Have no such socket
    #[arg(long)]
    no_socket: bool,
    /// Ask for no token; only where nobody but this machine can come
    #[arg(long)]
    no_auth: bool,
    /// Another name of this machine that callers may use
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// A page of this origin may ask too, as in `https://app.example`
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// The certificate to show, as a PEM file [default beyond loopback: one of our own]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, as a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Answers that run together
    #[arg(long, default_value_t = NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN), value_name = "ANSWERS", value_parser = count)]
    parallel: NonZeroUsize,
    /// Answers that wait for a place; one more is told to come later
    #[arg(long, default_value_t = 512, value_name = "ANSWERS")]
    waiting: usize,
    /// Requests that programs may begin in a minute from one address, or off; one more is told to come later
    #[arg(long, default_value = "30000", value_name = "REQUESTS", value_parser = rate)]
    rate: u32,
    /// Threads to compute with [default: one per core]
    #[arg(long, value_parser = threads)]
    threads: Option<usize>,
    /// How keys and values are stored: f32, f16, q8_0
    #[arg(long, default_value = "f16", value_parser = complete::kv(), hide_possible_values = true)]
    kv: KvFormat,
    /// Tokens of a conversation [default: what the model was made for, up to 8192]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    context: Option<NonZeroUsize>,
    /// Memory for caches of earlier prompts, or off [default: up to 512 MiB of what answers under way leave]
    #[arg(long, value_name = "SIZE", value_parser = room)]
    cache_ram: Option<u64>,
    /// Disk for caches of earlier prompts, or off; see `heph cache`
    #[arg(long, default_value = "off", value_name = "SIZE", value_parser = room)]
    cache_disk: u64,
    /// Write also what must not leave this machine to that disk
    #[arg(long)]
    cache_disk_private: bool,
    /// Give answers again to questions that are alike, of which so many may be wrong at most, as in 2%
    #[arg(long, value_name = "BOUND", value_parser = bound)]
    semantic_cache: Option<Bound>,
    /// Say where it is as a JSON object, a line of its own
    #[arg(long)]
    json: bool,
    /// Where a door of this home folder is open on this machine, say where, and take its place when it closes
    #[arg(long, requires = "json")]
    attach: bool,
    /// Listen on the socket that is standard input, and end with the program of this number, which began this one
    #[arg(long, hide = true, requires = "json", value_name = "PROCESS")]
    inherited: Option<u32>,
}

/// A share below one half, as people write it.
fn bound(text: &str) -> Result<Bound, String> {
    let number = text.strip_suffix('%');
    let share = number.unwrap_or(text).trim().parse::<f64>().ok();
    let share = share.map(|share| if number.is_some() { share / 100.0 } else { share });
    share
        .and_then(Bound::new)
        .ok_or_else(|| format!("{text:?} is no share below one half; write it as 2% or 0.02"))
}

/// So many; `off` is as many as come, and written as 0.
fn rate(text: &str) -> Result<u32, String> {
    match text {
        "off" => Ok(0),
        text => match text.parse::<NonZeroU32>() {
            Ok(most) => Ok(most.get()),
            Err(_) => Err(format!("{text:?} is no number of requests, and not off")),
        },
    }
}

/// A size; `off` is none.
fn room(text: &str) -> Result<u64, String> {
    match text {
        "off" | "0" => Ok(0),
        text => caps::bytes(text),
    }
}

/// Answers until Ctrl-C, or a signal to terminate.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let token = match arguments.no_auth {
        true => None,
        false => Some(heph_gateway::token(&settings.home)?),
    };
    let tls = certificate(arguments, settings)?;
    let cancel = terminal::cancel_on_ctrl_c()?;
    let stop = || cancel.is_raised() || arguments.inherited.is_some_and(standing::is_gone);
    let door = standing::door(arguments, settings, token.as_deref(), stop)?;
    let (local, why_no_local) = match local(arguments, settings, door.claim.is_some()) {
        Ok(local) => (local, None),
        // Nobody asked for it: the door is as open without it, and says so.
        Err(error) if arguments.socket.is_none() => (None, Some(error)),
        Err(error) => return Err(error.into()),
    };
    let engine = EngineArguments {
        threads: arguments.threads,
        context: arguments.context,
        ..EngineArguments::with_kv(arguments.kv)
    };
    if arguments.context.is_some() {
        // A context that the model does not have is told before anything listens.
        engine.open(&arguments.model, None, 1, settings)?;
    }
    let options = Options {
        model: arguments.model.clone(),
        choice: EngineChoice {
            threads: arguments.threads.unwrap_or(settings.threads),
            isa: Isa::best(),
            kv: arguments.kv,
            context: arguments.context.map(NonZeroUsize::get),
            parallel: arguments.parallel.get(),
            waiting: arguments.waiting,
        },
        caches: CacheChoice {
            ram: arguments.cache_ram,
            disk: Some(arguments.cache_disk).filter(|&bytes| bytes > 0),
            disk_private: arguments.cache_disk_private,
        },
        recall: arguments.semantic_cache,
        settings: settings.clone(),
        guard: Guard {
            token: token.clone(),
            hosts: arguments.allow_host.clone(),
            origins: arguments.allow_origin.clone(),
            pairings: Arc::new(Pairings::at(&settings.home)),
            rate: Arc::new(Rate::new(NonZeroU32::new(arguments.rate))),
        },
        machines: Some(Arc::new(met::Met::new(&arguments.model, engine, settings))),
        tls: tls.clone(),
    };
    let server = match door.socket {
        Socket::Inherited(listener) => Server::on(listener, options)?,
        Socket::At(address) => Server::open(address, options)?,
    };
    let socket = local.as_ref().map(|local| local.path().to_owned());
    let server = match local {
        Some(local) => server.also_at(local),
        None => server,
    };
    let address = server.address()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let standing = Standing {
        address: format!("{scheme}://{address}"),
        model: arguments.model.clone(),
        auth: token.is_some(),
        pid: std::process::id(),
        socket,
    };
    if let Some(claim) = &door.claim {
        claim.tell(&standing)?;
    }
    match arguments.json {
        true => standing::say(&standing, token.as_deref(), Attached::No)?,
        false => {
            tell(&standing, address, token.as_deref(), tls.as_ref())?;
            if let Some(error) = why_no_local {
                writeln!(io::stdout(), "no local socket: {error}")?;
            }
        }
    }
    // Only now: a signal to terminate ends a model that is being loaded at once.
    terminal::cancel_on_any_signal()?;
    server.run(|| {
        std::thread::sleep(LOOK_EVERY);
        stop()
    })?;
    Ok(())
}

/// The local socket: the one that was named, or that of the home folder for the program that has it.
fn local(
    arguments: &Arguments,
    settings: &Settings,
    has_home: bool,
) -> Result<Option<LocalSocket>, LocalError> {
    match &arguments.socket {
        Some(path) => LocalSocket::at(path).map(Some),
        None if arguments.no_socket || !has_home || !cfg!(unix) => Ok(None),
        None => LocalSocket::of_home(&settings.home).map(Some),
    }
}

/// What is shown to callers: the certificate that was named, one of our own beyond loopback, and none on it.
fn certificate(arguments: &Arguments, settings: &Settings) -> Result<Option<Tls>, Failure> {
    if let (Some(certificate), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) {
        return Ok(Some(Tls::of_files(certificate, key)?));
    }
    let ip = arguments.listen.ip();
    if ip.is_loopback() {
        return Ok(None);
    }
    let own = if ip.is_unspecified() {
        machine::addresses()
    } else {
        vec![ip]
    };
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let addresses = loopback.into_iter().chain(own).map(|ip: IpAddr| ip.to_string());
    let names: Vec<String> = ["localhost".to_owned()]
        .into_iter()
        .chain(arguments.allow_host.iter().cloned())
        .chain(addresses)
        .collect();
    Ok(Some(Tls::own(&settings.home, &names)?))
}

/// Says where the door is; beyond loopback also how to tell it from another, and as a picture for a phone.
fn tell(standing: &Standing, listened: SocketAddr, token: Option<&str>, tls: Option<&Tls>) -> io::Result<()> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    // Nobody can call the address that means all addresses.
    let reached = match listened.ip().is_unspecified() {
        true => machine::addresses()
            .first()
            .map(|&ip| SocketAddr::new(ip, listened.port())),
        false => Some(listened),
    };
    let address = reached.unwrap_or(listened);
    let entry = token.map_or_else(String::new, |token| format!("#token={token}"));
    let page = format!("{scheme}://{address}/{entry}");
    let mut out = io::stdout().lock();
    writeln!(out, "{} answers at {scheme}://{address}/v1", standing.model)?;
    writeln!(out, "page: {page}")?;
    if let Some(socket) = &standing.socket {
        writeln!(out, "socket: {}", socket.display())?;
    }
    if let Some(tls) = tls {
        writeln!(out, "certificate: SHA-256 {}", tls.fingerprint())?;
        if !listened.ip().is_loopback()
            && io::stdout().is_terminal()
            && let Some(picture) = picture::blocks(&page)
        {
            writeln!(
                out,
                "for a phone; compare the certificate there with the line above:\n{picture}"
            )?;
        }
    }
    out.flush()
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        let hint = match &error {
            TlsError::Open(path) => Some(format!("chmod 600 {}", path.display())),
            TlsError::Damaged { .. } | TlsError::Unfit(_) => Some(
                "--tls-cert and --tls-key name a certificate and its key; without them one is made"
                    .to_owned(),
            ),
            TlsError::Io { .. } | TlsError::Make(_) => None,
        };
        Self::new(Exit::No, error.to_string()).maybe_hint(hint)
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        let exit = match &error {
            LocalError::TooLong(_) | LocalError::NoSuchThing => Exit::Usage,
            LocalError::Occupied(_) | LocalError::Taken(_) | LocalError::Io { .. } => Exit::No,
        };
        let hint = "--socket names another path, and --no-socket leaves it out";
        Self::new(exit, error.to_string()).hint(hint)
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        let hint = match &error {
            TokenError::Open(path) => Some(format!("chmod 600 {}", path.display())),
            TokenError::Damaged(path) => Some(format!("remove {}, and a new one is made", path.display())),
            TokenError::Io { .. } | TokenError::Random => None,
        };
        Self::new(Exit::No, error.to_string()).maybe_hint(hint)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Engine(EngineError::Store(error)) => error.into(),
            ServeError::Engine(EngineError::Open(error)) => error.into(),
            ServeError::Engine(EngineError::Load(error)) => error.into(),
            ServeError::Engine(EngineError::Blocks(error)) => {
                Self::new(Exit::No, error.to_string()).hint("--cache-disk off keeps caches in memory alone")
            }
            ServeError::OpenToOthers(_) => {
                Self::new(Exit::Usage, error.to_string()).hint("leave --no-auth out, or listen on 127.0.0.1")
            }
            ServeError::PlainToOthers(_) => {
                Self::new(Exit::Usage, error.to_string()).hint("--tls-cert and --tls-key name one")
            }
            ServeError::Bind { .. } => {
                Self::new(Exit::Network, error.to_string()).hint("--listen names another address")
            }
            ServeError::Engine(_) | ServeError::House(_) | ServeError::System(_) => {
                Self::new(Exit::Input, error.to_string())
            }
        }
    }
}
