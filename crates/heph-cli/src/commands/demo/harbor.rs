//! The document of the demonstration: the log of a harbor that nobody would want to send whole.

use std::fmt::Write;

/// Its days.
const DAYS: usize = 180;

/// What is asked about it.
pub(super) const QUESTION: &str = "What did the Heron bring to Felix on day 77?";

/// What the file is called; citations say so.
pub(super) const NAME: &str = "harbor.txt";

const BOATS: [&str; 7] = ["Heron", "Swallow", "Otter", "Lark", "Willow", "Puffin", "Clover"];

const TOWNS: [&str; 11] = [
    "Amberly",
    "Brook",
    "Corran",
    "Dunmore",
    "Elsby",
    "Farrow",
    "Glenn",
    "Harlow",
    "Ivybridge",
    "Kestrel Bay",
    "Marlow",
];

const GOODS: [&str; 8] = [
    "baskets of apples",
    "boxes of candles",
    "barrels of honey",
    "bags of flour",
    "rolls of blue cloth",
    "crates of pears",
    "jars of jam",
    "bundles of wood",
];

const NAMES: [&str; 13] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jonas", "Lena", "Mira",
    "Nora",
];

/// The log: one sentence a day, now and then the weather.
pub(super) fn log() -> String {
    let mut log = String::new();
    for day in 1..=DAYS {
        // Numbers without a common part lead through all pairs.
        let (boat, town) = (BOATS[day * 5 % 7], TOWNS[day * 3 % 11]);
        let (count, goods, name) = (day * 7 % 41 + 2, GOODS[day * 11 % 8], NAMES[day * 8 % 13]);
        let end = if day % 6 == 0 { '\n' } else { ' ' };
        // Writing to a string cannot fail.
        let _ = write!(
            log,
            "On day {day} the {boat} came from {town} with {count} {goods} for {name}.{end}"
        );
        if day % 9 == 0 {
            log.push_str("It rained all morning, and the harbor was quiet. ");
        }
    }
    log
}
