//! Outside providers as executor seats: the list that a person keeps, their keys, and the answers that they give.
//!
//! Whoever is on the list was added by a person, and sees no text before the person allowed that too. Every answer goes
//! through the policy ([`heph_privacy::Clearance`]), may cost no more than was said, and comes with a receipt that says what
//! left, to whom and at which price. What a provider says is worth no more than its word.

mod book;

pub(crate) use book::FILE as PROVIDERS_FILE;
pub use book::{BookError, ProviderBook};

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heph_net::secrets::{SecretError, Secrets};
use heph_plan::Mode;
use heph_privacy::policy::{Rule, Verdict, When};
use heph_privacy::{Clearance, Stays};
use heph_providers::{
    AskError, Barred, Client, Dial, Done, End, Keeper, Limits, Listener, Pending, Provider, Question,
    Refused, Said, Secret, Sending, Way,
};
use heph_types::{Exactness, LayerRange, Leaves};

use crate::desk::{Finish, Guesses};
use crate::discretion::Discretion;
use crate::egress::Kind;
use crate::gate::Left;
use crate::guard::{self, Conn, Grounds, Leave, Outlet};
use crate::receipt::{LeftLine, PlaceLine, ProviderLine, Receipt, TrafficLine};
use crate::service::{Ending, Fate, Outcome, ServiceError, Speaker};

/// What is to be answered by a provider.
#[derive(Debug, Clone)]
pub struct Commission {
    /// The provider.
    pub provider: Provider,
    /// What it is asked.
    pub question: Question,
    /// What may be told of it, and to whom.
    pub discretion: Discretion,
    /// Credits that the answer may cost at most.
    pub price_max: Option<f64>,
    /// When the answer ends with what there is.
    pub deadline: Option<Instant>,
}

/// Why a provider is not asked.
#[derive(Debug, thiserror::Error)]
pub enum CommissionError {
    /// The person did not allow it to see anything.
    #[error("the provider {0} is not allowed to see any text")]
    Unallowed(String),
    /// The rules keep this from it.
    #[error("the provider {provider} is not asked: {stays}")]
    Forbidden {
        /// The provider.
        provider: String,
        /// Why.
        #[source]
        stays: Stays,
    },
    /// It has no such model.
    #[error("the provider {provider} is not asked for the model {model:?}; it is for {known}")]
    Model {
        /// The provider.
        provider: String,
        /// The model.
        model: String,
        /// Those that it is asked for.
        known: String,
    },
    /// What it costs is not known, or too much.
    #[error("{0}")]
    Price(String),
}

/// The rule that `heph providers add --allow` makes where no policy stands in a file: this provider, at this address, may be
/// asked. A short rule about its role counts in place of it.
pub fn leave(provider: &Provider) -> Option<Rule> {
    let when = When {
        to: vec![provider.role.into()],
        names: vec![provider.node().to_string()],
        ..When::default()
    };
    (provider.sees >= Leaves::Text).then(|| Rule {
        name: format!("the provider {} is allowed", provider.name),
        when,
        then: Verdict::Allow,
    })
}

impl Commission {
    /// Leave to ask the provider, by what the person allowed it and by the rules as they stand now.
    fn clearance(&self) -> Result<Clearance, CommissionError> {
        let provider = &self.provider;
        if provider.sees < Leaves::Text {
            return Err(CommissionError::Unallowed(provider.name.clone()));
        }
        let asked = self.discretion.clone().in_mode(Mode::Remote.name());
        let to = provider.destination();
        let clearance = match asked.sees(&to, provider.role) {
            Leaves::Embeddings | Leaves::Activations => Err(Stays::NoText),
            Leaves::Nothing | Leaves::Text => asked.clearance(&to),
        };
        clearance.map_err(|stays| CommissionError::Forbidden {
            provider: provider.name.clone(),
            stays,
        })
    }

