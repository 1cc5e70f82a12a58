//! How many tokens to draft, and by what: decided anew before each round from what rounds before took and gave.
//!
//! A round is only as long as what it can lose stays within half of what is left of a hundredth of the answer's plain
//! time, plus what rounds before have saved. So a bad draft cannot make an answer noticeably slower than none, and a good one is found within a
//! few rounds. Nothing is drawn: trying follows from the budget.

use crate::request::READYING_PASSES;
use crate::score::expected_tokens;
use crate::space::DRAFT_MAX;

/// Share of the plain time of an answer that trying drafts may cost.
const BUDGET: f64 = 0.015;
/// Share of what may still be lost that one round may: with all of it a good draft that begins with two unlucky rounds
/// would never be asked again.
const STAKE: f64 = 0.5;
/// What a round's news keeps of what was known: half is forgotten in about 23 rounds.
const KEEP: f64 = 0.97;
/// What a round's time counts in what rounds are thought to take.
const NEWS: f64 = 0.2;
/// Tokens that a first estimate of acceptance counts as.
const PRIOR_TOKENS: f64 = 4.0;
/// Standard deviations by which an untried draft is thought better than its mean.
const HOPE: f64 = 1.0;
/// A round that takes more than this many times what it was thought to take was disturbed by something that has nothing to
/// do with drafts: the rest of it teaches nothing. What lasts is learned in a few rounds all the same.
const HICCUP: f64 = 3.0;
/// How often a branch is thought right where a round goes wrong, before any was looked at: the second guess is right in two
/// of three cases on the bundled pair, and the branch stands at the wrong place in one of three.
const RESCUED: f64 = 0.2;
/// Branches that a round may have: a third would be looked at for a place that is seldom wrong.
const BRANCHES_MAX: u16 = 2;
/// Sources that one control looks after.
pub const SOURCES_MAX: usize = 8;

/// Something that drafts, as it is known before the first round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceStart {
    /// Probability that one more token is accepted.
    pub acceptance: f64,
    /// Seconds for one drafted token.
    pub seconds_per_token: f64,
    /// Most tokens in a round.
    pub length_max: u16,
    /// Other ways in which one round's tokens may go on, at most; each is as long as the round.
    pub branches_max: u16,
}

/// What a round costs besides drafting, as it is known before the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoundStart {
    /// Seconds for one token without any draft: the better of plain remote and plain local.
    pub plain: f64,
    /// Seconds of a round that do not depend on its length: the round trip and reading the weights.
    pub fixed: f64,
    /// Seconds for each row that is verified.
    pub per_row: f64,
    /// Tokens that the answer is expected to have.
    pub tokens: u32,
}

/// What the next round is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Index of the source; of no meaning when nothing is drafted.
    pub source: usize,
    /// Tokens to draft; 0 for a plain step.
    pub length: u16,
    /// Other ways in which they may go on: with any, the round is a tree.
    pub branches: u16,
}

/// How a round went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// What it was.
    pub round: Round,
    /// Drafted tokens that were accepted.
    pub accepted: u16,
    /// Whether some of them stood on a branch.
    pub branched: bool,
    /// Seconds from its beginning to the next one's.
    pub seconds: f64,
    /// Of these, spent drafting.
    pub drafting: f64,
}

/// How often a source was right and wrong in the answers so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Drafted tokens that were accepted.
    pub right: f64,
    /// Rounds that ended with a token that was not.
    pub wrong: f64,
}

impl Tally {
    /// The probability that one more token is accepted, where `usual` is thought as long as nothing better is known.
    pub fn acceptance(&self, usual: f64) -> f64 {
        (self.right + usual * PRIOR_TOKENS) / (self.right + self.wrong + PRIOR_TOKENS)
    }
}

/// What models that are not ready yet may still take beyond what they take once they are: no cost of guesses, nor of steps.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Unready {
    /// Seconds, in all.
    seconds: f64,
    /// Rounds in which that may be.
    rounds: u32,
}

