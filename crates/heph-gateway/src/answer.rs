//! An answer under way, in the gateway's own words: text, calls and ends, choice by choice.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::select_all;
use heph_engine::recall::Recalled;
use heph_plan::{Mode, Record};
use heph_runtime::receipt::ToolLine;
use heph_runtime::service::{Ending, Heard, Outcome, Reply, Said};
use heph_runtime::words::Words;
use heph_types::Exactness;
use serde_json::Value;

use crate::engines::Writer;
use crate::error::Refusal;
use crate::house::Door;
use crate::provenance::Trace;
use crate::recall::{self, Found, Learning};
use crate::tools::{CallReader, Read, Style};

/// What a choice is read with.
#[derive(Debug, Clone)]
pub(crate) struct ChoiceStart {
    /// How calls are written, where there may be any.
    pub(crate) style: Option<Style>,
    /// The tool whose call begins in the prompt.
    pub(crate) begun: Option<String>,
}

impl ChoiceStart {
    fn reader(self) -> Option<CallReader> {
        let style = self.style?;
        Some(match self.begun {
            Some(name) => CallReader::begun(style, name),
            None => CallReader::new(style),
        })
    }
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    StopText(String),
    Length,
    Calls,
}

/// A piece of an answer.
#[derive(Debug)]
pub(crate) enum Part {
    /// Text, and the reported tokens that came with it.
    Text {
        choice: usize,
        text: String,
        said: Vec<Said>,
    },
    /// What an outside provider's model thinks before it answers; no part of the answer.
    Thought { choice: usize, text: String },
    /// A call begins: its number within the choice, and its tool.
    Call {
        choice: usize,
        call: usize,
        id: String,
        name: String,
    },
    /// More of its arguments.
    Arguments {
        choice: usize,
        call: usize,
        text: String,
    },
    /// The choice is complete.
    End { choice: usize, finish: Finish },
}

/// Who gives an answer.
pub(crate) struct By {
    /// The model that is named to the caller.
    pub(crate) model: String,
    pub(crate) mode: &'static str,
    /// Whether that mode is the one that will be: a request that names none may be planned anew before its turn comes.
    keeps_mode: bool,
    pub(crate) exactness: Exactness,
    /// What was tried before and could not be, in a sentence.
    degraded: Option<String>,
    /// What excerpts of texts show, where they were asked about.
    shows: Option<Value>,
    writer: Arc<Writer>,
}

impl By {
    /// The same, asked about excerpts that show this.
    pub(crate) fn showing(self, shows: Option<Value>) -> Self {
        Self { shows, ..self }
    }

    /// The batch of this machine.
    pub(crate) fn here(writer: Arc<Writer>, degraded: Option<String>) -> Self {
        Self {
            model: writer.name.clone(),
            mode: Mode::Local.name(),
            keeps_mode: true,
            exactness: Exactness::Exact,
            degraded,
            shows: None,
            writer,
        }
    }

    /// An outside provider.
    pub(crate) fn outside(writer: Arc<Writer>, model: String) -> Self {
        Self {
            model,
            mode: Mode::Remote.name(),
            keeps_mode: true,
            exactness: Exactness::Unknown,
            degraded: None,
            shows: None,
            writer,
        }
    }

    /// The machines of a plan, for a request that names this mode, or none.
    pub(crate) fn course(writer: Arc<Writer>, record: &Record, named: Option<Mode>) -> Self {
        let plan = &record.decision.plan;
        Self {
            model: writer.name.clone(),
            mode: plan.mode.name(),
            keeps_mode: named.is_some(),
            exactness: plan.exactness,
            degraded: None,
            shows: None,
            writer,
        }
    }
}

/// Tokens that an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    /// Of the prompt, what an earlier answer had left.
    pub(crate) cached: usize,
    pub(crate) answer: usize,
}

struct Choice {
    number: usize,
    reply: Reply,
    /// Reads calls out of the text, where a model here may make them.
    calls: Option<CallReader>,
    /// Calls that came as such.
    called: usize,
    /// What was heard already.
    heard: Option<Heard>,
}

