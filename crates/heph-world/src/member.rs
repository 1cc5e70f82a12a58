//! A simulated node: real stages of a real model, the time they take, and the ways in which a node goes wrong.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use heph_runtime::node::{Node, Stage, StageError};
use heph_types::{
    Hidden, KvFormat, LayerRange, ModelHash, ModelProfile, NodeId, Order, Position, Reply, Speed, StageSpec,
    TokenId,
};

use crate::dice::Dice;
use crate::link::{Link, LinkShape};
use crate::world::Event;

/// Share by which a piece of work takes longer or shorter than its cost says.
const UNEVEN: f64 = 0.03;

/// A node and the way to it.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberShape {
    /// Who it is.
    pub id: NodeId,
    /// How fast it computes.
    pub speed: Speed,
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
    /// What happened to it while it was stopped.
    pub(crate) parked: Vec<Event>,
    pub(crate) refuses: bool,
    pub(crate) lie: Option<Lie>,
    pub(crate) benches: BTreeMap<u64, Workbench>,
    /// Conversations with work to do, the next first.
    pub(crate) ready: VecDeque<u64>,
    /// What is being computed, and for whom.
    pub(crate) busy: Option<(u64, Result<Reply, String>)>,
    /// Replies given so far.
    pub(crate) replies: u64,
    /// Faults that wait for a number of replies.
    pub(crate) pending: Vec<(u64, Fault)>,
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
            parked: Vec::new(),
            refuses: false,
            lie: None,
            benches: BTreeMap::new(),
            ready: VecDeque::new(),
            busy: None,
            replies: 0,
            pending: Vec::new(),
        }
    }

    /// Forgets everything that a process holds.
    pub(crate) fn forget(&mut self) {
        self.life += 1;
        self.benches.clear();
        self.ready.clear();
        self.busy = None;
        self.stopped = false;
        self.parked.clear();
    }

    /// A reply, bent as the node lies.
    pub(crate) fn said(&self, reply: Reply) -> Reply {
        match self.lie {
            None => reply,
            Some(lie) => bent(reply, lie),
        }
    }
}

/// What a piece of work costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Job {
    /// `None`: one token after another.
    forward: Option<Passed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passed {
    first: usize,
    rows: usize,
    answers: usize,
}

/// One session's stage and the time its orders take.
pub(crate) struct Workbench {
    stage: Stage,
    model: ModelHash,
    layers: LayerRange,
    chooses: bool,
    held: usize,
    jobs: VecDeque<Job>,
}

impl Workbench {
    /// A stage of `node`.
    pub(crate) fn open(node: &Node, spec: &StageSpec) -> Result<Self, StageError> {
        Ok(Self {
            stage: node.stage(spec)?,
            model: spec.model,
            layers: spec.layers,
            chooses: spec.choose.is_some(),
            held: 0,
            jobs: VecDeque::new(),
        })
    }

    /// Whose stage it is.
    pub(crate) fn model(&self) -> ModelHash {
        self.model
    }

    /// The stage itself.
    pub(crate) fn stage(&mut self) -> &mut Stage {
        &mut self.stage
    }

    pub(crate) fn take(&mut self, order: Order) -> Result<(), StageError> {
        let forward = match &order {
            Order::Rollback(_) => return self.stage.take(order),
            Order::Generate { .. } => None,
            Order::Forward(forward) => Some(Passed {
                first: forward.first.index(),
                rows: forward.input.tokens(),
                answers: forward.answers as usize,
            }),
        };
        self.stage.take(order)?;
        self.jobs.push_back(Job { forward });
        Ok(())
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The next reply and how long it takes at `speed`; `None` where nothing is left to do.
    pub(crate) fn work(
        &mut self,
        profile: &ModelProfile,
        speed: &Speed,
        dice: &mut Dice,
    ) -> Option<(Result<Reply, StageError>, Duration)> {
        // As the stage does: a stream ends where something else is wanted.
        while self.jobs.len() > 1 && self.jobs.front()?.forward.is_none() {
            self.jobs.pop_front();
        }
        let job = *self.jobs.front()?;
        let passed = job.forward.unwrap_or(Passed {
            first: self.held,
            rows: 1,
            answers: 1,
        });
        let reply = self.stage.work().transpose();
        if job.forward.is_some() || self.stage.is_idle() {
            self.jobs.pop_front();
        }
        if reply.as_ref().is_none_or(Result::is_err) {
            self.jobs.clear();
        }
        self.held = passed.first + passed.rows;
        let seconds = self.seconds(&passed, profile, speed) * (1.0 + UNEVEN * (2.0 * dice.share() - 1.0));
        Some((reply?, Duration::from_secs_f64(seconds)))
    }

    /// The planner's own sum for a stage.
    fn seconds(&self, passed: &Passed, profile: &ModelProfile, speed: &Speed) -> f64 {
        let rows = passed.rows as u32;
        let seen = passed.first as f64 + f64::from(rows) / 2.0;
        let of = |layer: &_, rows, seen| speed.layer_seconds(layer, rows, seen, KvFormat::F16);
        let layers: f64 = self
            .layers
            .iter()
            .map(|at| of(&profile.layers[at], rows, seen))
            .sum();
        let head = match passed.answers {
            answers if self.chooses && answers > 0 => of(&profile.head, answers as u32, 0.0),
            _ => 0.0,
        };
        speed.overhead.as_secs_f64() + layers + head
    }
}

fn bent(reply: Reply, lie: Lie) -> Reply {
    match (reply, lie) {
        (Reply::Rows { first, hidden }, Lie::Astray) => Reply::Rows {
            first: Position(first.0 + 1),
            hidden,
        },
        (Reply::Choices { first, tokens }, Lie::Astray) => Reply::Choices {
            first: Position(first.0 + 1),
            tokens,
        },
        (Reply::Rows { first, hidden }, lie) => Reply::Rows {
            first,
            hidden: bent_rows(hidden, lie),
        },
        (Reply::Choices { first, tokens }, lie) => Reply::Choices {
            first,
            tokens: bent_tokens(tokens, lie),
        },
    }
}

fn bent_rows(mut hidden: Hidden, lie: Lie) -> Hidden {
    match lie {
        Lie::Short => hidden
            .rows
            .truncate(hidden.rows.len().saturating_sub(hidden.width)),
        Lie::Impossible => hidden.width += 1,
        Lie::Bent => hidden.rows.iter_mut().for_each(|number| *number = -*number),
        Lie::Astray => {}
    }
    hidden
}

fn bent_tokens(mut tokens: Vec<TokenId>, lie: Lie) -> Vec<TokenId> {
    match lie {
        // A reply without a token can only be wrong by saying too much.
        Lie::Short if tokens.pop().is_none() => tokens.push(TokenId(0)),
        Lie::Impossible => tokens.push(TokenId(u32::MAX)),
        Lie::Bent => tokens.iter_mut().for_each(|token| token.0 ^= 1),
        Lie::Short | Lie::Astray => {}
    }
    tokens
}