impl Unready {
    /// Models that were never computed with, and are thought to take so many seconds longer until they are ready.
    pub fn by(seconds: f64) -> Unready {
        Unready {
            seconds: seconds.max(0.0),
            rounds: READYING_PASSES,
        }
    }

    /// What of a round of so many seconds is due to that, where it was `thought` to take less.
    pub fn share(&mut self, seconds: f64, thought: f64) -> f64 {
        let Some(rounds) = self.rounds.checked_sub(1) else {
            return 0.0;
        };
        self.rounds = rounds;
        let share = (seconds - thought).clamp(0.0, self.seconds);
        self.seconds -= share;
        share
    }
}

/// The control of one answer.
#[derive(Debug, Clone)]
pub struct Drafting {
    sources: Vec<Source>,
    plain: f64,
    fixed: f64,
    per_row: f64,
    budget_base: f64,
    /// Plain steps that `plain` was learned from.
    steps: f64,
    elapsed: f64,
    saved: f64,
    unready: Unready,
}

#[derive(Debug, Clone)]
struct Source {
    hits: f64,
    misses: f64,
    seconds: f64,
    length_max: u16,
    branches_max: u16,
    /// Branches of rounds that went wrong, and those that were right then.
    tried: f64,
    rescued: f64,
    /// Seconds that its rounds saved; negative where they lost.
    saved: f64,
    /// Of this answer.
    tally: Tally,
}

impl Source {
    fn acceptance(&self) -> f64 {
        self.hits / (self.hits + self.misses)
    }

    /// Tokens that a round is worth when each is accepted with this probability: those of the chain, and where it goes wrong
    /// and a branch is right, half of a round more.
    fn worth(&self, acceptance: f64, length: u16, branches: u16) -> f64 {
        let chain = expected_tokens(acceptance, length);
        if branches == 0 {
            return chain;
        }
        let wrong = 1.0 - acceptance.powi(i32::from(length));
        let rescued = 1.0 - (1.0 - self.rescued / self.tried).powi(i32::from(branches));
        chain + wrong * rescued * expected_tokens(acceptance, length / 2)
    }

    /// As good as it may well be.
    fn hoped(&self) -> f64 {
        let (p, n) = (self.acceptance(), self.hits + self.misses);
        (p + HOPE * (p * (1.0 - p) / (n + 1.0)).sqrt()).min(0.99)
    }
}

impl Drafting {
    /// A control that has seen nothing yet. Sources beyond [`SOURCES_MAX`] are left out.
    pub fn new(sources: &[SourceStart], start: RoundStart) -> Drafting {
        let source = |s: &SourceStart| {
            let p = s.acceptance.clamp(0.01, 0.99);
            Source {
                hits: p * PRIOR_TOKENS,
                misses: (1.0 - p) * PRIOR_TOKENS,
                seconds: s.seconds_per_token.max(0.0),
                length_max: s.length_max.min(DRAFT_MAX),
                branches_max: s.branches_max.min(BRANCHES_MAX),
                tried: PRIOR_TOKENS,
                rescued: RESCUED * PRIOR_TOKENS,
                saved: 0.0,
                tally: Tally::default(),
            }
        };
        Drafting {
            sources: sources.iter().take(SOURCES_MAX).map(source).collect(),
            plain: start.plain.max(f64::MIN_POSITIVE),
            fixed: start.fixed.max(0.0),
            per_row: start.per_row.max(0.0),
            budget_base: BUDGET * f64::from(start.tokens) * start.plain,
            steps: 1.0,
            elapsed: 0.0,
            saved: 0.0,
            unready: Unready::default(),
        }
    }

    /// The same, where models are not ready yet.
    pub fn with_unready(self, unready: Unready) -> Drafting {
        Drafting { unready, ..self }
    }

    /// What they may still take.
    pub fn unready(&self) -> Unready {
        self.unready
    }

