//! How fast a seat is, as its line has seen: what its patience and the planner's news come from.

use std::collections::VecDeque;
use std::time::Duration;

/// Short pieces that are remembered: three slow ones of five are no accident.
const REMEMBERED: usize = 5;

/// Rows of a piece that counts as short: a chosen token, or a token with its guesses.
const SHORT_ROWS: usize = 17;

/// What another row adds to a short piece, as a share of the first: 16 rows cost at most three times one
/// (`benches/RESULTS.md`).
const ROW_SHARE: f64 = 0.12;

/// What a new long piece counts.
const LONG_SHARE: f64 = 0.3;

/// How many times its own time a seat may take before it counts as lost.
const PATIENCE_TIMES: f64 = 8.0;

/// Longest that anybody is waited for.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// The times of one seat.
#[derive(Debug, Clone, Default)]
pub(super) struct Tempo {
    /// Seconds of the last short pieces, as if each had one row.
    short: VecDeque<f64>,
    /// Seconds for a row of long pieces.
    row: Option<f64>,
    /// What one row took when its rows last began to come another way, until that way is known.
    before: Option<f64>,
    /// What is added so that the other way is no news.
    shift: f64,
}

impl Tempo {
    /// Learns that a piece of so many rows took so long.
    pub(super) fn saw(&mut self, rows: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        if rows > SHORT_ROWS {
            let row = seconds / rows as f64;
            let known = self.row.unwrap_or(row);
            self.row = Some(known + LONG_SHARE * (row - known));
            return;
        }
        if self.short.len() == REMEMBERED {
            self.short.pop_front();
        }
        let rows = rows.max(1) as f64;
        self.short.push_back(seconds / (1.0 + ROW_SHARE * (rows - 1.0)));
        if let (Some(before), Some(now)) = (self.before, self.one_row()) {
            (self.before, self.shift) = (None, before - now);
        }
    }

    /// Rows come another way from now on: what that changes says nothing about the seat.
    pub(super) fn rebase(&mut self) {
        self.before = self.even_row().or(self.before);
        self.shift = 0.0;
        self.short.clear();
    }

    /// As [`Tempo::one_row`], as if rows had always come the first way.
    pub(super) fn even_row(&self) -> Option<f64> {
        self.one_row().map(|row| row + self.shift)
    }

    /// Forgets short pieces: from now on they are asked for in another way.
    pub(super) fn forget_short(&mut self) {
        self.short.clear();
    }

    /// Seconds of a piece of one row: the middle of the last ones, once enough were seen.
    pub(super) fn one_row(&self) -> Option<f64> {
        if self.short.len() < REMEMBERED {
            return None;
        }
        let mut sorted: Vec<f64> = self.short.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Some(sorted[REMEMBERED / 2])
    }

    /// How long the seat may be silent over a piece of so many rows; `None` before it is known.
    pub(super) fn patience(&self, rows: usize) -> Option<Duration> {
        let short = self.one_row();
        let seconds = if rows > SHORT_ROWS {
            short.unwrap_or(0.0) + self.row? * rows as f64
        } else {
            short? * (1.0 + ROW_SHARE * (rows.max(1) - 1) as f64)
        };
        let patience = Duration::try_from_secs_f64(seconds * PATIENCE_TIMES).unwrap_or(PATIENCE_MAX);
        Some(patience.min(PATIENCE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_slow_piece_is_an_accident_and_three_are_not() {
        let mut tempo = Tempo::default();
        assert_eq!((tempo.one_row(), tempo.patience(1)), (None, None));
        (0..5).for_each(|_| tempo.saw(1, 10 * MS));
        tempo.saw(1, 500 * MS);
        assert_eq!(tempo.patience(1), Some(80 * MS));
        (0..2).for_each(|_| tempo.saw(1, 50 * MS));
        assert_eq!(tempo.patience(1), Some(400 * MS));
    }

    #[test]
    fn guesses_and_prompts_are_waited_for_longer() {
        let mut tempo = Tempo::default();
        (0..5).for_each(|_| tempo.saw(11, 22 * MS));
        assert_eq!(tempo.one_row().map(|s| (s * 1e3).round()), Some(10.0));
        assert_eq!(tempo.patience(256), None);
        tempo.saw(100, 100 * MS);
        assert_eq!(tempo.patience(256).map(|p| p.as_millis()), Some(8 * (10 + 256)));
        assert_eq!(tempo.patience(1_000_000), Some(PATIENCE_MAX));
    }
}
