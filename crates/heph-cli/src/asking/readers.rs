//! The machines that read parts beside each other: this one, and each that has the whole model and may see the text.

use std::sync::Arc;

use heph_plan::Mode;
use heph_runtime::decompose::WORKERS_MAX;
use heph_runtime::desk::{Desk, Relief};
use heph_runtime::gate::Meter;
use heph_runtime::pressure::Pressure;
use heph_runtime::route::{self, Alone};
use heph_runtime::words::Words;

use super::{ALONE, Ask, Asking, relief};
use crate::failure::{Exit, Failure};
use crate::machine::Joined;
use crate::terminal;

/// Who reads, with what.
pub(crate) struct Readers {
    /// A desk for each machine, this one first where it takes part.
    pub(crate) desks: Vec<Alone>,
    pub(crate) words: Arc<Words>,
    /// Positions of a context.
    pub(crate) context: usize,
    /// What passes the doors of other machines.
    pub(crate) meter: Meter,
    /// Peers that did not answer: name and why.
    pub(crate) away: Vec<(String, String)>,
    /// What carries the connections; they end with it.
    _network: Option<Arc<Joined>>,
}

impl Ask<'_> {
    /// The machines that may read: by mode local only this one, by remote only others.
    pub(crate) fn readers(&self) -> Result<Readers, Failure> {
        match self.place.is_plain(self.settings)? {
            true => self.reader_here(),
            false => self.readers_among(),
        }
    }

    fn reader_here(&self) -> Result<Readers, Failure> {
        let (engine, given_up) = relief::load(self)?;
        let (words, cancel) = (engine.words()?, terminal::cancel_on_ctrl_c()?);
        let desk = Desk::new(engine.worker(), Arc::clone(&words), cancel.clone());
        let desk = match relief::plain(self, &engine, given_up, &cancel)? {
            Some(relief) => desk.with_relief(relief),
            None => desk,
        };
        let (node, name) = (ALONE, "here".to_owned());
        Ok(Readers {
            desks: vec![Alone { node, name, desk }],
            words,
            context: engine.model.context(),
            meter: Meter::default(),
            away: Vec::new(),
            _network: None,
        })
    }

    fn readers_among(&self) -> Result<Readers, Failure> {
        let asking = Asking::open(self.model, self.engine, self.place, self.settings)?;
        let model = asking.line_model();
        let (mut desks, meter) =
            route::alone(&asking.pool, model, &asking.words, &asking.policy, &asking.cancel);
        let here = asking.pool.desk().node;
        if self.place.mode.by_name() == Some(Mode::Remote) {
            desks.retain(|alone| alone.node != here);
        }
        if desks.is_empty() {
            let sentence = "no other machine has the model, is there and may see the text";
            return Err(Failure::new(Exit::No, sentence).hint("`heph peers` shows who is there"));
        }
        desks.truncate(WORKERS_MAX);
        let precision = self.relief.precision;
        let watched = |alone: Alone| match Pressure::watch().filter(|_| alone.node == here) {
            Some(pressure) => {
                let relief = Relief::among(&asking.profile, model.context, here, pressure, precision);
                let desk = alone.desk.with_relief(relief);
                Alone { desk, ..alone }
            }
            None => alone,
        };
        let desks: Vec<_> = desks.into_iter().map(watched).collect();
        if desks.iter().any(|alone| alone.node == here) {
            // Loaded now, with a bar, and not in the middle of the first part.
            asking.model.warm()?;
        }
        Ok(Readers {
            desks,
            context: model.context,
            meter,
            words: asking.words,
            away: asking.away,
            _network: asking.network,
        })
    }
}
