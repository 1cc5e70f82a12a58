//! `heph policy`: what a policy file says. Sends nothing, and changes nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::PossibleValuesParser;
use heph_net::trust::TrustBook;
use heph_privacy::label::{Label, Level};
use heph_privacy::pii;
use heph_privacy::policy::{self, Ask, Decision, Destination, Kind, Policies, Policy, Preset, Rule, Verdict};
use heph_runtime::discretion::{PARTS, place, shows_text_alone};
use heph_runtime::files;
use heph_runtime::providers::{ProviderBook, leave};
use heph_runtime::rules::{By, POLICY_FILE, Rules, Standing};
use heph_runtime::settings::Settings;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::terminal::Style;

/// Check, explain and test policy files: what may leave this machine.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say whether a policy can be read, or what counts here where no file is named
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
    /// The policy; where it is missing, what counts in HEPH's folder
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
    /// How private it is at least: public, internal, private, secret. Where it is missing, as a request with these labels
    #[arg(long, value_parser = word::<Level>)]
    level: Option<Level>,
    /// Why: pii:EMAIL, folder:salaries, or a word as `heph run --label` takes it; each makes it as private as a request that has
    /// it. May stand several times
    #[arg(long = "label", value_parser = reason)]
    labels: Vec<String>,
    /// How the answer would be computed, or in what other way it would leave; every way that there is to such a place where it is missing
    #[arg(long, value_parser = PossibleValuesParser::new(policy::MODES))]
    mode: Option<String>,
    /// What it would cost
    #[arg(long, default_value_t = 0)]
    credits: u64,
}

/// A word as policy files write it.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("{text:?} is none of the words of a policy"))
}

/// A reason, as rules name it. One that no request can have would say nothing.
fn reason(text: &str) -> Result<String, String> {
    match text.strip_prefix("pii:") {
        Some(class) if !pii::is_class(class) => Err(format!(
            "nothing that is found is called {class:?}; write it as `heph pii` does, as pii:EMAIL, pii:PERSON or pii:SECRET"
        )),
        _ => Ok(text.to_owned()),
    }
}

/// What a script reads of `check` with a file.
#[derive(Debug, Serialize)]
struct Read {
    preset: Preset,
    rules: usize,
    examples: usize,
}

/// What a script reads of `check` without one: what counts here.
#[derive(Debug, Serialize)]
struct Counts {
    /// The person's file, where there is one.
    file: Option<PathBuf>,
    examples: usize,
    /// Providers that may be asked because they were allowed, which counts where there is no file.
    providers: Vec<String>,
    #[serde(flatten)]
    standing: Standing,
}

/// What a script reads of `explain`.
#[derive(Debug, Serialize)]
struct Explained<'a> {
    /// The strictest of all ways.
    #[serde(flatten)]
    decision: Option<&'a Decision>,
    /// What is said of each way that was asked about.
    modes: &'a [Way],
}

/// What is said of one way.
#[derive(Debug, Serialize)]
struct Way {
    mode: &'static str,
    #[serde(flatten)]
    decision: Decision,
    /// The same for a person.
    #[serde(skip)]
    said: String,
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
    let Some(path) = &argument.file else {
        return counts(argument, settings, out);
    };
    let policy = read(path)?;
    let read = Read {
        preset: policy.preset,
        rules: policy.rules.len(),
        examples: policy.examples.len(),
    };
    if argument.json {
        return json(out, &read);
    }
    Ok(writeln!(
        out,
        "It can be read: preset {}, {} more rules, {} examples.",
        read.preset.name(),
        read.rules,
        read.examples
    )?)
}

/// What counts in this home folder, and what that means.
fn counts(argument: &FileArgument, settings: &Settings, out: &mut impl Write) -> Result<(), Failure> {
    let rules = Rules::new(settings, &[]);
    let standing = rules.standing();
    if let Some(why) = &standing.trouble {
        return Err(Failure::new(Exit::Input, why.clone()).hint(UNREADABLE));
    }
    let path = usual(settings);
    let (file, examples) = match standing.by {
        By::File | By::Unread => (Some(path.clone()), read(&path)?.examples.len()),
        By::Usual => (None, 0),
    };
    let book = ProviderBook::open(&settings.home)?;
    let allowed = book.list().iter().filter(|provider| leave(provider).is_some());
    let providers = match &file {
        None => allowed.map(|provider| provider.name.clone()).collect(),
        // A leave that was given elsewhere counts for nothing beside a file.
        Some(_) => Vec::new(),
    };
    let counts = Counts {
        file,
        examples,
        providers,
        standing,
    };
    match argument.json {
        true => json(out, &counts),
        false => Ok(counts.write(&path, &rules, out)?),
    }
}

