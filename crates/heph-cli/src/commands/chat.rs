//! `heph chat`: a conversation at the terminal.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Finish, Message, Prompt};
use heph_runtime::discretion::talk::{Saved, Talk};
use heph_runtime::files::{self, Existing, FileError};
use heph_runtime::preload::Typed;
use heph_runtime::receipt::Receipt;
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;

use super::run::streamed;
use crate::about::DocumentArguments;
use crate::arguments::{count, has_room};
use crate::asking::{Ask, PlaceArguments, Planned, Ready, ReliefArguments, Sizes};
use crate::complete;
use crate::engine::EngineArguments;
use crate::explain;
use crate::failure::{Exit, Failure};
use crate::sampling::SamplingArguments;
use crate::terminal::{self, note};

mod lines;
mod memory;
mod slash;

use lines::{Lines, Said};
use memory::{Asked, Memory};
use slash::Slash;

/// Longest saved conversation read: more would not fit any model's context.
const SAVED_BYTES_MAX: u64 = 64 << 20;

/// Talk with a model. /help shows what steers the chat.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(default_value = "heph-story", add = complete::model())]
    model: String,
    /// A system message
    #[arg(long)]
    system: Option<String>,
    /// Tokens of an answer at most
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    max_tokens: usize,
    #[command(flatten)]
    documents: DocumentArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    #[command(flatten)]
    relief: ReliefArguments,
    #[command(flatten)]
    engine: EngineArguments,
}

/// Tokens that a message and what it follows are planned for before anything was said.
const PROMPT_TOKENS_USUAL: usize = 256;

/// A prompt that has grown by this much is planned for anew.
const GROWN: usize = 2;

/// Loads and talks until the user leaves.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let mut chat = Chat::open(arguments.clone(), settings)?;
    let mut lines = Lines::open(&settings.home)
        .map_err(|e| Failure::new(Exit::No, format!("cannot read from the terminal: {e}")))?;
    if lines.is_terminal() {
        note(&format!(
            "talking with {}; /help shows what steers the chat",
            chat.arguments.model
        ));
    }
    let talked = chat.talk(&mut lines);
    lines.close();
    talked
}

/// A conversation under way.
struct Chat<'a> {
    arguments: Arguments,
    settings: &'a Settings,
    ready: Ready,
    /// Tokens of the prompt that the plan in force was made for.
    planned_for: usize,
    /// How often the label had risen then.
    planned_at: u64,
    /// How private the conversation is.
    talk: Talk,
    messages: Vec<Message>,
    memory: Memory,
    asked: Asked,
    last: Option<Answer>,
    receipt: Option<Receipt>,
    cancel: Cancel,
}

/// Whether the chat goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Leave,
}

impl<'a> Chat<'a> {
    fn open(arguments: Arguments, settings: &'a Settings) -> Result<Self, Failure> {
        has_room(arguments.max_tokens)?;
        let ready = ready(&arguments, settings)?;
        let messages = system(&arguments);
        let memory = Memory::of(arguments.documents.read()?);
        let talk = Talk::of(arguments.place.label());
        Ok(Self {
            arguments,
            settings,
            ready,
            planned_for: PROMPT_TOKENS_USUAL,
            planned_at: 0,
            talk,
            messages,
            memory,
            asked: Asked::default(),
            last: None,
            receipt: None,
            cancel: terminal::cancel_on_ctrl_c()?,
        })
    }

