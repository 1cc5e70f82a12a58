//! Gives something up before memory runs out: never the process, never in silence.
//!
//! What is given up, and in which order, is `heph_plan::ladder`'s affair; here the steps are carried out on a line whose
//! caches are in this process.

use heph_engine::model::Model;
use heph_kernels::kv::PAGE;
use heph_plan::ladder::{Allowed, Holding, Step, TooLittleMemory, degrade};
use heph_types::KvFormat;

use crate::line::Line;
use crate::pressure::Pressure;

/// Memory that stays free for the passes and the program itself.
const RESERVE: u64 = 24 << 20;

/// Tokens that an answer is worth being begun for.
const TOKENS_LEAST: usize = 16;

/// Whether the bits of an answer may change to save memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// They stay.
    Kept,
    /// Caches may take fewer bits from some token on.
    MayFall,
}

/// Watches memory for one line.
pub struct Relief {
    pressure: Pressure,
    precision: Precision,
    layers: usize,
    /// Bytes of a position of one layer in half precision.
    position: f64,
    /// Positions that the line could hold at first.
    context: usize,
    /// What was given up for the answer under way, one sentence for each time.
    pub(super) told: Vec<String>,
}

impl Relief {
    /// For a line over `model`, whose caches all lie in this process.
    pub fn new(model: &Model, pressure: Pressure, precision: Precision) -> Self {
        let graph = model.graph();
        let work = heph_engine::graph::Work {
            tokens: 1,
            context: 1,
        };
        let position = graph.total_cost(work, KvFormat::F16).kv_bytes_per_position as f64;
        let layers = graph.layers.len();
        Self {
            pressure,
            precision,
            layers,
            position: position / layers.max(1) as f64,
            context: model.context(),
            told: Vec::new(),
        }
    }

    /// Starts an answer: what was given up is had again if there is room.
    pub(super) fn begin(&mut self, line: &mut Line) {
        self.told.clear();
        line.limit_context(self.context);
    }

    /// Looks whether what may still come fits into what is left, and gives up what it must. An answer that has `begun`
    /// ends where it is rather than not at all.
    pub(super) fn look(&mut self, line: &mut Line, begun: bool) -> Result<(), TooLittleMemory> {
        let room = self.pressure.room().saturating_sub(RESERVE);
        let held = line.tokens().len().next_multiple_of(PAGE);
        let now = self.holding(line, held);
        let used = Holding {
            context: held as u32,
            ..now.clone()
        }
        .bytes();
        let limit = used.saturating_add(room);
        if now.bytes() <= limit {
            return Ok(());
        }
        let allowed = Allowed {
            precision: self.precision == Precision::MayFall,
            context_min: (line.tokens().len() + TOKENS_LEAST).min(line.model().context) as u32,
            layers_elsewhere: 0,
        };
        let given = match degrade(&now, allowed, limit) {
            Err(_) if begun => {
                line.limit_context(0);
                self.told
                    .push("Memory became short: the answer ends here.".to_owned());
                return Ok(());
            }
            given => given?,
        };
        for step in &given.steps {
            match step {
                Step::Kv(format) => line.store_as(*format),
                Step::Context(positions) => line.limit_context(*positions as usize),
                Step::Layers(_) | Step::Quantisation(_) => {}
            }
        }
        self.told.push(given.sentence);
        Ok(())
    }

    fn holding(&self, line: &Line, held: usize) -> Holding {
        Holding {
            // Weights are there already and stay.
            layers: vec![0; self.layers],
            fixed: 0,
            kv_bytes_f16: self.position,
            kv: line.model().kv_format,
            context: line.model().context.max(held) as u32,
            positions: line.tokens().len() as u32,
            smaller: Vec::new(),
        }
    }
}