impl Counts {
    fn write(&self, path: &Path, rules: &Rules, out: &mut impl Write) -> io::Result<()> {
        let Standing {
            preset,
            rules: more,
            organisations,
            cut,
            ..
        } = &self.standing;
        match &self.file {
            Some(file) => writeln!(
                out,
                "{} counts: preset {}, {more} more rules, {} examples.",
                file.display(),
                preset.name(),
                self.examples
            )?,
            None => writeln!(out, "There is no {}, so what is usual counts.", path.display())?,
        }
        writeln!(out, "{}", meaning(*preset))?;
        match (&self.file, more) {
            (_, 0) => {}
            (Some(_), _) => writeln!(
                out,
                "The more rules may say otherwise; `heph policy explain` tells what they say of one thing."
            )?,
            (None, _) => writeln!(out, "HEPH_ALLOW says otherwise of {more} kinds of machines.")?,
        }
        if !self.providers.is_empty() {
            writeln!(
                out,
                "Providers that you allowed may be asked: {}.",
                self.providers.join(", ")
            )?;
        }
        if !organisations.is_empty() {
            writeln!(
                out,
                "Signed rules make it stricter: {}.",
                organisations.join(", ")
            )?;
        }
        if *cut {
            let mark = rules.cut_file().unwrap_or_default();
            let said = format!(
                "This machine is cut off: nothing leaves, whatever the rules say, until that is ended on the page or in the window, or {} is removed.",
                mark.display()
            );
            writeln!(out, "{}", Style::of_stdout().red(&said))?;
        }
        Ok(())
    }
}

/// What the rules of a preset let leave.
fn meaning(preset: Preset) -> &'static str {
    match preset {
        Preset::LocalOnly => "By its preset nothing leaves.",
        Preset::OwnDevices => "Machines of your own may see everything, and others nothing.",
        Preset::RedactThenRemote => {
            "By its preset machines of your own may see everything; others see text in which people are replaced, and no keys."
        }
        Preset::Open => "By its preset everything may leave; keys and passwords are replaced.",
    }
}

fn explain(arguments: &Explain, settings: &Settings, out: &mut impl Write) -> Result<(), Failure> {
    // Without a file or a preset: what counts on this machine, with its overlays and short rules, or where nobody wrote any.
    let (policies, to) = match (arguments.preset, &arguments.policy.file) {
        (Some(preset), _) => (
            Arc::new(Policies::new(Policy::of(preset), Vec::new())),
            named(arguments),
        ),
        (None, Some(path)) => (Arc::new(Policies::new(read(path)?, Vec::new())), named(arguments)),
        (None, None) => {
            let book = ProviderBook::open(&settings.home)?;
            let usual: Vec<Rule> = book.list().iter().filter_map(leave).collect();
            (
                Rules::new(settings, &[]).now(&usual),
                known(arguments, &book, settings)?,
            )
        }
    };
    let label = policy::shown(
        arguments.to,
        Label::of_reasons(arguments.level, &arguments.labels),
    );
    let known = policy::MODES.into_iter();
    let modes: Vec<&'static str> = match &arguments.mode {
        Some(asked) => known.filter(|mode| mode == asked).collect(),
        None => ways_to(arguments.to),
    };
    let way = |mode: &&'static str| {
        let ask = Ask {
            label: &label,
            to: &to,
            mode,
            credits: arguments.credits,
        };
        Way::of(mode, policies.decide(&ask))
    };
    let ways: Vec<Way> = modes.iter().map(way).collect();
    if arguments.policy.json {
        let strictest = ways.iter().rev().max_by_key(|way| way.decision.verdict);
        let decision = strictest.map(|way| &way.decision);
        return json(
            out,
            &Explained {
                decision,
                modes: &ways,
            },
        );
    }
    let mut left: Vec<&Way> = ways.iter().collect();
    while let Some(first) = left.first().copied() {
        let (same, others): (Vec<&Way>, Vec<&Way>) = left.into_iter().partition(|way| way.said == first.said);
        let modes: Vec<&str> = same.iter().map(|way| way.mode).collect();
        let said = match modes.len() == ways.len() {
            true => first.said.clone(),
            false => format!("{}: {}", modes.join(", "), first.said),
        };
        let style = Style::of_stdout();
        let painted = match first.decision.verdict {
            Verdict::Deny => style.red(&said),
            Verdict::Allow | Verdict::Redact | Verdict::Mask => style.green(&said),
        };
        writeln!(out, "{painted}")?;
        left = others;
    }
    Ok(())
}

