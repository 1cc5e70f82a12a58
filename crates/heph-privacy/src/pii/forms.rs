//! What is told by its form and not by one picture: addresses of the network, dates, telephones, accounts of any length.
//!
//! Each function looks at one place of the text and says how far the thing reaches from there. None looks further than its own
//! longest form, so the whole stays linear.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::checks;
use super::picture::{begins, ends};

/// A bank account number at `start`: groups of any size between single spaces or hyphens.
pub(super) fn iban(text: &[u8], start: usize) -> Option<usize> {
    let head = text.get(start..start + 2)?;
    let known =
        |(country, length): &&(&str, usize)| head.eq_ignore_ascii_case(country.as_bytes()) && *length > 0;
    let (_, length) = checks::IBAN_LENGTHS.iter().find(known)?;
    let mut compact = Vec::with_capacity(*length);
    let mut place = start;
    while compact.len() < *length {
        match text.get(place)? {
            b if b.is_ascii_alphanumeric() => compact.push(b.to_ascii_uppercase()),
            b' ' | b'-' if text[place - 1].is_ascii_alphanumeric() => {}
            _ => return None,
        }
        place += 1;
    }
    // In a dump of memory small letters and spaces mix as they like.
    let spaced = place - start > *length;
    let small = text[start..place].iter().any(u8::is_ascii_lowercase);
    (ends(text, place) && !(spaced && small) && checks::iban(&compact)).then_some(place)
}

/// An address of the network at `start`, version 4. Those that name no machine are left out.
pub(super) fn ipv4(text: &[u8], start: usize) -> Option<usize> {
    let mut place = start;
    let mut parts = [0_u8; 4];
    for (n, part) in parts.iter_mut().enumerate() {
        if n > 0 {
            if text.get(place) != Some(&b'.') {
                return None;
            }
            place += 1;
        }
        let digits = text[place..]
            .iter()
            .take(4)
            .take_while(|b| b.is_ascii_digit())
            .count();
        if digits == 0 || digits > 1 && text[place] == b'0' {
            return None;
        }
        *part = std::str::from_utf8(&text[place..place + digits])
            .ok()?
            .parse()
            .ok()?;
        place += digits;
    }
    let address = Ipv4Addr::from(parts);
    let nobody = address.is_loopback() || address.is_unspecified() || parts[0] == 255 || parts[0] == 0;
    let port = text.get(place) == Some(&b':') && text.get(place + 1).is_some_and(u8::is_ascii_digit);
    let network = text.get(place) == Some(&b'/') && text.get(place + 1).is_some_and(u8::is_ascii_digit);
    let longer = text.get(place) == Some(&b'.') && text.get(place + 1).is_some_and(u8::is_ascii_alphanumeric);
    let ended = port || network || ends(text, place);
    let apart = start == 0
        || !matches!(text[start - 1], b'.' | b'_')
            && (begins(text, start) || matches!(text[start - 1], b'/' | b'-' | b'|'));
    (!nobody && !longer && ended && apart).then_some(place)
}

