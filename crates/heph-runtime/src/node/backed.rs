//! A model that another serving engine runs, lent as if it ran here: tokens go there, and tokens come back.
//!
//! What it computes is its own. A node says so by its exactness, and nobody who wants the bits of `docs/arithmetic.md` is
//! given such a node by the planner.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use heph_privacy::policy::{Policies, Policy, Rule, Verdict, When};
use heph_privacy::{Clearance, Cleared, Purpose};
use heph_providers::tokens::{TokenEnd, TokenQuestion};
use heph_providers::{AskError, Client, Dial, Limits, Listener, Provider, Sampling, Secret};
use heph_types::{
    Forward, LayerRange, ModelProfile, Order, Position, Reply, SamplingOptions, Speed, StageInput, StageSpec,
    TokenId,
};

use super::{SessionPlace, StageError};
use crate::discretion::unsaid;
use crate::seat::ORDERS_MAX;

/// Tokens of a stream that lie ready: whoever reads them looks between two.
const READY_MAX: usize = 64;

/// How often a stage that waits for a token looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Tokens of the two questions by which an engine's speed is taken.
const TIMED_PROMPT: usize = 64;
const TIMED_ANSWER: u64 = 16;

/// What is known of the model that the engine runs, from its file here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackedModel {
    /// Its layers.
    pub layers: usize,
    /// Numbers of one hidden state.
    pub width: usize,
    /// Entries of its vocabulary.
    pub vocab: usize,
    /// Positions of a conversation.
    pub context: usize,
    /// A token that ends an answer: engines that end one say no token.
    pub end: TokenId,
}

