//! Conversations in a SQLite file of this machine, with a full-text index. Opened when first asked for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use heph_privacy::label::Label;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::provenance::Mark;

/// Bytes of one chat.
const BODY_MAX: usize = 8 << 20;

/// Lines of answers, and answers, whose label is remembered: a year of fifty long private answers a day.
const LABELS_MAX: i64 = 500_000;

/// Labels that wait for a disk that takes nothing: a chat that waits like them must not come back without them.
const UNWRITTEN_MAX: usize = 100_000;

/// Letters of a title.
const TITLE_MAX: usize = 300;

/// Chats of one page of the list.
const LIST_MAX: usize = 500;

/// Words of a search.
const WORDS_MAX: usize = 16;

/// The file's tables, as this version writes them.
const TABLES: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA busy_timeout = 5000;
    CREATE TABLE IF NOT EXISTS chats (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL, body TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS chats_by_time ON chats (updated_ms DESC, number DESC);
    CREATE TABLE IF NOT EXISTS labels (number INTEGER PRIMARY KEY, line BLOB NOT NULL UNIQUE, label TEXT NOT NULL);
    CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (title, said);
    PRAGMA user_version = 1;
";

/// Why a chat is not kept or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error("an id has 1 to 64 letters, digits, '-' or '_'")]
    Id,
    #[error("a chat may have {BODY_MAX} bytes")]
    TooLong,
    #[error("a chat's body is an object")]
    Body,
    #[error("the folder of the chats cannot be made: {0}")]
    Folder(std::io::Error),
    #[error("the chats cannot be read or written: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("how private earlier answers were could not be written, and is known no more")]
    Forgotten,
}

/// A chat without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) created_ms: i64,
    pub(crate) updated_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snippet: Option<String>,
}

/// A chat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chat {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) created_ms: i64,
    pub(crate) updated_ms: i64,
    pub(crate) body: Value,
}

/// Some of the chats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) chats: Vec<Line>,
    /// Where the next page begins.
    pub(crate) next: Option<String>,
}

/// The chats of this machine.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
    unwritten: Mutex<Unwritten>,
}

/// What could not be written of labels.
#[derive(Debug, Default)]
struct Unwritten {
    labels: HashMap<Mark, Label>,
    /// There were more than are held.
    forgotten: bool,
}

impl Unwritten {
    fn hold(&mut self, marks: &[Mark], label: &Label) {
        for mark in marks {
            if self.labels.len() == UNWRITTEN_MAX && !self.labels.contains_key(mark) {
                self.forgotten = true;
                return;
            }
            let known = self.labels.entry(*mark).or_insert_with(|| label.clone());
            *known = known.join(label);
        }
    }
}