    /// The next round: the one with the fewest expected seconds for a token among those that the budget can lose.
    pub fn next(&self) -> Round {
        self.next_among(&|_| true)
    }

    /// As [`Drafting::next`], with only those sources that have something to say.
    pub fn next_among(&self, has: &dyn Fn(usize) -> bool) -> Round {
        let plain = Round::default();
        let mut best = (self.plain, plain);
        for (at, source) in self.sources.iter().enumerate().filter(|(at, _)| has(*at)) {
            let (hoped, budget) = (source.hoped(), self.budget(source));
            let lengths = 1..=source.length_max;
            for (length, branches) in lengths.flat_map(|l| (0..=source.branches_max).map(move |b| (l, b))) {
                let seconds = self.round_seconds(source, length, branches);
                // The worst that can come of it is one token for the whole round.
                if seconds - self.plain > STAKE * budget {
                    continue;
                }
                let each = seconds / source.worth(hoped, length, branches);
                if each < best.0 {
                    let source = at;
                    best = (
                        each,
                        Round {
                            source,
                            length,
                            branches,
                        },
                    );
                }
            }
        }
        best.1
    }

    /// Learns from a round.
    pub fn observe(&mut self, outcome: Outcome) {
        let round = outcome.round;
        let accepted = outcome.accepted.min(round.length);
        self.elapsed += outcome.seconds.max(0.0);
        let thought = self.seconds_of(round);
        let unready = self.unready.share(outcome.seconds, thought);
        let seconds = (outcome.seconds - unready).clamp(0.0, HICCUP * thought.max(self.plain));
        let drafting = match self.sources.get(round.source) {
            Some(source) => {
                let thought = source.seconds * drafted(round.length, round.branches);
                outcome.drafting - (outcome.drafting - thought).clamp(0.0, unready)
            }
            None => 0.0,
        };
        let drafting = drafting.clamp(0.0, seconds);
        if round.length == 0 {
            self.steps += 1.0;
            self.plain += self.steps.recip().max(1.0 - KEEP) * (seconds - self.plain);
            return;
        }
        let rest = seconds - drafting - self.per_row * rows(round.length, round.branches);
        self.fixed += NEWS * (rest.max(0.0) - self.fixed);
        let Some(source) = self.sources.get_mut(round.source) else {
            return;
        };
        let each = drafting / drafted(round.length, round.branches);
        source.seconds += NEWS * (each.max(0.0) - source.seconds);
        // By what such a round is thought to take now, and not by what this one took: what came between once is not held against the draft.
        let thought = self.seconds_of(round);
        let saved = self.plain * f64::from(accepted + 1) - thought;
        self.saved += saved;
        let source = &mut self.sources[round.source];
        source.saved += saved;
        source.hits = KEEP * source.hits + f64::from(accepted);
        let left = f64::from(u8::from(outcome.branched));
        let wrong = left + if accepted < round.length { 1.0 } else { 0.0 };
        source.misses = KEEP * source.misses + wrong;
        if round.branches > 0 && (outcome.branched || accepted < round.length) {
            let right = if outcome.branched { 1.0 } else { 0.0 };
            source.tried = KEEP * source.tried + f64::from(round.branches);
            source.rescued = KEEP * source.rescued + right;
        }
        source.tally.right += f64::from(accepted);
        source.tally.wrong += wrong;
    }

    /// Seconds that a round is thought to take by now.
    pub fn seconds_of(&self, round: Round) -> f64 {
        match self.sources.get(round.source) {
            Some(source) if round.length > 0 => self.round_seconds(source, round.length, round.branches),
            _ => self.plain,
        }
    }

    /// What a round is thought to cost by now: the start of the next answer, which is expected to have `tokens` tokens.
    pub fn round(&self, tokens: u32) -> RoundStart {
        RoundStart {
            plain: self.plain,
            fixed: self.fixed,
            per_row: self.per_row,
            tokens,
        }
    }