impl Way {
    /// What becomes of a request where the rules say so: where more than words travels nothing can be replaced, and it stays.
    fn of(mode: &'static str, decision: Decision) -> Self {
        let (verdict, said) = match decision.verdict {
            Verdict::Redact | Verdict::Mask if !shows_text_alone(mode) => (
                Verdict::Deny,
                format!(
                    "it stays, since more than words travels and people and keys would have to be replaced, by {}",
                    decision.rules.join(", ")
                ),
            ),
            verdict => (verdict, decision.to_string()),
        };
        let decision = Decision { verdict, ..decision };
        Self { mode, decision, said }
    }
}

/// The ways in which something leaves for a place of this kind.
fn ways_to(kind: Kind) -> Vec<&'static str> {
    match kind {
        Kind::Relay => vec!["relay"],
        Kind::ToolServer => vec!["tools"],
        Kind::Own | Kind::Attested | Kind::Provider | Kind::Edge | Kind::Miner => vec![
            "remote",
            "preprocess",
            PARTS,
            "layered",
            "speculative",
            "layered-speculative",
        ],
    }
}

/// The place that the arguments tell of.
fn named(arguments: &Explain) -> Destination {
    Destination {
        kind: arguments.to,
        name: arguments.name.clone(),
        id: String::new(),
        region: arguments.region.clone(),
        retention_days: arguments.retention_days,
    }
}

/// The same; where a provider or a machine of this name and kind is known here, with what is known of it.
fn known(arguments: &Explain, book: &ProviderBook, settings: &Settings) -> Result<Destination, Failure> {
    let told = named(arguments);
    let provider = book.list().iter().find(|provider| provider.name == told.name);
    let provider = provider.map(|provider| provider.destination());
    let peers = TrustBook::open(&settings.home)?;
    let machine = peers.peers().iter().find(|peer| peer.name == told.name);
    let machine = machine.map(|peer| place(peer.node, &peer.name, peer.role));
    let mut known = provider
        .into_iter()
        .chain(machine)
        .filter(|known| known.kind == told.kind);
    Ok(match known.next() {
        Some(known) => Destination {
            id: known.id,
            region: match told.region.is_empty() {
                true => known.region,
                false => told.region,
            },
            retention_days: told.retention_days.or(known.retention_days),
            ..told
        },
        None => told,
    })
}

fn test(argument: &FileArgument, settings: &Settings, out: &mut impl Write) -> Result<(), Failure> {
    let usual = usual(settings);
    let path = argument.file.as_deref().unwrap_or(&usual);
    let policies = Policies::new(read(path)?, Vec::new());
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

/// What to do about a policy that cannot be read.
const UNREADABLE: &str =
    "a policy that cannot be read lets nothing leave; `heph policy schema` helps to write one";

/// The file of the person.
fn usual(settings: &Settings) -> PathBuf {
    settings.home.join(POLICY_FILE)
}

fn read(path: &Path) -> Result<Policy, Failure> {
    let unread = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Input, format!("{}: {error}", path.display())).hint(UNREADABLE)
    };
    let text = files::read(path, policy::BYTES_MAX as u64)?;
    let text = String::from_utf8(text).map_err(|_| unread(&"it is no text in UTF-8"))?;
    Policy::read(&text).map_err(|error| unread(&error))
}

fn json(out: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}
