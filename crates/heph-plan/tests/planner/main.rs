//! What the planner promises, held against clusters made by seed and against an independent search of everything.

mod baselines;
mod choices;
mod decision;
mod oracle;
mod reasons;
#[allow(dead_code, reason = "the bench uses the rest")]
mod scenes;
