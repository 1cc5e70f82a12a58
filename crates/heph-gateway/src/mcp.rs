//! The Model Context Protocol, both ends of it: HEPH's own tools for others, and the person's servers for HEPH's models.
//!
//! Messages are JSON-RPC 2.0, one a line or one a request. What comes from outside is read within bounds: a message's bytes, a
//! wait's seconds, a list's length.

pub(crate) mod agent;
pub(crate) mod client;
pub(crate) mod config;
mod offers;
pub(crate) mod server;
pub(crate) mod stdio;

use std::io;
use std::pin::Pin;

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};
use tokio::sync::mpsc;

/// The versions of the protocol that are spoken, newest first. What we use of it is the same in all of them.
pub(crate) const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Bytes of one message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// What went wrong, in the numbers of JSON-RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// It is no JSON.
    Parse = -32700,
    /// It is no message.
    Message = -32600,
    /// There is no such method.
    Method = -32601,
    /// The parameters have no meaning.
    Params = -32602,
}

/// The answer that something went wrong.
pub(crate) fn failed(id: &Value, code: Code, sentence: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code as i32, "message": sentence } })
}

/// The answer that it went well.
pub(crate) fn done(id: &Value, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

/// An answer that is waited for, and what is told meanwhile.
pub(crate) struct Listening<F: Future, M> {
    answer: Pin<Box<F>>,
    told: mpsc::Receiver<M>,
    said: Option<F::Output>,
}

/// What is heard next.
pub(crate) enum Next<T, M> {
    /// It was told before the answer.
    Told(M),
    /// The answer; nothing comes after it.
    Said(T),
}

impl<F: Future, M> Listening<F, M> {
    pub(crate) fn new(answer: F, told: mpsc::Receiver<M>) -> Self {
        Self {
            answer: Box::pin(answer),
            told,
            said: None,
        }
    }

    pub(crate) async fn next(&mut self) -> Next<F::Output, M> {
        let said = match self.said.take() {
            Some(said) => said,
            None => tokio::select! {
                biased;
                Some(told) = self.told.recv() => return Next::Told(told),
                said = &mut self.answer => said,
            },
        };
        // What came with the answer was told before it.
        match self.told.try_recv() {
            Ok(told) => {
                self.said = Some(said);
                Next::Told(told)
            }
            Err(_) => Next::Said(said),
        }
    }
}

/// One line of what the other side says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Without its end.
    Whole(Vec<u8>),
    /// It was longer than a message may be; nothing of it was kept.
    TooLong,
}

/// A line that is being read.
#[derive(Debug)]
struct Reading {
    line: Vec<u8>,
    too_long: bool,
    bytes_max: usize,
}

impl Reading {
    fn new(bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            too_long: false,
            bytes_max,
        }
    }

    /// Takes what belongs to the line: how many bytes, and the line where it is whole.
    fn take(&mut self, some: &[u8]) -> (usize, Option<Line>) {
        let end = some.iter().position(|&byte| byte == b'\n');
        let piece = &some[..end.unwrap_or(some.len())];
        self.too_long |= self.line.len() + piece.len() > self.bytes_max;
        match self.too_long {
            true => self.line.clear(),
            false => self.line.extend_from_slice(piece),
        }
        (
            piece.len() + usize::from(end.is_some()),
            end.map(|_| self.whole()),
        )
    }

    fn whole(&mut self) -> Line {
        match std::mem::take(&mut self.too_long) {
            true => Line::TooLong,
            false => Line::Whole(std::mem::take(&mut self.line)),
        }
    }

    /// What was begun when nothing more comes.
    fn rest(mut self) -> Option<Line> {
        (self.too_long || !self.line.is_empty()).then(|| self.whole())
    }
}

/// The next line, of at most `bytes_max` bytes; `None` at the end.
pub(crate) async fn line(
    from: &mut (impl AsyncBufRead + Unpin),
    bytes_max: usize,
) -> io::Result<Option<Line>> {
    let mut reading = Reading::new(bytes_max);
    loop {
        let some = from.fill_buf().await?;
        if some.is_empty() {
            return Ok(reading.rest());
        }
        let (taken, line) = reading.take(some);
        from.consume(taken);
        if line.is_some() {
            return Ok(line);
        }
    }
}

/// As [`line`], for a thread that may wait.
pub(crate) fn line_waited_for(from: &mut impl io::BufRead, bytes_max: usize) -> io::Result<Option<Line>> {
    let mut reading = Reading::new(bytes_max);
    loop {
        let some = from.fill_buf()?;
        if some.is_empty() {
            return Ok(reading.rest());
        }
        let (taken, line) = reading.take(some);
        from.consume(taken);
        if line.is_some() {
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_with_the_answer_is_heard_before_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (tell, told) = mpsc::channel(4);
            let answer = async move {
                (1..4).for_each(|n| tell.try_send(n).unwrap());
                "so"
            };
            let mut listening = Listening::new(answer, told);
            let mut heard = Vec::new();
            let said = loop {
                match listening.next().await {
                    Next::Told(n) => heard.push(n),
                    Next::Said(said) => break said,
                }
            };
            assert_eq!((said, heard), ("so", vec![1, 2, 3]));
        });
    }

    #[test]
    fn lines_are_whole_or_too_long() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let text = b"one\n\nfour4\nsix666\nend".as_slice();
            let mut from = tokio::io::BufReader::with_capacity(2, text);
            let mut lines = Vec::new();
            while let Some(line) = line(&mut from, 5).await.unwrap() {
                lines.push(line);
            }
            let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
            assert_eq!(
                lines,
                [
                    whole("one"),
                    whole(""),
                    whole("four4"),
                    Line::TooLong,
                    whole("end")
                ]
            );
        });
    }
}
