//! The file of a host on disk: reading, backup, atomic replacement.
//!
//! Owns links, modes, backups and noticing a concurrent change by another program. Does not know
//! the meaning of the text.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// A reason not to change a file.
#[derive(Debug)]
pub(crate) enum FileError {
    /// The operating system refused.
    Io {
        /// The operation.
        verb: &'static str,
        /// The path.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// It is not a regular file.
    NotAFile(PathBuf),
    /// It is larger than any host's settings.
    TooLong(PathBuf),
    /// It is not UTF-8 from this line on.
    NotText(PathBuf, usize),
    /// It has changed since it was read.
    Changed(PathBuf),
}

/// The state of a file when it was read.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The path of the file itself, with links resolved.
    path: PathBuf,
    /// Its text; `None` when it does not exist.
    pub(crate) text: Option<String>,
    mode: Option<u32>,
    owner: Option<Owner>,
}

/// User and group of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { user: metadata.uid(), group: metadata.gid() }
    }
}

/// Reads the file at `path`, following links.
///
/// # Errors
/// See [`FileError`]. A missing file is no error.
pub(crate) fn read(path: &Path) -> Result<Snapshot, FileError> {
    let path = resolve(path)?;
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Snapshot { path, text: None, mode: None, owner: None });
        }
        Err(error) => return Err(FileError::Io { verb: "read", path, error }),
    };
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path));
    }
    let text = read_text(&path)?;
    let mode = Some(metadata.permissions().mode() & 0o7777);
    Ok(Snapshot { path, text: Some(text), mode, owner: Some(Owner::of(&metadata)) })
}

/// Resolves links, including a link to a file that does not exist yet.
fn resolve(path: &Path) -> Result<PathBuf, FileError> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => Ok(path.parent().unwrap_or(path).join(target)),
            Err(_) => Ok(path.to_owned()),
        },
        Err(error) => Err(FileError::Io { verb: "read", path: path.to_owned(), error }),
    }
}

fn read_text(path: &Path) -> Result<String, FileError> {
    let failed = |error| FileError::Io { verb: "read", path: path.to_owned(), error };
    let most = crate::limits::HOST_CONFIG_BYTES;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(FileError::TooLong(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + sound.iter().filter(|&&byte| byte == b'\n').count();
        FileError::NotText(path.to_owned(), line)
    })
}

impl Snapshot {
    /// The texts of the backups, newest first. Unreadable ones are skipped.
    pub(crate) fn backups(&self) -> Vec<String> {
        let numbers = (1..=crate::limits::HOST_CONFIG_BACKUPS).rev();
        numbers.filter_map(|number| read_text(&self.backup_path(number)).ok()).collect()
    }

    /// Replaces the text of the file after a backup. Returns the path of the backup; `None` for a
    /// file that did not exist.
    ///
    /// # Errors
    /// See [`FileError`]: the file is unchanged.
    pub(crate) fn replace(&self, text: &str, new_mode: u32) -> Result<Option<PathBuf>, FileError> {
        if let Some(folder) = self.path.parent() {
            let made = fs::create_dir_all(folder);
            made.map_err(|error| FileError::Io { verb: "create", path: folder.to_owned(), error })?;
        }
        let backup = self.back_up()?;
        let mode = self.mode.unwrap_or(new_mode);
        self.put(&self.path, text, mode, || self.check_unchanged())?;
        self.sync_folder();
        Ok(backup)
    }

    /// Replaces `path` atomically, with the file's owner, if `is_fine` holds until the end.
    fn put(
        &self,
        path: &Path,
        text: &str,
        mode: u32,
        is_fine: impl FnOnce() -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.ingle-{}", std::process::id()));
        let put =
            write_new(&temporary, text, mode, self.owner).and_then(|()| is_fine()).and_then(|()| {
                fs::rename(&temporary, path).map_err(|error| FileError::Io {
                    verb: "replace",
                    path: path.to_owned(),
                    error,
                })
            });
        if put.is_err() {
            // The temporary file is removed; the error has the reason.
            let _ = fs::remove_file(&temporary);
        }
        put
    }

    /// Removes the file.
    ///
    /// # Errors
    /// See [`FileError`].
    pub(crate) fn delete(&self) -> Result<(), FileError> {
        self.check_unchanged()?;
        fs::remove_file(&self.path).map_err(|error| self.failed("remove", error))?;
        self.sync_folder();
        Ok(())
    }

    fn failed(&self, verb: &'static str, error: io::Error) -> FileError {
        FileError::Io { verb, path: self.path.clone(), error }
    }

    fn check_unchanged(&self) -> Result<(), FileError> {
        let now = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            _ => Some(read_text(&self.path)?),
        };
        let is_same = now == self.text;
        is_same.then_some(()).ok_or_else(|| FileError::Changed(self.path.clone()))
    }

    /// Writes a backup of the old text, unless there is one already.
    fn back_up(&self) -> Result<Option<PathBuf>, FileError> {
        let (Some(text), Some(mode)) = (&self.text, self.mode) else { return Ok(None) };
        for number in 1..=crate::limits::HOST_CONFIG_BACKUPS {
            let path = self.backup_path(number);
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return write_new(&path, text, mode, self.owner).map(|()| Some(path));
                }
                _ => {
                    if read_text(&path).is_ok_and(|kept| kept == *text) {
                        return Ok(Some(path));
                    }
                }
            }
        }
        // All backups exist. The first is from before Ingle, so the last one is replaced.
        let path = self.backup_path(crate::limits::HOST_CONFIG_BACKUPS);
        self.put(&path, text, mode, || Ok(())).map(|()| Some(path))
    }

    fn backup_path(&self, number: u32) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".ingle-backup-{number}"));
        self.path.with_file_name(name)
    }

    fn sync_folder(&self) {
        // Not every file system supports this; the file itself is on disk.
        let folder = self.path.parent().map(File::open);
        if let Some(Ok(folder)) = folder {
            let _ = folder.sync_all();
        }
    }
}

