//! What a line does when a seat is lost: somebody else gets the stage, catches up, and goes on.

use heph_plan::replan::MoveBy;
use heph_types::{NodeId, Position, SessionId, StageSpec};
use std::sync::Arc;
use std::time::Instant;

use super::opening::Opening;
use super::post::{Kind, Piece};
use super::{CANCEL_LOOK, EXPIRED_MAX, Line, LineError, Loss, MOVES_MAX, Move, REPLAY_TOKENS};
use crate::cancel::Cancel;
use crate::seat::{Host, SeatError};

impl Line {
    /// Gives a lost seat's stage to somebody else.
    pub(super) fn replace(&mut self, at: usize, error: SeatError) -> Result<(), LineError> {
        if matches!(error, SeatError::Stopped) {
            self.take_back(at);
            return Err(LineError::Cancelled);
        }
        let node = self.posts[at].node;
        if matches!(error, SeatError::Expired { .. }) && self.posts[at].expired < EXPIRED_MAX {
            // The node is well, and as good as any other to begin anew with.
            self.posts[at].expired += 1;
            self.unseat(at);
            return self.open(at, None);
        }
        self.pass_by(node, &error);
        for other in 0..self.posts.len() {
            if self.posts[other].node == node {
                self.unseat(other);
            }
        }
        match self.steered_past(node, &error) {
            Some(done) => done,
            None => self.open(at, Some(error)),
        }
    }

    /// Puts pieces under way back to where they wait.
    fn take_back(&mut self, at: usize) {
        let post = &mut self.posts[at];
        while let Some(piece) = post.flight.pop_back() {
            let tokens = piece.live;
            post.waiting.push_front(Piece { tokens, ..piece });
        }
        post.waiting.retain(|piece| piece.live > 0);
        if at == 0 {
            self.stream.iter_mut().for_each(|stream| stream.sent = false);
        }
    }

    /// Leaves a seat; what was under way waits for the next one.
    pub(super) fn unseat(&mut self, at: usize) {
        self.release(at);
        self.take_back(at);
        let post = &mut self.posts[at];
        post.waiting.retain(|piece| piece.kind == Kind::New);
        (post.tempo, post.reach, post.opening) = Default::default();
        if let Some(seat) = post.seat.take() {
            self.traffic += seat.traffic();
        }
    }

    /// Opens a seat for a stage at its node, or at another where that one was lost, and lets it replay what went in.
    pub(super) fn open(&mut self, at: usize, lost: Option<SeatError>) -> Result<(), LineError> {
        let (noticed, from, layers) = (self.clock.now(), self.posts[at].node, self.posts[at].layers);
        let computed = self.solid(at);
        let mut cause = match lost {
            None => self.await_opening(at),
            lost => lost,
        };
        if self.posts[at].seat.is_some() {
            return Ok(());
        }
        let mut until = None;
        loop {
            let Some(host) = self.substitute(at) else {
                if self.wait_for_room(&mut until)? {
                    continue;
                }
                let nobody = || SeatError::Lost {
                    node: from,
                    why: "it failed a moment ago".to_owned(),
                };
                let cause = cause.unwrap_or_else(nobody);
                return Err(LineError::NoSeat { layers, cause });
            };
            let (node, spec) = (host.node(), self.spec(at));
            self.sessions = self.sessions.wrapping_add(1);
            match host.open(SessionId(self.sessions), &spec, &self.bell) {
                Ok(seat) => {
                    self.posts[at].seat = Some(seat);
                    self.posts[at].node = node;
                    self.replay(at);
                    if node != from {
                        let elsewhere = || "it failed in another stage".to_owned();
                        self.note_move(Move {
                            layers,
                            from,
                            to: node,
                            why: cause.map_or_else(elsewhere, |cause| cause.to_string()),
                            lost: self.is_gone(from),
                            by: MoveBy::Replay,
                            at: Position(computed as u32),
                            gap: None,
                            silence: None,
                            noticed,
                        });
                    }
                    return Ok(());
                }
                Err(error) => {
                    self.pass_by(node, &error);
                    cause = Some(error);
                }
            }
        }
    }

    /// Asks others instead of a node that opens no seat. Whoever is only full is asked again once nobody else is left.
    fn pass_by(&mut self, node: NodeId, error: &SeatError) {
        let now = self.clock.now();
        let since = match error.is_short_of_room() {
            true => *self.short_since.get_or_insert(now),
            false => now,
        };
        if now.saturating_duration_since(since) < self.room_wait {
            self.busy.extend(error.busy_for().map(|wait| (node, now + wait)));
        }
        self.lost.push(Loss {
            node,
            when: now,
            full: error.is_short_of_room() || error.busy_for().is_some(),
        });
    }

    /// Where nobody is left but who is full: waits until the first of them may have room, and lets it be asked again.
    /// `until` is when the waiting ends for good. `false`: there is nobody to wait for.
    fn wait_for_room(&mut self, until: &mut Option<Instant>) -> Result<bool, LineError> {
        let end = *until.get_or_insert_with(|| self.clock.now() + self.room_wait);
        let Some(&(node, free)) = self.busy.iter().min_by_key(|(_, free)| *free) else {
            return Ok(false);
        };
        loop {
            if self.cancel.as_ref().is_some_and(Cancel::is_raised) {
                return Err(LineError::Cancelled);
            }
            let (seen, now) = (self.bell.rings(), self.clock.now());
            if now >= end {
                return Ok(false);
            }
            if now >= free {
                break;
            }
            self.clock
                .wait(&self.bell, seen, free.min(end).min(now + CANCEL_LOOK));
        }
        self.busy.retain(|(other, _)| *other != node);
        self.lost.retain(|loss| loss.node != node);
        Ok(true)
    }

