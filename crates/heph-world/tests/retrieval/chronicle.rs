//! Long made-up documents with questions about them: facts planted among other facts and idle sentences.
//!
//! Every fact is a distractor of its neighbours: people share first or last names, amounts and dates differ in one
//! digit, and each relation is told of many. Names, relations and wordings are not those of `models/recipe/embedder`.

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Name,
    Number,
    Date,
}

/// A question with its only answer and the sentences that hold it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The kind of question, for the table.
    pub(crate) kind: &'static str,
    pub(crate) question: String,
    pub(crate) wanted: Wanted,
    pub(crate) answer: String,
    /// Without all of these, as they stand in the document, it cannot be answered.
    pub(crate) gold: Vec<String>,
    /// What the question names.
    pub(crate) names: Vec<String>,
}

/// A document and its questions.
#[derive(Debug)]
pub(crate) struct Chronicle {
    pub(crate) text: String,
    pub(crate) asked: Vec<Asked>,
}

/// How many people and places a document tells of, and its idle sentences for each fact.
const PEOPLE: usize = 18;
const PLACES: usize = 12;
const IDLE: usize = 4;

/// The document of a seed.
pub(crate) fn chronicle(seed: u64) -> Chronicle {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5);
    let mut asked = Vec::new();
    for name in names(&mut dice, PEOPLE, PERSON_FIRST, PERSON_LAST) {
        for relation in dice.some(PERSON, 5) {
            asked.push(fact(relation, &name, &mut dice));
        }
    }
    for name in names(&mut dice, PLACES, PLACE_FIRST, PLACE_LAST) {
        for relation in dice.some(PLACE, 4) {
            asked.push(fact(relation, &name, &mut dice));
        }
    }
    for _ in 0..8 {
        asked.push(bill(&mut dice));
        asked.push(opening(&mut dice));
        asked.push(told_in_two(&mut dice));
    }
    for noun in dice.some(NOUNS, 4) {
        asked.push(nameless(NAMELESS_NOISE, noun, &mut dice));
        asked.push(nameless(NAMELESS_CROWD, noun, &mut dice));
    }
    let text = tell(&asked, &mut dice);
    Chronicle { text, asked }
}

/// A relation: how it is told and asked; `{x}` is who, `{v}` what.
struct Relation {
    kind: &'static str,
    wanted: Wanted,
    told: &'static [&'static str],
    asked: &'static [&'static str],
}

const fn relation(
    kind: &'static str,
    wanted: Wanted,
    told: &'static [&'static str],
    asked: &'static [&'static str],
) -> Relation {
    Relation {
        kind,
        wanted,
        told,
        asked,
    }
}

const PERSON: &[Relation] = &[
    relation(
        "apprentice",
        Wanted::Name,
        &[
            "{x} learned the craft under {v}.",
            "It was {v} who taught {x} the trade.",
        ],
        &["Who taught {x}?", "Who was the teacher of {x}?"],
    ),
    relation(
        "pension",
        Wanted::Number,
        &[
            "{x} draws a pension of {v} crowns.",
            "A pension of {v} crowns goes to {x}.",
        ],
        &["How large is the pension of {x}?", "What pension does {x} get?"],
    ),
    relation(
        "death",
        Wanted::Date,
        &["{x} died on {v}.", "{x} passed away on {v}."],
        &["When did {x} die?", "On which day did {x} pass away?"],
    ),
    relation(
        "debt",
        Wanted::Number,
        &[
            "{x} owed the bank {v} crowns.",
            "The bank had lent {v} crowns to {x}.",
        ],
        &["How much did {x} owe the bank?", "What was the debt of {x}?"],
    ),
    relation(
        "votes",
        Wanted::Number,
        &["{x} received {v} votes.", "In the count {v} votes went to {x}."],
        &[
            "How many votes did {x} receive?",
            "How many people voted for {x}?",
        ],
    ),
    relation(
        "ship",
        Wanted::Name,
        &["{x} sailed on the {v}.", "{x} went aboard the {v}."],
        &[
            "On which ship did {x} sail?",
            "What was the vessel of {x} called?",
        ],
    ),
    relation(
        "surgery",
        Wanted::Date,
        &["Surgeons operated on {x} on {v}.", "{x} had surgery on {v}."],
        &["When was the operation of {x}?", "When was {x} operated on?"],
    ),
    relation(
        "height",
        Wanted::Number,
        &[
            "{x} stood {v} centimetres tall.",
            "The height of {x} was {v} centimetres.",
        ],
        &["How tall was {x}?", "What was the height of {x}?"],
    ),
    relation(
        "heir",
        Wanted::Name,
        &[
            "{x} left everything to {v}.",
            "The will of {x} names {v} as the only heir.",
        ],
        &["Who inherited from {x}?", "Who was the heir of {x}?"],
    ),
    relation(
        "exam",
        Wanted::Date,
        &[
            "{x} passed the examination on {v}.",
            "On {v} the examiners let {x} through.",
        ],
        &[
            "When did {x} pass the examination?",
            "When did {x} take the exam?",
        ],
    ),
];

