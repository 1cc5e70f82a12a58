//! What the planner promises, held against clusters made by seed and against an independent search of everything.

mod choices;
mod oracle;
mod reasons;
mod scenes;
