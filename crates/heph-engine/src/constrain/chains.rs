//! How deep the rules of a shape lead to each other, before its compiler follows them by recursion.

use std::collections::HashMap;

use serde_json::Value;

/// Rules and brackets of a grammar that one chain may go through. A thread of 2 MiB holds twice as many.
const RULES_MAX: usize = 300;

/// Values of a schema within values, over all references of a chain. A thread of 2 MiB holds twice as many.
const VALUES_MAX: usize = 400;

/// What leads to what, and how deep each part is by itself.
#[derive(Default)]
struct Parts {
    leads: Vec<Vec<usize>>,
    depths: Vec<usize>,
}

impl Parts {
    /// The depth of the deepest chain. Of parts that lead to each other in a circle all may be open at once.
    fn deepest(&self) -> usize {
        let count = self.leads.len();
        let mut walk = Walk {
            numbers: vec![None; count],
            lowest: vec![0; count],
            chains: vec![None; count],
            open: Vec::new(),
            met: 0,
        };
        (0..count).for_each(|part| walk.from(part, self));
        walk.chains.into_iter().flatten().max().unwrap_or(0)
    }
}

/// Tarjan's search for circles (1972), without recursion of its own.
struct Walk {
    /// In which order parts were met.
    numbers: Vec<Option<usize>>,
    /// The first met of those that are known to be in one circle with a part.
    lowest: Vec<usize>,
    /// The depth of the deepest chain from a part on, once its circle is known.
    chains: Vec<Option<usize>>,
    /// Parts whose circle is not known yet.
    open: Vec<usize>,
    met: usize,
}

impl Walk {
    fn from(&mut self, root: usize, parts: &Parts) {
        if self.numbers[root].is_some() {
            return;
        }
        self.meet(root);
        let mut path = vec![(root, 0)];
        while let Some((part, at)) = path.last_mut() {
            let part = *part;
            if let Some(&to) = parts.leads[part].get(*at) {
                *at += 1;
                match (self.numbers[to], self.chains[to]) {
                    (None, _) => {
                        self.meet(to);
                        path.push((to, 0));
                    }
                    (Some(number), None) => self.lowest[part] = self.lowest[part].min(number),
                    (Some(_), Some(_)) => {}
                }
                continue;
            }
            path.pop();
            if let Some(&(before, _)) = path.last() {
                self.lowest[before] = self.lowest[before].min(self.lowest[part]);
            }
            if self.numbers[part] == Some(self.lowest[part]) {
                self.close(part, parts);
            }
        }
    }

    fn meet(&mut self, part: usize) {
        self.numbers[part] = Some(self.met);
        self.lowest[part] = self.met;
        self.met += 1;
        self.open.push(part);
    }

    /// The circle of `part` and of all that was met after it is whole.
    fn close(&mut self, part: usize, parts: &Parts) {
        let start = self.open.iter().rposition(|&open| open == part).unwrap_or(0);
        let circle = self.open.split_off(start);
        let beyond = circle.iter().flat_map(|&one| &parts.leads[one]);
        let beyond = beyond.filter_map(|&to| self.chains[to]).max().unwrap_or(0);
        let own: usize = circle.iter().map(|&one| parts.depths[one]).sum();
        circle
            .iter()
            .for_each(|&one| self.chains[one] = Some(own + beyond));
    }
}

/// Refuses a schema whose references lead too deep.
pub(super) fn check_schema(schema: &Value) -> Result<(), String> {
    let mut search = Search {
        schema,
        // The whole is the first part; behind the second one is all that has a name.
        parts: vec![Some(schema), None],
        known: HashMap::from([(std::ptr::from_ref(schema), 0)]),
    };
    let mut parts = Parts::default();
    while let Some(part) = search.parts.get(parts.leads.len()).copied() {
        let (depth, leads) = match part {
            Some(part) => search.references(part),
            None => (0, search.named()),
        };
        parts.depths.push(depth);
        parts.leads.push(leads);
    }
    match parts.deepest() {
        deep if deep > VALUES_MAX => Err(format!(
            "its references lead {deep} values deep, and {VALUES_MAX} is the most"
        )),
        _ => Ok(()),
    }
}

/// The parts of a schema that references lead to.
struct Search<'a> {
    schema: &'a Value,
    parts: Vec<Option<&'a Value>>,
    known: HashMap<*const Value, usize>,
}

/// Stands for all parts that have a name, where it is not known which is meant.
const NAMED: usize = 1;

impl<'a> Search<'a> {
    fn number(&mut self, part: &'a Value) -> usize {
        *self.known.entry(std::ptr::from_ref(part)).or_insert_with(|| {
            self.parts.push(Some(part));
            self.parts.len() - 1
        })
    }

