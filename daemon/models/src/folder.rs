//! Model folder: its files, and the manifest that a pull writes into it.
//!
//! Owns the rules by which a folder or file counts as a model. Reads names, sizes and a few bytes only:
//! the engine checks the contents of the weights. Does not know model names or the catalogue.

mod gguf;
mod listing;
pub(super) mod safetensors;

use super::error::StoreError;
use super::names::{self, Reference};
use super::quant;
use listing::{FileSummary, broken, read_bounded, read_error, read_json, unsupported};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(super) use listing::Listing;

/// The manifest's file name.
const MANIFEST: &str = "ingle.json";
/// The configuration file of a model folder.
pub(super) const CONFIG: &str = "config.json";

/// Prefix of a manifest's source for a model of Hugging Face.
pub(super) const HUB_SOURCE: &str = "hf:";

/// Storage format of a model, which decides the engine that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelFormat {
    /// A GGUF file, or one split into parts.
    Gguf,
    /// A folder with `config.json` and safetensors.
    Safetensors,
    /// A folder whose `config.json` has `"model_type": "sim"`.
    Sim,
}

impl ModelFormat {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Sim => "sim",
        }
    }
}

/// The files of a model on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelFiles {
    pub(super) format: ModelFormat,
    /// The GGUF file (the first part of a split one), the safetensors file or index, or a sim model's
    /// `config.json`.
    pub(super) file: PathBuf,
    /// The choice that names it among the GGUF models of its folder, if there are several.
    pub(super) label: Option<String>,
    /// All files of the model.
    pub(super) files: Vec<PathBuf>,
    /// Bytes of the weights.
    pub(super) size_bytes: u64,
    /// Time of the last change of a file.
    pub(super) modified: SystemTime,
    /// A number that changes when any of the files changes.
    pub(super) stamp: u64,
}

impl ModelFiles {
    /// Whether these are the files that `manifest` describes.
    pub(super) fn holds(&self, manifest: &Manifest) -> bool {
        self.file.file_name().is_some_and(|name| *name == *manifest.file)
    }
}

/// Origin of a pulled model, stored as `ingle.json` in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The source of the model.
    pub source: String,
    /// The pulled version, a commit, if the source has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The branches and tags of pulls that resolved to this version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<String>,
    /// The choice among several models of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// The model file's name in the folder; among several files the one that names the others.
    pub file: String,
    /// Bytes of the weights.
    pub size_bytes: u64,
    /// SHA-256 of the model file, in lower-case hexadecimal; empty if there are several.
    pub sha256: String,
    /// Time of the pull, in seconds since 1970.
    pub fetched_at_unix_s: u64,
}

impl Manifest {
    /// The manifest in `folder`; `None` if it is missing or invalid.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&read_bounded(&folder.join(MANIFEST)).ok()?).ok()
    }

    /// Whether the model was pulled from the repository `wanted`.
    pub(super) fn is_from(&self, wanted: &Reference) -> bool {
        let repo = self.source.strip_prefix(HUB_SOURCE);
        let is_choice = |choice: &str| {
            self.choice.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(choice))
                || quant::is_choice(&self.file, choice)
        };
        repo.is_some_and(|repo| repo.eq_ignore_ascii_case(&wanted.repo))
            && wanted.choice.as_deref().is_none_or(is_choice)
            && wanted.revision.as_deref().is_none_or(|revision| {
                self.refs.iter().any(|own| own == revision)
                    || names::commit(revision).is_some_and(|commit| self.is_at(&commit))
            })
    }

    /// Whether the model is at the commit that begins with `commit`.
    pub(super) fn is_at(&self, commit: &str) -> bool {
        self.revision.as_deref().is_some_and(|own| own.starts_with(commit))
    }

    /// Writes the manifest into `folder` and syncs it to the disk.
    ///
    /// A resumed download may have a manifest already, which is replaced atomically.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let new = folder.join(format!("{MANIFEST}.new"));
        let file = File::create(&new)?;
        serde_json::to_writer_pretty(&file, self)?;
        file.sync_all()?;
        fs::rename(&new, folder.join(MANIFEST))
    }
}

