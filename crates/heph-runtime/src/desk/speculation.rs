//! Guessing that decides for itself: by what and how far to guess, from what guesses before took and gave.
//!
//! `heph_plan::draft` decides; here its decision is carried out, timed and told back. A round of no guesses is a plain
//! step, or, where one node holds the whole model and going on alone is faster, the rest of the answer as a stream.

use std::time::Duration;

use heph_engine::sample::SamplingOptions;
use heph_plan::DraftSource;
use heph_plan::draft::{Drafting, Outcome, Round, RoundStart, SourceStart, Tally, Unready};
use heph_types::{Branch, TokenId};

use crate::draft::Drafter;
use crate::line::LineError;

/// What the news of a round's waiting counts.
const WAIT_SHARE: f64 = 0.2;

/// Plain steps that are timed first where nobody knows what a step takes.
const TRIAL_STEPS: usize = 2;

/// What a row more takes there, of a step.
const ROW_SHARE: f64 = 0.05;

/// Somebody who guesses, and what is known of it before the first guess.
pub struct GuessSource {
    /// What it is.
    pub kind: DraftSource,
    /// Who guesses.
    pub drafter: Box<dyn Drafter>,
    /// How well and how fast.
    pub start: SourceStart,
}

/// What no guesses mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// One way through the line and back for each token.
    Steps,
    /// A node with the whole model goes on alone.
    Stream,
}

/// How often somebody guessed right in an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guessed {
    /// Who.
    pub by: DraftSource,
    /// How often.
    pub tally: Tally,
}

/// What a line is thought to take before it was timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expectation {
    /// Seconds, as the control counts them.
    pub round: RoundStart,
    /// Seconds of `round.fixed` that are the way there and back.
    pub way: f64,
}

/// Guessers and the control of how they are used.
pub struct Speculation {
    sources: Vec<GuessSource>,
    plain: Plain,
    expected: Option<Expectation>,
    /// What rounds are thought to take once the model is ready, where steps are timed: a step is taken for no more.
    planned: Option<RoundStart>,
    unready: Unready,
    control: Option<Drafting>,
    /// Plain steps timed, where nothing was expected.
    trial: Vec<f64>,
    /// Rounds of the answer under way in which each was asked and had no idea.
    idle: Vec<u32>,
    /// Tokens that the answer under way may have.
    tokens: u32,
    /// Seconds that the desk waits in a round.
    waiting: f64,
    ahead: Option<Ahead>,
}

/// Guesses made while earlier ones are looked at.
struct Ahead {
    /// What they follow.
    after: usize,
    /// The first is for the token that is not known yet.
    tokens: Vec<TokenId>,
    source: usize,
}

/// Guesses for the next round, and what making them took.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drafted {
    pub(super) round: Round,
    pub(super) tokens: Vec<TokenId>,
    /// Other ways in which they may go on.
    pub(super) branches: Vec<Branch>,
    pub(super) seconds: f64,
}

/// How a round went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct News {
    /// Answers that were asked for.
    pub(super) answers: usize,
    /// Tokens that came.
    pub(super) gained: usize,
    /// Whether they ran along a branch.
    pub(super) branched: bool,
    /// Whether it was sent while another was looked at: the time between their answers says nothing of the way.
    pub(super) behind: bool,
    /// What it took, and how long of that the desk waited.
    pub(super) seconds: f64,
    pub(super) waited: f64,
}

/// A round of no guesses.
const STEP: Round = Round {
    source: 0,
    length: 0,
    branches: 0,
};

impl Drafted {
    /// No guesses.
    pub(super) fn none() -> Self {
        Self {
            round: STEP,
            tokens: Vec::new(),
            branches: Vec::new(),
            seconds: 0.0,
        }
    }
}

impl Speculation {
    /// A control over `sources`. Without an expectation a few plain steps are timed first.
    pub fn new(sources: Vec<GuessSource>, plain: Plain, expected: Option<Expectation>) -> Self {
        Self {
            idle: vec![0; sources.len()],
            sources,
            plain,
            expected,
            planned: None,
            unready: Unready::default(),
            control: None,
            trial: Vec::new(),
            tokens: 0,
            waiting: 0.0,
            ahead: None,
        }
    }

    /// Takes no step for longer than in this plan: the first ones of a model that is not ready yet are, and those behind are not.
    pub fn with_planned(mut self, planned: RoundStart) -> Self {
        self.planned = Some(planned);
        self
    }

    /// The same, whose models are not ready yet.
    pub fn with_unready(mut self, unready: Unready) -> Self {
        self.unready = unready;
        self
    }

    /// Whether no guesses mean that a node goes on alone.
    pub(super) fn streams(&self) -> bool {
        self.plain == Plain::Stream
    }

    /// Starts an answer of at most `tokens` tokens, with what was learned in the one before.
    pub(super) fn begin(&mut self, sampling: &SamplingOptions, tokens: usize) {
        self.tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.ahead = None;
        self.idle.fill(0);
        if let Some(control) = self.control.take() {
            self.unready = control.unready();
            let acceptances = (0..self.sources.len()).map(|at| control.acceptance(at));
            for (source, acceptance) in self.sources.iter_mut().zip(acceptances) {
                source.start.acceptance = acceptance.unwrap_or(source.start.acceptance);
            }
            if let Some(expected) = &mut self.expected {
                expected.round = control.round(self.tokens);
            }
        }
        for source in &mut self.sources {
            source.drafter.begin(sampling);
        }
        self.take_control();
    }

