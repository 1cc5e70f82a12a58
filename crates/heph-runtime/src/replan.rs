//! Follows the planner in the middle of an answer: a node was lost, slows down, comes, or its link was measured anew.
//!
//! What is decided is `heph_plan::replan`'s affair. Here its inputs are gathered: changes that others report, and how much
//! slower than before each stage of the line is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use heph_plan::replan::{CALM, Event, MoveBy, Progress, after, held, replan};
use heph_plan::{Cluster, Peer, Place, Plan, Request};
use heph_types::{LayerRange, NodeId, NodeProfile, Speed};

use crate::codecs::boundaries;
use crate::line::{Layout, Placement, Standing, Steering};
use crate::seat::Host;

/// A stage whose time changed by this share of a whole token's is news for the planner, which moves nothing for less than a
/// twentieth of what remains, or a tenth of a token.
const NEWS_SHARE: f64 = 0.1;

/// And a difference below this is none, however large a share it is: what a busy scheduler does to a stage of a small model.
const NEWS_SECONDS: f64 = 0.005;

/// A stage that seems faster than expected is believed to be so many times faster at most, at one look.
const FASTER_MAX: f64 = 10.0;

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
    /// What each machine said of its speed last.
    said: BTreeMap<NodeId, Speed>,
    moved: Option<Instant>,
    /// When it was first asked: what waited at the machines when the plan was made is less by the time since.
    began: Option<Instant>,
    /// Whether news came so soon after a move that nothing was moved for it: they are looked at again.
    postponed: bool,
    /// Boundaries between machines that a line may have.
    boundaries_max: usize,
}

impl Replanner {
    /// Follows `plan`, which was made for `request` over `cluster`.
    pub fn new(request: Request, cluster: Cluster, plan: Plan) -> Self {
        let said = cluster.nodes.iter().map(|peer| &peer.profile);
        let said = said.map(|profile| (profile.node, profile.speed.clone()));
        Self {
            said: said.collect(),
            request,
            cluster: taking_none(cluster),
            plan,
            changes: None,
            came: Vec::new(),
            told: BTreeMap::new(),
            moved: None,
            began: None,
            postponed: false,
            boundaries_max: usize::MAX,
        }
    }