    /// Whether a stage has a seat. A far one is opened while the stages here compute; what waits for it waits on.
    pub(super) fn seated(&mut self, at: usize) -> Result<bool, LineError> {
        if self.posts[at].seat.is_none() {
            self.open_far();
            if self.posts[at].opening.as_mut().is_some_and(Opening::goes_on) {
                return Ok(false);
            }
            self.open(at, None)?;
        }
        Ok(true)
    }

    /// Begins to open every seat that is far and still missing, all at the same time: a line over three peers waits for one of them.
    fn open_far(&mut self) {
        for at in 0..self.posts.len() {
            let post = &self.posts[at];
            let is_far = |host: &&Arc<dyn Host>| host.node() == post.node && host.is_far();
            let wanted = post.seat.is_none() && post.opening.is_none() && !self.is_lost(post.node);
            if let Some(host) = self.hosts.iter().find(is_far).filter(|_| wanted).cloned() {
                self.sessions = self.sessions.wrapping_add(1);
                let (session, spec) = (SessionId(self.sessions), self.spec(at));
                self.posts[at].opening = Opening::begin(host, session, spec, &self.bell);
            }
        }
    }

    /// Waits for the seat that is being opened for a stage. Returns why there will be none; what fails is tried elsewhere.
    fn await_opening(&mut self, at: usize) -> Option<SeatError> {
        self.open_far();
        match self.posts[at].opening.take()?.answer() {
            Ok(seat) => {
                self.posts[at].seat = Some(seat);
                self.replay(at);
                None
            }
            Err(error) => {
                self.pass_by(self.posts[at].node, &error);
                Some(error)
            }
        }
    }

    /// Who should hold a stage: its own node unless lost, else the one that holds the fewest layers of this line.
    fn substitute(&self, at: usize) -> Option<Arc<dyn Host>> {
        let load = |node: NodeId| -> usize {
            let others = self.posts.iter().enumerate().filter(|(other, _)| *other != at);
            let theirs = others.filter(|(_, post)| post.node == node);
            theirs.map(|(_, post)| post.layers.len().max(1)).sum()
        };
        let here = self.posts[at].node;
        let candidates = self.hosts.iter().filter(|host| !self.is_lost(host.node()));
        candidates
            .min_by_key(|host| (host.node() != here, load(host.node())))
            .cloned()
    }

    pub(super) fn is_lost(&self, node: NodeId) -> bool {
        self.lost.iter().any(|loss| loss.node == node)
    }

    /// Whether a node was lost, and is not just full.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        self.lost.iter().any(|loss| loss.node == node && !loss.full)
    }

    fn spec(&self, at: usize) -> StageSpec {
        let last = at + 1 == self.posts.len();
        StageSpec {
            model: self.model.hash,
            layers: self.posts[at].layers,
            context: self.context as u32,
            kv_format: self.model.kv_format,
            choose: last.then(|| self.sampling.clone()),
        }
    }

    /// Lets a new seat catch up with what its stage has been through, and tell what the next stage does not know of it.
    fn replay(&mut self, at: usize) {
        let solid = self.solid(at);
        let known = self.known_after(at).min(solid);
        let waiting = &mut self.posts[at].waiting;
        waiting.retain(|piece| piece.kind == Kind::New);
        for (from, to, kind) in [(known, solid, Kind::Rebuild), (0, known, Kind::Replay)] {
            for start in (from..to).step_by(REPLAY_TOKENS).rev() {
                let tokens = REPLAY_TOKENS.min(to - start);
                waiting.push_front(Piece::new(start, tokens, 0, kind));
            }
        }
    }

    /// Tokens whose way through stage `at` the stage after it has in its history.
    pub(super) fn known_after(&self, at: usize) -> usize {
        self.posts
            .get(at + 1)
            .map_or(usize::MAX, |next| next.inputs.len())
    }

    /// Tokens that a stage has been through for good: everything before its oldest unanswered piece.
    pub(super) fn solid(&self, at: usize) -> usize {
        let fed = if at == 0 {
            self.tokens.len() - self.streamed()
        } else {
            self.posts[at].inputs.len()
        };
        let news = self.posts[at].news().map(|piece| piece.first);
        // What was promised to the stage may be further than what is remembered of it.
        news.min().unwrap_or(fed).min(fed)
    }

    /// Tokens that every stage holds, or will once it has caught up.
    pub(super) fn held(&self) -> usize {
        let news = self
            .posts
            .iter()
            .flat_map(|post| post.news().map(|piece| piece.first));
        news.min().unwrap_or(self.tokens.len() - self.streamed())
    }

    /// The last token of an answer that a node goes on with alone is in no piece: it goes in with the order itself.
    fn streamed(&self) -> usize {
        usize::from(self.is_whole() && self.stream.is_some())
    }

    /// Keeps a move for the receipt.
    pub(super) fn note_move(&mut self, moved: Move) {
        if self.moves.len() < MOVES_MAX {
            self.moves.push(moved);
        }
    }

    /// A token is told: moves that nobody has waited out yet are told how long the wait was.
    pub(super) fn note_gap(&mut self) {
        let now = self.clock.now();
        let silence = now.saturating_duration_since(std::mem::replace(&mut self.told, now));
        for moved in self.moves.iter_mut().filter(|moved| moved.gap.is_none()) {
            moved.gap = Some(now.saturating_duration_since(moved.noticed));
            moved.silence = Some(silence);
        }
    }
}
