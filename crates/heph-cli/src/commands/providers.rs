//! `heph providers`: outside providers that may answer, and what is known of them.

use std::io::{self, Read, Write};

use heph_net::secrets::{SecretError, Secrets};
use heph_providers::{Address, Dialect, Limits, Pace, Provider, Rates, Region, Retention, Secret};
use heph_runtime::guard::Outlet;
use heph_runtime::providers::{BookError, Outside, ProviderBook};
use heph_runtime::service::{Fate, ServiceError};
use heph_runtime::settings::{Keys, Settings};
use heph_types::{Leaves, Role};
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// Bytes of standard input that may be a key.
const KEY_BYTES_MAX: u64 = 8192;

/// Show the outside providers that you added, or change the list.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "`heph serve` asks a provider for the model NAME/MODEL. Nothing is sent to one that is not allowed, and \
                  HEPH_ALLOW=cloud=nothing forbids them all."
)]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    change: Option<Change>,
}

/// What can be done with the list.
#[derive(Debug, clap::Subcommand)]
enum Change {
    /// Show them
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Add one
    Add(Box<Added>),
    /// Let one see what it is asked
    Allow {
        /// Its name
        name: String,
    },
    /// Send nothing to one any more
    Forbid {
        /// Its name
        name: String,
    },
    /// Ask one which models it has; it is shown its key and no text
    Test {
        /// Its name
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove one, and its key
    Remove {
        /// Its name
        name: String,
    },
}

/// A provider to add.
#[derive(Debug, clap::Args)]
struct Added {
    /// What to call it: small letters, digits, dots and dashes
    name: String,
    /// What it speaks: openai, anthropic, ollama, vllm, llama-server or gemini
    #[arg(long)]
    dialect: Dialect,
    /// Where it is, as in `https://api.example.com/v1`
    #[arg(long, value_name = "ADDRESS")]
    url: Address,
    /// A model to ask it for, as it calls it; may be given several times
    #[arg(long = "model", required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// It may see what it is asked
    #[arg(long)]
    allow: bool,
    /// What it is to you: own, cloud, miner or edge
    #[arg(long, default_value = "cloud")]
    role: Role,
    /// Where it computes, as in eu or us-east
    #[arg(long)]
    region: Option<Region>,
    /// What it keeps: nothing, "30 days", trains or unknown
    #[arg(long, default_value = "unknown")]
    retention: Retention,
    /// Credits for a million tokens of prompts and of answers, as in 0.5,1.5
    #[arg(long, value_name = "PROMPT,ANSWER", value_parser = rates)]
    price: Option<Rates>,
    /// Milliseconds until its first token and tokens a second after it, as in 400,60
    #[arg(long, value_name = "MS,TOKENS", value_parser = pace)]
    speed: Option<Pace>,
    /// Read its key from standard input
    #[arg(long, conflicts_with = "key_env")]
    key_stdin: bool,
    /// Take its key from this variable
    #[arg(long, value_name = "VARIABLE")]
    key_env: Option<String>,
}

fn pair(text: &str) -> Result<(f64, f64), String> {
    let wrong = || format!("{text:?} is not two numbers with a comma between");
    let (a, b) = text.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().map_err(|_| wrong());
    Ok((number(a)?, number(b)?))
}

pub(super) fn rates(text: &str) -> Result<Rates, String> {
    let (prompt, answer) = pair(text)?;
    Ok(Rates { prompt, answer })
}

fn pace(text: &str) -> Result<Pace, String> {
    let (first_token_ms, tokens_per_s) = pair(text)?;
    Ok(Pace {
        first_token_ms,
        tokens_per_s,
    })
}

/// What a script reads of one.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    provider: &'a Provider,
    /// Whether a key is kept.
    key: bool,
}

/// Shows or changes the list.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let mut book = ProviderBook::open(&settings.home)?;
    match &arguments.change {
        None => list(&book, settings, arguments.json),
        Some(Change::List { json }) => list(&book, settings, *json),
        Some(Change::Add(added)) => add(&mut book, added, settings),
        Some(Change::Allow { name }) => {
            book.change(name, |provider| provider.sees = Leaves::Text)?;
            say(&format!("{name} may see what it is asked"))
        }
        Some(Change::Forbid { name }) => {
            book.change(name, |provider| provider.sees = Leaves::Nothing)?;
            say(&format!("nothing is sent to {name}"))
        }
        Some(Change::Test { name, json }) => test(book.find(name)?, settings, *json),
        Some(Change::Remove { name }) => {
            let provider = book.remove(name)?;
            Secrets::new(&settings.home).forget(provider.node(), name)?;
            say(&format!("{name} is removed"))
        }
    }
}

fn say(sentence: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{sentence}")?)
}

