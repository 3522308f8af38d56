//! Bounded reader of GGUF files, little-endian versions 2 and 3.
//!
//! Owns the checks that make an untrusted file safe to use: after [`GgufFile::open`] every name is
//! unique, every shape is valid and every tensor's bytes lie inside the file, so that later code need
//! not check them again. Reads with `pread` and never maps the file. Does not know architectures, nor
//! the meaning of a tensor or key. Source: `docs/gguf.md` of the ggml repository.

mod cursor;
mod error;
mod ggml_type;
mod limits;
mod metadata;
mod split;
mod tensor_index;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use error::{GgufError, GgufErrorKind};
pub use ggml_type::GgmlType;
pub use metadata::{Array, Metadata, Value};
pub use tensor_index::TensorInfo;

use super::data::Data;
use cursor::Cursor;

const DEFAULT_ALIGNMENT: u32 = 32;

/// An open GGUF file: its metadata and tensor index in memory, its tensors on disk.
///
/// It can be shared between threads: reading tensors moves no file position.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    data: Data,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    later_parts_bytes: u64,
    by_name: HashMap<String, usize>,
}

impl GgufFile {
    /// Opens and checks a file. Reads its header only.
    ///
    /// # Errors
    /// [`GgufError`] naming the file, the key or tensor, and what was found and expected.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let data =
            Data::open(path).map_err(|error| GgufErrorKind::Io(error.to_string()).at(path))?;
        let mut file = Self::read(path, data).map_err(|kind| kind.at(path))?;
        file.later_parts_bytes = split::later_parts_bytes(path, file.part_count());
        Ok(file)
    }

    /// Checks a file in memory; `path` is for messages only.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::read(path, Data::Memory(bytes)).map_err(|kind| kind.at(path))
    }

    fn read(path: &Path, data: Data) -> Result<Self, GgufErrorKind> {
        let file_bytes = data.len().map_err(|error| GgufErrorKind::Io(error.to_string()))?;
        let mut cursor = Cursor::new(&data, file_bytes);

        let magic = cursor.array()?;
        if &magic != b"GGUF" {
            return Err(GgufErrorKind::Magic { found: magic });
        }
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufErrorKind::Version { found: version });
        }
        let tensor_count = cursor.u64()?;
        let key_count = cursor.u64()?;
        let metadata = Metadata::read(&mut cursor, path, key_count)?;
        let alignment = alignment(&metadata)?;
        let tensors = tensor_index::read(&mut cursor, tensor_count, alignment, file_bytes)?;
        let by_name =
            tensors.iter().enumerate().map(|(index, info)| (info.name.clone(), index)).collect();
        let path = path.to_owned();
        Ok(Self { path, data, version, metadata, tensors, later_parts_bytes: 0, by_name })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The keys and values.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the file's order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// Total size of all tensors in the file, in bytes.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|info| info.bytes).sum()
    }

    /// Number of files of a split model, of which this is one; 1 for a model in one file.
    #[must_use]
    pub fn part_count(&self) -> u32 {
        let parts = self.metadata.u32_opt("split.count").ok().flatten();
        parts.unwrap_or(1).max(1)
    }

    /// Total size of all tensors of the model whose first part this is, in bytes.
    ///
    /// The later parts were measured when the file was opened, including their headers. Missing parts
    /// count as 0.
    #[must_use]
    pub fn model_bytes(&self) -> u64 {
        self.tensor_bytes().saturating_add(self.later_parts_bytes)
    }

    /// Fills `out` with the tensor's stored bytes from `offset` on.
    ///
    /// # Errors
    /// [`GgufErrorKind::Truncated`] if the tensor, or by now the file, ends before `out` is full;
    /// [`GgufErrorKind::Io`] for an error of the operating system.
    pub fn read_tensor(
        &self,
        tensor: &TensorInfo,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), GgufError> {
        let start = tensor.offset.saturating_add(offset);
        let end = start.saturating_add(out.len() as u64);
        let truncated = |file_bytes| GgufErrorKind::Truncated {
            what: format!("tensor `{}`", tensor.name),
            start,
            end,
            file_bytes,
        };
        if end > tensor.offset.saturating_add(tensor.bytes) {
            return Err(truncated(tensor.offset.saturating_add(tensor.bytes)).at(&self.path));
        }
        self.data.read_exact_at(out, start).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::UnexpectedEof => truncated(self.data.len().unwrap_or(0)),
                _ => GgufErrorKind::Io(error.to_string()),
            };
            kind.at(&self.path)
        })
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufErrorKind> {
    let key = "general.alignment";
    let alignment = metadata.u32_opt(key).map_err(|error| error.kind)?;
    let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > limits::MAX_ALIGNMENT {
        return Err(GgufErrorKind::Invalid {
            what: format!("metadata key `{key}`"),
            problem: format!(
                "the alignment is {alignment}, expected a power of two up to {}",
                limits::MAX_ALIGNMENT
            ),
        });
    }
    Ok(alignment.into())
}
