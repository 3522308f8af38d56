//! The device that MLX computes on, and sizes in its integer type.
//!
//! Owns the choice between CPU and GPU and what follows from it for weights.

use mlx_rs::DeviceType;

use crate::error::MlxError;
use ingle_engine::error::EngineError;
use ingle_engine::tensor::WeightPrecision;

/// The precision that the loader must convert weights to.
///
/// MLX's CPU backend has fast kernels for 32-bit floats only; on a GPU weights keep their type.
pub(crate) fn weight_precision() -> WeightPrecision {
    match device() {
        Ok(Device::Gpu) => WeightPrecision::AsStored,
        // A device that cannot be named is reported by `builder`.
        Ok(Device::Cpu) | Err(_) => WeightPrecision::Float32,
    }
}

/// The device that MLX computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// The processor.
    Cpu,
    /// Metal or CUDA.
    Gpu,
}

/// The device MLX works on: the GPU where there is one.
pub(crate) fn device() -> Result<Device, MlxError> {
    Ok(match mlx_rs::Device::try_default()?.get_type()? {
        DeviceType::Cpu => Device::Cpu,
        DeviceType::Gpu => Device::Gpu,
    })
}

/// A size as MLX's `i32`.
///
/// # Errors
/// [`EngineError::Native`] past 2^31 - 1.
pub(crate) fn dim(size: usize) -> Result<i32, MlxError> {
    i32::try_from(size)
        .map_err(|_| EngineError::Native(format!("a size of {size} is too large")).into())
}