    /// The commission, if it may be given; its question then asks for no more tokens than it may cost.
    ///
    /// # Errors
    /// When policy, models or price say no. Nothing was sent then.
    pub fn checked(mut self) -> Result<Self, CommissionError> {
        self.clearance()?;
        let (provider, question) = (&self.provider, &mut self.question);
        if !provider.models.contains(&question.model) {
            return Err(CommissionError::Model {
                provider: provider.name.clone(),
                model: question.model.chars().take(80).collect(),
                known: provider.models.join(", "),
            });
        }
        let Some(most) = self.price_max else {
            return Ok(self);
        };
        if question.shows_pictures() {
            let sentence = format!(
                "what the provider {} asks for a picture is not known, and the answer may cost {most} credits",
                provider.name
            );
            return Err(CommissionError::Price(sentence));
        }
        let Some(rates) = provider.price else {
            let sentence = format!(
                "what the provider {} costs is not known, and the answer may cost {most} credits",
                provider.name
            );
            return Err(CommissionError::Price(sentence));
        };
        // A token has a byte at least, so a text has no more tokens than bytes, and a template adds a few for each turn.
        let prompt_max = question.bytes() as u64 + TEMPLATE_TOKENS;
        let affordable = rates.answer_tokens(most, prompt_max).ok_or_else(|| {
            CommissionError::Price(format!(
                "a prompt of up to {prompt_max} tokens costs up to {} credits there, and the answer may cost {most}",
                rates.of(prompt_max, 1)
            ))
        })?;
        if rates.answer > 0.0 {
            let wanted = question.max_tokens.unwrap_or(u64::MAX);
            question.max_tokens = Some(wanted.min(affordable));
        }
        Ok(self)
    }
}

/// What templates of conversations add at most, for the price that may not be exceeded.
const TEMPLATE_TOKENS: u64 = 256;

/// Asks providers, on a thread of its own for their connections, which are the guard's.
#[derive(Debug)]
pub struct Outside {
    outlet: Outlet,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Outside {
    /// Providers whose keys are in the home folder of `outlet`, which opens their connections.
    ///
    /// # Errors
    /// A sentence where the system gives no thread or no TLS.
    pub fn new(outlet: Outlet, limits: Limits) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("heph-providers")
            .enable_all()
            .build()
            .map_err(|error| format!("the system gives no thread: {error}"))?;
        let client = Client::new(limits, outlet.clone())?;
        Ok(Self {
            outlet,
            runtime,
            client,
        })
    }

    fn key(&self, provider: &Provider) -> Result<Option<Secret>, ServiceError> {
        let found = Secrets::new(self.outlet.home()).find(provider.node(), &provider.name);
        let failed = |error: SecretError| elsewhere(error.to_string(), Fate::Unavailable);
        Ok(found.map_err(failed)?.as_deref().and_then(Secret::new))
    }

    /// Answers, and says the answer as it comes.
    ///
    /// # Errors
    /// When the commission may not be given, or the provider gives no answer.
    pub fn answer(&self, commission: Commission, speaker: &Speaker) -> Result<Outcome, ServiceError> {
        let checked = commission.checked();
        let commission = checked.map_err(|error| elsewhere(error.to_string(), Fate::Refused))?;
        // Once more: rules may have changed while it waited for its turn.
        let clearance = commission
            .clearance()
            .map_err(|error| elsewhere(error.to_string(), Fate::Refused))?;
        let Commission {
            provider, deadline, ..
        } = &commission;
        let question = clearance.clear_part(commission.question.clone());
        let key = self.key(provider)?;
        // And while it is asked: a policy that is written meanwhile holds another try, and ends an answer under way.
        let forbidden = || commission.clearance().err();
        let stopped = || speaker.cancel().is_raised() || forbidden().is_some();
        let listener = Listener {
            stopped: &stopped,
            deadline: *deadline,
        };
        let heard = Mutex::new(Heard::default());
        let mut say = |said: Said| {
            if let Ok(mut heard) = heard.lock() {
                heard.first.get_or_insert_with(Instant::now);
                heard.pieces += 1;
            }
            match said {
                Said::Text(text) => speaker.say(&text),
                Said::Thought(text) => speaker.think(&text),
                Said::Call { id, name } => speaker.call(&id, &name),
                Said::Arguments(text) => speaker.arguments(&text),
            }
        };
        let asked = self
            .client
            .ask(provider, key.as_ref(), &question, &listener, &mut say);
        let done = self.runtime.block_on(asked);
        let heard = heard.into_inner().unwrap_or_default();
        match done {
            Ok(done) => Ok(outcome(
                &commission,
                &Left::by(&clearance),
                &done,
                &heard,
                speaker,
            )),
            Err(AskError::Stopped) if !speaker.cancel().is_raised() => Err(match forbidden() {
                Some(error) => elsewhere(error.to_string(), Fate::Refused),
                None => failed(AskError::Stopped),
            }),
            Err(error) => Err(failed(error)),
        }
    }

