//! One request in the gateway's own words, whatever API it came by; and how it becomes jobs for the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use heph_engine::constrain::Shape;
use heph_engine::prefix::Share;
use heph_engine::recall::Verdict;
use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
use heph_plan::Mode;
use heph_privacy::label::{Label, TAGS_MAX};
use heph_privacy::pii::names::Model;
use heph_privacy::pseudonym::{PseudonymError, Pseudonyms, Replacing};
use heph_privacy::{Replaced, Stays};
use heph_providers::Picture;
use heph_runtime::cancel::Cancel;
use heph_runtime::discretion::{Discretion, unsaid};
use heph_runtime::service::Job;
use heph_runtime::words::Words;
use heph_types::TokenId;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, By, ChoiceStart};
use crate::caller;
use crate::elsewhere::{self, Place};
use crate::engines::{self, Engine, Writer};
use crate::error::Refusal;
use crate::excerpts::About;
use crate::house::{Door, House};
use crate::machines::{Course, Privacy};
use crate::outside;
use crate::pictures::PICTURES_MAX;
use crate::provenance::{self, Trace, Wait};
use crate::recall::{self, Learning};
use crate::sampling::{Sampling, seed_of};
use crate::shape::Keep;
use crate::tools::{MadeCall, Toolbox, compact};

/// Choices of one request.
const CHOICES_MAX: usize = 128;

/// Messages of one conversation.
const MESSAGES_MAX: usize = 20_000;

/// Stop texts of one request, and the bytes of each.
const STOPS_MAX: (usize, usize) = (16, 1024);

/// Likeliest tokens that are told beside each token.
pub(crate) const TOP_LOGPROBS_MAX: usize = 20;

/// Probabilities of one whole answer: six choices of 8,192 tokens with the 20 likeliest beside each. Each takes about a kilobyte until it
/// is written.
const REPORTED_MAX: usize = 1 << 20;

/// One contribution to a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) role: String,
    pub(crate) content: String,
    /// Shown with it.
    pub(crate) pictures: Vec<Picture>,
    pub(crate) calls: Vec<MadeCall>,
    /// Which call this is the result of.
    pub(crate) call_id: Option<String>,
    pub(crate) name: Option<String>,
}

impl Turn {
    pub(crate) fn new(role: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: content.into(),
            pictures: Vec::new(),
            calls: Vec::new(),
            call_id: None,
            name: None,
        }
    }
}

/// What is to be gone on from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A conversation, written as the model's template says.
    Chat(Vec<Turn>),
    /// Texts or tokens as they are, each with choices of its own.
    Texts(Vec<Text>),
}

/// A text to go on with.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    /// Words.
    Words(String),
    /// Tokens.
    Tokens(Vec<u32>),
    /// What stands between two texts.
    Between(String, String),
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    Text,
    Object,
    Schema(Value),
    /// What a regular expression matches, a grammar derives or a list holds.
    Words(Shape),
}

/// HEPH's own wishes; see `docs/gateway.md`.
// A wish that is mistyped is not taken for none: it may be one that keeps something here.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wishes {
    /// `auto`, `local`, `remote`, `layered`, `speculative`, `layered-speculative`, `preprocess`.
    pub(crate) mode: Option<String>,
    /// `nothing`, `own` or `policy`: what may leave at most.
    pub(crate) privacy: Option<String>,
    /// Words that rules of the policy know, as `salaries`; each makes the request private at least.
    pub(crate) labels: Option<Vec<String>>,
    /// What the bits of the answer must be worth: `exact`, or `any`.
    pub(crate) exactness: Option<String>,
    /// Credits that the answer may cost at most.
    pub(crate) max_price: Option<u64>,
    /// The answer ends after so many milliseconds with what there is.
    pub(crate) deadline_ms: Option<u64>,
    /// Whether the reply is kept for a lost connection.
    pub(crate) resume: Option<bool>,
    /// Whether an earlier answer may be given again: `false` never, `true` also where words are drawn by chance.
    pub(crate) recall: Option<bool>,
    /// Texts that the last message is about.
    pub(crate) documents: Option<Vec<AboutText>>,
}

/// Wishes that stand beside the field they belong into: they are refused, since whoever wrote them counts on them.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Strays {
    mode: Option<IgnoredAny>,
    privacy: Option<IgnoredAny>,
    labels: Option<IgnoredAny>,
    exactness: Option<IgnoredAny>,
}

