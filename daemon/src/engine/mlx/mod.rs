//! The MLX engine: the only place in Ingle that names `mlx_rs`.
//!
//! Turns a model's header and tensors into a [`Generator`](super::backend::Generator) or an
//! [`Embedder`](super::backend::Embedder). Knows nothing of requests, text or clocks.
//!
//! MLX's streams belong to the thread that made them, so everything here is called on the engine
//! thread only, and what it gives must be used and dropped there.

#[cfg(test)]
mod affinity;
mod attention;
mod builder;
mod cpu;
mod embedder;
mod generator;
mod kv_cache;
mod layers;
mod memory;
mod models;
mod rope;
#[cfg(test)]
mod tests;
mod weights;

use mlx_rs::DeviceType;

use super::backend::{Builder, EmbedderBuilder, EngineError};
use super::tensor::WeightPrecision;
use crate::formats::gguf::GgufFile;
use crate::formats::hf::ModelFolder;
use builder::{EncoderBuilder, ModelBuilder};
pub use embedder::pass_bytes;
pub use memory::{Limits, MemoryUse, clear_cache, memory, set_limits};

/// Starts building the model of a GGUF file: its tensors come through [`Builder::adopt`].
///
/// Also initialises MLX on this thread, on the first call.
///
/// # Errors
/// [`EngineError::Unsupported`] when this engine cannot run the model,
/// [`EngineError::InvalidModel`] when a hyperparameter is missing or contradicts another, and
/// [`EngineError::Native`] when MLX does not start.
pub fn builder(gguf: &GgufFile) -> Result<Box<dyn Builder>, EngineError> {
    memory::start()?;
    Ok(Box::new(ModelBuilder::from_gguf(gguf, device()?)?))
}

/// The same for a folder. Its tensors are checked against the architecture here.
///
/// # Errors
/// As [`builder`].
pub fn folder_builder(folder: &ModelFolder) -> Result<Box<dyn Builder>, EngineError> {
    memory::start()?;
    Ok(Box::new(ModelBuilder::from_folder(folder, device()?)?))
}

/// The same for a folder with a model that embeds.
///
/// # Errors
/// As [`builder`].
pub fn folder_embedder(folder: &ModelFolder) -> Result<Box<dyn EmbedderBuilder>, EngineError> {
    memory::start()?;
    Ok(Box::new(EncoderBuilder::from_folder(folder, device()?)?))
}

/// What the loader must convert weights to. MLX's CPU backend has fast kernels for 32-bit floats
/// only; on a GPU weights keep their own type.
#[must_use]
pub fn weight_precision() -> WeightPrecision {
    match device() {
        Ok(Device::Gpu) => WeightPrecision::AsStored,
        // A device that cannot be named is reported by `builder`.
        Ok(Device::Cpu) | Err(_) => WeightPrecision::Float32,
    }
}

/// Frees what MLX keeps for reuse. Called on the engine thread after the last model is dropped.
pub fn cleanup() {
    // Nothing can be done about a failure while shutting down.
    let _ = clear_cache();
}

/// What MLX computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    /// The processor.
    Cpu,
    /// Metal or CUDA.
    Gpu,
}

/// The device MLX works on: the GPU where there is one.
fn device() -> Result<Device, EngineError> {
    Ok(match mlx_rs::Device::try_default()?.get_type()? {
        DeviceType::Cpu => Device::Cpu,
        DeviceType::Gpu => Device::Gpu,
    })
}

impl From<mlx_rs::error::Exception> for EngineError {
    fn from(exception: mlx_rs::error::Exception) -> Self {
        Self::Native(format!("MLX: {}", exception.what()))
    }
}

/// A size as MLX's `i32`.
///
/// # Errors
/// [`EngineError::Native`] past 2^31 - 1.
fn dim(size: usize) -> Result<i32, EngineError> {
    i32::try_from(size).map_err(|_| EngineError::Native(format!("a size of {size} is too large")))
}
