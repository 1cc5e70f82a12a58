//! Plans and receipts in words, for people.

use std::io::{self, Write};

use heph_plan::replan::MoveBy;
use heph_plan::{Decision, Forwarding, Mode, Place, Plan, Stage};
use heph_runtime::desk::Answer;
use heph_runtime::receipt::{MoveLine, PlaceLine, Receipt};
use heph_types::{LayerRange, Leaves, NodeId};

use crate::terminal::{self, Style};

/// Width of the names that stand before each line.
const COLUMN: usize = 12;

/// A decision: the plan and why it is this one; with `all`, also why it is none of the others.
pub(crate) fn write_decision(
    out: &mut impl Write,
    decision: &Decision,
    style: Style,
    all: bool,
) -> io::Result<()> {
    let plan = &decision.plan;
    write_plan(out, plan)?;
    line(out, "why", &decision.reason.sentence)?;
    if !all {
        return Ok(());
    }
    writeln!(out, "\n{}", style.dim("The other ways:"))?;
    for other in &decision.alternatives {
        writeln!(out, "  {:<20} {}", other.mode.name(), other.why_not)?;
    }
    Ok(())
}

fn write_plan(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    line(out, "mode", plan.mode.name())?;
    line(
        out,
        "model",
        &format!("{}, kv {}, {}", plan.model_name, plan.kv.name(), plan.exactness),
    )?;
    for (at, stage) in plan.stages.iter().enumerate() {
        let name = if at == 0 { "stages" } else { "" };
        line(out, name, &stage_words(stage, &plan.stages[..at], plan))?;
    }
    if plan.forwarding == Forwarding::Direct {
        line(
            out,
            "forwards",
            "direct: rows go from machine to machine, a copy comes here",
        )?;
    }
    if let Some(draft) = plan.draft {
        let words = format!(
            "{} tokens a round are guessed here by {}",
            draft.length, draft.source
        );
        line(out, "drafts", &words)?;
    }
    let expected = &plan.expected;
    let per_s = 1.0 / expected.per_token.as_secs_f64().max(1e-9);
    let words = format!(
        "first token {}, then {per_s:.0} tokens/s; {} in all",
        seconds(expected.first_token.as_secs_f64()),
        seconds(expected.total.as_secs_f64())
    );
    line(out, "time", &words)?;
    let (up, down) = (
        terminal::bytes(expected.bytes_up),
        terminal::bytes(expected.bytes_down),
    );
    line(out, "network", &format!("{up} up, {down} down"))?;
    line(out, "cost", &format!("{} credits", expected.credits))?;
    line(out, "privacy", &privacy(plan))
}

fn stage_words(stage: &Stage, before: &[Stage], plan: &Plan) -> String {
    let place = match stage.place {
        Place::Desk => "here".to_owned(),
        Place::Peer => format!("{} ({})", stage.name, stage.role),
    };
    // What a machine holds is told once, of all its stages.
    let memory = match before.iter().any(|other| other.node == stage.node) {
        true => "in the same memory".to_owned(),
        false => terminal::bytes(stage.memory),
    };
    let sent = match stage.send_bytes {
        0 => String::new(),
        bytes => format!(", {} of it sent there first", terminal::bytes(bytes)),
    };
    format!(
        "{:<16} {place:<20} {memory}{sent}",
        layers(stage.layers, all_layers(plan))
    )
}

fn all_layers(plan: &Plan) -> usize {
    plan.stages.last().map_or(0, |stage| stage.layers.end())
}

/// Layers as people say them.
fn layers(range: LayerRange, all: usize) -> String {
    match (range.start(), range.end()) {
        (0, 0) => "embedding".to_owned(),
        (start, end) if start == end => "head".to_owned(),
        (0, end) if end == all => "the whole model".to_owned(),
        (start, end) => format!("layers {start}..{end}"),
    }
}

/// What each machine sees.
fn privacy(plan: &Plan) -> String {
    let seen = plan
        .remote_stages()
        .map(|stage| format!("{} sees {}", stage.name, stage.sees));
    let mut seen: Vec<String> = seen.collect();
    seen.dedup();
    if seen.is_empty() {
        return "nothing leaves this machine".to_owned();
    }
    let inverted = plan
        .remote_stages()
        .any(|stage| stage.sees == Leaves::Activations);
    let note = match (plan.mode, inverted) {
        (Mode::Preprocess, _) => " (the question and the chosen spans)",
        (_, true) => " (activations can be turned back into text, with effort)",
        (_, false) => "",
    };
    format!("{}{note}", seen.join(", "))
}

/// The machines that could not be asked.
pub(crate) fn write_away(out: &mut impl Write, away: &[(String, String)]) -> io::Result<()> {
    away.iter()
        .try_for_each(|(name, why)| line(out, "away", &format!("{name}: {why}")))
}