impl Strays {
    /// Refuses the first of them, and names its place.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let strays = [
            ("mode", &self.mode),
            ("privacy", &self.privacy),
            ("labels", &self.labels),
            ("exactness", &self.exactness),
        ];
        match strays.into_iter().find(|(_, stray)| stray.is_some()) {
            Some((name, _)) => Err(Refusal::param(
                name,
                format!("{name} is a wish of HEPH: write it as \"heph\": {{\"{name}\": ...}}"),
            )),
            None => Ok(()),
        }
    }
}

/// A text that a question is about.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct AboutText {
    /// What citations call it.
    pub(crate) name: String,
    /// All of it.
    pub(crate) text: String,
}

impl Wishes {
    /// What the field says, or else the headers.
    pub(crate) fn with_headers(mut self, headers: &HeaderMap) -> Result<Self, Refusal> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
        let number = |name: &'static str| match text(name) {
            None => Ok(None),
            Some(word) => word.parse().map(Some).map_err(|_| {
                Refusal::param(name, format!("the header {name} is {word:?}, not a whole number"))
            }),
        };
        self.mode = self.mode.or_else(|| text("heph-mode").map(str::to_owned));
        self.privacy = self.privacy.or_else(|| text("heph-privacy").map(str::to_owned));
        self.labels = self.labels.or_else(|| {
            let list = text("heph-labels")?;
            Some(list.split(',').map(|word| word.trim().to_owned()).collect())
        });
        self.exactness = self
            .exactness
            .or_else(|| text("heph-exactness").map(str::to_owned));
        self.max_price = self.max_price.or(number("heph-max-price")?);
        self.deadline_ms = self.deadline_ms.or(number("heph-deadline-ms")?);
        self.resume = self
            .resume
            .or_else(|| text("heph-resume").map(|word| word == "1" || word == "true"));
        self.recall = self
            .recall
            .or_else(|| text("heph-recall").map(|word| word == "1" || word == "true"));
        Ok(self)
    }

    /// Whether the reply is kept for a lost connection.
    pub(crate) fn keep(&self) -> Keep {
        match self.resume {
            Some(true) => Keep::Yes,
            None | Some(false) => Keep::No,
        }
    }

    /// The mode by name; nothing for `auto`.
    pub(crate) fn mode(&self) -> Result<Option<Mode>, Refusal> {
        match self.mode.as_deref() {
            None | Some("auto") => Ok(None),
            Some(word) => word.parse().map(Some).map_err(|e: heph_plan::UnknownMode| {
                Refusal::param("mode", format!("{e}; auto leaves the choice to the planner"))
            }),
        }
    }

    /// Whether an answer at `price` credits is within what it may cost.
    pub(crate) fn affords(&self, price: f64) -> Result<(), Refusal> {
        match self.max_price {
            Some(most) if price > most as f64 => Err(Refusal::param(
                "max_price",
                format!("the answer costs {price} credits and may cost {most}"),
            )),
            _ => Ok(()),
        }
    }

    /// Whether machines may answer whose bits are not those of this one.
    pub(crate) fn any_bits(&self) -> Result<bool, Refusal> {
        match self.exactness.as_deref() {
            None | Some("exact") => Ok(false),
            Some("any") => Ok(true),
            Some(word) => Err(Refusal::param(
                "exactness",
                format!("{word:?} is no class of an answer; known are exact and any"),
            )),
        }
    }

    /// What may leave this machine at most.
    pub(crate) fn privacy(&self) -> Result<Privacy, Refusal> {
        match self.privacy.as_deref() {
            Some("nothing") => Ok(Privacy::Nothing),
            Some("own") => Ok(Privacy::Own),
            None | Some("policy" | "public" | "internal" | "private" | "secret") => Ok(Privacy::Policy),
            Some(word) => Err(Refusal::param(
                "privacy",
                format!(
                    "{word:?} is no privacy label; known are nothing, own and policy, and for the policy public, \
                     internal, private and secret"
                ),
            )),
        }
    }

    /// How private the caller says the request is.
    pub(crate) fn label(&self) -> Result<Label, Refusal> {
        let words = self.labels.iter().flatten();
        if self.labels.as_ref().is_some_and(|words| words.len() > TAGS_MAX) {
            return Err(Refusal::param(
                "labels",
                format!("there may be {TAGS_MAX} labels"),
            ));
        }
        self.privacy()?;
        let level = self
            .privacy
            .as_deref()
            .filter(|word| !matches!(*word, "nothing" | "own" | "policy"));
        let marks = words.map(String::as_str).chain(level).map(Label::mark);
        Ok(marks.reduce(|all, one| all.join(&one)).unwrap_or_else(unsaid))
    }
}