    /// How deep a part is, and the parts that it leads to.
    fn references(&mut self, part: &'a Value) -> (usize, Vec<usize>) {
        let mut references = Vec::new();
        let depth = depth(part, &mut references);
        let mut leads = Vec::new();
        for reference in references {
            let (before, place) = reference.split_once('#').unwrap_or((reference, ""));
            let target = self.schema.pointer(&decoded(place));
            leads.extend(target.map(|target| self.number(target)));
            if target.is_none() || !before.is_empty() {
                leads.push(NAMED);
            }
        }
        leads.sort_unstable();
        leads.dedup();
        (depth, leads)
    }

    fn named(&mut self) -> Vec<usize> {
        let mut named = Vec::new();
        collect_named(self.schema, &mut named);
        named.into_iter().map(|part| self.number(part)).collect()
    }
}

/// Schemas that a reference may name otherwise than by their place.
fn collect_named<'a>(schema: &'a Value, named: &mut Vec<&'a Value>) {
    let inside: Box<dyn Iterator<Item = &Value>> = match schema {
        Value::Object(map) => {
            if ["$id", "id", "$anchor", "$dynamicAnchor"]
                .iter()
                .any(|key| map.contains_key(*key))
            {
                named.push(schema);
            }
            Box::new(map.values())
        }
        Value::Array(list) => Box::new(list.iter()),
        _ => return,
    };
    inside.for_each(|value| collect_named(value, named));
}

/// The text without percent signs before the numbers of its bytes.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let number = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match number.filter(|_| byte == b'%') {
            Some(number) => {
                bytes.push(number);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How deep values lie within values, and the references among them. Definitions count where they are referred to.
fn depth<'a>(schema: &'a Value, references: &mut Vec<&'a str>) -> usize {
    match schema {
        Value::Object(map) => {
            let inside = map
                .iter()
                .filter(|(key, _)| !["$defs", "definitions"].contains(&key.as_str()));
            let mut deepest = 0;
            for (key, value) in inside {
                match value {
                    Value::String(text) if ["$ref", "$dynamicRef"].contains(&key.as_str()) => {
                        references.push(text);
                    }
                    _ => {}
                }
                deepest = deepest.max(depth(value, references));
            }
            deepest + 1
        }
        Value::Array(list) => {
            let inside = list.iter().map(|value| depth(value, references));
            inside.max().unwrap_or(0) + 1
        }
        _ => 1,
    }
}

/// Refuses a grammar in Lark form whose rules lead too deep; hands the schemas in it to `look`.
pub(super) fn check_grammar(
    Grammar { marks, heads }: &Grammar<'_>,
    mut look: impl FnMut(&Value) -> Result<(), String>,
) -> Result<(), String> {
    marks.iter().try_for_each(|mark| match mark {
        Mark::Json(schema) => look(schema),
        _ => Ok(()),
    })?;
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    for (_, _, name) in heads {
        let next = numbers.len();
        numbers.entry(name).or_insert(next);
    }
    let mut parts = Parts {
        leads: vec![Vec::new(); numbers.len()],
        depths: vec![1; numbers.len()],
    };
    for (at, &(_, colon, name)) in heads.iter().enumerate() {
        let end = heads.get(at + 1).map_or(marks.len(), |next| next.0);
        let number = numbers[name];
        let (mut open, mut deepest) = (0_usize, 0);
        for mark in &marks[colon.min(end)..end] {
            match mark {
                Mark::Name(name) => parts.leads[number].extend(numbers.get(name)),
                Mark::Open(_) => {
                    open += 1;
                    deepest = deepest.max(open);
                }
                Mark::Close => open = open.saturating_sub(1),
                _ => {}
            }
        }
        parts.depths[number] = parts.depths[number].max(deepest + 1);
    }
    match parts.deepest() {
        deep if deep > RULES_MAX => Err(format!(
            "its rules lead {deep} deep to each other, and {RULES_MAX} is the most"
        )),
        _ => Ok(()),
    }
}

/// A grammar in Lark form, as far as it matters here.
pub(super) struct Grammar<'a> {
    pub(super) marks: Vec<Mark<'a>>,
    /// Where each definition begins, where its colon stands, and what it defines.
    pub(super) heads: Vec<(usize, usize, &'a str)>,
}

impl<'a> Grammar<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let marks = marks(text);
        let heads = (0..marks.len()).filter_map(|colon| head(&marks, colon)).collect();
        Self { marks, heads }
    }
}

