//! One model folder: what it holds, and the manifest that a pull leaves in it.
//!
//! Owns the rules by which a folder or file counts as a model. Looks at names, sizes and a few
//! bytes only; what the weights hold is the engine's to check. Knows nothing of names or catalogue.

mod gguf;
mod listing;
pub(super) mod safetensors;

use super::error::StoreError;
use super::names::{self, Reference};
use super::quant;
use listing::{Sum, broken, read_bounded, read_error, read_json, unsupported};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(super) use listing::Listing;

/// The manifest's file name.
const MANIFEST: &str = "ingle.json";
/// A model's configuration, where it is a folder.
pub(super) const CONFIG: &str = "config.json";

/// What a manifest's source begins with for a model of Hugging Face's.
pub(super) const HUB_SOURCE: &str = "hf:";

/// How a model is stored, which decides the engine that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelFormat {
    /// A GGUF file, or one split into parts.
    Gguf,
    /// A folder with `config.json` and safetensors.
    Safetensors,
    /// A folder whose `config.json` says `"model_type": "sim"`.
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

/// A model found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) format: ModelFormat,
    /// The GGUF file (of a split one the first part), the safetensors file or index, or a sim
    /// model's `config.json`.
    pub(super) file: PathBuf,
    /// What tells it from the other GGUF models of its folder, if there are several.
    pub(super) label: Option<String>,
    /// All files the model is made of.
    pub(super) files: Vec<PathBuf>,
    /// Bytes of the weights.
    pub(super) size_bytes: u64,
    /// When the last of the files was written.
    pub(super) modified: SystemTime,
    /// A number that changes when any of the files does.
    pub(super) stamp: u64,
}

impl Found {
    /// Whether it is the model that `manifest` describes.
    pub(super) fn holds(&self, manifest: &Manifest) -> bool {
        self.file.file_name().is_some_and(|name| *name == *manifest.file)
    }
}

/// What a pull writes beside the model, as `ingle.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Where the model came from.
    pub source: String,
    /// The version that was fetched, where the source has versions: a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The branches and tags that meant this version when it was asked for by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<String>,
    /// Which of several models of the source it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// The model file's name in the folder; of several files the one that names the others.
    pub file: String,
    /// Bytes of the weights.
    pub size_bytes: u64,
    /// SHA-256 of the model file, in lower-case hexadecimal; empty when there are several.
    pub sha256: String,
    /// When it was fetched, in seconds since 1970.
    pub fetched_at_unix_s: u64,
}

impl Manifest {
    /// The manifest in `folder`; `None` when there is none that can be read.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&read_bounded(&folder.join(MANIFEST)).ok()?).ok()
    }

    /// Whether it is of a model that was pulled from the repository `wanted`.
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

    /// Whether it is of the commit that begins with `commit`.
    pub(super) fn is_at(&self, commit: &str) -> bool {
        self.revision.as_deref().is_some_and(|own| own.starts_with(commit))
    }

    /// Writes the manifest into `folder`, down to the disk. A download that is gone on with may
    /// have one already, which this replaces whole.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let new = folder.join(format!("{MANIFEST}.new"));
        let file = File::create(&new)?;
        serde_json::to_writer_pretty(&file, self)?;
        file.sync_all()?;
        fs::rename(&new, folder.join(MANIFEST))
    }
}

/// Finds the model that is at `path`, a GGUF file or a model folder. `choice` tells the GGUF files
/// of a folder apart, by file name or quantisation.
///
/// # Errors
/// When nothing is there, or what is there is no whole model of a known format, or several.
pub(super) fn inspect(path: &Path, choice: Option<&str>) -> Result<Found, StoreError> {
    let metadata = fs::metadata(path).map_err(|error| read_error(path, error))?;
    if metadata.is_file() {
        return gguf::found(path);
    }
    if !metadata.is_dir() {
        return Err(broken(path, "is neither a file nor a folder"));
    }
    let found = inspect_folder(path, &Listing::read(path)?, choice)?;
    match Manifest::read(path) {
        // A folder can hold more than what was fetched into it.
        Some(manifest) if !found.holds(&manifest) => Ok(found),
        Some(manifest) if manifest.size_bytes != found.size_bytes => Err(broken(
            &found.file,
            &format!("has {} bytes, and {} were fetched", found.size_bytes, manifest.size_bytes),
        )),
        _ => Ok(found),
    }
}

/// The choices among the models of a folder: one `None` for a folder with one model, none for a
/// folder without weights.
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
) -> Result<Found, StoreError> {
    // A repository with safetensors may hold GGUF files as well; those are asked for by choice.
    let has_both = listing.has(CONFIG) && has_safetensors(listing);
    let several = quant::models(listing.names()).len() > 1;
    let takes_gguf = choice.is_some() || !(has_both && several);
    if takes_gguf && let Some(found) = gguf::chosen(folder, listing, choice)? {
        return Ok(found);
    }
    if !listing.has(CONFIG) {
        let reason = if has_safetensors(listing) {
            "holds safetensors without the config.json that says what they are"
        } else {
            "holds neither a GGUF file nor a config.json"
        };
        return Err(broken(folder, &format!("{reason}{}", listing.unfinished())));
    }
    let config = folder.join(CONFIG);
    let value = read_json(&config)?;
    match value["model_type"].as_str() {
        Some("sim") => {
            let mut sum = Sum::new();
            sum.add(&config, true)?;
            Ok(Found {
                format: ModelFormat::Sim,
                label: None,
                files: vec![config.clone()],
                file: config,
                size_bytes: sum.bytes,
                modified: sum.modified,
                stamp: sum.stamp(),
            })
        }
        kind => match (safetensors::found(folder, listing)?, kind) {
            (Some(found), _) => Ok(found),
            (None, None) => Err(broken(&config, "names no `model_type`")),
            (None, Some(kind)) => Err(unsupported(
                folder,
                &format!(
                    "is a model of type `{kind}` without weights that can be read: it has neither \
                     a GGUF file nor safetensors{}",
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