    fn take_control(&mut self) {
        let Some(expected) = self.expected else { return };
        let starts: Vec<SourceStart> = self.sources.iter().map(|source| source.start).collect();
        let tokens = self.tokens;
        let start = RoundStart {
            tokens,
            ..expected.round
        };
        self.control = Some(Drafting::new(&starts, start).with_unready(self.unready));
    }

    /// Lets everybody who may guess take in `known`, unless a node is to go on alone.
    pub(super) fn read(&mut self, known: &[TokenId]) -> Result<(), LineError> {
        let guesses = |control: &Drafting| control.next().length > 0;
        if self.control.as_ref().is_none_or(guesses) {
            for source in &mut self.sources {
                source.drafter.read(known)?;
            }
        }
        Ok(())
    }

    /// How often each guessed right in this answer. No idea counts as a wrong one: a plan counts on guesses in every round.
    pub(super) fn guessed(&self) -> Vec<Guessed> {
        let tally = |at: usize| {
            let tally = self.control.as_ref()?.tally(at)?;
            let wrong = tally.wrong + f64::from(self.idle[at]);
            Some(Tally { wrong, ..tally })
        };
        let sources = self.sources.iter().enumerate();
        let guessed = sources.filter_map(|(at, source)| {
            let by = source.kind;
            Some(Guessed {
                by,
                tally: tally(at)?,
            })
        });
        guessed.collect()
    }

    /// Guesses for the next round after `known`, at most `room` of them, with others beside them where they `may_branch`.
    pub(super) fn draft(
        &mut self,
        known: &[TokenId],
        room: usize,
        may_branch: bool,
        time: &dyn Fn() -> Duration,
    ) -> Result<Drafted, LineError> {
        let mut idle = vec![false; self.sources.len()];
        let began = time();
        while let Some(control) = &self.control {
            let round = control.next_among(&|source| !idle[source]);
            let length = usize::from(round.length).min(room);
            if length == 0 {
                break;
            }
            let tokens = match self.prepared(known, round.source, length) {
                Some(tokens) => tokens,
                None => self.sources[round.source].drafter.draft(known, length)?,
            };
            if !tokens.is_empty() {
                let wanted = if may_branch {
                    usize::from(round.branches)
                } else {
                    0
                };
                let branches = match wanted {
                    0 => Vec::new(),
                    _ => self.sources[round.source]
                        .drafter
                        .branches(known, &tokens, wanted)?,
                };
                let seconds = time().saturating_sub(began).as_secs_f64();
                let round = Round {
                    branches: branches.len() as u16,
                    ..round
                };
                return Ok(Drafted {
                    round,
                    tokens,
                    branches,
                    seconds,
                });
            }
            idle[round.source] = true;
            self.idle[round.source] += 1;
        }
        Ok(Drafted::none())
    }

    /// What was guessed ahead, if it was right so far.
    fn prepared(&mut self, known: &[TokenId], source: usize, length: usize) -> Option<Vec<TokenId>> {
        let ahead = self.ahead.take()?;
        let fits = ahead.source == source && ahead.after + 1 == known.len();
        let (first, rest) = ahead.tokens.split_first()?;
        (fits && known.last() == Some(first) && !rest.is_empty())
            .then(|| rest[..rest.len().min(length)].to_vec())
    }

    /// Whether a second piece should be sent while `sent` is still looked at: the way there and back is saved where all
    /// of its guesses and the one after them are right, and else a pass is wasted.
    pub(super) fn sends_ahead(&self, sent: &Drafted) -> bool {
        let (Some(control), Some(expected)) = (&self.control, &self.expected) else {
            return false;
        };
        let Some(acceptance) = control.acceptance(sent.round.source) else {
            return false;
        };
        // A longer piece is looked at in one pass, and a second one in two.
        let longest = self
            .sources
            .get(sent.round.source)
            .map(|source| source.start.length_max);
        if longest.is_none_or(|longest| sent.tokens.len() < usize::from(longest)) {
            return false;
        }
        let right = acceptance.powi(sent.tokens.len() as i32 + 1);
        let start = control.round(self.tokens);
        let pass = (start.fixed - expected.way).max(0.0) + start.per_row * sent.tokens.len() as f64;
        !sent.tokens.is_empty() && right * expected.way > (1.0 - right) * pass
    }

    /// Uses the time in which `sent` is looked at, after which `known` would follow: guesses what comes then.
    pub(super) fn guess_ahead(
        &mut self,
        sent: &Drafted,
        known: &[TokenId],
        room: usize,
    ) -> Result<(), LineError> {
        let length = sent.tokens.len();
        let useful = length > 0 && room > 1 && self.waiting > sent.seconds;
        if !useful {
            return Ok(());
        }
        let source = sent.round.source;
        let tokens = self.sources[source]
            .drafter
            .draft(known, (length + 1).min(room))?;
        let after = known.len();
        self.ahead = Some(Ahead {
            after,
            tokens,
            source,
        });
        Ok(())
    }