impl Choice {
    async fn next(&mut self) -> Heard {
        match self.ready() {
            Some(heard) => heard,
            None => self.reply.next().await,
        }
    }

    /// What is there already.
    fn ready(&mut self) -> Option<Heard> {
        self.heard.take().or_else(|| self.reply.take())
    }
}

/// An answer under way. Dropped before its end, it frees what computes it.
pub(crate) struct Answer {
    door: Door,
    by: By,
    pub(crate) id: String,
    pub(crate) created_s: u64,
    open: Vec<Choice>,
    choices: usize,
    prompt_tokens: usize,
    outcomes: Vec<Outcome>,
    recalled: Option<Recalled>,
    learning: Option<Learning>,
    trace: Option<Trace>,
    began: Instant,
    receipt: Option<Value>,
}

impl Answer {
    pub(crate) fn new(door: Door, by: By, prompt_tokens: usize, replies: Vec<(Reply, ChoiceStart)>) -> Self {
        let id = door.serial();
        door.counters.asked();
        let open: Vec<Choice> = replies
            .into_iter()
            .enumerate()
            .map(|(number, (reply, start))| Choice {
                number,
                reply,
                calls: start.reader(),
                called: 0,
                heard: None,
            })
            .collect();
        tracing::info!(request = %id, model = %by.model, mode = by.mode, choices = open.len(), "asked");
        Self {
            created_s: crate::house::now_ms() / 1000,
            choices: open.len(),
            prompt_tokens,
            door,
            by,
            id,
            open,
            outcomes: Vec::new(),
            recalled: None,
            learning: None,
            trace: None,
            began: Instant::now(),
            receipt: None,
        }
    }

    /// An answer that was given before.
    pub(crate) fn recalled(door: Door, writer: Arc<Writer>, prompt_tokens: usize, found: Found) -> Self {
        let reply = Reply::ready(found.recalled.answer.clone(), found.outcome);
        let start = ChoiceStart {
            style: None,
            begun: None,
        };
        let mut answer = Self::new(door, By::here(writer, None), prompt_tokens, vec![(reply, start)]);
        answer.recalled = Some(found.recalled);
        answer
    }

    /// The same answer, from which will be learnt where it has the model's own bits.
    pub(crate) fn learning(mut self, learning: Option<Learning>) -> Self {
        self.learning = learning.filter(|_| self.by.exactness == Exactness::Exact);
        self
    }

    /// The same answer, whose label is remembered.
    pub(crate) fn tracing(mut self, trace: Trace) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Whether it was given before.
    pub(crate) fn is_recalled(&self) -> bool {
        self.recalled.is_some()
    }

    /// What the first choice said already.
    pub(crate) fn heard_first(&mut self, heard: Option<Heard>) {
        if let Some(first) = self.open.first_mut() {
            first.heard = heard;
        }
    }

    /// The model that gives it, by name.
    pub(crate) fn model(&self) -> &str {
        &self.by.model
    }

    /// How its tokens are spelled, where they are told.
    pub(crate) fn words(&self) -> &Arc<Words> {
        self.by.writer.service.words()
    }

