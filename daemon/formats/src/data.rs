//! Byte source of a reader: an open file, or memory.
//!
//! Owns positioned reading, which moves no file position, so that threads can share a source. Memory
//! serves tests and fuzzing, and behaves like a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The bytes of one file.
#[derive(Debug)]
pub(super) enum Data {
    /// On disk, as long as it stays open.
    File(File),
    /// In memory.
    Memory(Vec<u8>),
}

impl Data {
    /// Opens a regular file.
    ///
    /// Anything else is refused before it is opened, because opening a named pipe would block until a
    /// program writes to it.
    ///
    /// # Errors
    /// The operating system's error, or that the path is not a regular file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Self::File(File::open(path)?))
    }

    /// The current number of bytes.
    ///
    /// # Errors
    /// The operating system's error.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the bytes end too early, or the operating system's error.
    pub(super) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(out, offset),
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let found = bytes.get(start..).and_then(|rest| rest.get(..out.len()));
                out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}
