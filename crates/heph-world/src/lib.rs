//! The simulated world: nodes, links, clocks and faults in virtual time, around the real planner, desk, line and stages.
//!
//! Used by the whole-system tests and by the `world` program; nothing imports this crate. A world is drawn from a seed
//! and repeats itself exactly: nothing here reads a clock, opens a socket or draws from anything but its own [`Dice`].
//! Only the `strait` program, which carries real packets between network namespaces, does.

mod bench;
mod dice;
pub mod fleet;
mod host;
mod link;
mod member;
pub mod recovery;
pub mod scene;
pub mod storm;
mod story;
pub mod tiny;
pub mod traces;
mod world;

pub use dice::Dice;
pub use link::{LinkShape, Rate};
pub use member::{Fault, Lie, MemberShape};
pub use world::{Strike, World};