    /// How it is answered, as far as that is certain, and what its bits are worth at least: what was given to another question is not what the
    /// model says to this one.
    pub(crate) fn class(&self) -> (Option<&'static str>, String) {
        let exactness = match &self.recalled {
            Some(recalled) if recalled.likeness < 1.0 => "recalled".to_owned(),
            _ => self.by.exactness.to_string(),
        };
        let told = self
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.elsewhere.as_ref());
        let told = told.map(|receipt| receipt.mode.name()).next();
        (told.or(self.by.keeps_mode.then_some(self.by.mode)), exactness)
    }

    /// The id that the receipt will have.
    pub(crate) fn receipt_id(&self) -> String {
        format!("r-{}", self.id)
    }

    /// How many choices there are.
    pub(crate) fn choices(&self) -> usize {
        self.choices
    }

    /// The model that computes it here.
    pub(crate) fn writer(&self) -> &Arc<Writer> {
        &self.by.writer
    }

    /// Tokens of the first choice's prompt.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Tokens so far; the prompt of several choices counts once.
    pub(crate) fn usage(&self, prompts: usize) -> Usage {
        let each = (self.choices / prompts.max(1)).max(1);
        let prompt: usize = self.outcomes.iter().map(|o| o.prompt_tokens).sum();
        let cached = self.outcomes.iter().map(|o| o.cached_tokens);
        // Choices of one prompt take from each other; what counts is what was there before them all.
        let cached = match prompts {
            0 | 1 => cached.min().unwrap_or(0),
            _ => cached.sum::<usize>() / each,
        };
        Usage {
            prompt: prompt / each,
            cached,
            answer: self.outcomes.iter().map(|o| o.answer_tokens).sum(),
        }
    }

    /// What comes next; `None` after the end of the last choice.
    pub(crate) async fn next(&mut self) -> Option<Result<Vec<Part>, Refusal>> {
        let (at, heard) = match self.open.as_mut_slice() {
            [] => return None,
            [only] => (0, only.next().await),
            many => {
                let waits = many.iter_mut().map(|choice| Box::pin(choice.next()));
                let (heard, at, _) = select_all(waits).await;
                (at, heard)
            }
        };
        Some(self.take(at, heard))
    }

    /// What came already; `None` where the next piece has to be waited for, and after the end.
    pub(crate) fn ready(&mut self) -> Option<Result<Vec<Part>, Refusal>> {
        let mut open = self.open.iter_mut().enumerate();
        let (at, heard) = open.find_map(|(at, choice)| Some((at, choice.ready()?)))?;
        Some(self.take(at, heard))
    }

    fn take(&mut self, at: usize, heard: Heard) -> Result<Vec<Part>, Refusal> {
        match heard {
            Heard::More { text, said } => {
                if let Some(trace) = &mut self.trace {
                    trace.hears(self.open[at].number, &text);
                }
                if let Some(learning) = &mut self.learning {
                    learning.hears(&text);
                }
                let choice = &mut self.open[at];
                Ok(parts(choice, &self.id, text, said))
            }
            Heard::Thought(text) => {
                let choice = self.open[at].number;
                if let Some(trace) = &mut self.trace {
                    trace.hears_thought(choice, &text);
                }
                Ok(vec![Part::Thought { choice, text }])
            }
            Heard::Call { id, name } => {
                let choice = &mut self.open[at];
                choice.called += 1;
                Ok(vec![Part::Call {
                    choice: choice.number,
                    call: choice.called - 1,
                    id,
                    name,
                }])
            }
            Heard::Arguments(text) => {
                let choice = &self.open[at];
                if let Some(trace) = &mut self.trace {
                    trace.calls(choice.number, &text);
                }
                Ok(vec![Part::Arguments {
                    choice: choice.number,
                    call: choice.called.saturating_sub(1),
                    text,
                }])
            }
            Heard::End(Ok(outcome)) => {
                let mut choice = self.open.remove(at);
                let mut last = match &mut choice.calls {
                    Some(reader) => {
                        let before = reader.calls();
                        let read = reader.finish();
                        reads(choice.number, &self.id, before, read, Vec::new())
                    }
                    None => Vec::new(),
                };
                let read = choice.calls.as_ref().map_or(0, CallReader::calls);
                let called = read + choice.called > 0;
                let finish = match &outcome.ending {
                    Ending::Stop if called => Finish::Calls,
                    Ending::Stop => Finish::Stop,
                    Ending::StopText(text) => Finish::StopText(text.clone()),
                    Ending::Length | Ending::Context | Ending::Deadline => Finish::Length,
                };
                if let Some(learning) = self.learning.take() {
                    learning.ends(&self.door, &outcome.ending);
                }
                self.outcomes.push(outcome);
                if self.open.is_empty() {
                    // Before the last word is told: who asks again at once shows words that are known.
                    self.trace_ends();
                    self.settle();
                }
                last.push(Part::End {
                    choice: choice.number,
                    finish,
                });
                Ok(last)
            }
            Heard::End(Err(error)) => {
                // The other choices of a broken answer are of no use to anybody.
                self.open.clear();
                self.door.counters.failed();
                // Its sentence may repeat what was asked, as a provider's does: whoever asked reads it, a log does not.
                tracing::warn!(request = %self.id, kind = error.kind(), "failed");
                Err(error.into())
            }
        }
    }

    /// Whether every choice has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.open.is_empty()
    }

    /// The field `heph` of a complete answer.
    pub(crate) fn receipt(&self) -> Option<&Value> {
        self.receipt.as_ref()
    }

    /// What was said is remembered with how private it is; nobody waits for that but who shows it again.
    fn trace_ends(&mut self) {
        if let (Some(trace), Ok(threads)) = (self.trace.take(), tokio::runtime::Handle::try_current()) {
            let ending = trace.ends(&self.door);
            drop(threads.spawn_blocking(move || ending.remember()));
        }
    }

    /// The answer came by tools: its receipt tells what their servers and the rounds before it were told.
    pub(crate) fn came_by(&mut self, rounds: &[String], tools: &[ToolLine]) {
        let told = self.door.receipts.complete(&self.receipt_id(), rounds, tools);
        if let (Some(receipt), Some(told)) = (&mut self.receipt, told) {
            receipt["receipt"] = told;
        }
    }

    fn settle(&mut self) {
        let (id, total) = (self.receipt_id(), self.began.elapsed());
        let mut receipt = crate::receipts::elsewhere(&id, &self.outcomes, total).unwrap_or_else(|| {
            let degraded = self.by.degraded.as_deref();
            crate::receipts::local(&id, &self.by.writer, &self.outcomes, total, degraded)
        });
        if let Some(recalled) = &self.recalled {
            receipt["answered_from"] = recall::told(recalled, &self.door);
            receipt["exactness"] = self.class().1.into();
            receipt["places"] = Value::Array(Vec::new());
        }
        for (name, value) in self.by.shows.iter().filter_map(Value::as_object).flatten() {
            receipt[name] = value.clone();
        }
        tracing::info!(request = %self.id, tokens = self.outcomes.iter().map(|o| o.answer_tokens).sum::<usize>(), "answered");
        self.door.counters.answered(&self.outcomes);
        let typed = crate::receipts::sum(&self.outcomes)
            .unwrap_or_else(|| crate::receipts::here(&self.by.writer, &self.outcomes, total));
        receipt["signed"] = format!("/heph/v1/receipts/{id}/signed").into();
        self.door.receipts.keep(&self.receipt_id(), &receipt, typed);
        self.receipt = Some(serde_json::json!({ "receipt_id": self.receipt_id(), "receipt": receipt }));
    }
}

