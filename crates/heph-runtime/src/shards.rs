//! Parts of models, brought from peers by the layers that are wanted, and offered to them.
//!
//! A [`Shelf`] offers the models of this machine and keeps what was brought: files with holes, in which every offset is
//! that of the whole file, so the engine loads a range of layers from them as from the whole
//! ([`LoadOptions::layers`](heph_engine::model::LoadOptions)). Only the header and the tensors of those layers travel;
//! each 64 KiB are checked against the file's own hash on arrival ([`heph_net::transfer`]); a fetch that was interrupted
//! goes on with what stands on the disk.
//!
//! A model of one file is known by that file's BLAKE3 hash. One of several files is known by the hash of a list of their
//! hashes, in order; the list is offered and fetched as a file itself. Which layers a node is to have is not decided here.

mod bring;
mod intake;
mod kept;

pub use intake::{Intake, NotTaken};

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heph_engine::gguf::GgufError;
use heph_engine::graph::GraphError;
use heph_engine::source::SourceError;
use heph_net::endpoint::{ConnectError, Connection, Protocol};
use heph_net::transfer::{self, Offer, Outline, Progress, TransferError, Wanted};
use heph_types::{LayerRange, ModelHash, NodeId};

use crate::network::{Admits, Network};
use crate::open::OpenError;
use crate::store::{Found, ModelFiles, StoreError};

/// The folder below HEPH's that holds what was brought: one folder a model.
const FOLDER: &str = "shards";

/// What the list of a model's files begins with; the hashes follow, 32 bytes each.
const LIST_TITLE: &[u8] = b"HEPH files of one model, version 1\n";

/// Files of one model: as many parts as the naming scheme of GGUF has.
const FILES_MAX: usize = 9_999;

