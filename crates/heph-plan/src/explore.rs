//! Runs the search over every choice of model, cache format and spans, and writes shapes out as plans.

use crate::permit::Permitted;
use crate::plan::{DraftPlan, Expected, Forwarding, Mode, Place, Plan, Stage};
use crate::search::{Effort, Search, mode};
use crate::space::{DESK, Score, Segment, Shape, Space};
use core::time::Duration;
use heph_types::{LayerRange, Leaves};

/// Choices of model and cache format that are searched with full effort.
const FULL_MAX: usize = 2;

/// The best plan of each mode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Explored {
    pub(crate) best: [Option<Plan>; Mode::ALL.len()],
}

impl Explored {
    /// The plan to take: of the mode that was asked for, else the cheapest.
    pub(crate) fn chosen(&self, only: Option<Mode>) -> Option<&Plan> {
        let plans = self.best.iter().flatten();
        let allowed = plans.filter(|p| only.is_none_or(|m| m == p.mode));
        allowed.min_by(|a, b| a.expected.objective.total_cmp(&b.expected.objective))
    }

    fn take(&mut self, plan: Plan) {
        let best = &mut self.best[plan.mode.index()];
        if best
            .as_ref()
            .is_none_or(|b| plan.expected.objective < b.expected.objective)
        {
            *best = Some(plan);
        }
    }
}

/// Searches everything that is permitted. `seed` is a plan from another time to begin from as well.
pub(crate) fn explore(permitted: &Permitted, effort: Effort, seed: Option<&Plan>) -> Explored {
    let spaces = spaces(permitted);
    let mut explored = Explored::default();
    let mut promising: Vec<(f64, usize)> = Vec::new();
    for (at, space) in spaces.iter().enumerate() {
        let glance = match spaces.len() > FULL_MAX || effort == Effort::Glance {
            true => best_of(space, Effort::Glance, seed, &mut explored),
            false => f64::NEG_INFINITY,
        };
        promising.push((glance, at));
    }
    if effort == Effort::Full {
        promising.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, at) in promising.iter().take(FULL_MAX) {
            best_of(&spaces[*at], Effort::Full, seed, &mut explored);
        }
    }
    explored
}

/// Searches one space; gives the cheapest objective in it.
fn best_of(space: &Space, effort: Effort, seed: Option<&Plan>, explored: &mut Explored) -> f64 {
    let seed = seed.and_then(|plan| shape_of(space, plan));
    let search = Search::run(space, effort, space.permitted.request.mode, seed.as_ref());
    let mut cheapest = f64::INFINITY;
    for (shape, score) in search.best.iter().flatten() {
        cheapest = cheapest.min(score.objective);
        explored.take(written(space, shape, score));
    }
    cheapest
}

/// What a plan costs on another cluster than it was made for, or `None` where it cannot run there.
pub(crate) fn repriced(permitted: &Permitted, plan: &Plan) -> Option<Plan> {
    spaces(permitted).iter().find_map(|space| {
        let shape = shape_of(space, plan)?;
        let score = space.score(&shape)?;
        Some(written(space, &shape, &score))
    })
}

fn spaces<'a>(permitted: &'a Permitted<'a>) -> Vec<Space<'a>> {
    let request = permitted.request;
    let mut spaces = Vec::new();
    for model in 0..request.models.len() {
        for kv in 0..request.kv.len() {
            spaces.push(Space::new(permitted, (model, kv), false));
            if request.document.is_some() {
                spaces.push(Space::new(permitted, (model, kv), true));
            }
        }
    }
    spaces
}

/// A plan's stages as a shape of this space, where model, format and nodes are all there.
fn shape_of(space: &Space, plan: &Plan) -> Option<Shape> {
    let request = space.permitted.request;
    let same = space.model.model == plan.model
        && request.kv[space.choice.1].format == plan.kv
        && space.preprocess == (plan.mode == Mode::Preprocess);
    same.then_some(())?;
    let segments = plan.stages.iter().map(|stage| {
        let site = match stage.place {
            Place::Desk => DESK,
            Place::Peer => space.sites.iter().position(|s| s.profile.node == stage.node)?,
        };
        let (start, end) = (stage.layers.start(), stage.layers.end());
        (end <= space.layers()).then_some(Segment { site, start, end })
    });
    let draft = plan.draft.map(|d| (d.choice, d.length));
    let valid =
        draft.is_none_or(|(at, length)| request.drafts.get(at).is_some_and(|d| length <= d.length_max));
    valid.then_some(())?;
    let chunk = space.chunks.iter().position(|c| c.0 == plan.chunk_rows);
    let lossy = |s: &Stage| {
        [s.wire_in, s.wire_out]
            .into_iter()
            .flatten()
            .any(|c| !c.is_exact())
    };
    Some(Shape {
        segments: segments.collect::<Option<Vec<_>>>()?,
        direct: plan.forwarding == Forwarding::Direct,
        lossy: plan.stages.iter().any(lossy),
        chunk: chunk.unwrap_or(space.chunks.len() - 1),
        draft,
    })
}

fn written(space: &Space, shape: &Shape, score: &Score) -> Plan {
    let request = space.permitted.request;
    let stages = (0..shape.segments.len())
        .map(|at| stage(space, shape, at))
        .collect();
    let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX);
    Plan {
        mode: mode(space, shape).expect("only shapes that have a mode are kept"),
        model: space.model.model,
        model_name: space.model.name.clone(),
        kv: request.kv[space.choice.1].format,
        context: request.context,
        stages,
        forwarding: match shape.direct {
            true => Forwarding::Direct,
            false => Forwarding::ThroughDesk,
        },
        chunk_rows: space.chunks[shape.chunk].0,
        prompt_tokens: space.prompt,
        draft: shape.draft.map(|(choice, length)| DraftPlan {
            source: request.drafts[choice].source,
            choice,
            length,
        }),
        exactness: score.exactness,
        expected: Expected {
            first_token: seconds(score.first_token),
            per_token: seconds(score.per_token),
            total: seconds(score.first_token + space.answer * score.per_token),
            bytes_up: score.bytes_up as u64,
            bytes_down: score.bytes_down as u64,
            credits: score.credits,
            objective: score.objective,
        },
    }
}

fn stage(space: &Space, shape: &Shape, at: usize) -> Stage {
    let segment = shape.segments[at];
    let site = &space.sites[segment.site];
    let (wire_in, wire_out) = space.wires(shape, at);
    let tokens = at == 0 || at + 1 == shape.segments.len();
    Stage {
        node: site.profile.node,
        name: site.profile.name.clone(),
        role: site.profile.role,
        place: match segment.site {
            DESK => Place::Desk,
            _ => Place::Peer,
        },
        layers: LayerRange::new(segment.start, segment.end, space.layers())
            .expect("a shape stays inside its model"),
        sees: match (segment.site, tokens) {
            (DESK, _) => Leaves::Nothing,
            (_, true) => Leaves::Text,
            (_, false) => Leaves::Activations,
        },
        wire_in: wire_in.map(|c| c.codec),
        wire_out: wire_out.map(|c| c.codec),
        memory: space.bytes_at(shape, segment.site) as u64,
    }
}