/// Finds the model at `path`, a GGUF file or a model folder.
///
/// `choice` names one of a folder's GGUF files, by file name or quantization.
///
/// # Errors
/// When `path` does not exist, or does not hold exactly one complete model of a known format.
pub(super) fn inspect(path: &Path, choice: Option<&str>) -> Result<ModelFiles, StoreError> {
    let metadata = fs::metadata(path).map_err(|error| read_error(path, error))?;
    if metadata.is_file() {
        return gguf::found(path);
    }
    if !metadata.is_dir() {
        return Err(broken(path, "is neither a file nor a folder"));
    }
    let found = inspect_folder(path, &Listing::read(path)?, choice)?;
    match Manifest::read(path) {
        // A folder can hold other models than the pulled one.
        Some(manifest) if !found.holds(&manifest) => Ok(found),
        Some(manifest) if manifest.size_bytes != found.size_bytes => Err(broken(
            &found.file,
            &format!("has {} bytes, expected {}", found.size_bytes, manifest.size_bytes),
        )),
        _ => Ok(found),
    }
}

/// The choices among the models of a folder.
///
/// A folder with one model gives one `None`; a folder without weights gives no choice.
pub(super) fn choices(folder: &Path) -> Result<Vec<Option<String>>, StoreError> {
    let listing = Listing::read(folder)?;
    let models = quant::models(listing.names());
    let one_is_enough = models.len() <= 1 || has_safetensors(&listing);
    if one_is_enough {
        let is_model = !models.is_empty()
            || listing.has(CONFIG) && has_safetensors(&listing)
            || listing.has(CONFIG) && is_sim(folder);
        return Ok(if is_model { vec![None] } else { Vec::new() });
    }
    Ok(models.iter().map(|path| Some(quant::label(path, &models))).collect())
}

fn inspect_folder(
    folder: &Path,
    listing: &Listing,
    choice: Option<&str>,
) -> Result<ModelFiles, StoreError> {
    // A repository with safetensors may hold GGUF files too, which a request names by choice.
    let has_both = listing.has(CONFIG) && has_safetensors(listing);
    let several = quant::models(listing.names()).len() > 1;
    let takes_gguf = choice.is_some() || !(has_both && several);
    if takes_gguf && let Some(found) = gguf::chosen(folder, listing, choice)? {
        return Ok(found);
    }
    if !listing.has(CONFIG) {
        let reason = if has_safetensors(listing) {
            "holds safetensors without a config.json that describes the model"
        } else {
            "holds neither a GGUF file nor a config.json"
        };
        return Err(broken(folder, &format!("{reason}{}", listing.unfinished())));
    }
    let config = folder.join(CONFIG);
    let value = read_json(&config)?;
    match value["model_type"].as_str() {
        Some("sim") => {
            let mut summary = FileSummary::new();
            summary.add(&config, true)?;
            Ok(ModelFiles {
                format: ModelFormat::Sim,
                label: None,
                files: vec![config.clone()],
                file: config,
                size_bytes: summary.bytes,
                modified: summary.modified,
                stamp: summary.stamp(),
            })
        }
        kind => match (safetensors::found(folder, listing)?, kind) {
            (Some(found), _) => Ok(found),
            (None, None) => Err(broken(&config, "has no `model_type`")),
            (None, Some(kind)) => Err(unsupported(
                folder,
                &format!(
                    "is a model of type `{kind}` without readable weights: it has neither a GGUF \
                     file nor safetensors{}",
                    listing.unfinished()
                ),
            )),
        },
    }
}

fn has_safetensors(listing: &Listing) -> bool {
    listing.top().any(|name| name.ends_with(".safetensors") || name.contains(".safetensors."))
}

fn is_sim(folder: &Path) -> bool {
    read_json(&folder.join(CONFIG)).is_ok_and(|config| config["model_type"] == "sim")
}

pub(super) fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests;
