//! A stage that can be computed by hand: what it answers for a position depends on every token up to there.

use std::collections::VecDeque;
use std::time::Duration;

use heph_types::{Branch, Forward, Hidden, Order, Pass, Position, Reply, StageInput, StageSpec, TokenId};

use super::WIDTH;
use crate::session::NodeCommand;
use crate::wire::Line;

/// Tokens of its vocabulary: so few that a guess is right now and then.
const VOCAB: u32 = 5;

/// How long it takes over each token.
const PACE: Duration = Duration::from_millis(3);

/// One stage and its orders.
pub(super) struct Toy {
    pub(super) line: Line,
    chooses: bool,
    held: Vec<u32>,
    orders: VecDeque<Order>,
    busy_until: Duration,
    /// It never comes to an end.
    pub(super) broods: bool,
    /// Orders that were carried out.
    pub(super) done: usize,
    /// How the rows of the last order that said so go on.
    pub(super) passed: Option<Pass>,
}

impl Toy {
    pub(super) fn new(line: Line, spec: &StageSpec) -> Toy {
        Toy {
            line,
            chooses: spec.choose.is_some(),
            held: Vec::new(),
            orders: VecDeque::new(),
            busy_until: Duration::ZERO,
            broods: false,
            done: 0,
            passed: None,
        }
    }

    pub(super) fn take(&mut self, now: Duration, order: Order) {
        if self.orders.is_empty() {
            self.busy_until = now + PACE;
        }
        self.orders.push_back(order);
    }

    pub(super) fn done_at(&self) -> Option<Duration> {
        (!self.orders.is_empty() && !self.broods).then_some(self.busy_until)
    }

    /// What it has to say by `now`, one thing at a time.
    pub(super) fn work(&mut self, now: Duration) -> Option<NodeCommand> {
        while self.done_at().is_some_and(|at| at <= now) {
            let order = self.orders.pop_front()?;
            self.busy_until += PACE;
            match order {
                Order::Generate { .. } if !self.orders.is_empty() => {
                    return Some(NodeCommand::Done(self.line));
                }
                Order::Generate { tokens_max: 0, .. } => return Some(NodeCommand::Done(self.line)),
                order => {
                    self.done += 1;
                    if let Some((reply, rest)) = self.carry_out(order) {
                        rest.into_iter().for_each(|rest| self.orders.push_front(rest));
                        return Some(NodeCommand::Reply(self.line, reply));
                    }
                }
            }
        }
        None
    }

    /// The reply to an order, and what is left of it.
    pub(super) fn carry_out(&mut self, order: Order) -> Option<(Reply, Option<Order>)> {
        match order {
            Order::Rollback(to) => {
                self.held.truncate(to.index());
                None
            }
            Order::Forward(forward) => Some((self.forward(&forward), None)),
            Order::Generate {
                last,
                tokens_max,
                ends,
            } => {
                let reply = self.forward(&Forward {
                    first: Position(self.held.len() as u32),
                    input: StageInput::Tokens(vec![last]),
                    answers: 1,
                    pass: None,
                });
                let last = self.choice(self.held.len());
                let tokens_max = if ends.contains(&last) { 0 } else { tokens_max - 1 };
                let rest = Order::Generate {
                    last,
                    tokens_max,
                    ends,
                };
                Some((reply, Some(rest)))
            }
        }
    }

    fn forward(&mut self, forward: &Forward) -> Reply {
        let first = forward.first.index();
        assert!(first <= self.held.len(), "a gap");
        self.held.truncate(first);
        self.passed = forward.pass.or(self.passed);
        match &forward.input {
            StageInput::Tokens(tokens) => self.held.extend(tokens.iter().map(|token| token.0)),
            StageInput::Guesses { tokens, branches } => return self.confirm(first, tokens, branches),
            StageInput::Rows { hidden, .. } => {
                let rows = hidden.rows.chunks(hidden.width);
                self.held.extend(rows.map(|row| row[0].to_bits()));
            }
            StageInput::Handed { .. } => unreachable!("a stage is given the rows themselves"),
        }
        let answered = self.held.len() - forward.answers as usize..self.held.len();
        let start = answered.start as u32;
        if self.chooses {
            Reply::Choices {
                first: Position(start + 1),
                tokens: answered.map(|at| self.choice(at + 1)).collect(),
            }
        } else {
            let rows = answered.flat_map(|at| [self.sum(at + 1) as f32; WIDTH]).collect();
            Reply::Rows {
                first: Position(start),
                hidden: Hidden { width: WIDTH, rows },
            }
        }
    }

    /// Follows the guesses as long as they are what it chooses, and a branch where it chooses that.
    fn confirm(&mut self, first: usize, tokens: &[TokenId], branches: &[Branch]) -> Reply {
        let mut way = tokens.to_vec();
        let mut chosen = Vec::new();
        for at in 1..=tokens.len() {
            self.held.truncate(first);
            self.held.extend(way.iter().map(|token| token.0));
            let token = self.choice(first + at);
            chosen.push(token);
            let goes = |branch: &&Branch| branch.at as usize == at && branch.tokens[0] == token;
            if way.get(at) == Some(&token) {
                continue;
            }
            let Some(branch) = branches.iter().find(goes).filter(|_| way == tokens) else {
                break;
            };
            way.truncate(at);
            way.extend(&branch.tokens);
        }
        Reply::Choices {
            first: Position(first as u32 + 1),
            tokens: chosen,
        }
    }

    /// What follows the first `count` tokens.
    pub(super) fn choice(&self, count: usize) -> TokenId {
        TokenId(self.sum(count) % VOCAB)
    }

    fn sum(&self, count: usize) -> u32 {
        let held = self.held[..count].iter();
        held.fold(7, |sum, token| (sum * 31 + token + 1) % 99_991)
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}
