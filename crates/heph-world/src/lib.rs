//! Whole-system tests: the tidy test of the house, and the exactness of a whole answer.
//!
//! Nothing imports this crate.
