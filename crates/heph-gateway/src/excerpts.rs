//! Questions about texts: the spans that a question needs are chosen here, and asked about in place of all of it.
//!
//! The texts come with the request (`heph.documents`), or are what was said before in the conversation. What is chosen travels
//! as plain words: the receipt says what it shows.

use std::sync::{Mutex, PoisonError};

use heph_plan::Mode;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::Message;
use heph_runtime::preprocess::{Document, Embedder, Library, PreprocessError, Preprocessed, preprocess};
use serde_json::{Value, json};

use crate::ask::{AboutText, Ask, Source, Turn};
use crate::caller;
use crate::engines::Writer;
use crate::error::Refusal;
use crate::house::House;

/// Texts of one request.
const TEXTS_MAX: usize = 256;

/// The encoder that compares question and spans, once somebody asks about texts.
#[derive(Default)]
pub(crate) struct Chooser(Mutex<Option<Embedder>>);

impl Chooser {
    fn choose(
        &self,
        house: &House,
        question: &str,
        texts: Vec<Document>,
        cancel: &Cancel,
    ) -> Result<Preprocessed, Refusal> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let embedder = match &mut *held {
            Some(embedder) => embedder,
            None => {
                let isa = house.engines.served.isa;
                let opened = Embedder::bundled(house.engines.pool(), isa).map_err(Refusal::ours)?;
                held.insert(opened)
            }
        };
        // Whoever waited for the encoder may have gone meanwhile.
        caller::waits(cancel)?;
        let mut library = Library::new(texts);
        preprocess(embedder, question, &mut library, cancel).map_err(refused)
    }
}

fn refused(error: PreprocessError) -> Refusal {
    let sentence = error.to_string();
    match error {
        PreprocessError::Question(_) => Refusal::param("messages", sentence),
        PreprocessError::Document(_) | PreprocessError::Sources(_) | PreprocessError::Nothing => {
            Refusal::param("documents", sentence)
        }
        PreprocessError::Open(_) | PreprocessError::Load(_) | PreprocessError::Forward(_) => {
            Refusal::ours(sentence)
        }
    }
}

/// A question about texts, in the two forms in which it can be asked.
pub(crate) struct About {
    /// With all of them.
    pub(crate) whole: Ask,
    /// With what of them it needs.
    pub(crate) excerpts: Ask,
    /// Tokens of both prompts.
    pub(crate) tokens: (usize, usize),
    chosen: Preprocessed,
}

impl About {
    /// What `ask` is about; nothing where it brings no texts and does not want its earlier turns read so.
    pub(crate) fn of(
        ask: &Ask,
        house: &House,
        writer: &Writer,
        cancel: &Cancel,
    ) -> Result<Option<Self>, Refusal> {
        let wanted = ask.wishes.mode()? == Some(Mode::Preprocess);
        let texts = ask.wishes.documents.as_deref().unwrap_or_default();
        if texts.is_empty() && !wanted {
            return Ok(None);
        }
        let Source::Chat(turns) = &ask.source else {
            return Err(Refusal::param(
                "documents",
                "texts are read for the last message of a chat",
            ));
        };
        let question = turns.last().filter(|turn| turn.role == "user");
        let question =
            question.ok_or_else(|| Refusal::param("messages", "the last message is no question"))?;
        let earlier = &turns[..turns.len() - 1];
        let (library, kept) = match texts.is_empty() {
            false => (documents(texts)?, earlier.to_vec()),
            true => history(earlier)?,
        };
        let chosen = house.chooser.choose(house, &question.content, library, cancel)?;
        let with = |earlier: &[Turn], text: String| {
            let last = Turn::new("user", text);
            let turns = earlier.iter().cloned().chain([last]).collect();
            Ask {
                source: Source::Chat(turns),
                ..ask.clone()
            }
        };
        let parts = texts
            .iter()
            .map(|about| format!("{}:\n{}\n\n", about.name, about.text));
        let all = parts.chain([question.content.clone()]).collect();
        let whole = with(earlier, all);
        let excerpts = with(&kept, chosen.upload.text.clone());
        let count = |ask: &Ask| Ok::<_, Refusal>(ask.prompts(writer, cancel)?.first().map_or(0, Vec::len));
        Ok(Some(Self {
            tokens: (count(&whole)?, count(&excerpts)?),
            whole,
            excerpts,
            chosen,
        }))
    }

    /// Whether the excerpts are asked about, whoever answers: they were asked for, or all of it is longer than the context.
    pub(crate) fn needs_excerpts(&self, context: usize) -> Result<bool, Refusal> {
        let mode = self.whole.wishes.mode()?;
        let too_long = mode != Some(Mode::Local) && self.tokens.0 >= context;
        Ok(mode == Some(Mode::Preprocess) || too_long)
    }

    /// What the excerpts show, and where each of them stands, for the receipt.
    pub(crate) fn told(&self) -> Value {
        let citations = &self.chosen.upload.citations;
        json!({ "exposure": self.chosen.exposure(), "citations": citations })
    }
}

fn documents(texts: &[AboutText]) -> Result<Vec<Document>, Refusal> {
    if texts.len() > TEXTS_MAX {
        return Err(Refusal::param(
            "documents",
            format!("there may be {TEXTS_MAX} texts"),
        ));
    }
    Ok(texts
        .iter()
        .map(|about| Document::new(&about.name, about.text.as_str()))
        .collect())
}

/// What was said before as sources, and the system's turns, which stay.
fn history(earlier: &[Turn]) -> Result<(Vec<Document>, Vec<Turn>), Refusal> {
    let (system, said): (Vec<Turn>, Vec<Turn>) = earlier
        .iter()
        .cloned()
        .partition(|turn| ["system", "developer"].contains(&turn.role.as_str()));
    if said.is_empty() {
        let sentence = "mode preprocess reads heph.documents, or what was said before, and there is neither";
        return Err(Refusal::param("documents", sentence));
    }
    let messages: Vec<Message> = said
        .iter()
        .map(|turn| Message::new(&turn.role, turn.content.as_str()))
        .collect();
    Ok((Document::of_history(&messages), system))
}