/// An address of the network at `start`, version 6.
pub(super) fn ipv6(text: &[u8], start: usize) -> Option<usize> {
    let run = text[start..]
        .iter()
        .take(46)
        .take_while(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        .count();
    let mut end = start + run;
    // The last mark may belong to the sentence.
    while end > start && matches!(text[end - 1], b'.' | b':') && !text[start..end].ends_with(b"::") {
        end -= 1;
    }
    let spelled = std::str::from_utf8(&text[start..end]).ok()?;
    let address: Ipv6Addr = spelled.parse().ok()?;
    let groups = spelled.split(':').filter(|g| !g.is_empty()).count();
    let first = address.segments()[0];
    let known = matches!(first, 0xfe80..=0xfebf | 0xfc00..=0xfdff | 0x2000..=0x3fff) && spelled.len() > 6;
    let apart = start == 0
        || !text[start - 1].is_ascii_alphanumeric() && !matches!(text[start - 1], b':' | b'_' | b'.');
    let ended = text
        .get(end)
        .is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_' && *b != b':');
    (apart && ended && (groups == 8 || groups > 2 && spelled.bytes().any(|b| b.is_ascii_digit()) || known))
        .then_some(end)
}

/// The address of a network card at `start`: six pairs.
pub(super) fn mac(text: &[u8], start: usize) -> Option<usize> {
    let pairs = text.get(start..start + 17)?;
    let joint = pairs[2];
    let right = matches!(joint, b':' | b'-')
        && pairs.iter().enumerate().all(|(i, b)| {
            if i % 3 == 2 {
                *b == joint
            } else {
                b.is_ascii_hexdigit()
            }
        });
    let letter = pairs.iter().any(u8::is_ascii_alphabetic);
    let nobody = pairs.iter().all(|b| matches!(b, b'0' | b':' | b'-'))
        || pairs.iter().all(|b| matches!(b, b'f' | b'F' | b':' | b'-'));
    let ended = text
        .get(start + 17)
        .is_none_or(|b| !b.is_ascii_alphanumeric() && *b != joint);
    (right && !nobody && ended && (letter || joint == b':') && begins(text, start)).then_some(start + 17)
}

/// Ends of file names that look like the last part of a domain.
const FILES: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "svg", "webp", "js", "ts", "css", "md", "rs", "json", "py", "html", "txt",
    "toml", "yml", "yaml", "so",
];

/// The mail address around the `@` at `at`.
pub(super) fn email(text: &[u8], at: usize) -> Option<(usize, usize)> {
    let local = |b: &u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'') || *b >= 0x80
    };
    let mut start = at - text[..at].iter().rev().take(64).take_while(|b| local(b)).count();
    while start < at && (matches!(text[start], b'.' | b'\'' | b'-' | b'%') || text[start] & 0xC0 == 0x80) {
        start += 1;
    }
    let name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-') || *b >= 0x80;
    let mut end = at + 1 + text[at + 1..].iter().take(253).take_while(|b| name(b)).count();
    while end > at + 1 && matches!(text[end - 1], b'.' | b'-') {
        end -= 1;
    }
    let domain = std::str::from_utf8(&text[at + 1..end]).ok()?;
    // Scripts without spaces go on behind an address.
    let domain = domain
        .split(|c: char| !c.is_ascii() && !c.is_alphabetic())
        .next()?;
    let (head, last) = domain.rsplit_once('.')?;
    let last_right = last.len() > 1 && (last.chars().all(char::is_alphabetic) || last.starts_with("xn--"));
    let labels = head
        .split('.')
        .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    let machine = &text[start..at] == b"git" || FILES.contains(&last);
    (start < at && last_right && labels && !machine).then_some((start, at + 1 + domain.len()))
}

/// The words before the places where a digit stands: months of a dozen languages, cut to what tells them apart.
#[rustfmt::skip]
const MONTHS: [&str; 12] = [
    "january|jan|januar|janvier|janv|enero|ene|gennaio|gen|janeiro|januari|stycznia|ledna|ocak|tammikuuta|\
    jänner",
    "february|feb|februar|février|févr|febrero|febbraio|fevereiro|fev|februari|lutego|února|şubat|\
    helmikuuta",
    "march|mar|märz|mars|marzo|março|maart|marca|března|mart|maaliskuuta|mrz",
    "april|apr|avril|avr|abril|abr|aprile|kwietnia|dubna|nisan|huhtikuuta",
    "may|mai|mayo|maggio|mag|maio|mei|maja|května|maj|mayıs|toukokuuta",
    "june|jun|juni|juin|junio|giugno|giu|junho|czerwca|června|haziran|kesäkuuta",
    "july|jul|juli|juillet|juil|julio|luglio|lug|julho|lipca|července|temmuz|heinäkuuta",
    "august|aug|août|aout|agosto|ago|augustus|sierpnia|srpna|augusti|ağustos|elokuuta",
    "september|sep|sept|septembre|septiembre|settembre|set|setembro|września|září|eylül|syyskuuta",
    "october|oct|okt|oktober|octobre|octubre|ottobre|ott|outubro|października|října|ekim|lokakuuta",
    "november|nov|novembre|noviembre|novembro|listopada|listopadu|kasım|marraskuuta",
    "december|dec|dez|dezember|décembre|déc|diciembre|dic|dicembre|dezembro|grudnia|prosince|aralık|\
    joulukuuta",
];

