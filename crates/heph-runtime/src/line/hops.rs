//! Rows of a line that go from one stage's node straight to the next one's, and what becomes of them where that ends.
//!
//! The desk orders both: the one to hand its rows on under a name, the other to await them, at the same moment. It gets a
//! copy of the rows as the first one's answer, so its histories hold what they always hold, and a lost seat is replaced as
//! ever; only nobody waits for the copy. A piece of news stands at one stage of the line at a time: where it was promised
//! on, at the last stage that it was promised to, and the stages before only owe their copies.

use std::time::{Duration, Instant};

use heph_types::{Forward, Order, Pass, Position, StageInput, Tag, Ticket, WireCodec};

use super::post::{Kind, Piece, Post, answers};
use super::{FLIGHT_MAX, Line, LineError, MOVES_MAX};
use crate::seat::{Hop, HopState};

/// How long each end of a hop may take to be ready: until then, and after, rows go through the desk.
const JOIN_DEADLINE: Duration = Duration::from_secs(5);

/// How the rows after a stage go on to the next one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Passage {
    /// Through the desk, and nothing else was tried.
    Untried,
    /// Through the desk; the next node was told whom to expect.
    Expecting { hop: Hop, until: Instant },
    /// Through the desk; the node connects to the next one.
    Joining { until: Instant },
    /// From node to node.
    Joined,
    /// Through the desk.
    Apart,
}

/// Whether a piece may be promised to the next stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// It may.
    Yes,
    /// Not before the next stage has answered something.
    Later,
    /// It goes through the desk.
    No,
}

impl Line {
    /// The line whose rows go from node to node, wherever two nodes that follow each other may meet and can.
    pub fn forwarding(mut self) -> Self {
        self.forwards = true;
        self
    }

    /// Whether rows after stage `at` go straight to the next one now.
    pub fn forwards(&self, at: usize) -> bool {
        let post = self.posts.get(at);
        post.is_some_and(|post| post.onward == Passage::Joined)
    }

    /// Hops that could not be made or ended since the last [`Line::begin`], a sentence each.
    pub fn parted(&self) -> &[String] {
        &self.parted
    }

    /// Goes on with making hops, and notices those that ended.
    pub(super) fn tend_hops(&mut self) {
        for at in 0..self.posts.len().saturating_sub(1) {
            if self.forwards
                && let Some(why) = self.tend_hop(at)
            {
                self.part(at, &why);
            }
        }
    }

    /// Goes on with one hop. Returns why it ends.
    fn tend_hop(&mut self, at: usize) -> Option<String> {
        let now = self.clock.now();
        let place = |node| {
            let host = self.hosts.iter().find(|host| host.node() == node);
            host.and_then(|host| host.meeting_place())
        };
        let (from, to) = (self.posts[at].node, self.posts[at + 1].node);
        let meeting = match self.posts[at].onward {
            Passage::Untried if from != to => place(from).and(place(to)),
            _ => None,
        };
        let [post, next] = self.posts.get_disjoint_mut([at, at + 1]).ok()?;
        let (Some(giver), Some(taker)) = (&mut post.seat, &mut next.seat) else {
            return None;
        };
        let late = || Some("it took too long".to_owned());
        match &post.onward {
            Passage::Apart => None,
            Passage::Untried => {
                let hop = meeting.zip(ticket()).map(|(address, ticket)| Hop {
                    from,
                    to,
                    ticket,
                    address,
                });
                let until = now + JOIN_DEADLINE;
                post.onward = match hop.filter(|hop| taker.expect(hop)) {
                    Some(hop) => Passage::Expecting { hop, until },
                    None => Passage::Apart,
                };
                None
            }
            Passage::Expecting { hop, until } => match taker.takes() {
                HopState::Joined => {
                    let joins = giver.join(hop);
                    let until = now + JOIN_DEADLINE;
                    post.onward = match joins {
                        true => Passage::Joining { until },
                        false => Passage::Apart,
                    };
                    None
                }
                HopState::Asked if now < *until => None,
                HopState::Asked => late(),
                HopState::Apart(why) => Some(why),
            },
            Passage::Joining { until } => match giver.hands() {
                HopState::Joined => {
                    post.onward = Passage::Joined;
                    next.tempo.rebase();
                    None
                }
                HopState::Asked if now < *until => None,
                HopState::Asked => late(),
                HopState::Apart(why) => Some(why),
            },
            Passage::Joined => match giver.hands() {
                HopState::Apart(why) => Some(why),
                HopState::Asked | HopState::Joined => None,
            },
        }
    }

