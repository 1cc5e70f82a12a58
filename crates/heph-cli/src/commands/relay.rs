//! `heph relay`: a meeting place for machines that no direct way joins.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use heph_net::relay::{self, Admission, Certificate, RelayOptions};
use heph_runtime::relaying::{Relaying, RelayingError};
use heph_runtime::seal;
use heph_runtime::settings::Settings;

use crate::caps;
use crate::failure::Failure;
use crate::machine;
use crate::terminal;

/// How often a running relay looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);

/// Run a meeting place for machines that no direct way joins. It sees who talks to whom and how much, never what.
#[derive(Debug, clap::Args)]
#[command(after_help = "The address that it prints is what `heph node --relay` takes.")]
pub(crate) struct Arguments {
    /// Socket to listen at, TCP and UDP; port 0 for any free one
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, relay::PORT)), value_name = "ADDRESS", value_parser = machine::socket)]
    listen: SocketAddr,
    /// The name or address that machines reach it by
    #[arg(long)]
    host: String,
    /// Only machines of your list of peers may wait here
    #[arg(long)]
    peers_only: bool,
    /// Bytes a second that one machine may send through it
    #[arg(long, value_name = "BYTES", value_parser = limit)]
    limit: Option<NonZeroU32>,
}

fn limit(text: &str) -> Result<NonZeroU32, String> {
    let bytes = u32::try_from(caps::bytes(text)?).ok();
    bytes
        .and_then(NonZeroU32::new)
        .ok_or_else(|| format!("{text:?} is no limit; write a size from 1 B to 4 GB"))
}

/// Runs it until Ctrl-C.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let cancel = terminal::cancel_on_ctrl_c()?;
    let options = RelayOptions {
        bind: arguments.listen,
        host: arguments.host.clone(),
        admission: match arguments.peers_only {
            true => heph_runtime::relaying::peers_of(&settings.home),
            false => Admission::Everyone,
        },
        bytes_per_second_max: arguments.limit,
    };
    let certificate = Certificate::keep(&settings.home, &arguments.host).map_err(RelayingError::from)?;
    // Before there are other threads. Where the kernel does not know how, it goes on all the same.
    seal::relay(arguments.peers_only.then_some(&*settings.home));
    let relay = Relaying::start(certificate, options)?;
    writeln!(io::stdout().lock(), "{}", relay.address())?;
    while !cancel.is_raised() {
        std::thread::sleep(LOOK);
    }
    relay.stop();
    Ok(())
}
