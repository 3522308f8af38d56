//! Model store: finds models by name or path, and lists them all.
//!
//! Owns the lookup in the models folder and in the libraries of other programs. Each call reads them
//! again, so that a model that the user puts there by hand is found at once. Never writes; `pull`
//! downloads.

use super::catalog::{self, CATALOG, CatalogEntry};
use super::error::StoreError;
use super::folder::{self, Manifest, ModelFiles, ModelFormat};
use super::library::{Library, LibraryKind, LibraryModel};
use super::names::{self, ModelInput, Reference};
use ingle_protocol::wire::models::{ModelEntry, ModelState};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The models folder, the catalogue, and the libraries of other programs.
#[derive(Debug, Clone)]
pub struct ModelStore {
    models_dir: PathBuf,
    catalog: &'static [CatalogEntry],
    libraries: Arc<[Library]>,
}

/// A model on disk, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// The name, or the canonical path for a model outside the models folder and all libraries.
    ///
    /// Two spellings of one model give one name.
    pub name: String,
    /// The storage format.
    pub format: ModelFormat,
    /// The GGUF file (the first part of a split one), or the folder.
    pub path: PathBuf,
    /// Bytes of the weights.
    pub size_bytes: u64,
    /// Time of the last change of a file.
    pub modified: SystemTime,
    /// A number that changes when any of the files changes.
    pub stamp: u64,
}

/// An entry of the list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    /// The name.
    pub name: String,
    /// The storage format; `None` if the model is not on disk or cannot be read.
    pub format: Option<ModelFormat>,
    /// Bytes of the weights, or of the download.
    pub size_bytes: u64,
    /// The path; `None` if the model is not on disk.
    pub path: Option<PathBuf>,
    /// The library of another program that holds it.
    pub library: Option<LibraryKind>,
    /// The problem, if the model cannot be used.
    pub broken: Option<String>,
    /// A description in one line; empty if unknown.
    pub description: String,
}

impl ModelStore {
    /// Creates a store of the models in `models_dir` and of Ingle's own catalogue.
    #[must_use]
    pub fn new(models_dir: PathBuf) -> Self {
        Self::with_catalog(models_dir, CATALOG)
    }

    /// Creates a store with another catalogue, whose first entry is the default model.
    #[must_use]
    pub fn with_catalog(models_dir: PathBuf, catalog: &'static [CatalogEntry]) -> Self {
        Self { models_dir, catalog, libraries: Arc::default() }
    }

    /// Adds the libraries of other programs, in order of precedence.
    #[must_use]
    pub fn with_libraries(self, libraries: Vec<Library>) -> Self {
        Self { libraries: libraries.into(), ..self }
    }

    /// The models folder.
    #[must_use]
    pub fn models_dir(&self) -> &Path {
        &self.models_dir
    }

