//! What an upload shows to the machine that answers, and to nobody else's surprise: part of every receipt.

use std::collections::BTreeSet;
use std::fmt;

use heph_engine::retrieval::Kept;
use serde::Serialize;

use super::Preprocessed;

/// What leaves and what it tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// Bytes of documents and question.
    pub bytes_here: usize,
    /// Bytes that leave.
    pub bytes_sent: usize,
    /// Of them, bytes of the documents, word for word.
    pub bytes_of_documents: usize,
    /// Excerpts.
    pub excerpts: usize,
    /// Names of the documents that excerpts come from.
    pub documents: Vec<String>,
    /// What the question names and the excerpts hold.
    pub named: Vec<String>,
    /// What the question names and no document holds: the question says it all the same.
    pub named_absent: Vec<String>,
}

impl Exposure {
    pub(super) fn of(done: &Preprocessed) -> Exposure {
        let citations = &done.upload.citations;
        let names: BTreeSet<_> = citations.iter().map(|c| c.name.clone()).collect();
        let with = |kept| {
            done.locks
                .iter()
                .filter(move |l| l.kept == kept)
                .map(|l| l.text.clone())
        };
        Exposure {
            bytes_here: done.raw_bytes,
            bytes_sent: done.upload.text.len(),
            bytes_of_documents: citations.iter().map(|c| c.bytes.len()).sum(),
            excerpts: citations.len(),
            documents: names.into_iter().collect(),
            named: with(Kept::Kept).collect(),
            named_absent: with(Kept::Absent).collect(),
        }
    }
}

/// So many excerpts, in words.
fn excerpts(count: usize) -> String {
    format!("{count} excerpt{}", if count == 1 { "" } else { "s" })
}

impl Exposure {
    /// What was chosen, where the model that reads it is on this machine: nothing is shown to anybody.
    pub fn kept_here(&self) -> String {
        format!(
            "asked with {} of {} bytes: the question and {} from: {}. Nothing leaves this machine",
            self.bytes_sent,
            self.bytes_here,
            excerpts(self.excerpts),
            self.documents.join(", ")
        )
    }
}

/// What is shown to the machine that answers.
impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sent {} of {} bytes; whoever answers, or looks into that machine, can read:",
            self.bytes_sent, self.bytes_here
        )?;
        writeln!(f, "  the question, word for word")?;
        writeln!(
            f,
            "  {}, {} bytes, word for word, with everything they name, from: {}",
            excerpts(self.excerpts),
            self.bytes_of_documents,
            self.documents.join(", ")
        )?;
        writeln!(
            f,
            "  where each excerpt stands, and so how long its document is at least"
        )?;
        write!(
            f,
            "not sent: {} bytes. Names and numbers in the excerpts may tell what stands there",
            self.bytes_here.saturating_sub(self.bytes_sent)
        )
    }
}
