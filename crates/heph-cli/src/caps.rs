//! The arguments that say how much of a machine others may use.

use heph_types::{Caps, Hours};

/// What this machine gives away at most.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "What others may use")]
pub(crate) struct CapsArguments {
    /// Memory for weights and caches, as 4GB or 512MB
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub(crate) memory: Option<u64>,
    /// Threads to compute with [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Share of the cores, as 50%; at least one thread
    #[arg(long, value_parser = share, value_name = "PERCENT", conflicts_with = "threads")]
    pub(crate) cpu: Option<f64>,
    /// Bytes a second that it sends in conversations, as 10MB: what other machines may count on
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub(crate) bandwidth: Option<u64>,
    /// When to take work, as 22:00-06:00
    #[arg(long, value_parser = hours, value_name = "FROM-UNTIL")]
    pub(crate) hours: Option<Hours>,
    /// Take no work while other programs need the processor
    #[arg(long)]
    pub(crate) pause_while_i_work: bool,
    /// Sessions open at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) sessions: u16,
}

impl CapsArguments {
    /// What is announced. The share of the processor is in the speed already, which is measured with these threads.
    pub(crate) fn caps(&self) -> Caps {
        Caps {
            memory: self.memory,
            cpu: None,
            bytes_per_second: self.bandwidth.map(|bytes| bytes as f64),
            hours: self.hours,
            pause_while_i_work: self.pause_while_i_work,
            accepts_bytes: 0,
        }
    }

    /// Threads to compute with on a machine with so many cores.
    pub(crate) fn threads_of(&self, cores: usize) -> usize {
        let share = self.cpu.map(|share| ((cores as f64 * share) as usize).max(1));
        self.threads.map(usize::from).or(share).unwrap_or(cores)
    }
}

/// A size as people write it.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write it as 4GB, 512MB or a number of bytes");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = number * unit as f64;
    // Nobody has an exabyte, and below it a f64 counts exactly enough.
    match (1.0..1e18).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err(wrong()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim_end_matches('%').trim().parse().ok();
    let share = number
        .map(|percent| percent / 100.0)
        .filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "a share from 1% to 100% is needed".to_owned())
}

fn hours(text: &str) -> Result<Hours, String> {
    let minute = |time: &str| -> Option<u16> {
        let (hour, minute) = time.trim().split_once(':').unwrap_or((time.trim(), "0"));
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60).then_some(hour * 60 + minute)
    };
    let times = text
        .split_once('-')
        .and_then(|(from, until)| Some((minute(from)?, minute(until)?)));
    let (from, until) = times.ok_or_else(|| "times are needed, as 22:00-06:00".to_owned())?;
    Ok(Hours { from, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_shares_and_hours_are_read_as_people_write_them() {
        let sizes = [
            ("4GB", 4_000_000_000),
            ("1.5 gb", 1_500_000_000),
            ("512MiB", 512 << 20),
            ("7", 7),
        ];
        for (text, size) in sizes {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        assert_eq!((share("50%"), share("100")), (Ok(0.5), Ok(1.0)));
        assert_eq!(
            hours("22:00-6"),
            Ok(Hours {
                from: 1320,
                until: 360
            })
        );
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in ["", "GB", "4XB", "-1GB", "1e300GB", "nanGB", "é"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for text in ["0%", "101%", "half", "nan"] {
            assert!(share(text).is_err(), "{text}");
        }
        for text in ["22:00", "24:00-6:00", "1:60-2:00", "a-b", "-"] {
            assert!(hours(text).is_err(), "{text}");
        }
    }
}
