//! Answers that must have a shape: a JSON schema, a regular expression or a grammar.
//!
//! The shapes are compiled by the `llguidance` library into a mask of the tokens that may follow. One
//! [`Shaper`] is built per vocabulary and shared; each answer gets a [`Constraint`] of its own.

mod chains;
mod closing;
mod cost;
mod finite;
mod gbnf;
mod lexemes;
mod patterns;

use closing::Closing;
use heph_types::TokenId;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use std::sync::Arc;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a JSON Schema (draft 2020-12, the subset that the library documents).
    JsonSchema(serde_json::Value),
    /// Text that matches a regular expression from end to end.
    Regex(String),
    /// Text that a grammar derives, in the form of Lark or of llama.cpp (GBNF, which has `::=`).
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// Why a shape cannot be used or an answer left it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The vocabulary cannot be indexed.
    #[error("answers cannot be constrained with this vocabulary: {0}")]
    Vocabulary(String),
    /// The schema, expression or grammar is not usable.
    #[error("the answer's shape is not usable: {0}")]
    Shape(String),
    /// A token came that the shape does not allow.
    #[error("the answer left its shape: {0}")]
    Left(String),
}

/// One token as the shaper sees it.
#[derive(Debug, Clone, Copy)]
pub struct TokenText<'a> {
    /// The bytes it stands for.
    pub bytes: &'a [u8],
    /// Whether it is a control token, which no text can contain.
    pub is_control: bool,
}

/// Compiles shapes for one vocabulary.
pub struct Shaper {
    factory: ParserFactory,
    vocab: usize,
    environment: TokEnv,
}

impl Shaper {
    /// A shaper for the tokens in the order of their ids; `end` is the token that ends an answer.
    pub fn new<'a>(
        tokens: impl Iterator<Item = TokenText<'a>>,
        end: TokenId,
    ) -> Result<Self, ConstraintError> {
        let words: Vec<Vec<u8>> = tokens.map(word).collect();
        if end.index() >= words.len() {
            return Err(ConstraintError::Vocabulary(format!(
                "its end token {end} is outside of it"
            )));
        }
        let vocab = words.len();
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, end.0), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|e| ConstraintError::Vocabulary(e.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = STATES_MAX;
        limits.verbose_errors = false;
        Ok(Self {
            factory,
            vocab,
            environment,
        })
    }

    /// A constraint for one answer.
    pub fn constraint(&self, shape: &Shape) -> Result<Constraint, ConstraintError> {
        shape.check()?;
        let wrong = ConstraintError::Shape;
        let mut meter = cost::Meter::default();
        let grammar = match shape {
            Shape::JsonObject => TopLevelGrammar::from_json_schema(serde_json::json!({ "type": "object" })),
            Shape::JsonSchema(schema) => {
                check_schema(schema, &mut meter).map_err(wrong)?;
                TopLevelGrammar::from_json_schema(schema.clone())
            }
            Shape::Regex(expression) => {
                // What is no expression is told by the compiler.
                let size = meter.expression(expression, "").map_err(wrong)?;
                size.map_or(Ok(()), |size| meter.add(size)).map_err(wrong)?;
                TopLevelGrammar::from_regex(expression)
            }
            Shape::Lark(grammar) => {
                let lark = match gbnf::is_gbnf(grammar) {
                    true => gbnf::to_lark(grammar).map_err(wrong)?,
                    false => grammar.clone(),
                };
                check_grammar(&lark, &mut meter).map_err(wrong)?;
                TopLevelGrammar::from_lark(lark)
            }
            Shape::Choice(texts) => {
                for text in texts {
                    meter.add(cost::Size::text(text.len())).map_err(wrong)?;
                }
                let texts: Vec<String> = texts
                    .iter()
                    .map(|text| serde_json::json!(text).to_string())
                    .collect();
                TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
            }
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // What no text fits is told by the first tokens that may stand; the library keeps them for who asks again.
        let failed = match matcher.get_error() {
            Some(error) => Some(error),
            None => matcher.compute_mask_or_eos().err().map(|error| error.to_string()),
        };
        match failed {
            Some(error) => Err(ConstraintError::Shape(plain(&error))),
            None => Ok(Constraint {
                matcher,
                vocab: self.vocab,
                closing: None,
                environment: self.environment.clone(),
                spent: 0,
            }),
        }
    }
}

