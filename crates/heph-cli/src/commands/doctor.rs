//! `heph doctor`: what this machine is, how fast its memory is, and what fits.

use std::io::{self, Write};

use heph_net::identity::Kept;
use heph_net::key_store::{KeyStore, SystemStore};
use heph_runtime::guard::Outlet;
use heph_runtime::hardware::{self, Bandwidth, Fit, Hardware};
use heph_runtime::seal;
use heph_runtime::settings::Settings;
use serde::Serialize;

use crate::failure::Failure;
use crate::terminal;

/// Say what this machine is, how fast its memory is, and what fits.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Do not measure the memory's speed, which takes a second and 512 MiB
    #[arg(long)]
    quick: bool,
}

/// Everything the doctor found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    #[serde(flatten)]
    hardware: Hardware,
    threads: usize,
    memory_bandwidth: Vec<Bandwidth>,
    fits: Vec<Fit>,
    models_folder: String,
    identity: Whereabouts,
    /// Whether the kernel keeps what needs no network from it.
    seal: String,
    /// Who opens connections to machines, providers, hubs and servers of tools.
    connections: String,
}

/// Where this machine's key lies.
#[derive(Debug, Serialize)]
struct Whereabouts {
    kept: Place,
    /// A sentence about it.
    told: String,
}

/// What keeps it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    Nowhere,
    File,
    Store,
    Unreadable,
}

impl Whereabouts {
    /// As the file of `settings` says, and what the system's store has to say to that. Nobody is asked to unlock it.
    fn look(settings: &Settings) -> Self {
        let told = |kept, told: String| Self { kept, told };
        match Kept::below(&settings.home) {
            Ok(Kept::Nowhere) => told(
                Place::Nowhere,
                "none yet; the first start on the network makes one".to_owned(),
            ),
            Ok(Kept::File(path)) => told(Place::File, format!("in the private file {}", path.display())),
            Ok(Kept::Store(node)) => {
                let whose = format!("in this system's key store, as node {}", node.short());
                told(
                    Place::Store,
                    match SystemStore.ready() {
                        Ok(()) => whose,
                        Err(why) => format!("{whose}; {why}"),
                    },
                )
            }
            Err(error) => told(Place::Unreadable, error.to_string()),
        }
    }
}

/// Looks, measures, prints.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let report = examine(arguments, settings);
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write_report(&mut out, &report)?;
    }
    Ok(())
}

fn examine(arguments: &Arguments, settings: &Settings) -> Report {
    let hardware = Hardware::look();
    let mut counts = vec![1, settings.threads];
    counts.dedup();
    let counts = counts.into_iter().filter(|_| !arguments.quick);
    let memory_bandwidth: Vec<_> = counts
        .filter_map(|threads| hardware::probe_bandwidth(threads, &hardware))
        .collect();
    Report {
        version: env!("CARGO_PKG_VERSION"),
        fits: hardware.fits(memory_bandwidth.last().copied()),
        hardware,
        threads: settings.threads,
        memory_bandwidth,
        models_folder: settings.models.display().to_string(),
        identity: Whereabouts::look(settings),
        connections: Outlet::of(settings).stands().map_or_else(
            |error| format!("none can be opened: {error}"),
            |stands| stands.to_string(),
        ),
        seal: seal::process().to_string(),
    }
}

fn write_report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let hardware = &report.hardware;
    writeln!(out, "heph              {}", report.version)?;
    writeln!(out, "processor         {}", hardware.cpu)?;
    writeln!(
        out,
        "cores             {} ({} hardware threads)",
        hardware.cores, hardware.hardware_threads
    )?;
    writeln!(out, "threads in use    {}", report.threads)?;
    let (best, all) = (
        hardware.instruction_set_best,
        hardware.instruction_sets.join(", "),
    );
    writeln!(out, "instruction set   {best} (of {all})")?;
    let (free, total) = (hardware.memory_available_bytes, hardware.memory_bytes);
    writeln!(
        out,
        "memory            {} free of {}",
        terminal::bytes(free),
        terminal::bytes(total)
    )?;
    for probe in &report.memory_bandwidth {
        let speed = terminal::bytes(probe.bytes_per_s as u64);
        writeln!(
            out,
            "memory reads      {speed}/s with {}",
            terminal::counted(probe.threads, "thread")
        )?;
    }
    writeln!(out, "models folder     {}", report.models_folder)?;
    writeln!(out, "identity          {}", report.identity.told)?;
    writeln!(out, "network           {}", report.seal)?;
    writeln!(out, "connections       {}", report.connections)?;
    writeln!(
        out,
        "\nThe largest model that fits, by how its weights are stored:"
    )?;
    for fit in &report.fits {
        writeln!(
            out,
            "  {:<8} {:>6.1} billion parameters",
            fit.quantisation, fit.parameters_billion
        )?;
    }
    // Each of them fills the same memory, and is read through for every token.
    match report.fits.iter().find_map(|fit| fit.decode_tok_s_limit) {
        Some(limit) => writeln!(
            out,
            "One that large writes at most {limit:.1} tokens a second; one of half the size twice as many."
        ),
        None => Ok(()),
    }
}