/// What matters of a grammar.
pub(super) enum Mark<'a> {
    Name(&'a str),
    Colon,
    /// `(`, `[` or `{`.
    Open(char),
    Close,
    Json(Value),
    /// A text with its quotes.
    Text(&'a str),
    /// A regular expression without its strokes.
    Expression {
        pattern: &'a str,
        flags: &'a str,
    },
    /// A text of which any part may stand, by its length.
    Substring(usize),
    Number(&'a str),
    /// `?`, `*`, `+`, `|`, `&` or `~`.
    Sign(char),
    /// `%ignore` and its like.
    Statement,
}

/// Where the definition begins whose colon stands at `colon`, where that is, and what it defines.
fn head<'a>(marks: &[Mark<'a>], colon: usize) -> Option<(usize, usize, &'a str)> {
    if !matches!(marks[colon], Mark::Colon) {
        return None;
    }
    let (mut at, mut closed) = (colon, 0_usize);
    loop {
        at = at.checked_sub(1)?;
        match &marks[at] {
            Mark::Close => closed += 1,
            Mark::Open(_) => closed = closed.checked_sub(1)?,
            Mark::Name(name) if closed == 0 => return Some((at, colon, name)),
            Mark::Colon | Mark::Json(_) => return None,
            _ => {}
        }
    }
}

/// The marks of a grammar in Lark form, up to where its compiler would give up too.
fn marks(grammar: &str) -> Vec<Mark<'_>> {
    let mut marks = Vec::new();
    let mut rest = grammar;
    while let Some(first) = rest.chars().next() {
        let line = rest.find('\n').unwrap_or(rest.len());
        let taken = match first {
            '#' => Some(line),
            '/' if rest.starts_with("//") => Some(line),
            '"' => quoted(rest, first).inspect(|&end| marks.push(Mark::Text(&rest[..end]))),
            '/' => quoted(rest, first).map(|end| {
                let flags = end + run(&rest[end..], |c| "imslux".contains(c));
                marks.push(Mark::Expression {
                    pattern: &rest[1..end - 1],
                    flags: &rest[end..flags],
                });
                flags
            }),
            '<' => Some(rest.find(['>', '\n']).map_or(rest.len(), |end| end + 1)),
            '%' => {
                let word = run(&rest[1..], |c| c.is_ascii_alphabetic()) + 1;
                match &rest[..word] {
                    "%json" | "%regex" | "%llguidance" => {
                        let mut values =
                            serde_json::Deserializer::from_str(&rest[word..]).into_iter::<Value>();
                        let value = values.next().and_then(Result::ok);
                        let end = word + values.byte_offset();
                        value.map(|value| {
                            match &rest[..word] {
                                "%json" => marks.push(Mark::Json(value)),
                                "%regex" => marks.push(Mark::Substring(end - word)),
                                _ => {}
                            }
                            end
                        })
                    }
                    "%if" | "%lark" => Some(word),
                    _ => {
                        marks.push(Mark::Statement);
                        Some(word)
                    }
                }
            }
            '@' => Some(1 + run(&rest[1..], is_name)),
            ':' if rest.starts_with("::") => Some(2),
            ':' | '(' | '[' | '{' | ')' | ']' | '}' => {
                marks.push(match first {
                    ':' => Mark::Colon,
                    '(' | '[' | '{' => Mark::Open(first),
                    _ => Mark::Close,
                });
                Some(1)
            }
            '?' | '*' | '+' | '|' | '&' | '~' => {
                marks.push(Mark::Sign(first));
                Some(1)
            }
            '0'..='9' => {
                let long = number(rest);
                marks.push(Mark::Number(&rest[..long]));
                Some(long)
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let long = name(rest);
                // An underscore alone is no name.
                marks.extend((&rest[..long] != "_").then_some(Mark::Name(&rest[..long])));
                Some(long)
            }
            other => Some(other.len_utf8()),
        };
        let Some(taken) = taken else { break };
        rest = &rest[taken..];
    }
    marks
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Bytes at the beginning of `text` of which all are such.
fn run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is(c)).unwrap_or(text.len())
}

/// A name is in small letters, or in large ones.
fn name(text: &str) -> usize {
    let under = run(text, |c| c == '_').min(1);
    let small = text[under..].starts_with(|c: char| c.is_ascii_lowercase());
    let long = run(&text[under..], |c| {
        is_name(c)
            && !(if small {
                c.is_ascii_uppercase()
            } else {
                c.is_ascii_lowercase()
            })
    });
    (under + long).max(1)
}

