//! Requests for an outside provider's model, named `PROVIDER/MODEL`: what it is asked, and who must agree first.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use heph_plan::Mode;
use heph_privacy::pseudonym::Pseudonyms;
use heph_providers::{Limits, Question, Tool, ToolChoice};
use heph_runtime::guard::Outlet;
use heph_runtime::providers::{BookError, Commission, CommissionError, Outside, ProviderBook, leave};
use heph_runtime::service::{Errand, Heard, Reply};
use heph_types::Leaves;
use serde_json::Value;

use crate::answer::{Answer, By, ChoiceStart};
use crate::ask::{Ask, Form, Source, Text, Turn};
use crate::caller;
use crate::error::Refusal;
use crate::house::{Door, House};
use crate::provenance::Trace;
use crate::sampling::seed_of;
use crate::tools::{Choice, MadeCall};

/// Bytes of what a provider is asked for one request, all choices together: eight of the longest.
const QUESTIONS_BYTES_MAX: usize = 64 << 20;

/// Who asks providers, once somebody does.
#[derive(Debug, Default)]
pub(crate) struct Asker(OnceLock<Result<Arc<Outside>, String>>);

impl Asker {
    fn outside(&self, house: &House) -> Result<Arc<Outside>, Refusal> {
        let made = self
            .0
            .get_or_init(|| Outside::new(Outlet::of(&house.settings), Limits::default()).map(Arc::new));
        made.clone().map_err(Refusal::ours)
    }
}

/// Whether a model of that name is a provider's. A list of providers that cannot be read names none, and is told to whoever
/// asks one by name.
pub(crate) fn is_outside(house: &House, model: &str) -> Result<bool, Refusal> {
    if !model.contains('/') {
        return Ok(false);
    }
    Ok(book(house)?.named(model).is_some())
}

/// The names of the models that may be asked for.
pub(crate) fn names(house: &House) -> Vec<String> {
    let Ok(book) = book(house) else { return Vec::new() };
    let allowed = book
        .list()
        .iter()
        .filter(|provider| provider.sees == Leaves::Text);
    allowed
        .flat_map(|provider| {
            let models = provider.models.iter();
            models.map(|model| format!("{}/{model}", provider.name))
        })
        .collect()
}

fn book(house: &House) -> Result<ProviderBook, Refusal> {
    ProviderBook::open(&house.settings.home).map_err(|error| match error {
        BookError::Io { .. } | BookError::Damaged { .. } => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).code("providers_unreadable")
        }
        error => Refusal::ours(error),
    })
}

/// Hands the request to its provider. What is wrong with it, and what the provider refuses before it says anything, is
/// told before anything is written.
pub(crate) async fn submit(ask: Ask, door: &Door) -> Result<Answer, Refusal> {
    let house = Arc::clone(door);
    let prepared = caller::on_thread(move |cancel| {
        let outside = house.asker.outside(&house)?;
        caller::waits(cancel)?;
        Ok::<_, Refusal>((outside, commissions(&ask, &house)?, ask))
    });
    let (outside, (commissions, pseudonyms), ask) = prepared.await??;
    let starts = commissions.iter().map(|_| ChoiceStart {
        style: None,
        begun: None,
    });
    let starts: Vec<_> = starts.collect();
    let errand = |commission: Commission| -> Errand {
        let (outside, pseudonyms) = (Arc::clone(&outside), pseudonyms.clone());
        Box::new(move |speaker| {
            if let Some(pseudonyms) = &pseudonyms {
                speaker.restore(pseudonyms);
            }
            outside.answer(commission, speaker)
        })
    };
    let errands = commissions.into_iter().map(errand).collect();
    let submitted = door.errands.submit(caller::asker(ask.user.as_deref()), errands);
    let mut replies = submitted.inspect_err(|_| door.counters.refused())?;
    let first = first_of(&mut replies).await?;
    let by = By::outside(Arc::clone(&door.engines.served), ask.model.clone());
    let mut answer = Answer::new(Arc::clone(door), by, 0, replies.into_iter().zip(starts).collect());
    answer.heard_first(first);
    Ok(answer.tracing(Trace::new(Arc::new(ask))))
}

/// What the first choice says first; a failure before anything was said is the request's.
async fn first_of(replies: &mut [Reply]) -> Result<Option<Heard>, Refusal> {
    let Some(reply) = replies.first_mut() else {
        return Ok(None);
    };
    match reply.next().await {
        Heard::End(Err(error)) => Err(error.into()),
        heard => Ok(Some(heard)),
    }
}

/// A commission for each choice of the request, and what the answers are turned back by.
type Commissions = (Vec<Commission>, Option<Arc<Pseudonyms>>);

