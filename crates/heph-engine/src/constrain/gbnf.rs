//! Grammars as llama.cpp writes them (GBNF), put into Lark form.
//!
//! Rules keep their meaning character by character; only their names change. Token references such as `<think>` have no
//! place in Lark and are refused.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// Whether `grammar` is written in GBNF: only there rules are made with `::=`.
pub(super) fn is_gbnf(grammar: &str) -> bool {
    grammar.contains("::=")
}

/// `grammar` in Lark form, or why it has none.
pub(super) fn to_lark(grammar: &str) -> Result<String, String> {
    let mut reader = Reader {
        rest: grammar,
        line: 1,
        names: HashMap::new(),
        made: HashSet::new(),
    };
    let mut lark = String::new();
    reader.space(true);
    while !reader.rest.is_empty() {
        let name = reader.name().ok_or_else(|| reader.wrong("the name of a rule"))?;
        let rule = reader.rule(&name);
        if !reader.made.insert(rule.clone()) {
            return Err(format!("line {}: the rule {name} is made twice", reader.line));
        }
        reader.space(false);
        reader.expect("::=")?;
        reader.space(true);
        let _ = write!(lark, "{rule}: ");
        reader.alternatives(&mut lark, 0)?;
        lark.push('\n');
        reader.space(true);
    }
    let missing = reader.names.iter().find(|(_, rule)| !reader.made.contains(*rule));
    match (missing, reader.names.contains_key("root")) {
        (Some((name, _)), _) => Err(format!("the rule {name} is not made anywhere")),
        (None, false) => Err("there is no rule called root".to_owned()),
        (None, true) => Ok(lark),
    }
}

/// Groups in groups.
const DEPTH_MAX: usize = 50;

/// Signs behind one item: each is a group around all before it.
const SIGNS_MAX: usize = 8;

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    /// The Lark name of each rule that was met.
    names: HashMap<String, String>,
    /// The Lark names of the rules that were made.
    made: HashSet<String>,
}

