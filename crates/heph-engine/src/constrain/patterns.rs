//! What the patterns of a JSON schema, and schemas that hold at the same place, may cost their compiler.
//!
//! `allOf`, references and what stands beside them are put together by the compiler, member by member: patterns of the
//! same text become one expression whose parts must all fit, and large schemas are copied for each of many alternatives.

use std::collections::{BTreeSet, HashMap, HashSet};

use llguidance::regex_to_lark;
use serde_json::{Map, Value};

use super::chains::decoded;
use super::cost::{JOINED_MAX, Meter, Size, joined};

/// Values that the compiler may copy to put schemas together.
const COPIES_MAX: usize = 50_000_000;

/// Values that the compiler may look at to tell the alternatives of `oneOf` from each other.
const COMPARED_MAX: usize = 20_000_000;

/// Pairs of patterns for the names of properties, of which the compiler looks at each.
const PAIRS_MAX: usize = 5_000;

/// Places that are looked at where schemas are put together.
const LOOKS_MAX: usize = 1_000_000;

/// Ways that a length or a format adds to the expression of a text.
const LENGTH_WAYS: u64 = 8;
const FORMAT_WAYS: u64 = 64;

/// Words that the compiler puts together with what stands beside them.
const IN_PLACE: [&str; 6] = ["allOf", "anyOf", "oneOf", "$ref", "enum", "const"];

/// Words whose alternatives are each put together with what stands beside them.
const UNIONS: [&str; 3] = ["anyOf", "oneOf", "enum"];

/// Words that say of members of the value what they must be.
const MEMBERS: [&str; 5] = [
    "properties",
    "patternProperties",
    "items",
    "prefixItems",
    "additionalProperties",
];

/// Refuses a schema whose patterns and joined parts cost too much.
pub(super) fn check(schema: &Value, meter: &mut Meter) -> Result<(), String> {
    let mut patterns = Patterns {
        meter,
        known: HashSet::new(),
    };
    patterns.look(schema)?;
    if let Some(options) = schema.get("x-guidance") {
        for word in ["whitespace_pattern", "item_separator", "key_separator"] {
            options
                .get(word)
                .and_then(Value::as_str)
                .map_or(Ok(()), |pattern| patterns.add(pattern))?;
        }
    }
    let whole = count(schema);
    copies(schema, whole)?;
    let mut together = Together {
        root: schema,
        met: HashSet::new(),
        looks: 0,
        own: HashMap::new(),
    };
    together.everywhere(schema)
}

/// All patterns, each counted once.
struct Patterns<'a, 'm> {
    meter: &'m mut Meter,
    known: HashSet<&'a str>,
}

impl<'a> Patterns<'a, '_> {
    fn look(&mut self, schema: &'a Value) -> Result<(), String> {
        match schema {
            Value::Object(map) => {
                if let Some(Value::String(pattern)) = map.get("pattern") {
                    self.add(pattern)?;
                }
                if let Some(Value::Object(named)) = map.get("patternProperties") {
                    let pairs = named.len().saturating_mul(named.len()) / 2;
                    if pairs > PAIRS_MAX {
                        return Err(format!(
                            "an object of the schema has {} patterns for names, and {} is the most",
                            named.len(),
                            (2 * PAIRS_MAX).isqrt()
                        ));
                    }
                    named.keys().try_for_each(|pattern| self.add(pattern))?;
                }
                map.values().try_for_each(|value| self.look(value))
            }
            Value::Array(list) => list.iter().try_for_each(|value| self.look(value)),
            _ => Ok(()),
        }
    }

    fn add(&mut self, pattern: &'a str) -> Result<(), String> {
        if !self.known.insert(pattern) {
            return Ok(());
        }
        // What is no pattern is refused by the compiler where it stands for one.
        match self.meter.expression(&regex_to_lark(pattern, "dw"), "")? {
            Some(size) => self.meter.add(size),
            None => Ok(()),
        }
    }
}

