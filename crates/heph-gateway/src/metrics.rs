//! Counts of what was asked and answered, as Prometheus reads them. No name, prompt or address is among them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use heph_runtime::blocks::BlockCounts;
use heph_runtime::service::{Load, Outcome};

/// Upper bounds of the times to the first token, in milliseconds.
const BOUNDS_MS: [u64; 8] = [5, 10, 25, 100, 500, 2_500, 10_000, 60_000];

/// What happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    asked: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    refused: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    answer_tokens: AtomicU64,
    first_token: [AtomicU64; BOUNDS_MS.len() + 1],
    first_token_us: AtomicU64,
}

impl Counters {
    pub(crate) fn asked(&self) {
        self.asked.fetch_add(1, Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(crate) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn answered(&self, outcomes: &[Outcome]) {
        self.answered.fetch_add(1, Relaxed);
        for outcome in outcomes {
            self.prompt_tokens
                .fetch_add(outcome.prompt_tokens as u64, Relaxed);
            self.cached_tokens
                .fetch_add(outcome.cached_tokens as u64, Relaxed);
            self.answer_tokens
                .fetch_add(outcome.answer_tokens as u64, Relaxed);
        }
        if let Some(first) = outcomes.iter().map(|o| o.first_token).min() {
            let ms = first.as_millis() as u64;
            let at = BOUNDS_MS
                .iter()
                .position(|&bound| ms <= bound)
                .unwrap_or(BOUNDS_MS.len());
            self.first_token[at].fetch_add(1, Relaxed);
            self.first_token_us.fetch_add(first.as_micros() as u64, Relaxed);
        }
    }

    /// Answered, failed, refused.
    pub(crate) fn summary(&self) -> (u64, u64, u64) {
        (
            self.answered.load(Relaxed),
            self.failed.load(Relaxed),
            self.refused.load(Relaxed),
        )
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(
        &self,
        load: Load,
        disk: BlockCounts,
        memory: (u64, u64, usize),
        limited: u64,
    ) -> String {
        let (recalled, not_recalled, answers_kept) = memory;
        let (kept_blocks, kept_bytes, kept_given_up) = load.kept;
        let counters = [
            (
                "heph_requests_total",
                "Requests that reached a model",
                self.asked.load(Relaxed),
            ),
            (
                "heph_requests_answered_total",
                "Answers that were complete",
                self.answered.load(Relaxed),
            ),
            (
                "heph_requests_failed_total",
                "Answers that broke off here",
                self.failed.load(Relaxed),
            ),
            (
                "heph_requests_cancelled_total",
                "Answers that nobody waited for",
                self.cancelled.load(Relaxed),
            ),
            (
                "heph_requests_refused_total",
                "Requests that were refused",
                self.refused.load(Relaxed),
            ),
            (
                "heph_requests_limited_total",
                "Requests whose caller came too often, and was told to come later",
                limited,
            ),
            (
                "heph_prompt_tokens_total",
                "Tokens of prompts that were answered",
                self.prompt_tokens.load(Relaxed),
            ),
            (
                "heph_prompt_tokens_cached_total",
                "Of these, tokens that an earlier answer had left",
                self.cached_tokens.load(Relaxed),
            ),
            (
                "heph_cache_ram_given_up_total",
                "Blocks of the served model's prompts that gave way in memory",
                kept_given_up,
            ),
            (
                "heph_cache_disk_read_total",
                "Blocks of prompts read from disk",
                disk.read,
            ),
            (
                "heph_cache_disk_written_total",
                "Blocks of prompts written to disk",
                disk.written,
            ),
            (
                "heph_cache_disk_given_up_total",
                "Blocks of prompts that gave way on disk",
                disk.given_up,
            ),
            (
                "heph_cache_disk_damaged_total",
                "Blocks of prompts that were damaged on disk, and not used",
                disk.damaged,
            ),
            (
                "heph_cache_disk_failed_total",
                "Times that the system refused to write a block",
                disk.failed,
            ),
            (
                "heph_answers_recalled_total",
                "Answers that were given again",
                recalled,
            ),
            (
                "heph_answers_not_recalled_total",
                "Questions that were asked though an answer might have been given again",
                not_recalled,
            ),
            (
                "heph_answer_tokens_total",
                "Tokens of complete answers",
                self.answer_tokens.load(Relaxed),
            ),
            (
                "heph_tokens_made_total",
                "Tokens made by the served model",
                load.tokens as u64,
            ),
        ];
        let gauges = [
            (
                "heph_answers_open",
                "Answers under way or waiting",
                load.open as u64,
            ),
            (
                "heph_answers_waiting",
                "Of these, waiting for a place",
                load.waiting as u64,
            ),
            (
                "heph_cache_ram_blocks",
                "Blocks of the served model's prompts in memory",
                kept_blocks as u64,
            ),
            ("heph_cache_ram_bytes", "Bytes of these", kept_bytes),
            (
                "heph_caches_bytes",
                "Bytes of all keys and values of the served model: of these, and of answers under way",
                load.caches,
            ),
            ("heph_cache_disk_blocks", "Blocks of prompts on disk", disk.blocks),
            ("heph_cache_disk_bytes", "Bytes of these", disk.bytes),
            (
                "heph_answers_kept",
                "Answers that may be given again",
                answers_kept as u64,
            ),
        ];
        let mut text = String::new();
        let mut line = |name: &str, about: &str, kind: &str, value: u64| {
            let _ = writeln!(
                text,
                "# HELP {name} {about}\n# TYPE {name} {kind}\n{name} {value}"
            );
        };
        for (name, about, value) in counters {
            line(name, about, "counter", value);
        }
        for (name, about, value) in gauges {
            line(name, about, "gauge", value);
        }
        self.histogram(&mut text);
        text
    }

    fn histogram(&self, text: &mut String) {
        let name = "heph_first_token_seconds";
        let _ = writeln!(
            text,
            "# HELP {name} Time until the first token\n# TYPE {name} histogram"
        );
        let mut sum = 0;
        for (count, bound) in self.first_token.iter().zip(BOUNDS_MS) {
            sum += count.load(Relaxed);
            let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {sum}", bound as f64 / 1e3);
        }
        sum += self.first_token[BOUNDS_MS.len()].load(Relaxed);
        let seconds = self.first_token_us.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(
            text,
            "{name}_bucket{{le=\"+Inf\"}} {sum}\n{name}_sum {seconds}\n{name}_count {sum}"
        );
    }
}
