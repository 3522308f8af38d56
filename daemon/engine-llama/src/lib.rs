//! The llama.cpp engine: GGUF models of every architecture that llama.cpp knows.
//!
//! Owns the way from a checked GGUF header to a
//! [`Generator`](ingle_engine::backend::Generator). Does not know requests, text or clocks, and has
//! no `unsafe`: that is in the crate `llama-guard`, which catches llama.cpp's exceptions. The
//! engine's public name is `gguf`, after the format it loads.
//!
//! The loader thread builds the whole model and passes it to the engine thread. llama.cpp's
//! contexts belong to no thread, but only one thread at a time may use them.

mod check;
mod embedder;
mod error;
mod generator;
pub mod limits;
mod load;
mod log;
mod sizes;
#[cfg(test)]
mod tests;
pub mod vocab;

pub use self::log::forward_log;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