/// With what a request is made ready.
struct Ready {
    deadline: Option<Instant>,
    share: Share,
    /// Raised when its caller has gone.
    cancel: Cancel,
}

/// A request, ready to be handed on.
struct Prepared {
    jobs: Vec<Job>,
    starts: Vec<ChoiceStart>,
    place: Place,
    /// What the excerpts of texts show, where they are asked about.
    shows: Option<Value>,
    /// What its answers are turned back by.
    pseudonyms: Option<Arc<Pseudonyms>>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) model: String,
    pub(crate) source: Source,
    pub(crate) choices: usize,
    pub(crate) sampling: Sampling,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) stops: Vec<String>,
    pub(crate) form: Form,
    pub(crate) toolbox: Toolbox,
    pub(crate) logprobs: Option<usize>,
    pub(crate) wishes: Wishes,
    /// For whom the caller asks, where it asks for several.
    pub(crate) user: Option<String>,
}

impl Ask {
    pub(crate) fn new(model: String, source: Source) -> Self {
        Self {
            model,
            source,
            choices: 1,
            sampling: Sampling::default(),
            max_tokens: None,
            stops: Vec::new(),
            form: Form::Text,
            toolbox: Toolbox::empty(),
            logprobs: None,
            wishes: Wishes::default(),
            user: None,
        }
    }

    /// What may be told of the request, and to whom: as private as the caller says and as what stands in it.
    /// Token ids are looked through as the text that they are, where `words` reads them; else nobody knows what they say.
    pub(crate) fn discretion(&self, house: &House, words: Option<&Words>) -> Result<Discretion, Refusal> {
        self.discretion_when(house, words, Wait::Written)
    }

    /// The same once more at the answer's end.
    pub(crate) fn discretion_at_end(&self, house: &House) -> Result<Discretion, Refusal> {
        self.discretion_when(house, None, Wait::Not)
    }

    fn discretion_when(
        &self,
        house: &House,
        words: Option<&Words>,
        wait: Wait,
    ) -> Result<Discretion, Refusal> {
        let (label, limit) = (self.wishes.label()?, self.wishes.privacy()?.limit());
        let discretion = Discretion::new(&house.rules, label).within(limit);
        let (mut texts, mut read) = (Vec::new(), Vec::new());
        // The copy is only read.
        let seen = self.clone().each_text(&mut |text| {
            texts.push(text.clone());
            Ok(())
        });
        seen.map_err(Refusal::ours)?;
        for ids in self.ids() {
            match words {
                Some(words) => read.push(words.tokenizer.decode(&ids)),
                None => discretion.also(&Label::top()),
            }
        }
        if self.pictures() > 0 {
            // Nobody here sees what they show.
            discretion.also(&Label::top());
        }
        discretion.about(texts.iter().chain(&read).map(String::as_str));
        if discretion.minds_labels() {
            let (history, writing) = (&house.history, &house.writing);
            discretion.also(&provenance::known(history, writing, self, &read, wait));
        }
        Ok(discretion)
    }

    /// How many pictures are shown in it.
    fn pictures(&self) -> usize {
        match &self.source {
            Source::Chat(turns) => turns.iter().map(|turn| turn.pictures.len()).sum(),
            Source::Texts(_) => 0,
        }
    }

    /// Bytes of everything that somebody wrote or shows in it.
    pub(crate) fn bytes(&self) -> usize {
        let mut bytes: usize = match &self.source {
            Source::Chat(turns) => turns
                .iter()
                .flat_map(|turn| &turn.pictures)
                .map(|one| one.base64.len())
                .sum(),
            Source::Texts(_) => 0,
        };
        // The copy is only read, and nothing of it can be wrong then.
        let _ = self.clone().each_text(&mut |text| {
            bytes += text.len();
            Ok(())
        });
        bytes
    }

    /// Prompts that came as token ids.
    fn ids(&self) -> impl Iterator<Item = Vec<TokenId>> {
        let texts = match &self.source {
            Source::Texts(texts) => texts.as_slice(),
            Source::Chat(_) => &[],
        };
        texts.iter().filter_map(|text| match text {
            Text::Tokens(ids) => Some(ids.iter().map(|&id| TokenId(id)).collect()),
            Text::Words(_) | Text::Between(..) => None,
        })
    }