impl Reader<'_> {
    /// Steps over white space and comments, line ends only where `lines`.
    fn space(&mut self, lines: bool) {
        loop {
            match self.rest.chars().next() {
                Some('#') => self.skip(self.rest.find('\n').unwrap_or(self.rest.len())),
                Some('\n' | '\r') if !lines => return,
                Some(c) if c.is_ascii_whitespace() => self.skip(1),
                _ => return,
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        let (done, rest) = self.rest.split_at(bytes);
        self.line += done.matches('\n').count();
        self.rest = rest;
    }

    fn wrong(&self, wanted: &str) -> String {
        let there: String = self.rest.chars().take(12).collect();
        format!("line {}: {wanted} is needed before {there:?}", self.line)
    }

    fn expect(&mut self, mark: &str) -> Result<(), String> {
        match self.rest.starts_with(mark) {
            true => self.skip(mark.len()),
            false => return Err(self.wrong(mark)),
        }
        Ok(())
    }

    fn name(&mut self) -> Option<String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let name = self.rest[..end].to_owned();
        self.skip(end);
        (!name.is_empty()).then_some(name)
    }

    /// The Lark name of the rule `name`.
    fn rule(&mut self, name: &str) -> String {
        let next = format!("rule_{}", self.names.len());
        let given = if name == "root" { "start".to_owned() } else { next };
        self.names.entry(name.to_owned()).or_insert(given).clone()
    }

    fn alternatives(&mut self, out: &mut String, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("line {}: groups are nested too deeply", self.line));
        }
        loop {
            self.sequence(out, depth)?;
            if !self.rest.starts_with('|') {
                return Ok(());
            }
            self.skip(1);
            out.push_str(" | ");
            self.space(true);
        }
    }

    fn sequence(&mut self, out: &mut String, depth: usize) -> Result<(), String> {
        let mut empty = true;
        while let Some(c) = self.rest.chars().next() {
            let start = out.len();
            match c {
                '"' => {
                    let text = self.literal()?;
                    let _ = write!(out, "{}", serde_json::Value::from(text));
                }
                '[' => self.class(out)?,
                '.' => {
                    self.skip(1);
                    out.push_str("/(?s:.)/");
                }
                '(' => {
                    self.skip(1);
                    self.space(true);
                    out.push('(');
                    self.alternatives(out, depth + 1)?;
                    self.expect(")")?;
                    out.push(')');
                }
                '<' | '!' => return Err(self.wrong("a text: tokens cannot be named here")),
                c if c.is_ascii_alphanumeric() || c == '_' || c == '-' => {
                    let name = self.name().unwrap_or_default();
                    out.push_str(&self.rule(&name));
                }
                _ => break,
            }
            empty = false;
            self.repetition(out, start)?;
            out.push(' ');
            self.space(depth > 0);
        }
        out.push_str(if empty { "\"\"" } else { "" });
        Ok(())
    }

    /// `*`, `+`, `?` and `{m,n}` behind an item; the item stands in `out` from `start` on.
    fn repetition(&mut self, out: &mut String, start: usize) -> Result<(), String> {
        for signs in 0.. {
            self.space(false);
            let sign = match self.rest.chars().next() {
                Some(c @ ('*' | '+' | '?')) => {
                    self.skip(1);
                    c.to_string()
                }
                Some('{') => self.counts()?,
                _ => return Ok(()),
            };
            if signs == SIGNS_MAX {
                return Err(format!(
                    "line {}: an item has more than {SIGNS_MAX} signs behind it",
                    self.line
                ));
            }
            out.insert(start, '(');
            out.push(')');
            out.push_str(&sign);
        }
        Ok(())
    }

    fn counts(&mut self) -> Result<String, String> {
        let end = self.rest.find('}').ok_or_else(|| self.wrong("}"))?;
        let inner: String = self.rest[1..end].split_whitespace().collect();
        let (least, most) = inner.split_once(',').unwrap_or((&inner, &inner));
        let number = |text: &str| text.parse::<u32>().ok();
        let least = if least.is_empty() { Some(0) } else { number(least) };
        let fits = most.is_empty() || number(most).is_some_and(|most| Some(most) >= least);
        match least.filter(|_| fits && !inner.is_empty()) {
            Some(least) => {
                self.skip(end + 1);
                Ok(format!("{{{least},{most}}}"))
            }
            None => Err(self.wrong("a count as {2}, {2,} or {2,5}")),
        }
    }

    fn literal(&mut self) -> Result<String, String> {
        self.skip(1);
        let mut text = String::new();
        while !self.rest.starts_with('"') {
            text.push(self.character()?);
        }
        self.skip(1);
        Ok(text)
    }

    /// A class of characters as an expression of code points.
    fn class(&mut self, out: &mut String) -> Result<(), String> {
        self.skip(1);
        out.push_str("/[");
        if self.rest.starts_with('^') {
            self.skip(1);
            out.push('^');
        }
        if self.rest.starts_with(']') {
            return Err(self.wrong("a character in the class"));
        }
        while !self.rest.starts_with(']') {
            let first = self.character()?;
            let _ = write!(out, "\\x{{{:x}}}", first as u32);
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.skip(1);
                let last = self.character()?;
                if last < first {
                    return Err(self.wrong("a range from a lower to a higher character"));
                }
                let _ = write!(out, "-\\x{{{:x}}}", last as u32);
            }
        }
        self.skip(1);
        out.push_str("]/");
        Ok(())
    }

    /// The next character of a text or a class.
    fn character(&mut self) -> Result<char, String> {
        let c = self
            .rest
            .chars()
            .next()
            .ok_or_else(|| self.wrong("the end of a text or class"))?;
        self.skip(c.len_utf8());
        if c != '\\' {
            return Ok(c);
        }
        let kind = self
            .rest
            .chars()
            .next()
            .ok_or_else(|| self.wrong("a character"))?;
        let digits = match kind {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        let code = match self.rest.get(1..1 + digits) {
            Some(code) if digits > 0 => code.to_owned(),
            _ if digits > 0 => return Err(self.wrong("a code in hexadecimal digits")),
            _ => String::new(),
        };
        if digits > 0 {
            let known = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
            let known = known.ok_or_else(|| self.wrong("a code in hexadecimal digits"))?;
            self.skip(1 + digits);
            return Ok(known);
        }
        self.skip(kind.len_utf8());
        match kind {
            'n' => Ok('\n'),
            't' => Ok('\t'),
            'r' => Ok('\r'),
            '\\' | '"' | '[' | ']' | '-' | '^' | '/' | '\'' => Ok(kind),
            _ => Err(format!("line {}: \\{kind} is no character", self.line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(gbnf: &str, lark: &str) {
        assert_eq!(to_lark(gbnf).as_deref(), Ok(lark));
    }

    #[test]
    fn rules_become_those_of_lark() {
        check("root ::= \"yes\" | \"no\"", "start: \"yes\"  | \"no\" \n");
        check(
            "root ::= item+ # all\nitem ::= \"- \" [^\\n]* \"\\n\"\n",
            "start: (rule_1)+ \nrule_1: \"- \" (/[^\\x{a}]/)* \"\\n\" \n",
        );
        check(
            "root ::= (\n  \"a\" |\n  [a-z_-]{2,3}\n)? .",
            "start: ((\"a\"  | (/[\\x{61}-\\x{7a}\\x{5f}\\x{2d}]/){2,3} ))? /(?s:.)/ \n",
        );
        check(
            "root ::= \"a\" |\n  \"\\u00e9\\x41\"",
            "start: \"a\"  | \"éA\" \n",
        );
    }

    #[test]
    fn what_is_no_grammar_is_a_sentence() {
        for (gbnf, why) in [
            ("root ::= nothing", "the rule nothing is not made anywhere"),
            ("a ::= \"b\"", "there is no rule called root"),
            (
                "root ::= \"b",
                "line 1: the end of a text or class is needed before \"\"",
            ),
            (
                "root ::= <think>",
                "line 1: a text: tokens cannot be named here is needed before \"<think>\"",
            ),
            (
                "root ::= [z-a]",
                "line 1: a range from a lower to a higher character is needed before \"]\"",
            ),
            (
                "root ::= \"a\"{3,2}",
                "line 1: a count as {2}, {2,} or {2,5} is needed before \"{3,2}\"",
            ),
            (
                "root ::= \"a\"\nroot ::= \"b\"",
                "line 2: the rule root is made twice",
            ),
        ] {
            assert_eq!(to_lark(gbnf).unwrap_err(), why);
        }
        assert!(to_lark(&format!("root ::= {}", "(".repeat(10_000))).is_err());
        assert!(to_lark(&format!("root ::= \"a\"{}", "*".repeat(8))).is_ok());
        let error = to_lark(&format!("root ::= \"a\"{}", "*".repeat(9))).unwrap_err();
        assert!(error.contains("signs behind it"), "{error}");
    }

    #[test]
    fn damaged_grammars_do_no_harm() {
        let grammar = "root ::= (\"a\\n\" | [^b-d\\u00e9]{1,2})+ ws # é\nws ::= [ \\t]* .\n";
        for seed in 0..3_000usize {
            let mut damaged: Vec<char> = grammar.chars().collect();
            for step in 0..1 + seed % 3 {
                if damaged.is_empty() {
                    break;
                }
                let at = (seed * 7_919 + step * 104_729) % damaged.len();
                match (seed + step) % 3 {
                    0 => drop(damaged.remove(at)),
                    1 => damaged.insert(at, ['{', '\\', '}', '"', '(', 'é', '|', '['][seed / 3 % 8]),
                    _ => damaged.truncate(at + 1),
                }
            }
            let _ = to_lark(&damaged.into_iter().collect::<String>());
        }
    }
}