const PLACE: &[Relation] = &[
    relation(
        "souls",
        Wanted::Number,
        &["{x} counts {v} souls.", "{v} people dwell in {x}."],
        &[
            "How many inhabitants does {x} have?",
            "What is the population of {x}?",
        ],
    ),
    relation(
        "mayor",
        Wanted::Name,
        &["{x} chose {v} as its mayor.", "{v} became mayor of {x}."],
        &["Who is the mayor of {x}?", "Who governs {x}?"],
    ),
    relation(
        "flood",
        Wanted::Date,
        &["The river flooded {x} on {v}.", "{x} stood under water on {v}."],
        &["When was {x} flooded?", "When did the flood reach {x}?"],
    ),
    relation(
        "well",
        Wanted::Number,
        &[
            "The well of {x} is {v} feet deep.",
            "They dug {v} feet down for the well of {x}.",
        ],
        &[
            "How deep is the well of {x}?",
            "What is the depth of the well in {x}?",
        ],
    ),
    relation(
        "builder",
        Wanted::Name,
        &[
            "The tower of {x} was built by {v}.",
            "{v} raised the tower of {x}.",
        ],
        &[
            "Who built the tower of {x}?",
            "Who was the architect of the tower in {x}?",
        ],
    ),
    relation(
        "rent",
        Wanted::Number,
        &[
            "The mill at {x} pays a rent of {v} crowns.",
            "{v} crowns of rent come from the mill at {x}.",
        ],
        &[
            "What rent does the mill at {x} pay?",
            "How much does the mill at {x} bring in?",
        ],
    ),
    relation(
        "charter",
        Wanted::Date,
        &[
            "{x} was given its charter on {v}.",
            "The charter of {x} bears the date {v}.",
        ],
        &[
            "When did {x} get its charter?",
            "What is the date of the charter of {x}?",
        ],
    ),
];

