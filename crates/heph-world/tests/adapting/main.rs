//! A line that adapts, in emulated time: real models and the real desk over nodes whose passes and links take what a
//! clock of ours says they take.

#![expect(
    clippy::print_stdout,
    reason = "the figures are what a person runs these tests with --nocapture for"
)]

mod emulated;
mod guessing;
mod memory;
mod replanning;
mod typing;
