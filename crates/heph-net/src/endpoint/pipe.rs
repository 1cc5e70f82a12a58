//! One end of the pair over which a conversation's bytes pass between a program and its guard.
//!
//! The system tells whoever listens for room each time that the other end reads, which here would be once for each row: a program and its
//! guard share a core and would be woken in the middle of what the other does. So room is listened for only while there is none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes in both directions, in order.
#[derive(Debug)]
pub(super) struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    /// Needs to be called inside the caller's runtime.
    pub(super) fn of(end: OwnedFd) -> io::Result<Pipe> {
        rustix::io::ioctl_fionbio(&end, true)?;
        listening(end, Interest::READABLE).map(Pipe)
    }

    /// Takes what has come, 0 bytes once the other end says nothing more. A wait that is given up loses nothing.
    pub(super) async fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let Ok(read) = ready.try_io(|end| Ok(rustix::io::read(end, &mut *bytes)?)) else {
                continue;
            };
            // Whatever comes behind a piece that did not fill the space is told anew, so nobody has to look whether it came.
            if matches!(read, Ok(count) if 0 < count && count < bytes.len()) {
                ready.clear_ready();
            }
            return read;
        }
    }

    /// Hands over what there is room for. A plain write: a thread that was sealed against sending to others may say what was cleared for
    /// this pair. A wait that is given up has written nothing.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self, bytes) {
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let room = listening(self.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?;
                    drop(room.writable().await?);
                }
                wrote => return Ok(wrote?),
            }
        }
    }

    /// Says, or hears, nothing more.
    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, how)?)
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[expect(
    deprecated,
    reason = "what took its place is unsafe, for what is not one descriptor for as long as it lives"
)]
fn listening(end: OwnedFd, to: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(end, to)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn pair() -> (Pipe, Pipe) {
        let (near, far) = UnixStream::pair().unwrap();
        (Pipe::of(near.into()).unwrap(), Pipe::of(far.into()).unwrap())
    }

    /// Numbers as bytes, of which no two neighbours are alike.
    fn counted(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at % 251) as u8).collect()
    }

    #[tokio::test]
    async fn what_is_too_much_at_once_passes_whole_and_in_order() {
        let (near, far) = pair();
        let said = counted(3 << 20);
        let writes = async {
            let mut rest = &said[..];
            while !rest.is_empty() {
                let wrote = near.write(rest).await.unwrap();
                rest = &rest[wrote..];
            }
            near.shutdown(Shutdown::Write).unwrap();
        };
        let reads = async {
            let (mut heard, mut bytes) = (Vec::new(), vec![0; 64 << 10]);
            loop {
                match far.read(&mut bytes).await.unwrap() {
                    0 => return heard,
                    count => heard.extend_from_slice(&bytes[..count]),
                }
            }
        };
        let both = async { tokio::join!(writes, reads) };
        let ((), heard) = timeout(Duration::from_secs(20), both).await.unwrap();
        assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
    }

    #[tokio::test]
    async fn small_pieces_are_heard_one_by_one_and_a_wait_that_is_given_up_loses_none() {
        let (near, far) = pair();
        let mut bytes = [0; 64];
        for piece in 1..200_u8 {
            let early = timeout(Duration::ZERO, far.read(&mut bytes)).await;
            assert!(early.is_err(), "before piece {piece}");
            assert_eq!(near.write(&[piece, piece]).await.unwrap(), 2);
            let heard = timeout(Duration::from_secs(5), far.read(&mut bytes)).await;
            assert_eq!(heard.unwrap().unwrap(), 2, "piece {piece}");
            assert_eq!(bytes[..2], [piece, piece]);
        }
    }

    #[tokio::test]
    async fn an_end_that_is_gone_is_an_error_to_who_waits_for_room() {
        let (near, far) = pair();
        let fills = async {
            loop {
                if let Err(error) = near.write(&[0; 64 << 10]).await {
                    return error.kind();
                }
            }
        };
        let leaves = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(far);
        };
        let both = async { tokio::join!(fills, leaves) };
        let (kind, ()) = timeout(Duration::from_secs(5), both).await.unwrap();
        assert_eq!(kind, io::ErrorKind::BrokenPipe);
    }
}