fn list(book: &ProviderBook, settings: &Settings, json: bool) -> Result<(), Failure> {
    let secrets = Secrets::new(&settings.home);
    let line = |provider| -> Result<Line<'_>, Failure> {
        let provider: &Provider = provider;
        let key = secrets.find(provider.node(), &provider.name)?.is_some();
        Ok(Line { provider, key })
    };
    let lines: Vec<Line<'_>> = book.list().iter().map(line).collect::<Result<_, _>>()?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &lines).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    if lines.is_empty() {
        return Ok(writeln!(
            out,
            "no providers; `heph providers add --help` says how to add one"
        )?);
    }
    for Line { provider, key } in &lines {
        let sees = match provider.sees {
            Leaves::Text => "may see what it is asked",
            _ => "is sent nothing",
        };
        let price = provider.price.map_or_else(
            || "price unknown".to_owned(),
            |p| format!("{} and {} credits a million tokens", p.prompt, p.answer),
        );
        let region = provider
            .region
            .as_ref()
            .map_or(String::new(), |r| format!(", in {r}"));
        let key = if *key { "with a key" } else { "without a key" };
        let Provider {
            name,
            url,
            role,
            retention,
            ..
        } = provider;
        writeln!(
            out,
            "{name}  {} at {url}, {role}{region}, {key}: {sees}",
            provider.dialect.name()
        )?;
        writeln!(
            out,
            "  models {}; keeps {retention}; {price}",
            provider.models.join(", ")
        )?;
    }
    Ok(())
}

fn add(book: &mut ProviderBook, added: &Added, settings: &Settings) -> Result<(), Failure> {
    let provider = Provider {
        name: added.name.clone(),
        dialect: added.dialect,
        url: added.url.clone(),
        models: added.models.clone(),
        role: added.role,
        sees: if added.allow {
            Leaves::Text
        } else {
            Leaves::Nothing
        },
        region: added.region.clone(),
        retention: added.retention,
        price: added.price,
        speed: added.speed,
    };
    let key = key(added)?;
    if key.is_some() && !provider.url.is_encrypted() && !provider.url.is_loopback() {
        let sentence = "a key goes over https:// alone, or stays on this machine";
        return Err(Failure::new(Exit::Usage, sentence).hint("give the address with https://, or no key"));
    }
    book.add(provider.clone())?;
    if let Some(key) = key {
        let wanted = settings.keys.map(|keys| match keys {
            Keys::System => heph_net::secrets::Keeper::System,
            Keys::File => heph_net::secrets::Keeper::File,
        });
        let kept = Secrets::new(&settings.home).keep(provider.node(), &provider.name, key.reveal(), wanted);
        if let Err(error) = kept {
            // Half a provider is of no use.
            book.remove(&provider.name)?;
            return Err(error.into());
        }
    }
    let hint = match provider.sees {
        Leaves::Text => String::new(),
        _ => format!(
            "; `heph providers allow {}` lets it see what it is asked",
            provider.name
        ),
    };
    say(&format!("{} is added{hint}", provider.name))
}

fn key(added: &Added) -> Result<Option<Secret>, Failure> {
    let text = match (&added.key_env, added.key_stdin) {
        (None, false) => return Ok(None),
        (Some(variable), _) => std::env::var(variable)
            .map_err(|_| Failure::new(Exit::Usage, format!("the variable {variable} is not set")))?,
        (None, true) => {
            let mut text = String::new();
            let read = io::stdin().lock().take(KEY_BYTES_MAX).read_to_string(&mut text);
            read.map_err(|_| Failure::new(Exit::Usage, "standard input holds no key"))?;
            text
        }
    };
    let none = || Failure::new(Exit::Usage, "a key is one word of up to 4096 letters");
    Secret::new(&text).map(Some).ok_or_else(none)
}

/// What a script reads of a test.
#[derive(Debug, Serialize)]
struct Tested<'a> {
    name: &'a str,
    models: &'a [String],
    /// Models that it is to be asked for and does not name.
    missing: Vec<&'a str>,
}

fn test(provider: &Provider, settings: &Settings, json: bool) -> Result<(), Failure> {
    let failed = |sentence: String| Failure::new(Exit::Network, sentence);
    let outside = Outside::new(Outlet::of(settings), Limits::default()).map_err(failed)?;
    let models = outside.models(provider)?;
    let missing = provider.models.iter().filter(|model| !models.contains(model));
    let tested = Tested {
        name: &provider.name,
        missing: missing.map(String::as_str).collect(),
        models: &models,
    };
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &tested).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "{} answers and names {} models", provider.name, models.len())?;
    for model in tested.missing {
        writeln!(out, "it names no {model}")?;
    }
    Ok(())
}

impl From<BookError> for Failure {
    fn from(error: BookError) -> Self {
        let exit = match &error {
            BookError::Io { .. } => Exit::No,
            BookError::Damaged { .. } => Exit::Input,
            BookError::Provider(_) | BookError::Taken(_) | BookError::Unknown(_) => Exit::Usage,
            BookError::Full => Exit::Room,
        };
        let unknown = matches!(error, BookError::Unknown(_));
        let hint = unknown.then_some("`heph providers` shows who is known");
        Self::new(exit, error.to_string()).maybe_hint(hint)
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        Self::new(Exit::No, error.to_string())
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let exit = match &error {
            ServiceError::Elsewhere {
                fate: Fate::Refused, ..
            } => Exit::No,
            _ => Exit::Network,
        };
        Self::new(exit, error.to_string())
    }
}
