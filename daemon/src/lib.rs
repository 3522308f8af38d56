//! Ingle's daemon: keeps language models warm on one engine thread.
//!
//! Owns wiring, the daemon's life, its configuration and JSON-RPC on the local socket. The parts it
//! wires are crates of their own, beside this folder's `src`; ARCHITECTURE.md has the whole picture.

pub mod app;
pub mod config;
pub mod engines;
pub mod limits;
pub mod listener;
pub mod logging;
#[cfg(test)]
mod reference;
pub mod rpc;
pub mod signals;
