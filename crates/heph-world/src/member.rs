//! A simulated node: its ends of conversations, the stages behind them, and the ways in which a node goes wrong.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use heph_net::codec;
use heph_net::drive::Machine;
use heph_net::session::{NodeCommand, NodeEnd, NodeEvent, NodeLimits};
use heph_net::wire::{Farewell, FaultCode, Frame, Inbox, Line, Refusal};
use heph_runtime::node::Node;
use heph_types::{NodeId, Speed, TokenId};

use crate::bench::Workbench;
use crate::link::{Link, LinkShape};
use crate::world::{Event, LAW};

/// A node and the way to it.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberShape {
    /// Who it is.
    pub id: NodeId,
    /// How fast it computes.
    pub speed: Speed,
    /// What its clock makes of a second; 1 is right.
    pub clock: f64,
    /// The way from the desk.
    pub link: LinkShape,
}

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Its process is killed: no word any more, nothing kept.
    Killed,
    /// Its process is stopped: no word any more, everything kept.
    Stopped,
    /// A stopped process goes on, and says what it had to say.
    Continued,
    /// What it says does not arrive any more, what is said to it does.
    HalfOpen,
    /// Nothing passes either way.
    CutOff,
    /// The way is whole again; what was lost stays lost.
    Healed,
    /// It goes away and says so.
    Left,
    /// It gives every session up with a reason and opens none.
    Refuses,
    /// Its work takes this many times what it took.
    Slowed(f64),
    /// It answers wrongly from now on.
    Lies(Lie),
    /// A new process in its place, which holds nothing.
    Revived,
}

/// A wrong answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A row or token too few.
    Short,
    /// For another position.
    Astray,
    /// Tokens that no vocabulary has, rows of another width.
    Impossible,
    /// Plausible and wrong: nobody who does not compute it again can tell.
    Bent,
}

/// A node as the world keeps it.
pub(crate) struct Member {
    pub(crate) shape: MemberShape,
    pub(crate) node: Node,
    pub(crate) up: Link,
    pub(crate) down: Link,
    pub(crate) slow: f64,
    /// Counts its processes: work of an earlier one never ends.
    pub(crate) life: u32,
    pub(crate) alive: bool,
    pub(crate) stopped: bool,
    /// Whether this process was spoken to: the first time a connection is made.
    pub(crate) met: bool,
    /// What happened to it while it was stopped.
    pub(crate) parked: Vec<Event>,
    pub(crate) refuses: bool,
    pub(crate) lie: Option<Lie>,
    pub(crate) talks: BTreeMap<u64, Served>,
    /// Conversations with work to do, the next first.
    pub(crate) ready: VecDeque<u64>,
    /// What is being computed, and for whom.
    pub(crate) busy: Option<(u64, Vec<NodeCommand>)>,
    /// Replies given so far.
    pub(crate) replies: u64,
    /// Faults that wait for a number of replies.
    pub(crate) pending: Vec<(u64, Fault)>,
}

/// A node's end of a conversation.
pub(crate) struct Served {
    pub(crate) end: NodeEnd,
    pub(crate) bench: Option<Workbench>,
    /// When the end is woken next.
    pub(crate) wake: Option<Duration>,
    /// Frames of the end that a liar has not bent yet.
    unbent: Inbox,
}

impl Member {
    pub(crate) fn new(shape: MemberShape, node: Node) -> Self {
        Self {
            up: Link::new(&shape.link, &shape.link.up),
            down: Link::new(&shape.link, &shape.link.down),
            shape,
            node,
            slow: 1.0,
            life: 0,
            alive: true,
            stopped: false,
            met: false,
            parked: Vec::new(),
            refuses: false,
            lie: None,
            talks: BTreeMap::new(),
            ready: VecDeque::new(),
            busy: None,
            replies: 0,
            pending: Vec::new(),
        }
    }

    /// Forgets everything that a process holds.
    pub(crate) fn forget(&mut self) {
        self.life += 1;
        self.talks.clear();
        self.ready.clear();
        self.busy = None;
        self.stopped = false;
        self.met = false;
        self.parked.clear();
    }

    /// What its clock says.
    pub(crate) fn clock(&self, now: Duration) -> Duration {
        now.mul_f64(self.shape.clock)
    }

    /// When its clock says `at`, rounded up.
    pub(crate) fn moment(&self, at: Duration) -> Duration {
        at.mul_f64(1.0 / self.shape.clock) + Duration::from_nanos(100)
    }

    /// Begins a conversation.
    pub(crate) fn meet(&mut self, talk: u64, now: Duration) {
        let now = self.clock(now);
        let served = Served {
            end: NodeEnd::new(LAW, NodeLimits::default(), now),
            bench: None,
            wake: None,
            unbent: Inbox::default(),
        };
        self.talks.insert(talk, served);
    }