    /// The same request with everything that tells of people and doors replaced by pseudonyms, or masked, what was replaced, and the way
    /// back for its answers.
    pub(crate) fn replaced(
        &self,
        house: &House,
        discretion: &Discretion,
        by: Replacing,
    ) -> Result<(Ask, Replaced, Arc<Pseudonyms>), Refusal> {
        let stays = |stays: Stays| {
            Refusal::new(axum::http::StatusCode::FORBIDDEN, stays.to_string()).code("stays_here")
        };
        // Nothing is found in them, and so nothing can be replaced.
        if self.ids().next().is_some() || self.pictures() > 0 {
            return Err(stays(Stays::NoText));
        }
        let mut session = match by {
            Replacing::Pseudonyms => {
                Pseudonyms::new(caller::pseudonym_key(&house.pseudonym_key, self.user.as_deref()))
            }
            Replacing::Masks => Pseudonyms::masks(),
        };
        let (mut ask, mut texts) = (self.clone(), Vec::new());
        let read = ask.each_text(&mut |text| {
            texts.push(std::mem::take(text));
            Ok(())
        });
        read.map_err(Refusal::ours)?;
        let replaced = heph_privacy::replace(&mut texts, &discretion.label(), Model::bundled(), &mut session)
            .map_err(stays)?;
        let mut ask = self.clone();
        let mut texts = texts.into_iter();
        let written = ask.each_text(&mut |text| {
            *text = texts.next().unwrap_or_default();
            Ok(())
        });
        written.map_err(|_| stays(Stays::NoPseudonym(PseudonymError::Ambiguous)))?;
        Ok((ask, replaced, Arc::new(session)))
    }

    /// Shows everything that somebody wrote in it, always in the same order, and takes what is made of it: messages, names,
    /// calls with their numbers and their results, what tools are told to do, shapes of answers, texts that end one, documents. JSON is
    /// shown as it is written.
    pub(crate) fn each_text(
        &mut self,
        look: &mut dyn FnMut(&mut String) -> Result<(), serde_json::Error>,
    ) -> Result<(), serde_json::Error> {
        let json = |value: &mut Value, look: &mut dyn FnMut(&mut String) -> Result<(), serde_json::Error>| {
            let mut text = value.to_string();
            let before = text.clone();
            look(&mut text)?;
            // Whoever only reads may take the text away.
            if !text.is_empty() && text != before {
                *value = serde_json::from_str(&text)?;
            }
            Ok::<(), serde_json::Error>(())
        };
        match &mut self.source {
            Source::Chat(turns) => {
                for turn in turns {
                    look(&mut turn.content)?;
                    turn.name.iter_mut().try_for_each(&mut *look)?;
                    turn.call_id.iter_mut().try_for_each(&mut *look)?;
                    for call in &mut turn.calls {
                        look(&mut call.id)?;
                        look(&mut call.function.name)?;
                        // JSON in a string leaves as the JSON that it is.
                        call.function.arguments = call.arguments();
                        json(&mut call.function.arguments, look)?;
                    }
                }
            }
            Source::Texts(texts) => {
                for text in texts {
                    match text {
                        Text::Words(words) => look(words)?,
                        Text::Between(before, behind) => {
                            look(before)?;
                            look(behind)?;
                        }
                        Text::Tokens(_) => {}
                    }
                }
            }
        }
        self.stops.iter_mut().try_for_each(&mut *look)?;
        match &mut self.form {
            Form::Text | Form::Object | Form::Words(Shape::JsonObject) => {}
            Form::Schema(schema) | Form::Words(Shape::JsonSchema(schema)) => json(schema, look)?,
            Form::Words(Shape::Regex(text) | Shape::Lark(text)) => look(text)?,
            Form::Words(Shape::Choice(texts)) => texts.iter_mut().try_for_each(&mut *look)?,
        }
        for tool in &mut self.toolbox.tools {
            look(&mut tool.description)?;
            json(&mut tool.parameters, look)?;
        }
        for document in self.wishes.documents.iter_mut().flatten() {
            look(&mut document.name)?;
            look(&mut document.text)?;
        }
        Ok(())
    }

