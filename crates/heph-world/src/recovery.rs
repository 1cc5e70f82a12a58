//! How long it takes until an answer goes on as before: after one loss, and after a node became slow.

use std::sync::Arc;
use std::time::Duration;

use heph_plan::replan::{Event, after};
use heph_plan::{Cluster, Request, plan};
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Desk, Pace, Prompt};
use heph_runtime::line::{Layout, Line, LineLimits, Placement, Standing, Steering};
use heph_runtime::replan::Replanner;
use heph_types::{KvFormat, NodeId, SamplingOptions};

use crate::dice::Dice;
use crate::member::Fault;
use crate::scene::{self, Scene};
use crate::tiny::{self, LAYERS, TinyModel};

/// Machines besides the desk.
const NODES: usize = 5;

/// Tokens of an answer in which a node becomes slow.
const TOKENS: usize = 300;

/// The token at which it does.
const SLOW_AT: usize = 100;

/// Tokens over which a pace is taken.
const WINDOW: usize = 20;

/// How much slower it becomes.
const TIMES: f64 = 5.0;

/// What came of a node that became slow.
#[derive(Debug, Clone)]
pub struct Slowed {
    /// From then until the pace was nine tenths of the best that can be had now; `None` where it never was.
    pub back: Option<Duration>,
    /// The best pace afterwards, as a share of that.
    pub reached: f64,
    /// Layouts that changed.
    pub moves: usize,
    /// Whether the answer is the calm one.
    pub same: bool,
    /// What happened.
    pub story: String,
}

/// Makes the node with most layers of a planned line slow in mid-answer; `None` where the plan of this seed needs no node.
pub fn slowed(seed: u64) -> Option<Slowed> {
    let model = tiny::story();
    let mut scene = Scene::drawn(model, NODES, &mut Dice::new(seed).fork(7));
    scene.request.answer_tokens = TOKENS as u32;
    let planned = plan(&scene.request, &scene.cluster).ok()?.plan;
    let node = planned
        .remote_stages()
        .max_by_key(|stage| stage.layers.len())?
        .node;
    let calm = run(model, &scene, seed, None)?;
    let at = *calm.times.get(SLOW_AT)?;
    let told = run(model, &scene, seed, Some((at, node)))?;
    // The best that can be had now: an answer planned afresh, knowing.
    let event = Event::Slowed { node, times: TIMES };
    let known = Scene {
        cluster: after(&scene.cluster, &event),
        request: scene.request.clone(),
    };
    let best = run(model, &known, seed, None)?;
    let best = pace(&best.times, best.times.len() - 1);
    let first = told.times.partition_point(|time| *time <= at);
    let mut later = first + WINDOW..told.times.len();
    let reached = later.clone().map(|at| pace(&told.times, at) / best);
    let reached = reached.fold(0.0, f64::max);
    let back = later.find(|at| pace(&told.times, *at) >= 0.9 * best);
    Some(Slowed {
        reached,
        back: back.map(|index| told.times[index].saturating_sub(at)),
        moves: told.answer.moves.len(),
        same: told.answer.tokens == calm.answer.tokens && told.answer.text == calm.answer.text,
        story: told.story,
    })
}

/// Pieces of text a second up to one of them.
fn pace(times: &[Duration], at: usize) -> f64 {
    let from = at.saturating_sub(WINDOW);
    (at - from) as f64 / (times[at] - times[from]).as_secs_f64().max(1e-9)
}

struct Told {
    answer: Answer,
    /// When each piece of text came.
    times: Vec<Duration>,
    story: String,
}