/// How long a source may take to be connected to.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Why a part of a model could not be offered or brought. What had arrived stays for the next try.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// No peer that was named can be reached.
    #[error("nobody who may have the model can be reached: {0}")]
    Reach(#[source] ConnectError),
    /// Nobody was named.
    #[error("nobody is known who has the model")]
    NoSource,
    /// The transfer.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The files that arrived are whole and no model of one kind that can be cut.
    #[error("parts are brought of GGUF files only, and this model's are others")]
    NotGguf,
    /// The header is damaged, at the peer already: the hash is right.
    #[error("the model's header is broken: {0}")]
    Header(#[from] GgufError),
    /// The files are no model that runs.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The tensors do not make the architecture.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The model has fewer layers.
    #[error("layers {}..{} are asked for of a model of {count}", layers.start(), layers.end())]
    Layers {
        /// Layers asked for.
        layers: LayerRange,
        /// Layers of the model.
        count: usize,
    },
    /// The list of files is none.
    #[error("the list of the model's files is damaged, or has more than {FILES_MAX}")]
    List,
    /// A file that arrived cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The model's files cannot be found or listed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was kept of earlier parts cannot be read.
    #[error("{path} is damaged; remove its folder and bring the part again")]
    Kept {
        /// The file.
        path: PathBuf,
    },
    /// The disk.
    #[error("cannot {step} {path}: {cause}")]
    Disk {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

impl ShardError {
    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Transfer(TransferError::DiskFull) => {
                Some("make room and try again: what arrived is not fetched twice")
            }
            Self::Transfer(TransferError::NoRoom { .. }) => Some("allow more, or serve fewer layers"),
            Self::Transfer(TransferError::NoRoomThere(_)) => {
                Some("make room on its disk, or let it take more: `heph node --accept-layers` there")
            }
            Self::Transfer(TransferError::Left | TransferError::Wrong | TransferError::NotThere) => {
                Some("try again, or name another peer that has the model")
            }
            Self::Reach(_) | Self::NoSource => Some("`heph peers` shows who is there"),
            _ => None,
        }
    }

    fn disk(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShardError {
        let path = path.to_owned();
        move |cause| match TransferError::from(cause) {
            TransferError::Disk(cause) => ShardError::Disk { step, path, cause },
            full => ShardError::Transfer(full),
        }
    }
}

/// Layers of a model that lie ready on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// The model.
    pub model: ModelHash,
    /// The layers, with the embedding if they begin with the first and the head if they end with the last.
    pub layers: LayerRange,
    /// The model's files, holes elsewhere.
    pub files: Vec<PathBuf>,
}

impl Shard {
    /// The files as the opener takes them; load with `layers` alone.
    pub fn found(&self) -> Found {
        Found::Path(ModelFiles::Gguf(self.files.clone()))
    }
}

/// What is offered here, and what was brought.
#[derive(Debug)]
pub struct Shelf {
    home: PathBuf,
    offers: Mutex<BTreeMap<[u8; 32], Arc<Offer>>>,
}

impl Shelf {
    /// The shelf below HEPH's folder; nothing is offered yet.
    pub fn new(home: &Path) -> Shelf {
        Shelf {
            home: home.to_owned(),
            offers: Mutex::default(),
        }
    }

    /// Offers a model to the peers that this machine knows, and says by which hash. Its files are read through once,
    /// and again only when they have changed.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn put(&self, found: &Found) -> Result<ModelHash, ShardError> {
        let mut offers = Vec::new();
        match (found, found.files()) {
            (Found::Bundled(model), _) => offers.push(Offer::of_bytes(model.bytes)?),
            (_, files) => {
                for path in files.ok_or(ShardError::NoSource)?.paths()? {
                    offers.push(self.offer(&path)?);
                }
            }
        }
        if offers.len() > FILES_MAX {
            return Err(ShardError::List);
        }
        if let [_, _, ..] = *offers {
            let hashes = offers.iter().flat_map(|offer| offer.outline().hash());
            let list: Vec<u8> = LIST_TITLE.iter().copied().chain(hashes).collect();
            offers.insert(0, Offer::of_bytes(list)?);
        }
        let model = offers.first().ok_or(ShardError::NoSource)?.outline().hash();
        let named = offers
            .into_iter()
            .map(|offer| (offer.outline().hash(), Arc::new(offer)));
        self.offers().extend(named);
        Ok(ModelHash(model))
    }

    /// Takes a model's hash off again; what is under way is finished.
    pub fn withdraw(&self, model: ModelHash) {
        self.offers().remove(&model.0);
    }

    /// Answers the peers that `network` knows from now on, and takes layers from this person's other machines where there
    /// is an `intake`.
    pub fn serve(self: &Arc<Self>, network: &Network, intake: Option<Arc<Intake>>) {
        let shelf = Arc::clone(self);
        network.serve(Protocol::Shards, Admits::Known, move |caller| {
            let (shelf, intake) = (Arc::clone(&shelf), intake.clone());
            async move {
                let taker = intake.map(|intake| shelf.taker(&caller, intake));
                let find = move |hash: [u8; 32]| shelf.offers().get(&hash).cloned();
                // It ends when the peer leaves; nothing is to be done about how.
                let _ = transfer::serve(&caller.connection, find, taker).await;
            }
        });
    }

    /// Has `node` take the layers from here and lend them. The model must have been put on this shelf. The bytes of it that leave are added to
    /// `sent`, whatever becomes of them.
    ///
    /// # Errors
    /// When the node cannot be reached, refuses or leaves. What arrived there stays for the next try.
    pub async fn hand(
        self: &Arc<Self>,
        network: &Network,
        node: NodeId,
        wanted: Wanted,
        progress: &mut (dyn FnMut(Progress) + Send),
        sent: &Arc<AtomicU64>,
    ) -> Result<(), ShardError> {
        let connection = network
            .reach(node, Protocol::Shards, CONNECT_DEADLINE)
            .await
            .map_err(ShardError::Reach)?;
        let shelf = Arc::clone(self);
        let find = move |hash: [u8; 32]| shelf.offers().get(&hash).cloned();
        Ok(transfer::hand(&connection, wanted, find, progress, sent).await?)
    }

    /// Brings the layers from those of `peers` that can be reached, all at once, using `allowed_bytes` of the disk at
    /// most, and keeps them.
    ///
    /// # Errors
    /// When nobody can be reached or has the model, what arrives is not it, or the disk has no room.
    pub async fn bring(
        &self,
        network: &Network,
        peers: &[NodeId],
        model: ModelHash,
        layers: LayerRange,
        allowed_bytes: u64,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Shard, ShardError> {
        let sources = reach(network, peers).await?;
        self.bring_from(&sources, model, layers, allowed_bytes, progress)
            .await
    }

    /// What lies ready of every model.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn shards(&self) -> Result<Vec<Shard>, ShardError> {
        let folder = self.home.join(FOLDER);
        let entries = match fs::read_dir(&folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(ShardError::disk("read", &folder))?,
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let models = names.filter_map(|name| kept::model_of(&name.to_string_lossy()));
        let mut parts = Vec::new();
        for model in models {
            parts.extend(self.shards_of(model)?);
        }
        Ok(parts)
    }

    /// The part that holds these layers, if it was brought.
    ///
    /// # Errors
    /// When what is kept of the model cannot be read.
    pub fn shard(&self, model: ModelHash, layers: LayerRange) -> Result<Option<Shard>, ShardError> {
        let holds = |part: &Shard| part.layers.start() <= layers.start() && layers.end() <= part.layers.end();
        Ok(self.shards_of(model)?.into_iter().find(holds))
    }

    /// Removes what was brought of a model. It must not be in use.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(&self, model: ModelHash) -> Result<(), ShardError> {
        let folder = self.folder(model);
        match fs::remove_dir_all(&folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(ShardError::disk("remove", &folder)),
        }
    }

    fn folder(&self, model: ModelHash) -> PathBuf {
        self.home.join(FOLDER).join(kept::name_of(model))
    }

    fn offer(&self, path: &Path) -> Result<Offer, ShardError> {
        let mut file = File::open(path).map_err(ShardError::disk("open", path))?;
        if let Some(outline) = kept::outline_of(&self.home, path, &file) {
            return Ok(Offer::outlined(outline, file));
        }
        let outline = Outline::of(&mut file)?;
        kept::keep_outline_of(&self.home, path, &file, &outline);
        Ok(Offer::outlined(outline, file))
    }

    fn offers(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Arc<Offer>>> {
        // Every change of the map is one step: a thread that panicked left it whole.
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections to those of `peers` that answer.
async fn reach(network: &Network, peers: &[NodeId]) -> Result<Vec<Connection>, ShardError> {
    let mut connecting = tokio::task::JoinSet::new();
    for peer in peers.iter().copied() {
        let network = network.clone();
        connecting.spawn(async move { network.reach(peer, Protocol::Shards, CONNECT_DEADLINE).await });
    }
    let (mut sources, mut trouble) = (Vec::new(), ShardError::NoSource);
    while let Some(connected) = connecting.join_next().await {
        match connected.expect("connecting does not panic") {
            Ok(connection) => sources.push(connection),
            Err(cause) => trouble = ShardError::Reach(cause),
        }
    }
    match sources.is_empty() {
        true => Err(trouble),
        false => Ok(sources),
    }
}

#[cfg(test)]
mod tests;
