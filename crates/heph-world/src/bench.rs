//! A stage of a real model, and the time that its work takes by the planner's own sum.

use std::collections::VecDeque;
use std::time::Duration;

use heph_net::session::NodeCommand;
use heph_net::wire::{FaultCode, Line};
use heph_runtime::node::{Node, Stage, StageError};
use heph_types::{KvFormat, LayerRange, ModelHash, ModelProfile, Order, SamplingOptions, Speed, StageSpec};

use crate::dice::Dice;
use crate::scene;

/// Share by which a piece of work takes longer or shorter than its cost says.
const UNEVEN: f64 = 0.03;

/// The session of a conversation: each seat has a conversation of its own.
const LINE: Line = Line(0);

/// What a stage costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Costs {
    layers: LayerRange,
    chooses: bool,
}

/// Rows on their way through a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) answers: usize,
}

impl Costs {
    pub(crate) fn of(spec: &StageSpec) -> Self {
        Self {
            layers: spec.layers,
            chooses: spec.choose.is_some(),
        }
    }

    /// The planner's sum for a stage, a little more or less.
    pub(crate) fn time(
        &self,
        passed: Passed,
        profile: &ModelProfile,
        speed: &Speed,
        dice: &mut Dice,
    ) -> Duration {
        let uneven = 1.0 + UNEVEN * (2.0 * dice.share() - 1.0);
        Duration::from_secs_f64(self.seconds(passed, profile, speed) * uneven)
    }

    /// The planner's sum for a stage.
    pub(crate) fn seconds(&self, passed: Passed, profile: &ModelProfile, speed: &Speed) -> f64 {
        let rows = passed.rows as u32;
        let seen = passed.first as f64 + f64::from(rows) / 2.0;
        let of = |layer: &_, rows, seen| speed.layer_seconds(layer, rows, seen, KvFormat::F16);
        let layers = self.layers.iter().map(|at| of(&profile.layers[at], rows, seen));
        let head = match passed.answers {
            answers if self.chooses && answers > 0 => of(&profile.head, answers as u32, 0.0),
            _ => 0.0,
        };
        speed.overhead.as_secs_f64() + layers.sum::<f64>() + head
    }
}

/// One session's stage at a serving node, and what it has to do.
pub(crate) struct Workbench {
    stage: Stage,
    model: ModelHash,
    costs: Costs,
    held: usize,
    jobs: VecDeque<Job>,
    /// Whether the stream at the front has begun.
    streams: bool,
}

enum Job {
    Order(Order),
    Choose(SamplingOptions),
}

impl Workbench {
    /// A stage of `node`.
    pub(crate) fn open(node: &Node, spec: &StageSpec) -> Result<Self, StageError> {
        Ok(Self {
            stage: node.stage(spec)?,
            model: spec.model,
            costs: Costs::of(spec),
            held: 0,
            jobs: VecDeque::new(),
            streams: false,
        })
    }

    /// Whose stage it is.
    pub(crate) fn model(&self) -> ModelHash {
        self.model
    }

    /// Numbers of a row.
    pub(crate) fn width(&self) -> usize {
        self.stage.width()
    }

    pub(crate) fn take(&mut self, order: Order) {
        self.jobs.push_back(Job::Order(order));
    }

    pub(crate) fn choose(&mut self, options: SamplingOptions) {
        self.jobs.push_back(Job::Choose(options));
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Works until something took time; returns what to say then, and how long it took. As a serving node does it: a
    /// stream is left where something else comes behind it.
    pub(crate) fn work(
        &mut self,
        profile: &ModelProfile,
        speed: &Speed,
        dice: &mut Dice,
    ) -> (Vec<NodeCommand>, Duration) {
        let mut said = Vec::new();
        while let Some(job) = self.jobs.front() {
            let worked = match job {
                Job::Choose(options) => {
                    let chosen = self.stage.choose_anew(options);
                    self.jobs.pop_front();
                    chosen
                        .then_some(None)
                        .ok_or_else(|| "these options cannot be chosen by here".to_owned())
                }
                Job::Order(Order::Generate { .. }) => {
                    self.go_on_alone(&mut said).map_err(|error| error.to_string())
                }
                Job::Order(_) => self.carry_out(&mut said).map_err(|error| error.to_string()),
            };
            match worked {
                Ok(None) => {}
                Ok(Some(passed)) => return (said, self.costs.time(passed, profile, speed, dice)),
                Err(sentence) => {
                    self.jobs.clear();
                    let (line, code) = (LINE, FaultCode::Worker);
                    said.push(NodeCommand::Fail { line, code, sentence });
                }
            }
        }
        (said, Duration::ZERO)
    }

    fn carry_out(&mut self, said: &mut Vec<NodeCommand>) -> Result<Option<Passed>, StageError> {
        let Some(Job::Order(order)) = self.jobs.pop_front() else {
            return Ok(None);
        };
        let passed = match &order {
            Order::Forward(forward) => Some(Passed {
                first: forward.first.index(),
                rows: scene::rows(&forward.input),
                answers: forward.answers as usize,
            }),
            Order::Rollback(to) => {
                self.held = self.held.min(to.index());
                None
            }
            Order::Generate { .. } => None,
        };
        self.stage.take(order)?;
        if let Some(reply) = self.stage.work()? {
            said.push(NodeCommand::Reply(LINE, reply));
        }
        if let Some(passed) = passed {
            self.held = passed.first + passed.rows;
        }
        Ok(passed)
    }

    /// The next token of the stream at the front, or its end.
    fn go_on_alone(&mut self, said: &mut Vec<NodeCommand>) -> Result<Option<Passed>, StageError> {
        if !self.streams {
            if let Some(Job::Order(order)) = self.jobs.front() {
                self.stage.take(order.clone())?;
            }
            self.streams = true;
        } else if self.jobs.len() > 1 {
            self.stage.leave_stream();
        }
        let Some(reply) = self.stage.work()? else {
            self.streams = false;
            self.jobs.pop_front();
            said.push(NodeCommand::Done(LINE));
            return Ok(None);
        };
        said.push(NodeCommand::Reply(LINE, reply));
        self.held += 1;
        Ok(Some(Passed {
            first: self.held - 1,
            rows: 1,
            answers: 1,
        }))
    }
}