    /// The models that a provider says it has. Shows it its key and no text.
    ///
    /// # Errors
    /// When it does not say.
    pub fn models(&self, provider: &Provider) -> Result<Vec<String>, ServiceError> {
        let key = self.key(provider)?;
        let listener = Listener {
            stopped: &|| false,
            deadline: Some(Instant::now() + LIST_DEADLINE),
        };
        let asked = self.client.models(provider, key.as_ref(), &listener);
        self.runtime.block_on(asked).map_err(failed)
    }
}

impl Dial for Outlet {
    fn open(&self, sending: Sending) -> Pending<'_, Way> {
        let (outlet, leave) = (self.clone(), asked(&sending));
        Box::pin(async move {
            let opening = tokio::task::spawn_blocking(move || Outlet::open(&outlet, &leave));
            let conn = opening.await.map_err(|error| broken(&error))?.map_err(barred)?;
            let io = passing(&conn).map_err(|error| broken(&error))?;
            Ok(Way {
                io: Box::new(io),
                keeper: Arc::new(conn),
            })
        })
    }
}

impl Keeper for Conn {
    fn leave(&self, sending: Sending) -> Pending<'_, ()> {
        let (conn, leave) = (self.clone(), asked(&sending));
        Box::pin(async move {
            let asking = tokio::task::spawn_blocking(move || Conn::leave(&conn, &leave));
            asking.await.map_err(|error| broken(&error))?.map_err(barred)
        })
    }

    fn trouble(&self) -> Pin<Box<dyn Future<Output = Option<Barred>> + Send + '_>> {
        let conn = self.clone();
        Box::pin(async move {
            let asking = tokio::task::spawn_blocking(move || conn.ended()).await;
            asking.ok().flatten().map(barred)
        })
    }
}

/// What the guard is asked.
fn asked(sending: &Sending) -> Leave {
    let Sending {
        provider,
        leave,
        bytes,
        patience,
    } = sending;
    Leave {
        kind: Kind::Provider,
        who: provider.name.clone(),
        host: provider.url.bare_host().to_owned(),
        port: provider.url.port(),
        purpose: "answer".to_owned(),
        grounds: leave.as_ref().map(Grounds::from),
        bytes: *bytes,
        patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
    }
}

fn barred(barred: guard::Barred) -> Barred {
    match barred {
        guard::Barred::Forbidden(why) => Barred::Forbidden(why),
        // Asking again asks a guard that was begun anew.
        other => broken(&other),
    }
}

fn broken(error: &dyn std::error::Error) -> Barred {
    Barred::Unreachable(error.to_string())
}

#[cfg(unix)]
fn passing(conn: &Conn) -> io::Result<tokio::net::UnixStream> {
    let data = conn.data().try_clone()?;
    data.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(data)
}

#[cfg(not(unix))]
fn passing(conn: &Conn) -> io::Result<tokio::net::TcpStream> {
    let data = conn.data().try_clone()?;
    data.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(data)
}

/// How long a list of models may take.
const LIST_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Heard {
    first: Option<Instant>,
    pieces: usize,
}

fn elsewhere(sentence: String, fate: Fate) -> ServiceError {
    ServiceError::Elsewhere { sentence, fate }
}

fn failed(error: AskError) -> ServiceError {
    let fate = match &error {
        AskError::Shape { .. } | AskError::Elsewhere { .. } | AskError::Forbidden { .. } => Fate::Refused,
        AskError::Unreachable { .. } => Fate::Unavailable,
        AskError::Refused { kind, .. } => match kind {
            Refused::Request => Fate::Refused,
            // The caller has no part in what key this machine has.
            Refused::Key => Fate::Broken,
            Refused::TooOften(pause) => Fate::Limited(*pause),
            Refused::Unwell(_) => Fate::Unavailable,
        },
        AskError::Late { .. } | AskError::TimeUp { .. } => Fate::Late,
        AskError::Nonsense { .. } | AskError::Cut { .. } => Fate::Broken,
        AskError::Stopped => return ServiceError::Stopped,
    };
    elsewhere(error.to_string(), fate)
}

