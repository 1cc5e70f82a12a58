//! Dates as templates print them.

use minijinja::{Error, ErrorKind};

/// A date and time of day where the user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    year: i32,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl LocalTime {
    /// The time of that date, or `None` if there is none; a leap second is the second 60.
    pub fn new(year: i32, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Option<Self> {
        let known = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 61;
        known.then_some(Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        })
    }

    /// The time that `text` spells as `2026-01-31T12:00:00`, with a space or `T`, fractions and zone ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<u16>().ok();
        let small = |range| u8::try_from(part(range)?).ok();
        let mark = |at: usize, marks: &str| text.get(at..=at).is_some_and(|c| marks.contains(c));
        let shaped = mark(4, "-") && mark(7, "-") && mark(10, "T ") && mark(13, ":") && mark(16, ":");
        if !shaped {
            return None;
        }
        Self::new(
            part(0..4)?.into(),
            small(5..7)?,
            small(8..10)?,
            small(11..13)?,
            small(14..16)?,
            small(17..19)?,
        )
    }

    /// The time of `seconds` since the beginning of 1970, in a place that is `offset` seconds ahead of UTC.
    pub fn from_unix(seconds: i64, offset: i32) -> Option<Self> {
        let local = seconds.checked_add(offset.into())?;
        let (days, rest) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        // Howard Hinnant, "chrono-compatible low-level date algorithms": days counted from 1 March of year 0.
        let shifted = days.checked_add(719_468)?;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let small = |value: i64| u8::try_from(value).ok();
        Self::new(
            i32::try_from(year).ok()?,
            small(month)?,
            small(day)?,
            small(rest / 3600)?,
            small(rest / 60 % 60)?,
            small(rest % 60)?,
        )
    }

    /// The time as C's `strftime` would write it in the C locale.
    pub(super) fn format(self, format: &str) -> Result<String, Error> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let directive = chars.next();
            let (padding, directive) = match directive {
                Some(flag @ ('-' | '_' | '0' | '^')) => (Some(flag), chars.next()),
                other => (None, other),
            };
            let unknown = || {
                Error::new(
                    ErrorKind::InvalidOperation,
                    format!("{format:?} is no date format"),
                )
            };
            let field = self.field(directive.ok_or_else(unknown)?).ok_or_else(unknown)?;
            out.push_str(&pad(field, padding));
        }
        Ok(out)
    }

    fn field(self, directive: char) -> Option<String> {
        let weekday = self.weekday();
        let (hour, minute, second) = (self.hour, self.minute, self.second);
        let twelve = (hour + 11) % 12 + 1;
        let text = match directive {
            'a' => DAYS[weekday][..3].to_owned(),
            'A' => DAYS[weekday].to_owned(),
            'b' | 'h' => MONTHS[usize::from(self.month) - 1][..3].to_owned(),
            'B' => MONTHS[usize::from(self.month) - 1].to_owned(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'm' => format!("{:02}", self.month),
            'y' => format!("{:02}", self.year % 100),
            'Y' => self.year.to_string(),
            'C' => format!("{:02}", self.year / 100),
            'H' => format!("{hour:02}"),
            'I' => format!("{twelve:02}"),
            'k' => format!("{hour:2}"),
            'l' => format!("{twelve:2}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'f' => "000000".to_owned(),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'P' => if hour < 12 { "am" } else { "pm" }.to_owned(),
            'j' => format!("{:03}", self.day_of_year()),
            'u' => (if weekday == 0 { 7 } else { weekday }).to_string(),
            'w' => weekday.to_string(),
            'U' => format!("{:02}", (usize::from(self.day_of_year()) + 6 - weekday) / 7),
            'W' => format!(
                "{:02}",
                (usize::from(self.day_of_year()) + 6 - (weekday + 6) % 7) / 7
            ),
            'F' => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
            'T' | 'X' => format!("{hour:02}:{minute:02}:{second:02}"),
            'R' => format!("{hour:02}:{minute:02}"),
            'r' => format!("{twelve:02}:{minute:02}:{second:02} {}", self.field('p')?),
            'D' | 'x' => format!("{:02}/{:02}/{:02}", self.month, self.day, self.year % 100),
            'c' => format!(
                "{} {} {:2} {hour:02}:{minute:02}:{second:02} {}",
                self.field('a')?,
                self.field('b')?,
                self.day,
                self.year
            ),
            'z' | 'Z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        };
        Some(text)
    }

    /// Days since Sunday (Sakamoto's method).
    fn weekday(self) -> usize {
        const SHIFT: [i32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = if self.month < 3 { self.year - 1 } else { self.year };
        let month = SHIFT[usize::from(self.month) - 1];
        (year + year / 4 - year / 100 + year / 400 + month + i32::from(self.day)).rem_euclid(7) as usize
    }

    fn day_of_year(self) -> u16 {
        (1..self.month)
            .map(|month| u16::from(days_in(self.year, month)))
            .sum::<u16>()
            + u16::from(self.day)
    }
}

/// `field` with the padding that a GNU flag asks for.
fn pad(field: String, flag: Option<char>) -> String {
    let bare = field.trim_start_matches([' ', '0']);
    let bare = if bare.is_empty() { "0" } else { bare };
    match flag {
        Some('-') => bare.to_owned(),
        Some('_') => format!("{bare:>width$}", width = field.len()),
        Some('0') => format!("{bare:0>width$}", width = field.len()),
        Some('^') => field.to_uppercase(),
        _ => field,
    }
}

fn days_in(year: i32, month: u8) -> u8 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(time: &str, format: &str, expected: &str) {
        assert_eq!(
            LocalTime::parse(time).unwrap().format(format).unwrap(),
            expected,
            "{format}"
        );
    }

    #[test]
    fn dates_read_as_strftime_writes_them() {
        check("2026-01-31T12:00:00", "%d %b %Y", "31 Jan 2026");
        check(
            "2026-01-31T12:00:00",
            "%A, %B %-d, %Y %I:%M %p",
            "Saturday, January 31, 2026 12:00 PM",
        );
        check(
            "2024-03-05 00:07:09",
            "%y%m%d %H:%M:%S %j %a %u %e %l",
            "240305 00:07:09 065 Tue 2  5 12",
        );
        check(
            "2024-12-31 23:59:59",
            "%F %T %j %U %W %% %_m %^a",
            "2024-12-31 23:59:59 366 52 53 % 12 TUE",
        );
        check(
            "2023-01-01 09:00:00",
            "%c|%x|%X|%U|%W|%w",
            "Sun Jan  1 09:00:00 2023|01/01/23|09:00:00|01|00|0",
        );
    }

    #[test]
    fn seconds_of_the_epoch_are_dates() {
        assert_eq!(LocalTime::from_unix(0, 0), LocalTime::new(1970, 1, 1, 0, 0, 0));
        assert_eq!(
            LocalTime::from_unix(1_709_210_096, 3600),
            LocalTime::new(2024, 2, 29, 13, 34, 56)
        );
        assert_eq!(
            LocalTime::from_unix(-1, 0),
            LocalTime::new(1969, 12, 31, 23, 59, 59)
        );
        assert_eq!(LocalTime::from_unix(i64::MAX, 1), None);
    }

    #[test]
    fn what_is_no_date_is_refused() {
        assert!(LocalTime::new(2023, 2, 29, 0, 0, 0).is_none());
        assert!(LocalTime::parse("yesterday").is_none());
        assert!(LocalTime::parse("2026-01-31T12:00:é").is_none());
        assert!(LocalTime::new(2026, 1, 1, 0, 0, 0).unwrap().format("%Q").is_err());
        assert!(LocalTime::new(2026, 1, 1, 0, 0, 0).unwrap().format("%").is_err());
    }
}