impl History {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            connection: Mutex::default(),
            unwritten: Mutex::default(),
        }
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, HistoryError>,
    ) -> Result<T, HistoryError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match connection.take() {
            Some(open) => open,
            None => self.open()?,
        };
        work(connection.insert(open))
    }

    fn open(&self) -> Result<Connection, HistoryError> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(HistoryError::Folder)?;
        }
        let connection = Connection::open(&self.path)?;
        connection.execute_batch(TABLES)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&self.path, private).map_err(HistoryError::Folder)?;
        }
        Ok(connection)
    }

    /// Chats, newest first; those with all words of `query`, if there are any.
    pub(crate) fn list(
        &self,
        query: Option<&str>,
        limit: usize,
        before: Option<&str>,
    ) -> Result<Page, HistoryError> {
        let limit = limit.clamp(1, LIST_MAX);
        let (time, number) = before.and_then(cursor).unwrap_or((i64::MAX, i64::MAX));
        let words = query.map(search).filter(|words| !words.is_empty());
        let line = |row: &rusqlite::Row<'_>| {
            let line = Line {
                id: row.get(1)?,
                title: row.get(2)?,
                created_ms: row.get(3)?,
                updated_ms: row.get(4)?,
                snippet: row.get(5)?,
            };
            Ok((row.get::<_, i64>(0)?, line))
        };
        let found: Vec<(i64, Line)> = self.with(|connection| {
            let rows = match &words {
                None => connection
                    .prepare_cached(
                        "SELECT number, id, title, created_ms, updated_ms, NULL FROM chats
                         WHERE (updated_ms, number) < (?1, ?2) ORDER BY updated_ms DESC, number DESC LIMIT ?3",
                    )?
                    .query_map(params![time, number, limit as i64 + 1], line)?
                    .collect::<Result<Vec<_>, _>>()?,
                Some(words) => connection
                    .prepare_cached(
                        "SELECT number, id, chats.title, created_ms, updated_ms, snippet(words, -1, '[', ']', '…', 16)
                         FROM words JOIN chats ON chats.number = words.rowid
                         WHERE words MATCH ?4 AND (updated_ms, number) < (?1, ?2)
                         ORDER BY updated_ms DESC, number DESC LIMIT ?3",
                    )?
                    .query_map(params![time, number, limit as i64 + 1, words], line)?
                    .collect::<Result<Vec<_>, _>>()?,
            };
            Ok(rows)
        })?;
        let more = found.len() > limit;
        let shown = &found[..found.len().min(limit)];
        let next = shown
            .last()
            .filter(|_| more)
            .map(|(number, line)| format!("{}-{number}", line.updated_ms));
        Ok(Page {
            chats: shown.iter().map(|(_, line)| line.clone()).collect(),
            next,
        })
    }

    /// Remembers how private lines of an answer, or an answer in its place, are; what is known of one already is joined with it. Where
    /// it cannot be written it is known as long as this program runs, and written with the next.
    pub(crate) fn label(&self, marks: &[Mark], label: &Label) -> Result<(), HistoryError> {
        if marks.is_empty() {
            return Ok(());
        }
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        let these = marks.iter().map(|mark| (mark, label));
        let written = self.write_labels(unwritten.labels.iter().chain(these));
        match written {
            Ok(()) => unwritten.labels.clear(),
            Err(_) => unwritten.hold(marks, label),
        }
        written
    }

    fn write_labels<'a>(
        &self,
        labels: impl Iterator<Item = (&'a Mark, &'a Label)>,
    ) -> Result<(), HistoryError> {
        self.with(|connection| {
            let turn = connection.transaction()?;
            for (mark, label) in labels {
                let known: Option<String> = turn
                    .prepare_cached("SELECT label FROM labels WHERE line = ?1")?
                    .query_row([mark.as_slice()], |row| row.get(0))
                    .optional()?;
                let joined = known.map_or_else(|| label.clone(), |known| read_label(&known).join(label));
                let text = serde_json::to_string(&joined).unwrap_or_default();
                turn.prepare_cached("INSERT OR REPLACE INTO labels (line, label) VALUES (?1, ?2)")?
                    .execute(params![mark.as_slice(), text])?;
            }
            // Older ones give way.
            turn.execute(
                "DELETE FROM labels WHERE number <= (SELECT max(number) FROM labels) - ?1",
                [LABELS_MAX],
            )?;
            Ok(turn.commit()?)
        })
    }

    /// How private each of these is; `None` where no answer had it.
    pub(crate) fn labels(&self, marks: &[Mark]) -> Result<Vec<Option<Label>>, HistoryError> {
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        if unwritten.forgotten {
            return Err(HistoryError::Forgotten);
        }
        self.with(|connection| {
            let mut look = connection.prepare_cached("SELECT label FROM labels WHERE line = ?1")?;
            let mut label = |mark: &Mark| -> rusqlite::Result<Option<Label>> {
                let known: Option<String> = look.query_row([mark.as_slice()], |row| row.get(0)).optional()?;
                let (written, waits) = (known.map(|text| read_label(&text)), unwritten.labels.get(mark));
                Ok(match (written, waits) {
                    (Some(written), Some(waits)) => Some(written.join(waits)),
                    (written, waits) => written.or_else(|| waits.cloned()),
                })
            };
            Ok(marks.iter().map(&mut label).collect::<Result<_, _>>()?)
        })
    }

    /// One chat.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Chat>, HistoryError> {
        self.with(|connection| {
            let row = connection
                .prepare_cached("SELECT id, title, created_ms, updated_ms, body FROM chats WHERE id = ?1")?
                .query_row([id], chat)
                .optional()?;
            Ok(row)
        })
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> Result<Vec<Chat>, HistoryError> {
        self.with(|connection| {
            let mut rows = connection.prepare(
                "SELECT id, title, created_ms, updated_ms, body FROM chats ORDER BY updated_ms, number",
            )?;
            let chats = rows.query_map([], chat)?.collect::<Result<Vec<_>, _>>()?;
            Ok(chats)
        })
    }

    /// Keeps a chat as it is now.
    pub(crate) fn put(&self, id: &str, title: &str, body: &Value, now_ms: u64) -> Result<Line, HistoryError> {
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        self.with(|connection| {
            let turn = connection.transaction()?;
            let created = turn
                .query_row("SELECT created_ms FROM chats WHERE id = ?1", [id], |row| {
                    row.get(0)
                })
                .optional()?
                .unwrap_or(now);
            let line = write(&turn, id, title, body, created, now)?;
            turn.commit()?;
            Ok(line)
        })
    }

    /// Takes chats in, all of them or none.
    pub(crate) fn import(&self, chats: &[Chat]) -> Result<(), HistoryError> {
        self.with(|connection| {
            let turn = connection.transaction()?;
            for chat in chats {
                write(
                    &turn,
                    &chat.id,
                    &chat.title,
                    &chat.body,
                    chat.created_ms,
                    chat.updated_ms,
                )?;
            }
            turn.commit()?;
            Ok(())
        })
    }

    /// Removes a chat; false where there was none.
    pub(crate) fn remove(&self, id: &str) -> Result<bool, HistoryError> {
        self.with(|connection| {
            let turn = connection.transaction()?;
            turn.execute(
                "DELETE FROM words WHERE rowid = (SELECT number FROM chats WHERE id = ?1)",
                [id],
            )?;
            let gone = turn.execute("DELETE FROM chats WHERE id = ?1", [id])?;
            turn.commit()?;
            Ok(gone > 0)
        })
    }
}

