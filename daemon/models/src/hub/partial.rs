//! The folder of a download that can be gone on with.
//!
//! Owns `.partial-NAME-KEY` in the models folder, where the key stands for the repository, its
//! commit and the choice of files: what is in such a folder belongs together. All of it blocks.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::limits;
use sha2::{Digest, Sha256};

use crate::error::PullError;
use crate::staging;

const PREFIX: &str = ".partial-";
/// Hexadecimal digits of a key.
const KEY_DIGITS: usize = 12;

/// A download's folder.
#[derive(Debug, Clone)]
pub(crate) struct Partial {
    folder: PathBuf,
}

impl Partial {
    /// Makes the folder of the model `name` of `origin`, or finds what an earlier pull left of it.
    /// What is left of another version is removed.
    pub(crate) fn open(models_dir: &Path, name: &str, origin: &str) -> Result<Self, PullError> {
        let hash = Sha256::digest(origin.as_bytes());
        let key: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let wanted = format!("{PREFIX}{name}-{}", &key[..KEY_DIGITS]);
        let partial = Self { folder: models_dir.join(&wanted) };
        let rooms = partial.model_dir();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&rooms)
            .map_err(PullError::io("create", rooms))?;
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
                // It costs room, and nothing else depends on it.
                let _ = back(&entry.path()).and_then(|()| fs::remove_dir_all(entry.path()));
            }
        }
        Ok(partial)
    }

    /// What becomes the model's folder.
    pub(crate) fn model_dir(&self) -> PathBuf {
        self.folder.join("model")
    }

    /// Moves the finished model to `destination`.
    pub(crate) fn place(&self, destination: &Path) -> Result<(), PullError> {
        staging::place(&self.model_dir(), &self.folder, destination)
    }

    /// Removes what is left once the model is in its place.
    pub(crate) fn remove(self) -> Result<(), PullError> {
        fs::remove_dir_all(&self.folder).map_err(PullError::io("remove", self.folder))
    }
}

/// Removes downloads that nobody went on with, and returns how many they were. Sound only while no
/// pull runs in `models_dir`.
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
