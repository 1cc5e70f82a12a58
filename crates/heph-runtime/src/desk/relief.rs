//! Gives something up before memory runs out: never the process, never in silence.
//!
//! What is given up, and in which order, is `heph_plan::ladder`'s affair; here the steps are carried out on a line: caches
//! in fewer bits, a shorter context, layers that go to another machine, weights in fewer bits.

use heph_engine::model::Model;
use heph_kernels::kv::PAGE;
use heph_plan::ladder::{Allowed, Degradation, Holding, Step, TooLittleMemory, degrade, sentence};
use heph_types::{KvFormat, ModelProfile, NodeId};
use std::sync::Arc;

use super::{ALONE, DeskError};
use crate::cancel::Cancel;
use crate::line::Line;
use crate::pool::{Here, Loader};
use crate::pressure::{Pressure, RESERVE};
use crate::profile;
use crate::seat::Host;

/// Tokens that an answer is worth being begun for.
const TOKENS_LEAST: usize = 16;

/// What reading a conversation again takes beside its cache: without so much of the reserve left nothing is begun anew.
const REPLAY: u64 = RESERVE / 2;

/// Whether the bits of an answer may change to save memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// They stay.
    Kept,
    /// Caches, and then weights, may take fewer bits from some token on.
    MayFall,
}

/// Watches memory for one line.
pub struct Relief {
    pressure: Pressure,
    precision: Precision,
    /// This machine, where the line has stages at others too; `None` where all of it is here.
    here: Option<NodeId>,
    /// Bytes of weights, by layer.
    weights: Vec<u64>,
    /// Bytes of head and token table.
    ends: u64,
    /// Bytes of a position of one layer in half precision.
    position: f64,
    /// Positions that the line could hold at first.
    context: usize,
    /// The format that the line's caches had at first, once it was seen.
    format: Option<KvFormat>,
    /// The same model in fewer bits, largest first.
    smaller: Vec<Smaller>,
    /// What was given up and does not come back, a sentence each.
    lasting: Vec<String>,
    /// What was given up for the answer under way, one sentence for each time.
    given_up: Vec<String>,
}

/// A smaller quantisation of the model.
struct Smaller {
    name: String,
    bytes: u64,
    /// Bytes that loading takes beside them.
    peak: u64,
    host: Arc<dyn Host>,
}

impl Relief {
    /// For a line over `model` that lies in this process with all its caches.
    pub fn new(model: &Model, pressure: Pressure, precision: Precision) -> Self {
        let counted = profile::of_model(ALONE.1, "", model.graph(), model.context());
        Self::over(&counted, model.context(), None, pressure, precision)
    }

    /// For a line over the model of `profile`, of which `here` may hold some stages and others the rest.
    pub fn among(
        profile: &ModelProfile,
        context: usize,
        here: NodeId,
        pressure: Pressure,
        precision: Precision,
    ) -> Self {
        Self::over(profile, context, Some(here), pressure, precision)
    }

    fn over(
        profile: &ModelProfile,
        context: usize,
        here: Option<NodeId>,
        pressure: Pressure,
        precision: Precision,
    ) -> Self {
        let position: f64 = profile.layers.iter().map(|layer| layer.kv_bytes_f16).sum();
        Self {
            pressure,
            precision,
            here,
            weights: profile.layers.iter().map(|layer| layer.weight_bytes).collect(),
            ends: profile.head.weight_bytes + profile.embed_bytes,
            position: position / profile.layers.len().max(1) as f64,
            context,
            format: None,
            smaller: Vec::new(),
            lasting: Vec::new(),
            given_up: Vec::new(),
        }
    }

    /// Where bits may fall, `loader` brings the model as `name`, whose weights have so many `bytes` and take `peak` more
    /// while they are loaded. For a desk of [`super::Desk::new`]; smaller ones are said later.
    pub fn or_smaller(
        mut self,
        name: &str,
        bytes: u64,
        peak: u64,
        cancel: &Cancel,
        loader: Box<dyn Loader>,
    ) -> Self {
        let (node, hash) = ALONE;
        self.smaller.push(Smaller {
            name: name.to_owned(),
            bytes,
            peak,
            host: Arc::new(Here::new(node, hash, cancel.clone(), loader)),
        });
        self
    }

    /// With something that was given up before the line was there.
    pub fn after(mut self, given_up: impl IntoIterator<Item = String>) -> Self {
        self.lasting.extend(given_up);
        self
    }

    /// Positions that the line could hold at first.
    pub(super) fn context(&self) -> usize {
        self.context
    }

    /// What was given up for the answer under way, a sentence each.
    pub(super) fn told(&self) -> Vec<String> {
        self.lasting.iter().chain(&self.given_up).cloned().collect()
    }

    /// Starts an answer: positions that were given up are had again if there is room. Caches stay in the bits that they fell to,
    /// which is told of each answer.
    pub(super) fn begin(&mut self, line: &mut Line) {
        self.given_up.clear();
        line.limit_context(self.context);
        let format = line.model().kv_format;
        if format != *self.format.get_or_insert(format) {
            self.given_up.push(sentence(&[Step::Kv(format)]));
        }
    }

