//! The terminal: colour where it is wanted, progress where somebody watches, Ctrl-C as a wish.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heph_runtime::cancel::Cancel;
use heph_runtime::files;
use heph_runtime::store::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// Colour for one stream, or none: `NO_COLOR` (no-color.org), a dumb terminal and a pipe switch it off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// For standard error.
    pub(crate) fn of_stderr() -> Self {
        Self {
            colour: io::stderr().is_terminal() && wants_colour(),
        }
    }

    /// For standard output.
    pub(crate) fn of_stdout() -> Self {
        Self {
            colour: io::stdout().is_terminal() && wants_colour(),
        }
    }

    /// For what went wrong.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31;1", text)
    }

    /// For what went well.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32;1", text)
    }

    /// For what stands aside.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn wants_colour() -> bool {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|t| t != "dumb")
}

/// Says something beside what was asked for. What files and machines wrote of it steers no terminal.
pub(crate) fn note(sentence: &str) {
    // Where standard error is closed nobody wants to know.
    let _ = writeln!(
        io::stderr().lock(),
        "{}",
        Style::of_stderr().dim(&plain(sentence))
    );
}

/// The same for a script: one JSON object on a line.
pub(crate) fn note_json(notice: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(notice) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// A job that is done before this has no bar: it would only flicker.
const SHOWN_AFTER: Duration = Duration::from_millis(300);

/// How often a bar is drawn anew while nothing is told of its job.
const TICK: Duration = Duration::from_millis(200);

/// A bar on standard error for a job that takes a while; nothing where nobody watches.
pub(crate) struct Bar {
    bar: ProgressBar,
    began: Instant,
    shown: AtomicBool,
}

impl Bar {
    fn hidden(what: &str, steps: Option<u64>, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::hidden());
        let amount = |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A template cannot fail; what is not written is not shown.
            let _ = out.write_str(&bytes_of(state.pos(), state.len()));
        };
        let speed = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}/s", bytes(state.per_sec() as u64));
        };
        let counted = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}/{}", count(state.pos()), count(state.len().unwrap_or(0)));
        };
        bar.set_style(
            style(template)
                .with_key("amount", amount)
                .with_key("speed", speed)
                .with_key("counted", counted),
        );
        bar.set_message(what.to_owned());
        Self {
            bar,
            began: Instant::now(),
            shown: AtomicBool::new(false),
        }
    }

    /// The same, shown at once: for a job that waits for others.
    pub(crate) fn at_once(self) -> Self {
        self.draw();
        self
    }

    /// So many steps are done more.
    pub(crate) fn inc(&self, steps: u64) {
        self.bar.inc(steps);
        self.look();
    }

    /// So much is done.
    pub(crate) fn set_position(&self, done: u64) {
        self.bar.set_position(done);
        self.look();
    }

    /// So much there is to do.
    pub(crate) fn set_length(&self, all: u64) {
        self.bar.set_length(all);
    }

    /// Takes it off the terminal.
    pub(crate) fn finish_and_clear(&self) {
        self.bar.finish_and_clear();
    }

    fn look(&self) {
        if self.began.elapsed() >= SHOWN_AFTER {
            self.draw();
        }
    }

    fn draw(&self) {
        if !self.shown.swap(true, Ordering::Relaxed) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(TICK);
        }
    }
}

/// So many bytes of so many; of how many is not always known.
fn bytes_of(done: u64, all: Option<u64>) -> String {
    match all {
        Some(all) => format!("{}/{}", bytes(done), bytes(all)),
        None => bytes(done),
    }
}

/// A bar for a job counted in bytes.
pub(crate) fn bytes_bar(what: &str) -> Bar {
    Bar::hidden(what, None, "{msg} {wide_bar} {amount} {speed} {eta}")
}

/// A bar for a job counted in steps.
pub(crate) fn steps_bar(what: &str, steps: u64) -> Bar {
    Bar::hidden(what, Some(steps), "{msg} {wide_bar} {counted} {eta}")
}

/// A line on standard error for a job without an end; nothing where nobody watches.
pub(crate) fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style("{spinner} {wide_msg}"));
    bar.enable_steady_tick(TICK);
    bar
}

