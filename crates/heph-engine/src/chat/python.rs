//! Values as Python writes them.

use std::fmt::Write;

use minijinja::Value;
use minijinja::value::ValueKind;

use super::OUTPUT_MAX;

/// A JSON value as a template sees it; the order of keys is kept.
pub(super) fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(bool) => Value::from(*bool),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, item)| (key.as_str(), value(item))))
        }
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

/// What `str(value)` is in Python. Of a text that is too long to be written anyway, a part that is too long, too.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text[..text.floor_char_boundary(OUTPUT_MAX + 4)].to_owned(),
        None if value.is_undefined() => String::new(),
        None => repr(value),
    }
}

/// What `repr(value)` is in Python.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out, 0);
    out
}

/// Deeper than this, and beyond [`OUTPUT_MAX`], containers are written as `...`.
const DEPTH_MAX: usize = 100;

fn write_repr(value: &Value, out: &mut String, depth: usize) {
    match value.kind() {
        _ if depth > DEPTH_MAX || out.len() > OUTPUT_MAX => out.push_str("..."),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Number if !value.is_integer() => out.push_str(&number(value)),
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter().into_iter().flatten().enumerate() {
                if out.len() > OUTPUT_MAX {
                    break;
                }
                out.push_str(if at > 0 { ", " } else { "" });
                write_repr(&key, out, depth + 1);
                out.push_str(": ");
                write_repr(&value.get_item(&key).unwrap_or_default(), out, depth + 1);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if is_tuple(value) { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter().into_iter().flatten() {
                if out.len() > OUTPUT_MAX {
                    break;
                }
                out.push_str(if count > 0 { ", " } else { "" });
                write_repr(&item, out, depth + 1);
                count += 1;
            }
            out.push_str(if count == 1 && open == '(' { "," } else { "" });
            out.push(close);
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<minijinja::value::Tuple>().is_some()
}

/// `text` in the quotes that Python would choose.
fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        if out.len() > OUTPUT_MAX {
            break;
        }
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let _ = match c as u32 {
                    code @ 0..=0xff => write!(out, "\\x{code:02x}"),
                    code @ 0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// What Python's `str.isprintable` says of one character.
pub(super) fn is_printable(c: char) -> bool {
    use unicode_general_category::GeneralCategory as G;
    let hidden = [
        G::Control,
        G::Format,
        G::Surrogate,
        G::PrivateUse,
        G::Unassigned,
        G::LineSeparator,
        G::ParagraphSeparator,
        G::SpaceSeparator,
    ];
    c == ' ' || !hidden.contains(&unicode_general_category::get_general_category(c))
}

/// A float as Python's `repr` writes it: the shortest digits that read back the same, with an exponent
/// below 1e-4 and from 1e16 on.
pub(super) fn number(value: &Value) -> String {
    let Ok(number) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if number != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => {
            let plain = format!("{number}");
            if plain.contains('.') {
                plain
            } else {
                format!("{plain}.0")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &str) {
        assert_eq!(repr(&value(&serde_json::from_str(json).unwrap())), expected);
    }

    #[test]
    fn containers_read_as_in_python() {
        check(
            r#"{"b": [1, 2.0, true, null], "a": "x"}"#,
            "{'b': [1, 2.0, True, None], 'a': 'x'}",
        );
        check("[]", "[]");
        check(
            r#"["it's", "\"", "'\"", "\n\u0001é👍\u200b"]"#,
            r#"["it's", '"', '\'"', '\n\x01é👍\u200b']"#,
        );
    }

    #[test]
    fn floats_read_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (1e300, "1e+300"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (float, expected) in cases {
            assert_eq!(number(&Value::from(float)), expected);
        }
    }
}
