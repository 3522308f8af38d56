//! One model folder: what it holds, and the manifest that a pull leaves in it.
//!
//! Owns the rules by which a folder or file counts as a model. Looks at names, sizes and a few
//! bytes only; what the weights hold is the engine's to check. Knows nothing of names or catalogue.

use super::error::StoreError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The manifest's file name.
const MANIFEST: &str = "ingle.json";
/// A sim model's configuration.
const CONFIG: &str = "config.json";
/// Bytes of a JSON file that is read at all.
const JSON_BYTES: u64 = 1024 * 1024;

/// How a model is stored, which decides the engine that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelFormat {
    /// One GGUF file.
    Gguf,
    /// A folder whose `config.json` says `"model_type": "sim"`.
    Sim,
}

impl ModelFormat {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Sim => "sim",
        }
    }
}

/// A model found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) format: ModelFormat,
    /// The GGUF file, or a sim model's `config.json`.
    pub(super) file: PathBuf,
    pub(super) size_bytes: u64,
    pub(super) modified: SystemTime,
}

/// What a pull writes beside the model, as `ingle.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Where the model came from.
    pub source: String,
    /// The model file's name in the folder.
    pub file: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
    /// When it was fetched, in seconds since 1970.
    pub fetched_at_unix_s: u64,
}

impl Manifest {
    /// The manifest in `folder`; `None` when there is none that can be read.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&read_bounded(&folder.join(MANIFEST)).ok()?).ok()
    }

    /// Writes the manifest into `folder`, down to the disk.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let file = File::create_new(folder.join(MANIFEST))?;
        serde_json::to_writer_pretty(&file, self)?;
        file.sync_all()
    }
}

/// Finds the model that is at `path`, a GGUF file or a model folder.
///
/// # Errors
/// When nothing is there, or what is there is no whole model of a known format.
pub(super) fn inspect(path: &Path) -> Result<Found, StoreError> {
    let metadata = fs::metadata(path).map_err(|error| read_error(path, error))?;
    if metadata.is_file() {
        return gguf(path);
    }
    if !metadata.is_dir() {
        return Err(broken(path, "is neither a file nor a folder"));
    }
    let mut files = Vec::new();
    let mut has_safetensors = false;
    for entry in fs::read_dir(path).map_err(|error| read_error(path, error))? {
        let file = entry.map_err(|error| read_error(path, error))?.path();
        has_safetensors |= has_extension(&file, "safetensors");
        // Hidden files are never models: copying tools leave `._model.gguf` beside `model.gguf`.
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if has_extension(&file, "gguf") && !hidden {
            files.push(file);
        }
    }
    files.sort();
    let config = path.join(CONFIG);
    match files.as_slice() {
        [file] => {
            let found = gguf(file)?;
            match Manifest::read(path) {
                Some(manifest) if manifest.size_bytes != found.size_bytes => Err(broken(
                    file,
                    &format!(
                        "has {} bytes, and {} were fetched",
                        found.size_bytes, manifest.size_bytes
                    ),
                )),
                _ => Ok(found),
            }
        }
        [] if config.exists() => sim(path, &config),
        [] if has_safetensors => Err(unsupported(path, "holds safetensors, which no engine reads")),
        [] => Err(broken(path, "holds neither a GGUF file nor a config.json")),
        [first, ..] if is_split(first) => {
            Err(unsupported(path, "holds a GGUF model split into parts; join it into one file"))
        }
        several => Err(broken(
            path,
            &format!("holds {} GGUF files; keep one, or name the file itself", several.len()),
        )),
    }
}

fn gguf(path: &Path) -> Result<Found, StoreError> {
    if !has_extension(path, "gguf") {
        return Err(broken(path, "is not a GGUF file: its name does not end in .gguf"));
    }
    let metadata = fs::metadata(path).map_err(|error| read_error(path, error))?;
    if !metadata.is_file() {
        return Err(broken(path, "is not a file"));
    }
    let mut magic = Vec::with_capacity(4);
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut magic))
        .map_err(|error| read_error(path, error))?;
    if magic != b"GGUF" {
        let reason = if magic.is_empty() {
            "is empty"
        } else {
            "is not a GGUF file: it does not start with the bytes `GGUF`"
        };
        return Err(broken(path, reason));
    }
    found(ModelFormat::Gguf, path, &metadata)
}

