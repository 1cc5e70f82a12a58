//! The door: OpenAI, Ollama and Anthropic shapes over HTTP, HEPH's own wishes and receipts, and what the page asks.
//!
//! Called by the program `heph serve`. Only this crate knows JSON bodies: it turns a request into jobs for
//! [`heph_runtime::service`], and what comes back into the shape that was asked for. It decides nothing about models, and
//! opens no socket but the one that it is given to listen on; `docs/gateway.md` is the contract.

mod ahead;
mod answer;
mod anthropic;
mod ask;
mod caller;
mod connection;
mod document;
mod elsewhere;
mod engines;
mod error;
mod excerpts;
mod guard;
mod heph;
mod history;
mod house;
mod kept;
mod knowledge;
mod local;
mod machines;
mod mcp;
mod metrics;
mod ollama;
mod openai;
mod outside;
mod pace;
mod page;
mod pairing;
mod pictures;
mod private;
mod prompts;
mod provenance;
mod rate;
mod recall;
mod receipts;
mod routes;
mod sampling;
mod shape;
mod standing;
mod tls;
mod token;
mod tools;

pub use connection::{ServeError, Server, socket_at};
pub use engines::{CacheChoice, EngineChoice, EngineError};
pub use guard::Guard;
pub use heph_engine::recall::Bound;
pub use house::Options;
pub use local::{LocalError, LocalSocket, local_socket};
pub use machines::{Course, Invitation, Machines, MetMachine, NoCourse, NodeLine, Privacy, Wish};
pub use mcp::stdio::McpServer;
pub use pairing::{Asking, Book, Pairing, PairingError, Pairings, Scope};
pub use rate::Rate;
pub use standing::{Claim, Standing};
pub use tls::{Tls, TlsError};
pub use token::{TokenError, token};
