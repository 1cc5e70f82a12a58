//! What Hugging Face's Jinja understands and the template engine does not, put in words it does.
//!
//! - `{% generation %}` blocks, which only mark text for training, become plain scopes.
//! - `for x in EXPR` asks that `EXPR` can be iterated: the engine takes `none` for an empty list, Python refuses.
//! - `'…' % EXPR` becomes a filter: the engine's `%` is for numbers only.
//! - `A|safe + B` becomes a filter: Python escapes `B` there, the engine does so only where it escapes everything.
//! - what a name is given (by `set`, `with`, a macro's arguments, a loop) passes a filter that knows how deep it may be:
//!   the engine compares, hashes and drops values by recursion.
//!
//! - what is subscripted, sliced, compared or asked for in something passes a filter that pays for its length: the engine
//!   takes one step for any of that, however long the texts are.
//!
//! The engine also compiles by recursion, without a bound on chains such as `1+1+…`; they are counted here.

use std::ops::Range;

/// Operators, dots, filters and brackets that one statement or expression may hold: more than ten times what the longest
/// of real templates do. Each may take a frame of the stack to compile.
const OPERATORS_MAX: usize = 500;

/// Branches (`elif`), macros and calls of a template: ten times what real ones have. Each branch nests in the one before.
const BRANCHES_MAX: usize = 400;

/// The filter that refuses what is nested too deeply.
pub(super) const KEPT: &str = "__kept__";

/// The same for what a namespace is given, which may hold no namespace: it could come to hold itself.
pub(super) const HELD: &str = "__held__";

/// The filter that refuses what cannot be iterated.
pub(super) const ITERATED: &str = "__iterated__";

/// The filter that formats a text as Python's `%` does.
pub(super) const PERCENT: &str = "__percent__";

/// The filter that adds as Python does where one text is marked safe.
pub(super) const PLUS: &str = "__plus__";

/// The filter that takes something from a value by its place or key.
pub(super) const ITEM: &str = "__item__";

/// The filter that pays for a text that is read: cut, or looked for.
pub(super) const READ: &str = "__read__";

/// The same for a value of which all that is in it may be read.
pub(super) const COMPARED: &str = "__compared__";

/// `source` in the engine's words, or the reason why it is no template.
pub(super) fn translate(source: &str) -> Result<String, &'static str> {
    let mut branches = 0;
    let mut out = String::with_capacity(source.len() + source.len() / 16);
    let mut rest = source;
    while let Some(start) = next_code(rest) {
        out.push_str(&rest[..start]);
        let code = &rest[start..];
        let tokens = tokens(code);
        if tokens.iter().filter(|token| nests(code, token)).count() > OPERATORS_MAX {
            return Err("one of its expressions is too long");
        }
        branches += usize::from(is_branch(code, &tokens));
        if branches > BRANCHES_MAX {
            return Err("it has too many branches and macros");
        }
        let end = tokens.last().map_or(code.len(), |token| token.range.end);
        out.push_str(&translate_code(&code[..end], &tokens));
        rest = &code[end..];
        if is_raw(code, &tokens) {
            let end = rest.find("endraw").unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether the compiler may go one call deeper for `token`.
fn nests(code: &str, token: &Token) -> bool {
    let text = &code[token.range.clone()];
    match token.kind {
        Kind::In => true,
        Kind::Other => !matches!(text, "," | ":"),
        Kind::Word => matches!(text, "and" | "or" | "not" | "is" | "in" | "if" | "else"),
        Kind::Open | Kind::Close | Kind::Text | Kind::Out => false,
    }
}

fn is_branch(code: &str, tokens: &[Token]) -> bool {
    statement(code, tokens).is_some_and(|(name, _)| matches!(name, "elif" | "macro" | "call"))
}

/// A word of the template language.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    kind: Kind,
    range: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `{%` or `{{`, with its sign.
    Open,
    /// `%}` or `}}`, with its sign.
    Close,
    Word,
    Text,
    /// `(`, `[` or `{`.
    In,
    /// `)`, `]` or `}`.
    Out,
    Other,
}

/// Where the next statement or expression starts, comments left out.
fn next_code(source: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let open = source[at..].find('{')? + at;
        match source.as_bytes().get(open + 1) {
            Some(b'%' | b'{') => return Some(open),
            Some(b'#') => at = source[open..].find("#}")? + open + 2,
            _ => at = open + 1,
        }
    }
}

