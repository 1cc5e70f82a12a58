//! `heph plan`: where an answer would be computed, and why there.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use heph_plan::{Decision, Digest, Mode, Record, ReplayError};
use heph_runtime::desk::{Message, Prompt};
use heph_runtime::files;
use heph_runtime::settings::Settings;
use serde::{Deserialize, Serialize};

use crate::arguments::has_room;
use crate::asking::{Asking, PlaceArguments, Sizes};
use crate::complete;
use crate::engine::EngineArguments;
use crate::explain;
use crate::failure::{Exit, Failure};
use crate::terminal::Style;

/// A record longer than this was not written here: 1,024 machines with 64 points of speed each are below.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// What became of a record that does not fit itself.
const CHANGED: &str = "the file was changed since `heph plan --record` wrote it";

/// Say where an answer would be computed, what that takes, and why not elsewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The question
    #[arg(required_unless_present = "replay")]
    prompt: Option<String>,
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(long, default_value = "heph-story", add = complete::model())]
    model: String,
    /// Tokens that the answer may have at most
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Also say why it is none of the other ways
    #[arg(long)]
    explain: bool,
    /// Print one JSON object: the decision, and the digest of what it was made from
    #[arg(long)]
    json: bool,
    /// Write the decision with everything that it was made from to a file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Decide once more from such a file, and say whether the decision is the same
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "record"])]
    replay: Option<PathBuf>,
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    #[command(flatten)]
    engine: EngineArguments,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Of the inputs, as hexadecimal digits.
    digest: String,
    #[serde(flatten)]
    decision: &'a Decision,
}

/// Plans, or plans again.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let (digest, decision) = match &arguments.replay {
        Some(path) => replay(path)?,
        None => {
            let record = decide(arguments, settings)?;
            if let Some(path) = &arguments.record {
                keep(&record, path)?;
            }
            (record.digest, record.decision)
        }
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        let report = Report {
            digest: digest.to_string(),
            decision: &decision,
        };
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    explain::write_decision(&mut out, &decision, Style::of_stdout(), arguments.explain)?;
    if arguments.replay.is_some() {
        writeln!(out, "The same inputs lead to the same decision.")?;
    }
    Ok(())
}

fn decide(arguments: &Arguments, settings: &Settings) -> Result<Record, Failure> {
    if arguments.place.mode.by_name() == Some(Mode::Preprocess) {
        return Err(Failure::new(
            Exit::Usage,
            "--mode preprocess sends excerpts of documents, and a plan knows none",
        )
        .hint("`heph run --document PATH --mode preprocess --explain` plans for them, and answers"));
    }
    arguments.max_tokens.map_or(Ok(()), has_room)?;
    let question = [Message::new(
        "user",
        arguments.prompt.as_deref().unwrap_or_default(),
    )];
    let (model, engine, place) = (&arguments.model, &arguments.engine, &arguments.place);
    let (asking, tokens) = Asking::open(model, engine, place, settings, |words, _| {
        let prompt = match words.template {
            Some(_) => Prompt::Chat(&question),
            None => Prompt::Text(&question[0].content),
        };
        Ok(prompt.tokens(words)?)
    })?;
    asking.discretion().about([question[0].content.as_str()]);
    let (mode, sizes) = (arguments.place.mode.by_name(), Sizes::of(tokens.len()));
    asking.plan_over(asking.cluster_that_takes(), mode, sizes, arguments.max_tokens)
}

/// A decision in a file: for people as JSON, and once more to the last bit, since numbers in JSON lose theirs on the way.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Of the inputs.
    digest: String,
    /// The decision.
    decision: serde_json::Value,
    /// The whole record in the bytes of postcard, as hexadecimal digits.
    record: String,
}

fn keep(record: &Record, path: &Path) -> Result<(), Failure> {
    let bytes = postcard::to_allocvec(record).map_err(|e| Failure::new(Exit::No, e.to_string()))?;
    let kept = Kept {
        digest: record.digest.to_string(),
        decision: serde_json::to_value(&record.decision).map_err(io::Error::from)?,
        record: HEXLOWER.encode(&bytes),
    };
    let text = serde_json::to_string_pretty(&kept).map_err(io::Error::from)?;
    fs::write(path, text + "\n").map_err(|e| Failure::writing(path, &e))
}

fn replay(path: &Path) -> Result<(Digest, Decision), Failure> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Input,
            format!("{} is no record of a plan: {why}", path.display()),
        )
    };
    let text = files::read(path, RECORD_BYTES_MAX)?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|e| unreadable(&e))?;
    let bytes = HEXLOWER
        .decode(kept.record.as_bytes())
        .map_err(|e| unreadable(&e))?;
    let record: Record = postcard::from_bytes(&bytes).map_err(|e| unreadable(&e))?;
    let decision = record.replay().map_err(|error| match error {
        ReplayError::Refused(refusal) => Failure::from(refusal),
        ReplayError::Digest { .. } => Failure::new(Exit::No, error.to_string()).hint(CHANGED),
        ReplayError::Differs(_) => {
            Failure::new(Exit::No, error.to_string()).hint("was it made by another version of HEPH?")
        }
    })?;
    // As what people read in the file has passed through JSON.
    let shown = serde_json::to_string(&decision).map_err(io::Error::from)?;
    let shown: serde_json::Value = serde_json::from_str(&shown).map_err(io::Error::from)?;
    match kept.decision == shown && kept.digest == record.digest.to_string() {
        true => Ok((record.digest, decision)),
        false => {
            let sentence = format!(
                "{} shows another decision than its inputs lead to",
                path.display()
            );
            Err(Failure::new(Exit::No, sentence).hint(CHANGED))
        }
    }
}
