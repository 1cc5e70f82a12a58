//! What can be a name at all, whatever the model thinks: rules about letters, digits and code.

/// Marks that end or begin a sentence around a name and are no part of it.
const MARKS: &[char] = &[
    '.', ',', ';', ':', '(', ')', '"', '\'', '[', ']', '{', '}', '<', '>', '/', '|', '*', '`', '-', '!', '?',
    '=', '#', '\u{201c}', '\u{201d}',
];

/// The name without the marks at its ends.
pub(super) fn trimmed(text: &str, start: usize, end: usize) -> (usize, usize) {
    let named = &text[start..end];
    let mark = |c: char| c.is_whitespace() || MARKS.contains(&c);
    let front = named.len() - named.trim_start_matches(mark).len();
    let back = named.len() - named.trim_end_matches(mark).len();
    if front + back >= named.len() {
        return (start, start);
    }
    let (start, end) = (start + front, end - back);
    // A bracket that opens inside closes inside.
    let open = text[start..end].matches('(').count() > text[start..end].matches(')').count();
    if open && text[end..].starts_with(')') {
        (start, end + 1)
    } else {
        (start, end)
    }
}

/// Whether most lines of a text are written for a machine.
pub(super) fn is_code(text: &str) -> bool {
    // A look at the front is enough, and is the same for every text however long.
    let front = text.lines().filter(|l| !l.trim().is_empty()).take(200);
    let (mut lines, mut code) = (0, 0);
    for line in front {
        lines += 1;
        code += usize::from(is_statement(line));
    }
    lines > 3 && code * 4 > lines
}

/// Whether a line holds signs that prose has not.
fn is_statement(line: &str) -> bool {
    const SIGNS: &[&str] = &[
        "()", "::", "->", "=>", "==", "!=", "+=", "self.", "});", ") {", "];", "#[", "&mut ", "\"\"\"", "__",
        " = ", "#!/", "</", "):",
    ];
    const STARTS: &[&str] = &[
        "fn ",
        "pub ",
        "let ",
        "def ",
        "return ",
        "import ",
        "from . ",
        "const ",
        "class ",
        "raise ",
        "elif ",
        ">>> ",
        "else:",
        "try:",
        "var ",
        "function ",
        "#include",
        "use ",
        "mod ",
        "if (",
        "for (",
        "while (",
        "//",
        "/*",
        "* ",
        "#",
    ];
    let line = line.trim();
    SIGNS.iter().any(|sign| line.contains(sign))
        || STARTS.iter().any(|start| line.starts_with(start))
        || line.ends_with([';', '{', '}'])
}

/// The line around `start..end`, and where it begins.
fn line(text: &str, start: usize, end: usize) -> (&str, usize) {
    let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let to = text[end..].find('\n').map_or(text.len(), |at| end + at);
    (&text[from..to], from)
}

/// Whether a value stands between quotes, tags or behind an equals sign, as values do in code and data.
fn is_value(text: &str, start: usize, end: usize) -> bool {
    let quote = |c: char| matches!(c, '"' | '\'' | '`' | '>' | '<');
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    let quoted = before.is_some_and(quote) && after.is_some_and(quote);
    quoted || before == Some('=') && after.is_none_or(|c| matches!(c, ';' | '&' | '\n' | ','))
}

/// Whether names are not to be looked for here: in a statement, outside of its values.
fn is_expression(text: &str, start: usize, end: usize, code: bool) -> bool {
    let (line, from) = line(text, start, end);
    let said = ["//", "# ", "/*"]
        .iter()
        .any(|mark| line[..start - from].contains(mark));
    let statement = is_statement(line) && !said;
    let glued = |c: Option<char>| {
        c.is_some_and(|c| {
            matches!(
                c,
                '_' | '/' | '\\' | '=' | '$' | '@' | '%' | '*' | '+' | '~' | '^'
            )
        })
    };
    let around = (
        glued(text[..start].chars().next_back()),
        glued(text[end..].chars().next()),
    );
    (statement || code && !said || around.0 || around.1) && !is_value(text, start, end)
}

fn words(named: &str) -> impl Iterator<Item = &str> {
    named
        .split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’')
        .filter(|w| !w.is_empty())
}

fn letters(named: &str) -> usize {
    named.chars().filter(|c| c.is_alphabetic()).count()
}