    /// Lets the rows after a stage go through the desk from now on.
    pub(super) fn part(&mut self, at: usize, why: &str) {
        let (from, to) = (self.posts[at].node, self.posts[at + 1].node);
        if self.parted.len() < MOVES_MAX {
            let (from, to) = (from.short(), to.short());
            self.parted
                .push(format!("rows from {from} to {to} go through this machine: {why}"));
        }
        let before = std::mem::replace(&mut self.posts[at].onward, Passage::Apart);
        if before == Passage::Joined {
            self.posts[at + 1].tempo.rebase();
            let promised = promised(&self.posts[at + 1]);
            let back = promised
                .iter()
                .filter_map(|piece| self.withdraw(at + 1, piece.first));
            let back: Vec<Piece> = back.collect();
            self.give_back(at + 1, back);
        }
    }

    /// Whether `piece`, which stage `at` gets now, may be promised to the stage after it.
    pub(super) fn may_promise(&self, at: usize, piece: &Piece) -> Promise {
        let (post, Some(next)) = (&self.posts[at], self.posts.get(at + 1)) else {
            return Promise::No;
        };
        let news = piece.kind == Kind::New && piece.live > 0 && piece.live == piece.tokens;
        // The next stage takes its pieces in order: nothing that it has yet to be given may come through the desk.
        let behind = |piece: &Piece| piece.live > 0 && matches!(piece.kind, Kind::New | Kind::Rebuild);
        let ready = next.seat.is_some() && next.waiting.is_empty() && piece.first <= next.reach;
        if post.onward != Passage::Joined || !news || !ready || post.flight.iter().any(behind) {
            return Promise::No;
        }
        match next.flight.len() < FLIGHT_MAX {
            true => Promise::Yes,
            false => Promise::Later,
        }
    }

    /// The next name for rows.
    pub(super) fn pass(&self) -> Pass {
        // The format is that of the answer: the session's end knows it.
        Pass {
            tag: Tag(self.tags + 1),
            codec: WireCodec::F32,
        }
    }

    /// Stage `at` was just given a piece whose rows it hands on: the next one awaits them.
    pub(super) fn promise(&mut self, at: usize, tag: Tag) -> Result<(), LineError> {
        self.tags = self.tags.max(tag.0);
        let Some(given) = self.posts[at].flight.back_mut() else {
            return Ok(());
        };
        let piece = Piece {
            promised: true,
            given: false,
            ..*given
        };
        given.kind = Kind::Copy;
        let last = at + 2 == self.posts.len();
        let onward = self.may_promise(at + 1, &piece) == Promise::Yes;
        let pass = onward.then(|| self.pass());
        let (from, to) = (piece.first, piece.end());
        let ids = last && self.sampling.looks_back();
        let order = Order::Forward(Forward {
            first: Position(from as u32),
            input: StageInput::Handed {
                tag,
                count: piece.tokens,
                tokens: match ids {
                    true => self.tokens[from..to].to_vec(),
                    false => Vec::new(),
                },
            },
            answers: answers(&piece, last) as u32,
            pass,
        });
        let now = self.clock.now();
        let next = &mut self.posts[at + 1];
        let Some(seat) = &mut next.seat else { return Ok(()) };
        if let Err(error) = seat.submit(order) {
            if let Some(given) = self.posts[at].flight.back_mut() {
                given.kind = Kind::New;
            }
            return self.replace(at + 1, error);
        }
        if next.flight.is_empty() {
            next.since = now;
        }
        next.reach = piece.end();
        next.flight.push_back(piece);
        match pass {
            Some(pass) => self.promise(at + 1, pass.tag),
            None => Ok(()),
        }
    }

