//! Owns what the engine may not touch: the clock, the disk, threads, settings, the download client and the network.
//!
//! Called by the programs. It wires and never decides: what a token is, how a model runs and which bits come
//! out are the engine's business. Nothing here opens a socket except [`network`], when a person joins machines, and [`guard`], in a
//! process of its own, for [`pull`], when a person asks for a download by name, for [`providers`], which a person added and allowed, and
//! for servers of tools.

pub mod acceptance;
pub mod attendance;
pub mod bench;
pub mod blocks;
pub mod bundled;
pub mod cancel;
pub mod certify;
pub mod clock;
pub mod codecs;
pub mod crash;
pub mod decompose;
pub mod desk;
pub mod discretion;
pub mod draft;
pub mod egress;
pub mod files;
pub mod gate;
pub mod guard;
pub mod hails;
pub mod hardware;
pub mod inversion;
pub mod kept;
pub mod line;
pub mod members;
pub mod network;
pub mod node;
pub mod open;
pub mod peer;
pub mod placing;
pub mod pool;
pub mod preload;
pub mod preprocess;
pub mod pressure;
pub mod profile;
pub mod providers;
pub mod pull;
pub mod receipt;
pub mod relaying;
pub mod replan;
pub mod resting;
pub mod route;
pub mod rules;
pub mod seal;
pub mod seat;
pub mod serve;
pub mod service;
pub mod settings;
pub mod shards;
pub mod store;
pub mod ways;
pub mod words;
