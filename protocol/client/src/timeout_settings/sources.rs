//! The places where timeouts are set, as they were read.
//!
//! Owns reading the two files and picking out of the environment what concerns timeouts. Decides
//! nothing.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::SettingError;
use super::origin::Origin;
use crate::paths::Paths;
use ingle_protocol::limits;

/// A file of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// What is in it; nothing when it is not there.
    pub bytes: Vec<u8>,
}

impl TextFile {
    /// Reads the file at `path`; one that is not there is empty.
    ///
    /// # Errors
    /// When it is there and cannot be read, is no file, or has more than
    /// [`limits::SETTINGS_FILE_BYTES`].
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

    /// The origin of what stands on `line`.
    pub(super) fn origin(&self, line: usize) -> Origin {
        Origin::File { path: self.path.clone(), line }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let limit = limits::SETTINGS_FILE_BYTES;
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Everything that is looked at, the strongest last.
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
    /// When one of the files is there and cannot be read.
    pub fn read(paths: &Paths) -> Result<Self, SettingError> {
        let mut environment: Vec<_> = std::env::vars_os().collect();
        // So that of several mistakes it is always the same one that is told.
        environment.sort();
        let config = TextFile::read(paths.config_file())?;
        let env_file = TextFile::read(paths.env_file())?;
        Ok(Self { config, env_file, environment })
    }
}