    /// Follows no plan with more boundaries between machines: rounded rows were certified for so many.
    pub fn with_boundaries_max(mut self, boundaries: usize) -> Self {
        self.boundaries_max = boundaries;
        self
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
                Change::Event(event) => {
                    if let Event::Lost(node) = event {
                        self.came.retain(|host| host.node() != *node);
                    }
                    self.cluster = after(&self.cluster, event);
                }
                Change::Joined { peer, host } => {
                    let mut peer = peer.clone();
                    let NodeProfile { node, state, .. } = peer.profile;
                    let said = self.said.insert(node, peer.profile.speed.clone());
                    // Where it says nothing new of that, what its passes took here tells how fast it is.
                    let seen = self.cluster.nodes.iter().map(|known| &known.profile);
                    let mut seen = seen.filter(|known| known.node == node && known.state == state);
                    if let Some(known) = seen.next().filter(|_| said.as_ref() == Some(&peer.profile.speed)) {
                        peer.profile.speed = known.speed.clone();
                    }
                    let cluster = after(&self.cluster, &Event::Joined(peer));
                    self.cluster = taking_none(cluster);
                    self.came.retain(|known| known.node() != host.node());
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
        let token: f64 = now.seconds.iter().flatten().sum();
        for (stage, seconds) in now.stages.iter().zip(&now.seconds) {
            let Some(seconds) = *seconds else { continue };
            let before = *self.told.entry(key(stage)).or_insert(seconds);
            let more = seconds - before;
            if more.abs() < NEWS_SECONDS.max(NEWS_SHARE * token) {
                continue;
            }
            news = true;
            self.told.insert(key(stage), seconds);
            // The way is in both times, so the difference is the node's own; how much that is, its speed says.
            let own = self.own_seconds(stage, now);
            let times = match own > 0.0 {
                true => ((own + more) / own).max(FASTER_MAX.recip()),
                false => seconds / before.max(f64::MIN_POSITIVE),
            };
            let node = stage.node;
            self.cluster = after(&self.cluster, &Event::Slowed { node, times });
        }
        news
    }

    /// Seconds that a stage is expected to compute for a token, its way left out.
    fn own_seconds(&self, stage: &Placement, now: &Standing) -> f64 {
        let peer = self
            .cluster
            .nodes
            .iter()
            .find(|peer| peer.profile.node == stage.node);
        let speed = peer.map_or(&self.cluster.desk.speed, |peer| &peer.profile.speed);
        let Some(choice) = self
            .request
            .models
            .iter()
            .find(|m| m.profile.model == self.plan.model)
        else {
            return 0.0;
        };
        let kv = self.plan.kv;
        let layers = stage
            .layers
            .iter()
            .filter_map(|layer| choice.profile.layers.get(layer));
        // The head may be a stage of its own, behind one that ends in the last layer.
        let is_last = now.stages.last() == Some(stage);
        let head = is_last.then_some(&choice.profile.head);
        let seconds = |layer| speed.layer_seconds(layer, 1, now.positions as f64, kv);
        layers.chain(head).map(seconds).sum()
    }

    /// The planner's word on where things stand; `None` where everything stays.
    fn decide(&mut self, now: &Standing) -> Option<Layout> {
        self.follow(&now.stages);
        let progress = Progress {
            positions: u32::try_from(now.positions).unwrap_or(u32::MAX).max(1),
            tokens_left: u32::try_from(now.tokens_left).unwrap_or(u32::MAX),
            since_move: self.moved.map(|when| now.time.saturating_duration_since(when)),
            only: None,
        };
        let cluster = self.cluster_by(now.time);
        let next = replan(&self.request, &cluster, &self.plan, progress).ok()?;
        let stages = Self::placements(&next.plan);
        let sent = next.moves.iter().filter(|moved| moved.by == MoveBy::Transfer);
        let transfers = sent.map(|moved| moved.layers).collect();
        if boundaries(&next.plan) > self.boundaries_max {
            return None;
        }
        self.plan = next.plan;
        self.postponed = stages == now.stages && self.is_calm(now);
        if stages == now.stages {
            return None;
        }
        self.moved = Some(now.time);
        // A line that helps itself turns to whoever it knows: it comes to know those alone that were planned with.
        let planned = |host: &Arc<dyn Host>| stages.iter().any(|stage| stage.node == host.node());
        let (hosts, came) = std::mem::take(&mut self.came).into_iter().partition(planned);
        self.came = came;
        Some(Layout {
            stages,
            why: next.sentence,
            transfers,
            hosts,
        })
    }

    /// The cluster, in which less waits than when the plan was made.
    fn cluster_by(&self, now: Instant) -> Cluster {
        let since = self
            .began
            .map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        let mut cluster = self.cluster.clone();
        let pass = |profile: &mut NodeProfile| profile.queue = profile.queue.saturating_sub(since);
        pass(&mut cluster.desk);
        cluster.nodes.iter_mut().for_each(|peer| pass(&mut peer.profile));
        cluster
    }

    /// Whether something was moved a moment ago.
    fn is_calm(&self, now: &Standing) -> bool {
        self.moved
            .is_some_and(|when| now.time.saturating_duration_since(when) < CALM)
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
            send_bytes: 0,
            ..like
        })
    }
}

/// The cluster in which nobody is sent layers: in the middle of an answer nobody waits for them.
fn taking_none(mut cluster: Cluster) -> Cluster {
    let peers = cluster.nodes.iter_mut();
    peers.for_each(|peer| peer.profile.caps.accepts_bytes = 0);
    cluster
}

impl Steering for Replanner {
    fn lost(&mut self, node: NodeId, now: &Standing) -> Option<Layout> {
        self.take_changes();
        self.came.retain(|host| host.node() != node);
        self.cluster = after(&self.cluster, &Event::Lost(node));
        // Whoever asked for a mode wants an answer more.
        self.request.mode = None;
        self.decide(now)
    }

