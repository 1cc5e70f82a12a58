//! Outside providers: what a person says of one, and asking it over HTTP in its own shape.
//!
//! Called by the runtime, for an answer that a provider is to give. Only this crate opens a socket to a provider, and only
//! for a [`Permit`], which the policy alone gives. Never chooses a provider, keeps no key, and believes nothing: what comes
//! back is checked for its form and is worth no more than its sender.

mod body;
mod client;
mod frames;
mod permit;
mod provider;
mod question;
mod reading;
mod secret;
pub mod tokens;

pub use client::{AskError, Client, Done, Limits, Listener, Refused};
pub use permit::{Forbidden, Permit};
pub use provider::{Address, AddressError, Dialect, Pace, Provider, ProviderError, Rates, Region, Retention};
pub use question::{Call, Form, Question, Sampling, Source, Tool, ToolChoice, Turn};
pub use reading::{End, Said};
pub use secret::Secret;
