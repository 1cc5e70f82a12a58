//! The driver: bytes, deadlines, ends, with a machine simple enough to see through.

use std::time::Instant;

use heph_net::drive::{Conversation, DriveError, Machine, drive};

use super::*;

/// Sends what it is told to, tells what it hears, ends when both sides have said all.
#[derive(Default)]
pub(super) struct Talk {
    unsent: Vec<u8>,
    heard: Vec<Vec<u8>>,
    /// Said all.
    done: bool,
    /// The other has said all.
    heard_all: bool,
    deadline: Option<Duration>,
}

pub(super) enum Say {
    Bytes(Vec<u8>),
    AndDone,
}

#[derive(Debug, PartialEq)]
pub(super) enum Trouble {
    Late,
    Rude,
}

impl Machine for Talk {
    type Command = Say;
    type Event = Vec<u8>;
    type Error = Trouble;

    fn command(&mut self, _: Duration, command: Say) -> Result<(), Trouble> {
        match command {
            Say::Bytes(bytes) => self.unsent.extend(bytes),
            Say::AndDone => self.done = true,
        }
        Ok(())
    }

    fn receive(&mut self, _: Duration, bytes: &[u8]) -> Result<(), Trouble> {
        if bytes.starts_with(b"rude") {
            return Err(Trouble::Rude);
        }
        self.heard.push(bytes.to_vec());
        Ok(())
    }

    fn receive_end(&mut self, _: Duration) -> Result<(), Trouble> {
        self.heard_all = true;
        Ok(())
    }

    fn wake(&mut self, now: Duration) -> Result<(), Trouble> {
        match self.deadline {
            Some(at) if at <= now => Err(Trouble::Late),
            _ => Ok(()),
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    fn transmit(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.unsent);
    }

    fn event(&mut self) -> Option<Vec<u8>> {
        (!self.heard.is_empty()).then(|| self.heard.remove(0))
    }

    fn finished(&self) -> bool {
        self.done && self.heard_all
    }
}

async fn talking(here: Talk, there: Talk) -> (Conversation<Talk>, Conversation<Talk>) {
    let (desk, node) = (endpoint().await, endpoint().await);
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    let stream = to_node.open().await.unwrap();
    let here = drive(stream, here, Instant::now());
    // A conversation begins on the other side with its first byte.
    here.command(Say::Bytes(b"hello".to_vec())).await;
    let there = drive(to_desk.accept().await.unwrap(), there, Instant::now());
    // The endpoints live as long as their conversations here.
    tokio::spawn(async move {
        to_node.closed().await;
        drop((desk, node));
    });
    (here, there)
}

pub(super) async fn heard(conversation: &mut Conversation<Talk>, bytes: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < bytes {
        heard.extend(conversation.event().await.expect("more to hear"));
    }
    heard
}

#[tokio::test]
async fn a_flood_larger_than_every_queue_arrives_whole_and_ends_in_order() {
    let (mut here, mut there) = talking(Talk::default(), Talk::default()).await;
    assert_eq!(heard(&mut there, 5).await, b"hello");
    let flood: Vec<u8> = (0..40_u32 << 20).map(|at| (at % 251) as u8).collect();
    let chunks = flood.chunks(1 << 20).map(<[u8]>::to_vec);
    let (_, arrived) = tokio::join!(
        async {
            for chunk in chunks {
                assert!(here.command(Say::Bytes(chunk)).await);
            }
            here.command(Say::AndDone).await
        },
        heard(&mut there, flood.len())
    );
    assert!(arrived == flood);
    there.command(Say::AndDone).await;
    // Neither side says more: the one that finishes first lets the other see its end.
    drop((here.event(), there.event()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_late_loses_nothing() {
    let (desk, node) = (endpoint().await, endpoint().await);
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    let flood: Vec<u8> = (0..40_u32 << 20).map(|at| (at % 251) as u8).collect();
    let mut here = to_node.open().await.unwrap();
    let (wrote, read) = tokio::join!(
        async {
            let wrote = here.write(&flood).await;
            here.finish();
            wrote
        },
        async {
            let mut there = to_desk.accept().await.unwrap();
            // Whatever may lie unread lies there by now.
            tokio::time::sleep(Duration::from_millis(300)).await;
            there.read_all(flood.len()).await
        }
    );
    wrote.unwrap();
    assert!(read.unwrap() == flood);
}

#[tokio::test]
async fn a_deadline_ends_the_conversation_for_both() {
    let late = Talk {
        deadline: Some(Duration::from_millis(50)),
        ..Talk::default()
    };
    let (mut here, mut there) = talking(late, Talk::default()).await;
    assert!(here.event().await.is_none());
    assert!(matches!(
        here.end().await,
        Err(DriveError::Machine(Trouble::Late))
    ));
    while there.event().await.is_some() {}
    assert!(matches!(there.end().await, Err(DriveError::Left(_))));
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_cut_off() {
    let (mut here, mut there) = talking(Talk::default(), Talk::default()).await;
    heard(&mut there, 5).await;
    here.command(Say::Bytes(b"rude".to_vec())).await;
    assert!(there.event().await.is_none());
    assert!(matches!(
        there.end().await,
        Err(DriveError::Machine(Trouble::Rude))
    ));
    assert!(here.event().await.is_none());
    assert!(matches!(here.end().await, Err(DriveError::Left(_))));
}

#[tokio::test]
async fn letting_go_of_a_conversation_cancels_it_for_the_other() {
    let (here, mut there) = talking(Talk::default(), Talk::default()).await;
    heard(&mut there, 5).await;
    drop(here);
    assert!(there.event().await.is_none());
    assert!(matches!(there.end().await, Err(DriveError::Left(_))));
}
