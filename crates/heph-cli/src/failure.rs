//! How a command fails: one plain sentence, a hint where we have one, and an exit code.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextValue, ErrorKind};
use heph_engine::cache::CacheError;
use heph_engine::model::{Fit, LoadError};
use heph_engine::sample::{SamplingError, SamplingOptionError};
use heph_engine::source::SourceError;
use heph_engine::worker::ForwardError;
use heph_kernels::format::Format;
use heph_net::endpoint::ConnectError;
use heph_net::identity::IdentityError;
use heph_net::relay::RelayError;
use heph_net::transfer::TransferError;
use heph_net::trust::TrustError;
use heph_plan::{Constraint, InputError, Refusal};
use heph_runtime::bench::BenchError;
use heph_runtime::certify::CertifyError;
use heph_runtime::decompose::{DecomposeError, ReadingError};
use heph_runtime::desk::DeskError;
use heph_runtime::files::FileError;
use heph_runtime::inversion::InversionError;
use heph_runtime::network::{JoinError, NetworkError};
use heph_runtime::open::OpenError;
use heph_runtime::preprocess::{DocumentError, PreprocessError};
use heph_runtime::pull::PullError;
use heph_runtime::relaying::RelayingError;
use heph_runtime::route::RouteError;
use heph_runtime::settings::SettingsError;
use heph_runtime::shards::ShardError;
use heph_runtime::store::StoreError;
use heph_runtime::words::WordsError;
use serde::Serialize;

use crate::terminal;

/// Why a command did not do its job.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something to tell the user.
    Said(Sentence),
    /// A command line that cannot be understood.
    Slip(clap::Error),
    /// Nobody reads our output any more, as in `heph models list | head -1`. Not a failure to speak of.
    OutputClosed,
    /// The user pressed Ctrl-C.
    Stopped,
}

/// A command that needs more words, for which clap shows its help.
const MISSING: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// What the user reads.
#[derive(Debug)]
pub(crate) struct Sentence {
    text: String,
    hint: Option<String>,
    exit: Exit,
}

/// The exit codes of the program; `main.rs` has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It ran and the answer is no, or something unforeseen failed.
    No = 1,
    /// The command line, or a setting, cannot be understood.
    Usage = 2,
    /// A model or file is missing, damaged or of a kind we cannot read.
    Input = 3,
    /// Memory or disk is too small.
    Room = 4,
    /// The network or the other side failed.
    Network = 5,
    /// Stopped with Ctrl-C: 128 and the number of the signal.
    Stopped = 130,
}

impl Failure {
    /// A failure that says `text`.
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self::Said(Sentence {
            text: text.into(),
            hint: None,
            exit,
        })
    }

    /// The same with what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Said(sentence) => Self::Said(Sentence {
                hint: Some(hint.into()),
                ..sentence
            }),
            Self::OutputClosed | Self::Stopped | Self::Slip(_) => self,
        }
    }

    /// The same with what it says in other words.
    pub(crate) fn worded(self, words: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Said(sentence) => Self::Said(Sentence {
                text: words(&sentence.text),
                hint: sentence.hint.map(|hint| words(&hint)),
                ..sentence
            }),
            Self::OutputClosed | Self::Stopped | Self::Slip(_) => self,
        }
    }

    /// The same, of the file or model of that name.
    pub(crate) fn of(self, name: &str) -> Self {
        match self {
            Self::Said(sentence) if !sentence.text.contains(name) => Self::Said(Sentence {
                text: format!("{name}: {}", sentence.text),
                ..sentence
            }),
            other => other,
        }
    }

    /// The same with what to do about it, where that is known.
    pub(crate) fn maybe_hint(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// The system refused to write the file at `path`.
    pub(crate) fn writing(path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::StorageFull => {
                Self::new(Exit::Room, format!("the disk that holds {path} is full"))
            }
            _ => Self::new(Exit::No, format!("cannot write {path}: {error}")),
        }
    }

    /// What the user would read, as one sentence.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Said(sentence) => sentence.text.clone(),
            Self::OutputClosed => "nobody reads the output any more".to_owned(),
            Self::Stopped => "it was stopped".to_owned(),
            Self::Slip(slip) => Sentence::of(slip).text,
        }
    }

    /// What the user may do about it, where that is known.
    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::Said(sentence) => sentence.hint.clone(),
            Self::Slip(slip) => Sentence::of(slip).hint,
            Self::OutputClosed | Self::Stopped => None,
        }
    }

    /// Tells the user, or the script where `--json` was said, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let mut out = io::stderr().lock();
        // Where standard error is closed too there is nobody left to tell.
        match self {
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Stopped => ExitCode::from(terminal::stopped_code()),
            // A command that was only begun: what may follow is told whole.
            Self::Slip(slip) if slip.kind() == MISSING && !wants_json() => {
                drop(out);
                let _ = slip.print();
                ExitCode::from(Exit::Usage as u8)
            }
            Self::Slip(slip) => Sentence::of(&slip).tell(&mut out),
            Self::Said(sentence) => sentence.tell(&mut out),
        }
    }
}

