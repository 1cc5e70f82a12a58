//! What earlier answers were made of: a summary of a private note stays private wherever its lines are shown again.
//!
//! The lines of an answer that was made of something private are remembered by their hash, with its label, beside the chats. A
//! request that shows one of them again, in whatever message and from whatever program, is as private as that answer was.
//!
//! Of a conversation that goes on more is known: an answer that stands behind the very messages to which it was given here is as
//! private as it was then, whatever else the same words once answered. Else a sentence that everybody gets to hear ("I am
//! sorry, I do not know") would be private everywhere, as soon as it answered something private once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heph_privacy::label::{Label, Level};
use heph_runtime::discretion::unsaid;

use crate::ask::{Ask, Source, Turn};
use crate::history::History;
use crate::house::{Door, House};

/// Shorter lines are said by everybody.
const LINE_BYTES_MIN: usize = 24;

/// Bytes of one choice of an answer, and lines of one request, that are looked at. A request with more lines is as private as any
/// answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const LINES_MAX: usize = 20_000;

/// How often what is quoted is quoted again.
const QUOTES_DEEP: usize = 3;

/// How long a request waits for what is being written of an answer whose words it shows: looking through a megabyte takes half
/// a second.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// The hash of a line, or of an answer behind its conversation.
pub(crate) type Mark = [u8; 16];

/// An answer on its way, and what it is made of.
pub(crate) struct Trace {
    ask: Arc<Ask>,
    said: BTreeMap<usize, Said>,
}

/// What one choice said.
#[derive(Default)]
struct Said {
    text: String,
    /// It is longer than what is looked at, or calls tools: it does not come back as a text alone.
    more: bool,
    /// What was thought before the answer: lines of its own.
    thoughts: String,
}

impl Trace {
    pub(crate) fn new(ask: Arc<Ask>) -> Self {
        Self {
            ask,
            said: BTreeMap::new(),
        }
    }

    /// A choice said this.
    pub(crate) fn hears(&mut self, choice: usize, text: &str) {
        let said = self.said.entry(choice).or_default();
        said.more |= !add(&mut said.text, text);
    }

    /// A choice thought this before its answer.
    pub(crate) fn hears_thought(&mut self, choice: usize, text: &str) {
        add(&mut self.said.entry(choice).or_default().thoughts, text);
    }

    /// A choice tells a tool this.
    pub(crate) fn calls(&mut self, choice: usize, arguments: &str) {
        self.hears(choice, arguments);
        self.said.entry(choice).or_default().more = true;
    }

    /// The answer is over, or nobody reads it any more. From now on a request that shows its words waits until
    /// [`Ending::remember`] has written down how private they are.
    pub(crate) fn ends(self, door: &Door) -> Ending {
        let lines = self.said.values();
        let lines = lines.flat_map(|said| [marks(&said.text), marks(&said.thoughts)].concat());
        let lines: Vec<Mark> = lines.collect();
        let whole = self.said.values().filter(|said| !said.more);
        let place = Place::behind(turns(&self.ask));
        let replies: Vec<Mark> = whole
            .filter_map(|said| place.as_ref()?.reply(&said.text))
            .collect();
        door.writing.begin(lines.iter().chain(&replies));
        Ending {
            door: Arc::clone(door),
            ask: self.ask,
            lines,
            replies,
        }
    }
}

/// What is to be remembered of an answer.
pub(crate) struct Ending {
    door: Door,
    ask: Arc<Ask>,
    lines: Vec<Mark>,
    replies: Vec<Mark>,
}

impl Ending {
    /// What was said of the answer is remembered. Reads texts and writes to the disk.
    pub(crate) fn remember(self) {
        let house = &self.door;
        // Where no rule looks at labels and nobody said one, nothing of the request is looked through.
        let unlabelled = self.ask.wishes.label().is_ok_and(|label| label == unsaid());
        if unlabelled && !house.rules.now(&[]).minds_labels() {
            return;
        }
        let Ok(discretion) = self.ask.discretion_at_end(house) else {
            return;
        };
        let label = discretion.label();
        // Without a disk there is no history that the answer could come back from.
        if label.level() >= Level::Private {
            let _ = house.history.label(&self.lines, &label);
        }
        let _ = house.history.label(&self.replies, &label);
    }
}

