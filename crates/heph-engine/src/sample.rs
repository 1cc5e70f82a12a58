//! Choosing the next token from logits.
//!
//! The choice is a pure function of the logits, the history, the options and the position: a lost machine,
//! a draft, a cache or a batch never changes it. Randomness comes from a counter keyed by (seed, position)
//! in the Gumbel-max form (Gumbel 1954; Maddison et al. 2014): the token with the largest
//! `logit / temperature + noise(seed, position, token)` is drawn from the softmax. Two models that read the
//! same noise make the same choice wherever they agree, which is what lets a draft be verified exactly.
//!
//! Order of the steps: penalties, DRY, bias, mask, top-k, typical, top-p, min-p, temperature, draw.

mod dry;
mod logprob;

pub use logprob::{LogProbability, log_probabilities};

use heph_kernels::{math, rng};
pub use heph_types::{DryOptions, SamplingOptionError, SamplingOptions};
use heph_types::{Position, TokenId};
use std::cmp::Ordering;

/// Why options or logits give no choice.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// An option has a value that no step is defined for.
    #[error(transparent)]
    Option(#[from] SamplingOptionError),
    /// Every token is forbidden, or every logit is not a number.
    #[error("no token may follow: every one is forbidden or has no number")]
    NothingAllowed,
}

/// Below this temperature the likeliest token is taken: noise is far below the steps of `logit / temperature` long before,
/// and of quotients that are infinite none is larger than another.
const TEMPERATURE_DRAWN: f32 = 1e-30;

/// Chooses tokens; keeps its buffers between calls and nothing else.
#[derive(Debug, Clone, Default)]
pub struct Sampler {
    options: SamplingOptions,
    logits: Vec<f32>,
    kept: Vec<Candidate>,
}

/// The second best choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunnerUp {
    /// The token.
    pub token: TokenId,
    /// How far it is behind the best: of logits over temperature, with the draw's noise.
    pub gap: f32,
}

/// A token that may still be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Likelier first; equal logits in the order of their ids, so that no sort order is left to chance.
    fn order(a: &Self, b: &Self) -> Ordering {
        b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
    }
}