const PERSON_FIRST: &[&str] = &[
    "Marit", "Osric", "Tilda", "Bram", "Ysolde", "Corwin", "Petra", "Anselm", "Runa", "Jorah",
];
const PERSON_LAST: &[&str] = &[
    "Vantongeren",
    "Holloway",
    "Brisk",
    "Okonjo",
    "Tarrant",
    "Lindqvist",
    "Morrow",
    "Aldaine",
    "Pell",
    "Sorrel",
];
const PLACE_FIRST: &[&str] = &["Nether", "Upper", "Saint", "Old", "West", "Long"];
const PLACE_LAST: &[&str] = &[
    "Wexcombe",
    "Dunmarrow",
    "Hestle",
    "Quillhaven",
    "Farrowgate",
    "Ambry",
];
const SHIPS: &[&str] = &[
    "Halcyon",
    "Bittern",
    "Merganser",
    "Northern Dawn",
    "Perpetua",
    "Gannet",
    "Sandpiper",
    "Old Resolve",
];
const THINGS: &[&str] = &[
    "ferry landing",
    "corn exchange",
    "reading room",
    "toll gate",
    "rope walk",
    "signal mast",
    "bath house",
    "assay office",
];
const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A fact about `name`, with the ways it is told and asked drawn apart.
fn fact(relation: &Relation, name: &str, dice: &mut Dice) -> Asked {
    let answer = match relation.wanted {
        Wanted::Number => dice.number(),
        Wanted::Date => dice.date(),
        Wanted::Name if relation.kind == "ship" => (*dice.pick(SHIPS)).to_owned(),
        Wanted::Name => format!("{} {}", dice.pick(PERSON_FIRST), dice.pick(PERSON_LAST)),
    };
    let told = dice
        .pick(relation.told)
        .replace("{x}", name)
        .replace("{v}", &answer);
    Asked {
        kind: relation.kind,
        question: dice.pick(relation.asked).replace("{x}", name),
        wanted: relation.wanted,
        answer,
        gold: vec![told],
        names: vec![name.to_owned()],
    }
}

/// A bill, asked for by its number.
fn bill(dice: &mut Dice) -> Asked {
    let code = format!("QX-{}", 40_000 + dice.below(9_999));
    let answer = dice.number();
    let payer = dice.pick(PERSON_LAST);
    Asked {
        kind: "code",
        question: format!("What was the amount of bill {code}?"),
        wanted: Wanted::Number,
        gold: vec![format!("Bill {code}, sent to {payer}, came to {answer} crowns.")],
        answer,
        names: vec![code],
    }
}

/// Something that happened on a day, asked for by the day in another spelling.
fn opening(dice: &mut Dice) -> Asked {
    let (day, month, year) = (1 + dice.below(28), dice.below(12), 1700 + dice.below(200));
    let answer = format!("{} {}", dice.pick(PERSON_LAST), dice.pick(SHIPS));
    let thing = dice.pick(THINGS);
    let told = format!("{} {day}, {year}", MONTHS[month]);
    Asked {
        kind: "day",
        question: format!("Who opened something on {day} {} {year}?", MONTHS[month]),
        wanted: Wanted::Name,
        gold: vec![format!("A {thing} was opened by {answer} on {told}.")],
        answer,
        names: vec![told],
    }
}

/// A fact whose sentence says only `he` or `she`, behind the one that names them.
fn told_in_two(dice: &mut Dice) -> Asked {
    let name = format!(
        "{} {}",
        dice.pick(PERSON_FIRST),
        dice.pick(&["Ravensworth", "Thistlewood", "Abernethy", "Crane"])
    );
    let name = format!("{name} of {}", dice.pick(PLACE_LAST));
    let answer = dice.number();
    let he = dice.pick(&["He", "She"]);
    Asked {
        kind: "pronoun",
        question: format!("How many acres did {name} buy?"),
        wanted: Wanted::Number,
        gold: vec![
            format!("{name} came back rich from the wars."),
            format!("{he} bought {answer} acres by the river."),
        ],
        answer,
        names: vec![name],
    }
}

/// Told and asked in words of which only the noun is the same, and that is everywhere.
const NAMELESS_NOISE: [&str; 2] = [
    "{v} complaints reached the council about the noise of the {x}.",
    "how many people objected because the {x} was so loud?",
];
const NAMELESS_CROWD: [&str; 2] = [
    "{v} visitors came to see the {x}.",
    "how many guests looked at the {x}?",
];

/// A fact about something without a name.
fn nameless([told, asked]: [&str; 2], noun: &str, dice: &mut Dice) -> Asked {
    let answer = dice.number();
    Asked {
        kind: NAMELESS,
        question: asked.replace("{x}", noun),
        wanted: Wanted::Number,
        gold: vec![told.replace("{x}", noun).replace("{v}", &answer)],
        answer,
        names: Vec::new(),
    }
}