/// Of a text that was shown of a document it is remembered where it stands, as of an answer what it was made of.
pub(crate) fn stands(house: &House, text: &str, label: &Label) {
    if house.rules.now(&[]).minds_labels() {
        written_down(&house.history, text, label);
    }
}

/// What a full disk does not take of it is held, as with answers.
fn written_down(history: &History, text: &str, label: &Label) {
    let _ = history.label(&marks(text), label);
}

/// Whether `text` still fits behind what is looked at.
fn add(all: &mut String, text: &str) -> bool {
    let fits = all.len() + text.len() <= ANSWER_BYTES_MAX;
    if fits {
        all.push_str(text);
    }
    fits
}

/// Written or not, nobody waits for it any longer.
impl Drop for Ending {
    fn drop(&mut self) {
        self.door.writing.end(self.lines.iter().chain(&self.replies));
    }
}

/// Words of answers of which is being written down how private they are.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    /// How many answers with this mark.
    marks: Mutex<HashMap<Mark, usize>>,
    fewer: Condvar,
}

impl Writing {
    fn begin<'a>(&self, marks: impl Iterator<Item = &'a Mark>) {
        let mut under_way = self.marks();
        marks.for_each(|mark| *under_way.entry(*mark).or_default() += 1);
    }

    fn end<'a>(&self, marks: impl Iterator<Item = &'a Mark>) {
        let mut under_way = self.marks();
        for mark in marks {
            if let Some(answers) = under_way.get_mut(mark) {
                *answers -= 1;
                if *answers == 0 {
                    under_way.remove(mark);
                }
            }
        }
        self.fewer.notify_all();
    }

    /// Waits until nothing is being written of `marks`, and says whether that came about in time.
    fn is_done(&self, marks: &[Mark], within: Duration) -> bool {
        let wanted =
            |under_way: &mut HashMap<Mark, usize>| marks.iter().any(|mark| under_way.contains_key(mark));
        let waited = self.fewer.wait_timeout_while(self.marks(), within, wanted);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<Mark, usize>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request waits for what is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Written,
    /// As an answer that is written down itself: its own words are under way.
    Not,
}

/// What a request shows again of earlier answers, `more` being texts of it that it does not show in words. Where that cannot be
/// read, they are as private as can be.
pub(crate) fn known(history: &History, writing: &Writing, ask: &Ask, more: &[String], wait: Wait) -> Label {
    look_up(history, writing, ask, more, wait).unwrap_or_else(Label::top)
}

fn look_up(history: &History, writing: &Writing, ask: &Ask, more: &[String], wait: Wait) -> Option<Label> {
    let replies = Place::replies(turns(ask));
    let marked: Vec<Mark> = replies.iter().map(|(_, mark)| *mark).collect();
    let written = |marks: &[Mark]| wait == Wait::Not || writing.is_done(marks, WRITTEN_WITHIN);
    if marked.len() > LINES_MAX || !written(&marked) {
        return None;
    }
    let given = history.labels(&marked).ok()?;
    let mut rest = ask.clone();
    let mut label = Label::public();
    for ((at, _), was) in replies.iter().zip(given) {
        if let (Some(was), Source::Chat(turns)) = (was, &mut rest.source) {
            label = label.join(&was);
            turns[*at].content.clear();
        }
    }
    let mut lines: Vec<Mark> = more.iter().flat_map(|text| marks(text)).collect();
    let seen = rest.each_text(&mut |text| {
        lines.extend(marks(text));
        Ok(())
    });
    if seen.is_err() || lines.len() > LINES_MAX || !written(&lines) {
        return None;
    }
    let found = history.labels(&lines).ok()?;
    Some(found.iter().flatten().fold(label, |all, one| all.join(one)))
}

