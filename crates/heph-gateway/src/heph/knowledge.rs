//! Folders as knowledge, as the page asks for them.

use std::path::PathBuf;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use heph_kernels::isa::Isa;
use heph_runtime::cancel::Cancel;
use heph_runtime::preprocess::{Embedder, PreprocessError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::house::Door;
use crate::knowledge::{self, For, Found, KnowledgeError, Label};
use crate::openai::read;
use crate::provenance;

/// Bytes of excerpts where a request does not say: about 1,500 tokens.
const BYTES_UNASKED: usize = 6 << 10;

impl From<KnowledgeError> for Refusal {
    fn from(error: KnowledgeError) -> Self {
        let sentence = error.to_string();
        match error {
            KnowledgeError::Name => Self::param("name", sentence),
            KnowledgeError::Path(_) => Self::param("path", sentence),
            KnowledgeError::NoShelf | KnowledgeError::NoSpan(..) => Self::bad(sentence),
            KnowledgeError::Unknown(_) | KnowledgeError::NoDocument(_) => Self::missing(sentence),
            KnowledgeError::Full | KnowledgeError::Twice(_) => Self::new(StatusCode::CONFLICT, sentence),
            KnowledgeError::Private(_) => Self::new(StatusCode::FORBIDDEN, sentence).code("private"),
            KnowledgeError::Search(
                PreprocessError::Question(_)
                | PreprocessError::Document(_)
                | PreprocessError::Sources(_)
                | PreprocessError::Nothing,
            ) => Self::bad(sentence),
            KnowledgeError::Search(_)
            | KnowledgeError::Damaged(_)
            | KnowledgeError::Io { .. }
            | KnowledgeError::Random => Self::ours(sentence),
        }
    }
}

async fn on_shelves<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KnowledgeError> + Send + 'static,
) -> Result<T, Refusal> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(Refusal::ours)??)
}

/// The folders that may be asked about.
#[utoipa::path(get, path = "/heph/v1/knowledge", tag = "Knowledge", responses((status = 200, description = "The shelves")))]
pub(crate) async fn list(State(door): State<Door>) -> Result<Json<Value>, Refusal> {
    let shelves = on_shelves(move || door.knowledge.shelves()).await?;
    Ok(Json(json!({ "shelves": shelves })))
}

/// A folder that is to be asked about.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct NewShelf {
    /// Where it lies, from the root on.
    path: String,
    /// What to call it; as its folder where nothing is said.
    name: Option<String>,
    /// What of it may leave: `nothing` unless said otherwise.
    label: Option<Label>,
}

/// Makes a folder or a file of this machine something to ask about.
#[utoipa::path(post, path = "/heph/v1/knowledge", request_body = NewShelf, tag = "Knowledge",
    responses((status = 201, description = "The shelf"), (status = 400, description = "There is no such folder"),
              (status = 409, description = "It is on a shelf already, or there are too many")))]
pub(crate) async fn add(State(door): State<Door>, body: Bytes) -> Result<(StatusCode, Json<Value>), Refusal> {
    let NewShelf { path, name, label } = read(&body)?;
    let label = label.unwrap_or(Label::Nothing);
    let shelf = on_shelves(move || door.knowledge.add(&PathBuf::from(path), name.as_deref(), label)).await?;
    Ok((StatusCode::CREATED, Json(json!(shelf))))
}

/// What of a shelf may leave from now on.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct ShelfMark {
    /// `nothing`, `own` or `policy`.
    label: Label,
}

/// Says anew what of a folder may leave.
#[utoipa::path(put, path = "/heph/v1/knowledge/{id}", request_body = ShelfMark, tag = "Knowledge", params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The shelf"), (status = 400, description = "There is no such label"), (status = 404, description = "There is none")))]
pub(crate) async fn mark(
    State(door): State<Door>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let ShelfMark { label } = read(&body)?;
    let shelf = on_shelves(move || door.knowledge.mark(&id, label)).await?;
    Ok(Json(json!(shelf)))
}

