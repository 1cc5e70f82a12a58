//! Trains the model of names: `train_names TRAIN.jsonl HELD.jsonl OUT [EPOCHS]`. `models/recipe/names` makes the lines
//! `{"text","spans":[{"start","end","type"}]}`, offsets in code points.
//!
//! An averaged structured perceptron: where the best line of tags is not the right one, the features of the right one gain and
//! those of the wrong one lose; the average over all steps is kept, in a byte a weight.
#![allow(clippy::print_stdout, reason = "a program that tells what it does")]
#![allow(clippy::disallowed_methods, reason = "it reads files; the crate does not")]

use std::collections::BTreeMap;
use std::fs;

use heph_privacy::pii::names::{self, MAGIC, TAGS, Tag, Token, UNKNOWN};
use heph_privacy::pii::{self};

/// Rows of the table of weights, as a power of two: 2^18 rows of seven bytes are 1.8 MB.
const BITS: u32 = 18;

/// Words in a hundred that are hidden in training, in names and around them, so that unseen names are known by their form
/// and place, and in unseen sentences.
const HIDDEN: [u64; 2] = [40, 20];

struct Line {
    tokens: Vec<Token>,
    tags: Vec<Tag>,
}

fn read(path: &str) -> Vec<Line> {
    let text = fs::read_to_string(path).expect("a file of lines");
    text.lines().map(line).collect()
}

fn line(json: &str) -> Line {
    let value: serde_json::Value = serde_json::from_str(json).expect("a line of JSON");
    let text = value["text"].as_str().expect("a text");
    let mut places: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
    places.push(text.len());
    let tokens = names::tokens(text, &pii::patterns(text));
    let mut tags = vec![Tag::Outside; tokens.len()];
    for span in value["spans"].as_array().expect("spans") {
        let place = |key: &str| places[span[key].as_u64().expect("an offset") as usize];
        let (first, on) = match span["type"].as_str() {
            Some("PERSON") => (Tag::Person, Tag::PersonOn),
            Some("ADDRESS") => (Tag::Address, Tag::AddressOn),
            Some("ORGANIZATION") => (Tag::Organisation, Tag::OrganisationOn),
            _ => continue,
        };
        let (start, end) = (place("start"), place("end"));
        for (token, tag) in tokens.iter().zip(&mut tags) {
            if token.start >= start && token.end <= end {
                *tag = if token.start == start { first } else { on };
            }
        }
    }
    Line { tokens, tags }
}

#[derive(Default)]
struct Weights {
    now: Vec<[i32; TAGS]>,
    /// Each change times the step at which it was made: the average is `now` less this by the number of steps.
    late: Vec<[i64; TAGS]>,
    follows: [[i32; TAGS]; TAGS],
    follows_late: [[i64; TAGS]; TAGS],
    step: i64,
}

impl Weights {
    fn tags(&self, rows: &[Vec<usize>]) -> Vec<Tag> {
        let scores = rows.iter().map(|rows| {
            let mut scores = [0; TAGS];
            for row in rows {
                scores.iter_mut().zip(self.now[*row]).for_each(|(s, w)| *s += w);
            }
            scores
        });
        names::best(scores, &self.follows)
    }

    fn change(&mut self, rows: &[usize], tag: Tag, by: i32) {
        for row in rows {
            self.now[*row][tag as usize] += by;
            self.late[*row][tag as usize] += i64::from(by) * self.step;
        }
    }

    fn change_follow(&mut self, before: Tag, tag: Tag, by: i32) {
        self.follows[before as usize][tag as usize] += by;
        self.follows_late[before as usize][tag as usize] += i64::from(by) * self.step;
    }

    /// The averages as the file holds them.
    fn file(&self) -> Vec<u8> {
        let steps = self.step as f64;
        let average = |now: i32, late: i64| f64::from(now) - late as f64 / steps;
        let pairs = self.now.iter().flatten().zip(self.late.iter().flatten());
        let averages: Vec<f64> = pairs.map(|(n, l)| average(*n, *l)).collect();
        let mut sizes: Vec<f64> = averages.iter().map(|a| a.abs()).filter(|a| *a > 0.0).collect();
        sizes.sort_by(f64::total_cmp);
        // One weight in two thousand is cut to the largest byte.
        let scale = 127.0 / sizes[sizes.len() - 1 - sizes.len() / 2000];
        let mut file = MAGIC.to_vec();
        file.push(BITS as u8);
        for (now, late) in self
            .follows
            .iter()
            .flatten()
            .zip(self.follows_late.iter().flatten())
        {
            file.extend(((average(*now, *late) * scale).round() as i32).to_le_bytes());
        }
        file.extend(
            averages
                .iter()
                .map(|a| (a * scale).round().clamp(-127.0, 127.0) as i8 as u8),
        );
        file
    }
}

