//! Answers of a shape, and answers with probabilities: made by this machine alone, token by token.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use heph_engine::batch::{Asker, Batch, BatchError, BatchLimits, Event, Finish as Why, Request};
use heph_engine::constrain::{Constraint, ConstraintError, Shape};
use heph_engine::prefix::Share;
use heph_engine::text::TextStream;
use heph_plan::Mode;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{AnswerOptions, DeskError, Finish};
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;
use heph_types::ModelHash;
use serde::Serialize;

use super::{Arguments, messages, prompt};
use crate::failure::{Exit, Failure};

/// A schema or grammar file of more bytes is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Names the model where nothing of it is shared: the name is compared with nothing, and to make it reads all weights.
const ALONE: ModelHash = ModelHash([0; 32]);

/// Probabilities beside each token, at most.
const LOGPROBS_MAX: usize = 20;

/// What the answer must look like, and what is told of its tokens.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "The answer's shape")]
pub(crate) struct ShapeArguments {
    /// The answer matches this regular expression from end to end
    #[arg(long, value_name = "EXPRESSION", group = "shape")]
    regex: Option<String>,
    /// The answer follows the grammar in this file: Lark, or GBNF as llama.cpp writes it
    #[arg(long, value_name = "FILE", group = "shape")]
    grammar: Option<PathBuf>,
    /// The answer is JSON that fits the schema in this file
    #[arg(long, value_name = "FILE", group = "shape")]
    json_schema: Option<PathBuf>,
    /// Tell each token's log probability, with so many of the likeliest beside it; needs --json
    #[arg(long, value_name = "COUNT", requires = "json")]
    logprobs: Option<usize>,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report {
    text: String,
    finish: Finish,
    prompt_tokens: usize,
    answer_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Told>>,
}

/// One token and the likeliest in its place.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    chosen: Likelihood,
    top: Vec<Likelihood>,
}

/// A token with the natural logarithm of its probability; nothing for an impossible one.
#[derive(Debug, Serialize)]
struct Likelihood {
    id: u32,
    token: String,
    logprob: Option<f64>,
}

impl ShapeArguments {
    /// Whether anything of it is asked for.
    pub(super) fn any(&self) -> bool {
        self.regex.is_some()
            || self.grammar.is_some()
            || self.json_schema.is_some()
            || self.logprobs.is_some()
    }

    fn shape(&self) -> Result<Option<Shape>, Failure> {
        if let Some(expression) = &self.regex {
            return Ok(Some(Shape::Regex(expression.clone())));
        }
        if let Some(path) = &self.grammar {
            return Ok(Some(Shape::Lark(text(path)?)));
        }
        let Some(path) = &self.json_schema else {
            return Ok(None);
        };
        let schema = serde_json::from_str(&text(path)?).map_err(|error| {
            let sentence = format!("{} is no JSON schema: {error}", named(path));
            Failure::new(Exit::Input, sentence)
        })?;
        Ok(Some(Shape::JsonSchema(schema)))
    }

    fn constraint(&self, words: &Words) -> Result<Option<Constraint>, Failure> {
        let Some(shape) = self.shape()? else {
            return Ok(None);
        };
        let shaper = words.shaper().map_err(unusable)?.ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                "this model's vocabulary has no end of an answer, so its answers cannot be given a shape",
            )
        })?;
        let constraint = shaper.constraint(&shape).map_err(unusable)?;
        Ok(Some(constraint.completed()))
    }
}

fn unusable(error: ConstraintError) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}

/// Characters of a name that are told; what is longer is no name, but what the file was to hold.
const NAME_CHARS_MAX: usize = 80;

/// The name of a file as it is told.
fn named(path: &Path) -> String {
    let name = path.display().to_string();
    match name.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name,
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    let begins = path.to_string_lossy();
    let inline = begins.trim_start().starts_with('{') || begins.contains("::=");
    let wrong = |why: String| {
        let failure = Failure::new(Exit::Input, format!("cannot read {}: {why}", named(path)));
        failure.maybe_hint(inline.then_some("the option takes the name of a file that holds it"))
    };
    let about = fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        return Err(wrong(format!(
            "it is no file of at most {} KiB",
            FILE_BYTES_MAX >> 10
        )));
    }
    fs::read_to_string(path).map_err(|error| wrong(error.to_string()))
}

/// Refuses what does not go together with answers that are made here alone.
fn fits(arguments: &Arguments) -> Result<(), Failure> {
    let mode = arguments.place.mode.by_name();
    let elsewhere = mode.is_some_and(|mode| mode != Mode::Local);
    let with = [
        ("--mode", elsewhere),
        ("--document", !arguments.documents.documents.is_empty()),
        ("--receipt", arguments.receipt.is_some()),
        ("--explain", arguments.explain),
        (
            "--draft",
            arguments
                .place
                .draft
                .as_deref()
                .is_some_and(|draft| draft != "none"),
        ),
    ];
    match with.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Failure::new(
            Exit::Usage,
            format!(
                "an answer of a shape, or with probabilities, is made on this machine alone: {name} cannot be given"
            ),
        )),
        None => match arguments.shape.logprobs {
            Some(count) if count > LOGPROBS_MAX => Err(Failure::new(
                Exit::Usage,
                format!("--logprobs may be {LOGPROBS_MAX} at most"),
            )),
            _ => Ok(()),
        },
    }
}