    fn talk(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        loop {
            self.cancel.lower();
            let said = self
                .hear(lines)
                .map_err(|e| Failure::new(Exit::Input, format!("cannot read what you say: {e}")))?;
            let text = match said {
                Said::Goodbye => return Ok(()),
                Said::Nothing => continue,
                Said::Garbled => {
                    note("that was no text in UTF-8, so nothing was said");
                    continue;
                }
                Said::Message(text) if text.is_empty() => continue,
                Said::Message(text) => text,
            };
            let next = match slash::parse(&text) {
                None => self.say(text),
                Some(Ok(command)) => self.obey(command),
                Some(Err(slip)) => Err(Failure::new(Exit::Usage, slip.to_string())),
            };
            match next {
                Ok(Next::Go) => {}
                Ok(Next::Leave) => return Ok(()),
                // A person at a terminal can do better next time; a script cannot.
                Err(failure @ Failure::Said(_)) if lines.is_terminal() => drop(failure.report()),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The next message. Where the model runs here, it is read while it is typed; else nothing leaves before it is sent.
    fn hear(&mut self, lines: &mut Lines) -> io::Result<Said> {
        let sampling = self.arguments.sampling.options().ok();
        // What documents add to a message is known once all of it is.
        let ahead = lines.is_terminal() && self.memory.documents().is_empty();
        let (Some(sampling), true, None) = (sampling, ahead, &self.ready.planned) else {
            return lines.next();
        };
        let typed = Typed::default();
        lines.tell(typed.clone());
        let (desk, said) = (&mut self.ready.desk, &self.messages);
        let heard = std::thread::scope(|scope| {
            scope.spawn(|| typed.follow(desk, said, &sampling));
            let heard = lines.next();
            typed.end();
            self.cancel.raise();
            heard
        });
        self.cancel.lower();
        heard
    }

    fn say(&mut self, text: String) -> Result<Next, Failure> {
        self.messages.push(Message::new("user", text));
        let answered = self.answer();
        if answered.is_err() {
            self.messages.pop();
        }
        answered
    }

    /// Answers the conversation as it stands.
    fn answer(&mut self) -> Result<Next, Failure> {
        let options = AnswerOptions {
            sampling: self.arguments.sampling.options()?,
            max_tokens: Some(self.arguments.max_tokens),
            stops: Vec::new(),
        };
        let desk = &self.ready.desk;
        let (engine, documents) = (&self.arguments.engine, &self.arguments.documents);
        let encoder = || documents.encoder(engine, self.settings);
        let most = self.arguments.max_tokens;
        self.asked = self.memory.asked(&self.messages, desk, most, encoder)?;
        self.look_through();
        self.plan_again()?;
        self.replace()?;
        let prompt = Prompt::Chat(&self.asked.messages);
        let pseudonyms = self.ready.planned.as_ref().and_then(Planned::pseudonyms);
        let mut answer = streamed(&mut self.ready.desk, prompt, &options, &self.cancel, pseudonyms)?;
        self.ready.restore(&mut answer.text);
        let excerpts = self.asked.excerpts.iter();
        excerpts.flat_map(|e| &e.cited).for_each(|line| note(line));
        match answer.finish {
            Finish::Stop => {}
            Finish::Cancelled => note("stopped"),
            Finish::Length => note("the answer was cut at --max-tokens; /set max-tokens changes it"),
            Finish::Context => note("the context is full; /reset starts anew"),
        }
        self.messages.push(Message::new("assistant", answer.text.clone()));
        self.receipt = self.ready.planned.as_mut().map(|planned| planned.settle(&answer));
        let planned = self.ready.planned.as_ref().zip(self.receipt.as_ref());
        let lost = planned.and_then(|(planned, receipt)| planned.mode_lost(receipt));
        let unguessed = planned.and_then(|(planned, receipt)| planned.unguessed(receipt));
        if let Some(sentence) = lost.or(unguessed) {
            note(&sentence);
        }
        self.last = Some(answer);
        Ok(Next::Go)
    }

    /// Raises the label of the conversation by what is asked now, excerpts and earlier answers included.
    fn look_through(&mut self) {
        let documents = self.memory.documents().iter();
        self.talk.reads(documents.map(|document| document.label()));
        if let Some(planned) = &self.ready.planned {
            let texts = self.asked.messages.iter().map(|message| message.content.as_str());
            self.talk.asks(planned.discretion(), texts);
        }
    }

    /// Plans again where what is asked has grown past what the plan was made for, or has become more private, and where a machine that
    /// was lost is back.
    fn plan_again(&mut self) -> Result<(), Failure> {
        let Some(planned) = &mut self.ready.planned else {
            return Ok(());
        };
        let tokens = Prompt::Chat(&self.asked.messages)
            .tokens(self.ready.desk.words())?
            .len();
        let rose = planned.discretion().rose();
        let grown = tokens >= self.planned_for.saturating_mul(GROWN);
        let back = planned.are_back()?;
        if !grown && rose == self.planned_at && !back {
            return Ok(());
        }
        if let Some(desk) = planned.again(Sizes::of(tokens), Some(self.arguments.max_tokens), back)? {
            self.ready.desk = desk;
            let decision = &planned.record.decision;
            let became = match (grown, back) {
                (true, _) => format!("the conversation has grown to {tokens} tokens and"),
                (false, true) => "a machine is back, and the conversation".to_owned(),
                (false, false) => "the conversation has become more private and".to_owned(),
            };
            note(&format!(
                "{became} is answered another way, {}: {}",
                decision.plan.mode, decision.reason.sentence
            ));
        }
        // Only now: what could not be planned is planned for again with the next message.
        (self.planned_for, self.planned_at) = (tokens.max(PROMPT_TOKENS_USUAL), rose);
        Ok(())
    }

    /// Asks with pseudonyms where those who answer may see no more.
    fn replace(&mut self) -> Result<(), Failure> {
        let messages = &mut self.asked.messages;
        let mut texts: Vec<String> = messages.iter().map(|message| message.content.clone()).collect();
        self.ready.replace(&mut texts)?;
        messages
            .iter_mut()
            .zip(texts)
            .for_each(|(message, text)| message.content = text);
        Ok(())
    }

    fn obey(&mut self, command: Slash) -> Result<Next, Failure> {
        match command {
            Slash::Help => write!(io::stdout().lock(), "{}", slash::HELP)?,
            Slash::Reset => self.reset(),
            Slash::Regenerate => return self.regenerate(),
            Slash::Save(path, existing) => self.save(&path, existing)?,
            Slash::Load(path) => self.load(&path)?,
            Slash::Documents(None) => self.show_documents()?,
            Slash::Documents(Some(path)) => self.change_documents(path)?,
            Slash::Model(None) => writeln!(io::stdout().lock(), "{}", self.arguments.model)?,
            Slash::Model(Some(name)) => self.change_model(name)?,
            Slash::System(None) => self.show_system()?,
            Slash::System(Some(text)) => self.change_system(text),
            Slash::Set(None) => self.show_settings()?,
            Slash::Set(Some((name, value))) => self.set(&name, &value)?,
            Slash::Stats => self.show_stats()?,
            Slash::Quit => return Ok(Next::Leave),
        }
        Ok(Next::Go)
    }

    fn reset(&mut self) {
        self.messages = system(&self.arguments);
        self.last = None;
        note("the conversation is forgotten");
    }

    /// Takes the last answer back and answers again with the next seed.
    fn regenerate(&mut self) -> Result<Next, Failure> {
        if self.messages.last().is_none_or(|m| m.role != "assistant") {
            return Err(Failure::new(Exit::Usage, "there is no answer to take back"));
        }
        self.messages.pop();
        self.arguments.sampling.seed = self.arguments.sampling.seed.wrapping_add(1);
        self.answer()
    }

    fn save(&self, path: &Path, existing: Existing) -> Result<(), Failure> {
        let saved = self.talk.saved(&self.messages);
        let text = serde_json::to_string_pretty(&saved).map_err(io::Error::from)? + "\n";
        let written = files::write(path, text.as_bytes(), existing);
        written.map_err(|error| match error {
            FileError::Taken { .. } => Failure::from(error).hint("/save! replaces it"),
            error => error.into(),
        })?;
        let count = terminal::counted(self.messages.len(), "message");
        note(&format!("{count} written to {}", path.display()));
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<(), Failure> {
        let unreadable = |e: &dyn std::fmt::Display| {
            Failure::new(
                Exit::Input,
                format!("{} is no saved conversation: {e}", path.display()),
            )
        };
        let text = files::read(path, SAVED_BYTES_MAX)?;
        let saved: Vec<Saved> = serde_json::from_slice(&text).map_err(|e| unreadable(&e))?;
        self.messages = self.talk.goes_on_from(path, saved);
        let count = terminal::counted(self.messages.len(), "message");
        note(&format!("{count} taken from {}", path.display()));
        Ok(())
    }

    /// The conversation stays; the new model reads it from the start.
    fn change_model(&mut self, name: String) -> Result<(), Failure> {
        let arguments = Arguments {
            model: name,
            ..self.arguments.clone()
        };
        self.ready = ready(&arguments, self.settings)?;
        self.look_through();
        (self.planned_for, self.planned_at) = (PROMPT_TOKENS_USUAL, 0);
        self.arguments = arguments;
        note(&format!("talking with {}", self.arguments.model));
        Ok(())
    }

    fn show_documents(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.memory.documents().is_empty() {
            return writeln!(out, "there are no documents");
        }
        let mut show = |document: &heph_runtime::preprocess::Document| {
            let bytes = terminal::bytes(document.text().len() as u64);
            writeln!(out, "{bytes:>8}  {}", document.name())
        };
        self.memory.documents().iter().try_for_each(&mut show)
    }

    /// Adds a file or a folder to the documents; `none` forgets them all.
    fn change_documents(&mut self, path: PathBuf) -> Result<(), Failure> {
        if path == Path::new("none") {
            self.arguments.documents.documents.clear();
        } else {
            self.arguments.documents.documents.push(path);
        }
        let read = self.arguments.documents.read();
        if read.is_err() {
            self.arguments.documents.documents.pop();
        }
        self.memory.learn(read?);
        let count = terminal::counted(self.memory.documents().len(), "document");
        note(&format!("messages are asked with {count}"));
        Ok(())
    }

    fn show_system(&self) -> io::Result<()> {
        let text = self
            .messages
            .first()
            .filter(|m| m.role == "system")
            .map(|m| m.content.as_str());
        writeln!(
            io::stdout().lock(),
            "{}",
            text.unwrap_or("there is no system message")
        )
    }

    fn change_system(&mut self, text: String) {
        self.arguments.system = Some(text).filter(|t| t != "none");
        self.messages.retain(|m| m.role != "system");
        self.messages.splice(0..0, system(&self.arguments));
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        if name == "max-tokens" {
            let most = count(value).map_err(|why| {
                Failure::new(
                    Exit::Usage,
                    format!("{value:?} is no value for max-tokens: {why}"),
                )
            })?;
            self.arguments.max_tokens = most.get();
            return Ok(());
        }
        self.arguments
            .sampling
            .set(name, value)
            .map_err(|e| Failure::new(Exit::Usage, e).hint("/set shows them all"))
    }

    fn show_settings(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for (name, value) in self.arguments.sampling.shown() {
            writeln!(out, "{name:<18} {value}")?;
        }
        writeln!(out, "{:<18} {}", "max-tokens", self.arguments.max_tokens)
    }

    fn show_stats(&self) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let Some(last) = &self.last else {
            return Ok(writeln!(out, "there is no answer yet")?);
        };
        let (prompt, cached) = (last.prompt.len(), last.cached_tokens);
        writeln!(
            out,
            "prompt   {prompt} tokens, {cached} of them known, {:.0} tok/s",
            last.prefill_tok_s()
        )?;
        writeln!(
            out,
            "answer   {} tokens, {:.0} tok/s",
            last.tokens.len(),
            last.decode_tok_s()
        )?;
        let Ready { threads, isa, .. } = &self.ready;
        let threads = terminal::counted(*threads, "thread");
        writeln!(out, "running  {threads}, {isa}")?;
        if let Some(excerpts) = self
            .asked
            .excerpts
            .as_ref()
            .filter(|_| self.ready.planned.is_some())
        {
            writeln!(out, "{}", excerpts.chosen.exposure())?;
        }
        match &self.receipt {
            Some(receipt) => Ok(explain::write_receipt(&mut out, receipt)?),
            None => Ok(()),
        }
    }
}

fn ready(arguments: &Arguments, settings: &Settings) -> Result<Ready, Failure> {
    let ask = Ask {
        model: &arguments.model,
        engine: &arguments.engine,
        place: &arguments.place,
        relief: &arguments.relief,
        settings,
        texts: &[],
        paths: &arguments.documents.documents,
        receipt: false,
        goes_on: true,
    };
    ask.ready(None, |words: &Words, _| {
        arguments.sampling.check(words)?;
        Ok(Sizes::of(PROMPT_TOKENS_USUAL))
    })
}

fn system(arguments: &Arguments) -> Vec<Message> {
    arguments
        .system
        .iter()
        .map(|text| Message::new("system", text))
        .collect()
}
