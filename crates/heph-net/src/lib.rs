//! Joins machines: who a peer is, how to reach it, and what is said to it.
//!
//! Called by the runtime, for a seat that a peer holds and for `heph node`. The wire messages ([`wire`]), the number
//! formats on the wire ([`codec`]) and the sessions ([`session`]) are pure: bytes and a time go in, bytes and a
//! deadline come out. The rest of the crate opens the sockets; nothing above it does. Never chooses a node, never
//! computes a layer, never decides what may leave.

pub mod address;
pub mod codec;
pub mod discovery;
pub mod drive;
pub mod endpoint;
pub mod identity;
mod kept;
mod key_exchange;
pub mod key_store;
pub mod membership;
pub mod pairing;
pub mod picture;
pub mod relay;
pub mod roster;
pub mod secrets;
pub mod session;
pub mod throttle;
pub mod ticket;
pub mod transfer;
pub mod trust;
pub mod wire;