/// How many values are in `schema`, itself included.
fn count(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => map.values().map(count).sum::<usize>() + 1,
        Value::Array(list) => list.iter().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

/// Refuses a schema of which the compiler would copy or compare too much.
fn copies(schema: &Value, whole: usize) -> Result<(), String> {
    let (mut copied, mut compared) = (0_usize, 0_usize);
    sum(schema, &mut |map| {
        let list = |word: &str| map.get(word).and_then(Value::as_array).map_or(0, Vec::len);
        let beside = IN_PLACE
            .iter()
            .chain(&MEMBERS)
            .filter(|word| map.contains_key(**word))
            .count();
        let unions = UNIONS.iter().map(|word| list(word)).sum::<usize>();
        let joined = list("allOf")
            + if beside > 1 {
                unions + usize::from(map.contains_key("$ref"))
            } else {
                0
            };
        copied = copied.saturating_add(joined.saturating_mul(whole));
        let alternatives = map.get("oneOf").map_or(0, count);
        compared = compared.saturating_add(list("oneOf").saturating_mul(alternatives));
    });
    if copied > COPIES_MAX {
        return Err(
            "too many of its parts hold together with too many others (allOf, anyOf, oneOf, enum and $ref beside each \
             other)"
                .to_owned(),
        );
    }
    if compared > COMPARED_MAX {
        return Err("oneOf has too many alternatives to tell them from each other".to_owned());
    }
    Ok(())
}

fn sum<'a>(schema: &'a Value, add: &mut impl FnMut(&'a Map<String, Value>)) {
    match schema {
        Value::Object(map) => {
            add(map);
            map.values().for_each(|value| sum(value, add));
        }
        Value::Array(list) => list.iter().for_each(|value| sum(value, add)),
        _ => {}
    }
}

/// Schemas that hold at the same place.
#[derive(Default)]
struct Group<'a> {
    /// Each with the ways in which its own text goes on.
    all: Vec<(&'a Map<String, Value>, u64)>,
    /// Of each of these at least one holds beside the others.
    unions: Vec<Vec<Group<'a>>>,
}

impl<'a> Group<'a> {
    /// In how many ways the patterns of a text go on together, at most.
    fn ways(&self) -> u64 {
        let own = self.all.iter().map(|(_, ways)| *ways);
        let unions = self.unions.iter();
        let most = unions.filter_map(|union| union.iter().map(Group::ways).max());
        own.chain(most).fold(1, u64::saturating_mul)
    }

    fn merge(&mut self, other: Self) {
        self.all.extend(other.all);
        self.unions.extend(other.unions);
    }

    /// All that is in it, as a key.
    fn key(&self) -> BTreeSet<*const Map<String, Value>> {
        let inside = self.unions.iter().flatten().flat_map(Group::key);
        let own = self.all.iter().map(|(map, _)| std::ptr::from_ref(*map));
        own.chain(inside).collect()
    }

    fn names(&self, names: &mut BTreeSet<Member<'a>>) {
        for (map, _) in &self.all {
            if let Some(Value::Object(named)) = map.get("properties") {
                names.extend(named.keys().map(|name| Member::Named(name)));
            }
            let others = MEMBERS[1..].iter().any(|word| map.contains_key(*word));
            names.extend(others.then_some(Member::Other));
        }
        self.unions.iter().flatten().for_each(|group| group.names(names));
    }
}

/// A member of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Member<'a> {
    Named(&'a str),
    /// One of those that have no name of their own.
    Other,
}

/// What holds at the same places.
struct Together<'a> {
    root: &'a Value,
    /// Places that were looked at, by the schemas that hold there.
    met: HashSet<BTreeSet<*const Map<String, Value>>>,
    looks: usize,
    /// The ways of schemas that were looked at.
    own: HashMap<*const Map<String, Value>, u64>,
}

impl<'a> Together<'a> {
    /// Looks at each place of `schema` where several parts hold.
    fn everywhere(&mut self, schema: &'a Value) -> Result<(), String> {
        match schema {
            Value::Object(map) => {
                let beside = IN_PLACE
                    .iter()
                    .chain(&MEMBERS)
                    .filter(|word| map.contains_key(**word))
                    .count();
                if beside > 1 || map.contains_key("allOf") || map.contains_key("pattern") {
                    let mut group = Group::default();
                    self.gather(schema, &mut group, &mut Vec::new())?;
                    self.place(group)?;
                }
                map.values().try_for_each(|value| self.everywhere(value))
            }
            Value::Array(list) => list.iter().try_for_each(|value| self.everywhere(value)),
            _ => Ok(()),
        }
    }

    /// Looks at one place, and at the members of what stands there.
    fn place(&mut self, group: Group<'a>) -> Result<(), String> {
        let mut open = vec![group];
        while let Some(group) = open.pop() {
            if !self.met.insert(group.key()) {
                continue;
            }
            match group.ways() {
                ways if ways > JOINED_MAX => return Err(joined(ways)),
                _ => {}
            }
            let mut names = BTreeSet::new();
            group.names(&mut names);
            for name in names {
                let member = self.member(&group, name)?;
                open.extend((member.all.len() + member.unions.len() > 1).then_some(member));
            }
        }
        Ok(())
    }

