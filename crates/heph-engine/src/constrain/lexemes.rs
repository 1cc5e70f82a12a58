//! What the texts and expressions of a grammar in Lark form may cost its compiler.
//!
//! A name in capitals stands for its expression wherever it is met; each text, expression and such name in a rule stands
//! by itself. Chains of names were found short enough before.

use std::collections::{HashMap, HashSet};

use super::chains::{Grammar, Mark};
use super::cost::{Meter, Size};

/// Marks of a grammar: its texts, names and signs.
const MARKS_MAX: usize = 300_000;

/// The same of one rule: the compiler takes the square of them.
const RULE_MARKS_MAX: usize = 20_000;

/// Attributes of a rule that make an expression of all that it says.
const WHOLE: [&str; 6] = [
    "stop",
    "suffix",
    "lazy",
    "temperature",
    "max_tokens",
    "stop_capture",
];

/// Refuses a grammar whose texts and expressions cost too much.
pub(super) fn check(grammar: &Grammar<'_>, meter: &mut Meter) -> Result<(), String> {
    if grammar.marks.len() > MARKS_MAX {
        return Err(format!(
            "it has {} texts, names and signs, and {MARKS_MAX} is the most",
            grammar.marks.len()
        ));
    }
    let mut reading = Reading {
        meter,
        bodies: HashMap::new(),
        sizes: HashMap::new(),
        open: HashSet::new(),
        met: HashSet::new(),
    };
    let before = grammar.heads.first().map_or(grammar.marks.len(), |first| first.0);
    reading.statements(&grammar.marks[..before])?;
    let bodies: Vec<Body<'_>> = bodies(grammar).collect();
    for body in bodies.iter().filter(|body| is_terminal(body.name)) {
        reading.bodies.insert(body.name, body.says);
    }
    for body in bodies.iter().filter(|body| !is_terminal(body.name)) {
        reading.rule(body)?;
    }
    bodies
        .iter()
        .filter(|body| is_terminal(body.name))
        .try_for_each(|body| reading.statements(body.says))
}

/// One definition.
struct Body<'m> {
    name: &'m str,
    /// What stands between its name and its colon.
    attributes: &'m [Mark<'m>],
    says: &'m [Mark<'m>],
}

fn bodies<'m>(grammar: &'m Grammar<'_>) -> impl Iterator<Item = Body<'m>> {
    let Grammar { marks, heads } = grammar;
    heads.iter().enumerate().map(move |(at, &(start, colon, name))| {
        let end = heads.get(at + 1).map_or(marks.len(), |next| next.0);
        Body {
            name,
            attributes: &marks[(start + 1).min(colon)..colon],
            says: &marks[(colon + 1).min(end)..end],
        }
    })
}

/// Whether it is the name of an expression: those are in capitals.
fn is_terminal(name: &str) -> bool {
    name.trim_start_matches('_')
        .starts_with(|c: char| c.is_ascii_uppercase())
}

struct Reading<'m, 'r> {
    meter: &'r mut Meter,
    /// What the names in capitals say.
    bodies: HashMap<&'m str, &'m [Mark<'m>]>,
    sizes: HashMap<&'m str, Size>,
    /// Names that are being read; one that leads to itself is refused by the compiler.
    open: HashSet<&'m str>,
    /// What stood by itself in a rule before.
    met: HashSet<(char, &'m str)>,
}

impl<'m> Reading<'m, '_> {
    /// A rule, of which each text, expression and name in capitals stands by itself.
    fn rule(&mut self, body: &Body<'m>) -> Result<(), String> {
        if body.says.len() > RULE_MARKS_MAX {
            return Err(format!(
                "one of its rules has {} texts, names and signs, and {RULE_MARKS_MAX} is the most",
                body.says.len()
            ));
        }
        let named = |mark: &Mark<'_>| matches!(mark, Mark::Name(name) if WHOLE.contains(name));
        if body.attributes.iter().any(named) {
            let size = self.whole(body.says)?;
            self.meter.add(size)?;
        }
        self.alone(body.attributes)?;
        self.alone(body.says)
    }

    fn alone(&mut self, mut marks: &'m [Mark<'m>]) -> Result<(), String> {
        while let Some(mark) = marks.first() {
            let key = match mark {
                // What is not something is one expression.
                Mark::Sign('~') if !matches!(marks.get(1), Some(Mark::Number(_))) => ('~', ""),
                Mark::Text(text) => ('"', *text),
                Mark::Expression { pattern, .. } => ('/', *pattern),
                Mark::Name(name) if is_terminal(name) => ('N', *name),
                Mark::Substring(_) => ('%', ""),
                _ => {
                    marks = &marks[1..];
                    continue;
                }
            };
            let before = marks;
            let size = self.atom(&mut marks)?;
            if marks.len() == before.len() {
                marks = &marks[1..];
            }
            if key.1.is_empty() || self.met.insert(key) {
                self.meter.add(size)?;
            }
        }
        Ok(())
    }

