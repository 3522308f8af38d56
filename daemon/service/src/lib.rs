//! One API under all edges: generate, embed, tokenize, models, status.
//!
//! Owns what a request means: defaults, validation, the choice of a model, the error of an engine
//! failure. Does not know RPC, MCP or HTTP envelopes.
//!
//! # Layout
//! - `service`: [`Service`], its parts and what the edges read of them.
//! - `generate`, `generation`, `prompt`, `response`: a generation from its parameters to its result.
//! - `embed`, `tokens`: embeddings, and text to tokens and back.
//! - `models`, `model_cache`: the models on disk, and those that are open.
//! - `status`, `metrics`: cached state for people and for Prometheus.
//! - `deadline_guard`, `request`: the deadline and the cancel token of every request.

mod blocking;
mod deadline_guard;
pub mod embed;
mod engine_choice;
pub mod generate;
pub mod generation;
pub mod grammar_slots;
pub mod limits;
mod lru;
pub mod memory_watch;
pub mod metrics;
pub mod model_cache;
mod models;
mod prompt;
pub mod request;
mod response;
pub mod service;
mod single_flight;
mod status;
pub mod system_memory;
pub mod timeout_counters;
mod tokens;
pub mod validate;

pub use self::service::{Service, ServiceParts};
