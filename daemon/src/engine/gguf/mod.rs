//! The llama.cpp engine: GGUF models of every architecture that llama.cpp knows.
//!
//! Turns a checked GGUF header into a [`Generator`](super::backend::Generator). Knows nothing of
//! requests, text or clocks, and has no `unsafe`: that is in the crate `llama-guard`, which catches
//! llama.cpp's exceptions.
//!
//! A model is built on the loader thread and handed to the engine thread whole. llama.cpp's contexts
//! belong to no thread, but one thread at a time may use them.

mod check;
mod embedder;
mod generator;
mod load;
mod sizes;
#[cfg(test)]
mod tests;

use std::sync::Once;

use super::backend::EngineError;

pub use load::{load, load_embedder};
pub use sizes::overhead_bytes;

impl From<llama_guard::Error> for EngineError {
    fn from(error: llama_guard::Error) -> Self {
        Self::Native(format!("llama.cpp: {error}"))
    }
}

/// Makes llama.cpp's log lines the daemon's.
pub fn forward_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let wants_debug = tracing::enabled!(target: "llama.cpp", tracing::Level::TRACE);
        llama_guard::set_log(log, wants_debug);
    });
}

fn log(level: llama_guard::Level, line: &str) {
    use llama_guard::Level;
    match level {
        Level::Debug => tracing::trace!(target: "llama.cpp", "{line}"),
        Level::Info => tracing::debug!(target: "llama.cpp", "{line}"),
        Level::Warn | Level::Error => tracing::warn!(target: "llama.cpp", "{line}"),
        Level::Abort => {
            tracing::error!(target: "llama.cpp", "an assertion failed, the daemon aborts: {line}");
            // The log is written by another thread, which will not come to it any more.
            eprintln!("llama.cpp: an assertion failed, the daemon aborts: {line}");
        }
    }
}