/// Whether a script asked. Looked for in the command line itself, since it may be one that cannot be understood.
fn wants_json() -> bool {
    let mut options = std::env::args_os().skip(1).take_while(|word| word != "--");
    options.any(|word| word == OsStr::new("--json"))
}

impl Sentence {
    /// What clap says, on one line, and what it advises on another.
    fn of(slip: &clap::Error) -> Self {
        let mut said = slip.to_string();
        // Lines that the person wrote are none of clap's.
        let values = slip.context().filter_map(|(_, value)| match value {
            ContextValue::String(value) => Some(value),
            _ => None,
        });
        for value in values.filter(|value| value.contains(['\n', '\r'])) {
            said = said.replace(&format!("'{value}'"), &format!("'{}'", value.escape_debug()));
        }
        let (mut text, mut hints, mut is_usage) = (Vec::new(), Vec::new(), false);
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        for line in lines.take_while(|line| !line.starts_with("For more")) {
            match (line.strip_prefix("tip: "), line.strip_prefix("Usage: ")) {
                (Some(tip), _) => hints.push(tip),
                (_, Some(usage)) => {
                    is_usage = true;
                    // What may be meant tells more than all that may be said.
                    if hints.is_empty() {
                        hints.push(usage);
                    }
                }
                // Where there is more than one way, the first is told.
                _ if is_usage => {}
                (None, None) => text.push(line),
            }
        }
        hints.push("--help shows what may be said");
        Self {
            text: text.join(" ").trim_start_matches("error: ").to_owned(),
            hint: Some(hints.join("; ")),
            exit: Exit::Usage,
        }
    }

    /// Tells the user, or the script where `--json` was said.
    fn tell(&self, out: &mut impl Write) -> ExitCode {
        let _ = match wants_json() {
            true => self.write_json(out),
            false => self.write(out),
        };
        ExitCode::from(self.exit as u8)
    }

    /// What files and other machines wrote may stand in a sentence: it steers no terminal.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let style = terminal::Style::of_stderr();
        writeln!(out, "{} {}", style.red("error:"), terminal::plain(&self.text))?;
        match &self.hint {
            Some(hint) => writeln!(out, "{} {}", style.dim("hint:"), terminal::plain(hint)),
            None => Ok(()),
        }
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Told<'a> {
            error: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<&'a str>,
            exit: u8,
        }
        let told = Told {
            error: &self.text,
            hint: self.hint.as_deref(),
            exit: self.exit as u8,
        };
        serde_json::to_writer(&mut *out, &told).map_err(io::Error::from)?;
        writeln!(out)
    }
}

impl From<clap::Error> for Failure {
    fn from(slip: clap::Error) -> Self {
        Self::Slip(slip)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let exit = match &error {
            FileError::Taken { .. } => Exit::Usage,
            FileError::Special { .. } | FileError::TooLong { .. } | FileError::Read { .. } => Exit::Input,
            FileError::DiskFull { .. } => Exit::Room,
            FileError::Write { .. } => Exit::No,
        };
        let hint = match &error {
            FileError::Read { cause, .. } | FileError::Write { cause, .. }
                if cause.kind() == io::ErrorKind::NotFound =>
            {
                Some("is the path right? One that does not begin with / begins where heph was started")
            }
            FileError::DiskFull { .. } => Some("make room there, or name a file on another disk"),
            _ => None,
        };
        Self::new(exit, error.to_string()).maybe_hint(hint)
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::TooLong { .. } => Self::new(Exit::Usage, error.to_string())
                .hint("give a smaller --prompt, --gen, --depth or --verify"),
            BenchError::Forward(error) => error.into(),
        }
    }
}

