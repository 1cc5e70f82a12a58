//! `heph egress`: what left this machine, to whom, for what.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::time::Duration;

use heph_runtime::egress::{self, Bytes, Counted, Journal, Report, Sum, Way};
use heph_runtime::network::seconds_since_1970;
use heph_runtime::settings::Settings;

use crate::failure::{Exit, Failure};
use crate::terminal::{self, Style};

/// How often the journal is looked at while it is followed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Show what left this machine, to whom, for what, in bytes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Bytes are the payload of UDP and TCP, as a packet capture counts it; those of \
                        machines behind a relay are marked: there what was sent is counted, without what the \
                        relay's connection put around it. Not counted: questions for names (DNS), packets by which machines of \
                        the local network find each other, what the relay that `heph relay` runs passes on, and answers of \
                        `heph serve` to whoever asks it."
)]
pub(crate) struct Arguments {
    /// Only the last hours
    #[arg(long, value_name = "HOURS")]
    hours: Option<NonZeroU64>,
    /// Go on, and show what leaves as it leaves
    #[arg(long)]
    follow: bool,
    /// Print one JSON object; with --follow one a line
    #[arg(long)]
    json: bool,
}

/// Shows the sums, or what comes.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let journal = Journal::at(&settings.home);
    if arguments.follow {
        return follow(arguments, &journal);
    }
    let noted = journal.read().map_err(|error| unreadable(&journal, &error))?;
    let hours = arguments.hours.map(|hours| hours.get().saturating_mul(3600));
    let report = noted.report(hours.map(|seconds| seconds_since_1970().saturating_sub(seconds)));
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    Ok(write_report(&mut out, &report)?)
}

/// Shows what each way has more than a moment ago, until Ctrl-C.
fn follow(arguments: &Arguments, journal: &Journal) -> Result<(), Failure> {
    let cancel = terminal::cancel_on_ctrl_c()?;
    let mut seen: Option<BTreeMap<Way, Bytes>> = None;
    while !cancel.is_raised() {
        let noted = journal.read().map_err(|error| unreadable(journal, &error))?;
        let now: BTreeMap<Way, Bytes> = egress::sums(&noted.lines).into_iter().collect();
        let mut out = io::stdout().lock();
        if let Some(seen) = &seen {
            for (way, bytes) in &now {
                let before = seen.get(way).copied().unwrap_or_default();
                let more = Bytes {
                    up: bytes.up.saturating_sub(before.up),
                    down: bytes.down.saturating_sub(before.down),
                };
                if more != Bytes::default() {
                    show(&mut out, arguments.json, Sum::from((way.clone(), more)))?;
                }
            }
        }
        out.flush()?;
        drop(out);
        seen = Some(now);
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn show(out: &mut impl Write, json: bool, sum: Sum) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, &sum).map_err(io::Error::from)?;
        return writeln!(out);
    }
    write_sum(out, &sum, Style::of_stdout())
}

fn unreadable(journal: &Journal, error: &io::Error) -> Failure {
    let path = journal.path();
    Failure::new(Exit::Input, format!("cannot read {}: {error}", path.display()))
        .hint("remove it, and the log begins anew; nothing else needs it")
}

fn write_report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let style = Style::of_stdout();
    for sum in &report.ways {
        write_sum(out, sum, style)?;
    }
    if report.damaged > 0 {
        let said = format!(
            "{} lines of the log cannot be read and are not counted",
            report.damaged
        );
        writeln!(out, "{}", style.red(&said))?;
    }
    let Bytes { up, down } = report.left;
    let stayed: u64 = report
        .ways
        .iter()
        .filter(|sum| !sum.leaves)
        .map(|sum| sum.bytes.up)
        .sum();
    match (up, stayed) {
        (0, 0) => writeln!(out, "{}", style.green("nothing left this machine")),
        (0, stayed) => {
            let stayed = terminal::bytes(stayed);
            let said = format!("nothing left this machine: the {stayed} above went to other programs on it");
            writeln!(out, "{}", style.green(&said))
        }
        _ => writeln!(
            out,
            "{} left this machine and {} came to it",
            terminal::bytes(up),
            terminal::bytes(down)
        ),
    }
}

fn write_sum(out: &mut impl Write, sum: &Sum, style: Style) -> io::Result<()> {
    let Way {
        kind,
        to,
        who,
        purpose,
        labels,
        counted,
    } = &sum.way;
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let mark = match counted {
        Counted::OnTheWire => ' ',
        Counted::Bodies => '*',
    };
    let line = format!(
        "{:<9} {:<24} {:<16} {:<9} {:>9} out{mark} {:>9} in  {}",
        kind.name(),
        to,
        who,
        purpose,
        terminal::bytes(sum.bytes.up),
        terminal::bytes(sum.bytes.down),
        labels.join(" ")
    );
    // What stays on this machine stands aside.
    match sum.leaves {
        true => writeln!(out, "{}", line.trim_end()),
        false => writeln!(
            out,
            "{}",
            style.dim(&format!("{}  (on this machine)", line.trim_end()))
        ),
    }
}
