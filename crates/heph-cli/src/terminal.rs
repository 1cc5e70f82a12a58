//! The terminal: colour where it is wanted, progress where somebody watches, Ctrl-C as a wish.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use heph_runtime::cancel::Cancel;
use heph_runtime::store::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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

/// A bar on standard error for a job counted in bytes; nothing where nobody watches.
pub(crate) fn bytes_bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style(
        "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    ));
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A bar on standard error for a job counted in steps; nothing where nobody watches.
pub(crate) fn steps_bar(what: &str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    bar.set_style(style("{msg} {wide_bar} {pos}/{len} {eta}"));
    bar.set_message(what.to_owned());
    bar
}

/// A line on standard error for a job without an end; nothing where nobody watches.
pub(crate) fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style("{spinner} {wide_msg}"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Moves `bar` to where a job is.
pub(crate) fn show(bar: &ProgressBar, progress: Progress) {
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
            std::process::exit(Exit::Stopped as i32);
        }
    };
    ctrlc::set_handler(handler)
        .map_err(|e| Failure::new(Exit::No, format!("cannot listen for Ctrl-C: {e}")))?;
    Ok(flag)
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