    /// Learns how a round went.
    pub(super) fn learn(&mut self, sent: &Drafted, news: News) {
        let News {
            answers,
            gained,
            branched,
            behind,
            seconds,
            waited,
        } = news;
        self.waiting += WAIT_SHARE * (waited - self.waiting);
        let Some(control) = &mut self.control else {
            self.time_step(answers, seconds);
            return;
        };
        let length = answers.saturating_sub(1).min(sent.tokens.len()) as u16;
        // A piece of one guess behind another says nothing: its only guess was judged with the one before.
        if length == 0 && !sent.tokens.is_empty() {
            return;
        }
        let round = Round { length, ..sent.round };
        let seconds = if behind {
            control.seconds_of(round)
        } else {
            seconds
        };
        control.observe(Outcome {
            round,
            accepted: gained.saturating_sub(1) as u16,
            branched,
            seconds,
            drafting: sent.seconds.min(seconds),
        });
    }

    /// Times a plain step where nothing was expected; after a few of them the control begins.
    fn time_step(&mut self, answers: usize, seconds: f64) {
        if answers == 1 {
            let thought = self.planned.map_or(f64::INFINITY, |planned| planned.plain);
            self.unready.share(seconds, thought);
            self.trial.push(seconds);
        }
        if self.trial.len() < TRIAL_STEPS {
            return;
        }
        let timed = self.trial.drain(..).fold(f64::INFINITY, f64::min);
        let (plain, row) = match self.planned {
            Some(planned) => (
                timed.min(planned.plain),
                planned.per_row / planned.plain.max(f64::MIN_POSITIVE),
            ),
            // Nobody told the way from the pass; a row more costs what `Tempo` says of short pieces, taken low.
            None => (timed, ROW_SHARE),
        };
        let per_row = row.clamp(0.0, 1.0) * plain;
        self.expected = Some(Expectation {
            round: RoundStart {
                plain,
                fixed: plain - per_row,
                per_row,
                tokens: self.tokens,
            },
            way: self.waiting.min(plain),
        });
        self.take_control();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::EchoDrafter;

    /// As clocks showed: 16 tokens took 1.2 ms each in a new process and those behind them 0.4, so guesses that took 0.8 each went on.
    #[test]
    fn steps_of_a_model_that_is_not_ready_are_not_what_guesses_are_held_against() {
        let plain_of = |planned: Option<f64>| {
            let start = SourceStart {
                acceptance: 0.8,
                seconds_per_token: 1e-4,
                length_max: 8,
                branches_max: 0,
            };
            let source = GuessSource {
                kind: DraftSource::Model,
                drafter: Box::<EchoDrafter>::default(),
                start,
            };
            let speculation = Speculation::new(vec![source], Plain::Steps, None);
            let mut speculation = match planned {
                Some(plain) => speculation.with_planned(RoundStart {
                    plain,
                    fixed: 0.8 * plain,
                    per_row: 0.2 * plain,
                    tokens: 64,
                }),
                None => speculation,
            };
            speculation.begin(&SamplingOptions::greedy(), 64);
            for _ in 0..TRIAL_STEPS {
                let news = News {
                    answers: 1,
                    gained: 1,
                    branched: false,
                    behind: false,
                    seconds: 0.0012,
                    waited: 0.0,
                };
                speculation.learn(&Drafted::none(), news);
            }
            speculation.control.expect("steps were timed").round(64).plain
        };
        assert_eq!(plain_of(None), 0.0012);
        assert_eq!(plain_of(Some(0.0004)), 0.0004);
        assert_eq!(plain_of(Some(0.1)), 0.0012, "who is sooner ready is believed");
    }

    #[test]
    fn rounds_without_an_idea_are_told_as_wrong_ones() {
        let start = SourceStart {
            acceptance: 0.9,
            seconds_per_token: 1e-6,
            length_max: 4,
            branches_max: 0,
        };
        let source = GuessSource {
            kind: DraftSource::NGram,
            drafter: Box::<EchoDrafter>::default(),
            start,
        };
        let expected = Expectation {
            round: RoundStart {
                plain: 0.1,
                fixed: 0.1,
                per_row: 1e-4,
                tokens: 64,
            },
            way: 0.0,
        };
        let mut speculation = Speculation::new(vec![source], Plain::Steps, Some(expected));
        speculation.begin(&SamplingOptions::greedy(), 64);
        let mut draft = |known: &[u32]| {
            let known: Vec<TokenId> = known.iter().copied().map(TokenId).collect();
            let drafted = speculation.draft(&known, 64, false, &|| Duration::ZERO);
            drafted.expect("an echo does not fail").tokens.len()
        };
        assert_eq!([draft(&[1, 2, 3, 4]), draft(&[1, 2, 3, 4, 5])], [0, 0]);
        assert!(draft(&[1, 2, 3, 4, 5, 1, 2, 3]) > 0);
        assert_eq!(speculation.guessed()[0].tally.wrong, 2.0);
    }
}
