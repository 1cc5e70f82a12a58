//! Follows the planner in the middle of an answer: a node was lost, slows down, comes, or its link was measured anew.
//!
//! What is decided is `heph_plan::replan`'s affair. Here its inputs are gathered: changes that others report, and how much
//! slower than before each stage of the line is. Caches do not travel over the wire, so whatever moves is replayed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use heph_plan::replan::{Event, MoveBy, Progress, after, replan};
use heph_plan::{Cluster, Peer, Place, Plan, Request};
use heph_types::{LayerRange, NodeId};

use crate::line::{Layout, Placement, Standing, Steering};
use crate::seat::Host;

/// A stage that takes this many times what it took, or less than its inverse, is news for the planner.
const NEWS_TIMES: f64 = 2.0;

/// And a difference below this is none, however many times it is: what a busy scheduler does to a stage of a small model.
const NEWS_SECONDS: f64 = 0.005;

/// Changes taken in at one look: more wait for the next token.
const CHANGES_MAX: usize = 64;

/// What others report while an answer runs.
pub enum Change {
    /// Something happened to a node that the planner should know.
    Event(Event),
    /// A node came.
    Joined {
        /// What is known of it.
        peer: Box<Peer>,
        /// Where stages are asked of it.
        host: Arc<dyn Host>,
    },
}

/// The plan of an answer under way, and what it was made from.
pub struct Replanner {
    request: Request,
    cluster: Cluster,
    plan: Plan,
    changes: Option<Receiver<Change>>,
    /// Hosts that came and that the line does not know yet.
    came: Vec<Arc<dyn Host>>,
    /// Seconds that each stage took for a token when the planner heard of it last.
    told: BTreeMap<(NodeId, usize, usize), f64>,
    moved: Option<Instant>,
}

impl Replanner {
    /// Follows `plan`, which was made for `request` over `cluster`.
    pub fn new(request: Request, cluster: Cluster, plan: Plan) -> Self {
        Self {
            request,
            cluster,
            plan,
            changes: None,
            came: Vec::new(),
            told: BTreeMap::new(),
            moved: None,
        }
    }

    /// Also listens to what others report.
    pub fn with_changes(mut self, changes: Receiver<Change>) -> Self {
        self.changes = Some(changes);
        self
    }

    /// The stages of a plan, as a line is laid out over them.
    pub fn placements(plan: &Plan) -> Vec<Placement> {
        let placement = |stage: &heph_plan::Stage| Placement {
            node: stage.node,
            layers: stage.layers,
        };
        plan.stages.iter().map(placement).collect()
    }

    /// Takes in what others report. Returns whether there was anything.
    fn take_changes(&mut self) -> bool {
        let Some(changes) = &self.changes else {
            return false;
        };
        let new: Vec<Change> = changes.try_iter().take(CHANGES_MAX).collect();
        for change in &new {
            match change {
                Change::Event(event) => self.cluster = after(&self.cluster, event),
                Change::Joined { peer, host } => {
                    self.cluster = after(&self.cluster, &Event::Joined(peer.clone()));
                    self.came.push(Arc::clone(host));
                }
            }
        }
        !new.is_empty()
    }

    /// Compares what each stage takes with what it took. Returns whether one of them is news.
    fn take_paces(&mut self, now: &Standing) -> bool {
        let mut news = false;
        let key = |stage: &Placement| (stage.node, stage.layers.start(), stage.layers.end());
        let held: Vec<_> = now.stages.iter().map(key).collect();
        self.told.retain(|stage, _| held.contains(stage));
        for (stage, seconds) in now.stages.iter().zip(&now.seconds) {
            let Some(seconds) = *seconds else { continue };
            let before = *self.told.entry(key(stage)).or_insert(seconds);
            let times = seconds / before.max(f64::MIN_POSITIVE);
            let small = (seconds - before).abs() < NEWS_SECONDS;
            if small || (NEWS_TIMES.recip()..NEWS_TIMES).contains(&times) {
                continue;
            }
            news = true;
            self.told.insert(key(stage), seconds);
            let way = if now.stages.len() > 1 {
                self.way_to(stage.node)
            } else {
                0.0
            };
            let own = |seconds: f64| (seconds - way).max(seconds * 0.01);
            let times = own(seconds) / own(before);
            let node = stage.node;
            self.cluster = after(&self.cluster, &Event::Slowed { node, times });
        }
        news
    }

    /// Seconds there and back.
    fn way_to(&self, node: NodeId) -> f64 {
        let peer = self.cluster.nodes.iter().find(|peer| peer.profile.node == node);
        peer.map_or(0.0, |peer| peer.link.round_trip_seconds())
    }

    /// The planner's word on where things stand; `None` where everything stays.
    fn decide(&mut self, now: &Standing) -> Option<Layout> {
        self.follow(&now.stages);
        let progress = Progress {
            positions: u32::try_from(now.positions).unwrap_or(u32::MAX).max(1),
            tokens_left: u32::try_from(now.tokens_left).unwrap_or(u32::MAX),
            since_move: self.moved.map(|when| now.time.saturating_duration_since(when)),
            only: Some(MoveBy::Replay),
        };
        let next = replan(&self.request, &self.cluster, &self.plan, progress).ok()?;
        let stages = Self::placements(&next.plan);
        self.plan = next.plan;
        if stages == now.stages {
            return None;
        }
        self.moved = Some(now.time);
        Some(Layout {
            stages,
            why: next.sentence,
            hosts: std::mem::take(&mut self.came),
        })
    }

    /// Brings the plan to where the line stands: it may have helped itself.
    fn follow(&mut self, stages: &[Placement]) {
        if Self::placements(&self.plan) == stages {
            return;
        }
        let held: Vec<_> = stages
            .iter()
            .filter_map(|stage| self.stage(stage.node, stage.layers))
            .collect();
        if held.len() == stages.len() {
            self.plan.stages = held;
        }
    }

    /// A stage as a plan has it, after the like of those it has.
    fn stage(&self, node: NodeId, layers: LayerRange) -> Option<heph_plan::Stage> {
        let peer = self.cluster.nodes.iter().find(|peer| peer.profile.node == node);
        let here = node == self.cluster.desk.node;
        let profile = match peer {
            Some(peer) => &peer.profile,
            None if here => &self.cluster.desk,
            None => return None,
        };
        let like = self.plan.stages.first()?.clone();
        Some(heph_plan::Stage {
            node,
            name: profile.name.clone(),
            role: profile.role,
            place: if here { Place::Desk } else { Place::Peer },
            layers,
            sees: self.request.policy.seen_by(node, profile.role),
            ..like
        })
    }
}

impl Steering for Replanner {
    fn lost(&mut self, node: NodeId, now: &Standing) -> Option<Layout> {
        self.take_changes();
        self.cluster = after(&self.cluster, &Event::Lost(node));
        // Whoever asked for a mode wants an answer more.
        self.request.mode = None;
        self.decide(now)
    }

    fn look(&mut self, now: &Standing) -> Option<Layout> {
        let reported = self.take_changes();
        let measured = self.take_paces(now);
        (reported || measured).then(|| self.decide(now)).flatten()
    }
}
