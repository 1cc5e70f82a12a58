//! One question through every mode, over this machine and the demonstration's nodes: the same words every time, also
//! where a node is killed in the middle.

use std::cell::RefCell;
use std::io::{self, Write};

use heph_plan::{Mode, Place, Plan};
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Finish, Prompt};
use heph_runtime::receipt::Receipt;
use heph_types::NodeId;

use super::nodes::NodeProcess;
use crate::asking::{Asking, Sizes};
use crate::explain;
use crate::failure::{Exit, Failure};
use crate::terminal::{self, Style};

/// The modes that need no documents, in the order in which they are shown.
const MODES: [Mode; 5] = [
    Mode::Local,
    Mode::Remote,
    Mode::Layered,
    Mode::Speculative,
    Mode::LayeredSpeculative,
];

/// Of the answer that loses a node: where it does, as a share of the whole answer.
const KILLED_AT: f64 = 0.4;

/// One answer, for the table.
pub(super) struct Row {
    what: String,
    receipt: Receipt,
    same: bool,
}

/// What is asked, and what the answer has to be.
pub(super) struct Task<'a> {
    pub(super) prompt: Prompt<'a>,
    pub(super) options: &'a AnswerOptions,
    pub(super) answer: &'a Answer,
    pub(super) cancel: &'a Cancel,
}

/// Answers in every mode, and once more while a node is killed.
pub(super) fn rows(asking: &Asking, nodes: &mut [NodeProcess], task: &Task<'_>) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for mode in MODES {
        rows.push(row(asking, mode, task, None)?);
    }
    rows.push(row(asking, Mode::Layered, task, Some(nodes))?);
    Ok(rows)
}

/// One answer. With `victims` the node that holds the most of the model is killed in the middle of it.
fn row(
    asking: &Asking,
    mode: Mode,
    task: &Task<'_>,
    victims: Option<&mut [NodeProcess]>,
) -> Result<Row, Failure> {
    let size = task.prompt.tokens(asking.words())?.len();
    let record = asking.plan(Some(mode), Sizes::of(size), task.options.max_tokens)?;
    let plan = &record.decision.plan;
    let (mut desk, meter) = asking.desk(&record)?;
    let mut victim = victims.and_then(|nodes| largest(plan, nodes));
    let what = match &victim {
        None => mode.name().to_owned(),
        Some(node) => format!("{mode}, {} killed", node.name),
    };
    let bytes = task.answer.text.len();
    let bar = terminal::steps_bar(&format!("{what:<26}"), bytes as u64);
    let said = RefCell::new(0);
    let killed_at = (bytes as f64 * KILLED_AT) as usize;
    let mut on_text = |text: &str| {
        *said.borrow_mut() += text.len();
        bar.set_position(*said.borrow() as u64);
        if *said.borrow() >= killed_at
            && let Some(node) = victim.take()
        {
            node.kill();
        }
    };
    let answer = desk.answer(task.prompt, task.options, &mut on_text);
    bar.finish_and_clear();
    let answer = answer?;
    if answer.finish == Finish::Cancelled && task.cancel.is_raised() {
        return Err(Failure::Stopped);
    }
    Ok(Row {
        what,
        same: answer.tokens == task.answer.tokens,
        receipt: Receipt::new(plan, asking.pool(), &answer, &meter.read()),
    })
}

/// The node with the most layers of a plan.
fn largest<'a>(plan: &Plan, nodes: &'a mut [NodeProcess]) -> Option<&'a mut NodeProcess> {
    let stages = plan.stages.iter().filter(|stage| stage.place == Place::Peer);
    let most: NodeId = stages.max_by_key(|stage| stage.layers.len())?.node;
    nodes.iter_mut().find(|node| node.node == most)
}

/// The table of all answers.
pub(super) fn write(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let style = Style::of_stdout();
    writeln!(
        out,
        "  {:<26} {:>8} {:>7}  {:>9} {:>9}  {:<7} {:<9}  computed by",
        "mode", "tokens/s", "first", "up", "down", "class", "identical"
    )?;
    for row in rows {
        let receipt = &row.receipt;
        let (up, down) = receipt
            .traffic
            .iter()
            .fold((0, 0), |(up, down), t| (up + t.up, down + t.down));
        let same = match row.same {
            true => style.green("yes      "),
            false => style.red("NO       "),
        };
        writeln!(
            out,
            "  {:<26} {:>8.0} {:>7}  {:>9} {:>9}  {:<7} {same}  {}",
            row.what,
            receipt.tokens_per_s,
            explain::seconds(receipt.first_token_s),
            terminal::bytes(up),
            terminal::bytes(down),
            receipt.exactness.to_string(),
            explain::places(receipt)
        )?;
        for moved in &receipt.moves {
            let words = match row.what.contains(&format!("{} killed", moved.from)) {
                true => "was lost",
                false => "had become slower",
            };
            let gap = moved
                .gap_s
                .map_or(String::new(), |gap| format!(" within {}", explain::seconds(gap)));
            let words = format!("{} {words}; {} went on{gap}", moved.from, moved.to);
            writeln!(out, "  {:<26} {}", "", style.dim(&words))?;
        }
    }
    Ok(())
}

/// Fails where an answer was another.
pub(super) fn check(rows: &[Row]) -> Result<(), Failure> {
    match rows.iter().find(|row| !row.same) {
        None => Ok(()),
        Some(row) => {
            let sentence = format!(
                "the answer in the mode {} was another; this is a defect of heph",
                row.what
            );
            Err(Failure::new(Exit::No, sentence))
        }
    }
}
