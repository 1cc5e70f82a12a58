//! Filters, tests and functions of Jinja2 that the template engine lacks or answers otherwise.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::filters as builtin;
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Object, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::methods::is_space;
use super::source::{ITERATED, PERCENT, PLUS};
use super::{json, python};

/// Adds them to `environment`.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", |value: &Value, args: Rest<Value>, kwargs: Kwargs| {
        json::dumps(value, &args, &kwargs)
    });
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_filter("trim", trim);
    environment.add_filter("title", |value: &Value| title(&python::text(value)));
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("escape", |value: &Value| Value::from_safe_string(escape(value)));
    environment.add_filter("e", |value: &Value| Value::from_safe_string(escape(value)));
    environment.add_filter("forceescape", |value: &Value| {
        Value::from_safe_string(escape(value))
    });
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("indent", indent);
    environment.add_filter("wordcount", |value: &Value| word_count(&python::text(value)));
    environment.add_filter("center", center);
    environment.add_filter("truncate", truncate);
    environment.add_filter("striptags", |value: &Value| strip_tags(&python::text(value)));
    environment.add_filter("urlencode", |value: &Value| url_encode(&python::text(value)));
    add_lazy(environment);
    environment.add_filter(ITERATED, iterated);
    environment.add_filter(PLUS, plus);
    environment.add_filter(PERCENT, percent);
    environment.add_test("iterable", |value: &Value| iterable(value));
    environment.add_test("sequence", |value: &Value| {
        iterable(value) && value.kind() != ValueKind::Iterable
    });
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_function("cycler", |items: Rest<Value>| cycler(items.to_vec()));
    environment.add_function("joiner", |separator: Option<String>| {
        let used = AtomicUsize::new(0);
        let separator = separator.unwrap_or_else(|| ", ".to_owned());
        Value::from_function(move || match used.fetch_add(1, Ordering::Relaxed) {
            0 => String::new(),
            _ => separator.clone(),
        })
    });
}

/// The filters that make generators in Python: those have no length, no places and no JSON form, and end
/// after one use.
fn add_lazy(environment: &mut Environment<'_>) {
    type Args = Rest<ValueOrKwargs>;
    environment.add_filter("map", |state: &mut State<'_, '_>, value: Value, args: Args| {
        builtin::map(state, value, args).map(lazy)
    });
    environment.add_filter(
        "select",
        |state: &mut State<'_, '_>, value: Value, test: Test<'_>, args: Args| {
            builtin::select(state, value, test, args).map(lazy)
        },
    );
    environment.add_filter(
        "reject",
        |state: &mut State<'_, '_>, value: Value, test: Test<'_>, args: Args| {
            builtin::reject(state, value, test, args).map(lazy)
        },
    );
    environment.add_filter(
        "selectattr",
        |state: &mut State<'_, '_>, value: Value, attribute: Cow<'_, str>, test: Test<'_>, args: Args| {
            builtin::selectattr(state, value, attribute, test, args).map(lazy)
        },
    );
    environment.add_filter(
        "rejectattr",
        |state: &mut State<'_, '_>, value: Value, attribute: Cow<'_, str>, test: Test<'_>, args: Args| {
            builtin::rejectattr(state, value, attribute, test, args).map(lazy)
        },
    );
}

/// Name of a test, or nothing for truth.
type Test<'a> = Option<Cow<'a, str>>;

fn lazy(items: Vec<Value>) -> Value {
    Value::make_one_shot_iterator(items.into_iter())
}

/// Python's `left + right` where one may be marked safe: then what is not is escaped, even though nothing
/// else is.
fn plus(left: Value, right: Value) -> Result<Value, Error> {
    use ValueKind::{Number, Seq, String};
    match (left.kind(), right.kind()) {
        (String, String) if left.is_safe() != right.is_safe() => {
            Ok(Value::from_safe_string(escape(&left) + &escape(&right)))
        }
        (String, String) if left.is_safe() => Ok(Value::from_safe_string(format!("{left}{right}"))),
        (String, String) => Ok(Value::from(format!("{left}{right}"))),
        (Seq, Seq) => Ok(left.try_iter()?.chain(right.try_iter()?).collect()),
        (Number, Number) if left.is_integer() && right.is_integer() => {
            let sum = i64::try_from(left)?.checked_add(i64::try_from(right)?);
            sum.map(Value::from)
                .ok_or_else(|| wrong("the sum is too large".to_owned()))
        }
        (Number, Number) => Ok(Value::from(f64::try_from(left)? + f64::try_from(right)?)),
        (left, right) => Err(wrong(format!(
            "values of type {left} and {right} cannot be added"
        ))),
    }
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Seq | Map | Iterable | String | Undefined)
}

