//! Taking layers from this person's other machines, as far as the owner allows, and lending them.
//!
//! Everything is looked at before a byte of the layers travels: who asks, how much the owner takes, and what the disk has
//! free. What travels is checked against the model's own hash, piece by piece, as any fetch is.

use std::path::Path;
use std::sync::Arc;

use heph_net::transfer::{Declined, Progress, Taker, TransferError, Wanted};
use heph_types::Role;
use tokio::sync::{Mutex, watch};

use super::{FOLDER, Shard, ShardError, Shelf};
use crate::network::Caller;

/// Bytes of the disk that are left free, whatever is taken.
const DISK_LEFT: u64 = 512 << 20;

/// What is free is told in such steps: it changes all the time, and is news to others.
const DISK_STEP: u64 = 64 << 20;

/// What the owner of a machine takes in.
pub struct Intake {
    /// Bytes on the disk that all layers taken may have together.
    bytes_max: u64,
    /// One thing at a time: two would each think that the room is theirs.
    busy: Mutex<()>,
    /// Lends what lies ready; the error is a sentence. It may take as long as loading takes.
    lend: Box<dyn Fn(Shard) -> Result<(), String> + Send + Sync>,
}

/// Why nothing is taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Whoever asks is none of the owner's machines.
    #[error("layers are taken from its owner's machines alone")]
    Stranger,
    /// Other layers are on their way.
    #[error("it is taking other layers; try again later")]
    Busy,
    /// It cannot be fetched, or there is no room for it.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// It lies there and cannot be lent.
    #[error("they lie there and cannot be lent: {0}")]
    Lend(String),
}

impl From<NotTaken> for Declined {
    fn from(why: NotTaken) -> Declined {
        match why {
            NotTaken::Shard(ShardError::Transfer(TransferError::DiskFull | TransferError::NoRoom { .. })) => {
                Declined::NoRoom(why.to_string())
            }
            NotTaken::Stranger | NotTaken::Busy | NotTaken::Shard(_) | NotTaken::Lend(_) => {
                Declined::Refused(why.to_string())
            }
        }
    }
}

impl Intake {
    /// Takes layers until they have `bytes_max` bytes on the disk, and has `lend` lend each part.
    pub fn new(
        bytes_max: u64,
        lend: impl Fn(Shard) -> Result<(), String> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            busy: Mutex::new(()),
            lend: Box::new(lend),
        })
    }
}

impl Shelf {
    /// Bytes on the disk of everything that was brought.
    pub fn brought_bytes(&self) -> u64 {
        bytes_below(&self.home.join(FOLDER))
    }

    /// Bytes of layers that it takes in now, of an owner who lets it have so many in all: the disk has to have room for
    /// them.
    pub fn takes(&self, bytes_max: u64) -> u64 {
        let free = disk_free(&self.home).saturating_sub(DISK_LEFT) / DISK_STEP * DISK_STEP;
        bytes_max.saturating_sub(self.brought_bytes()).min(free)
    }

    /// What takes layers from a caller.
    pub(super) fn taker(self: &Arc<Self>, caller: &Caller, intake: Arc<Intake>) -> Taker {
        let (shelf, caller) = (Arc::clone(self), caller.clone());
        Arc::new(move |wanted, tell| {
            let (shelf, caller, intake) = (Arc::clone(&shelf), caller.clone(), Arc::clone(&intake));
            Box::pin(async move {
                let taken = shelf.take(&caller, &intake, wanted, tell).await;
                taken.map_err(Declined::from)
            })
        })
    }

    async fn take(
        &self,
        caller: &Caller,
        intake: &Arc<Intake>,
        wanted: Wanted,
        tell: watch::Sender<Progress>,
    ) -> Result<(), NotTaken> {
        let own = caller.peer.as_ref().is_some_and(|peer| peer.role == Role::Own);
        if !own {
            return Err(NotTaken::Stranger);
        }
        let _alone = intake.busy.try_lock().map_err(|_| NotTaken::Busy)?;
        let Wanted { model, layers } = wanted;
        let part = match self.shard(model, layers)? {
            Some(part) => part,
            None => {
                let allowed = self.takes(intake.bytes_max);
                let mut progress = |step| {
                    // Whoever asked may have left.
                    let _ = tell.send(step);
                };
                let sources = std::slice::from_ref(&caller.connection);
                self.bring_from(sources, model, layers, allowed, &mut progress)
                    .await?
            }
        };
        let intake = Arc::clone(intake);
        let lent = tokio::task::spawn_blocking(move || (intake.lend)(part)).await;
        lent.unwrap_or_else(|_| Err("loading them failed".to_owned()))
            .map_err(NotTaken::Lend)
    }
}

/// Bytes that the files below a folder take of the disk: holes take none where the system says so.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_below(&entry.path()),
        Ok(about) => taken(&about),
        Err(_) => 0,
    });
    bytes.sum()
}

#[cfg(unix)]
fn taken(about: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // Blocks are counted in 512 bytes, whatever the disk's own are.
    about.blocks() * 512
}

#[cfg(not(unix))]
fn taken(about: &std::fs::Metadata) -> u64 {
    about.len()
}

/// Bytes that are free on the disk of a folder; as many as there can be where the system does not say.
#[cfg(target_os = "linux")]
fn disk_free(folder: &Path) -> u64 {
    let about = rustix::fs::statvfs(folder);
    about.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(target_os = "linux"))]
fn disk_free(folder: &Path) -> u64 {
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let Ok(disks) = sysinfo::Disks::new_with_refreshed_list() else {
        return u64::MAX;
    };
    let holds = |disk: &&sysinfo::Disk| folder.starts_with(disk.mount_point());
    let nearest = disks.iter().filter(holds);
    let nearest = nearest.max_by_key(|disk| disk.mount_point().as_os_str().len());
    nearest.map_or(u64::MAX, sysinfo::Disk::available_space)
}