impl Sampler {
    /// A sampler for checked options.
    pub fn new(options: SamplingOptions) -> Result<Self, SamplingError> {
        options.check()?;
        Ok(Self {
            options,
            logits: Vec::new(),
            kept: Vec::new(),
        })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// The token for `position`, after `history` (all tokens before it, prompt included). `allowed` says
    /// which tokens a constraint admits: one flag per token, missing flags forbid.
    pub fn sample(
        &mut self,
        logits: &[f32],
        position: Position,
        history: &[TokenId],
        allowed: Option<&[bool]>,
    ) -> Result<TokenId, SamplingError> {
        self.adjust(logits, history, allowed);
        if !self.draws() {
            return self.likeliest();
        }
        self.collect();
        self.keep_top_k();
        self.keep_typical();
        self.keep_top_p();
        self.keep_min_p();
        self.draw(position)
    }

    /// As [`Sampler::sample`], by these checked options: one set of buffers serves many sequences.
    pub fn sample_as(
        &mut self,
        options: &mut SamplingOptions,
        logits: &[f32],
        position: Position,
        history: &[TokenId],
        allowed: Option<&[bool]>,
    ) -> Result<TokenId, SamplingError> {
        std::mem::swap(&mut self.options, options);
        let chosen = self.sample(logits, position, history, allowed);
        std::mem::swap(&mut self.options, options);
        chosen
    }

    /// The token that would have been chosen in place of `first`, and by how much `first` was better: the less, the less
    /// sure the choice. The arguments are those of [`Sampler::sample`]. `None` where nothing else may follow.
    pub fn runner_up(
        &mut self,
        logits: &[f32],
        position: Position,
        history: &[TokenId],
        first: TokenId,
    ) -> Option<RunnerUp> {
        self.adjust(logits, history, None);
        self.collect();
        let drawn = self.draws();
        if drawn {
            self.keep_top_k();
            self.keep_typical();
            self.keep_top_p();
            self.keep_min_p();
        }
        let score = |candidate: &Candidate| match drawn {
            true => self.score(candidate, position),
            false => candidate.logit,
        };
        let best = self.kept.iter().find(|c| c.id == first.0).map(score)?;
        let others = self.kept.iter().filter(|c| c.id != first.0);
        let scored = others.map(|c| (score(c), c.id));
        let (second, id) = scored.reduce(|a, b| {
            if b.0 > a.0 || b.0 == a.0 && b.1 < a.1 {
                b
            } else {
                a
            }
        })?;
        Some(RunnerUp {
            token: TokenId(id),
            gap: best - second,
        })
    }

    /// Whether noise has a part in the choice.
    fn draws(&self) -> bool {
        self.options.temperature >= TEMPERATURE_DRAWN
    }

    /// Copies the logits and applies everything that changes their values.
    fn adjust(&mut self, logits: &[f32], history: &[TokenId], allowed: Option<&[bool]>) {
        let options = &self.options;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        let recent = &history[history.len().saturating_sub(options.penalty_window)..];
        penalize(&mut self.logits, recent, options);
        if let Some(dry) = &options.dry {
            dry::apply(dry, &mut self.logits, history);
        }
        for (token, bias) in &options.logit_bias {
            if let Some(logit) = self.logits.get_mut(token.index()) {
                *logit += bias;
            }
        }
        if let Some(allowed) = allowed {
            for (id, logit) in self.logits.iter_mut().enumerate() {
                if !allowed.get(id).copied().unwrap_or(false) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    fn likeliest(&self) -> Result<TokenId, SamplingError> {
        let mut best: Option<Candidate> = None;
        for candidate in candidates(&self.logits) {
            if best.is_none_or(|b| candidate.logit > b.logit) {
                best = Some(candidate);
            }
        }
        best.map(|b| TokenId(b.id)).ok_or(SamplingError::NothingAllowed)
    }

    fn collect(&mut self) {
        self.kept.clear();
        self.kept.extend(candidates(&self.logits));
    }

    fn keep_top_k(&mut self) {
        match self.options.top_k {
            Some(k) if k > 0 && k < self.kept.len() => {
                self.kept.select_nth_unstable_by(k - 1, Candidate::order);
                self.kept.truncate(k);
            }
            _ => {}
        }
        let orders =
            self.options.top_p.is_some_and(|p| p < 1.0) || self.options.typical_p.is_some_and(|p| p < 1.0);
        if orders || self.options.top_k.is_some_and(|k| k > 0) {
            self.kept.sort_unstable_by(Candidate::order);
        }
    }

    fn keep_typical(&mut self) {
        let Some(share) = self.options.typical_p.filter(|&p| p < 1.0) else {
            return;
        };
        let probabilities = softmax(&self.kept);
        let surprise = |p: f64| if p > 0.0 { -math::ln64(p) } else { f64::INFINITY };
        let entropy: f64 = probabilities
            .iter()
            .filter(|&&p| p > 0.0)
            .map(|&p| p * surprise(p))
            .sum();
        let mut order: Vec<usize> = (0..self.kept.len()).collect();
        let distance = |&i: &usize| (surprise(probabilities[i]) - entropy).abs();
        order.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        let count = reaching(order.iter().map(|&i| probabilities[i]), f64::from(share));
        let mut chosen: Vec<Candidate> = order[..count].iter().map(|&i| self.kept[i]).collect();
        chosen.sort_unstable_by(Candidate::order);
        self.kept = chosen;
    }

    fn keep_top_p(&mut self) {
        let Some(share) = self.options.top_p.filter(|&p| p < 1.0) else {
            return;
        };
        let probabilities = softmax(&self.kept);
        self.kept
            .truncate(reaching(probabilities.into_iter(), f64::from(share)));
    }

    fn keep_min_p(&mut self) {
        let Some(fraction) = self.options.min_p.filter(|&p| p > 0.0) else {
            return;
        };
        let Some(top) = max_logit(&self.kept) else { return };
        let least = top + math::ln64(f64::from(fraction)) as f32;
        self.kept.retain(|c| c.logit >= least);
    }

    fn draw(&self, position: Position) -> Result<TokenId, SamplingError> {
        let mut best: Option<(f32, u32)> = None;
        for candidate in &self.kept {
            let score = self.score(candidate, position);
            let wins = best.is_none_or(|(s, id)| score > s || (score == s && candidate.id < id));
            if wins {
                best = Some((score, candidate.id));
            }
        }
        best.map(|(_, id)| TokenId(id))
            .ok_or(SamplingError::NothingAllowed)
    }

    /// What a draw compares candidates by.
    fn score(&self, candidate: &Candidate, position: Position) -> f32 {
        let noise = rng::gumbel(self.options.seed, position.0, candidate.id);
        candidate.logit / self.options.temperature + noise
    }
}

/// Tokens that may follow: a forbidden one has the logit negative infinity, and NaN is never chosen.
fn candidates(logits: &[f32]) -> impl Iterator<Item = Candidate> + '_ {
    let all = logits
        .iter()
        .enumerate()
        .map(|(id, &logit)| Candidate { id: id as u32, logit });
    all.filter(|c| c.logit > f32::NEG_INFINITY)
}

/// Repetition, frequency and presence penalties on the tokens of `recent`.
fn penalize(logits: &mut [f32], recent: &[TokenId], options: &SamplingOptions) {
    let off =
        options.repeat_penalty == 1.0 && options.frequency_penalty == 0.0 && options.presence_penalty == 0.0;
    if off {
        return;
    }
    let mut sorted: Vec<usize> = recent
        .iter()
        .map(|t| t.index())
        .filter(|&t| t < logits.len())
        .collect();
    sorted.sort_unstable();
    for run in sorted.chunk_by(|a, b| a == b) {
        let logit = &mut logits[run[0]];
        if *logit > 0.0 {
            *logit /= options.repeat_penalty;
        } else {
            *logit *= options.repeat_penalty;
        }
        *logit -= run.len() as f32 * options.frequency_penalty + options.presence_penalty;
    }
}

fn max_logit(kept: &[Candidate]) -> Option<f32> {
    kept.iter().map(|c| c.logit).max_by(f32::total_cmp)
}

/// Probabilities of the candidates among themselves, summed in their order.
fn softmax(kept: &[Candidate]) -> Vec<f64> {
    let Some(top) = max_logit(kept) else {
        return Vec::new();
    };
    let weights: Vec<f64> = kept.iter().map(|c| f64::from(math::exp(c.logit - top))).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// How many of the first probabilities it takes to reach `share`; at least one.
fn reaching(probabilities: impl Iterator<Item = f64>, share: f64) -> usize {
    let mut sum = 0.0;
    let mut count = 0;
    for p in probabilities {
        sum += p;
        count += 1;
        if sum >= share {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(seed: u64) -> SamplingOptions {
        let (top_k, top_p, min_p) = (None, None, None);
        SamplingOptions {
            temperature: 1.0,
            top_k,
            top_p,
            min_p,
            seed,
            ..SamplingOptions::default()
        }
    }

    fn draw(options: &SamplingOptions, logits: &[f32], position: u32) -> u32 {
        let mut sampler = Sampler::new(options.clone()).unwrap();
        sampler.sample(logits, Position(position), &[], None).unwrap().0
    }

    #[test]
    fn the_runner_up_is_who_would_be_chosen_without_the_first() {
        let logits: Vec<f32> = (0..50).map(|i| (i * 7 % 11) as f32 * 0.3).collect();
        for options in [SamplingOptions::greedy(), open(3), open(4)] {
            let mut sampler = Sampler::new(options).unwrap();
            for at in 0..40 {
                let at = Position(at);
                let first = sampler.sample(&logits, at, &[], None).unwrap();
                let others: Vec<bool> = (0..50).map(|id| id != first.0).collect();
                let second = sampler.sample(&logits, at, &[], Some(&others)).unwrap();
                let said = sampler.runner_up(&logits, at, &[], first).unwrap();
                assert!(said.token == second && said.gap >= 0.0);
            }
            let lone = [f32::NEG_INFINITY, 1.0];
            assert_eq!(sampler.runner_up(&lone, Position(0), &[], TokenId(1)), None);
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equal_tokens() {
        assert_eq!(draw(&SamplingOptions::greedy(), &[0.0, 3.0, 3.0, f32::NAN], 0), 1);
    }

    #[test]
    fn the_least_temperatures_take_the_likeliest() {
        let logits = [30.0, -1.0, 31.0, 2.0];
        for temperature in [0.0, f32::from_bits(1), 1e-40, 1e-31, 1e-30, 1e-20] {
            let mut options = open(3);
            options.temperature = temperature;
            assert_eq!(draw(&options, &logits, 5), 2, "{temperature:e}");
            let second = Sampler::new(options)
                .unwrap()
                .runner_up(&logits, Position(5), &[], TokenId(2));
            let second = second.unwrap();
            assert!(
                second.token == TokenId(0) && second.gap.is_finite(),
                "{temperature:e}: {second:?}"
            );
        }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0_f32, 1.0, 2.0, -1.0];
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let mut counts = [0usize; 4];
        let n = 40_000;
        for position in 0..n {
            counts[draw(&open(11), &logits, position) as usize] += 1;
        }
        for (count, logit) in counts.iter().zip(logits) {
            let expected = f64::from(logit).exp() / total;
            let error = *count as f64 / f64::from(n) - expected;
            // Five standard deviations of a share of 40,000 draws.
            assert!(
                error.abs() < 5.0 * (expected * (1.0 - expected) / f64::from(n)).sqrt(),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_alone() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32 * 0.1).collect();
        let all: Vec<u32> = (0..64).map(|p| draw(&open(5), &logits, p)).collect();
        let again: Vec<u32> = (0..64).rev().map(|p| draw(&open(5), &logits, p)).collect();
        assert!(all.iter().eq(again.iter().rev()));
        let other: Vec<u32> = (0..64).map(|p| draw(&open(6), &logits, p)).collect();
        assert_ne!(all, other);
    }

    #[test]
    fn what_a_sampler_chose_before_changes_no_choice() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32 * 0.1).collect();
        let mut one = Sampler::new(open(5)).unwrap();
        for position in [9, 3, 9, 0, 63, 3] {
            let again = one.sample(&logits, Position(position), &[], None).unwrap().0;
            assert_eq!(again, draw(&open(5), &logits, position));
        }
    }

    #[test]
    fn of_equally_likely_tokens_the_first_ones_are_kept() {
        let options = SamplingOptions {
            top_k: Some(3),
            ..open(4)
        };
        let ids: Vec<u32> = (0..200).map(|p| draw(&options, &[1.0; 1000], p)).collect();
        assert!(ids.iter().all(|id| *id < 3), "{ids:?}");
    }

    #[test]
    fn penalties_look_back_as_far_as_their_window() {
        let history = [TokenId(0), TokenId(1), TokenId(1)];
        for (penalty_window, expected) in [(0, 0), (1, 0), (2, 0), (3, 2)] {
            let options = SamplingOptions {
                presence_penalty: 1.0,
                penalty_window,
                ..SamplingOptions::greedy()
            };
            let mut sampler = Sampler::new(options).unwrap();
            let chosen = sampler.sample(&[3.0, 2.9, 2.8], Position(3), &history, None);
            assert_eq!(chosen, Ok(TokenId(expected)), "a window of {penalty_window}");
        }
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        let logits = [5.0_f32, 4.0, 3.0, 2.0, -20.0];
        let seen = |options: SamplingOptions| {
            let mut ids: Vec<u32> = (0..3000).map(|p| draw(&options, &logits, p)).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(
            seen(SamplingOptions {
                top_k: Some(2),
                ..open(1)
            }),
            [0, 1]
        );
        assert_eq!(
            seen(SamplingOptions {
                top_p: Some(0.6),
                ..open(1)
            }),
            [0]
        );
        assert_eq!(
            seen(SamplingOptions {
                top_p: Some(0.7),
                ..open(1)
            }),
            [0, 1]
        );
        assert_eq!(
            seen(SamplingOptions {
                min_p: Some(0.1),
                ..open(1)
            }),
            [0, 1, 2]
        );
        assert_eq!(
            seen(SamplingOptions {
                typical_p: Some(0.2),
                ..open(1)
            }),
            [1]
        );
    }

    #[test]
    fn penalties_bias_and_masks_move_the_choice() {
        let logits = [2.0_f32, 1.9, 1.0];
        let history = [TokenId(0), TokenId(0)];
        let choose = |options: SamplingOptions, allowed: Option<&[bool]>| {
            Sampler::new(options)
                .unwrap()
                .sample(&logits, Position(2), &history, allowed)
                .map(|t| t.0)
        };
        let greedy = SamplingOptions::greedy;
        assert_eq!(
            choose(
                SamplingOptions {
                    repeat_penalty: 1.2,
                    ..greedy()
                },
                None
            ),
            Ok(1)
        );
        assert_eq!(
            choose(
                SamplingOptions {
                    frequency_penalty: 0.06,
                    ..greedy()
                },
                None
            ),
            Ok(1)
        );
        assert_eq!(
            choose(
                SamplingOptions {
                    presence_penalty: 0.2,
                    ..greedy()
                },
                None
            ),
            Ok(1)
        );
        assert_eq!(
            choose(
                SamplingOptions {
                    logit_bias: vec![(TokenId(2), 3.0)],
                    ..greedy()
                },
                None
            ),
            Ok(2)
        );
        assert_eq!(choose(greedy(), Some(&[false, false, true])), Ok(2));
        assert_eq!(
            choose(greedy(), Some(&[false])),
            Err(SamplingError::NothingAllowed)
        );
    }

    #[test]
    fn impossible_options_are_refused() {
        let bad = [
            SamplingOptions {
                temperature: -1.0,
                ..SamplingOptions::default()
            },
            SamplingOptions {
                temperature: f32::NAN,
                ..SamplingOptions::default()
            },
            SamplingOptions {
                top_p: Some(0.0),
                ..SamplingOptions::default()
            },
            SamplingOptions {
                min_p: Some(1.5),
                ..SamplingOptions::default()
            },
            SamplingOptions {
                repeat_penalty: 0.0,
                ..SamplingOptions::default()
            },
        ];
        for options in bad {
            assert!(Sampler::new(options.clone()).is_err(), "{options:?}");
        }
    }
}
