//! The MLX engine: the only place in Ingle that names `mlx_rs`.
//!
//! Turns a model's header and tensors into a [`Generator`](super::backend::Generator). Knows
//! nothing of requests, text or clocks.
//!
//! MLX's streams belong to the thread that made them, so everything here is called on the engine
//! thread only, and what it gives must be used and dropped there.

#[cfg(test)]
mod affinity;
mod attention;
mod builder;
mod cpu;
mod generator;
mod kv_cache;
mod layers;
mod models;
mod rope;
#[cfg(test)]
mod tests;
mod weights;

use mlx_rs::{DeviceType, memory};

use super::backend::{Builder, EngineError};
use super::tensor::WeightPrecision;
use crate::formats::gguf::GgufFile;

/// Freed memory that MLX keeps for reuse, at most. Passes of a like size need like buffers, so some
/// of it saves time; without a bound a long prompt's buffers would stay for good.
const CACHE_LIMIT_BYTES: usize = 256 << 20;

/// Starts building the model of a GGUF file: its tensors come through [`Builder::adopt`].
///
/// Also initialises MLX on this thread, on the first call.
///
/// # Errors
/// [`EngineError::Unsupported`] when this engine cannot run the model,
/// [`EngineError::InvalidModel`] when a hyperparameter is missing or contradicts another, and
/// [`EngineError::Native`] when MLX does not start.
pub fn builder(gguf: &GgufFile) -> Result<Box<dyn Builder>, EngineError> {
    // The first fallible call installs mlx-rs' error handler. MLX's own would end the process, so
    // this must come before any call that has no result.
    memory::set_cache_limit(CACHE_LIMIT_BYTES)?;
    Ok(Box::new(builder::ModelBuilder::new(gguf, device()?)?))
}

/// Sets how much freed memory MLX keeps for reuse, and how much it may wire down, in bytes; `None`
/// leaves a limit as it is, and by default nothing is wired.
///
/// # Errors
/// [`EngineError::Native`] when MLX refuses, as it does with wired memory where there is no Metal.
pub fn set_limits(cache_bytes: Option<u64>, wired_bytes: Option<u64>) -> Result<(), EngineError> {
    let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    if let Some(bytes) = cache_bytes {
        memory::set_cache_limit(size(bytes))?;
    }
    if let Some(bytes) = wired_bytes {
        memory::set_wired_limit(size(bytes))?;
    }
    Ok(())
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
    let _ = memory::clear_cache();
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