    /// What holds for a member of the values for which `group` holds.
    fn member(&mut self, group: &Group<'a>, name: Member<'a>) -> Result<Group<'a>, String> {
        let mut member = Group::default();
        for (map, _) in &group.all {
            let named = match name {
                Member::Named(name) => map.get("properties").and_then(|named| named.get(name)),
                Member::Other => None,
            };
            if let Some(schema) = named {
                self.gather(schema, &mut member, &mut Vec::new())?;
                continue;
            }
            let mut others = Vec::new();
            for word in &MEMBERS[1..] {
                match map.get(*word) {
                    Some(Value::Object(patterns)) if *word == "patternProperties" => {
                        others.extend(patterns.values())
                    }
                    Some(Value::Array(list)) => others.extend(list),
                    Some(schema) => others.push(schema),
                    None => {}
                }
            }
            // One of them holds for one member.
            self.union(others.into_iter(), &mut member, &mut Vec::new())?;
        }
        for union in &group.unions {
            let mut options: Vec<Group<'a>> = Vec::new();
            let mut known = HashSet::new();
            for option in union {
                let option = self.member(option, name)?;
                if !option.all.is_empty() && known.insert(option.key()) {
                    options.push(option);
                }
            }
            member.unions.extend((!options.is_empty()).then_some(options));
        }
        Ok(member)
    }

    /// The schemas that hold where `schema` does.
    fn gather(
        &mut self,
        schema: &'a Value,
        group: &mut Group<'a>,
        followed: &mut Vec<&'a str>,
    ) -> Result<(), String> {
        self.looks += 1;
        if self.looks > LOOKS_MAX {
            return Err(
                "too many of its parts hold at the same places (allOf, anyOf, oneOf and $ref)".to_owned(),
            );
        }
        let Value::Object(map) = schema else {
            return Ok(());
        };
        let said = |word: &&str| map.contains_key(*word);
        if !map.contains_key("$ref") || IN_PLACE.iter().chain(&MEMBERS).filter(|word| said(word)).count() > 1
        {
            let key = std::ptr::from_ref(map);
            let ways = match self.own.get(&key) {
                Some(ways) => *ways,
                None => own(map)?,
            };
            self.own.insert(key, ways);
            group.all.push((map, ways));
        }
        for part in map.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.gather(part, group, followed)?;
        }
        for word in ["anyOf", "oneOf"] {
            let options = map.get(word).and_then(Value::as_array);
            self.union(options.into_iter().flatten(), group, followed)?;
        }
        if let Some(Value::String(reference)) = map.get("$ref")
            && !followed.contains(&reference.as_str())
            && let Some(target) = reference
                .split_once('#')
                .and_then(|(_, place)| self.root.pointer(&decoded(place)))
        {
            followed.push(reference);
            self.gather(target, group, followed)?;
            followed.pop();
        }
        Ok(())
    }

    fn union(
        &mut self,
        options: impl Iterator<Item = &'a Value>,
        group: &mut Group<'a>,
        followed: &mut Vec<&'a str>,
    ) -> Result<(), String> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for option in options {
            let mut inside = Group::default();
            self.gather(option, &mut inside, followed)?;
            groups.push(inside);
        }
        match groups.len() {
            0 => {}
            1 => groups.into_iter().for_each(|only| group.merge(only)),
            _ => group.unions.push(groups),
        }
        Ok(())
    }
}

