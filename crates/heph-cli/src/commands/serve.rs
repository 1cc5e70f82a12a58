//! `heph serve`: the door for other programs and for the page.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use heph_gateway::{EngineChoice, EngineError, Guard, Options, ServeError, Server, TokenError};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_runtime::bundled;
use heph_runtime::settings::Settings;

use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};
use crate::terminal;

mod met;

/// How often the wish to stop is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Answer other programs (OpenAI's, Ollama's and Anthropic's shapes) and show a page.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:11500", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(long, default_value = bundled::STORY.name)]
    model: String,
    /// Ask for no token; only where nobody but this machine can come
    #[arg(long)]
    no_auth: bool,
    /// Another name of this machine that callers may use
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// A page of this origin may ask too, as in `https://app.example`
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Answers that run together
    #[arg(long, default_value_t = NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN), value_name = "ANSWERS")]
    parallel: NonZeroUsize,
    /// Answers that wait for a place; one more is told to come later
    #[arg(long, default_value_t = 512, value_name = "ANSWERS")]
    waiting: usize,
    /// Threads to compute with [default: one per core]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// How keys and values are stored: f32, f16, q8_0
    #[arg(long, default_value = "f16", value_parser = str::parse::<KvFormat>)]
    kv: KvFormat,
    /// Tokens of a conversation [default: what the model was made for, up to 8192]
    #[arg(long, value_name = "TOKENS")]
    context: Option<NonZeroUsize>,
}

/// Answers until Ctrl-C.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let token = match arguments.no_auth {
        true => None,
        false => Some(heph_gateway::token(&settings.home)?),
    };
    let cancel = terminal::cancel_on_ctrl_c()?;
    let engine = EngineArguments {
        threads: arguments.threads.map(NonZeroUsize::get),
        context: arguments.context,
        ..EngineArguments::with_kv(arguments.kv)
    };
    let options = Options {
        model: arguments.model.clone(),
        choice: EngineChoice {
            threads: arguments.threads.map_or(settings.threads, NonZeroUsize::get),
            isa: Isa::best(),
            kv: arguments.kv,
            context: arguments.context.map(NonZeroUsize::get),
            parallel: arguments.parallel.get(),
            waiting: arguments.waiting,
        },
        settings: settings.clone(),
        guard: Guard {
            token: token.clone(),
            hosts: arguments.allow_host.clone(),
            origins: arguments.allow_origin.clone(),
        },
        machines: Some(Arc::new(met::Met::new(&arguments.model, engine, settings))),
    };
    let server = Server::open(arguments.listen, options)?;
    let address = server.address()?;
    let mut out = io::stdout().lock();
    let entry = token.map_or_else(String::new, |token| format!("#token={token}"));
    writeln!(out, "{} answers at http://{address}/v1", arguments.model)?;
    writeln!(out, "page: http://{address}/{entry}")?;
    out.flush()?;
    drop(out);
    server.run(async move {
        while !cancel.is_raised() {
            heph_gateway::pause(LOOK_EVERY).await;
        }
    });
    Ok(())
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
            ServeError::OpenToOthers(_) => {
                Self::new(Exit::Usage, error.to_string()).hint("leave --no-auth out, or listen on 127.0.0.1")
            }
            ServeError::Bind { .. } => {
                Self::new(Exit::No, error.to_string()).hint("--listen names another address")
            }
            ServeError::Engine(_) | ServeError::House(_) | ServeError::System(_) => {
                Self::new(Exit::Input, error.to_string())
            }
        }
    }
}