/// A value without meaning is the user's; numbers that are none are the model's.
impl From<SamplingError> for Failure {
    fn from(error: SamplingError) -> Self {
        match error {
            SamplingError::Option(error) => error.into(),
            SamplingError::NothingAllowed => Self::new(Exit::Input, error.to_string())
                .hint("the weights may be damaged, or --logit-bias forbids every token"),
        }
    }
}

impl From<SamplingOptionError> for Failure {
    fn from(error: SamplingOptionError) -> Self {
        let allowed = allowed(&error);
        Self::new(Exit::Usage, error.to_string()).hint(format!("it may be {allowed}"))
    }
}

/// The values that the option may have, in words.
pub(crate) fn allowed(error: &SamplingOptionError) -> &'static str {
    match error.name {
        "temperature" | "dry multiplier" => "0 or more",
        "top_p" | "typical_p" => "more than 0, and at most 1",
        "min_p" => "from 0 to 1",
        "repeat_penalty" => "more than 0",
        "dry base" => "1 or more",
        _ => "any number that is finite",
    }
}

/// For results of writing to standard output only: files have errors that name them.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            io::ErrorKind::StorageFull => Self::new(Exit::Room, "the disk that holds the output is full"),
            _ => Self::new(Exit::No, format!("cannot write the output: {error}")),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::new(Exit::Usage, error.to_string()).hint(error.hint())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::Stopped => return Self::Stopped,
            StoreError::Open(_) | StoreError::Absent { .. } => Exit::Input,
            StoreError::Taken(_) | StoreError::PartOfTheProgram(_) | StoreError::Name(_) => Exit::Usage,
            StoreError::Unknown { .. }
            | StoreError::NotAModel { .. }
            | StoreError::PartMissing { .. }
            | StoreError::Record { .. } => Exit::Input,
            StoreError::DiskFull { .. } => Exit::Room,
            StoreError::Busy(_) | StoreError::Io { .. } => Exit::No,
        };
        Self::new(exit, error.to_string()).maybe_hint(error.hint())
    }
}

impl From<ShardError> for Failure {
    fn from(error: ShardError) -> Self {
        let exit = match error {
            ShardError::Store(error) => return error.into(),
            ShardError::Open(error) => return error.into(),
            ShardError::Reach(_) | ShardError::NoSource => Exit::Network,
            ShardError::Transfer(
                TransferError::DiskFull | TransferError::NoRoom { .. } | TransferError::NoRoomThere(_),
            ) => Exit::Room,
            ShardError::Transfer(_) => Exit::Network,
            ShardError::NotGguf
            | ShardError::Header(_)
            | ShardError::Source(_)
            | ShardError::Graph(_)
            | ShardError::Layers { .. }
            | ShardError::List
            | ShardError::Kept { .. } => Exit::Input,
            ShardError::Disk { .. } => Exit::No,
        };
        Self::new(exit, error.to_string()).maybe_hint(error.hint())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::new(Exit::Input, error.to_string()).maybe_hint(error.hint())
    }
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        let exit = match error {
            PullError::Store(error) => return error.into(),
            PullError::Repository(_)
            | PullError::Sha256(_)
            | PullError::SumOfSeveral { .. }
            | PullError::Several { .. } => Exit::Usage,
            PullError::NoModel(_) => Exit::Input,
            PullError::Unreachable { .. }
            | PullError::CutShort { .. }
            | PullError::Refused { .. }
            | PullError::Nonsense { .. }
            | PullError::Checksum { .. } => Exit::Network,
        };
        Self::new(exit, error.to_string()).maybe_hint(error.hint())
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match &error {
            LoadError::DoesNotFit { nearest, .. } => {
                let advice = nearest.map_or_else(|| NO_ROOM.to_owned(), advice);
                Self::new(Exit::Room, error.to_string()).hint(advice)
            }
            _ => Self::new(Exit::Input, error.to_string()),
        }
    }
}

/// What helps where no form of the model fits.
const NO_ROOM: &str =
    "no smaller form of it fits either: allow more with --memory, or take a smaller model (heph models list)";

fn advice(fit: Fit) -> String {
    match fit {
        Fit::Context(tokens) => format!("it fits with --context {tokens}"),
        Fit::Kv(format) => format!("it fits with --kv {}", format.name()),
        Fit::Quantize(format) => {
            let name = file_type(format);
            format!("it fits with --quantize {name} --kv q8_0 and a short --context")
        }
    }
}