/// Forgets a shelf; the folder stays as it is.
#[utoipa::path(delete, path = "/heph/v1/knowledge/{id}", tag = "Knowledge", params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is forgotten"), (status = 404, description = "There was none")))]
pub(crate) async fn remove(State(door): State<Door>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    match on_shelves(move || door.knowledge.remove(&id)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refusal::missing("there is no shelf of that id")),
    }
}

/// A question about folders.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct Search {
    /// The question.
    question: String,
    /// Ids of shelves; all of them where none is named.
    #[serde(default)]
    shelves: Vec<String>,
    /// Bytes of excerpts at most, beside what the question names.
    bytes_max: Option<u32>,
}

/// Chooses what of the folders a question needs. Sends nothing.
#[utoipa::path(post, path = "/heph/v1/knowledge/search", request_body = Search, tag = "Knowledge",
    responses((status = 200, description = "Excerpts with their places"), (status = 400, description = "Nothing can be chosen"),
              (status = 404, description = "There is no such shelf")))]
pub(crate) async fn search(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let Search {
        question,
        shelves,
        bytes_max,
    } = read(&body)?;
    Ok(Json(json!(
        find(&door, question, shelves, bytes_max, For::Person).await?
    )))
}

/// Searches for `whose`; ends when nobody waits for it any more.
pub(crate) async fn find(
    door: &Door,
    question: String,
    shelves: Vec<String>,
    bytes_max: Option<u32>,
    whose: For,
) -> Result<Found, Refusal> {
    /// Raised when the caller is gone.
    struct Gone(Cancel);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.raise();
        }
    }
    let cancel = Cancel::default();
    let _gone = Gone(cancel.clone());
    let door = door.clone();
    let bytes = bytes_max.map_or(BYTES_UNASKED, |bytes| bytes as usize);
    on_shelves(move || {
        let encoder = || Embedder::bundled(door.engines.pool(), Isa::best());
        let found = door
            .knowledge
            .search(&question, &shelves, bytes, whose, encoder, &cancel)?;
        found
            .citations
            .iter()
            .for_each(|cited| provenance::stands(&door, &cited.text, &cited.stands));
        Ok(found)
    })
    .await
}

/// Which span.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Span {
    /// The document's name.
    document: String,
    /// Its first byte.
    start: u64,
    /// One past its last byte.
    end: u64,
}

/// A cited span, and what stands around it.
#[utoipa::path(get, path = "/heph/v1/knowledge/{id}/span", tag = "Knowledge", params(Span, ("id" = String, Path, description = "The shelf")),
    responses((status = 200, description = "The span"), (status = 400, description = "There is no such span"),
              (status = 404, description = "There is no such shelf or document")))]
pub(crate) async fn span(
    State(door): State<Door>,
    Path(id): Path<String>,
    Query(span): Query<Span>,
) -> Result<Json<Value>, Refusal> {
    let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
    let shown = on_shelves(move || {
        let shown = door
            .knowledge
            .show(&id, &span.document, at(span.start), at(span.end))?;
        let all = [&*shown.before, &shown.text, &shown.after];
        provenance::stands(&door, &all.concat(), &shown.stands);
        provenance::stands(&door, &shown.text, &shown.stands);
        Ok(shown)
    })
    .await?;
    Ok(Json(json!(shown)))
}

/// Which folder.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Where {
    /// From the root on; the person's home where nothing is said.
    path: Option<String>,
}

/// The folders in a folder of this machine, to choose one.
#[utoipa::path(get, path = "/heph/v1/folders", tag = "Knowledge", params(Where),
    responses((status = 200, description = "Their names"), (status = 400, description = "There is no such folder")))]
pub(crate) async fn folders(Query(at): Query<Where>) -> Result<Json<Value>, Refusal> {
    let (path, names) = on_shelves(move || knowledge::folders(at.path.map(PathBuf::from).as_deref())).await?;
    let parent = path.parent().map(|parent| parent.to_string_lossy().into_owned());
    Ok(Json(
        json!({ "path": path.to_string_lossy(), "parent": parent, "folders": names }),
    ))
}
