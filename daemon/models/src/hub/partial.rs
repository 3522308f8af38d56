//! Partial downloads on disk, which a later pull can resume.
//!
//! Owns `.partial-NAME-KEY` in the models folder, where the key stands for the repository, its commit
//! and the choice of files, so that the files in such a folder belong together. In it, a file that is
//! being downloaded is `NAME.part`, which grows at its end and is hashed as it grows, and `NAME.tag`
//! holds the host and the entity tag of its bytes. A killed daemon leaves both. All of it blocks.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::client::Resume;
use crate::error::PullError;
use crate::limits;
use crate::staging;

const PREFIX: &str = ".partial-";
/// Hexadecimal digits of a folder's key.
const KEY_DIGITS: usize = 12;
/// Bytes hashed between two checks of the cancel token.
const CHUNK_BYTES: usize = 1024 * 1024;

/// The folder of a download.
#[derive(Debug, Clone)]
pub(crate) struct PartialFolder {
    folder: PathBuf,
}

impl PartialFolder {
    /// Opens the folder of the model `name` from `origin`, or creates it.
    ///
    /// A folder that an earlier pull left of another version of the model is removed.
    pub(crate) fn open(models_dir: &Path, name: &str, origin: &str) -> Result<Self, PullError> {
        let hash = Sha256::digest(origin.as_bytes());
        let key: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let wanted = format!("{PREFIX}{name}-{}", &key[..KEY_DIGITS]);
        let partial = Self { folder: models_dir.join(&wanted) };
        let model_dir = partial.model_dir();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&model_dir)
            .map_err(PullError::io("create", model_dir))?;
        let back = |folder: &Path| staging::put_back(models_dir, folder);
        back(&partial.folder).map_err(PullError::io("put the model back from", &partial.folder))?;
        for entry in fs::read_dir(models_dir).into_iter().flatten().flatten() {
            let other = entry.file_name();
            let key = other.to_str().and_then(|other| {
                other.strip_prefix(PREFIX)?.strip_prefix(name)?.strip_prefix('-')
            });
            // `tiny` and `tiny-2` both begin with `tiny-`.
            let is_same = key.is_some_and(|key| key.len() == KEY_DIGITS && is_hex(key));
            if is_same && other.to_str() != Some(&wanted) {
                // The folder only takes up disk space: a failure to remove it is harmless.
                let _ = back(&entry.path()).and_then(|()| fs::remove_dir_all(entry.path()));
            }
        }
        Ok(partial)
    }

    /// The folder that becomes the model's folder.
    pub(crate) fn model_dir(&self) -> PathBuf {
        self.folder.join("model")
    }

    /// Moves the finished model to `destination`.
    pub(crate) fn place(&self, destination: &Path) -> Result<(), PullError> {
        staging::place(&self.model_dir(), &self.folder, destination)
    }

    /// Removes the rest of the folder, once the model is in its place.
    pub(crate) fn remove(self) -> Result<(), PullError> {
        fs::remove_dir_all(&self.folder).map_err(PullError::io("remove", self.folder))
    }
}

/// Removes downloads that no pull has resumed for long, and returns their number.
///
/// Correct only while no pull runs in `models_dir`.
pub(crate) fn remove_stale(models_dir: &Path, now: SystemTime) -> io::Result<usize> {
    let limit = Duration::from_secs(limits::HUB_PARTIAL_DAYS * 24 * 60 * 60);
    let mut removed = 0;
    for entry in fs::read_dir(models_dir).into_iter().flatten().flatten() {
        let is_partial = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type()?.is_dir();
        if is_partial {
            staging::put_back(models_dir, &entry.path())?;
        }
        let age = |path: &Path| {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
            modified.and_then(|modified| now.duration_since(modified).ok()).unwrap_or_default()
        };
        let model = entry.path().join("model");
        let files = fs::read_dir(&model).into_iter().flatten().flatten();
        // Writing to a file does not touch its folder.
        let youngest = files.map(|file| age(&file.path())).chain([age(&model)]).min();
        if is_partial && youngest.is_some_and(|age| age > limit) {
            fs::remove_dir_all(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A file that is being downloaded.
pub(super) struct PartialFile {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    pub(super) bytes: u64,
    /// Whether an earlier pull began it.
    pub(super) is_old: bool,
}

impl PartialFile {
    /// Opens the partial file of `target`, or creates it, and hashes its bytes.
    ///
    /// A partial file larger than `size_bytes` is emptied.
    pub(super) fn open(
        target: &Path,
        size_bytes: Option<u64>,
        cancel: &CancellationToken,
    ) -> Result<Self, PullError> {
        let path = with_suffix(target, "part");
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

    /// Appends received bytes.
    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<(), PullError> {
        self.file.write_all(chunk).map_err(|error| self.io("write", error))?;
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Empties the file.
    pub(super) fn restart(&mut self) -> Result<(), PullError> {
        self.file.set_len(0).map_err(|error| self.io("write", error))?;
        self.file.seek(SeekFrom::Start(0)).map_err(|error| self.io("write", error))?;
        self.hasher = Sha256::new();
        self.bytes = 0;
        self.is_old = false;
        Ok(())
    }

    /// The SHA-256 of the bytes so far.
    pub(super) fn sha256(&self) -> String {
        let hash = self.hasher.clone().finalize();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes the file through to the disk and renames it to `target`.
    pub(super) fn finish(self, target: &Path) -> Result<(), PullError> {
        self.file.sync_all().map_err(|error| self.io("write", error))?;
        fs::rename(&self.path, target).map_err(PullError::io("create", target))?;
        remove(&with_suffix(target, "tag"))
    }

    fn io(&self, action: &'static str, error: io::Error) -> PullError {
        PullError::io(action, self.path.clone())(error)
    }
}

/// Bytes on disk of the file `target`, complete or partial.
pub(super) fn bytes_here(target: &Path) -> u64 {
    let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    size(target).or_else(|| size(&with_suffix(target, "part"))).unwrap_or(0)
}

/// The point from which to resume the download of `target`.
pub(super) fn resume(part: &PartialFile, target: &Path) -> Resume {
    let text = fs::read_to_string(with_suffix(target, "tag")).unwrap_or_default();
    let tag = text.split_once('\n').map(|(host, tag)| (host.to_owned(), tag.trim().to_owned()));
    Resume { from: part.bytes, tag }
}

/// Stores the host and entity tag of the bytes that follow.
pub(super) fn write_tag(target: &Path, host: &str, tag: Option<&str>) -> Result<(), PullError> {
    let path = with_suffix(target, "tag");
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

fn with_suffix(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    target.with_file_name(name)
}