/// The kind of file whose weights are mostly of `format`.
fn file_type(format: Format) -> &'static str {
    match format {
        Format::Q4K => "q4_k_m",
        Format::Q5K => "q5_k_m",
        other => other.name(),
    }
}

impl From<ForwardError> for Failure {
    fn from(error: ForwardError) -> Self {
        let exit = match &error {
            ForwardError::Stopped => return Self::Stopped,
            ForwardError::Token { .. } | ForwardError::OnlyReads | ForwardError::OnlyWrites => Exit::Input,
            ForwardError::Cache(CacheError::Context { .. }) => Exit::Usage,
            ForwardError::Cache(_) => Exit::Room,
            ForwardError::EmptyPart
            | ForwardError::Shape { .. }
            | ForwardError::Layers { .. }
            | ForwardError::NotHeld { .. } => Exit::No,
        };
        let hint = match &error {
            ForwardError::OnlyReads => Some("`heph embed` turns texts into vectors with it"),
            ForwardError::OnlyWrites => Some("`heph run` and `heph chat` answer with it"),
            _ => None,
        };
        Self::new(exit, error.to_string()).maybe_hint(hint)
    }
}

impl From<PreprocessError> for Failure {
    fn from(error: PreprocessError) -> Self {
        let (hint, sentence) = (error.hint(), error.to_string());
        let exit = match error {
            PreprocessError::Forward(error) => return error.into(),
            PreprocessError::Load(error) => return error.into(),
            PreprocessError::Question(_) => Exit::Usage,
            PreprocessError::Document(_) | PreprocessError::Nothing | PreprocessError::Open(_) => Exit::Input,
            PreprocessError::Sources(_) => Exit::Room,
        };
        Self::new(exit, sentence).maybe_hint(hint)
    }
}

impl From<ReadingError> for Failure {
    fn from(error: ReadingError) -> Self {
        let sentence = error.to_string();
        match error {
            ReadingError::Work(DecomposeError::Stopped) => Self::Stopped,
            ReadingError::Empty => Self::new(Exit::Input, sentence),
            ReadingError::Parts { .. } => Self::new(Exit::Room, sentence)
                .hint("larger pieces (--piece), fewer questions or a shorter text make fewer parts"),
            ReadingError::Work(DecomposeError::NobodyLeft(last)) => Self::new(
                Exit::Network,
                format!("no machine is left that reads: {last}"),
            )
            .hint(
                "--mode auto has this machine read what the others do not; `heph peers` shows who is there",
            ),
            ReadingError::Work(DecomposeError::Jobs(_) | DecomposeError::Workers(_)) => {
                Self::new(Exit::No, sentence)
            }
        }
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        PreprocessError::from(error).into()
    }
}

impl From<InversionError> for Failure {
    fn from(error: InversionError) -> Self {
        match error {
            InversionError::Stopped => Self::Stopped,
            InversionError::Forward(error) => error.into(),
            InversionError::NoText => Self::new(Exit::Input, error.to_string()),
            InversionError::Split { .. } => Self::new(Exit::Usage, error.to_string()),
            InversionError::Blind { .. } | InversionError::Rows(_) => Self::new(Exit::No, error.to_string()),
        }
    }
}

impl From<CertifyError> for Failure {
    fn from(error: CertifyError) -> Self {
        match error {
            CertifyError::Stopped => Self::Stopped,
            CertifyError::Forward(error) => error.into(),
            CertifyError::Sampling(error) => error.into(),
            CertifyError::Rows(error) => Self::new(Exit::No, error.to_string()),
        }
    }
}

/// A plan that cannot be made is an answer, not a mistake; only numbers that cannot be counted with are one.
impl From<Refusal> for Failure {
    fn from(error: Refusal) -> Self {
        let exit = match &error {
            Refusal::Input(InputError::Context { .. }) => Exit::Usage,
            Refusal::Input(_) => Exit::Input,
            Refusal::Impossible {
                constraint: Constraint::MemoryHere | Constraint::MemoryThere,
            } => Exit::Room,
            Refusal::Impossible { .. } => Exit::No,
        };
        let hint = match &error {
            Refusal::Impossible {
                constraint: Constraint::Closed,
            } => "`heph peers` says what each of them takes now",
            Refusal::Impossible {
                constraint: Constraint::Weights,
            } => {
                "`heph node --model NAME` there lends a model; `heph node --accept-layers 4GB` takes the layers that plans need"
            }
            _ => "`heph plan` without --mode says what each way would take, or why it cannot be",
        };
        Self::new(exit, error.to_string()).hint(hint)
    }
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Line(error) => DeskError::from(error).into(),
            RouteError::Unknown(_) => Self::new(Exit::Network, error.to_string()),
            RouteError::Uncertified(_) | RouteError::NoDrafter => Self::new(Exit::No, error.to_string()),
        }
    }
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        let exit = match &error {
            TrustError::Read { .. } | TrustError::Damaged { .. } | TrustError::OpenToOthers { .. } => {
                Exit::Input
            }
            TrustError::Write { .. } => Exit::No,
            TrustError::Full => Exit::Room,
        };
        Self::new(or_room(exit, &error), chain(&error))
    }
}