/// A number, whose exponent is no name.
fn number(text: &str) -> usize {
    let digits = |from: usize| from + run(&text[from..], |c| c.is_ascii_digit());
    if text.starts_with("0x") || text.starts_with("0X") {
        return 2 + run(&text[2..], |c| c.is_ascii_hexdigit());
    }
    let mut end = digits(0);
    if text[end..].starts_with('.') {
        end = digits(end + 1);
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

/// Bytes of a text between two marks, both included; `None` where it has no end.
fn quoted(text: &str, mark: char) -> Option<usize> {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == mark && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map(|(at, c)| at + c.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deepest(leads: &[&[usize]]) -> usize {
        let depths = vec![1; leads.len()];
        let leads = leads.iter().map(|to| to.to_vec()).collect();
        Parts { leads, depths }.deepest()
    }

    #[test]
    fn the_deepest_chain_counts_and_circles_count_whole() {
        assert_eq!(deepest(&[]), 0);
        assert_eq!(deepest(&[&[], &[0], &[1, 0]]), 3);
        assert_eq!(deepest(&[&[0]]), 1);
        assert_eq!(deepest(&[&[1], &[2], &[0, 3], &[4], &[], &[0]]), 6);
        assert_eq!(deepest(&[&[1, 2], &[0], &[3], &[2]]), 4);
        let long: Vec<Vec<usize>> = (1..=100_000).map(|to| vec![to % 100_000]).collect();
        let depths = vec![1; long.len()];
        assert_eq!(Parts { leads: long, depths }.deepest(), 100_000);
    }

    fn rules(grammar: &str) -> Result<(), String> {
        check_grammar(&Grammar::new(grammar), |_| Ok(()))
    }

    /// A chain of rules, each written by `rule` from its number and the name of the next.
    fn chain(count: usize, rule: impl Fn(usize) -> String) -> String {
        let rules: String = (0..count).map(|at| rule(at) + "\n").collect();
        format!("start: r0\n{rules}r{count}: \"a\"\n")
    }

    #[test]
    fn rules_are_counted_however_they_are_written() {
        let ways: [fn(usize) -> String; 8] = [
            |at| format!("r{at}: r{}", at + 1),
            |at| format!("!r{at}: \"x:\\\"y\" r{} // r0: r1", at + 1),
            |at| {
                format!(
                    "?r{at}.1e0[capture=\"a\", stop=/b:/]: /a\\/:\"/ r{} | <x\"y>",
                    at + 1
                )
            },
            |at| format!("r{at}\n  : r{}?r{}", at + 1, at + 1),
            |at| format!("r{at}: 1e5r{} # :", at + 1),
            |at| format!("r{at}: (\n r{})", at + 1),
            |at| format!("r{at}: T{at}\nT{at}: %json {{\"a\": \":\"}} r{}", at + 1),
            |at| format!("r{at}::_ : r{}", at + 1),
        ];
        for way in ways {
            let (short, long) = (chain(90, way), chain(320, way));
            assert_eq!(rules(&short), Ok(()), "{}", way(7));
            assert!(rules(&long).unwrap_err().contains("deep"), "{}", way(7));
        }
        // Many rules that lead nowhere are no chain.
        let many: String = (0..5_000).map(|at| format!("r{at}: \"a\"\n")).collect();
        assert_eq!(rules(&many), Ok(()));
    }

    #[test]
    fn references_are_counted_however_they_are_written() {
        type Way = fn(usize) -> serde_json::Value;
        let ways: [(&str, Way); 5] = [
            ("#/$defs/", |to| json!({ "$ref": format!("#/$defs/a{to}") })),
            ("encoded", |to| json!({ "$ref": format!("#/%24defs/%61{to}") })),
            (
                "any",
                |to| json!({ "anyOf": [{ "type": "null" }, { "$ref": format!("#/$defs/a{to}") }] }),
            ),
            (
                "based",
                |to| json!({ "items": { "$ref": format!("http://x/y#/$defs/a{to}") } }),
            ),
            (
                "named",
                |to| json!({ "$id": format!("http://x/a{}", to - 1), "items": { "$ref": format!("a{to}") } }),
            ),
        ];
        for (name, way) in ways {
            let schema = |count: usize| {
                let chain = (0..count).map(|at| (format!("a{at}"), way(at + 1)));
                let last = (format!("a{count}"), json!({ "$id": "last" }));
                let defs: serde_json::Map<_, _> = chain.chain([last]).collect();
                json!({ "$ref": "#/$defs/a0", "$defs": defs })
            };
            assert_eq!(check_schema(&schema(40)), Ok(()), "{name}");
            assert!(check_schema(&schema(220)).unwrap_err().contains("deep"), "{name}");
        }
        let tree = json!({ "$ref": "#/$defs/a", "$defs": { "a": { "properties": { "b": { "$ref": "#" }, "c": { "$ref": "#/$defs/a" } } } } });
        assert_eq!(check_schema(&tree), Ok(()));
    }
}