    /// What is ignored between lexemes, where it stands behind a name in capitals.
    fn statements(&mut self, marks: &'m [Mark<'m>]) -> Result<(), String> {
        let Some(at) = marks.iter().position(|mark| matches!(mark, Mark::Statement)) else {
            return Ok(());
        };
        let size = self.whole(&marks[at..])?;
        self.meter.add(size)
    }

    /// All of `marks` as one expression; brackets that close none are passed over.
    fn whole(&mut self, mut marks: &'m [Mark<'m>]) -> Result<Size, String> {
        let mut whole = Size::EMPTY;
        while !marks.is_empty() {
            whole = whole.then(self.alternatives(&mut marks)?);
            marks = marks.get(1..).unwrap_or(&[]);
        }
        Ok(whole)
    }

    /// Alternatives up to what closes them, or the end.
    fn alternatives(&mut self, marks: &mut &'m [Mark<'m>]) -> Result<Size, String> {
        let mut parts = vec![self.joined(marks)?];
        while let Some(Mark::Sign('|')) = marks.first() {
            *marks = &marks[1..];
            parts.push(self.joined(marks)?);
        }
        Ok(Size::either(&parts))
    }

    /// What `&` joins.
    fn joined(&mut self, marks: &mut &'m [Mark<'m>]) -> Result<Size, String> {
        let mut parts = vec![self.sequence(marks)?];
        while let Some(Mark::Sign('&')) = marks.first() {
            *marks = &marks[1..];
            parts.push(self.sequence(marks)?);
        }
        Size::all(&parts)
    }

    fn sequence(&mut self, marks: &mut &'m [Mark<'m>]) -> Result<Size, String> {
        let mut parts = Vec::new();
        loop {
            match marks.first() {
                None | Some(Mark::Sign('|' | '&') | Mark::Close) => break,
                Some(Mark::Colon | Mark::Json(_) | Mark::Number(_) | Mark::Statement) => *marks = &marks[1..],
                Some(Mark::Sign('?' | '*' | '+')) => *marks = &marks[1..],
                Some(_) => parts.push(self.atom(marks)?),
            }
        }
        let parts = parts.into_iter().rev();
        Ok(parts.fold(Size::EMPTY, |after, part| part.then(after)))
    }

    /// One text, expression, name or group, with the signs behind it.
    fn atom(&mut self, marks: &mut &'m [Mark<'m>]) -> Result<Size, String> {
        let Some((mark, rest)) = marks.split_first() else {
            return Ok(Size::EMPTY);
        };
        *marks = rest;
        let mut size = match mark {
            Mark::Sign('~') => return self.atom(marks).map(Size::not),
            Mark::Text(text) => Size::text(text.len().saturating_sub(2)),
            Mark::Expression { pattern, flags } => self
                .meter
                .expression(pattern, flags)?
                .unwrap_or(Size::text(pattern.len())),
            Mark::Substring(bytes) => substring(*bytes),
            Mark::Name(name) => self.name(name)?,
            Mark::Open(bracket) => {
                let inside = self.alternatives(marks)?;
                *marks = marks.get(1..).unwrap_or(&[]);
                match bracket {
                    '[' => inside.repeated(true),
                    _ => inside,
                }
            }
            Mark::Colon | Mark::Close | Mark::Json(_) | Mark::Number(_) | Mark::Sign(_) | Mark::Statement => {
                Size::EMPTY
            }
        };
        loop {
            let (taken, optional) = match *marks {
                [Mark::Sign('?' | '*'), ..] => (1, true),
                [Mark::Sign('+'), ..] => (1, false),
                [Mark::Sign('~'), Mark::Number(least), ..] => (2, is_zero(least)),
                [
                    Mark::Open('{'),
                    Mark::Number(least),
                    Mark::Number(_),
                    Mark::Close,
                    ..,
                ] => (4, is_zero(least)),
                // Of one number it is not known on which side of the comma it stands.
                [Mark::Open('{'), Mark::Number(_), Mark::Close, ..] => (3, true),
                _ => return Ok(size),
            };
            *marks = &marks[taken..];
            size = size.repeated(optional);
        }
    }

    fn name(&mut self, name: &'m str) -> Result<Size, String> {
        if let Some(size) = self.sizes.get(name) {
            return Ok(*size);
        }
        let Some(&says) = self.bodies.get(name) else {
            return Ok(Size::EMPTY);
        };
        if !self.open.insert(name) {
            return Ok(Size::EMPTY);
        }
        // What is said behind a statement belongs to it.
        let end = says.iter().position(|mark| matches!(mark, Mark::Statement));
        let size = self.whole(&says[..end.unwrap_or(says.len())])?;
        self.open.remove(name);
        self.sizes.insert(name, size);
        Ok(size)
    }
}

