//! Rows that go from this node to another, and from another to this one, past the desk that ordered both.
//!
//! A stranger can hand nothing over: whoever connects has to be a node that the desk of an open session named, which the
//! handshake proves, and has to show the ticket which that desk made up for this one hop. A ticket is good for one stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heph_net::drive::{Commands, drive, drive_closely};
use heph_net::endpoint::{Goodbye, Protocol, Stream};
use heph_net::session::{
    BYTES_WINDOW, GREETING_DEADLINE, GiverEnd, GiverEvent, NodeCommand, NodeEnd, TakerCommand, TakerEnd,
    TakerEvent,
};
use heph_net::wire::{JoinFrame, Line};
use heph_types::{NodeId, Ticket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::held;
use super::session::Job;
use crate::network::{Caller, Network};
use crate::peer::law;

/// How long a connection to the next stage's node may take: the desk goes on without it meanwhile.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Whom the sessions of this node await, and with which ticket.
#[derive(Default)]
pub(super) struct Hops {
    expected: Mutex<BTreeMap<(NodeId, Ticket), Arc<Awaiting>>>,
}

/// A session that awaits rows of another node.
struct Awaiting {
    line: Line,
    commands: Commands<NodeEnd>,
    /// Bytes of rows that may still come before the session has taken some.
    room: Semaphore,
    /// The stream on which they come.
    stream: Mutex<Option<AbortHandle>>,
}

/// A session's place among those that await rows; given up when dropped, and the stream with it.
pub(super) struct Expected {
    hops: Arc<Hops>,
    key: (NodeId, Ticket),
    awaiting: Arc<Awaiting>,
}

impl Expected {
    pub(super) fn new(
        hops: &Arc<Hops>,
        key: (NodeId, Ticket),
        line: Line,
        commands: Commands<NodeEnd>,
    ) -> Self {
        let awaiting = Arc::new(Awaiting {
            line,
            commands,
            room: Semaphore::new(BYTES_WINDOW as usize),
            stream: Mutex::default(),
        });
        held(&hops.expected).insert(key, Arc::clone(&awaiting));
        Self {
            hops: Arc::clone(hops),
            key,
            awaiting,
        }
    }

    /// Rows of so many bytes wait no longer.
    pub(super) fn taken(&self, bytes: u64) {
        self.awaiting
            .room
            .add_permits(usize::try_from(bytes).unwrap_or(0));
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        held(&self.hops.expected).remove(&self.key);
        if let Some(stream) = held(&self.awaiting.stream).take() {
            stream.abort();
        }
    }
}

impl Hops {
    /// A node that wants to hand rows over. Nobody awaits a stranger, and nothing that it says is read.
    pub(super) async fn receive(self: Arc<Self>, caller: Caller) {
        let connection = caller.connection;
        let from = connection.peer();
        if !self.awaits(from) {
            connection.close(Goodbye::NotAllowed);
            return;
        }
        let Ok(Ok(stream)) = timeout(GREETING_DEADLINE, connection.accept()).await else {
            return;
        };
        let (tell, told) = oneshot::channel();
        let taking = tokio::spawn(self.take(from, stream, told));
        // The session that it brings rows to ends it.
        let _ = tell.send(taking.abort_handle());
        let _ = taking.await;
    }

    /// Whether a session awaits this node.
    fn awaits(&self, node: NodeId) -> bool {
        let expected = held(&self.expected);
        let mut theirs = expected.range((node, Ticket([0; 32]))..);
        theirs.next().is_some_and(|((from, _), _)| *from == node)
    }

    /// Brings the rows of one stream to the session whose ticket is shown on it.
    async fn take(self: Arc<Self>, from: NodeId, stream: Stream, own: oneshot::Receiver<AbortHandle>) {
        let Ok(own) = own.await else { return };
        let end = TakerEnd::new(law(), Duration::ZERO);
        let mut conversation = drive_closely(stream, end, Instant::now());
        let mut awaiting: Option<Arc<Awaiting>> = None;
        while let Some(event) = conversation.event().await {
            match (event, &awaiting) {
                (TakerEvent::Presented(ticket), None) => {
                    // Good for one stream: whoever shows it next is a stranger.
                    let Some(found) = held(&self.expected).remove(&(from, ticket)) else {
                        return;
                    };
                    *held(&found.stream) = Some(own.clone());
                    awaiting = Some(found);
                    conversation.command(TakerCommand::Welcome).await;
                }
                (TakerEvent::Handed(tag, rows), Some(awaiting)) => {
                    let bytes = u32::try_from(rows.bytes.len())
                        .unwrap_or(u32::MAX)
                        .min(BYTES_WINDOW);
                    let Ok(room) = awaiting.room.acquire_many(bytes).await else {
                        return;
                    };
                    room.forget();
                    let line = awaiting.line;
                    if !awaiting
                        .commands
                        .send(NodeCommand::Hand { line, tag, rows })
                        .await
                    {
                        return;
                    }
                }
                (TakerEvent::Over(_) | TakerEvent::Presented(_) | TakerEvent::Handed(..), _) => return,
            }
        }
    }
}

/// Starts to hand the rows of a session to the node that its desk named. Without a network it may not.
pub(super) fn giver(
    network: Option<Network>,
    join: JoinFrame,
    desk: Commands<NodeEnd>,
    jobs: mpsc::Sender<Job>,
) -> AbortHandle {
    let giving = async move {
        let line = join.line;
        let why = match network {
            Some(network) => give(&network, &join, &desk, &jobs).await,
            None => "it hands rows on for desks of its own owner only".to_owned(),
        };
        // A session that ended meanwhile has no thread left to tell.
        let _ = jobs.send(Job::HandTo(None)).await;
        desk.send(NodeCommand::Parted { line, sentence: why }).await;
    };
    tokio::spawn(giving).abort_handle()
}

/// Hands rows over until that ends; returns why.
async fn give(
    network: &Network,
    join: &JoinFrame,
    desk: &Commands<NodeEnd>,
    jobs: &mpsc::Sender<Job>,
) -> String {
    let known = match join.address.direct.is_empty() && join.address.relay.is_none() {
        true => network.whereabouts(join.to).await,
        false => join.address.clone(),
    };
    let connected = network
        .connect(join.to, &known, Protocol::Hop, CONNECT_DEADLINE)
        .await;
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => return error.to_string(),
    };
    let stream = match connection.open().await {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let end = GiverEnd::new(law(), join.ticket, Duration::ZERO);
    let mut conversation = drive(stream, end, Instant::now());
    while let Some(event) = conversation.event().await {
        match event {
            GiverEvent::Welcome => {
                let line = join.line;
                let round_trip = connection.round_trip().unwrap_or_default();
                // The thread knows where to hand rows before the desk may ask for it.
                if jobs
                    .send(Job::HandTo(Some(conversation.commands())))
                    .await
                    .is_err()
                {
                    return "the session is over".to_owned();
                }
                desk.send(NodeCommand::Joined { line, round_trip }).await;
            }
            GiverEvent::Over(error) => return error.to_string(),
        }
    }
    match conversation.end().await {
        Ok(()) => "the other node left".to_owned(),
        Err(error) => error.to_string(),
    }
}
