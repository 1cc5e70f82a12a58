//! Runs the search over every choice of model, cache format and spans, and writes shapes out as plans.

use crate::cover::join;
use crate::field;
use crate::ground::{DESK, Ground};
use crate::moves::{FAMILIES, From, is_line, well_formed};
use crate::permit::Permitted;
use crate::plan::{DraftPlan, Expected, Forwarding, Mode, Place, Plan, Stage};
use crate::score::{Rounds, Score};
use crate::search::{Effort, SMALL, Search, mode};
use crate::space::{DRAFT_MAX, Segment, Shape, Space};
use core::time::Duration;
use heph_types::{LayerRange, Leaves};

/// Choices of model, cache format and spans that are searched with full effort in a large cluster: those that at a glance
/// cost little more than the cheapest.
const FULL_MAX: usize = 2;
/// How many times as much is little more.
const CLOSE: f64 = 1.1;
/// As [`FULL_MAX`] and [`CLOSE`], in a small cluster.
const SPACES_SMALL: usize = 16;
const CLOSE_SMALL: f64 = 2.5;
/// So many of a small cluster are searched whatever they cost at a glance.
const SURE_SMALL: usize = 4;

/// The best plan of each mode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Explored {
    pub(crate) best: [Option<Plan>; Mode::ALL.len()],
    /// The plan that the search began from as well, as it would be here; `None` where it cannot be, or there was none.
    pub(crate) seed: Option<Plan>,
}

impl Explored {
    /// The plan to take: of the mode that was asked for, else the cheapest.
    pub(crate) fn chosen(&self, only: Option<Mode>) -> Option<&Plan> {
        let plans = self.best.iter().flatten();
        let allowed = plans.filter(|p| only.is_none_or(|m| m == p.mode));
        allowed.min_by(|a, b| a.expected.objective.total_cmp(&b.expected.objective))
    }

    /// Keeps what a search found that is better than what was known.
    fn take(&mut self, search: &Search) {
        for (mode, found) in Mode::ALL.into_iter().zip(&search.best) {
            let Some((shape, score)) = found else {
                continue;
            };
            let best = &mut self.best[mode.index()];
            let known = best.as_ref().map_or(f64::INFINITY, |b| b.expected.objective);
            if score.objective < known {
                *best = Some(written(search.space, shape, score));
            }
        }
    }
}

/// Searches everything that is permitted. `seed` is a plan from another time to begin from as well.
pub(crate) fn explore(permitted: &Permitted, effort: Effort, seed: Option<&Plan>) -> Explored {
    let ground = Ground::new(permitted);
    let (mut spaces, only) = (spaces(&ground), permitted.request.mode);
    let several = spaces.len() > 1;
    spaces.retain(Space::may_save_bytes);
    let mut explored = Explored {
        seed: seed.and_then(|plan| spaces.iter().find_map(|space| repriced(space, plan))),
        ..Explored::default()
    };
    let seeds = |space, effort| {
        let seed = seed.and_then(|plan| shape_of(space, plan));
        Search::seeds(space, effort, seed.as_ref())
    };
    let small = ground.sites.len() <= SMALL;
    let (close_to, full_max) = match small {
        true => (CLOSE_SMALL, SPACES_SMALL),
        false => (CLOSE, FULL_MAX),
    };
    let mut close: Vec<&Space> = spaces.iter().collect();
    if effort == Effort::Glance || several {
        let mut glances: Vec<Search> = spaces.iter().map(|space| seeds(space, Effort::Glance)).collect();
        glances.sort_by(|a, b| a.cheapest(only).total_cmp(&b.cheapest(only)));
        if let (Effort::Glance, Some(best)) = (effort, glances.first_mut()) {
            best.improve(only);
        }
        glances.iter().for_each(|glance| explored.take(glance));
        let least = glances.first().map_or(0.0, |g| g.cheapest(only));
        let near = |(at, glance): &(usize, &Search)| {
            small && *at < SURE_SMALL || glance.cheapest(only) <= close_to * least
        };
        let near = glances.iter().enumerate().take_while(near);
        close = near.map(|(_, glance)| glance.space).collect();
    }
    if effort == Effort::Full {
        for space in close.into_iter().take(full_max) {
            let mut search = seeds(space, Effort::Full);
            search.improve(only);
            explored.take(&search);
        }
    }
    explored
}

/// What a plan costs in a space of another cluster than it was made for, or `None` where it cannot run there.
fn repriced(space: &Space, plan: &Plan) -> Option<Plan> {
    let shape = shape_of(space, plan)?;
    let score = space.score(&shape).filter(|score| space.affordable(score))?;
    Some(written(space, &shape, &score))
}

