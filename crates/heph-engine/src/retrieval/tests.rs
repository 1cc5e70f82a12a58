//! What choosing promises, for every question and source.

use super::*;

/// The texts of the chosen spans with a budget that holds only what is locked.
fn locked_only(question: &str, sources: &[&str]) -> (Vec<String>, Vec<Lock>) {
    let question = Question::read(question).unwrap();
    let survey = Survey::of(&question, sources).unwrap();
    let chosen = survey.choose(&[], 0, |_| 0);
    let text = |s: &Span| sources[s.source][s.bytes.clone()].to_owned();
    (chosen.spans.iter().map(text).collect(), chosen.locks)
}

/// Paragraphs that hold nothing anybody asks for.
fn filler(paragraphs: usize) -> String {
    let words = [
        "harbour", "lantern", "meadow", "copper", "winter", "bridge", "barley", "signal",
    ];
    let sentence = |n: usize| {
        let word = |k: usize| words[(n * 7 + k * 3) % words.len()];
        format!(
            "The {} by the {} kept its {} until the {} was mended again. ",
            word(0),
            word(1),
            word(2),
            word(3)
        )
    };
    (0..paragraphs)
        .map(|n| sentence(n) + &sentence(n + 3) + "\n\n")
        .collect()
}

#[test]
fn what_the_question_names_is_kept_wherever_it_stands() {
    let cases = [
        (
            "When did Ada Lovelace join?",
            "Nobody knew that Ada Lovelace had joined them.",
            "Ada Lovelace",
        ),
        (
            "when did ada lovelace join?",
            "Nobody knew that Ada Lovelace had joined them.",
            "Lovelace",
        ),
        (
            "Who paid invoice NE-45244?",
            "An old sheet lists invoice NE-45244 as paid.",
            "NE-45244",
        ),
        (
            "Who owes 1240 dollars?",
            "A debt of $1,240 was written off.",
            "1,240",
        ),
        (
            "What happened on 14 March 2011?",
            "The dam broke on 2011-03-14.",
            "2011-03-14",
        ),
        (
            "Who is Lovelace Byron?",
            "A certain Lovelace signed the book.",
            "Lovelace",
        ),
        (
            "What does \"blue harbour\" mean?",
            "They called the plan blue harbour.",
            "blue harbour",
        ),
        ("Where is Łódź?", "The train to Łódź left at noon.", "Łódź"),
        (
            "Where does José live?",
            "A letter reached Jose in spring.",
            "Jose",
        ),
        ("「東京」はどこですか", "彼は東京に住んでいます。", "東京"),
    ];
    for (question, planted, name) in cases {
        for place in [0, 5, 20] {
            let text = format!("{}{planted}\n\n{}", filler(place), filler(20 - place));
            let (chosen, locks) = locked_only(question, &[&filler(4), &text]);
            assert!(
                chosen.iter().any(|c| c.contains(name)),
                "{question} {place}: {chosen:?} {locks:?}"
            );
        }
    }
}

#[test]
fn a_name_that_a_cut_would_tear_is_kept_whole() {
    // Every alignment of a name against the ends of spans, in a text without sentences.
    for shift in 0..520 {
        let text = format!(
            "{} Ada Lovelace {}",
            "w ".repeat(shift / 2 + 100),
            "v ".repeat(400)
        );
        let (chosen, _) = locked_only("Who is Ada Lovelace?", &[&text]);
        let whole = chosen.join(" ");
        assert!(whole.contains("Ada Lovelace"), "{shift}: {chosen:?}");
    }
}

#[test]
fn what_no_source_holds_is_said_to_be_absent() {
    let (chosen, locks) = locked_only("Did Grace Hopper pay 77 dollars?", &[&filler(10)]);
    assert!(chosen.is_empty());
    assert!(
        locks.iter().all(|l| l.kept == Kept::Absent) && locks.iter().any(|l| l.text == "77"),
        "{locks:?}"
    );
}

#[test]
fn a_word_with_a_capital_in_the_sources_alone_is_a_name() {
    let text = format!(
        "{}The plan was Marlow's idea, and Marlow kept it.\n\n{}",
        filler(5),
        filler(5)
    );
    let (chosen, locks) = locked_only("what did marlow keep?", &[&text]);
    assert!(
        locks.iter().any(|l| l.text == "marlow" && l.kept == Kept::Kept),
        "{locks:?}"
    );
    assert_eq!(chosen.len(), 1);
    // A word that the sources write small is none.
    let (_, locks) = locked_only("what did the harbour keep?", &[&filler(5)]);
    assert!(locks.is_empty(), "{locks:?}");
}