/// States that the library keeps of a shape's expressions, of one to two kilobytes each.
const STATES_MAX: usize = 50_000;

/// Steps that an answer may take through its expressions, as the library counts them: it bounds those of one token, and
/// keeps what all of them made. A long answer of a large schema takes less than a tenth.
const SPENT_MAX: u64 = 20_000_000;

/// Bytes of a regular expression or a choice.
const TEXT_MAX: usize = 64 << 10;

/// Bytes of a grammar; those made of many tools are long.
const GRAMMAR_MAX: usize = 1 << 20;

/// Brackets within brackets: the compilers go through them by recursion.
const NESTING_MAX: usize = 250;

impl Shape {
    /// Refuses what would cost the compiler seconds or its stack, and what no answer can fit.
    fn check(&self) -> Result<(), ConstraintError> {
        let (bytes, most) = match self {
            Self::JsonObject | Self::JsonSchema(_) => (0, 0),
            Self::Regex(expression) => (expression.len(), TEXT_MAX),
            Self::Lark(grammar) => (grammar.len(), GRAMMAR_MAX),
            Self::Choice(texts) => (texts.iter().map(String::len).sum(), TEXT_MAX),
        };
        if bytes > most {
            return Err(ConstraintError::Shape(format!(
                "it has {bytes} bytes, and {most} is the most"
            )));
        }
        match self {
            Self::Regex(text) | Self::Lark(text) if nesting(text) > NESTING_MAX => Err(
                ConstraintError::Shape(format!("its brackets are nested more than {NESTING_MAX} deep")),
            ),
            Self::Choice(texts) if texts.is_empty() => Err(ConstraintError::Shape(
                "there is nothing to choose from".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

/// Refuses a grammar in Lark form that would cost the compiler seconds or its stack.
fn check_grammar(grammar: &str, meter: &mut cost::Meter) -> Result<(), String> {
    let grammar = chains::Grammar::new(grammar);
    chains::check_grammar(&grammar, |schema| check_schema(schema, meter))?;
    lexemes::check(&grammar, meter)
}

/// Refuses a schema that would cost the compiler seconds or its stack, and one that no value fits.
fn check_schema(schema: &serde_json::Value, meter: &mut cost::Meter) -> Result<(), String> {
    finite::check(schema)?;
    chains::check_schema(schema)?;
    patterns::check(schema, meter)
}

/// How deeply brackets are nested in `text`; those behind a backslash do not count.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut escaped) = (0usize, 0, false);
    for c in text.bytes() {
        match c {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The progress of one answer through its shape.
pub struct Constraint {
    matcher: Matcher,
    vocab: usize,
    closing: Option<Closing>,
    environment: TokEnv,
    /// Steps that the answer took through its expressions.
    spent: u64,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint")
            .field("vocab", &self.vocab)
            .finish_non_exhaustive()
    }
}

/// The same from here on, for another answer; to compile it takes longer.
impl Clone for Constraint {
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            vocab: self.vocab,
            closing: self.closing.clone(),
            environment: self.environment.clone(),
            spent: self.spent,
        }
    }
}

impl Constraint {
    /// The constraint of an answer that is to be complete within its tokens: while there is just room for it, the
    /// answer is brought to the shortest end that is known. What is made depends on the answer and the room alone.
    pub fn completed(mut self) -> Self {
        self.closing = Some(Closing::default());
        self
    }

    /// As [`allowed`](Self::allowed), where `room` more tokens may come, this one included.
    pub fn allowed_within(&mut self, room: usize) -> Result<Vec<bool>, ConstraintError> {
        let Some(closing) = &mut self.closing else {
            return self.allowed();
        };
        if let Some(only) = closing.next(&self.matcher, &self.environment, room) {
            return Ok((0..self.vocab).map(|id| id == only.index()).collect());
        }
        self.allowed()
    }

    /// As [`accept`](Self::accept) for a token that was drawn while `room` tokens might come. Returns the token that was
    /// accepted: another one where the drawn one would have left no room for an end.
    pub fn accept_within(&mut self, token: TokenId, room: usize) -> Result<TokenId, ConstraintError> {
        let token = match &mut self.closing {
            Some(closing) => closing.instead(&self.matcher, &self.environment, token, room),
            None => token,
        };
        self.accept(token)?;
        Ok(token)
    }

    /// Which tokens may come next, one flag per token; only the end token once the shape is complete.
    pub fn allowed(&mut self) -> Result<Vec<bool>, ConstraintError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(left)?;
        let step = self.matcher.last_step_stats().map_or(0, |step| step.lexer_cost);
        self.spent = self.spent.saturating_add(step);
        if self.spent > SPENT_MAX {
            return Err(ConstraintError::Left(
                "it is too large or too ambiguous for so long an answer".to_owned(),
            ));
        }
        Ok((0..self.vocab).map(|id| mask.is_allowed(id as u32)).collect())
    }

    /// Goes on by one token.
    pub fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        match self.matcher.is_stopped() {
            true => Ok(()),
            false => self.matcher.consume_token(token.0).map_err(left),
        }
    }

    /// Takes the last `tokens` back, as when a draft was refused.
    pub fn rollback(&mut self, tokens: usize) -> Result<(), ConstraintError> {
        self.matcher.rollback(tokens).map_err(left)
    }

    /// Whether nothing more may follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }
}

/// The trie marks control tokens with a byte that no UTF-8 text contains.
fn word(token: TokenText) -> Vec<u8> {
    match token.is_control {
        true => [&[TokTrie::SPECIAL_TOKEN_MARKER], token.bytes].concat(),
        false => token.bytes.to_vec(),
    }
}

fn left(error: impl std::fmt::Display) -> ConstraintError {
    let error = error.to_string();
    ConstraintError::Left(match error.contains(DEAD_END) {
        true => "nothing can follow there".to_owned(),
        false => plain(&error),
    })
}

/// What the library says of a shape, in words for people: its own limits are sums of things that nobody sees.
fn plain(error: &str) -> String {
    let line = first_line(error);
    let limited = [
        "limit",
        "too large",
        "too many",
        "Too many",
        "too big",
        "fuel",
        "max is",
    ];
    if limited.iter().any(|word| line.contains(word)) {
        return "it is too large or too ambiguous".to_owned();
    }
    match line.contains(DEAD_END) {
        true => "no text fits it".to_owned(),
        false => line.chars().take(SENTENCE_MAX).collect(),
    }
}

/// What the library calls it where no token may follow.
const DEAD_END: &str = "NoExtensionBias";

/// Characters of a message that are passed on.
const SENTENCE_MAX: usize = 300;

/// The library adds its state to its messages; people need the first line.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of all bytes, a few words and an end token.
    fn vocabulary() -> (Vec<Vec<u8>>, TokenId) {
        let mut words: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
        words.extend(["name", "true", "\": ", "{\""].map(|w| w.as_bytes().to_vec()));
        words.push(b"<|end|>".to_vec());
        let end = TokenId(words.len() as u32 - 1);
        (words, end)
    }

    fn shaper() -> (Shaper, Vec<Vec<u8>>) {
        let (words, end) = vocabulary();
        let texts = words.iter().enumerate();
        let texts = texts.map(|(id, w)| TokenText {
            bytes: w,
            is_control: id == end.index(),
        });
        (Shaper::new(texts, end).unwrap(), words.clone())
    }

    /// Writes an answer by always taking the allowed token that `prefer` likes best.
    fn write(shape: &Shape, prefer: impl Fn(&[u8]) -> i32, steps: usize) -> (String, bool) {
        let (shaper, words) = shaper();
        let mut constraint = shaper.constraint(shape).unwrap();
        let mut text = Vec::new();
        for _ in 0..steps {
            if constraint.is_complete() {
                break;
            }
            let allowed = constraint.allowed().unwrap();
            let open = (0..words.len()).filter(|&i| allowed[i]);
            let Some(next) = open.max_by_key(|&i| prefer(&words[i])) else {
                break;
            };
            constraint.accept(TokenId(next as u32)).unwrap();
            if next + 1 < words.len() {
                text.extend_from_slice(&words[next]);
            }
        }
        (
            String::from_utf8_lossy(&text).into_owned(),
            constraint.is_complete(),
        )
    }

    #[test]
    fn a_schema_forces_its_json() {
        let schema = serde_json::json!({
            "type": "object", "properties": { "ok": { "type": "boolean" } },
            "required": ["ok"], "additionalProperties": false,
        });
        let tidy = |w: &[u8]| {
            if w.first().is_some_and(u8::is_ascii_whitespace) {
                -1
            } else {
                w.len() as i32
            }
        };
        let (text, complete) = write(&Shape::JsonSchema(schema), tidy, 60);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["ok"].is_boolean(), "{text}");
        assert!(complete);
    }

