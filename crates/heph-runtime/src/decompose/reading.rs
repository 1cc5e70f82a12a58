//! Reads a document that is longer than a context: piece by piece, then what was noted of the pieces, until one text is
//! left, for each of several questions. Every byte is read for each, whoever is lost on the way.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
use heph_plan::decompose::{JOBS_MAX, JobId, Part, several};
use serde::Serialize;

use super::{DecomposeError, PartError, PartWorker, Tally, carry_out};
use crate::cancel::Cancel;
use crate::desk::{AnswerOptions, Desk, DeskError, Finish, Message, Prompt};
use crate::words::Words;

/// Where a text is cut if it must be, the best first: between paragraphs, lines, sentences, words.
const SEAMS: [&str; 4] = ["\n\n", "\n", ". ", " "];

/// How a document is to be read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What to do with each piece, and with what was noted of several: one answer for each, none of which needs another.
    pub tasks: Vec<String>,
    /// Tokens of a piece at most, the task left out.
    pub piece_tokens: usize,
    /// Notes that are joined at a time.
    pub fan_in: usize,
    /// How each piece is answered.
    pub options: AnswerOptions,
    /// How long a worker may take for a piece.
    pub lease: Duration,
}

/// Why a document could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadingError {
    /// There is nothing to read.
    #[error("the document is empty")]
    Empty,
    /// Pieces would be too many, or the numbers make no pieces.
    #[error(
        "the document makes more than {JOBS_MAX} parts of {piece_tokens} tokens, joined {fan_in} at a time, for all questions"
    )]
    Parts {
        /// Tokens of a piece.
        piece_tokens: usize,
        /// Notes that are joined at a time.
        fan_in: usize,
    },
    /// The work did not end.
    #[error(transparent)]
    Work(#[from] DecomposeError),
}

/// What came of reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// For each task the one text that is left.
    pub answers: Vec<String>,
    /// Which bytes each piece was: together the whole document.
    pub pieces: Vec<Range<usize>>,
    /// What came of each part, those of one task after those of another: of a task its pieces first, then what joins them.
    pub notes: Vec<Note>,
    /// What happened on the way.
    pub tally: Tally,
}

/// What came of one part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Note {
    /// What was noted.
    pub text: String,
    /// Which reader noted it.
    pub reader: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the note.
    pub answer_tokens: usize,
    /// What was given up for want of memory, a sentence each.
    pub degraded: Vec<String>,
}

/// Answers one prompt after another: a desk, wherever its layers are.
pub trait Reader: Send {
    /// What comes of this prompt; which reader it was is filled in by others.
    ///
    /// # Errors
    /// When it cannot be answered here.
    fn answer(&mut self, prompt: &str, options: &AnswerOptions) -> Result<Note, PartError>;
}

impl Reader for Desk {
    fn answer(&mut self, prompt: &str, options: &AnswerOptions) -> Result<Note, PartError> {
        let question = [Message::new("user", prompt)];
        let answer = Desk::answer(self, Prompt::Chat(&question), options, &mut |_| {});
        let answer = answer.map_err(|error| match error {
            // Nobody is left who could take the layers.
            DeskError::Line(_) => PartError::Lost(error.to_string()),
            error => PartError::Failed(error.to_string()),
        })?;
        match answer.finish {
            Finish::Cancelled => Err(PartError::Lost("it was stopped".to_owned())),
            Finish::Stop | Finish::Length | Finish::Context => Ok(Note {
                reader: 0,
                prompt_tokens: answer.prompt.len(),
                answer_tokens: answer.tokens.len(),
                degraded: answer.degraded,
                text: answer.text,
            }),
        }
    }
}

/// Reads `document` with all of `readers` at once; without a document the tasks alone are answered.
///
/// # Errors
/// When the document makes too many parts, or the work does not end.
pub fn read(
    document: Option<&str>,
    reading: &Reading,
    words: &Words,
    readers: Vec<Box<dyn Reader>>,
    cancel: &Cancel,
    step: &mut dyn FnMut(usize),
) -> Result<Read, ReadingError> {
    let (piece_tokens, fan_in) = (reading.piece_tokens, reading.fan_in);
    let too_many = || ReadingError::Parts { piece_tokens, fan_in };
    let text = document.unwrap_or_default();
    if document.is_some() && text.trim().is_empty() {
        return Err(ReadingError::Empty);
    }
    let pieces = match document {
        Some(document) => pieces(document, piece_tokens, words).ok_or_else(too_many)?,
        None => std::iter::once(0..0).collect(),
    };
    let parts = several(reading.tasks.len(), pieces.len(), fan_in).ok_or_else(too_many)?;
    let texts: Vec<String> = pieces.iter().map(|p| text[p.clone()].to_owned()).collect();
    let book = Arc::new(Book {
        reading: reading.clone(),
        parts: parts.parts,
        texts,
    });
    let worker = |(number, reader)| -> Box<dyn PartWorker<Note>> {
        let book = Arc::clone(&book);
        Box::new(AtDesk { number, reader, book })
    };
    let workers = readers.into_iter().enumerate().map(worker).collect();
    let done = carry_out(parts.needs, workers, reading.lease, cancel, step)?;
    let notes = done.results;
    let answer = |part: &JobId| notes.get(part.0 as usize).map(|note| note.text.clone());
    Ok(Read {
        answers: parts.answers.iter().filter_map(answer).collect(),
        pieces,
        notes,
        tally: done.tally,
    })
}