/// Numbers that are the same at every run.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn rows(tokens: &[Token]) -> Vec<Vec<usize>> {
    (0..tokens.len())
        .map(|place| {
            let mut found = Vec::with_capacity(names::FEATURES_MAX);
            names::features(tokens, place, &mut found);
            found.iter().map(|f| (f & ((1 << BITS) - 1)) as usize).collect()
        })
        .collect()
}

fn epoch(weights: &mut Weights, lines: &[Line], order: &mut [usize], drawn: &mut Drawn) -> usize {
    for i in (1..order.len()).rev() {
        order.swap(i, drawn.below(i as u64 + 1) as usize);
    }
    let mut wrong = 0;
    for line in order.iter().map(|i| &lines[*i]).filter(|l| !l.tokens.is_empty()) {
        let mut tokens = line.tokens.clone();
        for (token, tag) in tokens.iter_mut().zip(&line.tags) {
            if drawn.below(100) < HIDDEN[usize::from(*tag == Tag::Outside)] {
                token.word = UNKNOWN;
            }
        }
        let rows = rows(&tokens);
        let said = weights.tags(&rows);
        weights.step += 1;
        if said == line.tags {
            continue;
        }
        wrong += 1;
        let (mut before_said, mut before_right) = (Tag::Outside, Tag::Outside);
        for ((rows, said), right) in rows.iter().zip(said).zip(line.tags.iter().copied()) {
            if said != right {
                weights.change(rows, right, 1);
                weights.change(rows, said, -1);
            }
            if (before_said, said) != (before_right, right) {
                weights.change_follow(before_right, right, 1);
                weights.change_follow(before_said, said, -1);
            }
            (before_said, before_right) = (said, right);
        }
    }
    wrong
}

/// Where things begin and end, and what they are.
fn spans(tags: &[Tag]) -> Vec<(usize, usize, Tag)> {
    let mut found: Vec<(usize, usize, Tag)> = Vec::new();
    for (i, tag) in tags.iter().enumerate() {
        match tag {
            Tag::Outside => {}
            Tag::Person | Tag::Address | Tag::Organisation => found.push((i, i + 1, *tag)),
            _ => {
                if let Some(last) = found.last_mut() {
                    last.1 = i + 1;
                }
            }
        }
    }
    found
}

fn report(model: &names::Model, lines: &[Line]) {
    let mut counts: BTreeMap<Tag, [usize; 3]> = BTreeMap::new();
    for line in lines {
        let (said, right) = (spans(&model.tags(&line.tokens)), spans(&line.tags));
        for span in &right {
            counts.entry(span.2).or_default()[if said.contains(span) { 0 } else { 1 }] += 1;
        }
        for span in said.iter().filter(|s| !right.contains(s)) {
            counts.entry(span.2).or_default()[2] += 1;
        }
    }
    for (tag, [hit, missed, extra]) in counts {
        let f1 = 2.0 * hit as f64 / (2 * hit + missed + extra) as f64;
        println!("  {tag:?}: strict F1 {f1:.3} ({hit} found, {missed} missed, {extra} too many)");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [train, held, out, rest @ ..] = &arguments[..] else {
        println!("train_names TRAIN.jsonl HELD.jsonl OUT [EPOCHS]");
        return;
    };
    let epochs: usize = rest.first().map_or(6, |n| n.parse().expect("a number of epochs"));
    let (train, held) = (read(train), read(held));
    println!("{} lines to train on, {} held out", train.len(), held.len());
    let mut weights = Weights {
        now: vec![[0; TAGS]; 1 << BITS],
        late: vec![[0; TAGS]; 1 << BITS],
        ..Weights::default()
    };
    let mut order: Vec<usize> = (0..train.len()).collect();
    let mut drawn = Drawn(0x9e37_79b9_7f4a_7c15);
    for n in 1..=epochs {
        let wrong = epoch(&mut weights, &train, &mut order, &mut drawn);
        println!("epoch {n}: {wrong} lines wrong");
        let file = weights.file();
        report(&names::Model::read(&file).expect("what was written"), &held);
        fs::write(out, file).expect("a place to write");
    }
}