fn month(word: &str) -> Option<u32> {
    let lower = word.trim_end_matches(['.', ',']).to_lowercase();
    let place = MONTHS
        .iter()
        .position(|names| names.split('|').any(|name| name == lower))?;
    Some(place as u32 + 1)
}

fn is_date(day: u32, month: u32, year: u32) -> bool {
    (1..=31).contains(&day) && (1..=12).contains(&month) && (1890..=2099).contains(&year)
}

/// A number of at most four digits at `place`: its value and where it ends.
fn short(text: &[u8], place: usize) -> Option<(u32, usize)> {
    let digits = text[place.min(text.len())..]
        .iter()
        .take(5)
        .take_while(|b| b.is_ascii_digit())
        .count();
    let value = text
        .get(place..place + digits)?
        .iter()
        .fold(0, |n, b| n * 10 + u32::from(b - b'0'));
    (1..=4).contains(&digits).then_some((value, place + digits))
}

/// A whole date whose first number, or whose month, is before or at the digit at `start`.
pub(super) fn date(text: &str, start: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let (first, place) = short(bytes, start)?;
    let joint = *bytes.get(place)?;
    if matches!(joint, b'-' | b'.' | b'/') && bytes.get(place + 1).is_some_and(u8::is_ascii_digit) {
        let (second, after) = short(bytes, place + 1)?;
        if bytes.get(after) != Some(&joint) {
            return None;
        }
        let (third, end) = short(bytes, after + 1)?;
        let widths = (place - start, after - place - 1, end - after - 1);
        let right = match widths {
            (4, 1..=2, 1..=2) => is_date(third, second, first),
            (1..=2, 1..=2, 4) => is_date(first, second, third) || is_date(second, first, third),
            _ => false,
        };
        return (right && ends(bytes, end)).then_some((start, end));
    }
    if place - start > 2 || !matches!(joint, b' ' | b'.' | b'-' | b',' | b's' | b'n' | b'r' | b't') {
        return None;
    }
    let place = if matches!(joint, b's' | b'n' | b'r' | b't') {
        place + 2
    } else {
        place
    };
    day_first(text, start, place, first).or_else(|| month_first(text, start, place, first))
}

/// `4 September 2005`, `4. September 2005`, `4th of September 2005`, `4 de septiembre de 2005`; `place` is behind the day.
fn day_first(text: &str, start: usize, place: usize, day: u32) -> Option<(usize, usize)> {
    let rest = text
        .get(place..)?
        .trim_start_matches('.')
        .trim_start_matches([' ', '-']);
    let rest = rest
        .strip_prefix("de ")
        .or_else(|| rest.strip_prefix("of "))
        .unwrap_or(rest);
    let name: usize = rest
        .chars()
        .take(16)
        .take_while(|c| c.is_alphabetic())
        .map(char::len_utf8)
        .sum();
    let tail = rest[name..]
        .trim_start_matches('.')
        .trim_start_matches([' ', ',', '-']);
    let tail = tail
        .strip_prefix("de ")
        .or_else(|| tail.strip_prefix("del "))
        .unwrap_or(tail);
    let at = text.len() - tail.len();
    let (year, end) = short(text.as_bytes(), at).filter(|(_, end)| name > 2 && end - at == 4)?;
    let month = month(&rest[..name])?;
    (is_date(day, month, year) && ends(text.as_bytes(), end)).then_some((start, end))
}

/// `September 4, 2005`; `place` is behind the day.
fn month_first(text: &str, start: usize, place: usize, day: u32) -> Option<(usize, usize)> {
    let tail = text.get(place..)?.trim_start_matches(',').trim_start_matches(' ');
    let at = text.len() - tail.len();
    let (year, end) = short(text.as_bytes(), at).filter(|(_, end)| at > place && end - at == 4)?;
    let before = text[..start].strip_suffix(' ')?;
    let letter = |c: &char| c.is_alphabetic() || *c == '.';
    let name: usize = before
        .chars()
        .rev()
        .take(16)
        .take_while(letter)
        .map(char::len_utf8)
        .sum();
    let month = month(&before[before.len() - name..])?;
    (is_date(day, month, year) && ends(text.as_bytes(), end)).then_some((start - 1 - name, end))
}