    /// Looks whether what may still come fits into what is left, and gives up what it must. The answer needs `needed`
    /// positions; one that has `begun` ends where it is rather than not at all.
    pub(super) fn look(&mut self, line: &mut Line, begun: bool, needed: usize) -> Result<(), DeskError> {
        let (now, limit) = self.stand(line);
        if now.bytes() <= limit {
            return Ok(());
        }
        let held = line.tokens().len();
        let least = (held + TOKENS_LEAST).min(line.model().context);
        let anew = self.pressure.room() >= REPLAY;
        let elsewhere = match self.here {
            Some(_) if anew && line.can_relieve() => now.layers.len(),
            _ => 0,
        };
        // Rather the whole answer with layers elsewhere or fewer bits than a part of it, and rather that than none.
        let whole = needed.max(least);
        let mut refused = None;
        for (context, elsewhere) in [(whole, elsewhere), (whole, 0), (least, 0)] {
            let allowed = Allowed {
                precision: anew && self.precision == Precision::MayFall,
                context_min: context as u32,
                layers_elsewhere: elsewhere as u16,
            };
            match degrade(&now, allowed, limit) {
                Ok(given) => {
                    if self.carry_out(given, line, needed.saturating_sub(held))? {
                        return Ok(());
                    }
                }
                Err(error) => refused = Some(error),
            }
        }
        if begun {
            line.limit_context(0);
            self.given_up
                .push("Memory became short: the answer ends here.".to_owned());
            return Ok(());
        }
        let (needed, limit) = (now.bytes(), limit);
        Err(refused.unwrap_or(TooLittleMemory { needed, limit }).into())
    }

    /// Carries steps out. `false`, with nothing done, where no other machine takes the layers that are to go.
    fn carry_out(&mut self, given: Degradation, line: &mut Line, left: usize) -> Result<bool, DeskError> {
        let mut steps = given.steps;
        let layers = steps.iter_mut().find_map(|step| match step {
            Step::Layers(count) => Some(count),
            Step::Kv(_) | Step::Context(_) | Step::Quantisation(_) => None,
        });
        if let (Some(count), Some(here)) = (layers, self.here) {
            let before = self.layers_here(line).len();
            if !line.relieve(here, self.room(), left)? {
                return Ok(false);
            }
            *count = before.saturating_sub(self.layers_here(line).len()) as u16;
        }
        for step in &steps {
            match step {
                Step::Kv(format) => line.store_as(*format),
                Step::Context(positions) => line.limit_context(*positions as usize),
                Step::Quantisation(at) => self.take_smaller(*at, line)?,
                Step::Layers(_) => {}
            }
        }
        self.pressure.look();
        self.given_up.push(sentence(&steps));
        Ok(true)
    }

    /// The rest of the answer, and those that follow, come from the model in fewer bits.
    fn take_smaller(&mut self, at: usize, line: &mut Line) -> Result<(), DeskError> {
        let known = self.smaller.len().min(self.too_large() + at + 1);
        let Some(smaller) = self.smaller.drain(..known).next_back() else {
            return Ok(());
        };
        let share = smaller.bytes as f64 / self.weights_bytes().max(1) as f64;
        let fewer = |bytes: &mut u64| *bytes = (*bytes as f64 * share).ceil() as u64;
        self.weights.iter_mut().for_each(fewer);
        fewer(&mut self.ends);
        let (name, position) = (&smaller.name, line.tokens().len());
        self.lasting.push(format!(
            "Memory became short: from token {position} on the weights are {name}."
        ));
        Ok(line.answer_from(smaller.host)?)
    }

    /// What the line holds here and what it may come to, beside the bytes that it may hold.
    fn stand(&self, line: &Line) -> (Holding, u64) {
        let held = line.tokens().len().next_multiple_of(PAGE);
        let now = self.holding(line, held);
        let used = Holding {
            context: held as u32,
            ..now.clone()
        }
        .bytes();
        (now, used.saturating_add(self.room()))
    }

    /// Bytes that may still be taken.
    fn room(&self) -> u64 {
        self.pressure.room().saturating_sub(RESERVE)
    }

    /// Bytes of weights of the layers at this machine.
    fn layers_here(&self, line: &Line) -> Vec<u64> {
        let Some(here) = self.here else {
            return self.weights.clone();
        };
        let stages = line.stages().into_iter().filter(|stage| stage.node == here);
        let layers = stages.flat_map(|stage| stage.layers.iter());
        layers
            .filter_map(|layer| self.weights.get(layer).copied())
            .collect()
    }

    /// How many of the smaller quantisations cannot be loaded in the place of the weights.
    fn too_large(&self) -> usize {
        let room = self.weights_bytes().saturating_add(self.room());
        let too_large = |smaller: &&Smaller| smaller.bytes + smaller.peak > room;
        self.smaller.iter().take_while(too_large).count()
    }

    fn weights_bytes(&self) -> u64 {
        self.weights.iter().sum::<u64>() + self.ends
    }

    fn holding(&self, line: &Line, held: usize) -> Holding {
        let share = |smaller: &Smaller| smaller.bytes as f64 / self.weights_bytes().max(1) as f64;
        Holding {
            layers: self.layers_here(line),
            fixed: self.ends,
            kv_bytes_f16: self.position,
            kv: line.model().kv_format,
            context: line.model().context.max(held) as u32,
            positions: line.tokens().len() as u32,
            smaller: self.smaller.iter().skip(self.too_large()).map(share).collect(),
        }
    }
}