#[test]
fn the_budget_is_kept_unless_a_lock_needs_more() {
    let text = filler(200);
    let question = Question::read("which lantern stood by the bridge?").unwrap();
    let survey = Survey::of(&question, &[&text]).unwrap();
    for budget in [0, 100, 500, 2000, 10_000] {
        let chosen = survey.choose(&[], budget, |_| 40);
        let used: usize = chosen.spans.iter().map(|s| s.bytes.len() + 40).sum();
        assert!(used <= budget, "{used} of {budget}");
        assert_eq!(chosen.over_budget, 0);
    }
    let question = Question::read("Who is Ada Lovelace?").unwrap();
    let text = format!("{text}Ada Lovelace wrote the first program of all.");
    let chosen = Survey::of(&question, &[&text]).unwrap().choose(&[], 10, |_| 0);
    assert!(chosen.over_budget > 0 && !chosen.spans.is_empty());
}

#[test]
fn citations_are_the_bytes_they_name() {
    let text = format!(
        "{}É. Lovelace paid 77 dollars. Nobody saw it. \n\n{}",
        filler(30),
        filler(30)
    );
    let sources = [
        Source {
            name: "one.txt",
            text: &filler(3),
        },
        Source {
            name: "two.txt",
            text: &text,
        },
    ];
    let question = Question::read("Who paid 77 dollars by the copper bridge?").unwrap();
    let survey = Survey::of(&question, &sources.map(|s| s.text)).unwrap();
    for budget in [0, 800, 3000, 100_000] {
        let selection = survey.choose(&[], budget, |s| Upload::overhead(&sources[s]));
        let upload = Upload::of(&question, &sources, &selection);
        for (at, c) in upload.citations.iter().enumerate() {
            let excerpt = &sources[c.source].text[c.bytes.clone()];
            let shown = format!(
                "[{} {}:{}-{}]\n{excerpt}\n\n",
                at + 1,
                c.name,
                c.bytes.start,
                c.bytes.end
            );
            assert!(upload.text.contains(&shown), "{shown}");
        }
        assert!(upload.text.contains("77 dollars") && upload.text.ends_with(question.text()));
        let most = (budget + selection.over_budget) + Upload::frame(&question);
        assert!(upload.text.len() <= most, "{} {most}", upload.text.len());
    }
}

#[test]
fn the_same_question_chooses_the_same() {
    let (one, other) = (filler(50), filler(70));
    let question = Question::read("copper signal of the Winter bridge").unwrap();
    let survey = Survey::of(&question, &[&one, &other]).unwrap();
    let likeness: Vec<_> = (0..survey.len())
        .map(|span| Likeness {
            span,
            cosine: (span % 7) as f32 / 7.0,
        })
        .collect();
    let first = survey.choose(&likeness, 3000, |_| 20);
    assert_eq!(first, survey.choose(&likeness, 3000, |_| 20));
    assert!(first.spans.is_sorted_by_key(|s| (s.source, s.bytes.start)));
}

#[test]
fn strange_texts_are_searched_like_any() {
    let strange = [
        String::new(),
        "\0\u{1}\u{feff}".to_owned(),
        "\u{202e}Ada\u{200d} Lovelace".to_owned(),
        "e\u{301}".repeat(5000),
        "9".repeat(100_000),
        "1.2.3.4,5,6:7 ".repeat(2000),
        "ﬃ İ ß Ǆ".repeat(500),
        "👩‍👩‍👧‍👦".repeat(2000),
        "March ".repeat(5000),
        "-/.,".repeat(5000),
    ];
    for text in &strange {
        let asked: String = text.chars().take(300).collect();
        for question in ["Who is Ada Lovelace on 14 March 2011?", &asked] {
            let Ok(question) = Question::read(question) else {
                continue;
            };
            let survey = Survey::of(&question, &[text]).unwrap();
            survey.choose(&[], text.len() / 6, |_| 30);
        }
    }
}

#[test]
fn too_much_is_refused_by_name() {
    let question = Question::read("who?").unwrap();
    let many = vec![""; SOURCES_MAX + 1];
    assert_eq!(
        Survey::of(&question, &many).unwrap_err(),
        SurveyError::TooMany {
            sources: SOURCES_MAX + 1
        }
    );
    let part = " ".repeat(SOURCE_BYTES_MAX / 2 + 1);
    assert!(matches!(
        Survey::of(&question, &[&part, &part]).unwrap_err(),
        SurveyError::TooLarge { .. }
    ));
}