/// What stands where a telephone number may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dialled {
    pub(super) end: usize,
    /// Digits by group.
    pub(super) groups: Vec<usize>,
    pub(super) international: bool,
    pub(super) parentheses: bool,
    pub(super) first: u8,
    /// All digits but those of an extension.
    pub(super) digits: Vec<u8>,
    /// The separators are all the same.
    pub(super) even: bool,
}

/// Digits are 15 at most in E.164, and a trunk zero may stand in parentheses; before them may stand two zeros.
const DIALLED_MAX: usize = 18;

/// Groups of digits as in a telephone number, with its extension.
pub(super) fn dialled(text: &[u8], start: usize) -> Option<Dialled> {
    let mut place = start;
    let mut found = Dialled {
        end: start,
        groups: Vec::new(),
        international: false,
        parentheses: false,
        first: 0,
        digits: Vec::new(),
        even: true,
    };
    let mut open = false;
    if text.get(place) == Some(&b'(') {
        open = true;
        found.parentheses = true;
        place += 1;
    }
    if text.get(place) == Some(&b'+') {
        found.international = true;
        place += 1;
    }
    let mut joints = Vec::new();
    loop {
        let digits = text[place..]
            .iter()
            .take(DIALLED_MAX + 1)
            .take_while(|b| b.is_ascii_digit())
            .count();
        if digits == 0 {
            break;
        }
        found.digits.extend_from_slice(&text[place..place + digits]);
        if found.digits.len() > DIALLED_MAX {
            return None;
        }
        found.groups.push(digits);
        place += digits;
        found.end = place;
        if open && text.get(place) == Some(&b')') {
            open = false;
            place += 1;
            found.end = place;
        }
        let next = match text[place..] {
            [b' ', b'(', d, ..] if d.is_ascii_digit() && !found.parentheses => {
                found.parentheses = true;
                open = true;
                2
            }
            [b'(', d, ..] if d.is_ascii_digit() && !found.parentheses => {
                found.parentheses = true;
                open = true;
                1
            }
            [b' ', b'-' | b'/', b' ', d, ..] if d.is_ascii_digit() => 3,
            [joint @ (b' ' | b'-' | b'.' | b'/'), d, ..] if d.is_ascii_digit() => {
                if !found.parentheses || !joints.is_empty() {
                    joints.push(joint);
                }
                1
            }
            [0xC2, 0xA0, d, ..] if d.is_ascii_digit() => 2,
            [d, ..] if d.is_ascii_digit() => 0,
            _ => break,
        };
        place += next;
    }
    if open {
        return None;
    }
    found.even = joints.windows(2).all(|w| w[0] == w[1]);
    found.first = *found.digits.first()?;
    found.end += extension(&text[found.end..]);
    // One point among digits makes a fraction.
    if joints == [b'.'] {
        return None;
    }
    let ended = match text[found.end..] {
        [b'-', after, ..] => !after.is_ascii_digit(),
        _ => ends(text, found.end),
    };
    ended.then_some(found)
}

/// Length of an extension: `x123`, ` ext. 123`, `#123`.
fn extension(text: &[u8]) -> usize {
    for head in [
        &b" ext. "[..],
        b" ext ",
        b" x",
        b"x",
        b" #",
        b"#",
        b" ext.",
        b" extension ",
    ] {
        if text.len() >= head.len() && text[..head.len()].eq_ignore_ascii_case(head) {
            let digits = text[head.len()..]
                .iter()
                .take(7)
                .take_while(|b| b.is_ascii_digit())
                .count();
            if (1..=6).contains(&digits) {
                return head.len() + digits;
            }
        }
    }
    0
}

