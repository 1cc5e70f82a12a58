//! `heph policy`: what a policy file says. Sends nothing, and changes nothing.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heph_privacy::label::{Label, Level};
use heph_privacy::policy::{self, Ask, Destination, Kind, Policies, Policy, Preset, Verdict};
use heph_runtime::rules::Rules;
use heph_runtime::settings::Settings;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::terminal::Style;

/// Check, explain and test policy files: what may leave this machine.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say whether a policy can be read
    Check(FileArgument),
    /// Say what a policy decides about one thing, and by which rules
    Explain(Explain),
    /// Hold a policy against the examples that stand in it
    Test(FileArgument),
    /// Print the schema of policy files, for editors
    Schema,
}

/// The file, and how to answer.
#[derive(Debug, clap::Args)]
pub(crate) struct FileArgument {
    /// The policy; where it is missing, policy.toml in HEPH's folder
    file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is to be decided.
#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    policy: FileArgument,
    /// A preset in place of a file: local-only, own-devices, redact-then-remote, open
    #[arg(long, conflicts_with = "file", value_parser = word::<Preset>)]
    preset: Option<Preset>,
    /// Where it would go: own, attested, provider, edge, miner, relay or tool-server
    #[arg(long, value_parser = word::<Kind>)]
    to: Kind,
    /// Name of the place
    #[arg(long, default_value = "")]
    name: String,
    /// Where the place keeps data, as eu
    #[arg(long, default_value = "")]
    region: String,
    /// How many days it keeps what it sees; for ever, where it is missing
    #[arg(long)]
    retention_days: Option<u32>,
    /// How private it is: public, internal, private, secret
    #[arg(long, default_value = "internal", value_parser = word::<Level>)]
    level: Level,
    /// Why: pii:EMAIL, folder:salaries; may stand several times
    #[arg(long = "label")]
    labels: Vec<String>,
    /// How the answer would be computed
    #[arg(long, default_value = "")]
    mode: String,
    /// What it would cost
    #[arg(long, default_value_t = 0)]
    credits: u64,
}

/// A word as policy files write it.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("{text:?} is none of the words of a policy"))
}

/// What a script reads of `check`.
#[derive(Debug, Serialize)]
struct Read {
    preset: Preset,
    rules: usize,
    examples: usize,
}

/// What a script reads of an example.
#[derive(Debug, Serialize)]
struct Tried<'a> {
    name: &'a str,
    expected: Verdict,
    verdict: Verdict,
    rules: Vec<String>,
}

/// Reads the file and answers.
pub(crate) fn run(command: Command, settings: &Settings) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match command {
        Command::Schema => Ok(out.write_all(policy::SCHEMA.as_bytes())?),
        Command::Check(argument) => check(&argument, settings, &mut out),
        Command::Explain(arguments) => explain(&arguments, settings, &mut out),
        Command::Test(argument) => test(&argument, settings, &mut out),
    }
}

fn check(argument: &FileArgument, settings: &Settings, out: &mut impl Write) -> Result<(), Failure> {
    let policy = read(argument, settings)?;
    let read = Read {
        preset: policy.preset,
        rules: policy.rules.len(),
        examples: policy.examples.len(),
    };
    if argument.json {
        return json(out, &read);
    }
    let preset = serde_json::to_value(read.preset).map_err(io::Error::from)?;
    let preset = preset.as_str().unwrap_or_default();
    Ok(writeln!(
        out,
        "It can be read: preset {preset}, {} more rules, {} examples.",
        read.rules, read.examples
    )?)
}

fn explain(arguments: &Explain, settings: &Settings, out: &mut impl Write) -> Result<(), Failure> {
    // Without a file or a preset: what counts on this machine, with its overlays and short rules, or where nobody wrote any.
    let policies = match (arguments.preset, &arguments.policy.file) {
        (Some(preset), _) => Arc::new(Policies::new(Policy::of(preset), Vec::new())),
        (None, Some(_)) => Arc::new(Policies::new(read(&arguments.policy, settings)?, Vec::new())),
        (None, None) => Rules::new(settings, &[]).now(&[]),
    };
    let base = Label::new(arguments.level, "level");
    let label = arguments
        .labels
        .iter()
        .fold(base, |l, tag| l.join(&Label::new(arguments.level, tag)));
    let to = Destination {
        kind: arguments.to,
        name: arguments.name.clone(),
        id: String::new(),
        region: arguments.region.clone(),
        retention_days: arguments.retention_days,
    };
    let ask = Ask {
        label: &label,
        to: &to,
        mode: &arguments.mode,
        credits: arguments.credits,
    };
    let decision = policies.decide(&ask);
    if arguments.policy.json {
        return json(out, &decision);
    }
    let said = decision.to_string();
    let style = Style::of_stdout();
    let painted = if decision.verdict == Verdict::Deny {
        style.red(&said)
    } else {
        style.green(&said)
    };
    Ok(writeln!(out, "{painted}")?)
}

fn test(argument: &FileArgument, settings: &Settings, out: &mut impl Write) -> Result<(), Failure> {
    let policies = Policies::new(read(argument, settings)?, Vec::new());
    let tried: Vec<Tried> = policies
        .examples()
        .map(|(example, decision)| Tried {
            name: &example.name,
            expected: example.expect,
            verdict: decision.verdict,
            rules: decision.rules,
        })
        .collect();
    let failed = tried.iter().filter(|t| t.verdict != t.expected).count();
    if argument.json {
        json(out, &tried)?;
    } else {
        let style = Style::of_stdout();
        for t in &tried {
            let right = t.verdict == t.expected;
            let mark = if right {
                style.green("ok    ")
            } else {
                style.red("FAILED")
            };
            write!(out, "{mark}  {}", t.name)?;
            match right {
                true => writeln!(out)?,
                false => writeln!(
                    out,
                    ": {:?} expected, {:?} said, by {}",
                    t.expected,
                    t.verdict,
                    t.rules.join(", ")
                )?,
            }
        }
        writeln!(out, "{} passed, {failed} failed", tried.len() - failed)?;
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::new(
            Exit::No,
            format!("the policy does not say what {n} of its examples expect"),
        )
        .hint("heph policy explain tells which rules spoke")),
    }
}

fn read(argument: &FileArgument, settings: &Settings) -> Result<Policy, Failure> {
    let usual = settings.home.join("policy.toml");
    let path: &Path = argument.file.as_deref().unwrap_or(&usual);
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Exit::Input,
            format!("cannot read the policy {}: {error}", path.display()),
        )
        .hint("a policy that cannot be read lets nothing leave; `heph policy schema` helps to write one")
    })?;
    Policy::read(&text).map_err(|error| {
        let said = error.to_string();
        Failure::new(Exit::Input, format!("{}: {}", path.display(), said.trim_end()))
            .hint("a policy that cannot be read lets nothing leave")
    })
}

fn json(out: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}