/// An answer over the planner's layout, followed by its replanning.
fn run(model: &TinyModel, scene: &Scene, seed: u64, slow: Option<(Duration, NodeId)>) -> Option<Told> {
    let (world, hosts) = scene.world(model, seed);
    if let Some((at, node)) = slow {
        world.strike(at, node, Fault::Slowed(TIMES));
    }
    let planned = plan(&scene.request, &scene.cluster).ok()?.plan;
    let stages = Replanner::placements(&planned);
    // As the program does: a node with the whole model goes on alone, which is what its plan counts on.
    let alone = planned.stages.len() == 1 && planned.remote_stages().next().is_some();
    let pace = if alone { Pace::Stream } else { Pace::Steps };
    let replanner = Replanner::new(scene.request.clone(), scene.cluster.clone(), planned);
    let line = Line::new(model.line_model(), hosts, &stages, LineLimits::default()).ok()?;
    let line = line.with_clock(world.clock()).with_steering(Box::new(replanner));
    let mut desk = Desk::over(line, pace, Arc::clone(&model.words), Cancel::new());
    let mut times = Vec::new();
    let answer = desk.answer(Prompt::Text(PROMPT), &options(TOKENS), &mut |_| {
        times.push(world.elapsed())
    });
    Some(Told {
        answer: answer.ok()?,
        times,
        story: world.story(),
    })
}

/// What came of an answer that moved from a line of two nodes to one that holds the whole model.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// Whether the answer is the one of a single machine.
    pub same: bool,
    /// Mean time between its last pieces of text.
    pub each: Duration,
    /// What happened.
    pub story: String,
}

/// The way there and back to every node of [`gathered`].
pub const GATHERED_RTT: Duration = Duration::from_millis(200);

/// The token at which all layers go to one node.
const GATHERED_AT: usize = 20;

/// Moves an answer that goes step by step through two nodes to the second of them, which is struck before its reply of some
/// number if a fault is given.
pub fn gathered(seed: u64, struck: Option<(Fault, u64)>) -> Option<Gathered> {
    let model = tiny::story();
    let mut scene = Scene::drawn(model, NODES, &mut Dice::new(seed).fork(9));
    for peer in &mut scene.cluster.nodes {
        (peer.link.rtt, peer.link.loss) = (GATHERED_RTT, 0.0);
        peer.profile.speed = scene::speed(100e9);
    }
    let placed = |node, start, end| Placement {
        node: scene::id(node),
        layers: model.line_model().range(start, end),
    };
    let layers = model.line_model().layers;
    let half = layers / 2;
    let gather = Gather {
        layout: Some(Layout {
            stages: vec![placed(2, 0, layers)],
            why: "one node is to hold everything".to_owned(),
            transfers: Vec::new(),
            hosts: Vec::new(),
        }),
    };
    let answer = |stages: &[Placement], gather: Option<Gather>| {
        let (world, hosts) = scene.world(model, seed);
        if let Some((fault, reply)) = struck.filter(|_| gather.is_some()) {
            world.strike_before(reply, scene::id(2), fault);
        }
        let line = Line::new(model.line_model(), hosts, stages, LineLimits::default()).ok()?;
        let mut line = line.with_clock(world.clock());
        if let Some(gather) = gather {
            line = line.with_steering(Box::new(gather));
        }
        let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&model.words), Cancel::new());
        let mut times = Vec::new();
        let answer = desk.answer(Prompt::Text(PROMPT), &options(80), &mut |_| {
            times.push(world.elapsed())
        });
        Some(Told {
            answer: answer.ok()?,
            times,
            story: world.story(),
        })
    };
    let calm = answer(&[placed(0, 0, layers)], None)?;
    let told = answer(&[placed(1, 0, half), placed(2, half, layers)], Some(gather))?;
    let last = told.times.len().checked_sub(1)?;
    Some(Gathered {
        same: told.answer.tokens == calm.answer.tokens && told.answer.text == calm.answer.text,
        each: Duration::from_secs_f64(1.0 / pace(&told.times, last)),
        story: told.story,
    })
}

/// Lays a line out anew, once.
struct Gather {
    layout: Option<Layout>,
}