    fn look(&mut self, now: &Standing) -> Option<Layout> {
        self.began.get_or_insert(now.time);
        let reported = self.take_changes();
        let measured = self.take_paces(now);
        let again = self.postponed && !self.is_calm(now);
        (reported || measured || again)
            .then(|| self.decide(now))
            .flatten()
    }

    fn relieve(&mut self, node: NodeId, room: u64, now: &Standing) -> Option<Layout> {
        self.take_changes();
        self.follow(&now.stages);
        let count = |positions: usize| u32::try_from(positions).unwrap_or(u32::MAX);
        let used = held(&self.request, &self.plan, node, count(now.positions));
        let bytes = used.saturating_add(room);
        self.cluster = after(&self.cluster, &Event::Memory { node, bytes });
        // The caches need no more room than the rest of the answer takes, and whoever asked for a mode wants an answer more.
        self.request.context = count(now.positions + now.tokens_left);
        self.request.mode = None;
        self.decide(now)
    }
}

#[cfg(test)]
mod tests {
    use heph_plan::{CodecProfile, DirectForwarding, KvChoice, ModelChoice, Objective, Readying};
    use heph_types::{
        Caps, Exactness, Held, KvFormat, LayerProfile, Leaves, LinkProfile, ModelHash, ModelProfile,
        NodeState, Policy, Price, Role, Speed, WireCodec,
    };

    use super::*;

    const MODEL: ModelHash = ModelHash([7; 32]);
    const LAYERS: usize = 8;

    fn layer() -> LayerProfile {
        LayerProfile {
            weight_bytes: 10_000_000,
            weight_bytes_one_row: 10_000_000,
            flops_per_token: 2e7,
            flops_per_position: 0.0,
            kv_bytes_f16: 512.0,
        }
    }

    /// A machine with room for five layers, each of which it takes through a token in `layer_ms`.
    fn machine(which: u8, layer_ms: f64) -> NodeProfile {
        NodeProfile {
            node: NodeId([which; 32]),
            name: format!("n{which}"),
            role: Role::Own,
            speed: Speed {
                bytes_per_second: 1e7 / (layer_ms / 1e3),
                flops_per_second: 1e12,
                overhead: Duration::ZERO,
                measured: Vec::new(),
            },
            memory: 55_000_000,
            holds: vec![Held {
                model: MODEL,
                layers: LayerRange::new(0, LAYERS, LAYERS).unwrap(),
            }],
            exactness: Exactness::Exact,
            caps: Caps::default(),
            state: NodeState::Open,
            queue: Duration::ZERO,
            price: Price::default(),
        }
    }

    fn replanner(rtt_ms: u64) -> Replanner {
        let format = KvFormat::F16;
        let profile = ModelProfile {
            model: MODEL,
            name: "m".to_owned(),
            layers: vec![layer(); LAYERS],
            unasked: None,
            width: 64,
            head: LayerProfile {
                weight_bytes: 1000,
                weight_bytes_one_row: 1000,
                flops_per_token: 1000.0,
                ..layer()
            },
            embed_bytes: 0,
            context_max: 512,
        };
        let request = Request {
            models: vec![ModelChoice { profile, loss: 0.0 }],
            prompt_tokens: 30,
            answer_tokens: 300,
            context: 512,
            kv: vec![KvChoice { format, loss: 0.0 }],
            codecs: vec![CodecProfile::nominal(WireCodec::F32)],
            drafts: Vec::new(),
            document: None,
            warm: Vec::new(),
            rounds: false,
            readying: Readying::default(),
            policy: Policy::open(Leaves::Text, &Role::ALL),
            objective: Objective::default(),
            mode: None,
            direct: DirectForwarding::Never,
        };
        let link = LinkProfile {
            rtt: Duration::from_millis(rtt_ms),
            up: 1e9,
            down: 1e9,
            loss: 0.0,
        };
        let peer = |which, layer_ms| Peer {
            profile: machine(which, layer_ms),
            link,
        };
        let cluster = Cluster {
            desk: machine(0, 5.0),
            nodes: vec![peer(1, 5.0), peer(2, 6.0)],
            between: Vec::new(),
        };
        let plan = heph_plan::plan(&request, &cluster).expect("a plan").plan;
        Replanner::new(request, cluster, plan)
    }