/// What is to be read, and in which parts.
struct Book {
    reading: Reading,
    parts: Vec<Part>,
    texts: Vec<String>,
}

/// A reader with what is to be read.
struct AtDesk {
    number: usize,
    reader: Box<dyn Reader>,
    book: Arc<Book>,
}

impl PartWorker<Note> for AtDesk {
    fn carry_out(&mut self, part: JobId, inputs: &[Note]) -> Result<Note, PartError> {
        let book = &*self.book;
        let missing = || PartError::Failed("there is no such part".to_owned());
        let Part { question, piece } = *book.parts.get(part.0 as usize).ok_or_else(missing)?;
        let task = book.reading.tasks.get(question).ok_or_else(missing)?;
        let text = match piece {
            Some(piece) => book.texts.get(piece).ok_or_else(missing)?.clone(),
            None => inputs
                .iter()
                .map(|note| note.text.as_str())
                .collect::<Vec<_>>()
                .join("\n\n"),
        };
        let prompt = match text.is_empty() {
            true => task.clone(),
            false => format!("{task}\n\n{text}"),
        };
        let note = self.reader.answer(&prompt, &book.reading.options)?;
        Ok(Note {
            reader: self.number,
            ..note
        })
    }
}

/// The document in pieces of at most `tokens`, cut in halves at the best seam until they fit. `None` where that would be
/// too many pieces, or a piece cannot be cut small enough.
fn pieces(document: &str, tokens: usize, words: &Words) -> Option<Vec<Range<usize>>> {
    let fits = |text: &str| {
        // A token is a byte at least, so a short text needs no look.
        let count = || {
            words
                .tokenizer
                .encode(text, AddSpecial::No, ParseSpecial::No)
                .len()
        };
        text.len() <= tokens || count() <= tokens
    };
    // The last one is to be looked at next.
    let (mut pieces, mut open) = (Vec::new(), Vec::new());
    open.push(0..document.len());
    while let Some(range) = open.pop() {
        let text = &document[range.clone()];
        if fits(text) {
            pieces.push(range);
            continue;
        }
        let cut = range.start + seam(text)?;
        open.extend([cut..range.end, range.start..cut]);
        if pieces.len() + open.len() > JOBS_MAX {
            return None;
        }
    }
    Some(pieces)
}