/// Moves `bar` to where a job is.
pub(crate) fn show(bar: &Bar, progress: Progress) {
    if let Some(total) = progress.total {
        bar.set_length(total);
    }
    bar.set_position(progress.done);
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The flag that Ctrl-C raises, once this was called. A second Ctrl-C, while the first is not yet heard, ends
/// the program at once.
pub(crate) fn cancel_on_ctrl_c() -> Result<Cancel, Failure> {
    static FLAG: OnceLock<Cancel> = OnceLock::new();
    if let Some(flag) = FLAG.get() {
        return Ok(flag.clone());
    }
    let flag = FLAG.get_or_init(Cancel::new).clone();
    let seen_by_handler = flag.clone();
    let handler = move || {
        if seen_by_handler.raise() {
            end();
        }
    };
    ctrlc::set_handler(handler)
        .map_err(|e| Failure::new(Exit::No, format!("cannot listen for Ctrl-C: {e}")))?;
    Ok(flag)
}

/// As [`cancel_on_ctrl_c`], and a signal to terminate counts as Ctrl-C: for jobs that would leave something behind.
pub(crate) fn cancel_on_any_signal() -> Result<Cancel, Failure> {
    let flag = cancel_on_ctrl_c()?;
    #[cfg(unix)]
    if !LISTENING.swap(true, Ordering::SeqCst) {
        let refused = |e| Failure::new(Exit::No, format!("cannot listen for signals: {e}"));
        let mut signals =
            signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]).map_err(refused)?;
        let raised = flag.clone();
        std::thread::spawn(move || {
            for _ in &mut signals {
                TERMINATED.store(true, Ordering::SeqCst);
                if raised.raise() {
                    end();
                }
            }
        });
    }
    Ok(flag)
}

/// Whether a thread of ours waits for signals: a second one would take one signal for two.
#[cfg(unix)]
static LISTENING: AtomicBool = AtomicBool::new(false);

/// Whether a signal to terminate came.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// Ends the program at once, without what it was writing.
fn end() -> ! {
    files::discard_unfinished();
    std::process::exit(stopped_code().into());
}

/// The exit code of a program that was stopped: 128 and the number of the signal.
pub(crate) fn stopped_code() -> u8 {
    match TERMINATED.load(Ordering::SeqCst) {
        true => 128 + 15,
        false => Exit::Stopped as u8,
    }
}

/// `text` without anything that steers a terminal: characters that are none are written out, line breaks and tabs stay.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let written = |c: char| match steers(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    Cow::Owned(text.chars().map(written).collect())
}

/// `text` in one line: whatever steers a terminal, ends a line or turns its direction is written out.
pub(crate) fn line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let written = |c: char| match c.is_control() || turns(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    text.chars().map(written).collect()
}

/// So many of a thing, in words: `1 document`, `2 documents`.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// `bytes` as people read it, with three digits: `7.52 MB`. Powers of 1,000, as disks are sold.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// A count as people read it, with three digits: `11.5 million`.
pub(crate) fn count(count: u64) -> String {
    scaled(count as f64, &["", "thousand", "million", "billion", "trillion"])
        .trim_end()
        .to_owned()
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_steers_the_terminal() {
        let cases = [
            ("two lines\n\tand é", "two lines\n\tand é"),
            ("no \x1b[31m red\x07", "no \\u{1b}[31m red\\u{7}"),
            ("\r\u{9b}2J\u{7f}", "\\u{d}\\u{9b}2J\\u{7f}"),
        ];
        for (text, shown) in cases {
            assert_eq!(plain(text), shown);
        }
    }

    #[test]
    fn a_short_job_shows_no_bar() {
        let bar = steps_bar("counting", 3);
        bar.inc(1);
        assert!(!bar.shown.load(Ordering::Relaxed));
        let bar = Bar {
            began: Instant::now() - SHOWN_AFTER,
            ..bytes_bar("reading")
        };
        bar.set_position(1);
        assert!(bar.shown.load(Ordering::Relaxed));
        assert_eq!(bytes_of(1, Some(15_000_000)), "1 B/15.0 MB");
    }

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (7_516_800, "7.52 MB"),
            (999_999_999, "1.00 GB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}