    /// Hands the request to the engine. Everything that can be wrong with it is said here, before anything is written.
    pub(crate) async fn submit(self, door: &Door) -> Result<Answer, Refusal> {
        if outside::is_outside(door, &self.model)? {
            return outside::submit(self, door).await;
        }
        let writer = writer(door, &self.model).await?;
        self.check()?;
        let deadline = self
            .wishes
            .deadline_ms
            .map(|ms| Instant::now() + Duration::from_millis(ms.min(86_400_000)));
        let share = caller::share(&self.wishes, self.user.as_deref(), door.keeping)?;
        let (work, house, began) = (Arc::clone(&writer), Arc::clone(door), Instant::now());
        // Templates, vocabularies, grammars and other machines are work for a thread that others do not wait for.
        let prepare = move |cancel: &Cancel| {
            let ready = Ready {
                deadline,
                share,
                cancel: cancel.clone(),
            };
            let prepared = self.prepared(&house, &work, &ready);
            prepared.map(|prepared| (self, prepared))
        };
        let (ask, prepared) = caller::on_thread(prepare).await??;
        let Prepared {
            jobs,
            starts,
            place,
            shows,
            pseudonyms,
        } = prepared;
        let ask = Arc::new(ask);
        let prompt_tokens = jobs.first().map_or(0, |job| job.prompt.len());
        let verdict = match jobs.as_slice() {
            [only] => recall::look(door, &ask, only, &writer, share).await,
            _ => None,
        };
        let learning = match verdict {
            Some(Verdict::Again(recalled)) => {
                let found = recall::found(recalled, &jobs[0], &writer, began);
                let answer = Answer::recalled(Arc::clone(door), writer, prompt_tokens, found);
                return Ok(answer.tracing(Trace::new(ask)));
            }
            Some(Verdict::Ask(lesson)) => Some(Learning::new(lesson)),
            None => None,
        };
        // Whatever is being written by others is read no further.
        door.ahead.turn();
        let (by, replies) = match place {
            Place::Here(degraded) => {
                let replies = writer.service.submit(jobs);
                (By::here(writer, degraded), replies)
            }
            Place::Course(course) => {
                ask.fits(jobs.len() / ask.choices, door.errands.answers_max())?;
                let by = By::course(writer, course.record(), ask.wishes.mode()?);
                let errands = elsewhere::errands(&course, jobs, pseudonyms.as_ref());
                (
                    by,
                    door.errands.submit(caller::asker(ask.user.as_deref()), errands),
                )
            }
        };
        let by = by.showing(shows);
        let replies = replies.inspect_err(|_| door.counters.refused())?;
        Ok(Answer::new(
            Arc::clone(door),
            by,
            prompt_tokens,
            replies.into_iter().zip(starts).collect(),
        )
        .learning(learning)
        .tracing(Trace::new(ask)))
    }

    /// The jobs of the request, and who does them.
    fn prepared(&self, house: &House, writer: &Arc<Writer>, ready: &Ready) -> Result<Prepared, Refusal> {
        let mut prepared = self.prepared_for(house, writer, ready, None)?;
        if let Place::Course(course) = &prepared.place
            && let Some(by) = course.wants_replaced()
        {
            // The plan stands; what it is about is told with pseudonyms, or masked.
            let (ask, replaced, pseudonyms) = self.replaced(house, course.discretion(), by)?;
            let course = course.with_replaced(replaced);
            prepared = ask.prepared_for(house, writer, ready, Some(course))?;
            prepared.pseudonyms = Some(pseudonyms);
        }
        Ok(prepared)
    }

    /// As [`Ask::prepared`]; `course` is taken where one was chosen already.
    fn prepared_for(
        &self,
        house: &House,
        writer: &Arc<Writer>,
        ready: &Ready,
        course: Option<Arc<dyn Course>>,
    ) -> Result<Prepared, Refusal> {
        let place = |jobs: &[Job], about| {
            caller::waits(&ready.cancel)?;
            match course {
                Some(course) => Ok(Place::Course(course)),
                None => elsewhere::place(house, writer, self, jobs, about),
            }
        };
        let Some(about) = About::of(self, house, writer, &ready.cancel)? else {
            let (jobs, starts) = self.jobs(writer, ready)?;
            let place = place(&jobs, None)?;
            return Ok(Prepared {
                jobs,
                starts,
                place,
                shows: None,
                pseudonyms: None,
            });
        };
        let needed = about.needs_excerpts(writer.service.context())?;
        let form = |excerpts: bool| if excerpts { &about.excerpts } else { &about.whole };
        let (mut jobs, mut starts) = form(needed).jobs(writer, ready)?;
        let place = place(&jobs, Some(about.tokens))?;
        let planned =
            matches!(&place, Place::Course(course) if course.record().decision.plan.mode == Mode::Preprocess);
        if planned && !needed {
            (jobs, starts) = form(true).jobs(writer, ready)?;
        }
        Ok(Prepared {
            jobs,
            starts,
            place,
            shows: (needed || planned).then(|| about.told()),
            pseudonyms: None,
        })
    }