/// A serving engine, and the model that it runs.
#[derive(Debug)]
pub struct Backend {
    provider: Provider,
    key: Option<Secret>,
    model: BackedModel,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Backend {
    /// The engine at `provider`, asked for its first model, which is `model`, by connections of `dial`. Whoever starts a node names it, and so lets it
    /// see what the node is shown.
    ///
    /// # Errors
    /// A sentence where the system gives no thread or no TLS.
    pub fn new(
        provider: Provider,
        key: Option<Secret>,
        model: BackedModel,
        limits: Limits,
        dial: impl Dial,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("heph-backend")
            .enable_all()
            .build()
            .map_err(|error| format!("the system gives no thread: {error}"))?;
        let client = {
            let _inside = runtime.enter();
            Client::new(limits, dial)?
        };
        Ok(Self {
            provider,
            key,
            model,
            runtime,
            client,
        })
    }

    /// The models that the engine says it has.
    ///
    /// # Errors
    /// A sentence where it does not say.
    pub fn models(&self) -> Result<Vec<String>, String> {
        let listener = Listener {
            stopped: &|| false,
            deadline: None,
        };
        let asked = self.client.models(&self.provider, self.key.as_ref(), &listener);
        self.runtime.block_on(asked).map_err(|error| error.to_string())
    }

    /// Asks it for other names of the model.
    pub fn asking_for(mut self, model: String) -> Self {
        self.provider.models = vec![model];
        self
    }

    /// How fast it runs the model, for the planner: two short questions are timed.
    ///
    /// # Errors
    /// A sentence where it does not answer them with tokens.
    pub fn timed(&self, profile: &ModelProfile) -> Result<Speed, String> {
        let vocab = self.model.vocab.max(1);
        let prompt: Vec<u32> = (0..TIMED_PROMPT.min(self.model.context / 2).max(1))
            .map(|at| (at * 31 % vocab) as u32)
            .collect();
        let greedy = SamplingOptions::greedy();
        let began = Instant::now();
        let (mut first, mut count) = (None, 0_u32);
        let stop = AtomicBool::new(false);
        self.go_on(&prompt, &greedy, TIMED_ANSWER, &stop, &mut |_| {
            first.get_or_insert_with(|| began.elapsed());
            count += 1;
            true
        })
        .map_err(|error| error.to_string())?;
        let total = began.elapsed();
        let first = first.unwrap_or(total).max(Duration::from_micros(1));
        let step = (total - first.min(total)) / count.saturating_sub(1).max(1);
        let weights: u64 = profile
            .layers
            .iter()
            .map(|layer| layer.weight_bytes_one_row)
            .sum();
        let flops: f64 = profile.layers.iter().map(|layer| layer.flops_per_token).sum();
        Ok(Speed {
            bytes_per_second: weights as f64 / step.max(Duration::from_micros(1)).as_secs_f64(),
            flops_per_second: flops * prompt.len() as f64 / first.as_secs_f64(),
            overhead: Duration::ZERO,
            measured: Vec::new(),
        })
    }

    /// Clears a question for the engine. Whoever named it when the node was started let it see what the node is shown, and it is
    /// a part of the node: whether the node may be shown something was for the one who asks to decide.
    fn cleared<T>(&self, question: T) -> Result<Cleared<T>, StageError> {
        let to = self.provider.destination();
        let rule = Rule {
            name: "the engine behind this node".to_owned(),
            when: When {
                names: vec![to.id.clone()],
                ..When::default()
            },
            then: Verdict::Allow,
        };
        let policy = Policy {
            rules: vec![rule],
            ..Policy::closed()
        };
        let purpose = Purpose {
            to: &to,
            mode: "node",
            credits: 0,
        };
        let clearance = Clearance::of(&unsaid(), purpose, &Policies::new(policy, Vec::new()));
        let clearance = clearance.map_err(|stays| StageError::Backend(stays.to_string()))?;
        Ok(clearance.clear_part(question))
    }

    fn question<'a>(
        &'a self,
        prompt: &'a [u32],
        options: &SamplingOptions,
        bias: &'a [(u32, f32)],
        most: u64,
    ) -> TokenQuestion<'a> {
        let share = |value: Option<f32>| value.map(f64::from);
        let off = |value: f32, usual: f32| (value != usual).then(|| f64::from(value));
        TokenQuestion {
            model: self.provider.models.first().map_or("", String::as_str),
            prompt,
            sampling: Sampling {
                temperature: Some(f64::from(options.temperature)),
                top_p: share(options.top_p),
                top_k: options.top_k.and_then(|k| i64::try_from(k).ok()),
                min_p: share(options.min_p),
                repeat_penalty: off(options.repeat_penalty, 1.0),
                frequency_penalty: off(options.frequency_penalty, 0.0),
                presence_penalty: off(options.presence_penalty, 0.0),
                seed: Some(options.seed as i64),
            },
            logit_bias: bias,
            max_tokens: most,
        }
    }

    /// Goes on from `prompt`; `more` is told each token.
    fn go_on(
        &self,
        prompt: &[u32],
        options: &SamplingOptions,
        most: u64,
        stop: &AtomicBool,
        more: &mut (dyn FnMut(TokenId) -> bool + Send),
    ) -> Result<Option<TokenEnd>, StageError> {
        let bias = bias(options);
        let question = self.question(prompt, options, &bias, most);
        let stopped = || stop.load(Ordering::Relaxed);
        let listener = Listener {
            stopped: &stopped,
            deadline: None,
        };
        let question = self.cleared(question)?;
        let (vocab, mut strange) = (self.model.vocab, None);
        let mut more = |token: u32| {
            let known = (token as usize) < vocab;
            if !known {
                strange = Some(token);
            }
            known && more(TokenId(token))
        };
        let asked = self
            .client
            .go_on(&self.provider, self.key.as_ref(), &question, &listener, &mut more);
        let (end, _) = self.runtime.block_on(asked).map_err(failed)?;
        match strange {
            Some(token) => Err(StageError::Backend(format!(
                "the engine told token {token}, which the model has not"
            ))),
            None => Ok(end),
        }
    }

    /// What comes after each of the last `answers` tokens, up to the first that is not the one given there: what follows a
    /// wrong guess is of no use to anybody.
    fn choices(
        &self,
        tokens: &[u32],
        answers: usize,
        options: &SamplingOptions,
        stop: &AtomicBool,
    ) -> Result<Vec<TokenId>, StageError> {
        if answers > 1 && options.temperature == 0.0 && !options.looks_back() && options.logit_bias.is_empty()
        {
            return self.likeliest(tokens, answers, options, stop);
        }
        // A draw needs the tokens before it, so each is asked for by itself.
        let mut chosen = Vec::with_capacity(answers);
        for at in tokens.len() + 1 - answers..=tokens.len() {
            let mut told = None;
            self.go_on(&tokens[..at], options, 1, stop, &mut |token| {
                told = Some(token);
                true
            })?;
            let token = told.unwrap_or(self.model.end);
            chosen.push(token);
            if tokens.get(at).is_some_and(|given| *given != token.0) {
                break;
            }
        }
        Ok(chosen)
    }

    /// The likeliest tokens of a whole draft in one question, from the probabilities of the prompt.
    fn likeliest(
        &self,
        tokens: &[u32],
        answers: usize,
        options: &SamplingOptions,
        stop: &AtomicBool,
    ) -> Result<Vec<TokenId>, StageError> {
        let question = self.question(tokens, options, &[], 1);
        let stopped = || stop.load(Ordering::Relaxed);
        let listener = Listener {
            stopped: &stopped,
            deadline: None,
        };
        let question = self.cleared(question)?;
        let asked = self.client.likeliest(
            &self.provider,
            self.key.as_ref(),
            &question,
            answers,
            self.model.end.0,
            &listener,
        );
        let (told, _) = self.runtime.block_on(asked).map_err(failed)?;
        match told.iter().find(|token| **token as usize >= self.model.vocab) {
            Some(token) => Err(StageError::Backend(format!(
                "the engine told token {token}, which the model has not"
            ))),
            None => Ok(told.into_iter().map(TokenId).collect()),
        }
    }
}