/// In how many ways the text of this schema by itself goes on.
fn own(map: &Map<String, Value>) -> Result<u64, String> {
    let mut ways = 1_u64;
    if let Some(Value::String(pattern)) = map.get("pattern") {
        let size = Meter::default().expression(&regex_to_lark(pattern, "dw"), "")?;
        ways = size.map_or(1, Size::branches).saturating_add(LENGTH_WAYS);
    }
    for (word, more) in [
        ("format", FORMAT_WAYS),
        ("minLength", LENGTH_WAYS),
        ("maxLength", LENGTH_WAYS),
    ] {
        ways = ways.saturating_mul(if map.contains_key(word) { more } else { 1 });
    }
    Ok(ways)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(schema: &Value) -> Result<(), String> {
        check(schema, &mut Meter::default())
    }

    /// Patterns that hold together, in all the ways in which they may.
    #[test]
    fn patterns_that_hold_together_are_counted() {
        let pattern = |at: usize| json!({ "pattern": format!("^[a-d]*{at}[ab]*c$") });
        let each = |wrap: &dyn Fn(Value) -> Value, count: usize| {
            let parts: Vec<Value> = (0..count).map(|at| wrap(pattern(at))).collect();
            json!({ "allOf": parts })
        };
        let ways: [&dyn Fn(Value) -> Value; 5] = [
            &|part| part,
            &|part| json!({ "properties": { "a": part } }),
            &|part| json!({ "anyOf": [{ "type": "null" }, { "properties": { "a": { "items": part } } }] }),
            &|part| json!({ "anyOf": [{ "allOf": [part] }] }),
            &|part| json!({ "oneOf": [{ "additionalProperties": part }] }),
        ];
        for (way, wrap) in ways.iter().enumerate() {
            assert_eq!(checked(&each(wrap, 2)), Ok(()), "{way}");
            let error = checked(&each(wrap, 40)).unwrap_err();
            assert!(error.contains("ways together"), "{way}: {error}");
        }
        let named: Map<String, Value> = (0..40).map(|at| (format!("p{at}"), pattern(at))).collect();
        let references: Vec<Value> = (0..40)
            .map(|at| json!({ "$ref": format!("#/$defs/p{at}") }))
            .collect();
        let schema = json!({ "allOf": references, "$defs": named.clone() });
        assert!(checked(&schema).unwrap_err().contains("ways together"));
        // Side by side, or as alternatives, they hold for themselves.
        let schema = json!({ "anyOf": [{ "properties": named.clone() }, { "items": { "anyOf": references } }], "$defs": named });
        assert_eq!(checked(&schema), Ok(()));
        let alternatives: Vec<Value> = (0..40)
            .map(|at| json!({ "properties": { "kind": { "const": at }, "name": pattern(at) } }))
            .collect();
        assert_eq!(checked(&json!({ "anyOf": alternatives })), Ok(()));
    }

    #[test]
    fn schemas_that_refer_to_each_other_end_soon() {
        let kinds: Map<String, Value> = (0..120)
            .map(|at| {
                let members = json!({
                    "kind": { "const": at }, "name": { "pattern": "^[a-z_]+$" }, "left": { "$ref": "#/$defs/node" },
                    "right": { "$ref": "#/$defs/node" }, "more": { "type": "array", "items": { "$ref": "#/$defs/node" } },
                });
                (format!("k{at}"), json!({ "type": "object", "properties": members }))
            })
            .collect();
        let options: Vec<Value> = kinds
            .keys()
            .map(|name| json!({ "$ref": format!("#/$defs/{name}") }))
            .collect();
        let mut defs = kinds;
        defs.insert("node".to_owned(), json!({ "anyOf": options }));
        assert_eq!(checked(&json!({ "$ref": "#/$defs/node", "$defs": defs })), Ok(()));
    }

    #[test]
    fn what_is_copied_or_compared_too_often_is_refused() {
        let many = |count: usize| -> Vec<Value> { (0..count).map(|at| json!({ "const": at })).collect() };
        let large: Map<String, Value> = (0..900)
            .map(|at| (format!("p{at}"), json!({ "type": "string" })))
            .collect();
        let schema = |count: usize| json!({ "anyOf": many(count), "properties": large });
        assert_eq!(checked(&schema(500)), Ok(()));
        assert!(checked(&schema(12_000)).unwrap_err().contains("hold together"));
        assert_eq!(checked(&json!({ "anyOf": many(20_000) })), Ok(()));
        assert_eq!(checked(&json!({ "oneOf": many(300) })), Ok(()));
        assert!(
            checked(&json!({ "oneOf": many(12_000) }))
                .unwrap_err()
                .contains("oneOf")
        );
        let names: Map<String, Value> = (0..200).map(|at| (format!("^p{at}$"), json!({}))).collect();
        assert!(
            checked(&json!({ "patternProperties": names }))
                .unwrap_err()
                .contains("patterns for names")
        );
        let many = "(?:ab|c)?".repeat(3_500);
        for schema in [
            json!({ "items": { "pattern": many } }),
            json!({ "x-guidance": { "whitespace_pattern": many } }),
        ] {
            assert!(checked(&schema).unwrap_err().contains("ways at once"));
        }
    }
}