    /// That nothing is shown to the model called `name`, which is of this house and reads words alone.
    fn sees_nothing(&self, name: &str) -> Result<(), Refusal> {
        match self.pictures() {
            0 => Ok(()),
            _ => {
                let sentence =
                    format!("the model {name} reads no pictures; a provider's model may (`heph providers`)");
                Err(Refusal::param("messages", sentence).code("picture"))
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.pictures() > PICTURES_MAX {
            let sentence = format!("there may be {PICTURES_MAX} pictures in a request");
            return Err(Refusal::param("messages", sentence).code("picture"));
        }
        if self.choices == 0 || self.choices > CHOICES_MAX {
            return Err(Refusal::param("n", format!("n must be from 1 to {CHOICES_MAX}")));
        }
        let (count, bytes) = STOPS_MAX;
        if self.stops.len() > count || self.stops.iter().any(|stop| stop.len() > bytes) {
            return Err(Refusal::param(
                "stop",
                format!("there may be {count} stop texts of {bytes} bytes each"),
            ));
        }
        if self.logprobs.is_some_and(|n| n > TOP_LOGPROBS_MAX) {
            return Err(Refusal::param(
                "top_logprobs",
                format!("top_logprobs may be {TOP_LOGPROBS_MAX} at most"),
            ));
        }
        Ok(())
    }

    /// That the probabilities of a whole answer can be held until all of it is there; those of a stream are told as they come.
    pub(crate) fn tells_whole(&self, house: &House) -> Result<(), Refusal> {
        self.check()?;
        let Some(top) = self.logprobs else { return Ok(()) };
        let prompts = match &self.source {
            Source::Chat(_) => 1,
            Source::Texts(texts) => texts.len(),
        };
        let context = house.engines.served.service.context();
        let most = self.max_tokens.map_or(context, |most| {
            context.min(usize::try_from(most).unwrap_or(usize::MAX))
        });
        let told = [most, top.saturating_add(1), self.choices]
            .into_iter()
            .fold(prompts, usize::saturating_mul);
        match told > REPORTED_MAX {
            true => Err(Refusal::param(
                "top_logprobs",
                format!(
                    "a whole answer tells {REPORTED_MAX} probabilities at most, and this one may come to {told}: a stream tells all"
                ),
            )),
            false => Ok(()),
        }
    }

    /// That there is ever room for the choices of so many prompts: whoever asks for more would be told to come again for ever.
    pub(crate) fn fits(&self, prompts: usize, most: usize) -> Result<(), Refusal> {
        match prompts.saturating_mul(self.choices) {
            asked if asked > most => Err(Refusal::param(
                "n",
                format!("one request may ask for {most} answers, and this one asks for {asked}"),
            )),
            _ => Ok(()),
        }
    }

    fn jobs(&self, writer: &Writer, ready: &Ready) -> Result<(Vec<Job>, Vec<ChoiceStart>), Refusal> {
        let Ready {
            deadline,
            share,
            cancel,
        } = ready;
        let words = writer.service.words();
        let mut prompts = self.prompts(writer, cancel)?;
        self.fits(prompts.len(), writer.service.answers_max())?;
        let begun = self.toolbox.begun(&writer.call_form);
        if let Some((_, beginning)) = &begun {
            let tokens = words
                .tokenizer
                .encode(beginning, AddSpecial::No, ParseSpecial::Yes);
            prompts.iter_mut().for_each(|prompt| prompt.extend(&tokens));
        }
        let sampling = self.sampling.options(words.tokenizer.vocab_size())?;
        let shape = match &self.form {
            Form::Text => self.toolbox.shape(&writer.call_form),
            _ if self.toolbox.must_call() => self.toolbox.shape(&writer.call_form),
            Form::Object => Some(Shape::JsonSchema(compact(&json!({ "type": "object" })))),
            Form::Schema(schema) => Some(Shape::JsonSchema(compact(schema))),
            Form::Words(shape) => Some(shape.clone()),
        };
        // Free text in which calls may stand has no end to be brought to.
        let complete = self.form != Form::Text || self.toolbox.must_call();
        let context = writer.service.context();
        let most = self
            .max_tokens
            .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let (mut jobs, mut starts) = (Vec::new(), Vec::new());
        let asker = caller::asker(self.user.as_deref());
        // Compiled once for all choices, which begin alike.
        let mut constraint = None;
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(Refusal::bad("the prompt is empty"));
            }
            if prompt.len() >= context {
                let sentence = format!(
                    "This model's maximum context length is {context} tokens. However, the prompt has {} tokens.",
                    prompt.len()
                );
                return Err(Refusal::bad(sentence).code("context_length_exceeded"));
            }
            for _ in 0..self.choices {
                caller::waits(cancel)?;
                if let (Some(shape), None) = (&shape, &constraint) {
                    let shaper = writer.shaper.as_ref();
                    let shaper =
                        shaper.ok_or_else(|| Refusal::bad("this model's answers cannot be given a shape"))?;
                    let made = shaper
                        .constraint(shape)
                        .map_err(|e| Refusal::bad(e.to_string()).code("invalid_schema"))?;
                    constraint = Some(if complete { made.completed() } else { made });
                }
                let mut sampling = sampling.clone();
                sampling.seed = seed_of(sampling.seed, jobs.len());
                starts.push(ChoiceStart {
                    style: self.toolbox.may_call().then_some(writer.call_form.style),
                    begun: begun.as_ref().map(|(tool, _)| tool.name.clone()),
                });
                jobs.push(Job {
                    prompt: prompt.clone(),
                    sampling,
                    max_tokens: most.min(context - prompt.len()).max(1),
                    stops: self.stops.clone(),
                    constraint: constraint.clone(),
                    logprobs: self.logprobs,
                    deadline: *deadline,
                    share: *share,
                    asker,
                });
            }
        }
        Ok((jobs, starts))
    }