/// The words of the statement or expression that `code` starts with, its end included.
fn tokens(code: &str) -> Vec<Token> {
    let close = if code.starts_with("{%") { "%}" } else { "}}" };
    let mut tokens = vec![Token {
        kind: Kind::Open,
        range: 0..2,
    }];
    let mut depth = 0usize;
    let mut at = 2;
    while let Some(c) = code[at..].chars().next() {
        let rest = &code[at..];
        let (kind, len) = match c {
            _ if depth == 0 && rest.starts_with(close) => (Kind::Close, 2),
            '"' | '\'' => (Kind::Text, text_len(rest, c)),
            '(' | '[' | '{' => (Kind::In, 1),
            ')' | ']' | '}' => (Kind::Out, 1),
            c if is_word(c) => (Kind::Word, rest.find(|c| !is_word(c)).unwrap_or(rest.len())),
            c => (Kind::Other, c.len_utf8()),
        };
        if !c.is_whitespace() {
            tokens.push(Token {
                kind,
                range: at..at + len,
            });
        }
        at += len;
        match kind {
            Kind::Close => break,
            Kind::In => depth += 1,
            Kind::Out => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of the quoted text that `rest` starts with.
fn text_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_raw(code: &str, tokens: &[Token]) -> bool {
    statement(code, tokens).is_some_and(|(name, _)| name == "raw")
}

/// Name of the statement and the place of that name among the tokens.
fn statement<'a>(code: &'a str, tokens: &[Token]) -> Option<(&'a str, usize)> {
    if !code.starts_with("{%") {
        return None;
    }
    let at = tokens.iter().position(|token| token.kind == Kind::Word)?;
    (at <= 2).then(|| (&code[tokens[at].range.clone()], at))
}

fn translate_code(code: &str, tokens: &[Token]) -> String {
    // These stand within what the others put in parentheses.
    let mut edits = read_edits(code, tokens);
    edits.extend(percent_edits(code, tokens));
    edits.extend(plus_edits(code, tokens));
    match statement(code, tokens) {
        Some(("generation", at)) => edits.push((tokens[at].range.clone(), "with".to_owned())),
        Some(("endgeneration", at)) => edits.push((tokens[at].range.clone(), "endwith".to_owned())),
        Some(("for", at)) => {
            edits.extend(for_edits(code, tokens, at).into_iter().flatten());
            edits.extend(target_edit(code, tokens, at));
        }
        Some(("set" | "with", at)) => edits.extend(given_edits(code, tokens, at)),
        Some(("macro" | "call", at)) => edits.extend(argument_edit(code, tokens, at)),
        _ => {}
    }
    edits.sort_by_key(|edit| (edit.0.start, edit.0.end));
    let mut out = String::with_capacity(code.len() + 32);
    let mut done = 0;
    for (range, text) in edits {
        out.push_str(&code[done..range.start]);
        out.push_str(&text);
        done = range.end;
    }
    out.push_str(&code[done..]);
    out
}

/// A range of the code and what stands there instead.
type Edit = (Range<usize>, String);

/// Puts what a loop runs over in parentheses and the filter behind it.
fn for_edits(code: &str, tokens: &[Token], at: usize) -> Option<[Edit; 2]> {
    let word = |token: &Token, word: &str| token.kind == Kind::Word && code[token.range.clone()] == *word;
    let start = tokens.iter().skip(at).position(|token| word(token, "in"))? + at + 1;
    let mut depth = 0;
    let end = tokens.iter().skip(start).position(|token| {
        match token.kind {
            Kind::In => depth += 1,
            Kind::Out => depth -= 1,
            _ => {}
        }
        let ends = token.kind == Kind::Close
            || word(token, "if")
            || word(token, "recursive")
            || is_sign(code, token);
        depth == 0 && ends
    })? + start;
    let (first, last) = (tokens.get(start)?, tokens.get(end.checked_sub(1)?)?);
    if end <= start {
        return None;
    }
    let (from, to) = (first.range.start, last.range.end);
    Some([(from..from, "(".to_owned()), (to..to, format!(")|{ITERATED}"))])
}

/// Puts each value that `set` or `with` gives to a name in parentheses and the filter behind it.
fn given_edits(code: &str, tokens: &[Token], at: usize) -> Vec<Edit> {
    let text = |token: &Token| &code[token.range.clone()];
    let one = text(&tokens[at]) == "set";
    let (mut edits, mut depth, mut dotted, mut begun) = (Vec::new(), 0usize, false, None);
    for (place, token) in tokens.iter().enumerate().skip(at + 1) {
        let ends = token.kind == Kind::Close || is_sign(code, token) || (!one && text(token) == ",");
        match (begun, token.kind) {
            (_, Kind::In) => depth += 1,
            (_, Kind::Out) => depth = depth.saturating_sub(1),
            (None, _) if depth == 0 && text(token) == "=" => begun = Some(place + 1),
            (None, _) => dotted |= text(token) == ".",
            (Some(start), _) if depth == 0 && ends => {
                if start < place {
                    let (from, to) = (tokens[start].range.start, tokens[place - 1].range.end);
                    let filter = if dotted { HELD } else { KEPT };
                    edits.push((from..from, "(".to_owned()));
                    edits.push((to..to, format!(")|{filter}")));
                }
                if one {
                    break;
                }
                (begun, dotted) = (None, false);
            }
            (Some(_), _) => {}
        }
    }
    edits
}

/// Gives each argument of a macro or of what a macro calls back to itself, by the filter, before anything else is done.
fn argument_edit(code: &str, tokens: &[Token], at: usize) -> Option<Edit> {
    let open = at
        + if code[tokens[at].range.clone()] == *"macro" {
            2
        } else {
            1
        };
    tokens
        .get(open)
        .filter(|token| code[token.range.clone()] == *"(")?;
    let mut depth = 0usize;
    let mut names = Vec::new();
    for (place, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::In => depth += 1,
            Kind::Out => depth = depth.saturating_sub(1),
            Kind::Word if depth == 1 && matches!(&code[tokens[place - 1].range.clone()], "(" | ",") => {
                names.push(&code[token.range.clone()]);
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    passed(code, tokens, &names)
}

/// The same for what a loop hands out where it may call itself.
fn target_edit(code: &str, tokens: &[Token], at: usize) -> Option<Edit> {
    let word = |token: &Token, word: &str| token.kind == Kind::Word && code[token.range.clone()] == *word;
    tokens.iter().find(|token| word(token, "recursive"))?;
    let targets = tokens.iter().skip(at + 1).take_while(|token| !word(token, "in"));
    let names: Vec<&str> = targets
        .filter(|token| token.kind == Kind::Word)
        .map(|token| &code[token.range.clone()])
        .collect();
    passed(code, tokens, &names)
}

/// Statements behind a complete one that pass `names` through the filter, with its sign at their end.
fn passed(code: &str, tokens: &[Token], names: &[&str]) -> Option<Edit> {
    let close = tokens.last().filter(|token| token.kind == Kind::Close)?;
    let sign = match tokens.iter().rev().nth(1).filter(|token| is_sign(code, token)) {
        Some(sign) => &code[sign.range.clone()],
        None => "",
    };
    let end = close.range.end;
    let statements = names
        .iter()
        .map(|name| format!("{{% set {name} = ({name})|{KEPT} {sign}%}}"));
    Some((end..end, statements.collect())).filter(|_| !names.is_empty())
}

/// Whether `token` is the sign in `-%}`.
fn is_sign(code: &str, token: &Token) -> bool {
    let rest = &code[token.range.start..];
    rest.starts_with("-%}") || rest.starts_with("+%}")
}

/// Turns `'…' % operand` into a filter of the text.
fn percent_edits(code: &str, tokens: &[Token]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        let formats = pair[0].kind == Kind::Text && code[pair[1].range.clone()] == *"%";
        let operand = at + 2;
        if !formats || tokens.get(operand).is_none_or(|token| token.kind == Kind::Close) {
            continue;
        }
        let end = tokens[operand_end(code, tokens, operand)].range.end;
        edits.push((pair[1].range.clone(), format!("|{PERCENT}(")));
        edits.push((end..end, ")".to_owned()));
    }
    edits
}

/// Turns each `+` of a sum with a part marked safe into a filter of what stands before it. Sums with products
/// or joins among their parts are left alone.
fn plus_edits(code: &str, tokens: &[Token]) -> Vec<Edit> {
    let text = |token: &Token| &code[token.range.clone()];
    let is_safe = |pair: &[Token]| text(&pair[0]) == "|" && text(&pair[1]) == "safe";
    let is_mixed = tokens
        .iter()
        .any(|token| matches!(text(token), "~" | "*" | "/" | "%"));
    if is_mixed || !tokens.windows(2).any(is_safe) {
        return Vec::new();
    }
    let mut edits = Vec::new();
    for (at, token) in tokens.iter().enumerate().skip(2) {
        let has_operand = tokens.get(at + 1).is_some_and(|next| next.kind != Kind::Close);
        if text(token) == "+" && has_operand && !is_sign(code, token) {
            let end = tokens[operand_end(code, tokens, at + 1)].range.end;
            edits.push((token.range.clone(), format!("|{PLUS}(")));
            edits.push((end..end, ")".to_owned()));
        }
    }
    edits
}

/// Words of the language itself, behind which no value is taken from.
const KEYWORDS: [&str; 16] = [
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "elif",
    "for",
    "set",
    "do",
    "with",
    "call",
    "filter",
    "recursive",
    "return",
];

/// Puts the filters that pay for what is read behind containers, keys and compared values.
fn read_edits(code: &str, tokens: &[Token]) -> Vec<Edit> {
    let text = |token: &Token| &code[token.range.clone()];
    let is_for = statement(code, tokens).is_some_and(|(name, _)| name == "for");
    let mut edits = Vec::new();
    let mut open: Vec<Bracket> = Vec::new();
    let mut loops_over = !is_for;
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1);
        // What ends just before here, where that is a value that may be long, and where it begins.
        let value = before.and_then(|end| operand_start(code, tokens, end).map(|start| (start, end)));
        let long = value.filter(|&(_, end)| !is_constant(code, &tokens[end]));
        let paid = |(_, end): (usize, usize), filter: &str| {
            let end = tokens[end].range.end;
            (end..end, format!("|{filter}"))
        };
        match (token.kind, text(token)) {
            (Kind::In, bracket) => open.push(Bracket {
                at,
                of: value.filter(|_| bracket == "["),
                holds: if bracket == "{" {
                    Holds::Entries
                } else {
                    Holds::One
                },
            }),
            (Kind::Out, _) => edits.extend(open.pop().into_iter().flat_map(|open| taken(tokens, &open, at))),
            (Kind::Other, "," | ":") => match open.last_mut() {
                Some(open) if open.holds == Holds::Entries => {
                    edits.extend(long.filter(|_| text(token) == ":").map(|key| paid(key, READ)));
                }
                Some(open) => {
                    open.holds = if text(token) == ":" {
                        Holds::Range
                    } else {
                        Holds::Several
                    }
                }
                None => {}
            },
            (Kind::Other, ".") => {
                let place = tokens.get(at + 1).is_some_and(|next| is_number(text(next)));
                if let Some(value) = long.filter(|_| place) {
                    edits.extend(read(tokens, value));
                }
            }
            (Kind::Other, "=" | "!" | "<" | ">") => {
                if let Some(length) = comparison(code, tokens, at)
                    && let Some(value) = long
                    && !tokens
                        .get(at + length)
                        .is_some_and(|other| is_constant(code, other))
                {
                    edits.push(paid(value, COMPARED));
                }
            }
            (Kind::Word, "in") if !loops_over => loops_over = true,
            (Kind::Word, "in") if is_test(code, tokens, at) => {}
            (Kind::Word, "in") => {
                let negated = before.is_some_and(|before| text(&tokens[before]) == "not");
                let end = before.and_then(|before| before.checked_sub(usize::from(negated)));
                let value = end.and_then(|end| operand_start(code, tokens, end).map(|start| (start, end)));
                edits.extend(
                    value
                        .filter(|&(_, end)| !is_constant(code, &tokens[end]))
                        .map(|value| paid(value, READ)),
                );
                if let Some(next) = tokens.get(at + 1)
                    && !is_constant(code, next)
                    && next.kind != Kind::Close
                {
                    let end = tokens[operand_end(code, tokens, at + 1)].range.end;
                    edits.push((end..end, format!("|{COMPARED}")));
                }
            }
            _ => {}
        }
    }
    edits
}

/// A bracket that is open.
struct Bracket {
    at: usize,
    /// First and last token of what something is taken from in it.
    of: Option<(usize, usize)>,
    holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    One,
    Several,
    /// Two places with a colon between them.
    Range,
    /// Keys and values.
    Entries,
}

/// Lets the filters take what stands in the bracket that closes at `close`.
fn taken(tokens: &[Token], open: &Bracket, close: usize) -> Vec<Edit> {
    match (open.of, open.holds) {
        (Some(value), Holds::Range) => read(tokens, value).into(),
        (Some((start, _)), Holds::One) if open.at + 1 < close => {
            let from = tokens[start].range.start;
            vec![
                (from..from, "(".to_owned()),
                (tokens[open.at].range.clone(), format!("|{ITEM}(")),
                (tokens[close].range.clone(), "))".to_owned()),
            ]
        }
        _ => Vec::new(),
    }
}

/// Puts what stands from one token to another in parentheses, and the filter behind it that pays for it.
fn read(tokens: &[Token], (start, end): (usize, usize)) -> [Edit; 2] {
    let (from, to) = (tokens[start].range.start, tokens[end].range.end);
    [(from..from, "(".to_owned()), (to..to, format!("|{READ})"))]
}

/// How many tokens the comparison has that begins at `at`; none where it is no comparison.
fn comparison(code: &str, tokens: &[Token], at: usize) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map_or("", |token| &code[token.range.clone()]);
    let follows = tokens
        .get(at + 1)
        .is_some_and(|next| text(at + 1) == "=" && next.range.start == tokens[at].range.end);
    match (text(at), follows) {
        ("=" | "!", true) => Some(2),
        ("<" | ">", follows) => Some(1 + usize::from(follows)),
        _ => None,
    }
}