    /// The rows of a copy have come. Returns whether the next stage has been given them, or has them.
    pub(super) fn copied(&mut self, at: usize, piece: &Piece) -> bool {
        let now = self.clock.now();
        let next = &mut self.posts[at + 1];
        let own = |other: &Piece| other.promised && other.live > 0 && other.first == piece.first;
        match next.flight.iter().position(own) {
            Some(place) => {
                next.flight[place].given = true;
                if place == 0 {
                    next.since = now;
                }
                true
            }
            // It has answered.
            None => next.seat.is_some() && next.reach >= piece.end(),
        }
    }

    /// A seat is left: what it was to hand on, and what it was promised, goes another way.
    pub(super) fn release(&mut self, at: usize) {
        let owed = |piece: &&Piece| piece.kind == Kind::Copy && piece.live > 0;
        let owed: Vec<usize> = self.posts[at]
            .flight
            .iter()
            .filter(owed)
            .map(|p| p.first)
            .collect();
        // Of what was handed on nobody knows whether it arrived. What a stage behind has answered needs no more than to be
        // remembered: the next seat tells it again.
        let handed = self.posts.get(at + 1).map(promised).unwrap_or_default();
        let handed = handed
            .iter()
            .filter_map(|piece| self.withdraw(at + 1, piece.first));
        let (mut back, arrived): (Vec<Piece>, Vec<Piece>) =
            handed.partition(|piece| owed.contains(&piece.first));
        self.give_back(at + 1, arrived);
        let own = promised(&self.posts[at]).into_iter();
        back.extend(own.filter(|piece| piece.kind == Kind::New).map(Piece::again));
        back.sort_by_key(|piece| piece.first);
        let post = &mut self.posts[at];
        post.flight
            .retain(|piece| piece.kind != Kind::Copy && !piece.promised);
        post.onward = Passage::Untried;
        self.give_back(at, back);
        if let Some(before) = at.checked_sub(1) {
            self.posts[before].onward = Passage::Untried;
        }
    }

    /// Takes the piece that begins at `first` and that stage `at` was promised back from it, and from whom it was promised
    /// to behind. `None` where it has been answered there.
    fn withdraw(&mut self, at: usize, first: usize) -> Option<Piece> {
        let own = |piece: &&Piece| piece.promised && piece.live > 0 && piece.first == first;
        let piece = *self.posts.get(at)?.flight.iter().find(own)?;
        let wanted = match piece.kind {
            Kind::Copy => self.withdraw(at + 1, first)?.wanted,
            Kind::New | Kind::Replay | Kind::Rebuild => piece.wanted,
        };
        let post = &mut self.posts[at];
        let own = |piece: &&mut Piece| piece.promised && piece.live > 0 && piece.first == first;
        post.flight.iter_mut().find(own).into_iter().for_each(Piece::void);
        post.forget(first);
        Some(Piece {
            wanted,
            ..piece.again()
        })
    }

    /// Gives pieces that were promised to stage `at` to whoever can go on with them: the stage itself where their rows are
    /// here, or the one before, whose copy is then news again.
    fn give_back(&mut self, at: usize, pieces: Vec<Piece>) {
        for piece in pieces {
            if at == 0 || piece.end() <= self.posts[at].inputs.len() {
                self.posts[at].wait_with(piece);
                continue;
            }
            let owed =
                |other: &&mut Piece| other.kind == Kind::Copy && other.live > 0 && other.first == piece.first;
            match self.posts[at - 1].flight.iter_mut().find(owed) {
                Some(copy) => (copy.kind, copy.wanted) = (Kind::New, piece.wanted),
                None => self.give_back(at - 1, vec![piece]),
            }
        }
    }

    /// Tells a seat that nobody waits for what it was promised from position `to` on, where that was cut.
    pub(super) fn forgo(&mut self, at: usize, to: usize) {
        let post = &mut self.posts[at];
        let mut any = false;
        for piece in &mut post.flight {
            if piece.promised && piece.live == 0 && !piece.given {
                (piece.given, any) = (true, true);
            }
        }
        if any {
            post.forget(to);
        }
    }
}

/// What a stage was promised and has not answered.
fn promised(post: &Post) -> Vec<Piece> {
    let promised = post
        .flight
        .iter()
        .filter(|piece| piece.promised && piece.live > 0);
    promised.copied().collect()
}

/// A secret that nobody can guess; `None` where the system gives none, and then there is no hop.
fn ticket() -> Option<Ticket> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok().map(|()| Ticket(bytes))
}