/// `value` if Python could iterate it.
fn iterated(value: Value) -> Result<Value, Error> {
    match value.kind() {
        kind @ (ValueKind::None | ValueKind::Bool | ValueKind::Number) => {
            Err(wrong(format!("a value of type {kind} is not iterable")))
        }
        _ => Ok(value),
    }
}

/// Python's `template % values`.
fn percent(template: &str, values: Value) -> Result<String, Error> {
    match values.downcast_object_ref::<Tuple>() {
        Some(_) => format(
            FormatStyle::Printf,
            template,
            &values.try_iter()?.collect::<Vec<_>>(),
        ),
        None => format(FormatStyle::Printf, template, &[values]),
    }
}

fn trim(value: &Value, chars: Option<String>) -> String {
    let text = python::text(value);
    let goes = |c: char| chars.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
    text.trim_matches(goes).to_owned()
}

/// Each word from its first letter on; words end at spaces, hyphens and brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut starts = true;
    for c in text.chars() {
        if starts {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        starts = is_space(c) || "-({[<".contains(c);
    }
    out
}

fn default(
    value: Value,
    other: Option<Value>,
    boolean: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let named = |given: Option<Value>, name| match given {
        Some(given) => Ok(Some(given)),
        None => kwargs.get::<Option<Value>>(name),
    };
    let other = named(other, "default_value")?.unwrap_or_else(|| Value::from(""));
    let falsy = named(boolean, "boolean")?.is_some_and(|flag| flag.is_true());
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (falsy && !value.is_true()) {
        other
    } else {
        value
    })
}

fn int(value: &Value, default: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default
        .or(kwargs.get::<Option<Value>>("default")?)
        .unwrap_or_else(|| Value::from(0));
    let base = base.or(kwargs.get::<Option<u32>>("base")?).unwrap_or(10);
    kwargs.assert_all_used()?;
    if let Some(text) = value.as_str() {
        return Ok(parse_int(text, base).map_or(default, Value::from));
    }
    match value.kind() {
        ValueKind::Bool => Ok(Value::from(i64::from(value.is_true()))),
        ValueKind::Number if value.is_integer() => Ok(value.clone()),
        ValueKind::Number => Ok(whole(f64::try_from(value.clone())?).map_or(default, Value::from)),
        _ => Ok(default),
    }
}

fn parse_int(text: &str, base: u32) -> Option<i128> {
    let plain = text.trim_matches(is_space).replace('_', "");
    let digits = match base {
        16 => plain.trim_start_matches("0x").trim_start_matches("0X"),
        8 => plain.trim_start_matches("0o").trim_start_matches("0O"),
        2 => plain.trim_start_matches("0b").trim_start_matches("0B"),
        _ => &plain,
    };
    let whole_number = (2..=36)
        .contains(&base)
        .then(|| i128::from_str_radix(digits, base).ok())
        .flatten();
    whole_number.or_else(|| whole(plain.parse().ok()?))
}

fn whole(number: f64) -> Option<i128> {
    number.is_finite().then_some(number as i128)
}

fn float(value: &Value, default: Option<f64>) -> f64 {
    let text = value
        .as_str()
        .map(|text| text.trim_matches(is_space).replace('_', ""));
    let number = match text {
        Some(text) => text.parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    };
    number.or(default).unwrap_or(0.0)
}

fn escape(value: &Value) -> String {
    let text = python::text(value);
    if value.is_safe() {
        return text;
    }
    let escaped = text.chars().map(|c| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&#34;".to_owned(),
        '\'' => "&#39;".to_owned(),
        c => c.to_string(),
    });
    escaped.collect()
}