/// A receipt, the lines that say nothing left out.
pub(crate) fn write_receipt(out: &mut impl Write, receipt: &Receipt) -> io::Result<()> {
    line(out, "mode", &format!("{}, {}", receipt.mode, receipt.exactness))?;
    let all = receipt
        .places
        .iter()
        .map(|place| place.layers.end())
        .max()
        .unwrap_or(0);
    for (at, place) in receipt.places.iter().enumerate() {
        let saw = match place.saw {
            Leaves::Nothing => String::new(),
            saw => format!(", saw {saw}"),
        };
        let words = format!(
            "tokens {}..{}: {} {}{saw}",
            place.from,
            place.to,
            layers(place.layers, all),
            place.name
        );
        line(out, if at == 0 { "computed" } else { "" }, &words)?;
    }
    let mut told = None;
    for moved in &receipt.moves {
        let gap = moved
            .gap_s
            .map_or(String::new(), |gap| format!(", {} without a token", seconds(gap)));
        let by = match moved.by {
            MoveBy::Replay => "",
            MoveBy::Transfer => "with its cache ",
        };
        // What was moved together was moved for one reason.
        let why = match told.replace((moved.at, &moved.why)) == Some((moved.at, &moved.why)) {
            true => String::new(),
            false => format!(": {}", moved.why),
        };
        let words = format!(
            "{} went from {} to {} {by}at token {}{gap}{why}",
            layers(moved.layers, all),
            moved.from,
            moved.to,
            moved.at,
        );
        line(out, if why.is_empty() { "" } else { "moved" }, &words)?;
    }
    for (at, given_up) in receipt.degraded.iter().enumerate() {
        line(out, if at == 0 { "given up" } else { "" }, given_up)?;
    }
    for (at, bytes) in receipt.traffic.iter().enumerate() {
        let (up, down) = (terminal::bytes(bytes.up), terminal::bytes(bytes.down));
        line(
            out,
            if at == 0 { "network" } else { "" },
            &format!("{}: {up} up, {down} down", bytes.name),
        )?;
    }
    for (at, sent) in receipt.weights.iter().enumerate() {
        let words = format!(
            "{} of {} sent to {} before",
            terminal::bytes(sent.bytes),
            layers(sent.layers, all),
            sent.name
        );
        let first = at == 0 && receipt.traffic.is_empty();
        line(out, if first { "network" } else { "" }, &words)?;
    }
    for bytes in &receipt.between {
        let words = format!(
            "{} to {}: {} direct, as {} says",
            bytes.from,
            bytes.to,
            terminal::bytes(bytes.bytes),
            bytes.from
        );
        line(out, "", &words)?;
    }
    let (right, judged) = (receipt.guesses.right, receipt.guesses.judged);
    if judged > 0 {
        let words = format!("{right} of {judged} drafted tokens were right");
        line(out, "guessed", &words)?;
    } else if made_without_guesses(receipt) {
        line(out, "guessed", "nothing")?;
    }
    let words = format!(
        "first token {} (planned {}), {:.0} tokens/s (planned {:.0})",
        seconds(receipt.first_token_s),
        seconds(receipt.expected_first_token_s),
        receipt.tokens_per_s,
        receipt.expected_tokens_per_s
    );
    line(out, "time", &words)
}

/// That the answer did not end as the `mode` that was asked for by name wants it, if it did not, in one sentence.
/// `here` is this machine; other machines were planned with where `elsewhere`.
pub(crate) fn mode_lost(
    mode: Mode,
    (here, elsewhere): (NodeId, bool),
    places: &[PlaceLine],
    moves: &[MoveLine],
) -> Option<String> {
    let end = places.iter().map(|place| place.to).max()?;
    let last = places.iter().filter(|place| place.to == end);
    let mut machines: Vec<(NodeId, &str)> = last.map(|place| (place.node, &*place.name)).collect();
    machines.sort_unstable();
    machines.dedup();
    let is_kept = match mode {
        Mode::Local => true,
        Mode::Layered | Mode::LayeredSpeculative => machines.len() > 1,
        Mode::Remote | Mode::Speculative | Mode::Preprocess => machines.iter().any(|(node, _)| *node != here),
    };
    let who: Vec<&str> = machines
        .into_iter()
        .map(|(node, name)| if node == here { "this machine" } else { name })
        .collect();
    let who = who.join(" and ");
    match moves.last() {
        _ if is_kept => None,
        Some(MoveLine { at, why, .. }) => Some(format!(
            "from token {at} on {who} made the answer, and not as --mode {mode} was planned: {why}"
        )),
        // A conversation goes on where an answer before it went.
        None => elsewhere.then(|| {
            format!("{who} made the answer, and not as --mode {mode} was planned: a machine was lost before")
        }),
    }
}

/// That nothing was guessed ahead of the answer although the `mode` that was asked for by name guesses, in one sentence.
pub(crate) fn unguessed(mode: Mode, receipt: &Receipt) -> Option<String> {
    (mode == receipt.mode && made_without_guesses(receipt)).then(|| {
        format!(
            "nothing was guessed ahead, though --mode {mode} was asked for: there was nothing to guess by, or it was expected to gain nothing"
        )
    })
}

