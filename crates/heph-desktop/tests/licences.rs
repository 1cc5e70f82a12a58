//! What is built into the window carries allowed licences, too: the test of the other workspace, run in this one.

#[path = "../../heph-world/tests/licences.rs"]
mod licences;
