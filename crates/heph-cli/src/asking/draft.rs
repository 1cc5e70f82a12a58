//! The small model that guesses ahead at the desk.

use std::sync::Arc;

use heph_plan::Mode;
use heph_runtime::bundled;
use heph_runtime::profile;
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;
use heph_types::{KvFormat, ModelHash, ModelProfile, Speed};

use super::PlaceArguments;
use super::here::{Lazy, speed};
use crate::engine::{Engine, EngineArguments};
use crate::failure::{Exit, Failure};

/// The small model that guesses ahead.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) engine: Arc<Engine>,
    pub(super) hash: ModelHash,
    pub(super) profile: ModelProfile,
    pub(super) speed: Speed,
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
    let lazy = Lazy::new(opened, None)?;
    let engine = lazy.engine()?;
    let speed = speed(hash, &lazy.opened, settings, || Ok(Arc::clone(&engine)))?;
    Ok(Some(Draft {
        engine,
        hash,
        profile,
        speed,
    }))
}
