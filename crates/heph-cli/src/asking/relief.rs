//! The arguments that say what may be given up where memory becomes short, and the model in fewer bits.

use std::sync::Arc;

use heph_engine::graph::{Graph, TensorSpec};
use heph_engine::model::{LoadError, Packing};
use heph_engine::quantize::FileType;
use heph_engine::worker::ForwardError;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Precision, Relief};
use heph_runtime::node::Lent;
use heph_runtime::pool::Loader;
use heph_runtime::pressure::Pressure;
use heph_runtime::profile;
use heph_types::{LayerRange, ModelHash};

use super::Ask;
use crate::complete::Named;
use crate::engine::{Engine, EngineArguments, Opened};
use crate::failure::Failure;

/// What may be given up where memory becomes short.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Where memory becomes short")]
pub(crate) struct ReliefArguments {
    /// exact shortens, moves or refuses an answer and keeps its bits; may-fall also takes fewer bits for caches and weights
    #[arg(long, default_value = "exact", value_parser = Named::new(["exact", "may-fall"], precision), hide_possible_values = true, value_name = "exact|may-fall")]
    pub(crate) precision: Precision,
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "exact" => Ok(Precision::Kept),
        "may-fall" => Ok(Precision::MayFall),
        _ => Err("exact or may-fall is needed".to_owned()),
    }
}

/// What weights may become where bits may fall, largest first.
const SMALLER: [FileType; 5] = [
    FileType::Q8_0,
    FileType::Q6K,
    FileType::Q5KM,
    FileType::Q4KM,
    FileType::Q3KM,
];

/// Weights that are not smaller by this much are not worth being read anew.
const SMALLER_SHARE: f64 = 0.95;

/// Loads the model: in fewer bits where that is allowed and nothing else fits. Returns also what was given up.
pub(super) fn load(ask: &Ask<'_>) -> Result<(Engine, Option<String>), Failure> {
    let opened = ask.engine.open(ask.model, None, 1, ask.settings)?;
    if opened.only_reads()? {
        return Err(Failure::from(ForwardError::OnlyReads).of(ask.model));
    }
    let refused = match opened.try_load(None, opened.packing()) {
        Ok(engine) => return Ok((engine, None)),
        Err(error @ LoadError::DoesNotFit { .. }) => error,
        Err(error) => return Err(Failure::from(error).of(ask.model)),
    };
    for smaller in smaller(ask, &opened)? {
        match smaller.opened.try_load(None, Packing::AtLoad) {
            Ok(engine) => {
                let told = format!(
                    "Memory is short: the weights are {} from the start.",
                    smaller.name
                );
                return Ok((engine, Some(told)));
            }
            Err(LoadError::DoesNotFit { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(refused.into())
}

/// Watches memory for a desk whose model is all here; `None` where the system does not say how much there is.
pub(super) fn plain(
    ask: &Ask<'_>,
    engine: &Engine,
    given_up: Option<String>,
    cancel: &Cancel,
) -> Result<Option<Relief>, Failure> {
    let Some(pressure) = Pressure::watch() else {
        return Ok(None);
    };
    let mut relief = Relief::new(&engine.model, pressure, ask.relief.precision);
    if given_up.is_none() {
        let opened = ask.engine.open(ask.model, None, 1, ask.settings)?;
        for smaller in smaller(ask, &opened)? {
            let Smaller { name, bytes, opened } = smaller;
            let peak = peak(&opened);
            relief = relief.or_smaller(&name, bytes, peak, cancel, Box::new(Anew(opened)));
        }
    }
    Ok(Some(relief.after(given_up)))
}

/// The model in fewer bits.
struct Smaller {
    name: String,
    bytes: u64,
    opened: Opened,
}

/// The models in fewer bits that may take the place of `opened`, largest first; none where bits stay.
fn smaller(ask: &Ask<'_>, opened: &Opened) -> Result<Vec<Smaller>, Failure> {
    let mut known = Vec::new();
    if ask.relief.precision == Precision::Kept || ask.engine.quantize.is_some() {
        return Ok(known);
    }
    let mut least = bytes(&opened.graph()?);
    for file_type in SMALLER {
        let engine = EngineArguments {
            quantize: Some(file_type),
            ..ask.engine.clone()
        };
        let opened = engine.open(ask.model, None, 1, ask.settings)?;
        let bytes = bytes(&opened.graph()?);
        if (bytes as f64) < least as f64 * SMALLER_SHARE {
            least = bytes;
            let name = file_type.name().to_owned();
            known.push(Smaller { name, bytes, opened });
        }
    }
    Ok(known)
}

/// Bytes of all weights.
fn bytes(graph: &Graph) -> u64 {
    let counted = profile::of_model(ModelHash([0; 32]), "", graph, 1);
    let layers: u64 = counted.layers.iter().map(|layer| layer.weight_bytes).sum();
    layers + counted.head.weight_bytes + counted.embed_bytes
}

/// Bytes that quantising takes beside the weights: of one tensor as numbers, quantised and packed.
fn peak(opened: &Opened) -> u64 {
    let tensor = |spec: &TensorSpec| spec.parameters() * size_of::<f32>() as u64 + 2 * spec.bytes();
    opened.source.specs().map(tensor).max().unwrap_or(0)
}

/// Loads a model whenever it is asked for, and keeps nothing of it.
struct Anew(Opened);

impl Loader for Anew {
    fn load(&self, layers: Option<LayerRange>) -> Result<Lent, String> {
        let engine = self
            .0
            .try_load(layers, Packing::AtLoad)
            .map_err(|error| error.to_string())?;
        Ok(Lent::of(&Arc::new(engine).worker()))
    }
}