fn sim(folder: &Path, config: &Path) -> Result<Found, StoreError> {
    // Opening a pipe would wait for somebody to write to it.
    if !fs::metadata(config).map_err(|error| read_error(config, error))?.is_file() {
        return Err(broken(config, "is not a file"));
    }
    let bytes = read_bounded(config).map_err(|error| read_error(config, error))?;
    let value: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|error| broken(config, &format!("is not JSON: {error}")))?;
    match value["model_type"].as_str() {
        Some("sim") => {
            let metadata = fs::metadata(config).map_err(|error| read_error(config, error))?;
            found(ModelFormat::Sim, config, &metadata)
        }
        Some(other) => Err(unsupported(
            folder,
            &format!("is a model of type `{other}` without a GGUF file, which no engine reads"),
        )),
        None => Err(broken(config, "names no `model_type`")),
    }
}

fn found(format: ModelFormat, file: &Path, metadata: &fs::Metadata) -> Result<Found, StoreError> {
    let modified = metadata.modified().map_err(|error| read_error(file, error))?;
    Ok(Found { format, file: file.to_owned(), size_bytes: metadata.len(), modified })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(JSON_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > JSON_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(bytes)
}

pub(super) fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

/// Whether a file is part of a split model, such as `model-00001-of-00003.gguf`.
fn is_split(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.rsplit_once("-of-").is_some_and(|(_, parts)| parts.bytes().all(|b| b.is_ascii_digit()))
}

fn broken(path: &Path, reason: &str) -> StoreError {
    StoreError::Broken { path: path.to_owned(), reason: reason.to_owned() }
}

fn unsupported(path: &Path, reason: &str) -> StoreError {
    StoreError::Unsupported { path: path.to_owned(), reason: reason.to_owned() }
}

fn read_error(path: &Path, error: io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StoreError::PathNotFound { path },
        _ => StoreError::Unreadable { path, source: Arc::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `inspect` says of a folder with these files.
    fn verdict(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        match inspect(folder.path()) {
            Ok(found) => format!(
                "{} {}",
                found.format.as_str(),
                found.file.file_name().unwrap().to_str().unwrap()
            ),
            Err(error) => error.to_string().replace(folder.path().to_str().unwrap(), ""),
        }
    }

    #[test]
    fn a_folder_is_a_gguf_or_a_sim_model_or_says_why_not() {
        for (files, expected) in [
            (&[("a.gguf", "GGUF...")][..], "gguf a.gguf"),
            (&[("A.GGUF", "GGUF"), ("config.json", "{}"), ("._b.gguf", "")], "gguf A.GGUF"),
            (&[("config.json", r#"{"model_type":"sim"}"#)], "sim config.json"),
            (&[("a.gguf", "GGUF"), ("b.gguf", "GGUF")], "holds 2 GGUF files"),
            (&[("m-1-of-2.gguf", "GGUF"), ("m-2-of-2.gguf", "GGUF")], "split into parts"),
            (&[("a.gguf", "")], "a.gguf` is empty"),
            (&[("a.gguf", "GGML")], "does not start with the bytes"),
            (&[("config.json", "{")], "is not JSON"),
            (&[("config.json", "{}")], "names no `model_type`"),
            (&[("config.json", r#"{"model_type":"llama"}"#)], "of type `llama`"),
            (&[("w.safetensors", "")], "holds safetensors"),
            (&[], "holds neither"),
        ] {
            let verdict = verdict(files);
            assert!(verdict.contains(expected), "{files:?}: {verdict}");
        }
    }

    #[test]
    fn a_file_that_lost_bytes_since_its_pull_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.gguf"), "GGUF").unwrap();
        let manifest = Manifest {
            source: "here".into(),
            file: "a.gguf".into(),
            size_bytes: 5,
            sha256: String::new(),
            fetched_at_unix_s: 0,
        };
        manifest.write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()), Some(manifest));
        let error = inspect(folder.path()).unwrap_err();
        assert!(error.to_string().ends_with("has 4 bytes, and 5 were fetched"), "{error}");
    }
}