    #[test]
    fn an_expression_and_a_grammar_force_their_text() {
        let (text, _) = write(&Shape::Regex("[0-9]{3}-(a|b)".into()), |w| w.len() as i32, 12);
        assert!(text.len() == 5 && text.ends_with(['a', 'b']), "{text}");
        let grammar = Shape::Lark("start: \"yes\" | \"no\"".into());
        let (text, _) = write(&grammar, |w| i32::from(w[0]), 12);
        assert_eq!(text, "yes");
    }

    /// Writes an answer within `room` tokens by a model that never wants to end.
    fn ramble(schema: serde_json::Value, room: usize) -> String {
        let (shaper, words) = shaper();
        let mut constraint = shaper.constraint(&Shape::JsonSchema(schema)).unwrap().completed();
        let mut text = Vec::new();
        for left in (1..=room).rev() {
            if constraint.is_complete() {
                break;
            }
            let allowed = constraint.allowed_within(left).unwrap();
            let open = (0..words.len()).filter(|&i| allowed[i]);
            let wish = |i: &usize| match words[*i].as_slice() {
                b"a" => 3,
                b"," | b"[" => 2,
                b"\"" | b"}" | b"]" => 0,
                _ => 1,
            };
            let drawn = TokenId(open.max_by_key(wish).unwrap() as u32);
            let token = constraint.accept_within(drawn, left).unwrap();
            if token.index() + 1 < words.len() {
                text.extend_from_slice(&words[token.index()]);
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn an_answer_that_must_be_complete_ends_within_its_tokens() {
        let schema = serde_json::json!({
            "type": "object", "properties": {
                "name": { "type": "string" },
                "tags": { "type": "array", "items": { "type": "string" } },
                "more": { "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] },
            },
            "required": ["name", "tags", "more"], "additionalProperties": false,
            "x-guidance": { "whitespace_flexible": false },
        });
        for room in [55, 60, 75, 100, 200] {
            let text = ramble(schema.clone(), room);
            let value: Result<serde_json::Value, _> = serde_json::from_str(&text);
            assert!(value.is_ok(), "{room}: {text}");
        }
        assert!(serde_json::from_str::<serde_json::Value>(&ramble(schema, 8)).is_err());
    }

    #[test]
    fn a_choice_and_a_grammar_of_llama_cpp_force_their_text() {
        let choice = Shape::Choice(vec!["true".into(), "name\"".into()]);
        let (text, complete) = write(&choice, |w| w.len() as i32, 12);
        assert!(complete && ["true", "name\""].contains(&text.as_str()), "{text}");
        let grammar = Shape::Lark("root ::= digit{3} (\"-\" | [x-z])\ndigit ::= [0-9]".into());
        let (text, complete) = write(&grammar, |w| w.len() as i32, 12);
        assert!(
            complete && text.len() == 4 && text[..3].bytes().all(|b| b.is_ascii_digit()),
            "{text}"
        );
    }

    #[test]
    fn a_shape_that_has_no_end_or_is_too_large_is_refused_at_once() {
        let (shaper, _) = shaper();
        let many: serde_json::Map<_, _> = (0..5_000)
            .map(|n| (format!("p{n}"), serde_json::json!({ "type": "string" })))
            .collect();
        for (shape, why) in [
            (
                Shape::JsonSchema(serde_json::json!({ "$ref": "#" })),
                "no value is finite",
            ),
            (
                Shape::JsonSchema(serde_json::json!({ "type": "object", "properties": many })),
                "5000 properties",
            ),
            (Shape::Regex("(".repeat(10_000)), "nested"),
            (Shape::Lark("start: ".to_owned() + &"(".repeat(10_000)), "nested"),
            (Shape::Regex("a".repeat(100_000)), "bytes"),
            (Shape::Choice(Vec::new()), "nothing to choose"),
            (Shape::Lark("root ::= \"a".into()), "line 1"),
            (Shape::Regex("a[^\\s\\S]".into()), "no text fits it"),
            (
                Shape::Lark("start: A\nA: \"a\" & \"b\"\n".into()),
                "no text fits it",
            ),
        ] {
            let error = shaper.constraint(&shape).unwrap_err().to_string();
            assert!(error.contains(why) && error.len() < 400, "{error}");
        }
    }

    /// Rules that lead to each other as deep as they may, in every way: none takes all of a thread's stack, which is as
    /// the standard library makes it here.
    #[test]
    fn a_chain_of_rules_is_compiled_or_refused_and_ends_no_program() {
        let chain = |count: usize, rule: &dyn Fn(usize) -> String| -> String {
            (0..count).map(|at| rule(at) + "\n").collect()
        };
        let lark = |count: usize| {
            Shape::Lark(format!(
                "start: r0\n{}r{count}: \"a\"\n",
                chain(count, &|at| format!("r{at}: r{}", at + 1))
            ))
        };
        let choices = |count: usize| {
            let rule = |at: usize| format!("r{at}: \"x\" r{} | \"y\"", at + 1);
            Shape::Lark(format!("start: r0\n{}r{count}: \"a\"\n", chain(count, &rule)))
        };
        let groups = |count: usize| {
            let rule = |at: usize| format!("r{at}: (\"x\" (\"y\" (\"z\" | r{})?)*)+", at + 1);
            Shape::Lark(format!(
                "start: r0\n{}r{}: \"a\"\n",
                chain(count / 4, &rule),
                count / 4
            ))
        };
        let lexemes = |count: usize| {
            let rule = |at: usize| format!("R{at}: \"x\" R{} | \"y\"", at + 1);
            Shape::Lark(format!("start: R0\n{}R{count}: \"a\"\n", chain(count, &rule)))
        };
        let gbnf = |count: usize| {
            Shape::Lark(format!(
                "root ::= r0\n{}r{count} ::= \"a\"\n",
                chain(count, &|at| format!("r{at} ::= r{}", at + 1))
            ))
        };
        let schema = |count: usize, definition: &dyn Fn(usize) -> serde_json::Value| {
            let chain = (0..count).map(|at| (format!("a{at}"), definition(at + 1)));
            let last = (format!("a{count}"), serde_json::json!({ "type": "integer" }));
            let defs: serde_json::Map<_, _> = chain.chain([last]).collect();
            serde_json::json!({ "$ref": "#/$defs/a0", "$defs": defs })
        };
        let reference = |to: usize| serde_json::json!({ "$ref": format!("#/$defs/a{to}") });
        let plain = |count: usize| schema(count / 2, &reference);
        let either = |count: usize| {
            schema(
                count / 4,
                &|to| serde_json::json!({ "anyOf": [{ "type": "null" }, reference(to)] }),
            )
        };
        let objects = |count: usize| {
            schema(
                count / 4,
                &|to| serde_json::json!({ "type": "object", "properties": { "x": reference(to) }, "required": ["x"] }),
            )
        };
        let inside = |count: usize| Shape::Lark(format!("start: %json {}", objects(count)));
        let ways: [&dyn Fn(usize) -> Shape; 9] = [
            &lark,
            &choices,
            &groups,
            &lexemes,
            &gbnf,
            &|count| Shape::JsonSchema(plain(count)),
            &|count| Shape::JsonSchema(either(count)),
            &|count| Shape::JsonSchema(objects(count)),
            &inside,
        ];
        let (shaper, _) = shaper();
        for (way, make) in ways.iter().enumerate() {
            let deep = shaper.constraint(&make(285));
            assert!(deep.is_ok(), "{way}: {:?}", deep.err());
            let error = shaper.constraint(&make(2_000)).unwrap_err().to_string();
            assert!(error.contains("deep"), "{way}: {error}");
        }
    }

    #[test]
    fn a_broken_shape_is_a_sentence() {
        let (shaper, _) = shaper();
        for shape in [Shape::Regex("(".into()), Shape::Lark("start: nothing".into())] {
            let error = shaper.constraint(&shape).unwrap_err().to_string();
            assert!(
                error.starts_with("the answer's shape is not usable") && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn what_would_take_the_compiler_minutes_is_refused_at_once() {
        let (shaper, _) = shaper();
        let optional = |times: usize| "(a|b)?".repeat(times);
        let joined = vec!["/[ab]*c[a-d]*e[^f]*/"; 100].join(" & ");
        let rules: String = (0..80_000).map(|at| format!("r{at} ::= \"t{at}\"\n")).collect();
        let named: Vec<String> = (0..80_000).map(|at| format!("r{at}")).collect();
        for (shape, why) in [
            (Shape::Regex(optional(10_000)), "ways at once"),
            (
                Shape::Lark(format!("start: /{}/\n", optional(150_000))),
                "ways at once",
            ),
            (
                Shape::Lark(format!("start: A\nA: {}\n", "(\"a\"|\"b\")? ".repeat(10_000))),
                "ways at once",
            ),
            (Shape::Lark(format!("start: A\nA: {joined}\n")), "ways together"),
            (
                Shape::Lark(format!("root ::= {}\n{rules}", named.join(" | "))),
                "is the most",
            ),
            (
                Shape::JsonSchema(serde_json::json!({ "pattern": optional(10_000) })),
                "ways at once",
            ),
            (
                Shape::Choice((0..20_000).map(|at| format!("{at:x}")).collect()),
                "bytes",
            ),
            (Shape::Choice(vec![String::new(); 1_000_000]), "different texts"),
        ] {
            let error = shaper.constraint(&shape).unwrap_err().to_string();
            assert!(error.contains(why) && error.len() < 400, "{error}");
        }
        assert!(shaper.constraint(&Shape::Regex(optional(1_000))).is_ok());
    }

    #[test]
    fn a_rule_of_too_many_alternatives_is_told_in_plain_words() {
        let (shaper, _) = shaper();
        let texts: Vec<String> = (0..3_000).map(|at| format!("\"t{at}\"")).collect();
        let mut constraint = shaper
            .constraint(&Shape::Lark(format!("start: a+\na: {}\n", texts.join(" | "))))
            .unwrap();
        let error = constraint
            .accept(TokenId(u32::from(b't')))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "the answer left its shape: it is too large or too ambiguous"
        );
    }

    #[test]
    fn an_answer_that_takes_too_many_steps_through_its_expressions_ends() {
        let (shaper, _) = shaper();
        let mut constraint = shaper.constraint(&Shape::Regex("[ab]*a[ab]{40}".into())).unwrap();
        let next = |constraint: &mut Constraint| {
            constraint.accept(TokenId(u32::from(b'a')))?;
            constraint.allowed().map(drop)
        };
        assert_eq!(next(&mut constraint), Ok(()));
        assert!(constraint.spent > 0 && constraint.spent < SPENT_MAX / 100);
        constraint.spent = SPENT_MAX;
        let error = next(&mut constraint).unwrap_err().to_string();
        assert!(error.contains("too large or too ambiguous"), "{error}");
    }

    #[test]
    fn a_refused_draft_is_taken_back() {
        let (shaper, _) = shaper();
        let mut constraint = shaper.constraint(&Shape::Regex("abc".into())).unwrap();
        constraint.accept(TokenId(u32::from(b'a'))).unwrap();
        let before = constraint.allowed().unwrap();
        constraint.accept(TokenId(u32::from(b'b'))).unwrap();
        constraint.rollback(1).unwrap();
        assert_eq!(constraint.allowed().unwrap(), before);
        assert!(constraint.accept(TokenId(u32::from(b'x'))).is_err());
    }
}
