//! What may leave: personal data and secrets in text, labels, policy, pseudonyms and receipts.
//!
//! Called by the runtime before anything is planned or sent, and by `heph pii` for people. Never reads a clock, a file or a
//! socket and draws no number: same input, same answer. Knows no models of language, no nodes and no prices.

mod clear;
mod grounds;
pub mod label;
pub mod pii;
pub mod policy;
pub mod pseudonym;
pub mod receipt;

pub use clear::{Clearance, Cleared, Purpose, Replaced, Stays, clear, clear_text, label_of, replace};
pub use grounds::Grounds;