/// Plans that one small change of places makes of this one, the cheapest first.
pub(crate) fn beside(permitted: &Permitted, plan: &Plan, count: usize) -> Vec<Plan> {
    let ground = Ground::new(permitted);
    let spaces = spaces(&ground);
    let own = spaces
        .iter()
        .find_map(|space| Some((space, shape_of(space, plan)?)));
    let Some((space, shape)) = own else {
        return Vec::new();
    };
    let used = |site: &usize| shape.segments.iter().any(|g| g.site == *site);
    let nodes = field::nodes(space, Effort::Glance);
    let unused: Vec<usize> = nodes.into_iter().filter(|site| !used(site)).collect();
    let from = From {
        segments: &shape.segments,
        unused: &unused,
    };
    let mut found: Vec<(Score, Shape)> = Vec::new();
    for family in FAMILIES {
        family(&from, &mut |segments| {
            join(segments);
            if well_formed(segments, space.layers()) {
                let trial = Shape {
                    segments: segments.clone(),
                    ..shape.clone()
                };
                let score = space.score(&trial).filter(|score| space.affordable(score));
                found.extend(
                    score
                        .filter(|_| mode(space, &trial).is_some())
                        .map(|score| (score, trial)),
                );
            }
            false
        });
    }
    found.sort_by(|a, b| a.0.objective.total_cmp(&b.0.objective));
    let best = found.iter().take(count);
    best.map(|(score, shape)| written(space, shape, score)).collect()
}

/// The plan as it would be among what is permitted here, or `None` where it cannot be.
pub(crate) fn as_it_would_be(permitted: &Permitted, plan: &Plan) -> Option<Plan> {
    let ground = Ground::new(permitted);
    spaces(&ground).iter().find_map(|space| repriced(space, plan))
}

/// What rounds of a plan that guesses cost, or `None` where it does not guess or cannot run there.
pub(crate) fn rounds(permitted: &Permitted, plan: &Plan) -> Option<Rounds> {
    let ground = Ground::new(permitted);
    spaces(&ground)
        .iter()
        .find_map(|space| space.rounds(&shape_of(space, plan)?))
}

fn spaces<'a>(ground: &'a Ground<'a>) -> Vec<Space<'a>> {
    let request = ground.permitted.request;
    let mut spaces = Vec::new();
    for model in 0..request.models.len() {
        for kv in 0..request.kv.len() {
            spaces.push(Space::new(ground, (model, kv), false));
            if request.document.is_some() {
                spaces.push(Space::new(ground, (model, kv), true));
            }
        }
    }
    spaces
}

/// A plan's stages as a shape of this space, where model, format and nodes are all there.
fn shape_of(space: &Space, plan: &Plan) -> Option<Shape> {
    let request = space.ground.permitted.request;
    let same = space.model.model == plan.model
        && request.kv[space.choice.1].format == plan.kv
        && space.preprocess == (plan.mode == Mode::Preprocess);
    same.then_some(())?;
    let segments = plan.stages.iter().map(|stage| {
        let site = match stage.place {
            Place::Desk => DESK,
            Place::Peer => space
                .ground
                .sites
                .iter()
                .position(|s| s.profile.node == stage.node)?,
        };
        Some(Segment::new(site, stage.layers.start(), stage.layers.end()))
    });
    let draft = plan.draft.map(|d| (d.choice, d.length));
    let valid = draft.is_none_or(|(at, length)| {
        request
            .drafts
            .get(at)
            .is_some_and(|d| length <= d.length_max.min(DRAFT_MAX))
    });
    valid.then_some(())?;
    let segments = segments.collect::<Option<Vec<Segment>>>()?;
    is_line(&segments, space.layers()).then_some(())?;
    let chunk = space.chunks.iter().position(|c| c.0 == plan.chunk_rows);
    Some(Shape {
        segments,
        direct: plan.forwarding == Forwarding::Direct,
        lossy: plan.rounds(),
        chunk: chunk.unwrap_or(space.chunks.len() - 1),
        draft,
    })
}

fn written(space: &Space, shape: &Shape, score: &Score) -> Plan {
    let request = space.ground.permitted.request;
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
    let site = &space.ground.sites[segment.site];
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
        send_bytes: match segment.site {
            DESK => 0,
            site => space.lacking_bytes(site, segment.start, segment.end) as u64,
        },
    }
}