/// The first tokens of an answer, by which a line may be timed before anything is guessed.
const TOKENS_TIMED: usize = 3;

/// Whether the answer had room for guesses, in a mode that guesses, and none were sent.
fn made_without_guesses(receipt: &Receipt) -> bool {
    let guesses = matches!(receipt.mode, Mode::Speculative | Mode::LayeredSpeculative);
    guesses && receipt.guesses.sent == 0 && receipt.answer_tokens > TOKENS_TIMED && receipt.moves.is_empty()
}

/// What became of an answer that was planned by nobody: this machine alone gave it.
pub(crate) fn write_here(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    line(out, "mode", Mode::Local.name())?;
    let tokens = answer.prompt.len() + answer.tokens.len();
    line(
        out,
        "computed",
        &format!("tokens 0..{tokens}: the whole model here"),
    )?;
    for (at, given_up) in answer.degraded.iter().enumerate() {
        line(out, if at == 0 { "given up" } else { "" }, given_up)?;
    }
    let words = format!(
        "first token {}, {:.0} tokens/s",
        seconds(answer.prefill.as_secs_f64()),
        answer.decode_tok_s()
    );
    line(out, "time", &words)
}

/// Who computed what, in a few words.
pub(crate) fn places(receipt: &Receipt) -> String {
    let all = receipt
        .places
        .iter()
        .map(|place| place.layers.end())
        .max()
        .unwrap_or(0);
    let words = |place: &PlaceLine| format!("{} {}", layers(place.layers, all), place.name);
    let words: Vec<String> = receipt.places.iter().map(words).collect();
    words.join(", ")
}

fn line(out: &mut impl Write, name: &str, text: &str) -> io::Result<()> {
    writeln!(out, "{name:<COLUMN$}{text}")
}

/// A time as people read it.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 99.5 => format!("{s:.1} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_that_was_named_is_missed_where_the_answer_ended_in_another() {
        let node = |at: u8| NodeId([at; 32]);
        let here = node(0);
        let range = |start, end| LayerRange::new(start, end, 8).unwrap();
        let place = |at: u8, from, to, layers| PlaceLine {
            from,
            to,
            layers,
            node: node(at),
            name: format!("node {at}"),
            role: None,
            saw: Leaves::Nothing,
        };
        let whole = |at: u8, from, to| place(at, from, to, range(0, 8));
        let halves = |at: u8| vec![place(0, 0, 20, range(0, 4)), place(at, 0, 20, range(4, 8))];
        let gone = |at: u8| vec![whole(at, 0, 11), whole(0, 11, 20)];
        let moved = [MoveLine {
            layers: range(0, 8),
            from: "node 1".to_owned(),
            to: "node 0".to_owned(),
            why: "it fell silent".to_owned(),
            lost: true,
            by: MoveBy::Replay,
            at: 11,
            gap_s: None,
        }];
        let lost = |mode, places: &[PlaceLine]| mode_lost(mode, (here, true), places, &moved);
        let elsewhere = [whole(1, 0, 11), whole(2, 11, 20)];
        for mode in [Mode::Remote, Mode::Speculative, Mode::Preprocess] {
            let said = "from token 11 on this machine made the answer, and not as --mode";
            let said = format!("{said} {mode} was planned: it fell silent");
            assert_eq!(lost(mode, &gone(1)), Some(said));
            assert_eq!(lost(mode, &elsewhere), None, "another one went on with it");
            let later = |elsewhere| mode_lost(mode, (here, elsewhere), &[whole(0, 0, 20)], &[]);
            assert_eq!(later(false), None, "it was planned so");
            assert!(later(true).is_some_and(|said| said.contains("lost before")));
        }
        assert_eq!(lost(Mode::Local, &gone(1)), None);
        for mode in [Mode::Layered, Mode::LayeredSpeculative] {
            assert_eq!(lost(mode, &halves(1)), None);
            let said = lost(mode, &elsewhere).unwrap();
            assert!(said.contains("on node 2 made the answer"), "{said}");
        }
    }

    #[test]
    fn a_mode_that_guesses_is_missed_where_nothing_was_guessed() {
        let receipt = |mode, sent, answer_tokens| {
            let mut receipt = Receipt::here("a model", 8, 20);
            (receipt.mode, receipt.guesses.sent, receipt.answer_tokens) = (mode, sent, answer_tokens);
            receipt
        };
        for mode in [Mode::Speculative, Mode::LayeredSpeculative] {
            let said = unguessed(mode, &receipt(mode, 0, 20)).unwrap();
            assert!(said.contains(&format!("--mode {mode}")), "{said}");
            assert_eq!(unguessed(mode, &receipt(mode, 1, 20)), None);
            assert_eq!(
                unguessed(mode, &receipt(mode, 0, TOKENS_TIMED)),
                None,
                "there was no room"
            );
        }
        assert_eq!(unguessed(Mode::Remote, &receipt(Mode::Remote, 0, 20)), None);
    }
}