/// What to do where the store does not give what it keeps.
const IN_THE_STORE: &str = "start heph where the key store is open; started there with HEPH_KEYS=file, it moves the key to a private file";

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Book(error) => error.into(),
            NetworkError::Identity(error @ IdentityError::Store { .. }) => {
                Self::new(Exit::Input, chain(&error)).hint(IN_THE_STORE)
            }
            NetworkError::Identity(error) => Self::new(or_room(Exit::Input, &error), chain(&error)),
            NetworkError::Bind(error) => Self::new(Exit::Network, chain(&error))
                .hint("another heph may be listening there; --listen chooses another address"),
            NetworkError::Relay { .. } => Self::new(Exit::No, chain(&error))
                .hint("a rule of policy.toml with to = [\"relay\"] lets machines wait at relays"),
            NetworkError::Threads(_) => Self::new(Exit::Room, chain(&error)),
        }
    }
}

impl From<RelayingError> for Failure {
    fn from(error: RelayingError) -> Self {
        let hint = match &error {
            RelayingError::Relay(RelayError::Socket { .. }) => Some("--listen chooses another address"),
            RelayingError::Relay(RelayError::Host(_)) => {
                Some("--host is what other machines reach this one by")
            }
            RelayingError::Relay(RelayError::Certificate { .. }) | RelayingError::Threads(_) => None,
        };
        let exit = match &error {
            RelayingError::Relay(RelayError::Certificate { .. }) => Exit::Input,
            RelayingError::Relay(RelayError::Host(_)) => Exit::Usage,
            RelayingError::Relay(RelayError::Socket { .. }) => Exit::Network,
            RelayingError::Threads(_) => Exit::Room,
        };
        Self::new(or_room(exit, &error), chain(&error)).maybe_hint(hint)
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        let (exit, hint) = match &error {
            JoinError::Ticket(_) => (Exit::Usage, Some(ANOTHER_TICKET)),
            JoinError::Connect(ConnectError::Myself { .. }) => {
                return Self::new(Exit::Usage, "this ticket is this machine's own")
                    .hint("`heph join` redeems it on another machine");
            }
            JoinError::Connect(_) => (
                Exit::Network,
                Some("`heph node` has to be running there, where this machine reaches it"),
            ),
            JoinError::Pair(_) => (Exit::Network, Some(ANOTHER_TICKET)),
            JoinError::Book(_) => (Exit::No, None),
        };
        Self::new(or_room(exit, &error), chain(&error)).maybe_hint(hint)
    }
}

/// What to do where a ticket does not work.
pub(crate) const ANOTHER_TICKET: &str =
    "`heph node` on the other machine prints a ticket, and at Enter another one; each works once";

/// The exit code for a full disk where that is what lies behind the error, and `exit` else.
fn or_room(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Exit {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let is_full = causes.any(|error| {
        let io = error.downcast_ref::<io::Error>();
        io.is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        })
    });
    if is_full { Exit::Room } else { exit }
}

/// An error with what caused it, in one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !sentence.contains(&words) {
            sentence = format!("{sentence}: {words}");
        }
        cause = error.source();
    }
    sentence
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::new(Exit::Input, error.to_string())
    }
}

impl From<WordsError> for Failure {
    fn from(error: WordsError) -> Self {
        Self::new(Exit::Input, error.to_string())
    }
}

