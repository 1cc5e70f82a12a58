//! What a door has given to each machine and has not had back: the waits that the next request is planned with.
//!
//! Nodes say themselves how long somebody would wait, now and then, and of what all their desks gave them. What this door gives them between two
//! such words is known here alone, and at once: by the same [`Balancer`] that the simulated world replays days of requests with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_engine::batch::Asker;
use heph_plan::balance::{Ask, Balancer, Seat, SeatStart, Ticket, UserId};
use heph_plan::{Cluster, Mode, NODES_MAX, Plan, Record};
use heph_types::{KvFormat, ModelProfile, NodeId, NodeProfile};

use crate::service::Ending;

/// Rows of a prompt that are computed at once, to say how long a prompt takes.
const CHUNK: u32 = 64;

/// The places of a door.
#[derive(Debug)]
pub struct Placing {
    places: Mutex<Places>,
    /// Held while a request is planned.
    planning: Mutex<()>,
    began: Instant,
}

#[derive(Debug)]
struct Places {
    balancer: Balancer,
    seats: BTreeMap<NodeId, Place>,
}

/// The place of a machine.
#[derive(Debug, Clone, Copy)]
struct Place {
    seat: Seat,
    /// When it was given something last.
    given: Instant,
}

/// Machines that are remembered; the one that was given nothing for longest makes room for the next.
const MACHINES_MAX: usize = NODES_MAX + 1;

/// A request, in sizes.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Whose.
    pub asker: Asker,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens that the answer is expected to have.
    pub answer_tokens: u32,
}

impl Asked {
    /// This share of it, as one machine of several is given.
    fn ask(&self, share: f64) -> Ask<'static> {
        let part = |tokens: u32| (f64::from(tokens) * share).ceil() as u32;
        Ask {
            user: UserId(self.asker.0),
            weight: 1.0,
            prompt_tokens: part(self.prompt_tokens),
            answer_tokens: part(self.answer_tokens),
            // What a machine holds of a beginning is told to the planner, which counts what is left.
            prefix: &[],
            block_tokens: 1,
        }
    }
}

