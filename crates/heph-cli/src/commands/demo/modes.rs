//! One question through every mode, over this machine and the demonstration's nodes: the same words every time, also
//! where a node is killed in the middle.
//!
//! Only the mode `local` computes layers here. For all others the planner is told that this machine has none of it, as a
//! machine would that is too small, and for those that lay it out that no node has room for all of it: so each mode is
//! seen at work, and not what would be fastest on one machine. For the same reason guesses are made in every round. Whether
//! the head stays here is the planner's choice by what it timed: then every token's row comes back, too.

use std::cell::RefCell;
use std::io::{self, Write};

use heph_plan::{Cluster, Mode, Place, Plan};
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Finish, Message, Precision, Prompt};
use heph_runtime::receipt::Receipt;
use heph_runtime::route::Guessing;
use heph_runtime::seat::Traffic;
use heph_types::{NodeId, TokenId};
use serde::Serialize;

use super::nodes::NodeProcess;
use crate::about::About;
use crate::asking::{Asking, Seated, Sizes};
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

/// Of the model, what each node has room for where it is to be laid out: half of the layers with the table or the head, and
/// no three quarters of them.
const ROOM: f64 = 0.6;

/// Words of the answer about a document.
const EXCERPTS_ANSWER_TOKENS: usize = 60;

/// One answer, for the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(rename = "mode")]
    what: String,
    receipt: Receipt,
    #[serde(rename = "identical")]
    same: bool,
    /// What the columns do not say.
    note: Option<String>,
}

/// What is asked, and what the answer has to be.
pub(super) struct Task<'a> {
    pub(super) prompt: Prompt<'a>,
    pub(super) options: &'a AnswerOptions,
    pub(super) answer: &'a Answer,
    pub(super) cancel: &'a Cancel,
}

/// One way of asking.
struct Way<'a> {
    what: String,
    mode: Mode,
    prompt: Prompt<'a>,
    sizes: Sizes,
    options: &'a AnswerOptions,
    /// Bytes of the answer, where it is known how many it should have.
    bytes: usize,
}

/// Answers in every mode, with a document too, and once more while a node is killed.
pub(super) fn rows(
    asking: &Asking,
    nodes: &mut [NodeProcess],
    task: &Task<'_>,
    about: &About,
) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let sizes = Sizes::of(task.prompt.tokens(asking.words())?.len());
    let way = |mode: Mode, what: String| Way {
        what,
        mode,
        prompt: task.prompt,
        sizes,
        options: task.options,
        bytes: task.answer.text.len(),
    };
    for mode in MODES {
        let done = answer(asking, &way(mode, mode.name().to_owned()), &mut [], task.cancel)?;
        rows.push(done.row(&task.answer.tokens, None));
    }
    rows.push(about_document(asking, about, task)?);
    let killed = way(Mode::Layered, format!("{}, killed", Mode::Layered));
    rows.push(answer(asking, &killed, nodes, task.cancel)?.row(&task.answer.tokens, None));
    Ok(rows)
}

/// The question about the document: its excerpts answered by a node, and here to compare.
fn about_document(asking: &Asking, about: &About, task: &Task<'_>) -> Result<Row, Failure> {
    let upload = &about.chosen.upload.text;
    let tokens = |text: &str| -> Result<usize, Failure> {
        let message = [Message::new("user", text)];
        Ok(Prompt::Chat(&message).tokens(asking.words())?.len())
    };
    let message = [Message::new("user", upload.as_str())];
    let options = AnswerOptions {
        max_tokens: Some(EXCERPTS_ANSWER_TOKENS),
        ..task.options.clone()
    };
    let way = |mode: Mode, sizes, bytes| Way {
        what: mode.name().to_owned(),
        mode,
        prompt: Prompt::Chat(&message),
        sizes,
        options: &options,
        bytes,
    };
    let excerpts = tokens(upload)?;
    let here = answer(
        asking,
        &way(Mode::Local, Sizes::of(excerpts), 0),
        &mut [],
        task.cancel,
    )?;
    let sizes = Sizes {
        whole: tokens(&about.whole)?,
        excerpts: Some(excerpts),
    };
    let bytes = here.answer.text.len();
    let there = answer(asking, &way(Mode::Preprocess, sizes, bytes), &mut [], task.cancel)?;
    let note = format!(
        "another question, about a document of {}: its {} sent, {}, and answered here too",
        terminal::bytes(about.whole.len() as u64),
        match about.chosen.upload.citations.len() {
            1 => "1 excerpt was".to_owned(),
            count => format!("{count} excerpts were"),
        },
        terminal::bytes(upload.len() as u64),
    );
    Ok(there.row(&here.answer.tokens, Some(note)))
}

/// An answer that was given.
struct Done {
    what: String,
    answer: Answer,
    receipt: Receipt,
    /// Bytes that had passed when the first word was told: the prompt's.
    first: Traffic,
}

