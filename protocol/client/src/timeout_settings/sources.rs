//! Sources of timeout settings, as they were read.
//!
//! Owns reading the two files and the environment. Does not resolve anything.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::SettingError;
use super::origin::Origin;
use crate::paths::Paths;

/// A file of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Its path, whether or not it exists.
    pub path: PathBuf,
    /// Its content; empty when it does not exist.
    pub bytes: Vec<u8>,
}

impl TextFile {
    /// Reads the file at `path`; a missing file is empty.
    ///
    /// # Errors
    /// When it exists and cannot be read, is not a file, or has more than
    /// [`crate::limits::SETTINGS_FILE_BYTES`].
    pub fn read(path: PathBuf) -> Result<Self, SettingError> {
        match read_bounded(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path, bytes: Vec::new() })
            }
            Err(error) => Err(SettingError::File { path, problem: error.to_string() }),
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self) -> Result<&str, SettingError> {
        str::from_utf8(&self.bytes).map_err(|error| SettingError::File {
            path: self.path.clone(),
            problem: format!("line {} is not UTF-8", self.line_at(error.valid_up_to())),
        })
    }

    /// The line, from 1, that this byte is on.
    pub(super) fn line_at(&self, at: usize) -> usize {
        let before = &self.bytes[..at.min(self.bytes.len())];
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// The origin of the text on `line`.
    pub(super) fn origin(&self, line: usize) -> Origin {
        Origin::File { path: self.path.clone(), line }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before it is opened: opening a pipe would wait for its writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let limit = crate::limits::SETTINGS_FILE_BYTES;
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// All sources, the strongest last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// `config.toml`.
    pub config: TextFile,
    /// `.env`.
    pub env_file: TextFile,
    /// The variables of this process.
    pub environment: Vec<(OsString, OsString)>,
}

impl Sources {
    /// Reads the two files of the Ingle folder, and this process's environment.
    ///
    /// # Errors
    /// When one of the files exists and cannot be read.
    pub fn read(paths: &Paths) -> Result<Self, SettingError> {
        let mut environment: Vec<_> = std::env::vars_os().collect();
        // So that of several errors always the same one is reported.
        environment.sort();
        let config = TextFile::read(paths.config_file())?;
        let env_file = TextFile::read(paths.env_file())?;
        Ok(Self { config, env_file, environment })
    }
}
