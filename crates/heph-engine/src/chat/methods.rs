//! Methods of Python's strings, lists and dictionaries.
//!
//! Those of `minijinja-contrib` serve where they answer as Python does. Methods that change their value are
//! absent, as Hugging Face's sandbox refuses them.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::filters::{BYTES_PER_FUEL, compared, narrow, short};
use super::python;

/// The method `name` of `value`.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            charge(state, text, name, args)?;
            of_string(text, name, args)?
        }
        ValueKind::Seq => {
            state.consume_fuel(value.len().unwrap_or_default() as u64)?;
            if matches!(name, "index" | "count") {
                compared(state, value, 1)?;
            }
            of_list(value, name, args)?
        }
        ValueKind::Map => {
            // Keys are read to be found.
            let keys = args.iter().filter_map(Value::as_str).map(str::len).sum::<usize>();
            state.consume_fuel((keys / BYTES_PER_FUEL) as u64)?;
            None
        }
        _ => None,
    };
    match own {
        Some(answer) => Ok(answer),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Takes the fuel of a method that reads `text` and its arguments, or makes a list of its parts, before it begins.
fn charge(state: &State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<(), Error> {
    let texts = args.iter().filter_map(Value::as_str).map(str::len).sum::<usize>();
    let parts = match name {
        // The worst is a part for each byte.
        "split" | "rsplit" | "splitlines" => size_of::<Value>() * text.len(),
        _ => 0,
    };
    if name == "format" {
        narrow(text, '{')?;
        short(texts.saturating_mul(1 + text.matches('{').count()))?;
    }
    state.consume_fuel(((text.len() + texts + parts) / BYTES_PER_FUEL) as u64)
}

fn of_string(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let (args, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    let args = Arguments {
        args: &args,
        kwargs: &kwargs,
    };
    let answer = match name {
        "strip" => Value::from(strip(text, &args, true, true)?),
        "lstrip" => Value::from(strip(text, &args, true, false)?),
        "rstrip" => Value::from(strip(text, &args, false, true)?),
        "split" => Value::from(split(text, &args)?),
        "rsplit" => Value::from(rsplit(text, &args)?),
        "splitlines" => splitlines(text, args.get(0, "keepends")?.is_some_and(|keep| keep.is_true())),
        "partition" => partition(
            text,
            &args.text(0, "sep")?,
            text.find(args.text(0, "sep")?.as_str()),
            true,
        )?,
        "rpartition" => partition(
            text,
            &args.text(0, "sep")?,
            text.rfind(args.text(0, "sep")?.as_str()),
            false,
        )?,
        "startswith" => Value::from(starts(text, &args, |text, end| text.starts_with(end))?),
        "endswith" => Value::from(starts(text, &args, |text, end| text.ends_with(end))?),
        "removeprefix" => {
            let prefix = args.text(0, "prefix")?;
            Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = args.text(0, "suffix")?;
            Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(text))
        }
        "replace" => Value::from(replace(text, &args)?),
        "find" | "index" => position(text, &args, name == "index", |text, part| text.find(part))?,
        "rfind" | "rindex" => position(text, &args, name == "rindex", |text, part| text.rfind(part))?,
        "join" => Value::from(join(text, args.args.first().ok_or_else(|| missing("iterable"))?)?),
        "title" => Value::from(title(text)),
        "swapcase" => Value::from(text.chars().flat_map(swapped).collect::<String>()),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "center" | "ljust" | "rjust" | "zfill" => Value::from(justify(text, name, &args)?),
        "expandtabs" => Value::from(expandtabs(text, args.number(0, "tabsize")?.unwrap_or(8))?),
        "isdigit" => Value::from(all(text, |c| c.is_ascii_digit() || is_digit(c))),
        "isdecimal" => Value::from(all(text, is_decimal)),
        "isnumeric" => Value::from(all(text, char::is_numeric)),
        "isprintable" => Value::from(text.chars().all(python::is_printable)),
        "isspace" => Value::from(all(text, is_space)),
        "istitle" => Value::from(text.chars().any(char::is_alphabetic) && title(text) == text),
        "isidentifier" => Value::from(is_identifier(text)),
        _ => return Ok(None),
    };
    kwargs.assert_all_used()?;
    Ok(Some(answer))
}

fn of_list(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if name != "index" {
        return Ok(None);
    }
    let (wanted,): (Value,) = from_args(args)?;
    let at = list.try_iter()?.position(|item| item == wanted);
    at.map(|at| Some(Value::from(at)))
        .ok_or_else(|| wrong("the value is not in the list"))
}

/// The arguments of a call, by place or by name.
struct Arguments<'a> {
    args: &'a [Value],
    kwargs: &'a Kwargs,
}

impl Arguments<'_> {
    /// An argument that was given and is not `none`.
    fn get(&self, at: usize, name: &str) -> Result<Option<Value>, Error> {
        let value = match self.args.get(at) {
            Some(value) => Some(value.clone()),
            None => self.kwargs.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    }

    fn text(&self, at: usize, name: &str) -> Result<String, Error> {
        let value = self.get(at, name)?.ok_or_else(|| missing(name))?;
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong(&format!("{name} must be a text")))
    }

    fn number(&self, at: usize, name: &str) -> Result<Option<i64>, Error> {
        self.get(at, name)?.map(i64::try_from).transpose()
    }
}

