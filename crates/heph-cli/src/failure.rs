//! How a command fails: one plain sentence, a hint where we have one, and an exit code.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use heph_engine::model::{Fit, LoadError};
use heph_engine::source::SourceError;
use heph_engine::worker::ForwardError;
use heph_kernels::format::Format;
use heph_net::relay::RelayError;
use heph_net::transfer::TransferError;
use heph_net::trust::TrustError;
use heph_plan::{Constraint, InputError, Refusal};
use heph_runtime::certify::CertifyError;
use heph_runtime::decompose::{DecomposeError, ReadingError};
use heph_runtime::desk::DeskError;
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

use crate::terminal;

/// Why a command did not do its job.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something to tell the user.
    Said(Sentence),
    /// Nobody reads our output any more, as in `heph models list | head -1`. Not a failure to speak of.
    OutputClosed,
    /// The user pressed Ctrl-C.
    Stopped,
}

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
            Self::OutputClosed | Self::Stopped => self,
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
        }
    }

    /// Tells the user, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Stopped => ExitCode::from(Exit::Stopped as u8),
            Self::Said(sentence) => {
                // Where standard error is closed too there is nobody left to tell.
                let _ = sentence.write(&mut io::stderr().lock());
                ExitCode::from(sentence.exit as u8)
            }
        }
    }
}

impl Sentence {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let style = terminal::Style::of_stderr();
        writeln!(out, "{} {}", style.red("error:"), self.text)?;
        match &self.hint {
            Some(hint) => writeln!(out, "{} {hint}", style.dim("hint:")),
            None => Ok(()),
        }
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
            ShardError::Transfer(TransferError::DiskFull | TransferError::NoRoom { .. }) => Exit::Room,
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
            PullError::Repository(_) | PullError::Sha256(_) | PullError::Several { .. } => Exit::Usage,
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
                Self::new(Exit::Room, error.to_string()).maybe_hint(nearest.map(advice))
            }
            _ => Self::new(Exit::Input, error.to_string()),
        }
    }
}

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
            ForwardError::Cache(_) => Exit::Room,
            ForwardError::EmptyPart
            | ForwardError::Shape { .. }
            | ForwardError::Layers { .. }
            | ForwardError::NotHeld { .. } => Exit::No,
        };
        Self::new(exit, error.to_string())
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
            ReadingError::Work(DecomposeError::NobodyLeft(_)) => Self::new(Exit::Network, sentence),
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

impl From<CertifyError> for Failure {
    fn from(error: CertifyError) -> Self {
        match error {
            CertifyError::Stopped => Self::Stopped,
            CertifyError::Forward(error) => error.into(),
            CertifyError::Sampling(error) => Self::new(Exit::No, error.to_string()),
            CertifyError::Rows(error) => Self::new(Exit::No, error.to_string()),
        }
    }
}

/// A plan that cannot be made is an answer, not a mistake; only numbers that cannot be counted with are one.
impl From<Refusal> for Failure {
    fn from(error: Refusal) -> Self {
        let exit = match &error {
            Refusal::Input(InputError::Context { .. }) => Exit::Room,
            Refusal::Input(_) => Exit::Input,
            Refusal::Impossible {
                constraint: Constraint::MemoryHere | Constraint::MemoryThere,
            } => Exit::Room,
            Refusal::Impossible { .. } => Exit::No,
        };
        Self::new(exit, error.to_string())
            .hint("`heph plan` says what each way would take, or why it cannot be")
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
        Self::new(exit, chain(&error))
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Book(error) => error.into(),
            NetworkError::Identity(error) => Self::new(Exit::Input, chain(&error)),
            NetworkError::Bind(error) => Self::new(Exit::Network, chain(&error))
                .hint("another heph may be listening there; --listen chooses another address"),
            NetworkError::Threads(_) => Self::new(Exit::Room, chain(&error)),
        }
    }
}

impl From<RelayingError> for Failure {
    fn from(error: RelayingError) -> Self {
        let exit = match &error {
            RelayingError::Relay(RelayError::Certificate { .. }) => Exit::Input,
            RelayingError::Relay(RelayError::Host(_)) => Exit::Usage,
            RelayingError::Relay(RelayError::Socket { .. }) => Exit::Network,
            RelayingError::Threads(_) => Exit::Room,
        };
        Self::new(exit, chain(&error))
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        let exit = match &error {
            JoinError::Ticket(_) => Exit::Usage,
            JoinError::Connect(_) | JoinError::Pair(_) => Exit::Network,
            JoinError::Book(_) => Exit::No,
        };
        Self::new(exit, chain(&error))
    }
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
            DeskError::NoTemplate | DeskError::Template(_) => Exit::Input,
            DeskError::Empty | DeskError::Sampling(_) => Exit::Usage,
            DeskError::TooLong { .. } | DeskError::Memory(_) => Exit::Room,
            DeskError::Line(_) => Exit::Network,
        };
        Self::new(exit, sentence).maybe_hint(hint)
    }
}