    /// Lets the node do what an end of its conversations has told.
    pub(crate) fn serve(&mut self, talk: u64, now: Duration) {
        let now = self.clock(now);
        while let Some(event) = self.talks.get_mut(&talk).and_then(|served| served.end.event()) {
            let Some(served) = self.talks.get_mut(&talk) else {
                return;
            };
            let answer = match event {
                NodeEvent::Open { line, .. } if self.refuses => Some(NodeCommand::Refuse {
                    line,
                    reason: Refusal::Paused,
                }),
                NodeEvent::Open { line, spec, .. } => Some(match Workbench::open(&self.node, &spec) {
                    Ok(bench) => {
                        let width = bench.width() as u32;
                        served.bench = Some(bench);
                        NodeCommand::Grant { line, width }
                    }
                    Err(_) => NodeCommand::Refuse {
                        line,
                        reason: Refusal::NoMemory,
                    },
                }),
                NodeEvent::Order(_, order) => {
                    served
                        .bench
                        .iter_mut()
                        .for_each(|bench| bench.take(order.clone()));
                    self.wants_work(talk);
                    None
                }
                NodeEvent::Choose(_, options) => {
                    served
                        .bench
                        .iter_mut()
                        .for_each(|bench| bench.choose(options.clone()));
                    self.wants_work(talk);
                    None
                }
                NodeEvent::Close(_) | NodeEvent::Over(_) => {
                    served.bench = None;
                    None
                }
                // The world's desks ask for no caches.
                // This network knows ways between a desk and its nodes only.
                NodeEvent::Expect { .. }
                | NodeEvent::Join(_)
                | NodeEvent::Taken { .. }
                | NodeEvent::Misled(_)
                | NodeEvent::TakeCache { .. }
                | NodeEvent::PutCache(..)
                | NodeEvent::Vouch(_)
                | NodeEvent::Greeted(_) => None,
            };
            if let Some(command) = answer {
                self.command(talk, now, command);
            }
        }
    }

    /// Whether it holds a session.
    pub(crate) fn works(&self) -> bool {
        self.talks.values().any(|served| served.bench.is_some())
    }

    /// When an end wants to be woken, where nobody is to do that yet.
    pub(crate) fn next_wake(&mut self, talk: u64) -> Option<Duration> {
        let served = self.talks.get(&talk).filter(|served| !served.end.finished())?;
        let at = self.moment(served.end.deadline()?);
        if served.wake.is_some_and(|known| known <= at) {
            return None;
        }
        self.talks.entry(talk).and_modify(|served| served.wake = Some(at));
        Some(at)
    }

    fn wants_work(&mut self, talk: u64) {
        let computing = self.busy.as_ref().is_some_and(|(busy, _)| *busy == talk);
        if !computing && !self.ready.contains(&talk) {
            self.ready.push_back(talk);
        }
    }

    /// Tells an end of its conversations what to do; a stage that cannot go on ends its session.
    pub(crate) fn command(&mut self, talk: u64, clock: Duration, command: NodeCommand) {
        if let Some(served) = self.talks.get_mut(&talk) {
            // Only its own misuse is an error, and that ends the conversation: the desk goes elsewhere.
            let _ = served.end.command(clock, command);
        }
    }

    /// Gives up every session: with a goodbye, or with a reason.
    pub(crate) fn give_up(&mut self, now: Duration, fault: Fault) {
        let clock = self.clock(now);
        for talk in self.talks.keys().copied().collect::<Vec<_>>() {
            let command = match fault {
                Fault::Left => NodeCommand::Leave(Farewell::Leaving),
                _ => NodeCommand::Fail {
                    line: Line(0),
                    code: FaultCode::Draining,
                    sentence: "the owner needs the machine".to_owned(),
                },
            };
            self.command(talk, clock, command);
            if let Some(served) = self.talks.get_mut(&talk) {
                served.bench = None;
            }
        }
    }

    /// What an end has to send, bent as the node lies.
    pub(crate) fn transmit(&mut self, talk: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(served) = self.talks.get_mut(&talk) else {
            return bytes;
        };
        served.end.transmit(&mut bytes);
        match self.lie {
            None => bytes,
            Some(lie) => {
                served.unbent.push(&bytes);
                let frames = std::iter::from_fn(|| served.unbent.pop().ok().flatten());
                frames
                    .flat_map(|frame| bent(frame, lie).encode().unwrap_or_default())
                    .collect()
            }
        }
    }
}

fn bent(frame: Frame, lie: Lie) -> Frame {
    match frame {
        Frame::Choices(mut choices) => {
            match lie {
                Lie::Short => drop(choices.tokens.pop()),
                Lie::Astray => choices.first.0 += 1,
                Lie::Impossible => choices.tokens.push(TokenId(u32::MAX)),
                Lie::Bent => choices.tokens.iter_mut().for_each(|token| token.0 ^= 1),
            }
            Frame::Choices(choices)
        }
        Frame::Rows(mut rows) => {
            let Ok(mut hidden) = codec::unpack(&rows.rows) else {
                return Frame::Rows(rows);
            };
            match lie {
                Lie::Short => hidden
                    .rows
                    .truncate(hidden.rows.len().saturating_sub(hidden.width)),
                Lie::Astray => rows.first.0 += 1,
                Lie::Impossible => {
                    hidden.rows.push(0.0);
                    hidden.width = hidden.rows.len();
                }
                Lie::Bent => hidden.rows.iter_mut().for_each(|number| *number = -*number),
            }
            match codec::pack(&hidden, rows.rows.codec) {
                Ok(packed) => rows.rows = packed,
                Err(_) => rows.first.0 += 1,
            }
            Frame::Rows(rows)
        }
        other => other,
    }
}
