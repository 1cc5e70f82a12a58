//! This machine and its models in the planner's numbers: what a model costs, counted from its graph, and how fast this
//! machine runs it, timed once and kept.

use std::time::{Duration, Instant};

use heph_engine::graph::{Block, Graph, Op, Work};
use heph_engine::worker::{ForwardError, Keep, Part, Worker};
use heph_kernels::pool::Pool;
use heph_plan::Readying;
use heph_types::{
    Hidden, KvFormat, LayerProfile, ModelHash, ModelProfile, Position, Speed, TimedPass, TokenId,
};

mod kept;

pub use kept::{KeptGuessing, KeptReadying, KeptSpeeds, SpeedKey, kept_guessing, kept_readying, kept_speeds};

/// A model's layers, head and table as the planner counts them.
pub fn of_model(model: ModelHash, name: &str, graph: &Graph, context_max: usize) -> ModelProfile {
    let head = of_block(graph, &graph.head);
    ModelProfile {
        model,
        name: name.to_owned(),
        layers: graph.layers.iter().map(|block| of_block(graph, block)).collect(),
        unasked: graph.layers.last().map(|block| of_block(graph, &block.unasked())),
        width: graph.hidden as u32,
        head: LayerProfile {
            flops_per_position: 0.0,
            kv_bytes_f16: 0.0,
            ..head
        },
        embed_bytes: table_bytes(graph),
        context_max: u32::try_from(context_max).unwrap_or(u32::MAX),
    }
}

fn of_block(graph: &Graph, block: &Block) -> LayerProfile {
    let cost = |context| graph.cost(block, Work { tokens: 1, context }, KvFormat::F16);
    let (one, two) = (cost(1), cost(2));
    let flops_per_position = two.flops.saturating_sub(one.flops) as f64;
    LayerProfile {
        weight_bytes: one.weight_bytes,
        weight_bytes_one_row: one.weight_bytes_read,
        flops_per_token: one.flops as f64 - flops_per_position,
        flops_per_position,
        kv_bytes_f16: one.kv_bytes_per_position as f64,
    }
}

/// Bytes of the token table, unless the head's matrix is the same tensor.
fn table_bytes(graph: &Graph) -> u64 {
    let table = graph.embed.nodes.iter().find_map(|node| match node.op {
        Op::Embed { table } => Some(table),
        _ => None,
    });
    let in_head = |id| {
        let same = |op: &Op| matches!(op, Op::Linear { weight, .. } if *weight == id);
        graph.head.nodes.iter().any(|node| same(&node.op))
    };
    table
        .filter(|id| !in_head(*id))
        .map_or(0, |id| graph.tensor(id).bytes())
}

/// Rows of the passes that are timed: one token, drafts to be verified, chunks of a prompt.
const ROWS: [usize; 7] = [1, 2, 4, 8, 16, 64, 256];

/// Passes of each row count; the fastest counts, since a disturbance can only slow one down.
const PASSES: usize = 3;

/// Once timing has taken this long, wider passes are left out: what is known is enough for a first plan.
const BUDGET: Duration = Duration::from_secs(2);

/// Times short passes through all layers of `worker`'s model. Takes about two seconds on a large model, and much less
/// on a small one. `None` where the clock saw nothing.
///
/// # Errors
/// When a pass fails.
pub fn of_speed(worker: &mut Worker) -> Result<Option<Speed>, ForwardError> {
    let graph = worker.model().graph();
    let held = worker.model().held();
    let (count, vocab) = (held.len(), graph.vocab);
    let blocks = graph.layers[held.start()..held.end()].iter();
    let layers: Vec<LayerProfile> = blocks.map(|block| of_block(graph, block)).collect();
    let context = worker.model().context();
    let began = Instant::now();
    let mut passes = Vec::new();
    for rows in ROWS.into_iter().filter(|rows| *rows <= context) {
        // The first pass warms up and counts only if it is the fastest after all.
        let seconds = fastest(worker, rows, vocab, 1 + PASSES)? / count.max(1) as f64;
        let rows = rows as u32;
        passes.push(TimedPass { rows, seconds });
        if began.elapsed() > BUDGET {
            break;
        }
    }
    Ok(Speed::from_passes(&mean(&layers), &passes))
}

/// Rows of the pass that is timed before and after the weights are packed.
const FIRST_ROWS: usize = 16;

/// Times this machine on a model that was just loaded: how fast it is in the end, and what it takes until then. `None` where
/// the clock saw nothing.
///
/// # Errors
/// When a pass fails.
pub fn of_machine(worker: &mut Worker, pool: &Pool) -> Result<Option<(Speed, Readying)>, ForwardError> {
    let rows = FIRST_ROWS.min(worker.model().context());
    let first = timed(worker, rows)?;
    let began = Instant::now();
    worker.model().settle(pool);
    let rest = began.elapsed();
    let speed = of_speed(worker)?;
    let first = first.saturating_sub(timed(worker, rows)?);
    Ok(speed.map(|speed| (speed, Readying { first, rest })))
}

/// One pass of `rows` tokens.
fn timed(worker: &mut Worker, rows: usize) -> Result<Duration, ForwardError> {
    let vocab = worker.model().graph().vocab;
    Ok(Duration::from_secs_f64(fastest(worker, rows, vocab, 1)?))
}

