//! The small model that guesses ahead at the desk.

use std::sync::Arc;

use heph_plan::{DraftSource, Mode, Readying};
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::draft::ModelDrafter;
use heph_runtime::line::{Line, LineLimits, LineModel};
use heph_runtime::node::{Node, NodeCaps};
use heph_runtime::profile;
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;
use heph_types::{KvFormat, ModelHash, ModelProfile, Speed};

use super::here::{Lazy, readying, speed, speed_key};
use super::{ALONE, PlaceArguments};
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};

/// The small model that guesses ahead.
#[derive(Clone)]
pub(super) struct Draft {
    /// Loaded when a plan guesses by it.
    pub(super) model: Arc<Lazy>,
    pub(super) hash: ModelHash,
    pub(super) profile: ModelProfile,
    pub(super) speed: Speed,
    /// What a guess takes with all that belongs to it, where the clock saw it.
    pub(super) seconds_per_guess: Option<f64>,
    /// What this machine takes to make it ready.
    readying: Readying,
}

impl Draft {
    /// What is still to do until it guesses as fast as it was timed.
    pub(super) fn readying(&self) -> Readying {
        match self.model.is_in_memory() {
            true => Readying::default(),
            false => self.readying,
        }
    }

    /// It, as it guesses for one answer.
    pub(super) fn drafter(&self, cancel: &Cancel) -> Result<ModelDrafter, Failure> {
        drafter(self.hash, &self.model, cancel)
    }

    /// Whether it guesses where a plan guesses by this source: not in memory yet, only where that is it.
    pub(super) fn takes_part(&self, source: DraftSource) -> bool {
        match source {
            DraftSource::NGram => self.model.is_in_memory(),
            DraftSource::Model | DraftSource::Tree => true,
        }
    }
}

/// The small model to draft with: the one asked for, or the bundled one where it has the same words.
pub(super) fn draft(
    place: &PlaceArguments,
    words: &Words,
    settings: &Settings,
) -> Result<Option<Draft>, Failure> {
    let drafts = |mode| !matches!(mode, Some(Mode::Local | Mode::Remote | Mode::Layered));
    let asked = place.draft.as_deref();
    if asked == Some("none") || !drafts(place.mode.by_name()) {
        return Ok(None);
    }
    let name = asked.unwrap_or(bundled::STORY_DRAFT.name);
    let opened = EngineArguments::with_kv(KvFormat::F16).open(name, None, 1, settings)?;
    let same = opened.words()?.tokenizer.same_tokens(&words.tokenizer);
    match (same, asked) {
        (true, _) => {}
        (false, None) => return Ok(None),
        (false, Some(name)) => {
            let sentence = format!("{name} cannot draft: it has other tokens than the model");
            return Err(Failure::new(Exit::Input, sentence).hint("a draft needs the vocabulary of its model"));
        }
    }
    let hash = opened.hash()?;
    let profile = profile::of_model(hash, name, &opened.graph()?, opened.context());
    let model = Arc::new(Lazy::new(opened, None)?);
    let speed = speed(hash, &model.opened, settings, || model.engine())?;
    let seconds_per_guess = seconds_per_guess(hash, &model, settings)?;
    Ok(Some(Draft {
        readying: readying(hash, &model.opened, settings),
        model,
        hash,
        profile,
        speed,
        seconds_per_guess,
    }))
}

fn drafter(hash: ModelHash, model: &Lazy, cancel: &Cancel) -> Result<ModelDrafter, Failure> {
    let engine = model.engine()?;
    let of = LineModel::of(hash, &engine.model);
    let node = Node::new(ALONE, NodeCaps::default()).with_stop(cancel.flag());
    let node = node.with(hash, engine.lent());
    let line = Line::whole(of, Arc::new(node), LineLimits::default());
    Ok(ModelDrafter::new(line, cancel.clone()))
}

/// What a guess takes: as it was timed before, or timed now.
fn seconds_per_guess(hash: ModelHash, model: &Lazy, settings: &Settings) -> Result<Option<f64>, Failure> {
    let mut kept = profile::kept_guessing(&settings.home);
    let key = speed_key(hash, &model.opened);
    let known = kept
        .find(&key)
        .copied()
        .filter(|seconds| seconds.is_normal() && *seconds > 0.0);
    if known.is_some() {
        return Ok(known);
    }
    let engine = model.engine()?;
    engine.model.settle(&engine.pool);
    let timed = drafter(hash, model, &Cancel::default())?.timed();
    if let Some(seconds) = timed {
        // What cannot be kept is timed again next time.
        let _ = kept.keep(key, seconds);
    }
    Ok(timed)
}

#[cfg(test)]
mod tests {
    use heph_runtime::settings::PUBLIC_HUB;

    use super::*;

    #[test]
    fn a_small_model_is_loaded_when_a_plan_guesses_by_it_and_ready_from_then_on() {
        let home = tempfile::tempdir().unwrap();
        let settings = Settings {
            home: home.path().to_owned(),
            models: home.path().join("models"),
            threads: 1,
            hub: PUBLIC_HUB.to_owned(),
            hub_token: None,
            keys: None,
            allow: Vec::new(),
        };
        let story = EngineArguments::with_kv(KvFormat::F16);
        let story = story.open(bundled::STORY.name, None, 1, &settings).unwrap();
        let words = story.words().unwrap();
        let open = || {
            let draft = draft(&PlaceArguments::usual(), &words, &settings).unwrap();
            draft.expect("the bundled pair has the same words")
        };
        assert!(
            open().model.is_in_memory(),
            "it was timed, and is settled from that on"
        );
        let draft = open();
        assert!(!draft.model.is_in_memory());
        assert!(
            draft.readying().rest > std::time::Duration::ZERO,
            "as it was timed in the process before"
        );
        assert!(!draft.takes_part(DraftSource::NGram) && draft.takes_part(DraftSource::Model));
        draft.model.engine().unwrap();
        assert_eq!(draft.readying(), Readying::default());
        assert!(draft.takes_part(DraftSource::NGram));
    }
}
