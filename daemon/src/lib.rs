//! Ingle's daemon: keeps language models loaded on one engine thread.
//!
//! Owns the wiring, the life cycle, the configuration, and JSON-RPC on the local socket. The parts
//! that it wires are crates of their own in this folder; ARCHITECTURE.md describes the whole.
//!
//! # Layout
//! - `startup`, `app`, `lifecycle`: locks and settings, the wiring, the run until the end.
//! - `config`: `config.toml` as the settings of each crate.
//! - `listener`, `rpc`: the local socket and the JSON-RPC methods.
//! - `engines`, `logging`, `signals`, `limits`: the engines of the build, logs, signals, limits.

pub mod app;
pub mod config;
pub mod engines;
mod lifecycle;
pub mod limits;
pub mod listener;
pub mod logging;
#[cfg(test)]
mod reference;
pub mod rpc;
pub mod signals;
mod startup;