    /// The acceptance that a source is thought to have.
    pub fn acceptance(&self, source: usize) -> Option<f64> {
        self.sources.get(source).map(Source::acceptance)
    }

    /// How often a source was right and wrong in this answer.
    pub fn tally(&self, source: usize) -> Option<Tally> {
        self.sources.get(source).map(|source| source.tally)
    }

    fn round_seconds(&self, source: &Source, length: u16, branches: u16) -> f64 {
        self.fixed + self.per_row * rows(length, branches) + source.seconds * drafted(length, branches)
    }

    /// Seconds that a round with this source may lose now: the source's share of the budget, less what it lost before,
    /// so that one bad source does not use up what another would need; and half of what all of them saved.
    fn budget(&self, source: &Source) -> f64 {
        let share = self.budget_base.max(BUDGET * self.elapsed) / self.sources.len() as f64;
        share + source.saved.min(0.0) + 0.5 * self.saved.max(0.0)
    }
}

/// Rows of a round: a branch goes through the model as a sequence of its own.
fn rows(length: u16, branches: u16) -> f64 {
    f64::from(length + 1) * f64::from(1 + branches)
}

/// Tokens drafted for a round: a branch shares what stands before it, half of the round as a rule.
fn drafted(length: u16, branches: u16) -> f64 {
    f64::from(length) * (1.0 + 0.5 * f64::from(branches))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link and a target in virtual time; outcomes come from a seed.
    struct Scene {
        rtt: f64,
        pass: f64,
        per_row: f64,
        plain: f64,
        /// Seconds per token and true acceptance in the first and the second half of the answer.
        drafts: Vec<(f64, f64, f64)>,
    }

    const TOKENS: u32 = 400;

    impl Scene {
        fn share(seed: u64) -> f64 {
            let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Seconds of an answer whose rounds `choose` decides; outcomes are a function of seed, draft and position.
        fn run(&self, seed: u64, mut choose: impl FnMut(Option<Outcome>) -> Round) -> f64 {
            let (mut done, mut seconds, mut last) = (0u32, 0.0, None);
            while done < TOKENS {
                let round = choose(last);
                let half = usize::from(done * 2 >= TOKENS);
                let (took, drafting, accepted) = match round.length {
                    0 => (self.plain, 0.0, 0),
                    length => {
                        let (each, first, second) = self.drafts[round.source];
                        let p = [first, second][half];
                        let hit = |n: &u16| {
                            let key = u64::from(done + u32::from(*n)) * 31 + round.source as u64;
                            Self::share(seed * 1_000_003 + key) < p
                        };
                        let accepted = (0..length).take_while(hit).count() as u16;
                        let drafting = each * f64::from(length);
                        let verify = self.rtt + self.pass + self.per_row * f64::from(length + 1);
                        (drafting + verify, drafting, accepted)
                    }
                };
                seconds += took;
                done += u32::from(accepted) + 1;
                last = Some(Outcome {
                    round,
                    accepted,
                    branched: false,
                    seconds: took,
                    drafting,
                });
            }
            seconds
        }

        fn controlled(&self, seed: u64) -> f64 {
            let start = |d: &(f64, f64, f64)| SourceStart {
                acceptance: 0.6,
                seconds_per_token: d.0,
                length_max: 12,
                branches_max: 0,
            };
            let starts: Vec<_> = self.drafts.iter().map(start).collect();
            let round = RoundStart {
                plain: self.plain,
                fixed: self.rtt + self.pass,
                per_row: self.per_row,
                tokens: TOKENS,
            };
            let mut control = Drafting::new(&starts, round);
            self.run(seed, |last| {
                if let Some(outcome) = last {
                    control.observe(outcome);
                }
                control.next()
            })
        }

        fn best_fixed(&self, seed: u64) -> f64 {
            let rounds = (0..self.drafts.len()).flat_map(|source| {
                (0..=12).map(move |length| Round {
                    source,
                    length,
                    branches: 0,
                })
            });
            rounds
                .map(|r| self.run(seed, |_| r))
                .fold(f64::INFINITY, f64::min)
        }
    }

    fn scenes() -> Vec<Scene> {
        let mut scenes = Vec::new();
        for rtt in [0.0, 0.005, 0.02, 0.08, 0.15, 0.3] {
            for (first, second) in [
                (0.0, 0.0),
                (0.3, 0.3),
                (0.7, 0.7),
                (0.9, 0.9),
                (0.9, 0.1),
                (0.1, 0.9),
            ] {
                for streams in [false, true] {
                    let (pass, per_row) = (0.02, 0.002);
                    scenes.push(Scene {
                        rtt,
                        pass,
                        per_row,
                        // A plain remote answer either pays a round trip a token, or streams.
                        plain: pass + per_row + if streams { 0.0 } else { rtt },
                        drafts: vec![(0.004, first, second), (0.0001, first * 0.5, second * 0.5)],
                    });
                }
            }
        }
        scenes
    }

    #[test]
    fn drafting_is_never_noticeably_slower_than_not_drafting() {
        for scene in scenes() {
            for seed in 1..=5 {
                let plain = scene.plain * f64::from(TOKENS);
                let ours = scene.controlled(seed);
                assert!(
                    plain / ours >= 0.98,
                    "rtt {} drafts {:?}: {:.3} of plain",
                    scene.rtt,
                    scene.drafts,
                    plain / ours
                );
            }
        }
    }

    #[test]
    fn a_steady_good_draft_is_used_nearly_as_well_as_if_it_were_known() {
        for scene in scenes() {
            if scene.drafts[0].1 != scene.drafts[0].2 {
                continue;
            }
            let (mut ours, mut best) = (0.0, 0.0);
            for seed in 1..=5 {
                ours += scene.controlled(seed);
                best += scene.best_fixed(seed);
            }
            assert!(
                best / ours >= 0.7,
                "rtt {} drafts {:?}: {:.3} of the best",
                scene.rtt,
                scene.drafts,
                best / ours
            );
        }
    }

    #[test]
    fn one_disturbed_round_does_not_end_guessing() {
        let source = SourceStart {
            acceptance: 0.8,
            seconds_per_token: 0.0001,
            length_max: 12,
            branches_max: 0,
        };
        let start = RoundStart {
            plain: 0.001,
            fixed: 0.0008,
            per_row: 0.0002,
            tokens: 200,
        };
        let mut control = Drafting::new(&[source], start);
        let mut guess = |seconds: f64| {
            let round = control.next();
            control.observe(Outcome {
                round,
                accepted: round.length,
                branched: false,
                seconds,
                drafting: 0.0001 * f64::from(round.length),
            });
            round.length
        };
        (0..4).for_each(|_| assert!(guess(0.0014) > 0));
        // The system did something else for half a second.
        guess(0.5);
        (0..4).for_each(|_| assert!(guess(0.0014) > 0));
        assert!(guess(0.0014) > 1, "it guesses on");
    }

    /// Of a draft that pays once all is ready, in 24 rounds that each take so many seconds more at first: those in which it guessed.
    fn guesses_while(unready: Unready, more: f64) -> usize {
        let source = SourceStart {
            acceptance: 0.9,
            seconds_per_token: 0.000_05,
            length_max: 12,
            branches_max: 0,
        };
        let start = RoundStart {
            plain: 0.000_2,
            fixed: 0.000_18,
            per_row: 0.000_02,
            tokens: 160,
        };
        let mut control = Drafting::new(&[source], start).with_unready(unready);
        let mut guessed = 0;
        for number in 0..24 {
            let round = control.next();
            let drafting = 0.000_05 * f64::from(round.length);
            let seconds = 0.000_18 + 0.000_02 * f64::from(round.length + 1) + drafting;
            // As what is left to be packed is less with each round.
            let more = more * (1.0 - f64::from(number) / 24.0);
            // The second guess is wrong.
            let accepted = if guessed == 1 { 0 } else { round.length };
            control.observe(Outcome {
                round,
                accepted,
                branched: false,
                seconds: seconds + more,
                drafting,
            });
            guessed += usize::from(round.length > 0);
        }
        guessed
    }

    /// As clocks showed in each new process: the first round took 1.4 ms where 0.26 were thought.
    #[test]
    fn what_models_take_until_they_are_ready_is_held_against_no_guess() {
        assert!(guesses_while(Unready::default(), 0.005) < 24, "it seems dear");
        assert_eq!(guesses_while(Unready::by(0.065), 0.005), 24);
        // What goes beyond is believed, and so is what comes later.
        let mut little = Unready::by(0.01);
        let shares = [(); 3].map(|()| little.share(0.01, 0.004));
        assert!((shares[0] - 0.006).abs() < 1e-9 && (shares[1] - 0.004).abs() < 1e-9 && shares[2] == 0.0);
        let mut unready = Unready::by(1.0);
        let shares = (0..=READYING_PASSES).map(|_| unready.share(0.01, 0.004));
        let shares: Vec<f64> = shares.collect();
        assert!(
            shares[..READYING_PASSES as usize]
                .iter()
                .all(|share| (share - 0.006).abs() < 1e-9)
        );
        assert_eq!(shares[READYING_PASSES as usize], 0.0);
    }

    #[test]
    fn a_tally_moves_what_is_thought_and_an_empty_one_leaves_it() {
        assert_eq!(Tally::default().acceptance(0.75), 0.75);
        let tally = Tally {
            right: 900.0,
            wrong: 100.0,
        };
        assert!((tally.acceptance(0.2) - 0.9).abs() < 0.005);
    }

    /// The first round at rows that cost so much, and the one after some in which branches were right or not.
    fn with_branches(fixed: f64, per_row: f64, right: bool) -> (Round, Round) {
        let source = SourceStart {
            acceptance: 0.8,
            seconds_per_token: 0.0002,
            length_max: 12,
            branches_max: 2,
        };
        let start = RoundStart {
            plain: fixed + per_row,
            fixed,
            per_row,
            tokens: 4000,
        };
        let mut control = Drafting::new(&[source], start);
        let first = control.next();
        for _ in 0..40 {
            let round = control.next();
            let seconds = fixed
                + per_row * rows(round.length, round.branches)
                + 0.0002 * drafted(round.length, round.branches);
            control.observe(Outcome {
                round,
                accepted: round.length / 2,
                branched: right && round.branches > 0,
                seconds,
                drafting: 0.0002 * drafted(round.length, round.branches),
            });
        }
        (first, control.next())
    }

    #[test]
    fn guesses_branch_over_a_long_way_and_not_where_rows_are_dear_or_branches_are_wrong() {
        let (_, then) = with_branches(0.15, 0.0005, true);
        assert!(then.branches > 0, "{then:?}");
        let (first, then) = with_branches(0.002, 0.002, true);
        assert_eq!((first.branches, then.branches), (0, 0), "rows are dear");
        let (_, then) = with_branches(0.15, 0.0005, false);
        assert_eq!(then.branches, 0, "branches are wrong");
    }

    #[test]
    fn a_long_way_makes_long_rounds_and_a_bad_draft_none() {
        let of = |acceptance, fixed| {
            let source = SourceStart {
                acceptance,
                seconds_per_token: 0.002,
                length_max: 12,
                branches_max: 0,
            };
            let start = RoundStart {
                plain: fixed + 0.002,
                fixed,
                per_row: 0.002,
                tokens: 4000,
            };
            Drafting::new(&[source], start).next().length
        };
        assert!(of(0.4, 0.3) > of(0.4, 0.005));
        assert_eq!(of(0.01, 0.004), 0);
    }
}
