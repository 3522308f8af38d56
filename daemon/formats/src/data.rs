//! Where a reader's bytes come from: an open file, or memory.
//!
//! Owns positioned reading. It moves no file position, so that threads can share it. Memory is
//! there for tests and fuzzing: a reader must not care.

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
    /// Opens a regular file. Anything else is refused before it is opened: opening a pipe would
    /// wait for somebody to write to it.
    ///
    /// # Errors
    /// The operating system's, or that it is not a regular file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Self::File(File::open(path)?))
    }

    /// How many bytes there are now.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the bytes end before, and the operating system's.
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
