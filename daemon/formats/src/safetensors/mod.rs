//! Bounded reader of safetensors files.
//!
//! Owns the checks that make an untrusted file safe to use: after [`SafetensorsFile::open`] every name
//! is unique, every shape fits its type and byte range, and the ranges cover the file without gap or
//! overlap. Reads with `pread` and never maps the file. Does not know the meaning of a tensor, nor model
//! folders. Source: the format section of the safetensors repository's README; the checks are those of
//! its crate, with tighter limits.
//!
//! The crate itself is not used: its `read_metadata` wants the whole file in memory or mapped, keeps
//! the last of two equal names, has no limits on names, dimensions and elements, and its errors do not
//! name the tensor.

mod dtype;
mod error;
mod header;
mod limits;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use dtype::Dtype;
pub use error::{SafetensorsError, SafetensorsErrorKind};
pub use header::TensorInfo;

use super::data::Data;

/// Size of the header's length at the beginning of the file, in bytes.
const PREFIX_BYTES: u64 = 8;

/// An open safetensors file: its tensor index in memory, its tensors on disk.
///
/// It can be shared between threads: reading tensors moves no file position.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    data: Data,
    tensors: Vec<TensorInfo>,
}

impl SafetensorsFile {
    /// Opens and checks a file. Reads its header only.
    ///
    /// # Errors
    /// [`SafetensorsError`] naming the file, the tensor, and what was found and expected.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let data = Data::open(path)
            .map_err(|error| SafetensorsErrorKind::Io(error.to_string()).at(path))?;
        Self::read(path, data)
    }

    /// Checks a file in memory; `path` is for messages only.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, SafetensorsError> {
        Self::read(path, Data::Memory(bytes))
    }

    fn read(path: &Path, data: Data) -> Result<Self, SafetensorsError> {
        let tensors = read_header(&data).map_err(|kind| kind.at(path))?;
        Ok(Self { path: path.to_owned(), data, tensors })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, in the order of their bytes.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Fills `out` with the tensor's stored bytes from `offset` on.
    ///
    /// # Errors
    /// [`SafetensorsErrorKind::Truncated`] if the tensor, or by now the file, ends before `out` is full;
    /// [`SafetensorsErrorKind::Io`] for an error of the operating system.
    pub fn read_tensor(
        &self,
        tensor: &TensorInfo,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), SafetensorsError> {
        let start = tensor.offset.saturating_add(offset);
        let end = start.saturating_add(out.len() as u64);
        let truncated = |file_bytes| SafetensorsErrorKind::Truncated {
            what: format!("tensor `{}`", tensor.name),
            start,
            end,
            file_bytes,
        };
        let tensor_end = tensor.offset.saturating_add(tensor.bytes);
        if end > tensor_end {
            return Err(truncated(tensor_end).at(&self.path));
        }
        self.data.read_exact_at(out, start).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::UnexpectedEof => truncated(self.data.len().unwrap_or(0)),
                _ => SafetensorsErrorKind::Io(error.to_string()),
            };
            kind.at(&self.path)
        })
    }
}

fn read_header(data: &Data) -> Result<Vec<TensorInfo>, SafetensorsErrorKind> {
    let io = |error: std::io::Error| SafetensorsErrorKind::Io(error.to_string());
    let file_bytes = data.len().map_err(io)?;
    let truncated = |what: &str, start, end| SafetensorsErrorKind::Truncated {
        what: what.to_owned(),
        start,
        end,
        file_bytes,
    };
    if file_bytes < PREFIX_BYTES {
        return Err(truncated("the header's length", 0, PREFIX_BYTES));
    }
    let mut prefix = [0; PREFIX_BYTES as usize];
    data.read_exact_at(&mut prefix, 0).map_err(io)?;
    let header_bytes = u64::from_le_bytes(prefix);
    // Checked first: most files of another format fail here.
    if header_bytes > limits::MAX_HEADER_BYTES {
        return Err(SafetensorsErrorKind::TooLarge {
            what: "the header's length in bytes".to_owned(),
            found: header_bytes,
            limit: limits::MAX_HEADER_BYTES,
        });
    }
    let data_start = PREFIX_BYTES + header_bytes;
    if data_start > file_bytes {
        return Err(truncated("the header", PREFIX_BYTES, data_start));
    }
    let mut json = vec![0; header_bytes as usize];
    data.read_exact_at(&mut json, PREFIX_BYTES).map_err(io)?;
    header::parse(&json, data_start, file_bytes - data_start)
}