impl Done {
    fn row(self, wanted: &[TokenId], note: Option<String>) -> Row {
        Row {
            note: note.or_else(|| self.rounds()),
            same: self.answer.tokens == wanted,
            what: self.what,
            receipt: self.receipt,
        }
    }

    /// What a round of guesses took on the way, where there were any.
    fn rounds(&self) -> Option<String> {
        let guesses = self.answer.guesses;
        if guesses.sent == 0 {
            return None;
        }
        // The first piece takes the prompt along.
        let rounds = guesses.pieces.saturating_sub(1).max(1) as f64;
        let told = format!(
            "{rounds} rounds for {} tokens; {} of {} guesses were right",
            self.answer.tokens.len(),
            guesses.right,
            guesses.judged
        );
        if self.receipt.mode != Mode::Speculative {
            return Some(told);
        }
        let all = sum(self.receipt.traffic.iter().map(|line| Traffic {
            up: line.up,
            down: line.down,
        }));
        let (up, down) = (
            (all.up - self.first.up) as f64,
            (all.down - self.first.down) as f64,
        );
        let drafted = guesses.sent as f64 * rounds / guesses.pieces.max(1) as f64;
        Some(format!(
            "{told}; {:.1} B up and {:.1} B down a round of {:.1} drafted tokens",
            up / rounds,
            down / rounds,
            drafted / rounds
        ))
    }
}

fn sum(lines: impl Iterator<Item = Traffic>) -> Traffic {
    lines.fold(Traffic::default(), |mut sum, line| {
        sum += line;
        sum
    })
}

/// One answer. With `victims` the node that holds the most of the model is killed in the middle of it.
fn answer(
    asking: &Asking,
    way: &Way<'_>,
    victims: &mut [NodeProcess],
    cancel: &Cancel,
) -> Result<Done, Failure> {
    let most = way.options.max_tokens;
    let cluster = cluster(asking, way)?;
    let record = asking.plan_over(cluster, Some(way.mode), way.sizes, most)?;
    let plan = &record.decision.plan;
    let Seated {
        mut desk,
        meter,
        came,
    } = asking.desk(&record, Guessing::Always, Precision::Kept)?;
    let mut victim = largest(plan, victims);
    let what = match &victim {
        None => way.what.clone(),
        Some(node) => format!("{}, {} killed", way.mode, node.name),
    };
    let bar = terminal::steps_bar(&format!("{what:<26}"), way.bytes as u64);
    let (said, first) = (RefCell::new(0), RefCell::new(None));
    let killed_at = (way.bytes as f64 * KILLED_AT) as usize;
    let mut on_text = |text: &str| {
        first
            .borrow_mut()
            .get_or_insert_with(|| sum(meter.read().into_values()));
        *said.borrow_mut() += text.len();
        bar.set_position(*said.borrow() as u64);
        if *said.borrow() >= killed_at
            && let Some(node) = victim.take()
        {
            node.kill();
        }
    };
    let answer = desk.answer(way.prompt, way.options, &mut on_text);
    bar.finish_and_clear();
    let answer = answer?;
    if answer.finish == Finish::Cancelled && cancel.is_raised() {
        return Err(Failure::Stopped);
    }
    Ok(Done {
        what,
        receipt: Receipt::new(plan, &came.join(asking.pool()), &answer, &meter.settle()),
        answer,
        first: first.take().unwrap_or_default(),
    })
}

/// The machines as the planner is to see them in this mode.
fn cluster(asking: &Asking, way: &Way<'_>) -> Result<Cluster, Failure> {
    let mut cluster = asking.pool().cluster();
    if way.mode == Mode::Local {
        return Ok(cluster);
    }
    cluster.desk.holds.clear();
    if way.mode == Mode::Preprocess {
        // The excerpts go to one machine.
        cluster.nodes.truncate(1);
    }
    if matches!(way.mode, Mode::Layered | Mode::LayeredSpeculative) {
        let most = way.options.max_tokens;
        let whole = asking.plan_over(cluster.clone(), Some(Mode::Remote), way.sizes, most)?;
        let stages = &whole.decision.plan.stages;
        let needed: u64 = stages.iter().map(|stage| stage.memory).sum();
        for peer in &mut cluster.nodes {
            peer.profile.memory = (needed as f64 * ROOM) as u64;
        }
    }
    Ok(cluster)
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
        if let Some(note) = &row.note {
            writeln!(out, "    {}", style.dim(note))?;
        }
        for moved in &receipt.moves {
            let words = match row.what.contains(&format!("{} killed", moved.from)) {
                true => "was lost",
                false => "had become slower",
            };
            let gap = moved
                .gap_s
                .map_or(String::new(), |gap| format!(" within {}", explain::seconds(gap)));
            let words = format!("{} {words}; {} went on{gap}", moved.from, moved.to);
            writeln!(out, "    {}", style.dim(&words))?;
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
