//! A seat that somebody far away was asked for: the line goes on meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError, channel};
use std::thread;

use heph_types::{NodeId, SessionId, StageSpec};

use crate::seat::{Bell, Host, Seat, SeatError};

type Answer = Result<Box<dyn Seat>, SeatError>;

/// A thread that opens a seat. Whoever lets go of it waits until the seat is left again: what went away for it is counted by then.
pub(super) struct Opening {
    node: NodeId,
    answer: Receiver<Answer>,
    answered: Option<Answer>,
}

impl Opening {
    /// Asks `host` for a seat, and rings when it has answered. `None`: there is no thread to ask with.
    pub(super) fn begin(
        host: Arc<dyn Host>,
        session: SessionId,
        spec: StageSpec,
        bell: &Bell,
    ) -> Option<Opening> {
        let (node, bell, (tell, answer)) = (host.node(), bell.clone(), channel());
        let ask = move || {
            // Nobody hears it where the line has gone on without.
            let _ = tell.send(host.open(session, &spec, &bell));
            bell.ring();
        };
        let begun: io::Result<_> = thread::Builder::new().name("heph-opening".to_owned()).spawn(ask);
        begun.ok().map(|_| Opening {
            node,
            answer,
            answered: None,
        })
    }

    /// Whether the answer has yet to come.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.answered.is_none() {
            match self.answer.try_recv() {
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => self.answered = Some(Err(self.gone())),
                Ok(answer) => self.answered = Some(answer),
            }
        }
        false
    }

    /// The answer, waited for: a host answers within a time of its own.
    pub(super) fn answer(mut self) -> Answer {
        let answered = self.answered.take();
        answered.unwrap_or_else(|| self.answer.recv().unwrap_or_else(|RecvError| Err(self.gone())))
    }

    fn gone(&self) -> SeatError {
        SeatError::Lost {
            node: self.node,
            why: "asking it failed here".to_owned(),
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        // The thread has nothing to say any more where it has answered.
        let _ = self.answer.recv().ok();
    }
}