    /// The first other machine of its plan.
    fn elsewhere(replanner: &Replanner) -> NodeId {
        let stage = replanner.plan.remote_stages().next();
        stage.expect("another machine").node
    }

    /// How fast it takes `node` to be.
    fn bytes_per_second(replanner: &Replanner, node: NodeId) -> f64 {
        let peers = &replanner.cluster.nodes;
        let peer = peers.iter().find(|peer| peer.profile.node == node);
        peer.expect("a peer").profile.speed.bytes_per_second
    }

    /// How the line of `replanner` stands where each stage takes so many milliseconds.
    fn standing(replanner: &Replanner, millis: &[f64]) -> Standing {
        let stages = Replanner::placements(&replanner.plan);
        assert_eq!(stages.len(), millis.len(), "{stages:?}");
        Standing {
            stages,
            seconds: millis.iter().map(|ms| Some(ms / 1e3)).collect(),
            positions: 100,
            tokens_left: 200,
            time: Instant::now(),
        }
    }

    #[test]
    fn small_differences_are_no_news_and_a_tenth_of_a_token_is() {
        // Stages of a small model, in milliseconds: four more are twice as long, and what a scheduler does.
        // Stages of 60 ms: six more are a twentieth of a token.
        let quiet = [([4.0, 4.0], [4.0, 8.9]), ([60.0, 60.0], [60.0, 66.0])];
        let news = [
            ([4.0, 4.0], [4.0, 9.1]),
            ([60.0, 60.0], [60.0, 74.0]),
            ([60.0, 60.0], [60.0, 40.0]),
        ];
        for (cases, heard) in [(&quiet[..], false), (&news[..], true)] {
            for (before, after) in cases {
                let mut replanner = replanner(4);
                assert!(
                    !replanner.take_paces(&standing(&replanner, before)),
                    "nothing was known"
                );
                let told = replanner.take_paces(&standing(&replanner, after));
                assert_eq!(told, heard, "{before:?} to {after:?}");
            }
        }
    }

    #[test]
    fn a_stage_before_the_head_is_not_believed_to_compute_it() {
        let mut replanner = replanner(4);
        // A head as heavy as a layer, at the desk, behind a node with the last layers.
        replanner.request.models[0].profile.head = layer();
        let node = elsewhere(&replanner);
        let here = replanner.cluster.desk.node;
        let range = |start, end| LayerRange::new(start, end, LAYERS).expect("in the model");
        let line = [
            (here, range(0, 4)),
            (node, range(4, LAYERS)),
            (here, range(LAYERS, LAYERS)),
        ];
        let own = |millis: &[f64]| Standing {
            stages: line.map(|(node, layers)| Placement { node, layers }).to_vec(),
            seconds: millis.iter().map(|ms| Some(ms / 1e3)).collect(),
            positions: 100,
            tokens_left: 200,
            time: Instant::now(),
        };
        let speed = |replanner: &Replanner| bytes_per_second(replanner, node);
        let before = speed(&replanner);
        let layer_ms = 1e7 / before * 1e3;
        // Four layers and the way, then five times as long for the layers.
        replanner.take_paces(&own(&[20.0, 4.0 * layer_ms + 4.0, 5.0]));
        assert!(replanner.take_paces(&own(&[20.0, 20.0 * layer_ms + 4.0, 5.0])));
        let times = before / speed(&replanner);
        assert!((times - 5.0).abs() < 0.1, "{times} times as slow");
    }

    #[test]
    fn what_is_mostly_way_slows_down_by_what_its_own_work_takes() {
        let mut replanner = replanner(40);
        let node = elsewhere(&replanner);
        let speed = |replanner: &Replanner| bytes_per_second(replanner, node);
        let stages = Replanner::placements(&replanner.plan);
        let (at, stage) = stages
            .iter()
            .enumerate()
            .find(|(_, stage)| stage.node == node)
            .expect("it");
        let own = stage.layers.len() as f64 * 1e7 / speed(&replanner) * 1e3;
        let before: Vec<f64> = stages
            .iter()
            .map(|stage| 40.0 + 5.0 * stage.layers.len() as f64)
            .collect();
        let mut slow = before.clone();
        slow[at] += 4.0 * own;
        let old = speed(&replanner);
        replanner.take_paces(&standing(&replanner, &before));
        assert!(replanner.take_paces(&standing(&replanner, &slow)));
        let times = old / speed(&replanner);
        assert!((times - 5.0).abs() < 0.1, "{times}");
    }