fn write_new(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<(), FileError> {
    let failed = |error| FileError::Io { verb: "write", path: path.to_owned(), error };
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(mode & 0o600).open(path).map_err(failed)?;
    let written = fill(&mut file, text, mode, owner).map_err(failed);
    if written.is_err() {
        // An incomplete file is removed; the error has the reason.
        let _ = fs::remove_file(path);
    }
    written
}

fn fill(file: &mut File, text: &str, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    // Run by another user, such as root, this must not change the owner of the file.
    if let Some(owner) = owner
        && Owner::of(&file.metadata()?) != owner
    {
        fchown(&*file, Some(owner.user), Some(owner.group))?;
    }
    // The mode of the old file, independent of the umask.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const MODE: u32 = 0o600;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn file_behind_a_link_is_replaced_and_backed_up() {
        let folder = tempfile::tempdir().unwrap();
        let (dotfiles, home) = (folder.path().join("dotfiles"), folder.path().join("home"));
        fs::create_dir(&dotfiles).unwrap();
        fs::create_dir(&home).unwrap();
        let (file, link) = (dotfiles.join("mcp.json"), home.join("mcp.json"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        symlink("../dotfiles/mcp.json", &link).unwrap();
        let backup = read(&link).unwrap().replace("new", MODE).unwrap().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        assert_eq!(fs::read_to_string(&backup).unwrap(), "old");
        assert_eq!((mode(&file), mode(&backup)), (0o640, 0o640));
        assert_eq!(names(&home), ["mcp.json"]);
        // An existing backup is not repeated, and no temporary file is left.
        assert_eq!(
            read(&link).unwrap().replace("old", MODE).unwrap().unwrap().extension(),
            Some("ingle-backup-2".as_ref())
        );
        assert_eq!(read(&link).unwrap().replace("new", MODE).unwrap().unwrap(), backup);
        assert_eq!(
            names(&dotfiles),
            ["mcp.json", "mcp.json.ingle-backup-1", "mcp.json.ingle-backup-2"]
        );
        assert_eq!(read(&link).unwrap().backups(), ["new", "old"]);
    }

    #[test]
    fn owner_is_kept_and_last_backup_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mcp.json");
        fs::write(&path, "0").unwrap();
        let theirs = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(4_321), Some(4_322)).unwrap();
            Owner { user: 4_321, group: 4_322 }
        } else {
            Owner::of(&fs::metadata(&path).unwrap())
        };
        let count = crate::limits::HOST_CONFIG_BACKUPS + 2;
        for number in 1..=count {
            let backup = read(&path).unwrap().replace(&number.to_string(), MODE).unwrap().unwrap();
            assert_eq!(Owner::of(&fs::metadata(&path).unwrap()), theirs);
            assert_eq!(Owner::of(&fs::metadata(&backup).unwrap()), theirs);
        }
        let backups = read(&path).unwrap().backups();
        assert_eq!(backups.first(), Some(&(count - 1).to_string()));
        assert_eq!(backups.last().map(String::as_str), Some("0"));
        assert_eq!(names(folder.path()).len(), backups.len() + 1, "nothing temporary is left");
    }

    #[test]
    fn missing_file_is_created_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/mcp.json");
        let snapshot = read(&path).unwrap();
        assert_eq!(snapshot.text, None);
        assert_eq!(snapshot.replace("new", MODE).unwrap(), None);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("new", MODE));
        read(&path).unwrap().delete().unwrap();
        assert!(!path.exists());
        // A link to a missing file stays a link.
        let link = folder.path().join("link.json");
        symlink("a/b/mcp.json", &link).unwrap();
        read(&link).unwrap().replace("new", MODE).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn concurrent_change_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mcp.json");
        let absent = read(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(matches!(absent.replace("ours", MODE), Err(FileError::Changed(_))));
        let snapshot = read(&path).unwrap();
        fs::write(&path, "theirs, later").unwrap();
        assert!(matches!(snapshot.replace("ours", MODE), Err(FileError::Changed(_))));
        assert!(matches!(snapshot.delete(), Err(FileError::Changed(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs, later");
        assert_eq!(names(folder.path()), ["mcp.json", "mcp.json.ingle-backup-1"]);
    }

    #[test]
    fn other_files_are_left_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mcp.json");
        assert!(matches!(read(folder.path()), Err(FileError::NotAFile(_))));
        fs::write(&path, b"{\n\"a\": \"\xff\"}").unwrap();
        assert!(matches!(read(&path), Err(FileError::NotText(_, 2))));
        let long = File::create(&path).unwrap();
        long.set_len(crate::limits::HOST_CONFIG_BYTES as u64 + 1).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLong(_))));
        assert!(matches!(read(&path.join("x")), Err(FileError::Io { verb: "read", .. })));
    }
}
