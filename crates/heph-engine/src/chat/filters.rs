//! Filters, tests and functions of Jinja2 that the template engine lacks or answers otherwise.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::filters as builtin;
use minijinja::formatting::{FormatStyle, format};
use minijinja::tests as builtin_tests;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::methods::is_space;
use super::source::{COMPARED, HELD, ITEM, ITERATED, KEPT, PERCENT, PLUS, READ};
use super::{OUTPUT_MAX, json, python};

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
    environment.add_filter("wordcount", |state: &mut State<'_, '_>, value: &Value| {
        read(state, value).map(|text| word_count(&text))
    });
    environment.add_filter("center", center);
    environment.add_filter("truncate", truncate);
    environment.add_filter("striptags", |state: &mut State<'_, '_>, value: &Value| {
        read(state, value).map(|text| strip_tags(&text))
    });
    environment.add_filter("urlencode", |value: &Value| url_encode(&python::text(value)));
    add_lazy(environment);
    add_compared(environment);
    // The engine charges each filter for the text that it gets.
    environment.add_filter(READ, |value: Value| value);
    environment.add_filter(ITEM, item);
    environment.add_filter(COMPARED, |state: &mut State<'_, '_>, value: Value| {
        compared(state, &value, 1)?;
        Ok::<_, Error>(value)
    });
    environment.add_filter(ITERATED, |state: &mut State<'_, '_>, value: Value| {
        kept(state, iterated(value)?, HoldsNamespaces::Yes)
    });
    environment.add_filter(KEPT, |state: &mut State<'_, '_>, value: Value| {
        kept(state, value, HoldsNamespaces::Yes)
    });
    environment.add_filter(HELD, |state: &mut State<'_, '_>, value: Value| {
        kept(state, value, HoldsNamespaces::No)
    });
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

