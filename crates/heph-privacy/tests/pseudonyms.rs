//! Pseudonyms and their way back, at any cut of the answer.

use heph_privacy::pii;
use heph_privacy::pii::names::Model;
use heph_privacy::pseudonym::{PAIRS_MAX, PseudonymError, Pseudonyms, Replacing, Restorer, VaultError};

struct Drawn(u64);

impl Drawn {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

const PIECES: &[&str] = &[
    "Please charge card 4111 1111 1111 1111",
    "mail ann.lee@example.org",
    "call +49 30 6509482",
    "password: hunter2abc!X",
    "born on 04 Sep 2005",
    "IBAN DE89370400440532013000",
    "from 192.168.0.7",
    "ssn 078-05-1121",
    "token ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "é 身份证 😀",
    "nothing here",
    "card 5500 0000 0000 0004 and 4111 1111 1111 1111",
    "zed@corp.example",
    "1 Mill Street",
    "Robin Vale",
    "⟦0⟧",
    "mail ann.lee@example.org ann.lee@example.org",
];

/// Texts of the pieces above in any order, and whether what looks like pseudonyms that were given before is in them.
fn document(drawn: &mut Drawn, before: &str) -> (String, bool) {
    let mut text = String::new();
    for _ in 0..1 + drawn.below(5) {
        text.push_str(PIECES[drawn.below(PIECES.len())]);
        text.push_str([", ", "\n", " ", ". ", ";"][drawn.below(5)]);
    }
    let echo = drawn.below(4) == 0 && !before.is_empty();
    if echo {
        let cut = before
            .char_indices()
            .map(|(i, _)| i)
            .nth(drawn.below(before.chars().count()))
            .unwrap();
        text.push_str(&before[cut..]);
    }
    (text, echo)
}

/// The same text in pieces that are cut anywhere.
fn in_pieces(session: &Pseudonyms, text: &str, drawn: &mut Drawn) -> String {
    let mut restorer = Restorer::new(session);
    let letters: Vec<char> = text.chars().collect();
    let mut whole = String::new();
    let mut place = 0;
    while place < letters.len() {
        let most = [1, 3, 40][drawn.below(3)];
        let end = letters.len().min(place + 1 + drawn.below(most));
        let piece: String = letters[place..end].iter().collect();
        whole.push_str(&restorer.push(&piece));
        place = end;
    }
    whole + &restorer.finish()
}

#[test]
fn ten_thousand_documents_come_back_as_they_were_at_any_cut() {
    let mut drawn = Drawn(0x1234_5678_9abc_def1);
    let mut session = Pseudonyms::new([1; 32]);
    let mut before = String::new();
    for n in 0..10_000 {
        if n % 100 == 0 {
            session = Pseudonyms::new([(n / 100) as u8; 32]);
        }
        let (text, echo) = document(&mut drawn, &before);
        let spans = pii::patterns(&text);
        let away = session.replace(&text, &spans).unwrap();
        for span in spans.iter().filter(|s| s.kind != "DATE") {
            let original = &text[span.bytes.clone()];
            // What looks like a pseudonym, or like a part of one, may stand for something else there.
            assert!(echo || !away.contains(original), "{text:?} left as {away:?}");
        }
        assert_eq!(in_pieces(&session, &away, &mut drawn), text);
        assert_eq!(session.restore(&away), text);
        before = away;
    }
}

#[test]
fn pseudonyms_look_like_what_they_stand_for_and_stay_the_same() {
    let mut session = Pseudonyms::new([5; 32]);
    let text =
        "card 4111 1111 1111 1111, ssn 078-05-1121, mail ann.lee@corp.example, ip 10.1.2.3, born 1990-02-03";
    let spans = pii::patterns(text);
    let away = session.replace(text, &spans).unwrap();
    let kinds = |text: &str| pii::patterns(text).iter().map(|s| s.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&away), kinds(text), "{away}");
    assert_eq!(session.replace(text, &spans).unwrap(), away);
    let mut other = Pseudonyms::new([6; 32]);
    assert_ne!(other.replace(text, &spans).unwrap(), away);
}

#[test]
fn an_answer_that_names_somebody_in_its_own_words_is_turned_back() {
    let mut session = Pseudonyms::new([5; 32]);
    let text = "mail ann.lee@corp.example";
    let away = session.replace(text, &pii::patterns(text)).unwrap();
    let name = away.strip_prefix("mail ").unwrap();
    assert_eq!(
        session.restore(&format!("I wrote to <{name}>.")),
        "I wrote to <ann.lee@corp.example>."
    );
}

