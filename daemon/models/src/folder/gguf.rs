//! GGUF models of one folder: whole files and split ones, and the choice among several.
//!
//! Owns when such files are a whole model. A split model is its first part; llama.cpp finds the
//! others beside it. Looks at names, sizes and the first four bytes only.

use std::path::{Path, PathBuf};

use super::Found;
use super::listing::{Listing, Sum, broken, file_metadata, first_bytes};
use crate::error::StoreError;
use crate::folder::ModelFormat;
use crate::quant::{self, Part};

/// The model at `path`, which is a GGUF file or any part of a split one.
pub(super) fn found(path: &Path) -> Result<Found, StoreError> {
    if !super::has_extension(path, "gguf") {
        return Err(broken(path, "is not a GGUF file: its name does not end in .gguf"));
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let files: Vec<PathBuf> = match Part::of(name) {
        Some(part) => part.all().map(|name| path.with_file_name(name)).collect(),
        None => vec![path.to_owned()],
    };
    let mut sum = Sum::new();
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
        sum.add(file, true)?;
    }
    Ok(Found {
        format: ModelFormat::Gguf,
        file: files.first().cloned().unwrap_or_else(|| path.to_owned()),
        label: None,
        files,
        size_bytes: sum.bytes,
        modified: sum.modified,
        stamp: sum.stamp(),
    })
}

/// The one GGUF model of a folder that `choice` names; any if there is only one.
pub(super) fn chosen(
    folder: &Path,
    listing: &Listing,
    choice: Option<&str>,
) -> Result<Option<Found>, StoreError> {
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
            Ok(Some(Found { label, ..found(&listing.path(one))? }))
        }
        ([], None) => Ok(None),
        ([], Some(choice)) if models.is_empty() => {
            Err(broken(folder, &format!("holds no GGUF file, so `:{choice}` names nothing in it")))
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
