//! Whether a request is answered by this machine's batch or takes another course, and the errands of one that does.

use std::sync::Arc;

use heph_engine::batch::Asker;
use heph_engine::prefix::Share;
use heph_plan::Mode;
use heph_privacy::pseudonym::Pseudonyms;
use heph_runtime::service::{Errand, Job};

use crate::ask::Ask;
use crate::engines::Writer;
use crate::error::Refusal;
use crate::house::House;
use crate::machines::{Course, Privacy, WaitHere, Wish};

/// Who answers a request.
pub(crate) enum Place {
    /// The batch; with a sentence where something that was tried before could not be.
    Here(Option<String>),
    /// The machines of a plan.
    Course(Arc<dyn Course>),
}

/// Chooses who answers `jobs`, which are all of one request; about texts, with the tokens of its two forms, whole and with
/// excerpts. Asks machines, and so may take as long as they do.
pub(crate) fn place(
    house: &House,
    writer: &Arc<Writer>,
    ask: &Ask,
    jobs: &[Job],
    about: Option<(usize, usize)>,
) -> Result<Place, Refusal> {
    let (mode, privacy) = (ask.wishes.mode()?, ask.wishes.privacy()?);
    match mode {
        Some(Mode::Local) => Ok(Place::Here(None)),
        Some(mode) => by_name(house, writer, ask, jobs, about, mode).map(Place::Course),
        None if privacy == Privacy::Nothing => Ok(Place::Here(None)),
        None => Ok(wherever(house, writer, ask, jobs, about)),
    }
}

/// The wish of a request whose first prompt stands for all.
fn wish(
    house: &House,
    writer: &Arc<Writer>,
    ask: &Ask,
    jobs: &[Job],
    about: Option<(usize, usize)>,
    mode: Option<Mode>,
) -> Result<Wish, Refusal> {
    let first = jobs.first();
    let prompt = first.map_or_else(Vec::new, |job| job.prompt.clone());
    Ok(Wish {
        prompt_tokens: about.map_or(prompt.len(), |(whole, _)| whole),
        excerpts_tokens: about.map(|(_, excerpts)| excerpts),
        answer_tokens_max: jobs.iter().map(|job| job.max_tokens).max(),
        mode,
        price_max: ask.wishes.max_price,
        discretion: ask.discretion(house, Some(writer.service.words()))?,
        any_bits: ask.wishes.any_bits()?,
        wait_here: WaitHere::at(writer),
        asker: first.map_or_else(Asker::default, |job| job.asker),
        prompt,
        share: first.map_or(Share::NONE, |job| job.share),
    })
}

/// What only the batch of this machine can do for an answer.
fn only_here(jobs: &[Job]) -> Option<&'static str> {
    let asks = |is: fn(&Job) -> bool| jobs.iter().any(is);
    if asks(|job| job.constraint.is_some()) {
        Some(
            "holds no answer to a shape (tools that are enforced, response_format, an expression or a grammar)",
        )
    } else if asks(|job| job.logprobs.is_some()) {
        Some("tells no probabilities")
    } else {
        None
    }
}

fn by_name(
    house: &House,
    writer: &Arc<Writer>,
    ask: &Ask,
    jobs: &[Job],
    about: Option<(usize, usize)>,
    mode: Mode,
) -> Result<Arc<dyn Course>, Refusal> {
    let unavailable =
        |why: &str| Refusal::param("mode", format!("mode {mode} {why}; local does")).code("mode_unavailable");
    let Some(machines) = &house.machines else {
        return Err(unavailable(
            "is not answered by a door that knows no other machines",
        ));
    };
    if !Arc::ptr_eq(writer, &house.engines.served) {
        return Err(unavailable("answers with the served model alone"));
    }
    if let Some(why) = only_here(jobs) {
        return Err(unavailable(why));
    }
    let course = machines
        .course(&wish(house, writer, ask, jobs, about, Some(mode))?)
        .map_err(Refusal::from)?;
    ask.wishes
        .affords(course.record().decision.plan.expected.credits)?;
    Ok(course)
}

/// The best course, which is this machine where nothing else is known, possible or worth it.
fn wherever(
    house: &House,
    writer: &Arc<Writer>,
    ask: &Ask,
    jobs: &[Job],
    about: Option<(usize, usize)>,
) -> Place {
    let machines = house
        .machines
        .as_ref()
        .filter(|machines| machines.any() && Arc::ptr_eq(writer, &house.engines.served));
    let Some(machines) = machines else {
        return Place::Here(None);
    };
    if let Some(why) = only_here(jobs) {
        return Place::Here(Some(format!(
            "Other machines were not asked: a line over them {why}."
        )));
    }
    let Ok(wish) = wish(house, writer, ask, jobs, about, None) else {
        return Place::Here(None);
    };
    match machines.course(&wish) {
        Err(none) => {
            let sentence = none.sentence;
            Place::Here(Some(format!("Other machines could not be asked: {sentence}.")))
        }
        Ok(course) => {
            let plan = &course.record().decision.plan;
            match plan.mode == Mode::Local || ask.wishes.affords(plan.expected.credits).is_err() {
                true => Place::Here(house.rules.trouble()),
                false => Place::Course(course),
            }
        }
    }
}

/// An errand for each job. Where the question was asked with pseudonyms, its answer is turned back.
pub(crate) fn errands(
    course: &Arc<dyn Course>,
    jobs: Vec<Job>,
    pseudonyms: Option<&Arc<Pseudonyms>>,
) -> Vec<Errand> {
    let errand = |job: Job| -> Errand {
        let (course, pseudonyms) = (Arc::clone(course), pseudonyms.cloned());
        let given = course.give(&job);
        Box::new(move |speaker| {
            if let Some(pseudonyms) = &pseudonyms {
                speaker.restore(pseudonyms);
            }
            course.answer(&job, speaker, given)
        })
    };
    jobs.into_iter().map(errand).collect()
}
