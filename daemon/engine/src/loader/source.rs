//! Tensor source: what the loader thread reads tensors from.
//!
//! Owns the trait only. Does not know file formats or threads.

use crate::error::EngineError;
use crate::tensor::{HostTensor, WeightPrecision};

/// Approximate bytes read between two checks of the cancel flag.
pub(super) const CHUNK_BYTES: usize = 4 << 20;

/// A source of tensors. Reading moves no file position, so a source may be shared.
pub trait Source: Send + Sync + 'static {
    /// Refuses unreadable tensor types, without reading.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] naming the first such tensor.
    fn check_readable(&self) -> Result<(), EngineError>;

    /// Number of tensors.
    fn tensor_count(&self) -> usize;

    /// Bytes of all tensors together, as stored.
    fn stored_bytes(&self) -> u64;

    /// Reads and converts the tensor of that index, and returns its bytes in the file.
    ///
    /// Reads pieces of at most a few MiB into `buffer`, and calls `check_cancel` before each.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] naming the tensor and the fault, [`EngineError::NoMemory`],
    /// [`EngineError::Io`], and the errors of `check_cancel`.
    fn read(
        &self,
        index: usize,
        precision: WeightPrecision,
        buffer: &mut Vec<u8>,
        check_cancel: &dyn Fn() -> Result<(), EngineError>,
    ) -> Result<(HostTensor, u64), EngineError>;
}