/// Filters and tests that compare values, which the engine charges by their number alone.
fn add_compared(environment: &mut Environment<'_>) {
    environment.add_filter(
        "sort",
        |state: &mut State<'_, '_>, value: Value, kwargs: Kwargs| {
            sorted(state, &value)?;
            builtin::sort(state, value, kwargs)
        },
    );
    environment.add_filter(
        "unique",
        |state: &mut State<'_, '_>, value: Value, kwargs: Kwargs| {
            sorted(state, &value)?;
            builtin::unique(state, value, kwargs)
        },
    );
    environment.add_filter(
        "min",
        |state: &mut State<'_, '_>, value: Value, kwargs: Kwargs| {
            compared(state, &value, 2)?;
            builtin::min(state, value, kwargs)
        },
    );
    environment.add_filter(
        "max",
        |state: &mut State<'_, '_>, value: Value, kwargs: Kwargs| {
            compared(state, &value, 2)?;
            builtin::max(state, value, kwargs)
        },
    );
    environment.add_filter(
        "groupby",
        |state: &mut State<'_, '_>, value: Value, attribute: Option<Cow<'_, str>>, kwargs: Kwargs| {
            sorted(state, &value)?;
            builtin::groupby(value, attribute.as_deref(), kwargs)
        },
    );
    type Comparison = fn(&Value, &Value) -> bool;
    let comparisons: [(&[&'static str], Comparison); 6] = [
        (&["eq", "equalto", "=="], builtin_tests::is_eq),
        (&["ne", "!="], builtin_tests::is_ne),
        (&["lt", "lessthan", "<"], builtin_tests::is_lt),
        (&["le", "<="], builtin_tests::is_le),
        (&["gt", "greaterthan", ">"], builtin_tests::is_gt),
        (&["ge", ">="], builtin_tests::is_ge),
    ];
    for (names, comparison) in comparisons {
        for name in names {
            environment.add_test(
                *name,
                move |state: &mut State<'_, '_>, value: &Value, other: &Value| {
                    compared(state, value, 1)?;
                    Ok::<_, Error>(comparison(value, other))
                },
            );
        }
    }
    environment.add_test("in", |state: &mut State<'_, '_>, value: &Value, other: &Value| {
        compared(state, value, 1)?;
        compared(state, other, 1)?;
        builtin_tests::is_in(state, value, other)
    });
    environment.add_test("lower", |state: &mut State<'_, '_>, value: &Value| {
        compared(state, value, 1)?;
        Ok::<_, Error>(builtin_tests::is_lower(value))
    });
    environment.add_test("upper", |state: &mut State<'_, '_>, value: &Value| {
        compared(state, value, 1)?;
        Ok::<_, Error>(builtin_tests::is_upper(value))
    });
}

/// What stands in `value` at a place, or for a key. The engine charges for the text that `value` is.
fn item(state: &mut State<'_, '_>, value: &Value, key: &Value) -> Result<Value, Error> {
    let steps = match (value.kind(), key.as_str()) {
        (_, Some(key)) => key.len() / BYTES_PER_FUEL,
        // Only by going through them.
        (ValueKind::Iterable, None) => value.len().unwrap_or(0),
        _ => 0,
    };
    state.consume_fuel(steps as u64)?;
    value.get_item(key)
}

/// Takes the fuel of reading all that is in `value` so many times.
pub(super) fn compared(state: &State<'_, '_>, value: &Value, times: u64) -> Result<(), Error> {
    let mut walk = Walk::new(state, HoldsNamespaces::Yes);
    walk.reads = true;
    walk.depth(value, 0)?;
    walk.looks = walk.looks.saturating_mul(times);
    walk.pay(state)
}

/// The same for sorting a list.
fn sorted(state: &State<'_, '_>, list: &Value) -> Result<(), Error> {
    let items = list.len().unwrap_or(ITEMS_MAX) as u64;
    compared(state, list, u64::from(items.max(2).ilog2()) + 1)
}

/// The filters that make generators in Python: those have no length, no places and no JSON form, and end
/// after one use.
fn add_lazy(environment: &mut Environment<'_>) {
    type Args = Rest<ValueOrKwargs>;
    environment.add_filter("map", |state: &mut State<'_, '_>, value: Value, args: Args| {
        lazy(builtin::map(state, value, args)?, state)
    });
    environment.add_filter(
        "select",
        |state: &mut State<'_, '_>, value: Value, test: Test<'_>, args: Args| {
            lazy(builtin::select(state, value, test, args)?, state)
        },
    );
    environment.add_filter(
        "reject",
        |state: &mut State<'_, '_>, value: Value, test: Test<'_>, args: Args| {
            lazy(builtin::reject(state, value, test, args)?, state)
        },
    );
    environment.add_filter(
        "selectattr",
        |state: &mut State<'_, '_>, value: Value, attribute: Cow<'_, str>, test: Test<'_>, args: Args| {
            lazy(builtin::selectattr(state, value, attribute, test, args)?, state)
        },
    );
    environment.add_filter(
        "rejectattr",
        |state: &mut State<'_, '_>, value: Value, attribute: Cow<'_, str>, test: Test<'_>, args: Args| {
            lazy(builtin::rejectattr(state, value, attribute, test, args)?, state)
        },
    );
}

/// Name of a test, or nothing for truth.
type Test<'a> = Option<Cow<'a, str>>;

/// Items that can be gone through once.
#[derive(Debug)]
struct Lazy {
    items: Mutex<std::vec::IntoIter<Value>>,
    /// How deeply they are nested.
    depth: usize,
}

fn lazy(items: Vec<Value>, state: &State<'_, '_>) -> Result<Value, Error> {
    let mut walk = Walk::new(state, HoldsNamespaces::Yes);
    let depth = walk.deepest(items.iter().cloned(), 0)?;
    walk.pay(state)?;
    let items = Mutex::new(items.into_iter());
    Ok(Value::from_object(Lazy { items, depth }))
}

impl Object for Lazy {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let this = Arc::clone(self);
        Enumerator::Iter(Box::new(std::iter::from_fn(move || {
            this.items.lock().unwrap_or_else(PoisonError::into_inner).next()
        })))
    }
}