fn write(
    turn: &rusqlite::Transaction<'_>,
    id: &str,
    title: &str,
    body: &Value,
    created_ms: i64,
    updated_ms: i64,
) -> Result<Line, HistoryError> {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if id.is_empty() || id.len() > 64 || !id.bytes().all(sound) {
        return Err(HistoryError::Id);
    }
    if !body.is_object() {
        return Err(HistoryError::Body);
    }
    let text = body.to_string();
    if text.len() > BODY_MAX {
        return Err(HistoryError::TooLong);
    }
    let title: String = title.chars().take(TITLE_MAX).collect();
    let number: i64 = turn.query_row(
        "INSERT INTO chats (id, title, created_ms, updated_ms, body) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET title = ?2, created_ms = ?3, updated_ms = ?4, body = ?5 RETURNING number",
        params![id, title, created_ms, updated_ms, text],
        |row| row.get(0),
    )?;
    let mut said = Vec::new();
    contents(body, &mut said);
    turn.execute("DELETE FROM words WHERE rowid = ?1", [number])?;
    turn.execute(
        "INSERT INTO words (rowid, title, said) VALUES (?1, ?2, ?3)",
        params![number, title, said.join("\n")],
    )?;
    Ok(Line {
        id: id.to_owned(),
        title,
        created_ms,
        updated_ms,
        snippet: None,
    })
}

fn chat(row: &rusqlite::Row<'_>) -> rusqlite::Result<Chat> {
    let body: String = row.get(4)?;
    Ok(Chat {
        id: row.get(0)?,
        title: row.get(1)?,
        created_ms: row.get(2)?,
        updated_ms: row.get(3)?,
        body: serde_json::from_str(&body).unwrap_or_default(),
    })
}

/// Every string field `content` of a value. JSON that was parsed is not nested deeper than the parser lets it be.
fn contents<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "content" => found.push(text),
                    other => contents(other, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| contents(value, found)),
        _ => {}
    }
}