fn bias(options: &SamplingOptions) -> Vec<(u32, f32)> {
    // Servers take no infinities: a hundred is never and always.
    let clamp = |(token, bias): &(TokenId, f32)| (token.0, bias.clamp(-100.0, 100.0));
    options.logit_bias.iter().map(clamp).collect()
}

fn failed(error: AskError) -> StageError {
    match error {
        AskError::Stopped => StageError::Forward(heph_engine::worker::ForwardError::Stopped),
        error => StageError::Backend(error.to_string()),
    }
}

/// One session's stage whose model runs elsewhere.
pub struct BackedStage {
    backend: Arc<Backend>,
    context: usize,
    sampling: SamplingOptions,
    /// The tokens held.
    tokens: Vec<u32>,
    orders: VecDeque<Order>,
    stream: Option<Stream>,
    stop: Arc<AtomicBool>,
    _place: SessionPlace,
}

/// Tokens that come from an answer that goes on alone.
struct Stream {
    /// Dropped, it ends the answer.
    told: Receiver<Result<TokenId, StageError>>,
    ends: Vec<TokenId>,
    left: u32,
}

impl BackedStage {
    /// Positions held.
    pub fn held(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn new(
        backend: Arc<Backend>,
        spec: &StageSpec,
        stop: Arc<AtomicBool>,
        place: SessionPlace,
    ) -> Result<Self, StageError> {
        let BackedModel {
            layers: count,
            context,
            ..
        } = backend.model;
        let (layers, asked) = (spec.layers, spec.context as usize);
        if layers.end() > count {
            return Err(StageError::Layers { layers, count });
        }
        if layers.start() > 0 || layers.end() < count {
            let held = LayerRange::new(0, count, count).unwrap_or(layers);
            return Err(StageError::NotHeld { layers, held });
        }
        let sampling = spec
            .choose
            .clone()
            .ok_or(StageError::Order("an engine tells tokens and no rows"))?;
        if asked > context {
            return Err(StageError::Context { asked, context });
        }
        check(&sampling)?;
        Ok(Self {
            backend,
            context: asked,
            sampling,
            tokens: Vec::new(),
            orders: VecDeque::new(),
            stream: None,
            stop,
            _place: place,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.backend.model.width
    }

    pub(super) fn take(&mut self, order: Order) -> Result<(), StageError> {
        if self.orders.len() >= ORDERS_MAX {
            return Err(StageError::Full);
        }
        self.orders.push_back(order);
        Ok(())
    }

    pub(super) fn choose_anew(&mut self, options: &SamplingOptions) -> bool {
        let sound = options.check().is_ok() && check(options).is_ok();
        if sound {
            self.sampling = options.clone();
        }
        sound
    }

    pub(super) fn leave_stream(&mut self) {
        self.stream = None;
        self.orders.clear();
    }

    pub(super) fn work(&mut self) -> Result<Option<Reply>, StageError> {
        let reply = self.next_reply();
        if reply.is_err() {
            self.leave_stream();
        }
        reply
    }

    fn next_reply(&mut self) -> Result<Option<Reply>, StageError> {
        if self.stream.is_some() {
            return self.streamed();
        }
        while let Some(order) = self.orders.pop_front() {
            match order {
                Order::Rollback(to) => self.tokens.truncate(to.index()),
                Order::Forward(forward) => return self.forward(forward).map(Some),
                Order::Generate { .. } if !self.orders.is_empty() => {}
                Order::Generate { tokens_max: 0, .. } => {}
                Order::Generate {
                    last,
                    tokens_max,
                    ends,
                } => {
                    self.room_for(1)?;
                    self.tokens.push(last.0);
                    let room = (self.context + 1).saturating_sub(self.tokens.len());
                    let most = u32::try_from(room).unwrap_or(u32::MAX).min(tokens_max);
                    self.stream = Some(self.begin(ends, most)?);
                    return self.streamed();
                }
            }
        }
        Ok(None)
    }

    fn room_for(&self, count: usize) -> Result<(), StageError> {
        let asked = self.tokens.len() + count;
        match asked > self.context {
            true => Err(StageError::Context {
                asked,
                context: self.context,
            }),
            false => Ok(()),
        }
    }

    fn forward(&mut self, forward: Forward) -> Result<Reply, StageError> {
        let Forward {
            first,
            input,
            answers,
            pass,
        } = forward;
        if pass.is_some() {
            return Err(StageError::Order("an engine hands no rows on"));
        }
        let StageInput::Tokens(tokens) = input else {
            return Err(StageError::Order("an engine takes tokens and no rows"));
        };
        let answers = answers as usize;
        if tokens.is_empty() || answers > tokens.len() {
            return Err(StageError::Order("it holds fewer tokens than answers"));
        }
        if first.index() > self.tokens.len() {
            let held = self.tokens.len();
            return Err(StageError::Gap { first, held });
        }
        if tokens
            .iter()
            .any(|token| token.index() >= self.backend.model.vocab)
        {
            return Err(StageError::Order("a token is not one of the model's"));
        }
        self.tokens.truncate(first.index());
        self.room_for(tokens.len())?;
        self.tokens.extend(tokens.iter().map(|token| token.0));
        let chosen = match answers {
            0 => Vec::new(),
            _ => self
                .backend
                .choices(&self.tokens, answers, &self.sampling, &self.stop)?,
        };
        let row = self.tokens.len() - answers;
        Ok(Reply::Choices {
            first: Position(row as u32 + 1),
            tokens: chosen,
        })
    }

    /// Lets the engine go on, on a thread of its own.
    fn begin(&self, ends: Vec<TokenId>, most: u32) -> Result<Stream, StageError> {
        let (tell, told) = sync_channel(READY_MAX);
        let (backend, sampling) = (Arc::clone(&self.backend), self.sampling.clone());
        let (prompt, stop) = (self.tokens.clone(), Arc::clone(&self.stop));
        let (known, end) = (ends.clone(), ends.first().copied().unwrap_or(backend.model.end));
        let work = move || {
            let mut last = None;
            let ended = backend.go_on(&prompt, &sampling, u64::from(most), &stop, &mut |token| {
                last = Some(token);
                tell.send(Ok(token)).is_ok()
            });
            // Whoever asked may have gone.
            let _ = match ended {
                // Some engines end without a token that says so.
                Ok(Some(TokenEnd::Stop)) if last.is_none_or(|last| !known.contains(&last)) => {
                    tell.send(Ok(end))
                }
                Ok(_) => Ok(()),
                Err(error) => tell.send(Err(error)),
            };
        };
        let named = std::thread::Builder::new().name("heph-backend".to_owned());
        named
            .spawn(work)
            .map_err(|error| StageError::Backend(format!("the system gives no thread: {error}")))?;
        Ok(Stream {
            told,
            ends,
            left: most,
        })
    }

    /// The next token of an answer that goes on alone.
    fn streamed(&mut self) -> Result<Option<Reply>, StageError> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        if stream.left == 0 {
            self.stream = None;
            return Ok(None);
        }
        let token = loop {
            match stream.told.recv_timeout(LOOK_EVERY) {
                Ok(token) => break token?,
                Err(RecvTimeoutError::Timeout) if self.stop.load(Ordering::Relaxed) => {
                    return Err(failed(AskError::Stopped));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.stream = None;
                    return Ok(None);
                }
            }
        };
        let first = Position(self.tokens.len() as u32);
        stream.left -= 1;
        if stream.left == 0 || stream.ends.contains(&token) {
            self.stream = None;
        } else {
            // Told tokens count as fed, but for the last.
            self.tokens.push(token.0);
        }
        Ok(Some(Reply::Choices {
            first,
            tokens: vec![token],
        }))
    }
}

/// Whether an engine can be told to choose so.
fn check(options: &SamplingOptions) -> Result<(), StageError> {
    let dry = options.dry.as_ref().is_some_and(|dry| dry.multiplier != 0.0);
    match dry || options.typical_p.is_some() {
        true => Err(StageError::Order("the engine behind this node cannot choose so")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use heph_types::{KvFormat, ModelHash};

    use super::super::{Node, NodeCaps, Work};
    use super::*;

    /// An engine that answers every question with these events, and the stage of a session at it.
    fn stage(events: &'static str, sampling: SamplingOptions) -> Result<Work, StageError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut some = [0; 8192];
                let _ = stream.read(&mut some);
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(format!("{head}{events}").as_bytes());
            }
        });
        let provider = Provider {
            name: "engine".to_owned(),
            dialect: heph_providers::Dialect::Vllm,
            url: url.parse().unwrap(),
            models: vec!["m".to_owned()],
            role: heph_types::Role::Own,
            sees: heph_types::Leaves::Text,
            region: None,
            retention: heph_providers::Retention::Nothing,
            price: None,
            speed: None,
        };
        let model = BackedModel {
            layers: 2,
            width: 8,
            vocab: 10,
            context: 6,
            end: TokenId(0),
        };
        let backend = Backend::new(provider, None, model, Limits::default(), heph_providers::Direct).unwrap();
        let hash = ModelHash([1; 32]);
        let node =
            Node::new(heph_types::NodeId([1; 32]), NodeCaps { sessions: 1 }).with_backend(hash, backend);
        let spec = StageSpec {
            model: hash,
            layers: LayerRange::new(0, 2, 2).unwrap(),
            context: 6,
            kv_format: KvFormat::F16,
            choose: Some(sampling),
        };
        node.work_until(&spec, Arc::default())
    }

    const TWO: &str = "data: {\"choices\":[{\"text\":\"a\",\"token_ids\":[5]}]}\n\n\
                       data: {\"choices\":[{\"text\":\"b\",\"token_ids\":[6],\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

    fn feed(first: u32, tokens: &[u32], answers: u32) -> Order {
        Order::Forward(Forward {
            first: Position(first),
            input: StageInput::Tokens(tokens.iter().map(|t| TokenId(*t)).collect()),
            answers,
            pass: None,
        })
    }

    fn told(work: &mut Work) -> (u32, Vec<u32>) {
        match work.work().unwrap() {
            Some(Reply::Choices { first, tokens }) => (first.0, tokens.iter().map(|t| t.0).collect()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stream_is_told_token_by_token_and_ended_as_the_desk_expects() {
        let mut work = stage(TWO, SamplingOptions::greedy()).unwrap();
        work.take(feed(0, &[1, 2], 0)).unwrap();
        assert_eq!(told(&mut work), (3, vec![]));
        work.take(Order::Generate {
            last: TokenId(3),
            tokens_max: 9,
            ends: vec![TokenId(0)],
        })
        .unwrap();
        assert_eq!(told(&mut work), (3, vec![5]));
        assert_eq!(told(&mut work), (4, vec![6]));
        // The engine ended without a token that says so.
        assert_eq!(told(&mut work), (5, vec![0]));
        assert!(work.work().unwrap().is_none());
        // A guess that was wrong ends what is told of a piece.
        let drawn = SamplingOptions {
            temperature: 0.5,
            ..SamplingOptions::greedy()
        };
        let one = "data: {\"choices\":[{\"text\":\"a\",\"token_ids\":[5],\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";
        let mut work = stage(one, drawn).unwrap();
        work.take(feed(0, &[1, 2, 5, 4], 3)).unwrap();
        assert_eq!(told(&mut work), (2, vec![5, 5]));
    }

    #[test]
    fn what_an_engine_cannot_do_and_tokens_that_there_are_not_are_refused() {
        let typical = SamplingOptions {
            typical_p: Some(0.5),
            ..SamplingOptions::greedy()
        };
        assert!(stage(TWO, typical).is_err());
        let mut work = stage(TWO, SamplingOptions::greedy()).unwrap();
        for wrong in [
            feed(1, &[1], 0),
            feed(0, &[10], 1),
            feed(0, &[1, 2, 3, 4, 5, 6, 7], 1),
            feed(0, &[1], 2),
            feed(0, &[], 0),
        ] {
            work.take(wrong).unwrap();
            assert!(work.work().is_err());
        }
        assert!(work.cache_part(Position(0), Position(1)).is_err());
        let strange = "data: {\"choices\":[{\"text\":\"a\",\"token_ids\":[10],\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";
        let mut work = stage(strange, SamplingOptions::greedy()).unwrap();
        work.take(feed(0, &[1], 1)).unwrap();
        assert!(matches!(work.work(), Err(StageError::Backend(_))));
    }
}