/// How deeply a value may be nested: deeper than JSON that comes in and values that templates make, and shallow enough
/// that comparing, hashing and dropping it by recursion takes a small part of any stack.
const DEPTH_MAX: usize = 200;

/// Items of a list that is kept or gone through: more than any conversation has messages. Joined lists are lazy, and twice
/// as long with each sum.
const ITEMS_MAX: usize = 200_000;

/// Values looked at for a unit of fuel.
const LOOKS_PER_FUEL: u64 = 4;

/// Whether what is kept may hold a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoldsNamespaces {
    Yes,
    No,
}

/// A walk through a value, to know how deep it is.
struct Walk {
    looks: u64,
    /// Whether texts are read from end to end.
    reads: bool,
    /// Looks that the template's fuel pays for.
    most: u64,
    holds: HoldsNamespaces,
}

impl Walk {
    fn new(state: &State<'_, '_>, holds: HoldsNamespaces) -> Self {
        let left = state.fuel_levels().map_or(u64::MAX, |(_, left)| left);
        Self {
            looks: 0,
            reads: false,
            most: left.saturating_mul(LOOKS_PER_FUEL),
            holds,
        }
    }

    /// How deep `value` is, at `depth` of what is looked at.
    fn depth(&mut self, value: &Value, depth: usize) -> Result<usize, Error> {
        self.looks += 1;
        if let Some(text) = value.as_str().filter(|_| self.reads) {
            self.looks += text.len() as u64 * LOOKS_PER_FUEL / BYTES_PER_FUEL as u64;
        }
        if self.looks > self.most {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        let Some(object) = value.as_object() else {
            return Ok(depth);
        };
        if self.holds == HoldsNamespaces::No && object.type_name().ends_with("::Namespace") {
            return Err(wrong("a namespace cannot hold a namespace".to_owned()));
        }
        if depth >= DEPTH_MAX {
            return Err(wrong("the value is nested too deeply".to_owned()));
        }
        if let Some(lazy) = object.downcast_ref::<Lazy>() {
            if self.reads {
                let items = lazy.items.lock().unwrap_or_else(PoisonError::into_inner);
                self.deepest(items.as_slice().iter().cloned(), depth + 1)?;
            }
            return match depth + 1 + lazy.depth {
                deep if deep > DEPTH_MAX => Err(wrong("the value is nested too deeply".to_owned())),
                deep => Ok(deep),
            };
        }
        if let Some(cycler) = object.downcast_ref::<Cycler>() {
            return self.deepest(cycler.items.iter().cloned(), depth + 1);
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable if value.len().is_some_and(|len| len > ITEMS_MAX) => {
                Err(wrong(format!("a list has more than {ITEMS_MAX} items")))
            }
            ValueKind::Seq | ValueKind::Iterable => self.deepest(value.try_iter()?, depth + 1),
            ValueKind::Map => {
                let items = value
                    .try_iter()?
                    .map(|key| value.get_item(&key).unwrap_or_default());
                self.deepest(items, depth + 1)
            }
            _ => Ok(depth),
        }
    }

    fn deepest(&mut self, items: impl Iterator<Item = Value>, depth: usize) -> Result<usize, Error> {
        let mut deepest = depth;
        for item in items {
            deepest = deepest.max(self.depth(&item, depth)?);
        }
        Ok(deepest)
    }

    fn pay(&self, state: &State<'_, '_>) -> Result<(), Error> {
        state.consume_fuel(self.looks / LOOKS_PER_FUEL)
    }
}

/// `value` if it is not nested too deeply.
fn kept(state: &State<'_, '_>, value: Value, holds: HoldsNamespaces) -> Result<Value, Error> {
    let mut walk = Walk::new(state, holds);
    walk.depth(&value, 0)?;
    walk.pay(state)?;
    Ok(value)
}

/// Python's `left + right` where one may be marked safe: then what is not is escaped, even though nothing
/// else is.
fn plus(left: Value, right: Value) -> Result<Value, Error> {
    use ValueKind::{Number, Seq, String};
    short(
        [&left, &right]
            .iter()
            .filter_map(|value| value.as_str())
            .map(str::len)
            .sum(),
    )?;
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
    narrow(template, '%')?;
    let length = |value: Value| value.as_str().map_or(0, str::len);
    let texts: usize = match values.kind() {
        // Each value stands in the text as often as its key is asked for.
        ValueKind::Map => {
            let items = values
                .try_iter()?
                .map(|key| length(values.get_item(&key).unwrap_or_default()));
            items.sum::<usize>().saturating_mul(template.matches('%').count())
        }
        ValueKind::Seq => values.try_iter()?.map(length).sum(),
        _ => length(values.clone()),
    };
    short(template.len().saturating_add(texts))?;
    match values.downcast_object_ref::<Tuple>() {
        Some(_) => format(
            FormatStyle::Printf,
            template,
            &values.try_iter()?.collect::<Vec<_>>(),
        ),
        None => format(FormatStyle::Printf, template, &[values]),
    }
}

/// Refuses a text to be formatted that has too many fields, or one wider than any is. Fields begin with `mark`: `%`, or `{`.
pub(super) fn narrow(template: &str, mark: char) -> Result<(), Error> {
    let mut fields = template.split(mark).skip(1);
    let part_of_field = |c: char| match mark {
        '%' => "#0- +.*".contains(c) || c.is_ascii_digit(),
        _ => c != '}',
    };
    let wide = |field: &str| {
        let end = field.find(|c| !part_of_field(c)).unwrap_or(field.len());
        let numbers = field[..end].split(|c: char| !c.is_ascii_digit());
        let mut digits = numbers.map(|digits| digits.trim_start_matches('0').len());
        digits.any(|digits| digits > WIDTH_DIGITS) || (mark == '%' && field[..end].contains('*'))
    };
    match template.matches(mark).count() > FIELDS_MAX || fields.any(wide) {
        true => Err(wrong(
            "a text is formatted with too many or too wide fields".to_owned(),
        )),
        false => Ok(()),
    }
}

/// Digits of the widest field that formatting makes: 9,999 places.
const WIDTH_DIGITS: usize = 4;

/// Fields of one text that is formatted.
const FIELDS_MAX: usize = 1_000;

/// Refuses what would be longer than any text of a template.
pub(super) fn short(bytes: usize) -> Result<(), Error> {
    match bytes > OUTPUT_MAX {
        true => Err(wrong("the text is too long".to_owned())),
        false => Ok(()),
    }
}

/// `value` as text, paid for where it is made for this.
fn read(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let text = python::text(value);
    if value.as_str().is_none() {
        state.consume_fuel((text.len() / BYTES_PER_FUEL) as u64)?;
    }
    Ok(text)
}

/// Bytes of text that a unit of fuel pays for.
pub(super) const BYTES_PER_FUEL: usize = 64;

fn trim(state: &mut State<'_, '_>, value: &Value, chars: Option<String>) -> Result<String, Error> {
    let text = read(state, value)?;
    let goes = |c: char| chars.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
    Ok(text.trim_matches(goes).to_owned())
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

fn dictsort(
    state: &mut State<'_, '_>,
    map: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
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
    state.consume_fuel(map.len().unwrap_or_default() as u64)?;
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
    short(margin.len().saturating_mul(lines.len()))?;
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

fn truncate(
    state: &mut State<'_, '_>,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(args.get(at).cloned().or(kwargs.get::<Option<Value>>(name)?))
    };
    let length = argument(0, "length")?.map_or(Ok(255), usize::try_from)?;
    let kill_words = argument(1, "killwords")?.is_some_and(|flag| flag.is_true());
    let end = argument(2, "end")?.map_or_else(|| "...".to_owned(), |end| python::text(&end));
    let leeway = argument(3, "leeway")?.map_or(Ok(5), usize::try_from)?;
    kwargs.assert_all_used()?;
    let text: Vec<char> = read(state, value)?.chars().collect();
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
