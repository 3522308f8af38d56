//! The MLX engine: the only crate of Ingle that names `mlx_rs`.
//!
//! Owns the way from a model's header and tensors to a
//! [`Generator`](ingle_engine::backend::Generator) or an
//! [`Embedder`](ingle_engine::backend::Embedder). Does not know requests, text or clocks.
//!
//! MLX's streams belong to the thread that created them, so everything here is called on the engine
//! thread only, and its results must be used and dropped there.

#[cfg(test)]
mod affinity;
mod attention;
mod builder;
mod cpu;
mod device;
mod embedder;
mod error;
mod generator;
mod kv_cache;
mod layers;
pub mod limits;
mod memory;
mod models;
mod rope;
mod sizes;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ingle_engine::engines::{Engine, LoadStart, LoadTarget, cannot_run};
use ingle_engine::estimate::Estimate;
use ingle_engine::loader;
use ingle_engine::model::{EngineModel, Weights};
use ingle_engine::role::Role;
use ingle_engine::settings::EngineSettings;
use ingle_protocol::wire::models::EngineKind;

use builder::{EncoderBuilder, ModelBuilder};
use device::{device, weight_precision};
use error::MlxError;
use ingle_engine::backend::{Builder, EmbedderBuilder};
use ingle_engine::error::EngineError;
use ingle_formats::gguf::GgufFile;
use ingle_formats::hf::ModelFolder;
use memory::Limits;

/// MLX as an engine.
#[derive(Debug, Clone, Copy)]
pub struct MlxEngine;

impl Engine for MlxEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Mlx
    }

    /// Also initialises MLX on this thread, on the first call.
    fn start_load(
        &self,
        model: &EngineModel,
        _settings: &EngineSettings,
        cancel: Arc<AtomicBool>,
    ) -> Result<LoadStart, EngineError> {
        let (target, stream) = match (model.role, &model.weights) {
            (Role::Generates, Weights::Gguf(gguf)) => {
                let target = LoadTarget::Generator(builder(gguf)?);
                (target, loader::spawn(Arc::clone(gguf), weight_precision(), cancel)?)
            }
            (Role::Generates, Weights::Safetensors(folder)) => {
                let target = LoadTarget::Generator(folder_builder(folder)?);
                (target, loader::spawn(Arc::clone(folder), weight_precision(), cancel)?)
            }
            (Role::Embeds, Weights::Safetensors(folder)) => {
                let target = LoadTarget::Embedder(folder_embedder(folder)?);
                (target, loader::spawn(Arc::clone(folder), weight_precision(), cancel)?)
            }
            _ => return Err(cannot_run(model)),
        };
        Ok(LoadStart { target, stream })
    }

    fn estimate(&self, model: &EngineModel, settings: &EngineSettings) -> Estimate {
        sizes::estimate(model, settings)
    }

    /// MLX starts only when a model needs it, so that a failed start affects no other engine.
    fn set_limits(&self, settings: &EngineSettings) {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut limits = Limits::default();
        if let Some(bytes) = settings.mlx_cache_bytes {
            limits.cache_bytes = size(bytes);
        }
        limits.wired_bytes = settings.mlx_wired_bytes.map(size);
        if let Err(error) = memory::set_limits(limits).map_err(EngineError::from) {
            tracing::warn!(%error, "a limit of the `mlx` settings could not be set");
        }
    }

    /// Frees what MLX keeps for reuse.
    fn release_memory(&self) {
        // Nothing can be done about a failure while shutting down.
        let _ = memory::clear_cache();
    }
}

/// Starts building the model of a GGUF file: its tensors come through [`Builder::adopt`].
///
/// Also initialises MLX on this thread, on the first call.
///
/// # Errors
/// [`EngineError::Unsupported`] when this engine cannot run the model,
/// [`EngineError::InvalidModel`] when a hyperparameter is missing or contradicts another, and
/// [`EngineError::Native`] when MLX does not start.
fn builder(gguf: &GgufFile) -> Result<Box<dyn Builder>, MlxError> {
    memory::start()?;
    Ok(Box::new(ModelBuilder::from_gguf(gguf, device()?)?))
}

/// Starts building the model of a folder. Its tensors are checked against the architecture here.
///
/// # Errors
/// As [`builder`].
fn folder_builder(folder: &ModelFolder) -> Result<Box<dyn Builder>, MlxError> {
    memory::start()?;
    Ok(Box::new(ModelBuilder::from_folder(folder, device()?)?))
}

/// Starts building the embedding model of a folder.
///
/// # Errors
/// As [`builder`].
fn folder_embedder(folder: &ModelFolder) -> Result<Box<dyn EmbedderBuilder>, MlxError> {
    memory::start()?;
    Ok(Box::new(EncoderBuilder::from_folder(folder, device()?)?))
}