/// The kind of questions that name nothing: nothing is locked for them.
pub(crate) const NAMELESS: &str = "nameless";

/// Distinct names that share their parts.
fn names(dice: &mut Dice, count: usize, first: &[&str], last: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    while names.len() < count {
        let name = format!("{} {}", dice.pick(first), dice.pick(last));
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// All facts in an order of their own, each in a paragraph with idle sentences.
fn tell(asked: &[Asked], dice: &mut Dice) -> String {
    let mut order: Vec<&Asked> = asked.iter().collect();
    for at in (1..order.len()).rev() {
        order.swap(at, dice.below(at + 1));
    }
    let mut text = String::new();
    for one in order {
        let before = dice.below(IDLE + 1);
        let mut sentences: Vec<String> = (0..before).map(|_| idle(dice)).collect();
        sentences.extend(one.gold.iter().cloned());
        sentences.extend((before..IDLE).map(|_| idle(dice)));
        text.push_str(&sentences.join(" "));
        text.push_str("\n\n");
    }
    text
}

const NOUNS: &[&str] = &[
    "orchard",
    "chapel",
    "granary",
    "ditch",
    "tollhouse",
    "smithy",
    "pasture",
    "stile",
    "beacon",
    "weir",
    "cellar",
    "hedge",
    "causeway",
    "dovecote",
    "kiln",
    "larder",
    "mooring",
    "quarry",
    "rampart",
    "scullery",
    "thicket",
    "vineyard",
    "wharf",
    "yard",
];
const VERBS: &[&str] = &[
    "overlooked",
    "bordered",
    "outlasted",
    "adjoined",
    "sheltered",
    "faced",
    "replaced",
    "crowded",
    "warmed",
    "shaded",
    "divided",
];
const ADJECTIVES: &[&str] = &[
    "crooked",
    "mossy",
    "silent",
    "weathered",
    "narrow",
    "sunken",
    "draughty",
    "gabled",
    "ruined",
    "whitewashed",
    "busy",
    "damp",
];

/// A sentence that answers nothing; some hold numbers and names all the same.
fn idle(dice: &mut Dice) -> String {
    let (a, b, c) = (dice.pick(ADJECTIVES), dice.pick(NOUNS), dice.pick(NOUNS));
    match dice.below(6) {
        0 => format!("In those years the {a} {b} {} the {c}.", dice.pick(VERBS)),
        1 => format!("Nobody could say why the {b} {} the {a} {c}.", dice.pick(VERBS)),
        2 => format!(
            "Some {} stones of the {b} were carried to the {a} {c}.",
            dice.number()
        ),
        3 => format!(
            "{} {} spoke of the {a} {b}.",
            dice.pick(PERSON_FIRST),
            dice.pick(PERSON_LAST)
        ),
        4 => format!("The {a} {b} burned on {}.", dice.date()),
        _ => format!("By autumn the {c} and the {a} {b} were forgotten."),
    }
}

/// Numbers from a seed (SplitMix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Distinct ones, in order.
    fn some<'a, T>(&mut self, from: &'a [T], count: usize) -> Vec<&'a T> {
        let start = self.below(from.len());
        (0..count)
            .map(|at| &from[(start + at * 3) % from.len()])
            .collect()
    }

    fn number(&mut self) -> String {
        let number = 1_000 + self.below(90_000);
        match self.below(2) {
            0 => number.to_string(),
            _ => format!("{},{:03}", number / 1000, number % 1000),
        }
    }

    fn date(&mut self) -> String {
        let (day, month, year) = (1 + self.below(28), self.below(12), 1700 + self.below(200));
        match self.below(3) {
            0 => format!("{day} {} {year}", MONTHS[month]),
            1 => format!("{} {day}, {year}", MONTHS[month]),
            _ => format!("{year}-{:02}-{day:02}", month + 1),
        }
    }
}
