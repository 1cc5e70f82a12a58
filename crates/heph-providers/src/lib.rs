//! Outside providers: what a person says of one, and asking it over HTTP in its own shape.
//!
//! Called by the runtime, for an answer that a provider is to give. Only this crate speaks with a provider, and says only
//! what was cleared for it by the policy ([`heph_privacy::Cleared`]); who opens the connections is the caller's affair ([`Dial`]). Never chooses a provider, keeps no key, and believes nothing: what comes
//! back is checked for its form and is worth no more than its sender.

mod body;
mod client;
mod dial;
mod frames;
mod http;
mod provider;
mod question;
mod reading;
mod secret;
pub mod tokens;

pub use client::{AskError, Client, Done, Limits, Listener, Refused};
pub use dial::{Barred, Dial, Direct, Io, Keeper, Pending, Sending, Way};
pub use provider::{Address, AddressError, Dialect, Pace, Provider, ProviderError, Rates, Region, Retention};
pub use question::{Call, Form, Picture, Question, Sampling, Source, Tool, ToolChoice, Turn};
pub use reading::{End, Said};
pub use secret::Secret;