    /// The tokens to go on from, as long as somebody waits for them.
    pub(crate) fn prompts(&self, writer: &Writer, cancel: &Cancel) -> Result<Vec<Vec<TokenId>>, Refusal> {
        self.sees_nothing(&writer.name)?;
        let words = writer.service.words();
        match &self.source {
            Source::Chat(turns) => Ok(vec![self.chat(turns, writer, cancel)?]),
            Source::Texts(texts) => {
                let tokens = texts.iter().map(|text| {
                    caller::waits(cancel)?;
                    tokens_of(text, words, writer)
                });
                tokens.collect()
            }
        }
    }

    fn chat(&self, turns: &[Turn], writer: &Writer, cancel: &Cancel) -> Result<Vec<TokenId>, Refusal> {
        if turns.is_empty() || turns.len() > MESSAGES_MAX {
            return Err(Refusal::param(
                "messages",
                format!("there must be 1 to {MESSAGES_MAX} messages"),
            ));
        }
        let words = writer.service.words();
        let native = writer.call_form.native;
        let messages = if native {
            turns.iter().map(native_turn).collect()
        } else {
            self.told_turns(turns)
        };
        let tools = if native { self.toolbox.for_template() } else { None };
        words
            .conversation(&Value::Array(messages), tools.as_ref(), &|| cancel.is_raised())
            .ok_or_else(|| {
                Refusal::bad("the model has no chat template; /v1/completions goes on with a text as it is")
            })?
            .map_err(|e| Refusal::param("messages", e.to_string()))
    }

    /// The turns for a template that knows no tools: what it cannot say stands in the text.
    fn told_turns(&self, turns: &[Turn]) -> Vec<Value> {
        let mut told: Vec<(String, String)> = Vec::new();
        let mut tools = self.toolbox.told();
        for turn in turns {
            let (role, content) = match turn.role.as_str() {
                "tool" | "function" => (
                    "user",
                    format!("<tool_response>\n{}\n</tool_response>", turn.content),
                ),
                "developer" => ("system", turn.content.clone()),
                role => (role, turn.content.clone()),
            };
            let calls = turn.calls.iter().map(MadeCall::told);
            let parts: Vec<String> = Some(content)
                .filter(|c| !c.is_empty() || turn.calls.is_empty())
                .into_iter()
                .chain(calls)
                .collect();
            let content = parts.join("\n");
            // The tools stand in the first message, which is the system's.
            match tools.take() {
                Some(tools) if role == "system" => {
                    told.push(("system".to_owned(), format!("{content}\n\n{tools}")))
                }
                Some(tools) => told.extend([("system".to_owned(), tools), (role.to_owned(), content)]),
                None => told.push((role.to_owned(), content)),
            }
        }
        told.into_iter()
            .map(|(role, content)| json!({ "role": role, "content": content }))
            .collect()
    }
}