fn missing(name: &str) -> Error {
    Error::new(
        ErrorKind::MissingArgument,
        format!("the argument {name} is missing"),
    )
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

/// White space as Python's strings know it: Unicode's, and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip(text: &str, args: &Arguments<'_>, left: bool, right: bool) -> Result<String, Error> {
    let set = match args.get(0, "chars")? {
        Some(set) => Some(
            set.as_str()
                .ok_or_else(|| wrong("strip takes a text"))?
                .to_owned(),
        ),
        None => None,
    };
    let goes = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    Ok(if right { text.trim_end_matches(goes) } else { text }.to_owned())
}

fn split(text: &str, args: &Arguments<'_>) -> Result<Vec<Value>, Error> {
    let count = args
        .number(1, "maxsplit")?
        .and_then(|count| usize::try_from(count).ok());
    let Some(separator) = separator(args)? else {
        return Ok(words(text, count));
    };
    Ok(match count {
        Some(count) => text
            .splitn(count.saturating_add(1), &separator)
            .map(Value::from)
            .collect(),
        None => text.split(&separator).map(Value::from).collect(),
    })
}

fn rsplit(text: &str, args: &Arguments<'_>) -> Result<Vec<Value>, Error> {
    let count = args
        .number(1, "maxsplit")?
        .and_then(|count| usize::try_from(count).ok());
    let Some(separator) = separator(args)? else {
        return Ok(last_words(text, count));
    };
    let mut parts: Vec<Value> = match count {
        Some(count) => text
            .rsplitn(count.saturating_add(1), &separator)
            .map(Value::from)
            .collect(),
        None => text.rsplit(&separator).map(Value::from).collect(),
    };
    parts.reverse();
    Ok(parts)
}

fn separator(args: &Arguments<'_>) -> Result<Option<String>, Error> {
    match args.get(0, "sep")? {
        None => Ok(None),
        Some(_) => match args.text(0, "sep")? {
            empty if empty.is_empty() => Err(wrong("the separator is empty")),
            separator => Ok(Some(separator)),
        },
    }
}

fn words(text: &str, count: Option<usize>) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if count.is_some_and(|count| parts.len() == count) {
            parts.push(Value::from(rest));
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn last_words(text: &str, count: Option<usize>) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if count.is_some_and(|count| parts.len() == count) {
            parts.push(Value::from(rest));
            break;
        }
        let space = rest.char_indices().rfind(|(_, c)| is_space(*c));
        let start = space.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(Value::from(&rest[start..]));
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

fn splitlines(text: &str, keep_ends: bool) -> Value {
    let is_end =
        |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        let mark = if rest[end..].starts_with("\r\n") {
            2
        } else {
            rest[end..].chars().next().map_or(0, char::len_utf8)
        };
        lines.push(Value::from(&rest[..if keep_ends { end + mark } else { end }]));
        rest = &rest[end + mark..];
    }
    Value::from(lines)
}

fn partition(text: &str, separator: &str, at: Option<usize>, first: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(wrong("the separator is empty"));
    }
    let parts = match at {
        Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
        None if first => [text, "", ""],
        None => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// Whether the part of the text that the second and third argument name starts, or ends, with one of the first.
fn starts(text: &str, args: &Arguments<'_>, test: impl Fn(&str, &str) -> bool) -> Result<bool, Error> {
    let wanted = args.get(0, "prefix")?.ok_or_else(|| missing("prefix"))?;
    let Some(part) = slice(text, args.number(1, "start")?, args.number(2, "end")?) else {
        return Ok(false);
    };
    if let Some(wanted) = wanted.as_str() {
        return Ok(test(part, wanted));
    }
    if wanted.kind() != ValueKind::Seq {
        return Err(wrong("a text or a tuple of texts is needed"));
    }
    let mut found = false;
    for wanted in wanted.try_iter()? {
        found |= test(
            part,
            wanted
                .as_str()
                .ok_or_else(|| wrong("a tuple of texts is needed"))?,
        );
    }
    Ok(found)
}

/// The characters from `start` to `end`, either counted from the back where negative.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> Option<&str> {
    let length = text.chars().count() as i64;
    let place = |at: i64| {
        if at < 0 {
            (at + length).max(0)
        } else {
            at.min(length)
        }
    };
    let (start, end) = (start.map_or(0, place), end.map_or(length, place));
    let byte = |at: i64| {
        text.char_indices()
            .nth(at as usize)
            .map_or(text.len(), |(byte, _)| byte)
    };
    (start <= end).then(|| &text[byte(start)..byte(end)])
}