/// A person's name: letters, with a capital or in a text that has none; several words where code stands around.
pub(super) fn person(text: &str, start: usize, end: usize, code: bool) -> bool {
    let named = &text[start..end];
    let all: Vec<&str> = words(named).collect();
    let odd = named.chars().any(|c| {
        c.is_numeric()
            || matches!(
                c,
                '_' | '/' | '=' | '(' | ')' | '{' | '}' | '<' | '>' | '@' | '\\' | '#' | '\n' | ':'
            )
    });
    let capital = all
        .iter()
        .any(|w| w.starts_with(|c: char| c.is_uppercase() || c.is_alphabetic() && !c.is_lowercase()));
    let small_text = || all.len() > 1 && !line(text, start, end).0.contains(char::is_uppercase);
    let camel = all.iter().any(|w| {
        w.chars().skip(1).any(char::is_uppercase)
            && w.contains(char::is_lowercase)
            && !w.starts_with("Mc")
            && !w.starts_with("Mac")
            && !w.contains(['\'', '’'])
            && !w.starts_with("De")
    });
    letters(named) > 1
        && all.len() < 9
        && !odd
        && !camel
        && (capital || !code && small_text())
        && (!code || all.len() > 1 && all.iter().filter(|w| w.len() > 2).count() > 1)
        && !is_expression(text, start, end, code)
}

/// An address: a word of three letters, and a number or another word.
pub(super) fn address(text: &str, start: usize, end: usize, code: bool) -> bool {
    let named = &text[start..end];
    let digits = named.chars().filter(|c| c.is_numeric()).count();
    let odd = named.contains([
        '_', '=', '{', '}', '<', '>', '@', '\\', '$', '*', '+', '[', ']', '"', '|',
    ]);
    let word = words(named)
        .any(|w| letters(w) > 2 && !w.contains(char::is_numeric) && w.contains(char::is_uppercase));
    let small = words(named).filter(|w| letters(w) > 2).count() > 1 && digits > 0;
    let numbered = digits > 0 || words(named).count() > 1;
    (word || small && !code)
        && numbered
        && !odd
        && letters(named) * 2 >= digits
        && named.len() < 240
        && named.matches('\n').count() < 6
        && (!code || digits > 0 && words(named).count() > 2)
        && !is_expression(text, start, end, code)
}

/// The name of an organisation: a capital and three letters.
pub(super) fn organisation(text: &str, start: usize, end: usize, code: bool) -> bool {
    let named = &text[start..end];
    let odd = named.contains([
        '_', '/', '=', '{', '}', '<', '>', '@', '\\', '#', '\n', '*', ':', '|', '(', '+',
    ]);
    let capitals = words(named)
        .filter(|w| w.starts_with(char::is_uppercase) && letters(w) > 1)
        .count();
    let number = text[end..]
        .trim_start_matches(['.', ':', ' ', '#'])
        .starts_with(|c: char| c.is_numeric());
    capitals > 0
        && letters(named) > 2
        && !odd
        && !number
        && !named.ends_with(" No")
        && (!code || capitals > 1)
        && !is_expression(text, start, end, code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_at_the_ends_are_no_part_of_a_name() {
        let cut = |text: &str| {
            let (a, b) = trimmed(text, 0, text.len());
            text[a..b].to_owned()
        };
        assert_eq!(cut("(Bhilai AB)"), "Bhilai AB");
        assert_eq!(cut("Via Roma 1, Rodano (MI)."), "Via Roma 1, Rodano (MI)");
        assert_eq!(cut("Ann Lee, "), "Ann Lee");
        assert_eq!(cut("..."), "");
    }

    #[test]
    fn code_holds_names_in_its_values_only() {
        let at = |text: &str, name: &str| {
            let start = text.find(name).unwrap();
            person(text, start, start + name.len(), is_code(text))
        };
        assert!(at("let owner = \"Joan Austin\";", "Joan Austin"));
        assert!(at("user=Joan Austin;ip=10.0.0.7;", "Joan Austin"));
        assert!(at("We met Joan.", "Joan"));
        assert!(!at("raise BadZipFile(x)", "BadZipFile"));
        assert!(!at("let Some = Other Thing;", "Other Thing"));
    }
}
