//! What may leave: personal data and secrets in text, labels, policy, pseudonyms and receipts.
//!
//! Called by the runtime before anything is planned or sent, and by `heph pii` for people. Never reads a clock, a file or a
//! socket and draws no number: same input, same answer. Knows no models of language, no nodes and no prices.

pub mod pii;
