//! Layers that a machine is asked to take: it fetches them from whoever asks, over the same connection, and says how that goes.
//!
//! The request has the form of any other: the kind 4, the model's hash, the first layer and the one behind the last. What is
//! told back are pieces of a kind and two numbers, [`PROGRESS`] with bytes done and bytes asked for, as often as something
//! changes and at least every five seconds; then [`HERE`] once the layers are lent there, or [`NOT_HERE`], or
//! [`NO_ROOM`], and a sentence. Whether anything is taken, from whom and how much is for the [`Taker`] to say, before
//! the first byte of it travels.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use heph_types::{LayerRange, ModelHash};
use tokio::sync::watch;

use super::{ASK_TAKE, HERE, NOT_HERE, Offer, Progress, TransferError, request, serve_counted};
use crate::address::take;
use crate::endpoint::{Connection, Stream};

/// A piece that tells how far it is.
const PROGRESS: u8 = 2;

/// A piece that refuses for want of room.
const NO_ROOM: u8 = 3;

/// Bytes of such a piece behind its kind.
const PROGRESS_BYTES: usize = 8 + 8;

/// How often something is told, though nothing changed: loading what came takes a while.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// How long nothing may be told: several times [`TOLD_EVERY`].
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long the other machine may take in all: 64 GiB at 1 MB a second.
const TAKING_MAX: Duration = Duration::from_secs(18 * 3600);

/// Bytes of a sentence that is told or heard.
const SENTENCE_BYTES_MAX: usize = 256;

/// Layers that somebody is to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Of this model.
    pub model: ModelHash,
    /// These.
    pub layers: LayerRange,
}

/// Why layers are not taken, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declined {
    /// There is no room for them: none on the disk, or none that its owner gives.
    NoRoom(String),
    /// Anything else.
    Refused(String),
}

/// Takes layers, or says why not. What it is given last is told how far it is.
pub type Taker = Arc<dyn Fn(Wanted, watch::Sender<Progress>) -> Taking + Send + Sync>;

/// Under way.
type Taking = Pin<Box<dyn Future<Output = Result<(), Declined>> + Send>>;

impl Wanted {
    /// `None` where no model has such layers, or there are none.
    pub(super) fn read(hash: [u8; 32], first: u64, behind: u64) -> Option<Wanted> {
        let (first, behind) = (u16::try_from(first).ok()?, u16::try_from(behind).ok()?);
        let layers = LayerRange::new(first.into(), behind.into(), behind.into()).ok()?;
        let model = ModelHash(hash);
        (!layers.is_empty()).then_some(Wanted { model, layers })
    }
}

/// Asks the peer to take layers of a model from here, and gives them; `find` says which files it may have for that, and `sent` grows by the bytes
/// of them that leave.
///
/// # Errors
/// When the peer refuses, leaves, or falls silent. What arrived there stays for the next try.
pub async fn hand(
    connection: &Connection,
    wanted: Wanted,
    find: impl Fn([u8; 32]) -> Option<Arc<Offer>> + Send + Sync + 'static,
    progress: &mut (dyn FnMut(Progress) + Send),
    sent: &Arc<AtomicU64>,
) -> Result<(), TransferError> {
    let told = tokio::time::timeout(TAKING_MAX, told(connection, wanted, progress));
    tokio::select! {
        told = told => told.unwrap_or(Err(TransferError::Left)),
        // It ends with the connection only.
        _ = serve_counted(connection, find, None, Arc::clone(sent)) => Err(TransferError::Left),
    }
}

/// Asks, and hears how it goes.
async fn told(
    connection: &Connection,
    wanted: Wanted,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), TransferError> {
    let (first, behind) = (wanted.layers.start() as u64, wanted.layers.end() as u64);
    let asked = request(ASK_TAKE, wanted.model.0, first, behind);
    let mut stream = connection.open().await.map_err(|_| TransferError::Left)?;
    stream.write(&asked).await.map_err(|_| TransferError::Left)?;
    stream.finish();
    loop {
        let piece = tokio::time::timeout(SILENCE_MAX, piece(&mut stream)).await;
        match piece.map_err(|_| TransferError::Left)?? {
            Piece::Progress(step) => progress(step),
            Piece::Taken => return Ok(()),
            Piece::Declined(Declined::NoRoom(why)) => return Err(TransferError::NoRoomThere(why)),
            Piece::Declined(Declined::Refused(why)) => return Err(TransferError::Refused(why)),
        }
    }
}

