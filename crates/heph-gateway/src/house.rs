//! What all requests share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use heph_engine::recall::Bound;
use heph_runtime::guard::Outlet;
use heph_runtime::rules::Rules;
use heph_runtime::service::{Closing, ErrandLimits, Errands, Load};
use heph_runtime::settings::Settings;
use heph_runtime::store::Store;
use sha2::{Digest, Sha256};

use crate::ahead::Ahead;
use crate::caller::Keeping;
use crate::engines::{CacheChoice, EngineChoice, EngineError, Engines};
use crate::excerpts::Chooser;
use crate::guard::Guard;
use crate::history::History;
use crate::kept::KeptStreams;
use crate::knowledge::Knowledge;
use crate::machines::Machines;
use crate::mcp::client::Servers;
use crate::metrics::Counters;
use crate::outside::Asker;
use crate::provenance::Writing;
use crate::recall::Memory;
use crate::receipts::Receipts;
use crate::tls::Tls;

/// What a door is opened with.
pub struct Options {
    /// The model that is served.
    pub model: String,
    /// How models are run.
    pub choice: EngineChoice,
    /// The settings of the process.
    pub settings: Settings,
    /// How far caches of prompts may be kept.
    pub caches: CacheChoice,
    /// How many of the answers that are given again may be wrong at most; `None` gives none again.
    pub recall: Option<Bound>,
    /// Who may come in.
    pub guard: Guard,
    /// The certificate to show; without one the door stays on loopback and speaks plainly.
    pub tls: Option<Tls>,
    /// Who knows the other machines, where somebody does.
    pub machines: Option<Arc<dyn Machines>>,
}

/// Why a door does not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HouseError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the system gives no randomness")]
    Random,
}

/// Shared by all requests.
pub(crate) type Door = Arc<House>;

/// What all requests share.
pub(crate) struct House {
    pub(crate) engines: Arc<Engines>,
    /// How far caches of prompts may be kept.
    pub(crate) keeping: Keeping,
    pub(crate) settings: Settings,
    /// What may leave.
    pub(crate) rules: Arc<Rules>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) machines: Option<Arc<dyn Machines>>,
    /// Answers that the batch does not make.
    pub(crate) errands: Errands,
    pub(crate) asker: Asker,
    pub(crate) chooser: Chooser,
    pub(crate) receipts: Receipts,
    pub(crate) kept: KeptStreams,
    pub(crate) history: History,
    /// Of which answers is being written down what they were made of.
    pub(crate) writing: Writing,
    pub(crate) knowledge: Knowledge,
    /// The person's servers of tools.
    pub(crate) servers: Servers,
    pub(crate) memory: Option<Memory>,
    /// What was read of questions that were still being written.
    pub(crate) ahead: Ahead,
    pub(crate) counters: Counters,
    pub(crate) began: Instant,
    next: AtomicU64,
    /// Ends all answers, here and elsewhere.
    pub(crate) closing: Closing,
    /// From this pseudonyms are drawn: the same thing has the same one as long as the process lives.
    pub(crate) pseudonym_key: [u8; 32],
    /// From this and their number come the names of requests.
    run: [u8; 32],
}

impl House {
    pub(crate) fn open(options: Options) -> Result<Door, HouseError> {
        let (mut run, mut pseudonym_key) = ([0; 32], [0; 32]);
        getrandom::fill(&mut run).map_err(|_| HouseError::Random)?;
        getrandom::fill(&mut pseudonym_key).map_err(|_| HouseError::Random)?;
        let store = Store::new(&options.settings.models);
        let history: PathBuf = options.settings.home.join("chats.sqlite");
        let closing = Closing::default();
        let engines = Engines::open(
            &options.model,
            store,
            options.choice,
            &options.caches,
            &options.settings.home,
            &closing,
        )?;
        let rules = Rules::new(&options.settings, &[]);
        if let Some(machines) = &options.machines {
            engines.lend(machines.as_ref());
        }
        Ok(Arc::new(Self {
            keeping: Keeping::of(&options.caches),
            engines: Arc::new(engines),
            history: History::new(history),
            writing: Writing::default(),
            knowledge: Knowledge::at(&options.settings.home),
            servers: Servers::of(Outlet::of(&options.settings)),
            memory: match options.recall {
                Some(bound) => Some(Memory::new(bound).ok_or(HouseError::Random)?),
                None => None,
            },
            rules,
            settings: options.settings,
            guard: Arc::new(options.guard),
            machines: options.machines,
            errands: Errands::closed_by(ErrandLimits::default(), &closing),
            asker: Asker::default(),
            chooser: Chooser::default(),
            receipts: Receipts::default(),
            kept: KeptStreams::default(),
            ahead: Ahead::default(),
            counters: Counters::default(),
            began: Instant::now(),
            next: AtomicU64::new(0),
            closing,
            pseudonym_key,
            run,
        }))
    }

    /// How much is going on, here and elsewhere.
    pub(crate) fn load(&self) -> Load {
        let (here, elsewhere) = (self.engines.served.service.load(), self.errands.load());
        Load {
            open: here.open + elsewhere.open,
            waiting: here.waiting + elsewhere.waiting,
            tokens: here.tokens + elsewhere.tokens,
            kept: here.kept,
            caches: here.caches,
        }
    }

    /// A name for one request, never used twice. Who knows one cannot tell another: kept replies and receipts are had by them.
    pub(crate) fn serial(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = Sha256::new()
            .chain_update(self.run)
            .chain_update(number.to_le_bytes())
            .finalize();
        HEXLOWER.encode(&name[..16])
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