/// Seconds of the fastest of so many passes of `rows` tokens through all layers that are held.
fn fastest(worker: &mut Worker, rows: usize, vocab: usize, passes: usize) -> Result<f64, ForwardError> {
    let (layers, width) = (worker.model().held(), worker.model().graph().hidden);
    let mut cache = worker.model().new_cache(layers);
    let token = |at: u32| TokenId(at.wrapping_mul(2_654_435_761) % vocab.max(1) as u32);
    let tokens: Vec<TokenId> = (0..rows as u32).map(token).collect();
    let mut fastest = f64::INFINITY;
    for _ in 0..passes {
        let mut hidden = match layers.start() {
            0 => worker.embed(&tokens)?,
            // A part has no table. How long a row takes does not hang on its numbers.
            _ => Hidden {
                width,
                rows: (0..rows * width).map(|at| (at % 7) as f32 - 3.0).collect(),
            },
        };
        let began = Instant::now();
        let part = Part {
            cache: &mut cache,
            tokens: rows,
            first: Position(0),
        };
        worker.forward(layers, &mut [part], &mut hidden, Keep::All)?;
        fastest = fastest.min(began.elapsed().as_secs_f64());
        cache.rollback(Position(0));
    }
    Ok(fastest)
}

/// The layer that all of these together are so many times.
fn mean(layers: &[LayerProfile]) -> LayerProfile {
    let count = layers.len().max(1);
    let bytes = |of: fn(&LayerProfile) -> u64| layers.iter().map(of).sum::<u64>() / count as u64;
    let number = |of: fn(&LayerProfile) -> f64| layers.iter().map(of).sum::<f64>() / count as f64;
    LayerProfile {
        weight_bytes: bytes(|layer| layer.weight_bytes),
        weight_bytes_one_row: bytes(|layer| layer.weight_bytes_one_row),
        flops_per_token: number(|layer| layer.flops_per_token),
        flops_per_position: number(|layer| layer.flops_per_position),
        kv_bytes_f16: number(|layer| layer.kv_bytes_f16),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heph_engine::model::{LoadOptions, Model, Packing};
    use heph_kernels::isa::Isa;

    use super::*;
    use crate::bundled::STORY;
    use crate::open;
    use crate::store::Found;

    fn loaded() -> Arc<Model> {
        let source = Arc::new(open::open(&Found::Bundled(STORY)).unwrap());
        let options = LoadOptions::default();
        Arc::new(Model::load(source, &options, &Pool::serial(), &mut |_| {}).unwrap())
    }

    #[test]
    fn a_profile_counts_what_the_graph_counts() {
        let model = loaded();
        let graph = model.graph();
        let profile = of_model(ModelHash([1; 32]), "story", graph, model.context());
        let work = |context| Work { tokens: 1, context };
        let total = graph.total_cost(work(100), KvFormat::F16);
        let layers: u64 = profile.layers.iter().map(|layer| layer.weight_bytes).sum();
        assert_eq!(
            layers + profile.head.weight_bytes + profile.embed_bytes,
            total.weight_bytes
        );
        let flops = |layer: &LayerProfile| layer.flops_per_token + 100.0 * layer.flops_per_position;
        let flops: f64 = profile.layers.iter().map(flops).sum::<f64>() + profile.head.flops_per_token;
        assert_eq!(flops, total.flops as f64);
    }

    #[test]
    fn of_the_last_layer_a_row_that_nobody_asks_about_costs_its_attention_and_what_comes_before() {
        let model = loaded();
        let profile = of_model(ModelHash([1; 32]), "story", model.graph(), model.context());
        let (whole, unasked) = (profile.layers.last().unwrap(), profile.unasked.unwrap());
        assert_eq!(unasked.flops_per_position, whole.flops_per_position);
        assert_eq!(unasked.kv_bytes_f16, whole.kv_bytes_f16);
        let share = unasked.flops_per_token / whole.flops_per_token;
        assert!((0.05..0.5).contains(&share), "{share}");
    }

    #[test]
    fn a_model_whose_weights_are_still_in_the_file_takes_time_to_get_ready() {
        let source = Arc::new(open::open(&Found::Bundled(STORY)).unwrap());
        let options = LoadOptions {
            packing: Packing::AsUsed,
            ..LoadOptions::default()
        };
        let model = Arc::new(Model::load(source, &options, &Pool::serial(), &mut |_| {}).unwrap());
        let mut worker = Worker::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::best());
        assert!(model.in_file() > 0);
        let (_, readying) = of_machine(&mut worker, &Pool::serial())
            .unwrap()
            .expect("the clock goes on");
        assert_eq!(model.in_file(), 0, "speeds are those of packed weights");
        assert!(readying.rest > Duration::ZERO);
        // Nothing is left to do the second time.
        let (_, again) = of_machine(&mut worker, &Pool::serial())
            .unwrap()
            .expect("the clock goes on");
        assert!(again.rest < readying.rest, "{again:?} and {readying:?}");
    }

    #[test]
    fn a_speed_gives_back_about_the_time_of_a_pass() {
        let model = loaded();
        let mut worker = Worker::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::best());
        let speed = of_speed(&mut worker).unwrap().expect("the clock goes on");
        assert!(speed.measured.len() >= 3, "{speed:?}");
        let profile = of_model(ModelHash([1; 32]), "story", model.graph(), model.context());
        let seconds = |rows| speed.layer_seconds(&mean(&profile.layers), rows, 0.0, KvFormat::F16);
        assert!(
            seconds(1) > 0.0 && seconds(16) < 16.0 * seconds(1),
            "rows together are cheaper"
        );
    }
}