fn dictsort(map: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(args.get(at).cloned().or(kwargs.get::<Option<Value>>(name)?))
    };
    let case_sensitive = argument(0, "case_sensitive")?.is_some_and(|flag| flag.is_true());
    let by_value = argument(1, "by")?.is_some_and(|by| by.as_str() == Some("value"));
    let reverse = argument(2, "reverse")?.is_some_and(|flag| flag.is_true());
    kwargs.assert_all_used()?;
    if map.kind() != ValueKind::Map {
        return Err(wrong(format!(
            "a value of type {} has no keys to sort",
            map.kind()
        )));
    }
    let mut entries = Vec::new();
    for key in map.try_iter()? {
        entries.push((key.clone(), map.get_item(&key)?));
    }
    entries.sort_by_cached_key(|(key, value)| {
        let by = if by_value { value } else { key };
        match by.as_str() {
            Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
            _ => by.clone(),
        }
    });
    if reverse {
        entries.reverse();
    }
    Ok(entries
        .into_iter()
        .map(|(key, value)| Value::from(Tuple::from([key, value])))
        .collect())
}

fn indent(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(args.get(at).cloned().or(kwargs.get::<Option<Value>>(name)?))
    };
    let width = argument(0, "width")?.unwrap_or_else(|| Value::from(4));
    let first = argument(1, "first")?.is_some_and(|flag| flag.is_true());
    let blank = argument(2, "blank")?.is_some_and(|flag| flag.is_true());
    kwargs.assert_all_used()?;
    let margin = match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(i64::try_from(width)?.clamp(0, 256)).unwrap_or(0)),
    };
    let text = format!("{}\n", python::text(value));
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        out.push_str(if at > 0 { "\n" } else { "" });
        let indented = if at == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if indented { &margin } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

fn word_count(text: &str) -> usize {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .count()
}

fn center(value: &Value, width: Option<usize>) -> String {
    let text = python::text(value);
    let width = width.unwrap_or(80).min(1 << 16);
    let room = width.saturating_sub(text.chars().count());
    let left = room / 2 + (room & width & 1);
    format!("{}{text}{}", " ".repeat(left), " ".repeat(room - left))
}

fn truncate(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(args.get(at).cloned().or(kwargs.get::<Option<Value>>(name)?))
    };
    let length = argument(0, "length")?.map_or(Ok(255), usize::try_from)?;
    let kill_words = argument(1, "killwords")?.is_some_and(|flag| flag.is_true());
    let end = argument(2, "end")?.map_or_else(|| "...".to_owned(), |end| python::text(&end));
    let leeway = argument(3, "leeway")?.map_or(Ok(5), usize::try_from)?;
    kwargs.assert_all_used()?;
    let text: Vec<char> = python::text(value).chars().collect();
    if text.len() <= length.saturating_add(leeway) {
        return Ok(text.into_iter().collect());
    }
    let kept: String = text[..length.saturating_sub(end.chars().count()).min(text.len())]
        .iter()
        .collect();
    let kept = if kill_words {
        kept.as_str()
    } else {
        kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words)
    };
    Ok(format!("{kept}{end}"))
}

fn strip_tags(text: &str) -> String {
    let mut out = String::new();
    let mut in_tag = false;
    for c in text.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => in_tag = false,
            c if !in_tag => out.push(c),
            _ => {}
        }
    }
    out.split(is_space)
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn url_encode(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}

/// Jinja's `cycler`: hands its items out in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

fn cycler(items: Vec<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(wrong("a cycler needs items".to_owned()));
    }
    Ok(Value::from_object(Cycler {
        items,
        at: AtomicUsize::new(0),
    }))
}

impl Cycler {
    fn current(&self) -> Value {
        self.items[self.at.load(Ordering::Relaxed) % self.items.len()].clone()
    }
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        _: &[Value],
    ) -> Result<Value, Error> {
        let current = self.current();
        match method {
            "next" => drop(self.at.fetch_add(1, Ordering::Relaxed)),
            "reset" => self.at.store(0, Ordering::Relaxed),
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        }
        Ok(current)
    }
}
