//! Ingle's daemon: keeps language models warm on one engine thread.
//!
//! Rooms, and who may import whom: `main -> app -> {rpc, mcp, http} -> jobs -> service -> {models, text,
//! engine::handle}`; a caller may skip a floor downward, never upward. `formats` reads files and
//! knows nobody. ARCHITECTURE.md has the whole picture.

pub mod app;
pub mod calendar;
pub mod config;
pub mod engine;
pub mod formats;
pub mod histogram;
pub mod http;
pub mod jobs;
pub mod logging;
pub mod mcp;
pub mod memory_watch;
pub mod metrics;
pub mod models;
pub mod places;
pub mod request;
pub mod rpc;
pub mod service;
pub mod signals;
pub mod system_memory;
pub mod text;
pub mod watchdog;