/// How sure a number is a telephone number without any word beside it: 0 to 100. `prose` looks whether it stands among words, and is asked
/// last.
pub(super) fn phone_certainty(d: &Dialled, prose: impl Fn() -> bool) -> u8 {
    let n = d.digits.len();
    let many = d.groups.len() > 1;
    if d.international {
        let right =
            (8..=15 + usize::from(d.parentheses)).contains(&n) && d.first != b'0' && (many || n >= 10);
        return if right { 86 } else { 0 };
    }
    if !d.even {
        return 0;
    }
    let north_american =
        |groups: &[usize], digits: &[u8]| groups == [3, 3, 4] && digits[0] > b'1' && digits[3] > b'1';
    match d.groups[..] {
        _ if north_american(&d.groups, &d.digits) && (d.parentheses || prose()) => 78,
        [1, 3, 3, 4] if d.first == b'1' && north_american(&d.groups[1..], &d.digits[1..]) => 78,
        [3, 3, 3, 4] if d.digits.starts_with(b"001") => 80,
        [2..=4, _, _, ..] if d.first == b'0' && n == 9 && d.groups[1..].iter().all(|g| *g > 1) && prose() => {
            70
        }
        // A trunk zero, two groups or more, as written in most of Europe.
        [2..=5, ..]
            if d.first == b'0'
                && (10..=11).contains(&n)
                && many
                && d.groups[1..].iter().all(|g| *g > 1)
                && prose() =>
        {
            70
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_many_forms() {
        let whole = |text: &str| {
            let start = text.bytes().position(|b| b.is_ascii_digit()).unwrap();
            date(text, start) == Some((0, text.len()))
        };
        for text in [
            "1943-08-12",
            "07.03.1982",
            "3/7/1982",
            "12/21/1945",
            "04 Sep 2005",
            "June 18, 1968",
            "4. März 1990",
            "Sept. 4, 1990",
            "4 de septiembre de 1990",
            "16 March 2017",
            "1. října 1977",
            "2nd of May 2001",
            "12 ağustos 1980",
        ] {
            assert!(whole(text), "{text}");
        }
        for text in [
            "2024-1177",
            "1943-13-12",
            "32.01.2000",
            "10.0.0.1",
            "1.2.3",
            "31 Foo 2000",
            "2024-01-02-03",
            "12:30:45",
        ] {
            assert!(!whole(text), "{text}");
        }
    }

    #[test]
    fn addresses_of_the_network() {
        let v4 = |text: &str| ipv4(text.as_bytes(), 0) == Some(text.len());
        assert!(v4("192.168.0.7") && v4("8.8.8.8"));
        assert!(
            !v4("127.0.0.1")
                && !v4("0.0.0.0")
                && !v4("256.1.1.1")
                && !v4("1.2.3")
                && !v4("1.2.3.4.5")
                && !v4("01.2.3.4")
        );
        let v6 = |text: &str| ipv6(text.as_bytes(), 0) == Some(text.len());
        assert!(v6("c438:cc7a:2da5:952f:b546:78d1:fbfa:fb20") && v6("fe80::1ff:fe23") && v6("2001:db8::1"));
        assert!(!v6("abc::de") && !v6("12:30:45") && !v6("::"));
        let card = |text: &str| mac(text.as_bytes(), 0) == Some(text.len());
        assert!(card("00:1b:44:11:3a:b7") && card("00-1B-44-11-3A-B7"));
        assert!(!card("00:00:00:00:00:00") && !card("00:1b:44-11:3a:b7") && !card("00:1b:44:11:3a:b7:12"));
    }

    #[test]
    fn mail_addresses_end_where_their_domain_ends() {
        let found =
            |text: &str| email(text.as_bytes(), text.find('@').unwrap()).map(|(a, b)| text[a..b].to_owned());
        for (text, wanted) in [
            ("<a.b+c@mail.example.co.uk>", Some("a.b+c@mail.example.co.uk")),
            ("write to o'neil@x.org.", Some("o'neil@x.org")),
            ("'ann@x.org'", Some("ann@x.org")),
            ("x@xn--bcher-kva.example, y", Some("x@xn--bcher-kva.example")),
            ("@x.org", None),
            ("a@b", None),
            ("icon@2x.png", None),
            ("serde@1.0.2", None),
            ("git@github.com:a/b", None),
        ] {
            assert_eq!(found(text).as_deref(), wanted, "{text}");
        }
    }
}