    #[test]
    fn what_passes_took_here_tells_more_than_what_is_said_once_more() {
        let (tell, changes) = std::sync::mpsc::channel();
        let mut replanner = replanner(4).with_changes(changes);
        let node = elsewhere(&replanner);
        let said = machine(node.0[0], 5.0);
        let before = bytes_per_second(&replanner, node);
        let stages = Replanner::placements(&replanner.plan);
        let millis = |slow: f64| -> Vec<f64> {
            let of = |stage: &Placement| if stage.node == node { slow } else { 30.0 };
            stages.iter().map(of).collect()
        };
        replanner.take_paces(&standing(&replanner, &millis(30.0)));
        assert!(replanner.take_paces(&standing(&replanner, &millis(300.0))));
        let slow = bytes_per_second(&replanner, node);
        assert!(slow < before / 2.0, "{slow} {before}");
        let mut says = |profile: NodeProfile| {
            let link = replanner.cluster.nodes[0].link;
            let node = crate::node::Node::new(profile.node, crate::node::NodeCaps::default());
            let told = tell.send(Change::Joined {
                peer: Box::new(Peer { profile, link }),
                host: Arc::new(node),
            });
            assert!(told.is_ok() && replanner.take_changes());
            bytes_per_second(&replanner, said.node)
        };
        let other = NodeProfile {
            memory: said.memory + 1,
            ..said.clone()
        };
        assert_eq!(says(other), slow, "of its speed it said nothing new");
        assert_eq!(
            says(machine(node.0[0], 4.0)),
            1e7 / 4e-3,
            "it says that it is faster"
        );
        let paused = NodeProfile {
            state: NodeState::OwnerWorks,
            ..machine(node.0[0], 4.0)
        };
        assert_eq!(says(paused), 1e7 / 4e-3);
    }

    #[test]
    fn news_that_come_right_after_a_move_are_looked_at_again_when_it_is_calm_no_more() {
        let mut replanner = replanner(4);
        let calm = standing(&replanner, &[30.0, 30.0]);
        assert!(replanner.look(&calm).is_none(), "nothing happened");
        replanner.moved = Some(calm.time);
        let mut slow = standing(&replanner, &[30.0, 300.0]);
        assert!(
            replanner.look(&slow).is_none(),
            "something was moved a moment ago"
        );
        slow.time += CALM / 2;
        assert!(replanner.look(&slow).is_none());
        slow.time += CALM;
        assert!(replanner.look(&slow).is_some(), "it is still slow");
    }

    #[test]
    fn a_desk_that_does_not_hold_the_model_yet_is_gone_to_for_a_long_rest_alone() {
        for (tokens_left, moves) in [(200, true), (40, false)] {
            let Replanner {
                mut request,
                mut cluster,
                ..
            } = replanner(4);
            cluster.nodes.truncate(1);
            (cluster.desk.memory, cluster.nodes[0].profile.memory) = (1 << 30, 1 << 30);
            request.mode = Some(heph_plan::Mode::Remote);
            let plan = heph_plan::plan(&request, &cluster).expect("a plan").plan;
            request.mode = None;
            request.readying = Readying {
                first: Duration::from_millis(40),
                rest: Duration::from_millis(1_280),
            };
            let mut replanner = Replanner::new(request, cluster, plan);
            let stands = |replanner: &Replanner, millis| Standing {
                tokens_left,
                ..standing(replanner, &[millis])
            };
            let (calm, slow) = (stands(&replanner, 44.0), stands(&replanner, 64.0));
            assert!(replanner.look(&calm).is_none());
            // The desk takes 40 ms a token, so the rest takes 4 s or 0.8 s less there.
            assert_eq!(
                replanner.look(&slow).is_some(),
                moves,
                "{tokens_left} tokens left"
            );
        }
    }

