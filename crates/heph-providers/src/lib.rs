//! Outside providers: what a person says of one, and asking it over HTTP in its own shape.
//!
//! Called by the runtime, for an answer that a provider is to give. Only this crate opens a socket to a provider, and only
//! what was cleared for it by the policy ([`heph_privacy::Cleared`]). Never chooses a provider, keeps no key, and believes nothing: what comes
//! back is checked for its form and is worth no more than its sender.

mod body;
mod client;
mod frames;
mod provider;
mod question;
mod reading;
mod secret;
pub mod tokens;

pub use client::{AskError, Carried, Client, Done, Limits, Listener, Refused};
pub use provider::{Address, AddressError, Dialect, Pace, Provider, ProviderError, Rates, Region, Retention};
pub use question::{Call, Form, Picture, Question, Sampling, Source, Tool, ToolChoice, Turn};
pub use reading::{End, Said};
pub use secret::Secret;
