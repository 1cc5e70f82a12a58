//! Chooses, from documents and a conversation, the spans that a question needs.
//!
//! Called by the runtime before a question with long documents goes to another machine: a [`Question`] is taken apart,
//! a [`Survey`] reads every source once, the runtime compares candidates by their vectors, and [`Survey::choose`] fills
//! a budget. Knows no file, model or machine. Whatever the question names and a source holds is among the chosen spans
//! word for word: that is the lock, and it goes before the budget.

mod dates;
mod question;
mod rank;
mod select;
mod spans;
mod survey;
#[cfg(test)]
mod tests;
mod upload;
mod words;

pub use question::{NAMED_MAX, Named, NamedKind, QUESTION_BYTES_MAX, Question, QuestionError};
pub use select::{Kept, Likeness, Lock, Ranking, Selection};
pub use survey::{SOURCE_BYTES_MAX, SOURCES_MAX, Span, Survey, SurveyError};
pub use upload::{Citation, Source, Upload};