/// Whether the token is a text or a number that stands in the template itself, or a word for a short value.
fn is_constant(code: &str, token: &Token) -> bool {
    let text = &code[token.range.clone()];
    let word = matches!(text, "true" | "True" | "false" | "False" | "none" | "None");
    token.kind == Kind::Text || word || is_number(text)
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// The first token of the value that ends with the token `end`, with what is called or taken from it; `None` where no value
/// ends there, and where it is a filter or a test.
fn operand_start(code: &str, tokens: &[Token], end: usize) -> Option<usize> {
    let text = |at: usize| &code[tokens[at].range.clone()];
    let is_value = |at: usize| match tokens[at].kind {
        Kind::Word => !KEYWORDS.contains(&text(at)),
        Kind::Text | Kind::Out => true,
        Kind::Open | Kind::Close | Kind::In | Kind::Other => false,
    };
    let mut at = end;
    loop {
        if !is_value(at) {
            return None;
        }
        if tokens[at].kind == Kind::Out {
            let mut depth = 0usize;
            at = (0..=at).rev().find(|&at| {
                match tokens[at].kind {
                    Kind::Out => depth += 1,
                    Kind::In => depth -= 1,
                    _ => {}
                }
                depth == 0
            })?;
            let joined = at.checked_sub(1).is_some_and(is_value) && text(at) != "{";
            if joined {
                at -= 1;
                continue;
            }
            break;
        }
        match at.checked_sub(2) {
            Some(value) if text(at - 1) == "." && is_value(value) => at = value,
            _ => break,
        }
    }
    let is_filter = at.checked_sub(1).is_some_and(|before| text(before) == "|");
    (!is_filter && !is_test(code, tokens, at)).then_some(at)
}

/// Whether the word at `at` is the name of a test.
fn is_test(code: &str, tokens: &[Token], at: usize) -> bool {
    let before = |back: usize| {
        at.checked_sub(back)
            .map_or("", |at| &code[tokens[at].range.clone()])
    };
    before(1) == "is" || (before(1) == "not" && before(2) == "is")
}

/// The last token of the operand that starts at `start`: a value with what is called or taken from it.
fn operand_end(code: &str, tokens: &[Token], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0usize;
    while let Some(token) = tokens.get(at) {
        match token.kind {
            Kind::In => depth += 1,
            Kind::Out => depth = depth.saturating_sub(1),
            _ => {}
        }
        let next = tokens.get(at + 1);
        let goes_on = next.is_some_and(|next| {
            let text = &code[next.range.clone()];
            let joins = matches!(text, "." | "|") || (next.kind == Kind::In && text != "{");
            let joined = matches!(&code[token.range.clone()], "." | "|" | "-");
            depth > 0 || joins || joined
        });
        if !goes_on || next.is_some_and(|next| next.kind == Kind::Close) {
            return at;
        }
        at += 1;
    }
    tokens.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        assert_eq!(translate(source).as_deref(), Ok(expected));
    }

    #[test]
    fn generation_tags_become_scopes() {
        check(
            "{%- generation -%}{{ generation }}{% endgeneration %}",
            "{%- with -%}{{ generation }}{% endwith %}",
        );
        check(
            "{# {% generation %} #}{% if generation %}",
            "{# {% generation %} #}{% if generation %}",
        );
    }

    #[test]
    fn loops_ask_for_something_to_iterate() {
        check("{% for x in y %}", "{% for x in (y)|__iterated__ %}");
        check(
            "{%- for k, v in a.b(1)['if']|items if k -%}",
            "{%- for k, v in ((a.b(1)|__item__('if'))|items)|__iterated__ if k -%}",
        );
        check(
            "{% for x in (a if b else c) recursive %}",
            "{% for x in ((a if b else c))|__iterated__ recursive %}{% set x = (x)|__kept__ %}",
        );
        check(
            "{% for x in y[::-1]-%}",
            "{% for x in ((y|__read__)[::-1])|__iterated__-%}",
        );
        check(
            "{% for x in {'a': '%}'} %}",
            "{% for x in ({'a': '%}'})|__iterated__ %}",
        );
    }

    #[test]
    fn texts_are_formatted_by_percent() {
        check(
            "{{ '%s' % x.y[0]|upper ~ 1 }}",
            "{{ '%s' |__percent__( (x.y|__item__(0))|upper) ~ 1 }}",
        );
        check("{{ '%s %d' % (a, 3) }}", "{{ '%s %d' |__percent__( (a, 3)) }}");
        check("{{ 7 % 3 }}{% if 'a' %}", "{{ 7 % 3 }}{% if 'a' %}");
        check("{%- set x = 'a' -%}", "{%- set x = ('a')|__kept__ -%}");
    }

    #[test]
    fn sums_of_safe_texts_are_python_s() {
        check(
            "{{ 'a'|safe + b.c + d|f }}",
            "{{ 'a'|safe |__plus__( b.c) |__plus__( d|f) }}",
        );
        check("{{ 'a' + b }}{{ a ~ b|safe }}", "{{ 'a' + b }}{{ a ~ b|safe }}");
        check("{%+ if a|safe +%}", "{%+ if a|safe +%}");
    }

    #[test]
    fn what_names_are_given_is_looked_at() {
        check(
            "{% set a.b = c == d, [1] %}{% set x|trim %}",
            "{% set a.b = (c|__compared__ == d, [1])|__held__ %}{% set x|trim %}",
        );
        check(
            "{% with a = '%s' % b, c = f(d=1) -%}",
            "{% with a = ('%s' |__percent__( b))|__kept__, c = (f(d=1))|__kept__ -%}",
        );
        check(
            "{% macro m(a, b={'k': x}) -%}{% macro n() %}",
            "{% macro m(a, b={'k': x}) -%}{% set a = (a)|__kept__ -%}{% set b = (b)|__kept__ -%}{% macro n() %}",
        );
        check(
            "{% call(x) m(y) %}{% call m(y) %}",
            "{% call(x) m(y) %}{% set x = (x)|__kept__ %}{% call m(y) %}",
        );
        check(
            "{% for k, v in a recursive +%}",
            "{% for k, v in (a)|__iterated__ recursive +%}{% set k = (k)|__kept__ +%}{% set v = (v)|__kept__ +%}",
        );
    }

    #[test]
    fn what_is_read_is_paid_for() {
        check(
            "{{ a[0] }}{{ a.b(c)[d] }}",
            "{{ (a|__item__(0)) }}{{ (a.b(c)|__item__(d)) }}",
        );
        check(
            "{{ a['x'][-1:] }}{{ -a [i+1] }}{{ a[0][b[1]] }}",
            "{{ ((a|__item__('x'))|__read__)[-1:] }}{{ -(a |__item__(i+1)) }}{{ ((a|__item__(0))|__item__((b|__item__(1)))) }}",
        );
        check(
            "{{ a.3 }}{{ 1.5 }}{{ [1][0] }}{{ a[] }}",
            "{{ (a|__read__).3 }}{{ 1.5 }}{{ ([1]|__item__(0)) }}{{ a[] }}",
        );
        check(
            "{% if a == b and c.d != 'x' or not e <= f[1] %}",
            "{% if a|__compared__ == b and c.d != 'x' or not e|__compared__ <= (f|__item__(1)) %}",
        );
        check(
            "{{ a(b=c, d == e) }}{{ x|length > y }}",
            "{{ a(b=c, d|__compared__ == e) }}{{ x|length > y }}",
        );
        check(
            "{% if a in b and c not in ['x', d] %}{% if 'k' in 'text' %}",
            "{% if a|__read__ in b|__compared__ and c|__read__ not in ['x', d]|__compared__ %}{% if 'k' in 'text' %}",
        );
        check(
            "{% for x in y if x in z %}{% for [a] in b %}",
            "{% for x in (y)|__iterated__ if x|__read__ in z|__compared__ %}{% for [a] in (b)|__iterated__ %}",
        );
        check(
            "{{ {a: 1, 'b': c, d.e: [f:2]} }}",
            "{{ {a|__read__: 1, 'b': c, d.e|__read__: [f:2]} }}",
        );
        check(
            "{{ a is eq [1] }}{{ a is not in [b] }}{{ a is b == c }}",
            "{{ a is eq [1] }}{{ a is not in [b] }}{{ a is b == c }}",
        );
        check(
            "{{ x or [1] }}{% if [1] %}{{ a|b[0] }}",
            "{{ x or [1] }}{% if [1] %}{{ a|b[0] }}",
        );
    }

    #[test]
    fn chains_and_branches_are_counted() {
        let chain = |of: &str, times: usize| translate(&format!("{{{{ 1{} }}}}", of.repeat(times)));
        for of in [
            "+1",
            "~1",
            " and not 1",
            "|list",
            ".a",
            "[0]",
            "()",
            " if 1",
            " is a",
            "*-1",
        ] {
            assert!(chain(of, 100).is_ok() && chain(of, 501).is_err(), "{of}");
        }
        assert!(chain(", '+', {'a': b}", 10).is_ok());
        for of in ["{% elif 1 %}", "{% macro m() %}{% endmacro %}", "{%- call m() %}"] {
            assert!(
                translate(&of.repeat(400)).is_ok() && translate(&of.repeat(401)).is_err(),
                "{of}"
            );
        }
    }

    #[test]
    fn what_is_no_template_stays_as_it_is() {
        for source in [
            "",
            "{",
            "{% unended",
            "{{ 'unended",
            "{# unended {%",
            "a { b } %} }}",
            "{% raw %}{% for x in y %}{% endraw %}",
            "{% for %}",
            "{% for x in %}",
            "é{{é",
        ] {
            check(source, source);
        }
    }
}
