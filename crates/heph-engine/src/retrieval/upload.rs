//! What leaves the machine: the chosen spans, each with its place in its source, and the question.

use super::question::Question;
use super::select::Selection;
use super::survey::Span;
use std::fmt::Write;
use std::ops::Range;

/// Stands before the excerpts.
const OPENING: &str = "Excerpts, each with its number, source and byte range:\n\n";

/// Stands before the question.
const ASKED: &str = "Answer from the excerpts and cite their numbers.\n";

/// Bytes around an excerpt beside the name of its source: `[4096 :67108864-67108864]`, a line's end, an empty line.
const FRAME_BYTES: usize = 28;

/// A source with the name that citations call it by.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What the receiver reads; it leaves the machine, so no path.
    pub name: &'a str,
    /// All of it.
    pub text: &'a str,
}

/// An excerpt and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Citation {
    /// The number it goes by in the upload, from 1.
    pub number: usize,
    /// Which source.
    pub source: usize,
    /// The source's name.
    pub name: String,
    /// Exactly these bytes of it.
    pub bytes: Range<usize>,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The whole text.
    pub text: String,
    /// Its excerpts, in order.
    pub citations: Vec<Citation>,
}

impl Upload {
    /// What an excerpt of `source` takes beside its own bytes, at most.
    pub fn overhead(source: &Source<'_>) -> usize {
        source.name.len() + FRAME_BYTES
    }

    /// What an upload takes beside its excerpts.
    pub fn frame(question: &Question) -> usize {
        OPENING.len() + ASKED.len() + question.text().len()
    }

    /// Writes the chosen spans of `sources` and the question. Neighbours become one excerpt.
    pub fn of(question: &Question, sources: &[Source<'_>], selection: &Selection) -> Upload {
        let mut upload = Upload {
            text: OPENING.to_owned(),
            citations: Vec::new(),
        };
        for span in joined(&selection.spans, sources) {
            let (number, source) = (upload.citations.len() + 1, sources[span.source]);
            let Range { start, end } = span.bytes;
            let excerpt = &source.text[start..end];
            // Writing to a string cannot fail.
            let _ = write!(
                upload.text,
                "[{number} {}:{start}-{end}]\n{excerpt}\n\n",
                source.name
            );
            upload.citations.push(Citation {
                number,
                source: span.source,
                name: source.name.to_owned(),
                bytes: span.bytes,
            });
        }
        upload.text.push_str(ASKED);
        upload.text.push_str(question.text());
        upload
    }
}

/// The spans, with those as one between which only white space lies.
fn joined(spans: &[Span], sources: &[Source<'_>]) -> Vec<Span> {
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last)
                if last.source == span.source
                    && sources[span.source].text[last.bytes.end..span.bytes.start]
                        .trim()
                        .is_empty() =>
            {
                last.bytes.end = span.bytes.end;
            }
            _ => joined.push(span.clone()),
        }
    }
    joined
}