fn turns(ask: &Ask) -> &[Turn] {
    match &ask.source {
        Source::Chat(turns) => turns,
        Source::Texts(_) => &[],
    }
}

/// A place in a conversation: all that was said before it.
#[derive(Clone)]
struct Place(blake3::Hasher);

impl Place {
    /// The place behind all of these; `None` where one of them shows what has no words, and where nothing was said.
    fn behind(turns: &[Turn]) -> Option<Place> {
        let worded = |turn: &Turn| turn.pictures.is_empty();
        (!turns.is_empty() && turns.iter().all(worded)).then(|| {
            let mut place = Place(blake3::Hasher::new_derive_key(
                "HEPH 2026-11 an answer in its place",
            ));
            turns.iter().for_each(|turn| place.goes_on(turn));
            place
        })
    }

    /// The answers of a conversation, by their number among its messages, and their marks.
    fn replies(turns: &[Turn]) -> Vec<(usize, Mark)> {
        let Some(first) = turns
            .first()
            .and_then(|first| Place::behind(std::slice::from_ref(first)))
        else {
            return Vec::new();
        };
        let (mut place, mut replies) = (first, Vec::new());
        for (at, turn) in turns.iter().enumerate().skip(1) {
            if !turn.pictures.is_empty() {
                break;
            }
            if turn.role == "assistant" && turn.calls.is_empty() {
                replies.extend(place.reply(&turn.content).map(|mark| (at, mark)));
            }
            place.goes_on(turn);
        }
        replies
    }

    fn goes_on(&mut self, turn: &Turn) {
        self.hears(&turn.role);
        self.hears(turn.name.as_deref().unwrap_or_default());
        self.hears(turn.call_id.as_deref().unwrap_or_default());
        self.hears(&joined(&turn.content));
        self.0.update(&turn.calls.len().to_le_bytes());
        for call in &turn.calls {
            self.hears(&call.function.name);
            self.hears(&call.function.arguments.to_string());
        }
    }

    fn hears(&mut self, text: &str) {
        self.0.update(&text.len().to_le_bytes());
        self.0.update(text.as_bytes());
    }

    /// The mark of an answer that is given here; `None` where it says nothing.
    fn reply(&self, text: &str) -> Option<Mark> {
        let text = joined(text);
        (!text.is_empty()).then(|| {
            let mut place = self.clone();
            place.hears("reply");
            place.hears(&text);
            short(place.0.finalize().as_bytes())
        })
    }
}

/// The lines of a text that tell it from others, whatever spaces stand in them, and those of what it quotes: JSON shows an answer so.
fn marks(text: &str) -> Vec<Mark> {
    let mut found = Vec::new();
    mark(text, QUOTES_DEEP, &mut found);
    found
}

fn mark(text: &str, deep: usize, found: &mut Vec<Mark>) {
    let lines = text.lines().map(joined);
    let telling = lines.filter(|line| line.len() >= LINE_BYTES_MIN);
    found.extend(telling.map(|line| {
        short(&blake3::derive_key(
            "HEPH 2026-11 a line of an answer",
            line.as_bytes(),
        ))
    }));
    if deep > 0 {
        let quoted = quoted(text).filter(|piece| piece.len() >= LINE_BYTES_MIN);
        let said = quoted.filter_map(|piece| serde_json::from_str::<String>(&format!("\"{piece}\"")).ok());
        said.for_each(|said| mark(&said, deep - 1, found));
    }
}

/// What stands between two quotation marks, before the first and behind the last; nothing where there are none.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    let ends = move |c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    };
    text.split(ends).filter(move |piece| piece.len() < text.len())
}

