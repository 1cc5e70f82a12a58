//! How private a conversation is that goes on for long: by what was read for it, by what was said in it, and by the file that it was taken from.

use std::path::Path;

use heph_privacy::label::Label;
use serde::{Deserialize, Serialize};

use super::{Discretion, unsaid};
use crate::desk::Message;
use crate::preprocess::label_of;

/// The label of a conversation, whoever answers and whatever was forgotten since. It never falls: what was private once stays so in all that
/// follows.
#[derive(Debug, Clone, Default)]
pub struct Talk(Label);

/// A message in a file, and how private the conversation was, where that is more than what nobody said anything about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    #[serde(flatten)]
    message: Message,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<Label>,
}

impl Talk {
    /// One that is as private as a person says, whoever answers: it may be saved here, and asked elsewhere later.
    pub fn of(said: Label) -> Self {
        Talk(said)
    }

    /// It is about these documents, too.
    pub fn reads<'a>(&mut self, documents: impl IntoIterator<Item = &'a Label>) {
        self.0 = documents
            .into_iter()
            .fold(self.0.clone(), |all, one| all.join(one));
    }

    /// These texts are asked, excerpts and earlier answers included: what `discretion` says may be told of them is as private as the conversation,
    /// and that is as private as they are.
    pub fn asks<'a>(&mut self, discretion: &Discretion, texts: impl IntoIterator<Item = &'a str>) {
        discretion.also(&self.0);
        discretion.about(texts);
        self.0 = discretion.label();
    }

    /// Its messages, to be kept in a file.
    pub fn saved(&self, messages: &[Message]) -> Vec<Saved> {
        let label = Some(&self.0).filter(|label| !unsaid().covers(label));
        let saved = messages.iter().map(|message| Saved {
            message: message.clone(),
            label: label.cloned(),
        });
        saved.collect()
    }

    /// It goes on from what the file at `path` says: it is as private as that was, and as what stands there.
    pub fn goes_on_from(&mut self, path: &Path, saved: Vec<Saved>) -> Vec<Message> {
        let stands = label_of(path);
        let labels = saved.iter().filter_map(|saved| saved.label.as_ref());
        self.0 = labels.fold(self.0.join(&stands), |all, one| all.join(one));
        saved.into_iter().map(|saved| saved.message).collect()
    }
}

#[cfg(test)]
mod tests {
    use heph_privacy::label::Level;

    use super::*;
    use crate::rules::testing::rules;

    /// What a conversation is by the rules of somebody who minds labels.
    fn asks(talk: &mut Talk, text: &str) -> Label {
        let (_home, rules) = rules("version = 1\npreset = \"redact-then-remote\"\n");
        let discretion = Discretion::new(&rules, unsaid());
        talk.asks(&discretion, [text]);
        discretion.label()
    }

    fn kept(path: &Path, talk: &Talk) -> Vec<Saved> {
        let said = talk.saved(&[Message::new("user", "Who gets the mill?")]);
        std::fs::write(path, serde_json::to_vec(&said).unwrap()).unwrap();
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn a_conversation_stays_as_private_as_what_was_read_for_it() {
        let mut talk = Talk::default();
        talk.reads([&Label::of_path("kept/note.txt"), &Label::of_path("a/b.txt")]);
        // The documents are forgotten; the conversation is about them.
        for text in ["Who gets the mill?", "And then?"] {
            assert!(asks(&mut talk, text).meets("folder:kept"));
        }
    }

    #[test]
    fn a_conversation_stays_as_private_as_what_was_said_in_it() {
        let mut talk = Talk::default();
        assert_eq!(asks(&mut talk, "Who gets the mill?").level(), Level::Internal);
        assert!(asks(&mut talk, "Write to ann.lee@example.org").meets("pii:EMAIL"));
        assert!(asks(&mut talk, "And then?").meets("pii:EMAIL"));
    }

    #[test]
    fn what_a_person_says_of_a_conversation_is_saved_also_where_nobody_asked_how_private_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("talk.json");
        let mut again = Talk::default();
        again.goes_on_from(&path, kept(&path, &Talk::of(Label::mark("salaries"))));
        assert!(asks(&mut again, "And then?").meets("user:salaries"));
    }

    #[test]
    fn what_is_saved_and_taken_up_again_is_as_private() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("letters");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("talk.json");
        let mut talk = Talk::default();
        talk.reads([&Label::of_path("kept/note.txt")]);
        asks(&mut talk, "Write to ann.lee@example.org");
        let mut again = Talk::default();
        let messages = again.goes_on_from(&path, kept(&path, &talk));
        assert_eq!(messages[0].content, "Who gets the mill?");
        let label = asks(&mut again, "And then?");
        assert!(
            label.meets("folder:kept") && label.meets("pii:EMAIL"),
            "{label:?}"
        );
        assert!(label.meets("folder:letters"), "where the file stands: {label:?}");
        // What was more private before stays so, whatever is loaded.
        let open = kept(&path, &Talk::default());
        assert!(
            serde_json::to_string(&open).unwrap().find("label").is_none(),
            "nobody said anything"
        );
        again.goes_on_from(&path, open);
        assert!(asks(&mut again, "And then?").meets("folder:kept"));
    }
}