/// Where a text is best cut in two: at the best kind of seam that it has in its middle half, nearest to the middle; else
/// between two characters. `None` for a text of one character.
fn seam(text: &str) -> Option<usize> {
    let middle = text.len() / 2;
    let quarter = text.len() / 4;
    let nearest = |seam: &&str| {
        let ends = text.match_indices(*seam).map(|(at, _)| at + seam.len());
        let inside = ends.filter(|end| end.abs_diff(middle) <= quarter && *end < text.len());
        inside.min_by_key(|end| end.abs_diff(middle))
    };
    let between = || {
        let boundaries = text.char_indices().map(|(at, _)| at).skip(1);
        boundaries.min_by_key(|at| at.abs_diff(middle))
    };
    SEAMS.iter().find_map(nearest).or_else(between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundled;
    use heph_engine::source::Source;
    use heph_types::SamplingOptions;

    fn words() -> Words {
        let bytes = bundled::STORY_DRAFT.bytes.to_vec();
        let source = Source::from_gguf(vec![Arc::new(bytes)]).unwrap();
        Words::of(&source.vocabulary().unwrap()).unwrap()
    }

    #[test]
    fn pieces_are_the_whole_document_and_fit() {
        let words = words();
        let paragraphs = "The fox ran. The cat sat on a mat.\n\n".repeat(40);
        for (document, tokens) in [
            (paragraphs.as_str(), 30),
            ("one two", 30),
            ("äöü€".repeat(100).as_str(), 7),
            ("x".repeat(5000).as_str(), 64),
        ] {
            let pieces = pieces(document, tokens, &words).unwrap();
            let joined: String = pieces.iter().map(|p| &document[p.clone()]).collect();
            assert_eq!(joined, document);
            for piece in pieces {
                let text = &document[piece];
                let count = words
                    .tokenizer
                    .encode(text, AddSpecial::No, ParseSpecial::No)
                    .len();
                assert!(count <= tokens, "{text:?} has {count} tokens");
            }
        }
        assert_eq!(pieces("€", 0, &words), None, "a character cannot be cut");
    }

    #[test]
    fn a_cut_prefers_paragraphs() {
        let text = "aaaa bbbb. cccc\n\ndddd eeee\nffff";
        assert_eq!(&text[..seam(text).unwrap()], "aaaa bbbb. cccc\n\n");
    }

    /// Notes every number that it reads; is lost at its second piece where it is mortal.
    struct Clerk {
        mortal: bool,
        read: usize,
    }

    impl Reader for Clerk {
        fn answer(&mut self, prompt: &str, _options: &AnswerOptions) -> Result<Note, PartError> {
            self.read += 1;
            std::thread::sleep(Duration::from_millis(1));
            if self.mortal && self.read == 2 {
                return Err(PartError::Lost("killed".to_owned()));
            }
            // Asked for even numbers it takes those, asked for odd ones the others.
            let even = prompt.contains("even").then_some(0);
            let wanted = even.or(prompt.contains("odd").then_some(1));
            let number = |word: &&str| {
                word.parse::<u32>()
                    .is_ok_and(|n| wanted.is_none_or(|w| n % 2 == w))
            };
            let numbers = prompt.split_whitespace().filter(number);
            Ok(Note {
                text: numbers.collect::<Vec<_>>().join(" "),
                ..Note::default()
            })
        }
    }

    #[test]
    fn every_planted_number_is_read_though_readers_are_lost() {
        let line = |n: u32| format!("There was a fox that found {n} berries in the wood.\n");
        let document: String = (1000..1100).map(line).collect();
        let tasks = [
            "List the numbers.",
            "List the even numbers.",
            "List the odd numbers.",
        ];
        let reading = Reading {
            tasks: tasks.map(str::to_owned).to_vec(),
            piece_tokens: 40,
            fan_in: 4,
            options: AnswerOptions {
                sampling: SamplingOptions::greedy(),
                max_tokens: None,
                stops: Vec::new(),
            },
            lease: Duration::from_secs(5),
        };
        let clerk = |mortal| -> Box<dyn Reader> { Box::new(Clerk { mortal, read: 0 }) };
        let readers = [true, true, true, false].map(clerk).into();
        let read = read(
            Some(&document),
            &reading,
            &words(),
            readers,
            &Cancel::new(),
            &mut |_| {},
        )
        .unwrap();
        let expected = |step: usize, from: u32| {
            let numbers = (from..1100).step_by(step).map(|n| n.to_string());
            numbers.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            read.answers,
            [expected(1, 1000), expected(2, 1000), expected(2, 1001)]
        );
        assert_eq!(read.tally.lost, 3);
        assert!(read.pieces.len() >= 50 && read.notes.len() == read.tally.counted);
        // Those that were lost had noted one piece before.
        let noted = |reader| read.notes.iter().filter(|note| note.reader == reader).count();
        assert_eq!([0, 1, 2].map(noted), [1; 3]);
    }

    #[test]
    fn without_a_document_the_questions_alone_are_answered() {
        let reading = Reading {
            tasks: vec!["say 7".to_owned(), "say 8".to_owned()],
            piece_tokens: 40,
            fan_in: 2,
            options: AnswerOptions {
                sampling: SamplingOptions::greedy(),
                max_tokens: None,
                stops: Vec::new(),
            },
            lease: Duration::from_secs(5),
        };
        let clerk = || -> Box<dyn Reader> {
            Box::new(Clerk {
                mortal: false,
                read: 0,
            })
        };
        let cancel = Cancel::new();
        let done = read(None, &reading, &words(), vec![clerk()], &cancel, &mut |_| {}).unwrap();
        assert_eq!(done.answers, ["7", "8"]);
        let empty = read(
            Some(" \n"),
            &reading,
            &words(),
            vec![clerk()],
            &cancel,
            &mut |_| {},
        );
        assert_eq!(empty.unwrap_err(), ReadingError::Empty);
    }
}
