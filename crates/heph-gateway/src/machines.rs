//! Other machines, as the door asks for them. The program knows how they are met; the door only shows what it is told.

use heph_plan::{Mode, Record};
use heph_types::{Leaves, NodeState, Role};
use serde::Serialize;

/// What is to be planned.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that the answer may have at most.
    pub answer_tokens_max: Option<usize>,
    /// A mode that is asked for by name.
    pub mode: Option<Mode>,
    /// What may leave at most; `None` leaves it to the settings.
    pub leaves: Option<Leaves>,
}

/// Another machine.
#[derive(Debug, Clone, Serialize)]
pub struct NodeLine {
    /// Its identity, as hexadecimal digits.
    pub node: String,
    /// Its name.
    pub name: String,
    /// What it is to the person.
    pub role: Role,
    /// Whether it answered.
    pub reachable: bool,
    /// Why not.
    pub why: Option<String>,
    /// The way there and back.
    pub latency_ms: Option<f64>,
    /// Whether it takes work.
    pub state: Option<NodeState>,
    /// What waits there.
    pub queue_s: Option<f64>,
    /// Memory that it lends.
    pub memory_bytes: Option<u64>,
    /// What it holds, by name.
    pub models: Vec<String>,
    /// What it may see of a text.
    pub sees: Leaves,
}

/// Who knows the other machines.
pub trait Machines: Send + Sync {
    /// This machine's identity, as hexadecimal digits, where it has one.
    fn here(&self) -> Option<String>;

    /// What the planner says. May take as long as machines take to answer.
    ///
    /// # Errors
    /// A sentence where no plan meets the wish.
    fn plan(&self, wish: &Wish) -> Result<Record, String>;

    /// Who was met, and who is there. May take as long as machines take to answer.
    ///
    /// # Errors
    /// A sentence where nobody can be asked.
    fn nodes(&self) -> Result<Vec<NodeLine>, String>;
}