    #[test]
    fn an_answer_about_documents_goes_on_where_it_is_for_the_same_reasons_as_any() {
        let Replanner {
            mut request,
            mut cluster,
            ..
        } = replanner(4);
        (cluster.desk.memory, cluster.nodes[0].profile.memory) = (1 << 30, 1 << 30);
        // The desk takes 48 ms for a token: less than a twentieth below the 50 of the news.
        cluster.desk.speed = machine(0, 6.0).speed;
        request.document = Some(heph_plan::DocumentProfile {
            kept_tokens: 20,
            seconds: 0.01,
            loss: 0.0,
        });
        request.mode = Some(heph_plan::Mode::Preprocess);
        let plan = heph_plan::plan(&request, &cluster).expect("a plan").plan;
        let mut replanner = Replanner::new(request, cluster, plan);
        let (calm, news) = (standing(&replanner, &[44.0]), standing(&replanner, &[50.0]));
        assert!(replanner.look(&calm).is_none());
        assert!(
            replanner.look(&news).is_none(),
            "a little slower is no reason to move"
        );
        assert_eq!(replanner.plan.mode, heph_plan::Mode::Preprocess);
        assert!(replanner.look(&standing(&replanner, &[400.0])).is_some());
    }

    #[test]
    fn nothing_moves_to_whom_others_keep_busy_longer_than_it_saves() {
        for (queue_s, moves) in [(0, true), (1, true), (500, false)] {
            let mut replanner = replanner(4);
            let stages = Replanner::placements(&replanner.plan);
            let others = replanner.cluster.nodes.iter_mut();
            let idle = others.filter(|peer| stages.iter().all(|stage| stage.node != peer.profile.node));
            idle.for_each(|peer| peer.profile.queue = Duration::from_secs(queue_s));
            let calm = standing(&replanner, &[30.0, 30.0]);
            assert!(replanner.look(&calm).is_none());
            let mut slow = standing(&replanner, &[30.0, 300.0]);
            assert_eq!(replanner.look(&slow).is_some(), moves, "{queue_s} s");
            // What waited then is done by now.
            slow.time += Duration::from_secs(queue_s);
            slow.seconds[1] = Some(0.9);
            assert_eq!(replanner.look(&slow).is_some(), !moves, "{queue_s} s");
        }
    }

    #[test]
    fn who_came_and_is_not_planned_with_is_no_host_of_the_line() {
        for (exactness, known) in [(Exactness::Exact, true), (Exactness::Unknown, false)] {
            let (tell, changes) = std::sync::mpsc::channel();
            let mut replanner = replanner(4).with_changes(changes);
            replanner.request.policy.exact_only = true;
            let standing = standing(&replanner, &[30.0, 30.0]);
            let stages = replanner.plan.remote_stages();
            let lost = stages.map(|stage| stage.node).next().expect("another machine");
            // By far the fastest.
            let came = NodeId([9; 32]);
            let mut profile = machine(9, 0.1);
            profile.exactness = exactness;
            let link = replanner.cluster.nodes[0].link;
            let node = crate::node::Node::new(came, crate::node::NodeCaps::default());
            let told = tell.send(Change::Joined {
                peer: Box::new(Peer { profile, link }),
                host: Arc::new(node),
            });
            assert!(told.is_ok());
            let layout = replanner.lost(lost, &standing).expect("another layout");
            let planned = layout.stages.iter().any(|stage| stage.node == came);
            assert_eq!(
                (planned, layout.hosts.len()),
                (known, usize::from(known)),
                "{exactness}"
            );
        }
    }

    #[test]
    fn no_line_with_more_boundaries_than_were_certified_is_followed() {
        for (most, follows) in [(usize::MAX, true), (0, false)] {
            let mut replanner = replanner(4).with_boundaries_max(most);
            let standing = standing(&replanner, &[30.0, 30.0]);
            let node = replanner
                .plan
                .remote_stages()
                .next()
                .expect("another machine")
                .node;
            assert_eq!(replanner.lost(node, &standing).is_some(), follows);
        }
    }
}
