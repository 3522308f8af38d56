//! Loader source for GGUF files.
//!
//! Owns the readable tensor types and their conversion. Does not know threads.

use super::source::{CHUNK_BYTES, Source};
use crate::dequantize::Converter;
use crate::error::EngineError;
use crate::tensor::{HostTensor, WeightPrecision};
use ingle_formats::gguf::{GgmlType, GgufFile, TensorInfo};

/// Refuses a file with a tensor type that the loader cannot read.
///
/// Only the header is needed, so callers can refuse before they free memory for the model.
///
/// # Errors
/// [`EngineError::Unsupported`] naming the first such tensor, its type and the readable types.
pub fn check_readable(gguf: &GgufFile) -> Result<(), EngineError> {
    match gguf.tensors().iter().find(|tensor| !tensor.ggml_type.is_readable()) {
        None => Ok(()),
        Some(tensor) => Err(EngineError::Unsupported {
            file: gguf.path().to_owned(),
            problem: format!(
                "tensor `{}` is stored as {}; this engine reads {}",
                tensor.name,
                tensor.ggml_type,
                GgmlType::READABLE.map(GgmlType::name).join(", ")
            ),
        }),
    }
}

/// Exact bytes of memory of the loaded tensors, computed without reading them.
#[must_use]
pub fn loaded_bytes(gguf: &GgufFile, precision: WeightPrecision) -> u64 {
    let bytes_of = |tensor: &TensorInfo| {
        let elements = tensor.elements() as u64;
        match (precision, tensor.ggml_type) {
            (WeightPrecision::AsStored, GgmlType::Q4_0 | GgmlType::Q4_1) => elements / 32 * 20,
            (WeightPrecision::AsStored, GgmlType::Q8_0) => elements / 32 * 36,
            (WeightPrecision::AsStored, GgmlType::F16 | GgmlType::BF16) => elements * 2,
            _ => elements * 4,
        }
    };
    gguf.tensors().iter().map(bytes_of).sum()
}

impl Source for GgufFile {
    fn check_readable(&self) -> Result<(), EngineError> {
        check_readable(self)
    }

    fn tensor_count(&self) -> usize {
        self.tensors().len()
    }

    fn stored_bytes(&self) -> u64 {
        self.tensor_bytes()
    }

    fn read(
        &self,
        index: usize,
        precision: WeightPrecision,
        buffer: &mut Vec<u8>,
        check_cancel: &dyn Fn() -> Result<(), EngineError>,
    ) -> Result<(HostTensor, u64), EngineError> {
        let info = &self.tensors()[index];
        let invalid = |problem| EngineError::InvalidModel { file: self.path().to_owned(), problem };
        let to_f32 = precision == WeightPrecision::Float32;
        let Some(mut converter) = Converter::new(info.ggml_type, info.elements(), to_f32) else {
            let (name, elements) = (&info.name, info.elements());
            return Err(EngineError::NoMemory {
                file: self.path().to_owned(),
                problem: format!("tensor `{name}`: there is no memory for its {elements} elements"),
            });
        };
        let block_bytes = info.ggml_type.block_bytes();
        let chunk_bytes = (CHUNK_BYTES / block_bytes * block_bytes) as u64;
        let mut offset = 0;
        while offset < info.bytes {
            check_cancel()?;
            let len = chunk_bytes.min(info.bytes - offset);
            buffer.resize(len as usize, 0);
            self.read_tensor(info, offset, buffer)?;
            converter
                .push(buffer)
                .map_err(|bad| invalid(format!("tensor `{}`: {bad}", info.name)))?;
            offset += len;
        }
        let shape = info.shape.clone();
        let tensor = HostTensor { name: info.name.clone(), shape, data: converter.finish() };
        Ok((tensor, info.bytes))
    }
}
