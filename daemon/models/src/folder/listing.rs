//! Listing of one model folder, read once.
//!
//! Owns the bounds on such a folder, and the errors for unreadable files. Does not know formats.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, Metadata};
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::limits;

use super::super::error::StoreError;

/// Suffixes that downloaders give to incomplete files.
const UNFINISHED: [&str; 7] =
    [".incomplete", ".part", ".partial", ".download", ".crdownload", ".aria2", ".tmp"];

/// The names in a folder, sorted.
pub(crate) struct Listing {
    folder: PathBuf,
    /// Names relative to the folder; those in subfolders have a `/`.
    names: Vec<String>,
}

impl Listing {
    /// Reads `folder` and its direct subfolders, where some publishers put each quantization.
    ///
    /// Names that are not UTF-8 are left out, because no model file has such a name.
    pub(crate) fn read(folder: &Path) -> Result<Self, StoreError> {
        let mut listing = Self { folder: folder.to_owned(), names: Vec::new() };
        let mut folders = Vec::new();
        listing.add("", &mut folders)?;
        for below in folders {
            listing.add(&below, &mut Vec::new())?;
        }
        listing.names.sort_unstable();
        Ok(listing)
    }

    fn add(&mut self, below: &str, folders: &mut Vec<String>) -> Result<(), StoreError> {
        let folder = self.folder.join(below);
        for entry in fs::read_dir(&folder).map_err(|error| read_error(&folder, error))? {
            let entry = entry.map_err(|error| read_error(&folder, error))?;
            if self.names.len() + folders.len() >= limits::MODEL_FOLDER_FILES {
                let reason = format!("holds more than {} files", limits::MODEL_FOLDER_FILES);
                return Err(broken(&self.folder, &reason));
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = format!("{below}{name}");
            // A link to a folder is not followed, because it could lead anywhere.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    if below.is_empty() && !name.starts_with('.') {
                        folders.push(name + "/");
                    }
                }
                _ => self.names.push(name),
            }
        }
        Ok(())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The names directly in the folder.
    pub(super) fn top(&self) -> impl Iterator<Item = &str> {
        self.names().filter(|name| !name.contains('/'))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.binary_search_by(|other| other.as_str().cmp(name)).is_ok()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A note about an incomplete download, as the end of a sentence.
    pub(super) fn unfinished(&self) -> String {
        let name = self.names().find(|name| UNFINISHED.iter().any(|end| name.ends_with(end)));
        name.map(|name| format!("; `{name}` shows that its download is not finished"))
            .unwrap_or_default()
    }
}

/// Total size, last change and stamp of a model's files.
pub(super) struct FileSummary {
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
    hasher: DefaultHasher,
}

impl FileSummary {
    pub(super) fn new() -> Self {
        Self { bytes: 0, modified: SystemTime::UNIX_EPOCH, hasher: DefaultHasher::new() }
    }

    /// Adds a file: its size if it holds weights, and its time of change.
    pub(super) fn add(&mut self, path: &Path, is_weights: bool) -> Result<(), StoreError> {
        let metadata = file_metadata(path)?;
        let modified = metadata.modified().map_err(|error| read_error(path, error))?;
        if is_weights {
            self.bytes = self.bytes.saturating_add(metadata.len());
        }
        self.modified = self.modified.max(modified);
        (path.file_name(), metadata.len(), modified).hash(&mut self.hasher);
        Ok(())
    }

    /// A number that changes when any of the files changes.
    pub(super) fn stamp(&self) -> u64 {
        self.hasher.finish()
    }
}

/// The metadata of a file; an error for anything else than a file.
pub(super) fn file_metadata(path: &Path) -> Result<Metadata, StoreError> {
    // Opening a named pipe would block until a program writes to it.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(metadata),
        Ok(_) => Err(broken(path, "is not a file")),
        Err(_) if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) => {
            Err(broken(path, "is a link to a missing file"))
        }
        Err(error) => Err(read_error(path, error)),
    }
}

/// The first bytes of a file, at most `count`.
pub(super) fn first_bytes(path: &Path, count: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(count).read_to_end(&mut bytes))
        .map_err(|error| read_error(path, error))?;
    if bytes.starts_with(b"version ") && count >= 8 {
        return Err(broken(path, "is a Git LFS pointer, not the file itself; run `git lfs pull`"));
    }
    Ok(bytes)
}

/// A JSON file of bounded size.
pub(super) fn read_json(path: &Path) -> Result<serde_json::Value, StoreError> {
    file_metadata(path)?;
    let bytes = read_bounded(path).map_err(|error| read_error(path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| broken(path, &format!("is not JSON: {error}")))
}

/// The bytes of a file of bounded size.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a named pipe would block until a program writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut bytes = Vec::new();
    let limit = limits::MODEL_JSON_BYTES;
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let problem = format!("larger than {} MiB", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(bytes)
}

pub(super) fn broken(path: &Path, reason: &str) -> StoreError {
    StoreError::Broken { path: path.to_owned(), reason: reason.to_owned() }
}

pub(super) fn unsupported(path: &Path, reason: &str) -> StoreError {
    StoreError::Unsupported { path: path.to_owned(), reason: reason.to_owned() }
}

pub(super) fn read_error(path: &Path, error: io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StoreError::PathNotFound { path },
        _ => StoreError::Unreadable { path, source: Arc::new(error) },
    }
}