/// A text with one space wherever it has any.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn short(hash: &[u8; 32]) -> Mark {
    let (mark, _) = hash.split_first_chunk().expect("32 bytes hold 16");
    *mark
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str =
        "The person earns five thousand a month.\nShort.\nThey would like to move to the sea.";

    const SORRY: &str = "I am sorry, I do not know that.";

    fn history() -> (tempfile::TempDir, History) {
        let home = tempfile::tempdir().unwrap();
        let history = History::new(home.path().join("chats.sqlite"));
        (home, history)
    }

    /// A conversation, whose messages are the person's and the answers' in turn.
    fn chat(said: &[&str]) -> Ask {
        let role = |at: usize| ["user", "assistant"][at % 2];
        let turns = said
            .iter()
            .enumerate()
            .map(|(at, text)| Turn::new(role(at), *text));
        Ask::new("m".to_owned(), Source::Chat(turns.collect()))
    }

    fn again(history: &History, ask: &Ask) -> Label {
        known(history, &Writing::default(), ask, &[], Wait::Written)
    }

    fn shown(history: &History, text: &str) -> Label {
        again(history, &chat(&[text]))
    }

    /// The answer to `ask` is remembered.
    fn answered(history: &History, ask: &Ask, answer: &str, label: &Label) {
        if label.level() >= Level::Private {
            history.label(&marks(answer), label).unwrap();
        }
        let reply = Place::behind(turns(ask)).unwrap().reply(answer).unwrap();
        history.label(&[reply], label).unwrap();
    }

    #[test]
    fn a_summary_of_a_private_note_is_private_wherever_it_is_shown_again() {
        let (_home, history) = history();
        let label = Label::mark("salaries");
        history.label(&marks(SUMMARY), &label).unwrap();
        let again = |text: &str| shown(&history, text);
        assert!(again(SUMMARY).covers(&label));
        assert!(again("He said:\n  They would  like to move to the sea.\nReally?").covers(&label));
        assert_eq!(
            again("Short.\nThey would like to move to the mountains."),
            Label::public()
        );
        // Of two answers both reasons count.
        let recipe = "Two spoons of honey and a little salt.";
        history.label(&marks(recipe), &Label::mark("family")).unwrap();
        let both = super::tests::again(&history, &chat(&[SUMMARY, recipe]));
        assert!(both.meets("user:salaries") && both.meets("user:family"));
        // A second reason joins the first.
        history.label(&marks(SUMMARY), &Label::mark("medical")).unwrap();
        assert!(again(SUMMARY).meets("user:salaries") && again(SUMMARY).meets("user:medical"));
    }

    #[test]
    fn an_excerpt_is_as_private_as_where_it_stands() {
        let (_home, history) = history();
        let label = Label::of_path("/home/ann/kept/note.txt");
        written_down(&history, SUMMARY, &label);
        let shown = shown(&history, &format!("[1 note.txt:0-90]\n{SUMMARY}\n\nWho?"));
        assert!(shown.meets("folder:kept"), "{shown:?}");
    }

    #[test]
    fn a_summary_that_is_quoted_or_told_to_a_tool_is_as_private() {
        let (_home, history) = history();
        let label = Label::mark("salaries");
        history.label(&marks(SUMMARY), &label).unwrap();
        let told = serde_json::json!({ "note": { "text": SUMMARY }, "n": 1 }).to_string();
        let again = serde_json::json!({ "body": told }).to_string();
        for text in [
            &told,
            &again,
            &format!("Ann wrote \"{}\" yesterday.", SUMMARY.lines().next().unwrap()),
        ] {
            assert!(shown(&history, text).covers(&label), "{text}");
        }
        // What a model told a tool was written as JSON, and programs give it back as a text or as a value.
        let (_home, history) = self::history();
        history.label(&marks(&told), &label).unwrap();
        let value: serde_json::Value = serde_json::from_str(&told).unwrap();
        for arguments in [serde_json::json!(told), value] {
            let mut ask = chat(&["Hello.", "", "Go on."]);
            if let Source::Chat(turns) = &mut ask.source {
                let call =
                    serde_json::json!({ "id": "1", "function": { "name": "put", "arguments": arguments } });
                turns[1].calls = vec![serde_json::from_value(call).unwrap()];
            }
            assert!(super::tests::again(&history, &ask).covers(&label), "{arguments}");
        }
        assert_eq!(
            shown(&history, r#"{"note":"nothing that was said before"}"#),
            Label::public()
        );
    }

    #[test]
    fn an_answer_in_its_place_is_as_private_as_it_was_there() {
        let (_home, history) = history();
        let private = Label::mark("salaries");
        answered(&history, &chat(&["What do I earn?"]), SORRY, &private);
        assert!(shown(&history, SORRY).covers(&private), "shown elsewhere");
        // The same words answer something that nobody called private.
        answered(&history, &chat(&["Who is the queen?"]), SORRY, &unsaid());
        let goes_on = |said: &[&str]| again(&history, &chat(said));
        assert_eq!(goes_on(&["Who is the queen?", SORRY, "Guess."]), unsaid());
        assert_eq!(goes_on(&["Who  is the queen?\n", SORRY, "Guess."]), unsaid());
        assert!(goes_on(&["What do I earn?", SORRY, "Guess."]).covers(&private));
        // Behind other messages, or as a part of an answer, it may be the private one.
        for said in [
            ["Who is the king?", SORRY, "Guess."],
            [
                "Who is the queen?",
                "I am sorry, I do not know that.\nReally.",
                "Guess.",
            ],
            ["Who is the queen?", SORRY, SORRY],
            [SORRY, "Who is the queen?", "Guess."],
        ] {
            assert!(goes_on(&said).covers(&private), "{said:?}");
        }
        // A message that somebody else put before it makes another conversation of it.
        let mut longer = chat(&["Who is the queen?", SORRY, "Guess."]);
        if let Source::Chat(turns) = &mut longer.source {
            turns.insert(0, Turn::new("system", "Be brief."));
        }
        assert!(again(&history, &longer).covers(&private));
        // What was private there once stays so.
        answered(&history, &chat(&["Who is the queen?"]), SORRY, &private);
        assert!(goes_on(&["Who is the queen?", SORRY, "Guess."]).covers(&private));
    }

    #[test]
    fn a_question_that_is_quicker_than_the_book_waits_for_it() {
        let (_home, history) = history();
        let writing = Arc::new(Writing::default());
        let (private, lines) = (Label::mark("salaries"), marks(SUMMARY));
        writing.begin(lines.iter());
        let quick = |text: &str, wait| known(&history, &writing, &chat(&[text]), &[], wait);
        assert_eq!(
            quick("Something else that is as long as that.", Wait::Written),
            Label::public()
        );
        assert_eq!(quick(SUMMARY, Wait::Not), Label::public());
        let asks = std::thread::scope(|threads| {
            let asks = threads.spawn(|| quick(SUMMARY, Wait::Written));
            std::thread::sleep(Duration::from_millis(50));
            history.label(&lines, &private).unwrap();
            writing.end(lines.iter());
            asks.join().unwrap()
        });
        assert_eq!(asks, private);
        writing.begin(lines.iter());
        assert!(
            !writing.is_done(&lines, Duration::from_millis(1)),
            "nobody waits for ever"
        );
    }

    #[test]
    fn choices_are_remembered_apart() {
        let mut trace = Trace::new(Arc::new(chat(&["Who?"])));
        for (choice, piece) in [
            (0, "The person earns five "),
            (1, "They would like to "),
            (0, "thousand."),
        ] {
            trace.hears(choice, piece);
        }
        assert_eq!(trace.said[&0].text, "The person earns five thousand.");
        trace.calls(1, "{}");
        assert!(trace.said[&1].more && !trace.said[&0].more);
        trace.hears(0, &"x".repeat(ANSWER_BYTES_MAX));
        assert!(trace.said[&0].more, "it was not looked at to its end");
    }

    #[test]
    fn what_cannot_be_read_is_as_private_as_can_be() {
        let (home, history) = history();
        std::fs::create_dir(home.path().join("chats.sqlite")).unwrap();
        assert_eq!(shown(&history, SUMMARY), Label::top());
        let long = "a line that is long enough to be told from others\n".repeat(LINES_MAX + 1);
        assert_eq!(shown(&history, long.as_str()), Label::top());
        assert_eq!(shown(&history, "short"), Label::public());
    }
}
