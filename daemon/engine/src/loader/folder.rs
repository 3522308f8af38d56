//! Loader source for model folders (safetensors).
//!
//! Owns the conversion of their tensors. Does not know threads.

use super::source::{CHUNK_BYTES, Source};
use crate::affine;
use crate::dequantize::{Converter, reserve};
use crate::error::EngineError;
use crate::tensor::{Floats, HostData, HostTensor, WeightPrecision};
use ingle_formats::gguf::GgmlType;
use ingle_formats::hf::{Affine, ModelFolder, Part, Storage};
use ingle_formats::safetensors::Dtype;

/// Exact bytes of memory of the loaded weights, computed without reading them.
#[must_use]
pub fn folder_loaded_bytes(folder: &ModelFolder, precision: WeightPrecision) -> u64 {
    match precision {
        WeightPrecision::AsStored => folder.tensor_bytes(),
        WeightPrecision::Float32 => {
            folder.tensors().iter().map(|tensor| tensor.elements() as u64 * 4).sum()
        }
    }
}

impl Source for ModelFolder {
    fn check_readable(&self) -> Result<(), EngineError> {
        // The folder was checked when it was opened.
        Ok(())
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
        let tensor = &self.tensors()[index];
        let mut reader = PartReader { folder: self, buffer, check_cancel };
        let to_f32 = precision == WeightPrecision::Float32;
        let data = match &tensor.storage {
            Storage::Plain(part) => match reader.floats(part, to_f32)? {
                Floats::F32(values) => HostData::F32(values),
                Floats::F16(bits) => HostData::F16(bits),
                Floats::Bf16(bits) => HostData::Bf16(bits),
            },
            Storage::Quantized { affine, packed, scales, biases } => {
                let scales = reader.floats(scales, to_f32)?;
                let biases = reader.floats(biases, to_f32)?;
                match (scales, biases) {
                    (Floats::F32(scales), Floats::F32(biases)) if to_f32 => {
                        let elements = tensor.elements();
                        HostData::F32(reader.widened(packed, *affine, elements, &scales, &biases)?)
                    }
                    (scales, biases) => HostData::Quantized {
                        bits: affine.bits,
                        group_size: affine.group_size,
                        packed: reader.words(packed)?,
                        scales,
                        biases,
                    },
                }
            }
        };
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        Ok((HostTensor { name, shape, data }, tensor.stored_bytes()))
    }
}

/// Reads the parts of a weight one by one.
struct PartReader<'a> {
    folder: &'a ModelFolder,
    buffer: &'a mut Vec<u8>,
    check_cancel: &'a dyn Fn() -> Result<(), EngineError>,
}

impl PartReader<'_> {
    /// Passes the part's bytes to `take` in pieces of whole quantization groups.
    fn pieces(
        &mut self,
        part: &Part,
        mut take: impl FnMut(&[u8]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut offset = 0;
        while offset < part.info.bytes {
            (self.check_cancel)()?;
            let len = (CHUNK_BYTES as u64).min(part.info.bytes - offset);
            self.buffer.resize(len as usize, 0);
            self.folder.read(part, offset, self.buffer)?;
            take(self.buffer)?;
            offset += len;
        }
        Ok(())
    }

    /// Floating-point numbers, each of them finite.
    fn floats(&mut self, part: &Part, to_f32: bool) -> Result<Floats, EngineError> {
        // The plain types are the same in both formats.
        let kind = match part.info.dtype {
            Dtype::F16 => GgmlType::F16,
            Dtype::BF16 => GgmlType::BF16,
            _ => GgmlType::F32,
        };
        let elements = part.info.shape.iter().product();
        let file = self.folder.file_of(part);
        let mut converter = Converter::new(kind, elements, to_f32)
            .ok_or_else(|| no_memory(self.folder, part, elements))?;
        self.pieces(part, |bytes| {
            converter.push(bytes).map_err(|bad| EngineError::InvalidModel {
                file: file.to_owned(),
                problem: format!("tensor `{}`: {bad}", part.info.name),
            })
        })?;
        Ok(match converter.finish() {
            HostData::F16(bits) => Floats::F16(bits),
            HostData::Bf16(bits) => Floats::Bf16(bits),
            HostData::F32(values) => Floats::F32(values),
            // The converter gives this for ggml's block types only.
            HostData::Quantized { scales, .. } => scales,
        })
    }

    /// Packed values, unchanged.
    fn words(&mut self, part: &Part) -> Result<Vec<u32>, EngineError> {
        let count = part.info.shape.iter().product();
        let mut words = reserve(count).ok_or_else(|| no_memory(self.folder, part, count))?;
        self.pieces(part, |bytes| {
            words.extend(bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)));
            Ok(())
        })?;
        Ok(words)
    }

    /// Packed values, dequantized.
    fn widened(
        &mut self,
        part: &Part,
        Affine { bits, group_size }: Affine,
        elements: usize,
        scales: &[f32],
        biases: &[f32],
    ) -> Result<Vec<f32>, EngineError> {
        let mut out: Vec<f32> =
            reserve(elements).ok_or_else(|| no_memory(self.folder, part, elements))?;
        self.pieces(part, |bytes| {
            let done = out.len() / group_size;
            affine::dequantize(bytes, bits, group_size, &scales[done..], &biases[done..], &mut out);
            Ok(())
        })?;
        Ok(out)
    }
}

fn no_memory(folder: &ModelFolder, part: &Part, elements: usize) -> EngineError {
    EngineError::NoMemory {
        file: folder.file_of(part).to_owned(),
        problem: format!(
            "tensor `{}`: there is no memory for its {elements} elements",
            part.info.name
        ),
    }
}
