//! GGUF models of one folder: single files, split models, and the choice among several.
//!
//! Owns when such files are a complete model. The first part stands for a split model: llama.cpp finds
//! the others in its folder. Reads names, sizes and the first four bytes only.

use std::path::{Path, PathBuf};

use super::ModelFiles;
use super::listing::{FileSummary, Listing, broken, file_metadata, first_bytes};
use crate::error::StoreError;
use crate::folder::ModelFormat;
use crate::quant::{self, SplitPart};

/// The model at `path`, which is a GGUF file or any part of a split model.
pub(super) fn found(path: &Path) -> Result<ModelFiles, StoreError> {
    if !super::has_extension(path, "gguf") {
        return Err(broken(path, "is not a GGUF file: its name does not end in .gguf"));
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let files: Vec<PathBuf> = match SplitPart::of(name) {
        Some(part) => part.all().map(|name| path.with_file_name(name)).collect(),
        None => vec![path.to_owned()],
    };
    let mut summary = FileSummary::new();
    for file in &files {
        match file_metadata(file) {
            Err(StoreError::PathNotFound { path: missing }) if files.len() > 1 => {
                let missing = missing.file_name().unwrap_or_default().to_string_lossy();
                let reason = format!(
                    "is part of a model split into {} files, and `{missing}` is missing",
                    files.len()
                );
                return Err(broken(path, &reason));
            }
            other => other.map(drop)?,
        }
        check_magic(file)?;
        summary.add(file, true)?;
    }
    Ok(ModelFiles {
        format: ModelFormat::Gguf,
        file: files.first().cloned().unwrap_or_else(|| path.to_owned()),
        label: None,
        files,
        size_bytes: summary.bytes,
        modified: summary.modified,
        stamp: summary.stamp(),
    })
}

/// The GGUF model of a folder that `choice` names, or the only one without a choice.
pub(super) fn chosen(
    folder: &Path,
    listing: &Listing,
    choice: Option<&str>,
) -> Result<Option<ModelFiles>, StoreError> {
    let models = quant::models(listing.names());
    let matching: Vec<&str> = match choice {
        Some(choice) => {
            models.iter().copied().filter(|path| quant::is_choice(path, choice)).collect()
        }
        None => models.clone(),
    };
    match (matching.as_slice(), choice) {
        ([one], _) => {
            let label = (models.len() > 1).then(|| quant::label(one, &models));
            Ok(Some(ModelFiles { label, ..found(&listing.path(one))? }))
        }
        ([], None) => Ok(None),
        ([], Some(choice)) if models.is_empty() => {
            Err(broken(folder, &format!("holds no GGUF file, so `:{choice}` names no model")))
        }
        _ => {
            let labels: Vec<String> =
                models.iter().map(|path| quant::label(path, &models)).collect();
            Err(StoreError::Choose { path: folder.to_owned(), choices: labels })
        }
    }
}

fn check_magic(path: &Path) -> Result<(), StoreError> {
    let first = first_bytes(path, 8)?;
    if first.starts_with(b"GGUF") {
        return Ok(());
    }
    let reason = if first.is_empty() {
        "is empty"
    } else {
        "is not a GGUF file: it does not start with the bytes `GGUF`"
    };
    Err(broken(path, reason))
}