impl Default for Placing {
    fn default() -> Self {
        Self {
            places: Mutex::new(Places {
                balancer: Balancer::new(&[]),
                seats: BTreeMap::new(),
            }),
            planning: Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Placing {
    /// Waits for the turn to be told, to plan and to give: of requests that come at once each is planned behind what was given for the one before.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.planning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells `cluster` how long such a request would wait at each machine behind what this door gave it, where that is longer than what the
    /// machine says itself.
    pub fn tell(&self, cluster: &mut Cluster, asked: &Asked) {
        let (places, now, ask) = (self.lock(), self.began.elapsed(), asked.ask(1.0));
        let tell = |profile: &mut NodeProfile| {
            if let Some(place) = places.seats.get(&profile.node) {
                let wait = places.balancer.expected_wait(place.seat, &ask, now);
                profile.queue = profile.queue.max(wait);
            }
        };
        tell(&mut cluster.desk);
        cluster.nodes.iter_mut().for_each(|peer| tell(&mut peer.profile));
    }

    /// Gives a request to the machines of its plan, each its share of the layers. It waits from now on.
    pub fn give(self: &Arc<Self>, record: &Record, asked: &Asked) -> Given {
        let (mut places, now) = (self.lock(), self.began.elapsed());
        let plan = &record.decision.plan;
        let model = record.request.models.iter().map(|choice| &choice.profile);
        let model = model.into_iter().find(|model| model.model == plan.model);
        let mut shares: BTreeMap<NodeId, f64> = BTreeMap::new();
        for stage in &plan.stages {
            let layers = stage.layers.end().saturating_sub(stage.layers.start());
            *shares.entry(stage.node).or_default() += layers as f64;
        }
        let all: f64 = shares.values().sum();
        let mut given = Vec::new();
        for (node, layers) in shares.into_iter().filter(|(_, layers)| *layers > 0.0) {
            let peers = record.cluster.nodes.iter().map(|peer| &peer.profile);
            let profile = std::iter::once(&record.cluster.desk)
                .chain(peers)
                .find(|profile| profile.node == node);
            let (Some(profile), Some(model)) = (profile, model) else {
                continue;
            };
            let Some(seat) = places.seat(profile, model) else {
                continue;
            };
            let placed = places.balancer.give(seat, &asked.ask(layers / all), now);
            given.extend(placed.map(|placed| (seat, placed.ticket)));
        }
        Given {
            placing: Arc::clone(self),
            // One that has a part is as fast as the others let it be.
            is_whole: given.len() == 1,
            places: given,
            waits_since: Instant::now(),
            began: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// The place of a machine, as fast as it is known to be by now; `None` where as many as may be are busy.
    fn seat(&mut self, profile: &NodeProfile, model: &ModelProfile) -> Option<Seat> {
        let (start, given) = (start(profile, model), Instant::now());
        let seat = match self.seats.get(&profile.node) {
            Some(place) => {
                self.balancer.know(place.seat, start);
                place.seat
            }
            None if self.seats.len() < MACHINES_MAX => self.balancer.add(start),
            None => {
                let idle = self
                    .seats
                    .iter()
                    .filter(|(_, place)| self.balancer.is_idle(place.seat));
                let (node, place) = idle.min_by_key(|(_, place)| place.given)?;
                let (node, seat) = (*node, place.seat);
                self.seats.remove(&node);
                self.balancer.renew(seat, start);
                seat
            }
        };
        self.seats.insert(profile.node, Place { seat, given });
        Some(seat)
    }
}

/// Whether a request that waited may go by `now` in place of `before`: to other machines, for no more credits, in the form in which it is asked, and
/// for bits that are worth what whoever asked was told.
pub fn takes_over(before: &Plan, now: &Plan) -> bool {
    let places = |plan: &Plan| -> Vec<NodeId> { plan.stages.iter().map(|stage| stage.node).collect() };
    // What rules let leave as excerpts they need not let leave whole.
    let shows_excerpts = |plan: &Plan| plan.mode == Mode::Preprocess;
    places(now) != places(before)
        && now.expected.credits <= before.expected.credits
        && shows_excerpts(now) == shows_excerpts(before)
        && now.exactness <= before.exactness
}

/// How fast a machine runs the whole model.
fn start(profile: &NodeProfile, model: &ModelProfile) -> SeatStart {
    let share = profile.caps.cpu.unwrap_or(1.0).max(1e-3);
    let pass = |rows: u32| -> f64 {
        let seconds = |layer| profile.speed.layer_seconds(layer, rows, 0.0, KvFormat::F16);
        model.layers.iter().map(seconds).sum::<f64>() / share
    };
    SeatStart {
        prefill: pass(CHUNK) / f64::from(CHUNK),
        decode: pass(1),
        queue_max: usize::MAX,
        blocks_max: 0,
    }
}

/// A request that machines were given. Whoever lets go of it before [`Given::done`] took it back.
#[derive(Debug)]
pub struct Given {
    placing: Arc<Placing>,
    places: Vec<(Seat, Ticket)>,
    is_whole: bool,
    waits_since: Instant,
    began: Option<Instant>,
}

impl Given {
    /// How long it has waited.
    pub fn waited(&self) -> Duration {
        self.waits_since.elapsed()
    }

    /// Its machines begin.
    pub fn begin(&mut self) {
        let now = self.placing.began.elapsed();
        let mut places = self.placing.lock();
        for (seat, ticket) in &self.places {
            places.balancer.start(*seat, *ticket, now);
        }
        self.began = Some(Instant::now());
    }

    /// It was answered, and ended so, after its line went so many times from one machine to another. Of a machine that did so alone from the
    /// first to the last token, and was not broken off, is learned how fast it is.
    pub fn done(mut self, ending: &Ending, moves: usize) {
        let teaches = self.is_whole && moves == 0 && *ending != Ending::Deadline;
        let Some(began) = self.began.filter(|_| teaches) else {
            return;
        };
        let mut places = self.placing.lock();
        for (seat, ticket) in self.places.drain(..) {
            places.balancer.finish(seat, ticket, began.elapsed());
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let mut places = self.placing.lock();
        for (seat, ticket) in &self.places {
            places.balancer.forget(*seat, *ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use heph_plan::Peer;
    use heph_types::{
        Exactness, Held, LayerProfile, LayerRange, Leaves, LinkProfile, ModelHash, Policy, Role,
    };

    use super::*;
    use crate::pool::testing::profile;
    use crate::route::Question;

    const MODEL: ModelHash = ModelHash([7; 32]);
    const LAYERS: usize = 4;

    /// Layers of 100 MB, and no head to speak of: 0.1 s a token for each of them.
    fn model() -> ModelProfile {
        let layer = |bytes: u64| LayerProfile {
            weight_bytes: bytes,
            weight_bytes_one_row: bytes,
            flops_per_token: 2.0 * bytes as f64,
            flops_per_position: 0.0,
            kv_bytes_f16: 1_000.0,
        };
        ModelProfile {
            model: MODEL,
            name: "a model".to_owned(),
            layers: vec![layer(100_000_000); LAYERS],
            unasked: None,
            width: 64,
            head: layer(1_000),
            embed_bytes: 0,
            context_max: 512,
        }
    }

    /// A slow desk, and two machines that hold the model and are alike.
    fn cluster() -> Cluster {
        let machine = |at: u8| {
            let mut machine = profile(NodeId([at; 32]), Role::Own);
            machine.memory = 1 << 40;
            machine.holds = vec![Held {
                model: MODEL,
                layers: LayerRange::new(0, LAYERS, LAYERS).unwrap(),
            }];
            machine
        };
        let mut desk = machine(0);
        desk.speed.bytes_per_second /= 20.0;
        desk.speed.flops_per_second /= 20.0;
        let link = LinkProfile {
            rtt: Duration::from_millis(1),
            up: 1e8,
            down: 1e8,
            loss: 0.0,
        };
        Cluster {
            desk,
            nodes: [1, 2]
                .map(|at| Peer {
                    profile: machine(at),
                    link,
                })
                .to_vec(),
            between: Vec::new(),
        }
    }

    const ASKED: Asked = Asked {
        asker: Asker(1),
        prompt_tokens: 32,
        answer_tokens: 50,
    };

    fn planned(cluster: Cluster, mode: Mode) -> Record {
        let question = Question {
            model: model(),
            prompt_tokens: ASKED.prompt_tokens as usize,
            answer_tokens: ASKED.answer_tokens as usize,
            context: 256,
            kv: KvFormat::F16,
            drafts: Vec::new(),
            document: None,
            policy: Policy::open(Leaves::Text, &[Role::Own]),
            mode: Some(mode),
        };
        Record::new(question.request(), cluster).expect("a plan")
    }

    /// Whom the next request is given to, beside all that was given so far.
    fn next(placing: &Arc<Placing>) -> (NodeId, Given) {
        let mut cluster = cluster();
        placing.tell(&mut cluster, &ASKED);
        let record = planned(cluster, Mode::Remote);
        let node = record.decision.plan.stages[0].node;
        (node, placing.give(&record, &ASKED))
    }

    fn waits(placing: &Placing) -> Vec<f64> {
        let mut cluster = cluster();
        placing.tell(&mut cluster, &ASKED);
        let peers = cluster.nodes.iter();
        peers.map(|peer| peer.profile.queue.as_secs_f64()).collect()
    }

    #[test]
    fn requests_that_come_at_once_go_to_different_machines_and_what_is_taken_back_is_forgotten() {
        let placing = Arc::new(Placing::default());
        let given: Vec<_> = (0..8).map(|_| next(&placing)).collect();
        let first = given.iter().filter(|(node, _)| *node == given[0].0).count();
        assert_eq!(first, 4, "half of them each");
        assert!(
            waits(&placing).iter().all(|wait| *wait > 10.0),
            "{:?}",
            waits(&placing)
        );
        drop(given);
        assert_eq!(waits(&placing), [0.0, 0.0]);
    }

    #[test]
    fn a_machine_that_says_that_it_is_busy_is_believed() {
        let placing = Arc::new(Placing::default());
        let (node, _given) = next(&placing);
        let mut cluster = cluster();
        let busy = Duration::from_secs(500);
        cluster
            .nodes
            .iter_mut()
            .for_each(|peer| peer.profile.queue = busy);
        placing.tell(&mut cluster, &ASKED);
        assert!(
            cluster.nodes.iter().all(|peer| peer.profile.queue == busy),
            "{node:?}"
        );
    }

    #[test]
    fn each_machine_of_a_line_is_given_its_share_of_the_layers() {
        let placing = Arc::new(Placing::default());
        let mut halves = cluster();
        for (at, peer) in halves.nodes.iter_mut().enumerate() {
            let layers = LayerRange::new(2 * at, 2 * at + 2, LAYERS).unwrap();
            peer.profile.holds = vec![Held { model: MODEL, layers }];
        }
        let record = planned(halves, Mode::Layered);
        assert!(record.decision.plan.stages.len() > 1);
        let _given = placing.give(&record, &ASKED);
        let whole = {
            let placing = Arc::new(Placing::default());
            let _given = next(&placing);
            waits(&placing).into_iter().fold(0.0, f64::max)
        };
        let parts = waits(&placing);
        let busiest = parts.iter().copied().fold(0.0, f64::max);
        assert!(busiest > 0.0 && busiest < 0.7 * whole, "{parts:?} of {whole}");
    }

    #[test]
    fn a_machine_that_is_faster_than_it_said_is_waited_for_less() {
        let placing = Arc::new(Placing::default());
        let before = {
            let (_, _given) = next(&placing);
            waits(&placing).into_iter().fold(0.0, f64::max)
        };
        for _ in 0..40 {
            let (_, mut given) = next(&placing);
            given.begin();
            given.done(&Ending::Length, 0);
        }
        let (_, _given) = next(&placing);
        let after = waits(&placing).into_iter().fold(0.0, f64::max);
        assert!(after < 0.5 * before, "{before} and {after}");
    }

    #[test]
    fn a_line_that_moved_teaches_nothing_of_whom_it_left() {
        let placing = Arc::new(Placing::default());
        let wait = || {
            let (_, _given) = next(&placing);
            waits(&placing).into_iter().fold(0.0, f64::max)
        };
        let before = wait();
        for _ in 0..40 {
            let (_, mut given) = next(&placing);
            given.begin();
            given.done(&Ending::Length, 1);
        }
        assert_eq!(wait(), before);
    }

    #[test]
    fn machines_that_were_given_nothing_for_long_make_room_for_others() {
        let placing = Arc::new(Placing::default());
        let (_, _given) = next(&placing);
        let busy = placing.lock().seats.clone();
        for at in 0..2 * MACHINES_MAX {
            let mut machine = cluster().desk;
            machine.node.0[1..9].copy_from_slice(&(1 + at as u64).to_le_bytes());
            assert!(placing.lock().seat(&machine, &model()).is_some());
        }
        let places = placing.lock();
        assert_eq!(places.seats.len(), MACHINES_MAX);
        assert!(
            busy.keys().all(|node| places.seats.contains_key(node)),
            "it is at work"
        );
        let mut seats: Vec<Seat> = places.seats.values().map(|place| place.seat).collect();
        seats.sort();
        seats.dedup();
        assert_eq!(seats.len(), MACHINES_MAX, "each has a place of its own");
    }

    #[test]
    fn who_breaks_answers_off_makes_no_machine_look_fast() {
        let placing = Arc::new(Placing::default());
        let wait = || {
            let (_, _given) = next(&placing);
            waits(&placing).into_iter().fold(0.0, f64::max)
        };
        let before = wait();
        for _ in 0..40 {
            let (_, mut given) = next(&placing);
            given.begin();
            given.done(&Ending::Deadline, 0);
        }
        assert_eq!(wait(), before);
    }

    #[test]
    fn who_waited_goes_elsewhere_in_the_same_form_for_no_more_and_with_bits_worth_no_less() {
        let before = planned(cluster(), Mode::Remote).decision.plan;
        let elsewhere = |change: fn(&mut Plan)| {
            let mut plan = before.clone();
            plan.stages[0].node = NodeId([9; 32]);
            change(&mut plan);
            plan
        };
        let now = elsewhere(|_| {});
        assert!(takes_over(&before, &now));
        assert!(!takes_over(&before, &before), "it is there already");
        assert!(takes_over(
            &before,
            &elsewhere(|plan| plan.mode = Mode::Speculative)
        ));
        for change in [
            (|plan| plan.mode = Mode::Preprocess) as fn(&mut Plan),
            |plan| plan.expected.credits += 1.0,
            |plan| plan.exactness = Exactness::Close,
        ] {
            assert!(!takes_over(&before, &elsewhere(change)));
        }
        let excerpts = elsewhere(|plan| plan.mode = Mode::Preprocess);
        assert!(!takes_over(&excerpts, &before), "all of it is another prompt");
    }
}