/// Whoever lets go of an answer under way is counted.
impl Drop for Answer {
    fn drop(&mut self) {
        self.trace_ends();
        if !self.open.is_empty() {
            self.door.counters.cancelled();
            tracing::info!(request = %self.id, "cancelled");
        }
    }
}

fn parts(choice: &mut Choice, id: &str, text: String, said: Vec<Said>) -> Vec<Part> {
    let number = choice.number;
    match &mut choice.calls {
        None => vec![Part::Text {
            choice: number,
            text,
            said,
        }],
        Some(reader) => {
            let before = reader.calls();
            let read = reader.push(&text);
            reads(number, id, before, read, said)
        }
    }
}

fn reads(choice: usize, id: &str, mut calls: usize, read: Vec<Read>, said: Vec<Said>) -> Vec<Part> {
    let mut parts = Vec::with_capacity(read.len() + 1);
    let mut said = Some(said).filter(|said| !said.is_empty());
    for read in read {
        parts.push(match read {
            Read::Text(text) => Part::Text {
                choice,
                text,
                said: said.take().unwrap_or_default(),
            },
            Read::Call(name) => {
                calls += 1;
                Part::Call {
                    choice,
                    call: calls - 1,
                    id: format!("call_{id}_{choice}_{}", calls - 1),
                    name,
                }
            }
            Read::Arguments(text) => Part::Arguments {
                choice,
                call: calls.saturating_sub(1),
                text,
            },
        });
    }
    if let Some(said) = said {
        parts.push(Part::Text {
            choice,
            text: String::new(),
            said,
        });
    }
    parts
}
