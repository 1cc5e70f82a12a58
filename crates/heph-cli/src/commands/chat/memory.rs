//! What a chat remembers beside the conversation, and what of it a message needs: excerpts of documents, and of earlier
//! turns where the conversation has become longer than the context.

use heph_runtime::desk::{Desk, Message, Prompt};
use heph_runtime::preprocess::{Document, Embedder, Library, Preprocessed};

use super::note;
use crate::about;
use crate::failure::Failure;

/// Tokens that an answer has room for at least; a longer conversation is not asked as it is.
const ANSWER_TOKENS_LEAST: usize = 16;

/// Documents of a chat, with what was learned of them.
pub(super) struct Memory {
    library: Library,
    embedder: Option<Embedder>,
}

/// What the model is asked.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) messages: Vec<Message>,
    /// Where the last message goes with excerpts.
    pub(super) excerpts: Option<Excerpts>,
}

/// Excerpts, and where each of them stands, a line for each.
pub(super) struct Excerpts {
    pub(super) chosen: Preprocessed,
    pub(super) cited: Vec<String>,
}

impl Excerpts {
    fn of(chosen: Preprocessed, library: &Library) -> Option<Self> {
        let cited = about::cited(&chosen.upload.citations, library.documents());
        Some(Self { chosen, cited })
    }
}

impl Memory {
    /// Knows these documents; none of them was read for a question yet.
    pub(super) fn of(documents: Vec<Document>) -> Self {
        Self {
            library: Library::new(documents),
            embedder: None,
        }
    }

    /// Knows these documents and no others from now on.
    pub(super) fn learn(&mut self, documents: Vec<Document>) {
        self.library = Library::new(documents);
    }

    /// The documents.
    pub(super) fn documents(&self) -> &[Document] {
        self.library.documents()
    }

    /// The conversation as the model is asked it: as it is where it fits and there are no documents, else its last message
    /// with the excerpts that it needs. `encoder` opens the encoder when it is first needed.
    pub(super) fn asked(
        &mut self,
        messages: &[Message],
        desk: &Desk,
        answer_tokens_max: usize,
        encoder: impl Fn() -> Result<Embedder, Failure>,
    ) -> Result<Asked, Failure> {
        let context = desk.context();
        let tokens = |messages: &[Message]| -> Result<usize, Failure> {
            Ok(Prompt::Chat(messages).tokens(desk.words())?.len())
        };
        let whole = Asked {
            messages: messages.to_vec(),
            excerpts: None,
        };
        let Some((last, earlier)) = messages.split_last() else {
            return Ok(whole);
        };
        let too_long = tokens(messages)? + ANSWER_TOKENS_LEAST > context;
        if self.documents().is_empty() && !too_long {
            return Ok(whole);
        }
        let room = about::room(context, answer_tokens_max);
        let with = |earlier: &[Message], text: &str| {
            let said = earlier.iter().cloned();
            said.chain([Message::new(&last.role, text)]).collect::<Vec<_>>()
        };
        let embedder = match &mut self.embedder {
            Some(embedder) => embedder,
            None => self.embedder.insert(encoder()?),
        };
        let mut choose = |earlier: &[Message], library: &mut Library| -> Result<_, Failure> {
            let base = tokens(&with(earlier, "."))?;
            let count = |text: &str| Ok(tokens(&with(earlier, text))?.saturating_sub(base));
            let left = room.saturating_sub(base);
            let chosen = about::choose(&last.content, library, embedder, left, &count)?;
            Ok((with(earlier, &chosen.upload.text), chosen))
        };
        if !too_long {
            let (messages, chosen) = choose(earlier, &mut self.library)?;
            if tokens(&messages)? <= room {
                let excerpts = Excerpts::of(chosen, &self.library);
                return Ok(Asked { messages, excerpts });
            }
        }
        // Earlier turns become sources like any other.
        let (system, turns): (Vec<_>, Vec<_>) = earlier.iter().cloned().partition(|m| m.role == "system");
        let mut sources = Document::of_history(&turns);
        sources.extend_from_slice(self.library.documents());
        if sources.is_empty() {
            return Ok(whole);
        }
        let mut library = Library::new(sources);
        let (messages, chosen) = choose(&system, &mut library)?;
        note("the conversation is longer than the context; what of it the message needs was chosen");
        let excerpts = Excerpts::of(chosen, &library);
        Ok(Asked { messages, excerpts })
    }
}