fn native_turn(turn: &Turn) -> Value {
    let role = match turn.role.as_str() {
        "developer" => "system",
        "function" => "tool",
        role => role,
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), json!(role));
    message.insert("content".to_owned(), json!(turn.content));
    if !turn.calls.is_empty() {
        let calls = turn.calls.iter().map(MadeCall::for_template).collect();
        message.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    for (key, value) in [("tool_call_id", &turn.call_id), ("name", &turn.name)] {
        if let Some(value) = value {
            message.insert(key.to_owned(), json!(value));
        }
    }
    Value::Object(message)
}

fn tokens_of(text: &Text, words: &Words, writer: &Writer) -> Result<Vec<TokenId>, Refusal> {
    let encode = |text: &str, add| words.tokenizer.encode(text, add, ParseSpecial::No);
    match text {
        Text::Words(text) => Ok(encode(text, AddSpecial::Yes)),
        Text::Tokens(ids) => {
            let vocab = words.tokenizer.vocab_size();
            match ids.iter().find(|&&id| id as usize >= vocab) {
                Some(id) => Err(Refusal::param(
                    "prompt",
                    format!("token {id} is not one of the model's {vocab}"),
                )),
                None => Ok(ids.iter().map(|&id| TokenId(id)).collect()),
            }
        }
        Text::Between(prefix, suffix) => Ok(match writer.middle {
            Some(mark) => {
                let (before, after) = (encode(prefix, AddSpecial::No), encode(suffix, AddSpecial::No));
                let bos = words.tokenizer.bos().filter(|_| words.tokenizer.adds_bos());
                let order = [
                    &[mark.prefix][..],
                    &before,
                    &[mark.suffix],
                    &after,
                    &[mark.middle],
                ]
                .concat();
                bos.into_iter().chain(order).collect()
            }
            // Without tokens for it: what follows is shown first, so that the model has read it.
            None => encode(&format!("{}\n\n{prefix}", suffix.trim()), AddSpecial::Yes),
        }),
    }
}

/// The model whose words a request for `name` is read with: a provider's is read with those of the served one.
pub(crate) async fn reader(door: &Door, name: &str) -> Result<Arc<Writer>, Refusal> {
    match outside::is_outside(door, name)? {
        true => Ok(Arc::clone(&door.engines.served)),
        false => writer(door, name).await,
    }
}

/// The model of that name that writes.
pub(crate) async fn writer(door: &Door, name: &str) -> Result<Arc<Writer>, Refusal> {
    let name = name.strip_suffix(":latest").unwrap_or(name);
    match door.engines.engine(name).await.map_err(not_there)? {
        Engine::Writes(writer) => Ok(writer),
        Engine::Reads(reader) => Err(Refusal::param(
            "model",
            format!("{} turns texts into vectors and answers nobody", reader.name),
        )),
    }
}

/// A model that is not there is the caller's mistake, one that cannot be loaded is ours.
pub(crate) fn not_there(error: engines::EngineError) -> Refusal {
    use heph_runtime::store::StoreError;
    match &error {
        engines::EngineError::Store(StoreError::Unknown { name, .. }) => {
            let mut refusal =
                Refusal::missing(format!("the model {name:?} is not here")).code("model_not_found");
            refusal.message.push_str("; GET /v1/models names those that are");
            refusal
        }
        engines::EngineError::Load(heph_engine::model::LoadError::DoesNotFit { .. }) => {
            Refusal::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        _ => Refusal::ours(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_call_tells_is_looked_at() {
        let call = json!({ "id": "the number", "function": { "name": "the name", "arguments": r#"{"to":"ann.lee\u0040example.org"}"# } });
        let turn = Turn {
            calls: vec![serde_json::from_value(call).unwrap()],
            call_id: Some("the number of the result".to_owned()),
            name: Some("who".to_owned()),
            ..Turn::new("assistant", "a message")
        };
        let mut ask = Ask::new("m".to_owned(), Source::Chat(vec![turn]));
        let mut seen = Vec::new();
        let look = ask.each_text(&mut |text| {
            seen.push(text.clone());
            *text = text.replace("ann.lee", "bob.ray");
            Ok(())
        });
        look.unwrap();
        // What stands escaped in JSON leaves as what it stands for, and is looked at so.
        for part in [
            "a message",
            "who",
            "the number",
            "the name",
            "the number of the result",
            r#"{"to":"ann.lee@example.org"}"#,
        ] {
            assert!(seen.iter().any(|text| text == part), "{part}: {seen:?}");
        }
        let Source::Chat(turns) = &ask.source else {
            unreachable!()
        };
        assert_eq!(
            turns[0].calls[0].arguments(),
            json!({ "to": "bob.ray@example.org" })
        );
    }
}
