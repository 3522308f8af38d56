//! The llama.cpp engine: GGUF models of every architecture that llama.cpp knows.
//!
//! Turns a checked GGUF header into a [`Generator`](ingle_engine::backend::Generator). Knows nothing of
//! requests, text or clocks, and has no `unsafe`: that is in the crate `llama-guard`, which catches
//! llama.cpp's exceptions.
//!
//! A model is built on the loader thread and handed to the engine thread whole. llama.cpp's contexts
//! belong to no thread, but one thread at a time may use them.

mod check;
mod embedder;
mod generator;
pub mod limits;
mod load;
mod sizes;
#[cfg(test)]
mod tests;
pub mod vocab;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};

use ingle_engine::engines::{Engine, LoadStart, LoadTarget, cannot_run};
use ingle_engine::error::EngineError;
use ingle_engine::estimate::{self, Estimate};
use ingle_engine::model::{EngineModel, Weights};
use ingle_engine::role::Role;
use ingle_engine::settings::EngineSettings;
use ingle_protocol::wire::models::EngineKind;

/// llama.cpp as an engine.
#[derive(Debug, Clone, Copy)]
pub struct LlamaEngine;

impl Engine for LlamaEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Gguf
    }

    fn start_load(
        &self,
        model: &EngineModel,
        settings: &EngineSettings,
        cancel: Arc<AtomicBool>,
    ) -> Result<LoadStart, EngineError> {
        let Weights::Gguf(gguf) = &model.weights else { return Err(cannot_run(model)) };
        Ok(match model.role {
            Role::Generates => {
                let (builder, stream) = load::load(gguf, settings, cancel)?;
                LoadStart { target: LoadTarget::Generator(builder), stream }
            }
            Role::Embeds => {
                let (builder, stream) = load::load_embedder(gguf, settings, cancel)?;
                LoadStart { target: LoadTarget::Embedder(builder), stream }
            }
        })
    }

    fn estimate(&self, model: &EngineModel, settings: &EngineSettings) -> Estimate {
        let tokens = |trained: Option<usize>| {
            settings.context_tokens(EngineKind::Gguf, trained.unwrap_or(Estimate::USUAL_TOKENS))
        };
        let Weights::Gguf(gguf) = &model.weights else {
            return Estimate::unknown(EngineKind::Gguf, tokens(None));
        };
        let context_tokens = tokens(estimate::gguf_context_tokens(gguf));
        // llama.cpp keeps keys and values in 16 bits.
        let kv_per_token = estimate::gguf_kv_elements(gguf).unwrap_or(0).saturating_mul(2);
        Estimate {
            engine: EngineKind::Gguf,
            weights: gguf.model_bytes(),
            overhead: sizes::overhead_bytes(
                gguf,
                model.role,
                context_tokens,
                kv_per_token,
                settings,
            ),
            staging: 0,
            kv_per_token: if model.role == Role::Generates { kv_per_token } else { 0 },
            kv_up_front: true,
            context_tokens,
        }
    }
}

/// llama.cpp's error as the engine's.
fn native(error: llama_guard::Error) -> EngineError {
    EngineError::Native(format!("llama.cpp: {error}"))
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