/// What is told.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Progress(Progress),
    Taken,
    Declined(Declined),
}

async fn piece(stream: &mut Stream) -> Result<Piece, TransferError> {
    let left = |_| TransferError::Left;
    let mut kind = [0];
    stream.read(&mut kind).await.map_err(left)?;
    match kind {
        [HERE] => Ok(Piece::Taken),
        [PROGRESS] => {
            let mut numbers = [0; PROGRESS_BYTES];
            stream.read(&mut numbers).await.map_err(left)?;
            progress_of(&numbers)
                .map(Piece::Progress)
                .ok_or(TransferError::Wrong)
        }
        [why @ (NOT_HERE | NO_ROOM)] => {
            let sentence = stream.read_all(SENTENCE_BYTES_MAX).await.map_err(left)?;
            // It is shown to a person: no line of it passes for one of ours.
            let sentence: String = String::from_utf8_lossy(&sentence)
                .chars()
                .filter(|letter| !letter.is_control())
                .collect();
            Ok(Piece::Declined(match why {
                NO_ROOM => Declined::NoRoom(sentence),
                _ => Declined::Refused(sentence),
            }))
        }
        _ => Err(TransferError::Wrong),
    }
}

fn progress_of(mut bytes: &[u8]) -> Option<Progress> {
    let (done, total) = (take(&mut bytes)?, take(&mut bytes)?);
    let (done_bytes, total_bytes) = (u64::from_le_bytes(done), u64::from_le_bytes(total));
    (bytes.is_empty() && done_bytes <= total_bytes).then_some(Progress {
        done_bytes,
        total_bytes,
    })
}

fn written(step: Progress) -> Vec<u8> {
    [
        &[PROGRESS][..],
        &step.done_bytes.to_le_bytes(),
        &step.total_bytes.to_le_bytes(),
    ]
    .concat()
}

/// Takes layers, where somebody here does, and tells the peer how it goes.
pub(super) async fn answer(stream: &mut Stream, wanted: Wanted, taker: Option<Taker>) -> Option<()> {
    tokio::time::timeout(SILENCE_MAX, stream.read_all(0))
        .await
        .ok()?
        .ok()?;
    let Some(taker) = taker else {
        return refuse(stream, &Declined::Refused("it takes none".to_owned())).await;
    };
    let nothing = Progress {
        done_bytes: 0,
        total_bytes: 0,
    };
    let (tell, mut news) = watch::channel(nothing);
    let mut taking = taker(wanted, tell);
    let done = loop {
        let step = *news.borrow_and_update();
        // Whoever asked and does not listen any more has left: what came stays for the next try.
        stream.write(&written(step)).await.ok()?;
        tokio::select! {
            done = &mut taking => break done,
            _ = tokio::time::sleep(TOLD_EVERY) => {}
            // Who tells nothing more is waited for all the same.
            Ok(()) = news.changed() => {}
        }
    };
    match done {
        Ok(()) => {
            stream.write(&[HERE]).await.ok()?;
            stream.finish();
            Some(())
        }
        Err(why) => refuse(stream, &why).await,
    }
}

async fn refuse(stream: &mut Stream, why: &Declined) -> Option<()> {
    let (kind, why) = match why {
        Declined::NoRoom(why) => (NO_ROOM, why),
        Declined::Refused(why) => (NOT_HERE, why),
    };
    let end = why.floor_char_boundary(SENTENCE_BYTES_MAX);
    stream.write(&[kind]).await.ok()?;
    stream.write(&why.as_bytes()[..end]).await.ok()?;
    stream.finish();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_no_model_has_are_not_asked_for() {
        let hash = [3; 32];
        assert!(Wanted::read(hash, 2, 8).is_some_and(|wanted| wanted.layers.len() == 6));
        for (first, behind) in [(2, 2), (8, 2), (0, 1 << 16), (1 << 40, u64::MAX)] {
            assert_eq!(Wanted::read(hash, first, behind), None, "{first}..{behind}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_progress_or_none(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..24)) {
            if let Some(step) = progress_of(&bytes) {
                proptest::prop_assert!(step.done_bytes <= step.total_bytes);
                proptest::prop_assert_eq!(&written(step)[1..], &bytes[..]);
            }
        }
    }
}
