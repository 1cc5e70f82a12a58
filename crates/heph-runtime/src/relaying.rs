//! A relay with the threads that carry it: what `heph relay` runs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use heph_net::address::RelayAddress;
use heph_net::relay::{Admission, Certificate, Relay, RelayError, RelayOptions};
use heph_net::trust::TrustBook;

/// Threads of a relay: it copies packets and computes nothing.
const THREADS: usize = 2;

/// How long its goodbye may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// A running relay. It ends when dropped; [`Relaying::stop`] says goodbye first.
pub struct Relaying {
    relay: Relay,
    threads: tokio::runtime::Runtime,
}

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayingError {
    /// The relay itself.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The system gives no threads.
    #[error("no threads for the relay")]
    Threads(#[source] io::Error),
}

impl Relaying {
    /// Opens a relay with this certificate. Reads no file, but the book where [`peers_of`] admits.
    ///
    /// # Errors
    /// When there is no socket or thread.
    pub fn start(certificate: Certificate, options: RelayOptions) -> Result<Self, RelayingError> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("heph-relay")
            .enable_all()
            .build()
            .map_err(RelayingError::Threads)?;
        let relay = threads.block_on(Relay::open(certificate, options))?;
        Ok(Self { relay, threads })
    }

    /// What machines are given to find and trust it.
    pub fn address(&self) -> &RelayAddress {
        self.relay.address()
    }

    /// Stops it.
    pub fn stop(self) {
        let stopped = async { tokio::time::timeout(GOODBYE, self.relay.stop()).await };
        // It ends with its threads in any case.
        let _ = self.threads.block_on(stopped);
        self.threads.shutdown_background();
    }
}

/// Admits the machines that the book below `home` names when they come; nobody where it cannot be read.
pub fn peers_of(home: &Path) -> Admission {
    let home = home.to_owned();
    let known = move |node| TrustBook::open(&home).is_ok_and(|book| book.peer(node).is_some());
    Admission::Only(Arc::new(known))
}