impl From<DeskError> for Failure {
    fn from(error: DeskError) -> Self {
        let (hint, sentence) = (error.hint(), error.to_string());
        let exit = match error {
            DeskError::Forward(error) => return error.into(),
            DeskError::Sampling(error) => return error.into(),
            DeskError::NoTemplate | DeskError::Template(_) | DeskError::Wordless => Exit::Input,
            DeskError::Empty | DeskError::TooLong { .. } => Exit::Usage,
            DeskError::Memory(_) => Exit::Room,
            DeskError::Line(_) => Exit::Network,
        };
        Self::new(exit, sentence).maybe_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(failure: Failure) -> Sentence {
        match failure {
            Failure::Said(sentence) => sentence,
            other => panic!("{other:?} says nothing"),
        }
    }

    #[test]
    fn a_sentence_steers_no_terminal_and_a_script_reads_it_as_it_is() {
        let failure = Failure::new(Exit::Input, "no \x1b[31m red").hint("a \x07 bell");
        let sentence = sentence(failure);
        let (mut shown, mut told) = (Vec::new(), Vec::new());
        sentence.write(&mut shown).unwrap();
        sentence.write_json(&mut told).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(
            shown.contains("no \\u{1b}[31m red") && shown.contains("a \\u{7} bell"),
            "{shown}"
        );
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        let wanted = serde_json::json!({"error": "no \x1b[31m red", "hint": "a \x07 bell", "exit": 3});
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_slip_of_the_command_line_is_one_sentence_and_a_hint() {
        use clap::{Arg, Command, value_parser};
        let number = Arg::new("number").long("number").value_parser(value_parser!(u8));
        let command = || {
            let more = Command::new("more");
            let command = Command::new("try").arg(number.clone()).subcommand(more);
            command.args_conflicts_with_subcommands(true)
        };
        let said = |words: &[&str]| {
            let slip = command()
                .try_get_matches_from([&["try"], words].concat())
                .unwrap_err();
            let Sentence { text, hint, .. } = Sentence::of(&slip);
            (text, hint.unwrap())
        };
        let (text, hint) = said(&["--nothing"]);
        assert_eq!(text, "unexpected argument '--nothing' found");
        assert!(hint.starts_with("try [OPTIONS]; --help"), "{hint}");
        let (text, hint) = said(&["--numbr", "1"]);
        assert_eq!(text, "unexpected argument '--numbr' found");
        assert!(
            hint.starts_with("a similar argument exists: '--number'; "),
            "{hint}"
        );
        let (text, hint) = said(&["--number", "x\ntip: do it\nUsage: evil\nFor more"]);
        assert!(
            text.contains("invalid digit") && text.contains("tip: do it"),
            "{text}"
        );
        assert_eq!(hint, "--help shows what may be said");
        let (text, hint) = said(&["--number", "\n"]);
        assert!(text.contains("'\\n'") && text.contains("invalid digit"), "{text}");
        assert_eq!(hint, "--help shows what may be said");
    }

    #[test]
    fn a_failure_names_its_file_once() {
        let text = |failure: Failure| sentence(failure).text;
        let failure = || Failure::new(Exit::Input, "it is damaged");
        assert_eq!(text(failure().of("a.gguf")), "a.gguf: it is damaged");
        assert_eq!(text(failure().of("a.gguf").of("a.gguf")), "a.gguf: it is damaged");
    }

    #[test]
    fn numbers_of_the_user_are_a_slip_and_those_of_the_model_are_damage() {
        let exit = |error: SamplingError| sentence(DeskError::Sampling(error).into()).exit;
        let name = "temperature";
        let value = f32::NAN;
        assert_eq!(exit(SamplingOptionError { name, value }.into()), Exit::Usage);
        assert_eq!(exit(SamplingError::NothingAllowed), Exit::Input);
        assert_eq!(sentence(DeskError::Wordless.into()).exit, Exit::Input);
        assert_eq!(sentence(DeskError::Empty.into()).exit, Exit::Usage);
    }

    #[test]
    fn a_prompt_that_is_too_long_is_a_slip_and_no_want_of_memory() {
        let (tokens, context, position) = (9, 8, 8);
        let exit = |failure: Failure| sentence(failure).exit;
        let cache = |error: CacheError| exit(ForwardError::Cache(error).into());
        let long = DeskError::TooLong { tokens, context };
        assert!(long.hint().is_some());
        assert_eq!(exit(long.into()), Exit::Usage);
        assert_eq!(cache(CacheError::Context { position, context }), Exit::Usage);
        let (needed, used, limit) = (1, 1, 1);
        assert_eq!(cache(CacheError::Full { needed, used, limit }), Exit::Room);
    }
}
