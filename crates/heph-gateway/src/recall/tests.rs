//! The bundled encoder under a stream of questions of which many are nearly alike and have other answers.

use std::collections::HashMap;

use heph_engine::model::{LoadOptions, Model};
use heph_engine::worker::Worker;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_runtime::open;
use heph_runtime::store::Found as Files;
use heph_runtime::words::Words;

use super::*;

const OPENINGS: [&str; 5] = [
    "",
    "Hello! ",
    "A quick question: ",
    "I would like to know: ",
    "Tell me, please: ",
];

const CAPITALS: [(&str, &str); 8] = [
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Norway", "Oslo"),
    ("Peru", "Lima"),
    ("Kenya", "Nairobi"),
    ("Japan", "Tokyo"),
    ("Chile", "Santiago"),
];

/// Animals whose names are no names, and whether they live in water.
const ANIMALS: [(&str, bool); 10] = [
    ("dog", false),
    ("cat", false),
    ("shark", true),
    ("whale", true),
    ("hen", false),
    ("salmon", true),
    ("cow", false),
    ("goat", false),
    ("trout", true),
    ("lion", false),
];

/// Questions with their answers: the same asked in many ways, and others that differ in a name, a number or a denial.
fn questions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |forms: &[String], answer: &str| {
        for opening in OPENINGS {
            all.extend(
                forms
                    .iter()
                    .map(|form| (format!("{opening}{form}"), answer.to_owned())),
            );
        }
    };
    for (country, capital) in CAPITALS {
        let forms = [
            "What is the capital of",
            "Name the capital of",
            "What city is the capital of",
        ];
        add(&forms.map(|form| format!("{form} {country}?")), capital);
        add(
            &[format!("What is not the capital of {country}?")],
            &format!("All but {capital}"),
        );
    }
    for number in 2..14 {
        let forms = [
            format!("What do {number} coins of 5 weigh?"),
            format!("What is the weight of {number} coins of 5?"),
            format!("What will {number} coins of 5 weigh?"),
        ];
        add(&forms, &(number * 5).to_string());
    }
    for (animal, water) in ANIMALS {
        let forms = [
            "Does a {} live in water?",
            "Is water where a {} lives?",
            "Is the home of a {} water?",
        ];
        add(
            &forms.map(|form| form.replace("{}", animal)),
            if water { "Yes" } else { "No" },
        );
    }
    all
}

struct Encoder {
    words: Words,
    worker: Worker,
    known: HashMap<String, Vec<f32>>,
}

impl Encoder {
    fn open() -> Self {
        let source = open::open(&Files::Bundled(bundled::EMBED)).unwrap();
        let words = Words::of(&source.vocabulary().unwrap()).unwrap();
        let model = Model::load(
            Arc::new(source),
            &LoadOptions::default(),
            &Pool::serial(),
            &mut |_| {},
        )
        .unwrap();
        Self {
            words,
            worker: Worker::new(Arc::new(model), Arc::new(Pool::serial()), Isa::best()),
            known: HashMap::new(),
        }
    }

    fn asked(&mut self, text: &str) -> Asked {
        if !self.known.contains_key(text) {
            let tokens = self.words.tokenizer.encode_within(text, usize::MAX).unwrap();
            let vector = self.worker.encode(&[&tokens]).unwrap().remove(0);
            self.known.insert(text.to_owned(), vector);
        }
        Asked {
            realm: Realm([1; 32]),
            topic: Topic([1; 32]),
            text: text.to_owned(),
            marks: Marks::of(text).unwrap(),
            vector: self.known[text].clone(),
        }
    }
}

#[test]
fn questions_that_are_nearly_alike_keep_within_the_bound() {
    let (mut encoder, all) = (Encoder::open(), questions());
    for share in [0.02, 0.1, 0.3] {
        let mut recall = Recall::new(Bound::new(share).unwrap());
        let (mut again, mut wrong, mut state) = (0_u32, 0_u32, 9_u64);
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        for _ in 0..2_500 {
            let (text, truth) = &all[(draw() * all.len() as f64) as usize];
            match recall.look(encoder.asked(text), draw()) {
                Verdict::Ask(lesson) => recall.learn(lesson, truth),
                Verdict::Again(recalled) if recalled.question == *text => assert_eq!(recalled.answer, *truth),
                Verdict::Again(recalled) => {
                    again += 1;
                    wrong += u32::from(recalled.answer != *truth);
                }
            }
        }
        let most = share * f64::from(again) + 2.0 * (share * f64::from(again)).sqrt();
        assert!(f64::from(wrong) <= most, "{share}: {wrong} of {again}");
        if share == 0.3 {
            assert!(again > 0, "it never dares");
        }
    }
}

#[test]
fn near_misses_have_other_marks() {
    let all = questions();
    let of = |text: &str| Marks::of(text).unwrap();
    for (a, b) in [
        ("What is the capital of Peru?", "What is the capital of Kenya?"),
        ("What is the capital of Peru?", "What is not the capital of Peru?"),
        ("What do 7 coins of 5 weigh?", "What do 8 coins of 5 weigh?"),
    ] {
        assert!(all.iter().any(|(text, _)| text == a) && all.iter().any(|(text, _)| text == b));
        assert_ne!(of(a), of(b));
    }
}

#[test]
fn answers_of_what_is_more_private_are_not_given_to_what_is_less() {
    let topic = Topic([7; 32]);
    let of = |label: &Label| as_private(&topic, label).0;
    let (public, kept) = (Label::public(), Label::mark("kept"));
    assert_eq!(of(&kept), of(&Label::mark("kept")));
    assert!(of(&public) != of(&kept) && of(&kept) != of(&kept.join(&Label::mark("other"))));
}
