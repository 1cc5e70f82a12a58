//! The machines that read parts beside each other: this one, and each that has the whole model and may see the text.

use std::sync::Arc;

use heph_plan::Mode;
use heph_privacy::pii::names::Model;
use heph_privacy::pseudonym::{Pseudonyms, Replacing};
use heph_runtime::decompose::WORKERS_MAX;
use heph_runtime::desk::{Desk, Message, Prompt, Relief};
use heph_runtime::discretion::{Discretion, PARTS, destination};
use heph_runtime::gate::Meter;
use heph_runtime::pressure::Pressure;
use heph_runtime::route::{self, Alone};
use heph_runtime::words::Words;
use heph_types::{Leaves, NodeProfile};

use super::{ALONE, Ask, Asking, kept, relief, session};
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
    /// The way back, where people and doors were replaced in what is read.
    pub(crate) pseudonyms: Option<Pseudonyms>,
    /// What carries the connections; they end with it.
    _network: Option<Arc<Joined>>,
}

impl Ask<'_> {
    /// The machines that may read `texts`: by mode local only this one, by remote only others. Where no other may see them as
    /// they are, and some may with people and doors replaced, they are replaced in place, for all who read.
    pub(crate) fn readers(&self, texts: &mut [String]) -> Result<Readers, Failure> {
        self.place.check()?;
        match self.place.is_plain(self.settings)? {
            true => self.reader_here(),
            false => self.readers_among(texts),
        }
    }

    fn reader_here(&self) -> Result<Readers, Failure> {
        let (engine, given_up) = relief::load(self)?;
        self.place.check_layers(engine.model.graph().layers.len())?;
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
            pseudonyms: None,
            _network: None,
        })
    }

    fn readers_among(&self, texts: &mut [String]) -> Result<Readers, Failure> {
        let question = [Message::new(
            "user",
            self.texts.first().copied().unwrap_or_default(),
        )];
        let asked = |words: &Words, _| Ok(Prompt::Chat(&question).tokens(words).map(drop)?);
        let (asking, ()) = Asking::open(self.model, self.engine, self.place, self.settings, asked)?;
        let model = asking.line_model();
        self.look_through(&asking);
        self.say_what_stays(&asking)?;
        let discretion = asking.discretion.clone().in_mode(PARTS);
        let machines = || asking.pool.others().iter().map(|machine| &machine.profile);
        let may = |asked: &Discretion| {
            let sees =
                |machine: &NodeProfile| asked.sees(&destination(machine), machine.role) >= Leaves::Text;
            machines().any(sees)
        };
        let mut pseudonyms = None;
        let discretion = match may(&discretion) || !may(&discretion.clone().replaceable()) {
            true => discretion,
            false => {
                let wants =
                    machines().filter_map(|machine| discretion.wants_replacing(&destination(machine)));
                let session = session(&mut pseudonyms, wants.max().unwrap_or(Replacing::Masks))?;
                let replaced = heph_privacy::replace(texts, &discretion.label(), Model::bundled(), session);
                let replaced = replaced.map_err(|stays| Failure::new(Exit::No, stays.to_string()))?;
                discretion.with_replaced(replaced)
            }
        };
        let policy = discretion.planned(asking.stays.clone(), &machines().collect::<Vec<_>>());
        let (mut desks, meter) = route::alone(
            &asking.pool,
            model,
            &asking.words,
            &policy,
            &discretion,
            &asking.cancel,
        );
        let here = asking.pool.desk().node;
        if self.place.mode.by_name() == Some(Mode::Remote) {
            desks.retain(|alone| alone.node != here);
        }
        if desks.is_empty() {
            let sentence = "no other machine has the model, is there and may see the text";
            let failure = match kept::from(asking.pool.others(), &discretion) {
                Some(kept) => Failure::new(Exit::No, format!("{sentence}: {kept}")),
                None => Failure::new(Exit::No, sentence),
            };
            return Err(failure.hint("`heph peers` shows who is there"));
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
            pseudonyms,
            _network: asking.network,
        })
    }
}