impl Steering for Gather {
    fn lost(&mut self, _node: NodeId, _now: &Standing) -> Option<Layout> {
        None
    }

    fn look(&mut self, now: &Standing) -> Option<Layout> {
        self.layout.take_if(|_| now.positions >= GATHERED_AT)
    }
}

const PROMPT: &str = "Once upon a time there was a little fox who lived in the wood. One day";

fn options(tokens: usize) -> AnswerOptions {
    AnswerOptions {
        sampling: SamplingOptions {
            temperature: 0.8,
            seed: 3,
            ..SamplingOptions::default()
        },
        max_tokens: Some(tokens),
        stops: Vec::new(),
    }
}

/// What came of one loss.
#[derive(Debug, Clone)]
pub struct Lost {
    /// From the fault until somebody else was asked for the stage.
    pub noticed: Duration,
    /// From there to the next token.
    pub gap: Duration,
    /// What is told of it: from the last token before to the next.
    pub silence: Duration,
    /// What that takes by the costs of the new node and its way.
    pub replay: Duration,
    /// What happened.
    pub story: String,
}

/// Strikes the second of two nodes before its reply of this number; `None` where the answer did not need it any more.
pub fn lost(seed: u64, fault: Fault, reply: u64) -> Option<Lost> {
    let model = tiny::drawn();
    let scene = Scene::drawn(model, NODES, &mut Dice::new(seed).fork(8));
    let (world, hosts) = scene.world(model, seed);
    let half = LAYERS / 2;
    let placed = |node, start, end| Placement {
        node: scene::id(node),
        layers: model.line_model().range(start, end),
    };
    let stages = [placed(1, 0, half), placed(2, half, LAYERS)];
    world.strike_before(reply, scene::id(2), fault);
    let line = Line::new(model.line_model(), hosts, &stages, LineLimits::default()).ok()?;
    let line = line.with_clock(world.clock());
    let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&model.words), Cancel::new());
    let answer = desk
        .answer(Prompt::Text(PROMPT), &options(64), &mut |_| {})
        .ok()?;
    let moved = answer.moves.first()?;
    let (struck, asked) = (world.struck().first()?.at, world.opened());
    let (noticed, _) = asked
        .iter()
        .find(|(at, node)| *at >= struck && *node == moved.to)?;
    Some(Lost {
        noticed: *noticed - struck,
        gap: moved.gap?,
        silence: moved.silence?,
        replay: replay(&scene, model, moved.to, moved.at.index()),
        story: world.story(),
    })
}

/// Connecting, opening, sending and computing the history, and one token through both stages.
fn replay(scene: &Scene, model: &TinyModel, to: NodeId, tokens: usize) -> Duration {
    let Cluster { desk, nodes, .. } = &scene.cluster;
    let Request { models, .. } = &scene.request;
    let (profile, half) = (&models[0].profile, LAYERS / 2);
    let first = &nodes[0];
    let new = nodes.iter().find(|peer| peer.profile.node == to);
    let (speed, rtt, up) = new.map_or((&desk.speed, 0.0, f64::INFINITY), |peer| {
        (&peer.profile.speed, peer.link.rtt.as_secs_f64(), peer.link.up)
    });
    let of = |speed: &heph_types::Speed, rows: usize, seen: usize| {
        let layer = speed.layer_seconds(&profile.layers[0], rows as u32, seen as f64, KvFormat::F16);
        speed.overhead.as_secs_f64() + layer * half as f64
    };
    let head = speed.layer_seconds(&profile.head, 1, 0.0, KvFormat::F16);
    let bytes = (tokens * model.line_model().width * 4) as f64;
    let sent = 3.0 * rtt + bytes / up;
    let computed = of(speed, tokens, tokens / 2) + of(speed, 1, tokens) + head;
    let token = first.link.rtt.as_secs_f64() + of(&first.profile.speed, 1, tokens);
    Duration::from_secs_f64(sent + computed + token)
}