    /// The model of requests that name none.
    #[must_use]
    pub fn default_model(&self) -> &'static str {
        self.catalog.first().map_or(catalog::DEFAULT_MODEL, |entry| entry.name)
    }

    /// Finds a model by name or path, or the default model.
    ///
    /// A path is absolute, or starts with `~/`, and leads to a GGUF file or a model folder. A model in
    /// the models folder takes a few small reads; any other name takes a scan of the libraries.
    ///
    /// # Errors
    /// When the name or path is malformed or ambiguous, or does not lead to a complete model.
    pub fn resolve(&self, model: Option<&str>) -> Result<ModelSource, StoreError> {
        match names::parse(model.unwrap_or(self.default_model()))? {
            ModelInput::Model(reference) => self.resolve_reference(&reference),
            ModelInput::Path(path) => self.resolve_path(&path),
        }
    }

    /// All models in the models folder, the catalogue and the libraries, sorted by name.
    ///
    /// # Errors
    /// When the models folder exists and cannot be read.
    pub fn list(&self) -> Result<Vec<StoreEntry>, StoreError> {
        let mut entries = Vec::new();
        for name in self.folder_names()? {
            let path = self.models_dir.join(&name);
            if names::is_valid_name(&name) {
                entries.extend(self.entries_at(&name, &path, None));
            } else {
                let reason = format!(
                    "rename the folder: model names are lower-case letters, digits, `.`, `_` \
                     and `-`, such as `{}`",
                    names::from_path(Path::new(&name)).unwrap_or("my-model".to_owned())
                );
                entries.push(self.entry(name, path, None, Err(reason)));
            }
        }
        for library in self.libraries.iter() {
            match library.models() {
                Ok(models) => {
                    entries.extend(models.iter().flat_map(|model| {
                        self.entries_at(&model.name, &model.path, Some(model.kind))
                    }))
                }
                Err(error) => {
                    let root = &library.root;
                    let name = root.display().to_string();
                    let reason = format!("cannot be read: {error}");
                    entries.push(self.entry(name, root.clone(), Some(library.kind), Err(reason)));
                }
            }
        }
        for offer in self.catalog {
            if !entries.iter().any(|entry| entry.name == offer.name) {
                entries.push(StoreEntry {
                    name: offer.name.to_owned(),
                    format: None,
                    size_bytes: offer.wheel_bytes,
                    path: None,
                    library: None,
                    broken: None,
                    description: describe(offer),
                });
            }
        }
        // A name means the first of two models with this name: Ingle's own, or the one in the library
        // of higher precedence. The sort is stable, so it keeps this order.
        entries.sort_by_key(|entry| entry.name.to_ascii_lowercase());
        entries.dedup_by(|later, first| {
            later.library.is_some() && later.name.eq_ignore_ascii_case(&first.name)
        });
        Ok(entries)
    }

    /// The entries of a folder, which may hold several models, or of a file.
    fn entries_at(&self, name: &str, path: &Path, library: Option<LibraryKind>) -> Vec<StoreEntry> {
        let choices = if path.is_dir() {
            folder::choices(path).unwrap_or_else(|_| vec![None])
        } else {
            vec![None]
        };
        // Many repositories of a cache are not models, and were not put there for Ingle.
        let choices = match library {
            None if choices.is_empty() => vec![None],
            _ => choices,
        };
        let mut entries = Vec::new();
        for choice in choices {
            let found = folder::inspect(path, choice.as_deref());
            if library.is_some() && matches!(found, Err(StoreError::Unsupported { .. })) {
                continue;
            }
            let name = match &choice {
                Some(choice) => format!("{name}:{choice}"),
                None => name.to_owned(),
            };
            let found = found.map_err(|error| error.to_string());
            entries.push(self.entry(name, path.to_owned(), library, found));
        }
        entries
    }

    fn entry(
        &self,
        name: String,
        path: PathBuf,
        library: Option<LibraryKind>,
        found: Result<ModelFiles, String>,
    ) -> StoreEntry {
        let offer = catalog::find(self.catalog, &name).filter(|_| library.is_none());
        let description = offer.map(describe).unwrap_or_default();
        let (format, size_bytes, path, broken) = match found {
            Ok(found) => {
                let path = if found.format == ModelFormat::Gguf { found.file } else { path };
                (Some(found.format), found.size_bytes, path, None)
            }
            Err(reason) => (None, 0, path, Some(reason)),
        };
        StoreEntry { name, format, size_bytes, path: Some(path), library, broken, description }
    }

    fn resolve_reference(&self, wanted: &Reference) -> Result<ModelSource, StoreError> {
        if let Some(name) = wanted.own_name() {
            match self.own(&name, wanted.choice.as_deref()) {
                Err(StoreError::NotFound { .. }) => {}
                other => return other,
            }
        }
        if let Some(source) = self.pulled(wanted)? {
            return Ok(source);
        }
        self.in_libraries(wanted)?.ok_or_else(|| self.not_found(wanted))
    }

    /// The model in the folder called `name` of the models folder.
    fn own(&self, name: &str, choice: Option<&str>) -> Result<ModelSource, StoreError> {
        let folder = self.models_dir.join(name);
        match folder::inspect(&folder, choice) {
            // Only if the folder itself is absent: a dangling link inside it is a broken model.
            Err(StoreError::PathNotFound { path }) if path == folder => {
                Err(StoreError::NotFound { name: name.into(), can_pull: false, suggestion: None })
            }
            Err(StoreError::PathNotFound { path }) => {
                Err(StoreError::Broken { path, reason: "is a link to a missing file".to_owned() })
            }
            Err(error) => Err(error),
            Ok(found) => Ok(source(name.to_owned(), &folder, found)),
        }
    }

    /// The model in the models folder that was pulled from the repository `wanted`.
    fn pulled(&self, wanted: &Reference) -> Result<Option<ModelSource>, StoreError> {
        if !wanted.is_hub && !wanted.repo.contains('/') {
            return Ok(None);
        }
        let names: Vec<String> = self
            .folder_names()?
            .into_iter()
            .filter(|name| {
                names::is_valid_name(name)
                    && Manifest::read(&self.models_dir.join(name))
                        .is_some_and(|manifest| manifest.is_from(wanted))
            })
            .collect();
        match names.as_slice() {
            [] => Ok(None),
            [name] => self.own(name, None).map(Some),
            _ => Err(StoreError::Ambiguous { name: wanted.to_string(), candidates: names }),
        }
    }

    /// The model in the first library that has a complete model of this name.
    pub(super) fn in_libraries(
        &self,
        wanted: &Reference,
    ) -> Result<Option<ModelSource>, StoreError> {
        let mut models: Vec<LibraryModel> = Vec::new();
        for library in self.libraries.iter() {
            let found = library.find(&wanted.repo, wanted.revision.as_deref());
            // A full name precedes all names with the same ending, and ends the search.
            for model in &found {
                if model.name.eq_ignore_ascii_case(&wanted.repo)
                    && let Ok(found) = folder::inspect(&model.path, wanted.choice.as_deref())
                {
                    return Ok(Some(source(model.name.clone(), &model.path, found)));
                }
            }
            models.extend(found);
        }
        if models.iter().any(|model| model.name.eq_ignore_ascii_case(&wanted.repo)) {
            models.retain(|model| model.name.eq_ignore_ascii_case(&wanted.repo));
        }
        let mut candidates: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
        candidates.sort_by_key(|name| name.to_ascii_lowercase());
        candidates.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
        if candidates.len() > 1 {
            return Err(StoreError::Ambiguous { name: wanted.to_string(), candidates });
        }
        let mut first_error = None;
        for model in models {
            match folder::inspect(&model.path, wanted.choice.as_deref()) {
                Ok(found) => return Ok(Some(source(model.name, &model.path, found))),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    fn resolve_path(&self, path: &Path) -> Result<ModelSource, StoreError> {
        let path = canonical(path)?;
        let found = folder::inspect(&path, None)?;
        // A path into the models folder or a library becomes the model's name.
        let models = fs::canonicalize(&self.models_dir).ok();
        let own = path.ancestors().take(2).find(|folder| folder.parent() == models.as_deref());
        let own = own
            .and_then(|folder| Some((folder, folder.file_name()?.to_str()?.to_owned())))
            .filter(|(_, name)| names::is_valid_name(name));
        let folder = if found.format == ModelFormat::Gguf { found.file.parent() } else { None };
        let folder = folder.filter(|_| !path.is_dir()).unwrap_or(&path);
        let named = own.or_else(|| {
            let name_of = |at| self.libraries.iter().find_map(|library| library.name_of(at));
            // A single file of a library is its own model.
            let [file, folder] = [&path, folder].map(|at| name_of(at).map(|name| (at, name)));
            file.or(folder)
        });
        let Some((folder, name)) = named else {
            return Ok(source(found_path(&path, &found), &path, found));
        };
        // Among several files of the folder the name needs a choice.
        let choice = found.file.file_name().and_then(|name| name.to_str());
        let choice = choice.filter(|_| found.format == ModelFormat::Gguf && folder.is_dir());
        let found = folder::inspect(folder, choice)?;
        Ok(source(name, folder, found))
    }

    fn not_found(&self, wanted: &Reference) -> StoreError {
        // The name by which it can be pulled.
        let name = wanted.own_name().unwrap_or_else(|| wanted.full());
        let in_catalog = catalog::find(self.catalog, &name).is_some();
        let is_repo = wanted.is_hub || wanted.repo.contains('/');
        let can_pull = in_catalog || is_repo && cfg!(feature = "hf-hub");
        let mut known = self.folder_names().unwrap_or_default();
        known.extend(self.catalog.iter().map(|offer| offer.name.to_owned()));
        for library in self.libraries.iter() {
            known.extend(library.models().unwrap_or_default().into_iter().map(|at| at.name));
        }
        let known = known.iter().map(String::as_str);
        let suggestion = if can_pull { None } else { names::nearest(&name, known) };
        StoreError::NotFound { can_pull, suggestion: suggestion.map(str::to_owned), name }
    }

    /// Names of the folders in the models folder, without hidden ones such as a pull's staging folder.
    fn folder_names(&self) -> Result<Vec<String>, StoreError> {
        let unreadable = |error| StoreError::Unreadable {
            path: self.models_dir.clone(),
            source: Arc::new(error),
        };
        let entries = match fs::read_dir(&self.models_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(unreadable)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A single GGUF file is listed too, so that its entry explains what to do.
            if !name.starts_with('.') && (path.is_dir() || folder::has_extension(&path, "gguf")) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl From<StoreEntry> for ModelEntry {
    /// The entry of a model that is not in memory. The problem of a broken model is its description.
    fn from(entry: StoreEntry) -> Self {
        let state = match (&entry.broken, &entry.path) {
            (Some(_), _) => ModelState::Broken,
            (None, Some(_)) => ModelState::OnDisk,
            (None, None) => ModelState::Available,
        };
        let source = match (entry.library, &entry.path) {
            (Some(library), _) => library.as_str(),
            (None, Some(_)) => "ingle",
            (None, None) => "",
        };
        Self {
            name: entry.name,
            format: entry.format.map_or("", ModelFormat::as_str).to_owned(),
            size_bytes: entry.size_bytes,
            state,
            source: source.to_owned(),
            path: entry.path.map(|path| path.to_string_lossy().into_owned()),
            description: entry.broken.unwrap_or(entry.description),
        }
    }
}

/// The canonical path, so that two spellings of a path are equal.
///
/// A file keeps its own name even if it is a link: in a Hugging Face cache the target's name is only a
/// hash.
pub(super) fn canonical(path: &Path) -> Result<PathBuf, StoreError> {
    let canonical = match (path.is_dir(), path.parent(), path.file_name()) {
        (false, Some(parent), Some(name)) => {
            fs::canonicalize(parent).map(|parent| parent.join(name))
        }
        _ => fs::canonicalize(path),
    };
    canonical.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            StoreError::PathNotFound { path: path.to_owned() }
        }
        _ => StoreError::Unreadable { path: path.to_owned(), source: Arc::new(error) },
    })
}

fn describe(offer: &CatalogEntry) -> String {
    format!("{} ({})", offer.description, offer.license)
}

/// The name of a model outside the models folder and all libraries: the canonical path.
fn found_path(path: &Path, found: &ModelFiles) -> String {
    match found.format {
        ModelFormat::Gguf => found.file.to_string_lossy().into_owned(),
        ModelFormat::Safetensors | ModelFormat::Sim => path.to_string_lossy().into_owned(),
    }
}

fn source(name: String, folder: &Path, found: ModelFiles) -> ModelSource {
    let name = match &found.label {
        Some(label) => format!("{name}:{label}"),
        None => name,
    };
    let path = match found.format {
        ModelFormat::Gguf => found.file,
        ModelFormat::Safetensors | ModelFormat::Sim => folder.to_owned(),
    };
    let ModelFiles { format, size_bytes, modified, stamp, .. } = found;
    ModelSource { name, format, path, size_bytes, modified, stamp }
}

#[cfg(test)]
mod tests;
