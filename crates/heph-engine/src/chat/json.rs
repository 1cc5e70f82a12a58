//! The `tojson` filter: Python's `json.dumps` as Hugging Face calls it, which is not Jinja's own.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::{OUTPUT_MAX, python};

/// How the text is laid out.
struct Layout {
    ascii_only: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// Deeper than this is an error, as it is in Python.
const DEPTH_MAX: usize = 400;

/// `value|tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn dumps(value: &Value, args: &[Value], kwargs: &Kwargs) -> Result<Value, Error> {
    let layout = Layout::new(args, kwargs)?;
    let mut out = String::new();
    layout.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

impl Layout {
    fn new(args: &[Value], kwargs: &Kwargs) -> Result<Self, Error> {
        let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
            let named: Option<Value> = kwargs.get(name)?;
            Ok(named
                .or_else(|| args.get(at).cloned())
                .filter(|value| !value.is_none() && !value.is_undefined()))
        };
        let ascii_only = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
        let indent = argument(1, "indent")?
            .map(|value| indentation(&value))
            .transpose()?;
        let separators = argument(2, "separators")?;
        let sort_keys = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
        kwargs.assert_all_used()?;
        let (item_separator, key_separator) = match separators {
            Some(pair) => (separator(&pair, 0)?, separator(&pair, 1)?),
            None => (
                if indent.is_some() { "," } else { ", " }.to_owned(),
                ": ".to_owned(),
            ),
        };
        Ok(Self {
            ascii_only,
            indent,
            item_separator,
            key_separator,
            sort_keys,
        })
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(
                ErrorKind::BadSerialization,
                "the value is nested too deeply",
            ));
        }
        if out.len() + value.as_str().map_or(0, str::len) > OUTPUT_MAX {
            return Err(Error::new(ErrorKind::BadSerialization, "the JSON is too long"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => self.object(value, depth, out)?,
            ValueKind::Seq => self.list(value, depth, out)?,
            kind => {
                let message = format!("a value of type {kind} has no JSON form");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn list(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.separate(&mut empty, depth + 1, out);
            self.write(&item, depth + 1, out)?;
        }
        if !empty {
            self.line(depth, out);
        }
        out.push(']');
        Ok(())
    }

    fn object(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        out.push('{');
        let mut empty = true;
        for key in keys {
            self.separate(&mut empty, depth + 1, out);
            self.string(&key_text(&key)?, out);
            out.push_str(&self.key_separator);
            self.write(&value.get_item(&key)?, depth + 1, out)?;
        }
        if !empty {
            self.line(depth, out);
        }
        out.push('}');
        Ok(())
    }

    fn separate(&self, empty: &mut bool, depth: usize, out: &mut String) {
        if !std::mem::replace(empty, false) {
            out.push_str(&self.item_separator);
        }
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii_only && !(' '..='~').contains(&c)) => escape(c, out),
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn escape(c: char, out: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(out, "\\u{unit:04x}");
    }
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match python::number(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        number => number.to_owned(),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(number(key)),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        kind => Err(Error::new(
            ErrorKind::BadSerialization,
            format!("a {kind} cannot be a key in JSON"),
        )),
    }
}

/// A text, or that many spaces.
fn indentation(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return part(text);
    }
    let spaces = i64::try_from(value.clone())?;
    Ok(" ".repeat(usize::try_from(spaces.clamp(0, 64)).unwrap_or(0)))
}

fn separator(pair: &Value, at: usize) -> Result<String, Error> {
    let text = pair.get_item_by_index(at)?;
    let wrong = || Error::new(ErrorKind::InvalidOperation, "separators must be two texts");
    part(text.as_str().ok_or_else(wrong)?)
}

/// Bytes of an indentation or a separator: they come again for each value, and at each depth.
const PART_MAX: usize = 64;

fn part(text: &str) -> Result<String, Error> {
    match text.len() > PART_MAX {
        true => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("an indentation or a separator has {PART_MAX} bytes at most"),
        )),
        false => Ok(text.to_owned()),
    }
}
