//! `heph mcp`: HEPH's tools for a program that speaks the Model Context Protocol and starts us.

use std::num::NonZeroUsize;
use std::sync::Arc;

use heph_gateway::{CacheChoice, EngineChoice, Guard, McpServer, Options, Pairings, Rate};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_runtime::bundled;
use heph_runtime::settings::Settings;

use super::serve::met::Met;
use crate::arguments::count;
use crate::complete;
use crate::engine::{EngineArguments, threads};
use crate::failure::Failure;

/// Answers that run together; more wait.
const PARALLEL: usize = 4;

/// Answers that wait for a place.
const WAITING: usize = 64;

/// Give HEPH's tools to a program that speaks the Model Context Protocol
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The program that has the tools starts this one; in its list of servers: \
                        {\"heph\": {\"command\": \"heph\", \"args\": [\"mcp\"]}}. `heph serve` gives the same tools over HTTP, at /mcp."
)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(long, default_value = bundled::STORY.name, add = complete::model())]
    model: String,
    /// Threads to compute with [default: one per core]
    #[arg(long, value_parser = threads)]
    threads: Option<usize>,
    /// Tokens of a conversation [default: what the model was made for, up to 8192]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    context: Option<NonZeroUsize>,
}

/// Answers until standard input ends.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let engine = EngineArguments {
        threads: arguments.threads,
        context: arguments.context,
        ..EngineArguments::with_kv(KvFormat::F16)
    };
    if arguments.context.is_some() {
        engine.open(&arguments.model, None, 1, settings)?;
    }
    let options = Options {
        model: arguments.model.clone(),
        choice: EngineChoice {
            threads: arguments.threads.unwrap_or(settings.threads),
            isa: Isa::best(),
            kv: KvFormat::F16,
            context: arguments.context.map(NonZeroUsize::get),
            parallel: PARALLEL,
            waiting: WAITING,
        },
        // One program asks, for a moment: what it asked stays in its memory.
        caches: CacheChoice {
            ram: None,
            disk: None,
            disk_private: false,
        },
        recall: None,
        settings: settings.clone(),
        // Whoever started us may ask: there is no door to knock at.
        guard: Guard {
            token: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            pairings: Arc::new(Pairings::at(&settings.home)),
            rate: Arc::new(Rate::new(None)),
        },
        tls: None,
        machines: Some(Arc::new(Met::new(&arguments.model, engine, settings))),
    };
    Ok(McpServer::open(options)?.run()?)
}