/// A person's words as a question to the index: all of them, each as the beginning of a word.
fn search(query: &str) -> String {
    let words = query.split_whitespace().take(WORDS_MAX);
    let quoted = words.map(|word| format!("\"{}\"*", word.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(" ")
}

fn cursor(text: &str) -> Option<(i64, i64)> {
    let (time, number) = text.split_once('-')?;
    Some((time.parse().ok()?, number.parse().ok()?))
}

/// A label as it was written; one that cannot be read is as private as can be.
fn read_label(text: &str) -> Label {
    serde_json::from_str(text).unwrap_or_else(|_| Label::top())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn history() -> (tempfile::TempDir, History) {
        let home = tempfile::tempdir().unwrap();
        let history = History::new(home.path().join("new/chats.sqlite"));
        (home, history)
    }

    fn body(text: &str) -> Value {
        json!({ "messages": [{ "role": "user", "content": text }] })
    }

    fn mark(n: usize) -> Mark {
        let mut mark = [7; 16];
        mark[..8].copy_from_slice(&n.to_le_bytes());
        mark
    }

    /// Gives the file so many pages, as a disk has so much room.
    fn room(history: &History, pages: i64) {
        let set = |connection: &mut Connection| {
            Ok(connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?)
        };
        history.with(set).unwrap();
    }

    #[test]
    fn what_a_full_disk_does_not_take_of_labels_is_known_and_written_once_there_is_room() {
        let (home, history) = history();
        let (private, medical) = (Label::mark("salaries"), Label::mark("medical"));
        history.label(&[[0; 16]], &private).unwrap();
        room(&history, 1);
        let marks: Vec<Mark> = (0..5_000).map(mark).collect();
        assert!(matches!(
            history.label(&marks, &private),
            Err(HistoryError::Sqlite(_))
        ));
        assert!(history.label(&[[0; 16]], &medical).is_err());
        let both = |history: &History| {
            let found = history.labels(&[[0; 16], mark(4_999), [9; 16]]).unwrap();
            let first = found[0].as_ref().unwrap();
            assert!(first.covers(&private) && first.covers(&medical));
            assert_eq!(found[1..], [Some(private.clone()), None]);
        };
        both(&history);
        room(&history, 1 << 20);
        history.label(&[[1; 16]], &private).unwrap();
        both(&history);
        both(&History::new(home.path().join("new/chats.sqlite")));
    }

    #[test]
    fn more_labels_than_are_held_are_all_labels() {
        let (_home, history) = history();
        history.label(&[[0; 16]], &Label::public()).unwrap();
        room(&history, 1);
        let marks: Vec<Mark> = (0..=UNWRITTEN_MAX).map(mark).collect();
        assert!(history.label(&marks[1..], &Label::public()).is_err());
        assert!(history.labels(&[[0; 16]]).is_ok());
        assert!(history.label(&marks, &Label::public()).is_err());
        assert!(matches!(history.labels(&[[0; 16]]), Err(HistoryError::Forgotten)));
    }

    #[test]
    fn chats_are_kept_found_and_removed() {
        let (home, history) = history();
        history
            .put("a", "Dogs", &body("Tell me of a \"brave\" dog"), 1)
            .unwrap();
        history.put("b", "Cats", &body("naïve Katzen"), 2).unwrap();
        history
            .put("a", "Dogs", &body("Tell me of a brave hound"), 3)
            .unwrap();
        let ids = |query| {
            let page = history.list(query, 10, None).unwrap();
            page.chats.into_iter().map(|line| line.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(None), ["a", "b"]);
        assert_eq!(ids(Some("houn")), ["a"]);
        assert_eq!(ids(Some("dog brave")), ["a"], "the title counts too");
        assert!(ids(Some("\"brave\" OR dog NEAR(")).is_empty());
        assert_eq!(ids(Some("katz")), ["b"]);
        let again = History::new(home.path().join("new/chats.sqlite"));
        let kept = again.find("a").unwrap().unwrap();
        assert_eq!((kept.created_ms, kept.updated_ms), (1, 3));
        assert!(history.remove("a").unwrap() && !history.remove("a").unwrap());
        assert!(ids(Some("hound")).is_empty());
    }

    #[test]
    fn pages_follow_each_other() {
        let (_home, history) = history();
        for n in 0..7 {
            history.put(&format!("c{n}"), "t", &body("x"), n / 2).unwrap();
        }
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = history.list(None, 3, before.as_deref()).unwrap();
            seen.extend(page.chats.into_iter().map(|line| line.id));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["c6", "c5", "c4", "c3", "c2", "c1", "c0"]);
    }

    #[test]
    fn an_export_is_taken_back() {
        let (_home, history) = history();
        history.put("a", "Dogs", &body("one"), 1).unwrap();
        let all = history.all().unwrap();
        history.remove("a").unwrap();
        history.import(&all).unwrap();
        assert_eq!(history.all().unwrap(), all);
        let wrong = Chat {
            id: "../x".to_owned(),
            ..all[0].clone()
        };
        assert!(matches!(history.import(&[wrong]), Err(HistoryError::Id)));
        assert!(matches!(
            history.put("b", "t", &json!([1]), 1),
            Err(HistoryError::Body)
        ));
    }
}