fn is_zero(number: &str) -> bool {
    number.bytes().all(|digit| digit == b'0')
}

/// Any part of a text of so many bytes: an automaton of twice as many states.
fn substring(bytes: usize) -> Size {
    let letters = vec![Size::text(1); 2];
    let one = Size::either(&letters);
    let mut size = one;
    let mut length = 1;
    while length < bytes {
        size = size.then(size);
        length *= 2;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(grammar: &str) -> Result<(), String> {
        check(&Grammar::new(grammar), &mut Meter::default())
    }

    #[test]
    fn what_costs_the_square_is_refused_wherever_it_stands() {
        let many = "(\"ab\"|\"c\")?".repeat(3_000);
        let pattern = "(?:ab|c)?".repeat(3_500);
        let halves: Vec<String> = (0..40)
            .map(|at| format!("A{at}: {}\n", "(\"ab\"|\"c\")?".repeat(100)))
            .collect();
        let names: String = (0..40).map(|at| format!("A{at} ")).collect();
        for grammar in [
            format!("start: A\nA: {many}\n"),
            format!("start: \"x\" A\nA: B\nB: {many}\n"),
            format!("start: ~({many})\n"),
            format!("start: /{pattern}/\n"),
            format!("start: \"a\"\n%ignore /{pattern}/\n"),
            format!("%ignore /{pattern}/\nstart: \"a\"\n"),
            format!("start: A\nA: \"a\"\n%ignore /{pattern}/\n"),
            format!("start[stop=/{pattern}/]: /a*/\n"),
            format!("start[lazy]: {many}\n"),
            format!("start: A\n{}A: {names}\n", halves.concat()),
            format!("start: %lark {{ start: A\n A: {many}\n }}\n"),
        ] {
            let error = checked(&grammar).unwrap_err();
            assert!(error.contains("ways at once"), "{:.60}: {error}", grammar);
        }
        // In a rule each stands by itself, and a name that stands in none is not looked at.
        assert_eq!(checked(&format!("start: {many}\n")), Ok(()));
        assert_eq!(checked(&format!("start: \"a\"\nA: {many}\n")), Ok(()));
    }

    #[test]
    fn what_costs_the_product_or_grows_by_its_names_is_refused() {
        let joined = vec!["/[ab]*c[a-d]*/"; 100].join(" & ");
        let error = checked(&format!("start: A\nA: {joined}\n")).unwrap_err();
        assert!(error.contains("ways together"), "{error}");
        let twice: String = (0..40)
            .map(|at| format!("A{at}: A{} A{}\n", at + 1, at + 1))
            .collect();
        let error = checked(&format!("start: A0\n{twice}A40: \"x\"\n")).unwrap_err();
        assert!(error.contains("is the most"), "{error}");
        let many: String = (0..10_001).map(|at| format!("a{at}: \"t{at}\"\n")).collect();
        let error = checked(&format!("start: a0\n{many}")).unwrap_err();
        assert!(error.contains("different texts"), "{error}");
        let same = |times: usize| checked(&format!("start: \"x\" {}\n", "| \"t\" ".repeat(times)));
        assert_eq!(same(9_000), Ok(()));
        assert!(same(11_000).unwrap_err().contains("one of its rules"));
    }

    #[test]
    fn circles_and_damaged_grammars_end() {
        for grammar in [
            "start: A\nA: B\nB: A\n",
            "start: A ) ) (\nA: ((\"a\" | ]\n",
            "start: ~ ~ ~\n",
            "A",
            "A: :",
            "start: \"a\"{2} \"b\"{2,} \"c\"{,3} \"d\"~2..3 A{2,3}\nA: \"x\"{0,5}?*+\n",
        ] {
            let _ = checked(grammar);
        }
        assert_eq!(
            checked("start: \"a\"{2} NAME+\nNAME: /[a-z]+/ & ~(\"if\" | \"else\")\n%ignore /\\s+/\n"),
            Ok(())
        );
    }
}
