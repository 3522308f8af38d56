//! A file that is being fetched, on the disk.
//!
//! Owns `NAME.part`, which grows at its end and is hashed as it grows, and `NAME.tag`, which says
//! whose bytes they are. All of it blocks. A killed daemon leaves both; the next pull goes on.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::client::Resume;
use crate::error::PullError;

/// Bytes hashed between two looks at the cancel token.
const CHUNK_BYTES: usize = 1024 * 1024;

/// The part of a file that is here.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    pub(super) bytes: u64,
    /// Whether it was begun by an earlier pull.
    pub(super) is_old: bool,
}

impl Part {
    /// Opens what is there of the file that is to be at `target`, of `size_bytes` if that is known.
    pub(super) fn open(
        target: &Path,
        size_bytes: Option<u64>,
        cancel: &CancellationToken,
    ) -> Result<Self, PullError> {
        let path = beside(target, "part");
        let io = |action| PullError::io(action, path.clone());
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("create"))?;
        let mut hasher = Sha256::new();
        let mut bytes = 0;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            if cancel.is_cancelled() {
                return Err(PullError::Cancelled);
            }
            match file.read(&mut chunk).map_err(io("read"))? {
                0 => break,
                count => {
                    hasher.update(&chunk[..count]);
                    bytes += count as u64;
                }
            }
        }
        let mut part = Self { path, file, hasher, bytes, is_old: bytes > 0 };
        if size_bytes.is_some_and(|size| part.bytes > size) {
            part.restart()?;
        }
        Ok(part)
    }

    /// Appends what has come.
    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<(), PullError> {
        self.file.write_all(chunk).map_err(|error| self.io("write", error))?;
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Throws everything away.
    pub(super) fn restart(&mut self) -> Result<(), PullError> {
        self.file.set_len(0).map_err(|error| self.io("write", error))?;
        self.file.seek(SeekFrom::Start(0)).map_err(|error| self.io("write", error))?;
        self.hasher = Sha256::new();
        self.bytes = 0;
        self.is_old = false;
        Ok(())
    }

    /// The hash of all that is here.
    pub(super) fn sha256(&self) -> String {
        let hash = self.hasher.clone().finalize();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes it the file at `target`, down to the disk.
    pub(super) fn finish(self, target: &Path) -> Result<(), PullError> {
        self.file.sync_all().map_err(|error| self.io("write", error))?;
        fs::rename(&self.path, target).map_err(PullError::io("create", target))?;
        remove(&beside(target, "tag"))
    }

    fn io(&self, action: &'static str, error: io::Error) -> PullError {
        PullError::io(action, self.path.clone())(error)
    }
}

/// Bytes that are here of the file that is to be at `target`.
pub(super) fn bytes_here(target: &Path) -> u64 {
    let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    size(target).or_else(|| size(&beside(target, "part"))).unwrap_or(0)
}

/// From where, and whose, the rest has to be.
pub(super) fn resume(part: &Part, target: &Path) -> Resume {
    let text = fs::read_to_string(beside(target, "tag")).unwrap_or_default();
    let tag = text.split_once('\n').map(|(host, tag)| (host.to_owned(), tag.trim().to_owned()));
    Resume { from: part.bytes, tag }
}

/// Notes whose bytes follow.
pub(super) fn write_tag(target: &Path, host: &str, tag: Option<&str>) -> Result<(), PullError> {
    let path = beside(target, "tag");
    match tag {
        Some(tag) => {
            fs::write(&path, format!("{host}\n{tag}\n")).map_err(PullError::io("write", path))
        }
        None => remove(&path),
    }
}

fn remove(path: &Path) -> Result<(), PullError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PullError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn beside(target: &Path, end: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(end);
    target.with_file_name(name)
}