fn outcome(commission: &Commission, left: &Left, done: &Done, heard: &Heard, speaker: &Speaker) -> Outcome {
    let Commission {
        provider, question, ..
    } = commission;
    let now = Instant::now();
    let (first, total) = (
        heard.first.unwrap_or(now) - speaker.began(),
        now - speaker.began(),
    );
    let mut degraded: Vec<String> = done
        .dropped
        .iter()
        .map(|name| format!("{name} was not passed on: {} has no such number.", provider.name))
        .collect();
    if done.prompt_tokens.is_none() || done.answer_tokens.is_none() {
        degraded.push(format!(
            "{} told no counts of tokens: bytes and pieces stand for them.",
            provider.name
        ));
    }
    if done.end == End::Withheld {
        degraded.push(format!("{} did not want to say more.", provider.name));
    }
    let prompt = done.prompt_tokens.unwrap_or(question.bytes() as u64);
    let answer = done.answer_tokens.unwrap_or(heard.pieces as u64);
    let count = |tokens: u64| usize::try_from(tokens).unwrap_or(usize::MAX);
    let (prompt_tokens, answer_tokens) = (count(prompt), count(answer));
    let after = (total - first).as_secs_f64();
    let (ending, finish) = match &done.end {
        End::Stop | End::Calls | End::Withheld => (Ending::Stop, Finish::Stop),
        End::StopText(text) => (Ending::StopText(text.clone()), Finish::Stop),
        End::Length => (Ending::Length, Finish::Length),
        End::TimeUp => (Ending::Deadline, Finish::Cancelled),
    };
    let speed = provider.speed;
    let places = LayerRange::new(0, 0, 0).map(|layers| PlaceLine {
        from: 0,
        to: prompt_tokens.saturating_add(answer_tokens),
        layers,
        node: provider.node(),
        name: provider.name.clone(),
        role: Some(provider.role),
        saw: Leaves::Text,
    });
    let receipt = Receipt {
        mode: Mode::Remote,
        model: format!("{}/{}", provider.name, question.model),
        exactness: Exactness::Unknown,
        places: places.into_iter().collect(),
        traffic: vec![TrafficLine {
            node: provider.node(),
            name: provider.name.clone(),
            up: done.up,
            down: done.down,
        }],
        between: Vec::new(),
        weights: Vec::new(),
        moves: Vec::new(),
        guesses: Guesses::default(),
        degraded,
        finish,
        prompt_tokens,
        answer_tokens,
        first_token_s: first.as_secs_f64(),
        tokens_per_s: if after > 0.0 { answer as f64 / after } else { 0.0 },
        expected_first_token_s: speed.map_or(0.0, |pace| pace.first_token_ms / 1e3),
        expected_tokens_per_s: speed.map_or(0.0, |pace| pace.tokens_per_s),
        price: provider.price.map_or(0.0, |rates| rates.of(prompt, answer)),
        file: String::new(),
        precision: String::new(),
        left: vec![LeftLine::new(provider.node(), left)],
        tools: Vec::new(),
        vouched: Vec::new(),
        provider: Some(ProviderLine {
            name: provider.name.clone(),
            address: provider.url.to_string(),
            model: question.model.clone(),
            region: provider.region.as_ref().map(ToString::to_string),
            retention: provider.retention.to_string(),
            tries: done.tries,
        }),
    };
    Outcome {
        ending,
        prompt_tokens,
        cached_tokens: 0,
        answer_tokens,
        first_token: first,
        total,
        elsewhere: Some(Box::new(receipt)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use heph_providers::{Rates, Turn};

    use super::*;
    use crate::discretion::{Limit, unsaid};
    use crate::rules::testing::rules;
    use crate::rules::{POLICY_FILE, Rules};
    use crate::service::{Errand, ErrandLimits, Errands, Heard as ServedHeard};

    fn provider(sees: &str) -> Provider {
        let text = format!(
            "name = \"cloud\"\ndialect = \"openai\"\nurl = \"https://api.example/v1\"\nmodels = [\"m\"]\nsees = \"{sees}\""
        );
        toml::from_str(&text).unwrap()
    }

    fn discretion(provider: &Provider, allow: &[&str]) -> Discretion {
        let usual = leave(provider).into_iter().collect();
        let allow = allow.iter().map(|word| word.parse().unwrap()).collect();
        Discretion::new(&Rules::without_files(allow), unsaid()).with_usual(usual)
    }

    fn commission(provider: Provider, allow: &[&str], price_max: Option<f64>) -> Commission {
        Commission {
            discretion: discretion(&provider, allow),
            question: Question::chat("m", vec![Turn::new("user", "0123456789")]),
            provider,
            price_max,
            deadline: None,
        }
    }

    #[test]
    fn a_provider_that_was_busy_is_not_asked_again_where_a_policy_was_written_meanwhile() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (asked, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let read = stream.read(&mut [0; 4096]).unwrap_or(0);
                if asked.send(read).is_err() {
                    return;
                }
                let head =
                    "HTTP/1.1 503 Busy\r\nretry-after: 15\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
            }
        });
        let (home, rules) = rules("version = 1\npreset = \"open\"\n");
        let busy = Provider {
            url: url.parse().unwrap(),
            ..provider("text")
        };
        let commission = Commission {
            discretion: Discretion::new(&rules, unsaid()),
            ..commission(busy, &[], None)
        };
        ProviderBook::open(home.path())
            .and_then(|mut book| book.add(commission.provider.clone()))
            .unwrap();
        let outside = Outside::new(Outlet::at(home.path(), &[]), Limits::default()).unwrap();
        let errand: Errand = Box::new(move |speaker| outside.answer(commission, speaker));
        let mut replies = Errands::new(ErrandLimits::default())
            .submit(heph_engine::batch::Asker::default(), vec![errand])
            .unwrap();
        let patience = Duration::from_secs(60);
        heard.recv_timeout(patience).unwrap();
        let closed = "version = 1\npreset = \"local-only\"\n";
        std::fs::write(home.path().join(POLICY_FILE), closed).unwrap();
        let written = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let next = async { tokio::time::timeout(patience, replies[0].next()).await };
        let ServedHeard::End(Err(error)) = runtime.block_on(next).expect("in time") else {
            panic!("nobody answers");
        };
        assert!(error.to_string().contains("stays on this machine"), "{error}");
        assert!(heard.try_recv().is_err(), "it was asked once");
        // It ends at once: the guard, which refuses another try too, is not asked for one.
        assert!(written.elapsed() < Duration::from_secs(12));
    }

    #[test]
    fn nothing_goes_to_a_provider_that_was_not_allowed_or_whose_role_sees_less() {
        let may = |sees, allow: &[&str]| commission(provider(sees), allow, None).checked().is_ok();
        assert!(!may("nothing", &[]) && !may("nothing", &["cloud=text"]));
        assert!(may("text", &[]) && may("text", &["cloud=text"]) && may("text", &["miner=nothing"]));
        assert!(!may("text", &["cloud=nothing"]));
        // A text cannot be shown in part.
        assert!(!may("text", &["cloud=activations"]));
        let closed = Commission {
            discretion: discretion(&provider("text"), &[]).within(Limit::Own),
            ..commission(provider("text"), &[], None)
        };
        assert!(closed.checked().is_err());
        let unsaid: Provider =
            toml::from_str("name = \"x\"\ndialect = \"openai\"\nurl = \"https://x\"\nmodels = [\"m\"]")
                .unwrap();
        assert_eq!(unsaid.sees, Leaves::Nothing);
    }

    #[test]
    fn an_answer_costs_no_more_than_was_said() {
        let rates = |prompt, answer| Provider {
            price: Some(Rates { prompt, answer }),
            ..provider("text")
        };
        // Ten bytes and a role of four, and what a template adds: 270 tokens at most.
        let checked = commission(rates(100.0, 1000.0), &[], Some(0.0375))
            .checked()
            .unwrap();
        assert_eq!(checked.question.max_tokens, Some(10));
        assert!(
            commission(rates(100.0, 1000.0), &[], Some(0.027))
                .checked()
                .is_err()
        );
        assert!(commission(provider("text"), &[], Some(5.0)).checked().is_err());
        let free = commission(rates(0.0, 0.0), &[], Some(0.0)).checked().unwrap();
        assert_eq!(free.question.max_tokens, None);
        let mut short = commission(rates(100.0, 1000.0), &[], Some(5.0));
        short.question.max_tokens = Some(3);
        assert_eq!(short.checked().unwrap().question.max_tokens, Some(3));
        let mut other = commission(provider("text"), &[], None);
        other.question.model = "dearer".to_owned();
        assert!(matches!(other.checked(), Err(CommissionError::Model { .. })));
    }
}