fn commissions(ask: &Ask, house: &House) -> Result<Commissions, Refusal> {
    ask.check()?;
    let unavailable = |why: String| Refusal::param("mode", why).code("mode_unavailable");
    match ask.wishes.mode()? {
        None | Some(Mode::Remote) => {}
        Some(mode) => {
            let why = format!(
                "{} is a provider's model, and mode {mode} does not ask providers",
                ask.model
            );
            return Err(unavailable(why));
        }
    }
    if ask.wishes.exactness.is_some() && !ask.wishes.any_bits()? {
        let why = format!(
            "{} is a provider's model, whose bits nobody vouches for",
            ask.model
        );
        return Err(Refusal::param("exactness", why));
    }
    if ask.logprobs.is_some() {
        return Err(Refusal::param(
            "logprobs",
            "a provider's probabilities are not passed on",
        ));
    }
    if ask.wishes.documents.is_some() {
        return Err(unavailable(
            "documents are read for models of one's own machines".to_owned(),
        ));
    }
    let book = book(house)?;
    let named = book.named(&ask.model);
    let (provider, model) =
        named.ok_or_else(|| Refusal::missing("no such provider").code("model_not_found"))?;
    let usual = leave(provider).into_iter().collect();
    let discretion = ask.discretion(house, None)?.with_usual(usual);
    let asked = discretion.clone().in_mode(Mode::Remote.name());
    let (told, discretion, pseudonyms) = match asked.wants_replacing(&provider.destination()) {
        Some(by) => {
            let (told, replaced, pseudonyms) = ask.replaced(house, &discretion, by)?;
            (
                Cow::Owned(told),
                discretion.with_replaced(replaced),
                Some(pseudonyms),
            )
        }
        None => (Cow::Borrowed(ask), discretion, None),
    };
    let deadline = ask
        .wishes
        .deadline_ms
        .map(|ms| Instant::now() + Duration::from_millis(ms.min(86_400_000)));
    let prompts = match &ask.source {
        Source::Chat(_) => 1,
        Source::Texts(texts) => texts.len(),
    };
    ask.fits(prompts, house.errands.answers_max())?;
    // Each choice is asked for by itself, with all that it needs.
    let bytes = ask.bytes();
    if bytes.saturating_mul(ask.choices) > QUESTIONS_BYTES_MAX {
        let sentence = format!(
            "a provider is asked for {QUESTIONS_BYTES_MAX} bytes at once, and these are {} times {bytes}",
            ask.choices
        );
        return Err(Refusal::param("n", sentence));
    }
    let questions = questions(&told, model)?;
    // What all of them cost together is within what was said.
    let share = questions.len().max(1) as f64;
    let commission = |question| {
        let commission = Commission {
            provider: provider.clone(),
            question,
            discretion: discretion.clone(),
            price_max: ask.wishes.max_price.map(|most| most as f64 / share),
            deadline,
        };
        commission.checked().map_err(refused)
    };
    let commissions = questions.into_iter().map(commission).collect::<Result<_, _>>()?;
    Ok((commissions, pseudonyms))
}

fn refused(error: CommissionError) -> Refusal {
    let sentence = error.to_string();
    match error {
        CommissionError::Unallowed(_) | CommissionError::Forbidden { .. } => {
            Refusal::new(StatusCode::FORBIDDEN, sentence).code("provider_forbidden")
        }
        CommissionError::Model { .. } => Refusal::missing(sentence).code("model_not_found"),
        CommissionError::Price(_) => Refusal::param("max_price", sentence),
    }
}

fn questions(ask: &Ask, model: &str) -> Result<Vec<Question>, Refusal> {
    let sources: Vec<heph_providers::Source> = match &ask.source {
        Source::Chat(turns) => vec![heph_providers::Source::Chat(turns.iter().map(turn).collect())],
        Source::Texts(texts) => texts
            .iter()
            .map(|text| match text {
                Text::Words(text) => Ok(heph_providers::Source::Text(text.clone())),
                Text::Tokens(_) | Text::Between(..) => Err(Refusal::param(
                    "prompt",
                    "a provider's model goes on with words alone",
                )),
            })
            .collect::<Result<_, _>>()?,
    };
    if let Form::Words(_) = ask.form {
        return Err(Refusal::bad(
            "a provider's model cannot be held to a regular expression, a grammar or a choice: only a model of this house can",
        ));
    }
    let mut questions = Vec::new();
    for source in sources {
        for _ in 0..ask.choices {
            let mut question = question(ask, model, source.clone());
            let seed = question.sampling.seed;
            question.sampling.seed = seed.map(|seed| seed_of(seed as u64, questions.len()) as i64);
            questions.push(question);
        }
    }
    Ok(questions)
}

fn question(ask: &Ask, model: &str, source: heph_providers::Source) -> Question {
    let sampling = &ask.sampling;
    Question {
        model: model.to_owned(),
        source,
        sampling: heph_providers::Sampling {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repeat_penalty: sampling.repeat_penalty,
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            seed: sampling.seed,
        },
        max_tokens: ask.max_tokens.filter(|&most| most != u64::MAX),
        stops: ask.stops.clone(),
        tools: ask
            .toolbox
            .tools
            .iter()
            .map(|tool| Tool {
                name: tool.name.clone(),
                description: tool.description.clone(),
                parameters: tool.parameters.clone(),
            })
            .collect(),
        choice: match &ask.toolbox.choice {
            Choice::None => ToolChoice::None,
            Choice::Auto => ToolChoice::Auto,
            Choice::Required => ToolChoice::Required,
            Choice::Named(name) => ToolChoice::Named(name.clone()),
        },
        form: match &ask.form {
            Form::Text | Form::Words(_) => heph_providers::Form::Text,
            Form::Object => heph_providers::Form::Object,
            Form::Schema(schema) => heph_providers::Form::Schema(schema.clone()),
        },
    }
}

fn turn(turn: &Turn) -> heph_providers::Turn {
    let role = match turn.role.as_str() {
        "developer" => "system",
        "function" => "tool",
        role => role,
    };
    heph_providers::Turn {
        role: role.to_owned(),
        content: turn.content.clone(),
        pictures: turn.pictures.clone(),
        calls: turn.calls.iter().map(call).collect(),
        call_id: turn.call_id.clone(),
        name: turn.name.clone(),
    }
}

fn call(call: &MadeCall) -> heph_providers::Call {
    let arguments = match &call.function.arguments {
        Value::String(text) => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::Object(serde_json::Map::new()))
        }
        arguments => arguments.clone(),
    };
    heph_providers::Call {
        id: call.id.clone(),
        name: call.function.name.clone(),
        arguments,
    }
}