#[test]
fn a_vault_opens_with_its_key_and_unchanged_only() {
    let mut session = Pseudonyms::new([5; 32]);
    let text = "call +49 30 6509482";
    let away = session.replace(text, &pii::patterns(text)).unwrap();
    let sealed = session.seal(&[9; 32], [1; 12]).unwrap();
    assert!(!sealed.windows(7).any(|w| w == b"6509482"));
    let again = Pseudonyms::open(&sealed, &[9; 32]).unwrap();
    assert_eq!(again, session);
    assert_eq!(again.restore(&away), text);
    assert_eq!(Pseudonyms::open(&sealed, &[8; 32]), Err(VaultError::Damaged));
    assert_eq!(Pseudonyms::open(b"heph", &[9; 32]), Err(VaultError::Unknown));
    for place in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[place] ^= 4;
        assert!(Pseudonyms::open(&changed, &[9; 32]).is_err(), "byte {place}");
        assert!(Pseudonyms::open(&sealed[..place], &[9; 32]).is_err());
    }
}

#[test]
fn what_is_replaced_in_json_leaves_json_and_comes_back_as_it_was() {
    let written = r#"{"to":"ann.lee\u0040example.org","text":"Hello,\nthe card is 4111\u00a01111\u00a01111\u00a01111\nAnn Lee"}"#;
    let spans = pii::scan(written, Model::bundled());
    let mut session = Pseudonyms::new([5; 32]);
    let away = session.replace(written, &spans).unwrap();
    let read: serde_json::Value = serde_json::from_str(&away).unwrap();
    let text = read.to_string();
    assert!(
        !text.contains("ann.lee") && !text.contains("1111") && !away.contains("1111"),
        "{away}"
    );
    assert!(read["to"].as_str().is_some_and(|to| to.contains('@')), "{away}");
    assert_eq!(session.restore(&away), written);
}

#[test]
fn masks_say_what_stood_there_and_are_never_turned_back() {
    let mut session = Pseudonyms::masks();
    assert_eq!(session.replacing(), Replacing::Masks);
    let mut mask = |text: &str| session.replace(text, &pii::scan(text, Model::bundled())).unwrap();
    let masked = mask("mail ann.lee@example.org and zed@corp.example, then ann.lee@example.org");
    assert_eq!(masked, "mail [EMAIL 1] and [EMAIL 2], then [EMAIL 1]");
    // The same thing keeps its number in a conversation, and kinds are counted apart.
    assert_eq!(
        mask("zed@corp.example, card 4111 1111 1111 1111"),
        "[EMAIL 2], card [CREDIT_CARD 1]"
    );
    let answer = "I wrote to [EMAIL 1].";
    assert_eq!(session.restore(answer), answer);
    assert_eq!(session.len(), 3);
    // What nobody turns back is kept nowhere.
    assert_eq!(session.seal(&[9; 32], [1; 12]), Err(VaultError::Masks));
    let mut restorer = Restorer::new(&session);
    assert_eq!(
        restorer.push("[EM") + &restorer.push("AIL 2]") + &restorer.finish(),
        "[EMAIL 2]"
    );
    let mut drawn = Drawn(11);
    for _ in 0..200 {
        let (text, _) = document(&mut drawn, "");
        let spans = pii::scan(&text, Model::bundled());
        let masked = Pseudonyms::masks().replace(&text, &spans).unwrap();
        for span in &spans {
            // What is found twice may be part of another word that is no find.
            let found = &text[span.bytes.clone()];
            assert!(
                text.matches(found).count() > masked.matches(found).count(),
                "{found} in {masked}"
            );
        }
    }
}

/// As many as a session keeps: where each new one looked through all others, this took minutes.
#[test]
fn a_session_is_full_of_masks_in_time_and_takes_no_more() {
    let texts =
        |from: usize, to: usize| -> String { (from..to).map(|n| format!("a{n}@example.org ")).collect() };
    let mut session = Pseudonyms::masks();
    let mut mask = |text: &str| session.replace(text, &pii::patterns(text));
    let masked = mask(&texts(0, PAIRS_MAX)).unwrap();
    assert!(masked.ends_with(&format!("[EMAIL {PAIRS_MAX}] ")), "counted on");
    assert_eq!(mask(&texts(7, 8)).unwrap(), "[EMAIL 8] ");
    assert_eq!(mask(&texts(PAIRS_MAX, PAIRS_MAX + 1)), Err(PseudonymError::Full));
}
