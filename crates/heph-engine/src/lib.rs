//! A model as layers: load it, turn text into tokens, run any range of its layers over a KV cache, sample.
//!
//! Called by the runtime's desk and node. The engine knows no node, user, price, clock or socket: bytes,
//! seeds and the thread pool come in as arguments.

pub mod batch;
pub mod cache;
pub mod chat;
pub mod config;
pub mod constrain;
pub mod gguf;
pub mod graph;
pub mod hf;
pub mod model;
pub mod prefix;
mod program;
pub mod quantize;
pub mod recall;
pub mod retrieval;
pub mod sample;
pub mod source;
pub mod text;
pub mod tokenizer;
pub mod worker;