/// Loads, answers, prints.
pub(super) fn run(
    question: &str,
    arguments: &Arguments,
    options: &AnswerOptions,
    cancel: &Cancel,
    settings: &Settings,
) -> Result<(), Failure> {
    fits(arguments)?;
    let opened = arguments.engine.open(&arguments.model, None, 1, settings)?;
    let words = opened.words()?;
    let constraint = arguments.shape.constraint(&words)?;
    let messages = messages(arguments.system.as_deref(), question);
    let tokens = prompt(question, &messages, arguments.raw).tokens(&words)?;
    let prompt_tokens = tokens.len();
    let engine = opened.load(opened.packing())?;
    let worker = engine.worker().with_stop(cancel.flag());
    let mut batch = Batch::new(worker, ALONE, BatchLimits::default());
    batch
        .submit(Request {
            prompt: tokens,
            sampling: options.sampling.clone(),
            max_tokens: options.max_tokens.unwrap_or(usize::MAX),
            stop_tokens: words.tokenizer.eog_ids().to_vec(),
            constraint,
            logprobs: arguments.shape.logprobs,
            share: Share::NONE,
            asker: Asker::default(),
            cache: None,
        })
        .map_err(failed)?;
    let mut made = Made {
        stream: TextStream::new(options.stops.iter().cloned()),
        text: String::new(),
        tokens: 0,
        told: Vec::new(),
        live: !arguments.json,
    };
    let finish = made.until_the_end(&mut batch, &words, cancel)?;
    if arguments.json {
        let report = Report {
            text: made.text,
            finish,
            prompt_tokens,
            answer_tokens: made.tokens,
            logprobs: arguments.shape.logprobs.map(|_| made.told),
        };
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(io::stdout().lock())?;
    }
    match finish {
        Finish::Cancelled => Err(Failure::Stopped),
        _ => Ok(()),
    }
}

fn failed(error: BatchError) -> Failure {
    match error {
        BatchError::Forward(error) => error.into(),
        error @ BatchError::TooLong { tokens, context } => Failure::new(Exit::Usage, error.to_string())
            .maybe_hint(DeskError::TooLong { tokens, context }.hint()),
        error => Failure::new(Exit::Input, error.to_string()),
    }
}

/// An answer so far.
struct Made {
    stream: TextStream,
    text: String,
    tokens: usize,
    told: Vec<Told>,
    /// Whether it is shown as it comes.
    live: bool,
}

impl Made {
    fn until_the_end(
        &mut self,
        batch: &mut Batch,
        words: &Words,
        cancel: &Cancel,
    ) -> Result<Finish, Failure> {
        loop {
            for event in batch.step() {
                match event {
                    Event::Token { token, report, .. } => {
                        self.tokens += 1;
                        self.told.extend(report.map(|report| Told {
                            chosen: likelihood(words, &report.chosen),
                            top: report.top.iter().map(|other| likelihood(words, other)).collect(),
                        }));
                        let new = self.stream.push(words.tokenizer.token_bytes(token));
                        self.show(&new)?;
                        if self.stream.stopped_by().is_some() {
                            return Ok(Finish::Stop);
                        }
                    }
                    Event::Finished { why, .. } => {
                        let rest = self.stream.finish();
                        self.show(&rest)?;
                        return Ok(match why {
                            Why::Stop => Finish::Stop,
                            Why::Length => Finish::Length,
                            Why::Context => Finish::Context,
                        });
                    }
                    Event::Failed { error, .. } => {
                        return match cancel.is_raised() {
                            true => Ok(Finish::Cancelled),
                            false => Err(failed(error)),
                        };
                    }
                    Event::Admitted { .. } | Event::Kept(_) => {}
                }
            }
            if cancel.is_raised() {
                return Ok(Finish::Cancelled);
            }
        }
    }

    fn show(&mut self, new: &str) -> Result<(), Failure> {
        self.text.push_str(new);
        if self.live {
            let mut out = io::stdout().lock();
            out.write_all(new.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }
}

fn likelihood(words: &Words, of: &heph_engine::sample::LogProbability) -> Likelihood {
    Likelihood {
        id: of.token.0,
        token: String::from_utf8_lossy(words.tokenizer.token_bytes(of.token)).into_owned(),
        logprob: Some(of.value).filter(|value| value.is_finite()),
    }
}