fn replace(text: &str, args: &Arguments<'_>) -> Result<String, Error> {
    let (from, to) = (args.text(0, "old")?, args.text(1, "new")?);
    let count = args
        .number(2, "count")?
        .and_then(|count| usize::try_from(count).ok());
    let found = text.matches(&from).take(count.unwrap_or(usize::MAX)).count();
    short(found.saturating_mul(to.len()))?;
    Ok(text.replacen(&from, &to, found))
}

fn position(
    text: &str,
    args: &Arguments<'_>,
    must: bool,
    find: impl Fn(&str, &str) -> Option<usize>,
) -> Result<Value, Error> {
    let wanted = args.text(0, "sub")?;
    let (start, end) = (args.number(1, "start")?, args.number(2, "end")?);
    let found = slice(text, start, end).and_then(|part| {
        let before = part.as_ptr() as usize - text.as_ptr() as usize;
        find(part, &wanted).map(|at| text[..before + at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if must => Err(wrong("the text is not found")),
        None => Ok(Value::from(-1)),
    }
}

fn join(separator: &str, items: &Value) -> Result<String, Error> {
    let mut out = String::new();
    for (at, item) in items.try_iter()?.enumerate() {
        let item = item.as_str().ok_or_else(|| wrong("only texts can be joined"))?;
        short(out.len() + separator.len() + item.len())?;
        out.push_str(if at > 0 { separator } else { "" });
        out.push_str(item);
    }
    Ok(out)
}

/// Each letter after what is no letter in upper case, the others in lower case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        in_word = c.is_alphabetic();
    }
    out
}

fn swapped(c: char) -> Vec<char> {
    if c.is_uppercase() {
        c.to_lowercase().collect()
    } else {
        c.to_uppercase().collect()
    }
}

/// The widest text that padding makes.
const WIDTH_MAX: usize = 1 << 16;

fn justify(text: &str, name: &str, args: &Arguments<'_>) -> Result<String, Error> {
    let width = usize::try_from(args.number(0, "width")?.ok_or_else(|| missing("width"))?).unwrap_or(0);
    let fill = match args.get(1, "fillchar")? {
        Some(fill) => fill.as_str().unwrap_or(" ").to_owned(),
        None => if name == "zfill" { "0" } else { " " }.to_owned(),
    };
    let length = text.chars().count();
    let room = width.min(WIDTH_MAX).saturating_sub(length);
    short(fill.len().saturating_mul(room))?;
    Ok(match name {
        "ljust" => format!("{text}{}", fill.repeat(room)),
        "rjust" => format!("{}{text}", fill.repeat(room)),
        "zfill" => {
            let sign = if text.starts_with(['-', '+']) {
                &text[..1]
            } else {
                ""
            };
            format!("{sign}{}{}", fill.repeat(room), &text[sign.len()..])
        }
        _ => {
            let left = room / 2 + (room & width & 1);
            format!("{}{text}{}", fill.repeat(left), fill.repeat(room - left))
        }
    })
}

fn expandtabs(text: &str, size: i64) -> Result<String, Error> {
    let size = usize::try_from(size).unwrap_or(0).min(WIDTH_MAX);
    short(text.matches('\t').count().saturating_mul(size))?;
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(out)
}

fn all(text: &str, test: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(test)
}

fn is_decimal(c: char) -> bool {
    use unicode_general_category::{GeneralCategory, get_general_category};
    get_general_category(c) == GeneralCategory::DecimalNumber
}

/// Decimal digits, and digits in circles, above or below the line.
fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐')
}

fn is_identifier(text: &str) -> bool {
    let starts = |c: char| c == '_' || c.is_alphabetic();
    text.chars().next().is_some_and(starts) && text.chars().all(|c| starts(c) || c.is_alphanumeric())
}
