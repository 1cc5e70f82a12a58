//! The bundled model of names on sentences that it was not trained on, in several languages and layouts.

use heph_privacy::pii;
use heph_privacy::pii::names::Model;

/// A sentence with what is to be found in it, between double brackets, each behind the first letter of its type.
const SENTENCES: &[&str] = &[
    "The janitor let [[P:Marguerite Oyelaran]] into the archive before dawn.",
    "Nobody told [[P:Tobias Lindqvist]] that the ferry had been cancelled.",
    "Please send the replacement keyboard to [[A:17 Larkspur Crescent, Exeter, EX4 6RT]].",
    "Our summer house stands at [[A:Seeblickstraße 14, 88131 Lindau]].",
    "Frau [[P:Wiesner]] hat die Schlüssel gestern abgegeben.",
    "Ich heiße [[P:Annegret Pohlmann]] und wohne in der [[A:Gartenstraße 9, 04109 Leipzig]].",
    "La plainte de [[P:Bérénice Fauchard]] a été classée.",
    "Mi vecina [[P:Rosalía Quintanilla]] perdió las llaves.",
    "Il dottor [[P:Bonfanti]] riceve il martedì.",
    "{\"guest\": \"[[P:Priya Venkataraman]]\", \"nights\": 3}",
    "reviewer=[[P:Hana Dvorak]];score=4;",
    "guest,room\n[[P:Luciana Prado]],12\n[[P:Erik Halvorsen]],14",
    "The boiler was repaired on Tuesday and works well again.",
    "Version 12 of the compiler rejects this program.",
    "Boil the rice for ten minutes, then add the beans.",
];

#[test]
fn names_are_found_in_sentences_of_many_kinds() {
    let (mut right, mut wanted, mut extra) = (0, 0, 0);
    for marked in SENTENCES {
        let (text, names) = unmarked(marked);
        let spans = pii::scan(&text, Model::bundled());
        let found: Vec<_> = spans.iter().map(|s| (s.bytes.clone(), s.kind)).collect();
        wanted += names.len();
        right += names.iter().filter(|n| found.contains(n)).count();
        extra += found.iter().filter(|f| !names.contains(f)).count();
    }
    // A small model is wrong at times; how often on many sentences, the recipe says.
    assert!(
        right * 10 >= wanted * 8 && extra <= 3,
        "{right} of {wanted} found, {extra} too many"
    );
}

fn unmarked(marked: &str) -> (String, Vec<(std::ops::Range<usize>, &'static str)>) {
    let (mut text, mut names) = (String::new(), Vec::new());
    for (n, part) in marked.split("[[").enumerate() {
        let Some((named, rest)) = part.split_once("]]").filter(|_| n > 0) else {
            text.push_str(part);
            continue;
        };
        let (kind, name) = named.split_once(':').unwrap();
        let kind = if kind == "P" { "PERSON" } else { "ADDRESS" };
        names.push((text.len()..text.len() + name.len(), kind));
        text.push_str(name);
        text.push_str(rest);
    }
    (text, names)
}

#[test]
fn the_same_text_gives_the_same_names_and_a_pattern_wins_over_the_model() {
    let text = "Call Ann Meyer on +49 30 6509482 about card 4111 1111 1111 1111.";
    let kinds: Vec<_> = pii::scan(text, Model::bundled()).iter().map(|s| s.kind).collect();
    assert_eq!(kinds, ["PERSON", "PHONE", "CREDIT_CARD"]);
}
