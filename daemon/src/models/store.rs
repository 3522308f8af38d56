//! What models are here: names and paths to files, and the list of all.
//!
//! Owns the lookup in the models folder. Reads it anew on every call, so that a model that a
//! person puts there by hand is seen at once. Never writes; fetching is `pull`'s.

use super::catalog::{self, CATALOG, CatalogEntry};
use super::error::StoreError;
use super::folder::{self, Found, ModelFormat};
use super::names::{self, Named};
use ingle_protocol::wire::models::{ModelEntry, ModelState};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The models folder and the catalogue.
#[derive(Debug, Clone)]
pub struct ModelStore {
    models_dir: PathBuf,
    catalog: &'static [CatalogEntry],
}

/// A model on disk, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// Its name, or for a model outside the models folder its canonical path. Two spellings of
    /// one model give one name.
    pub name: String,
    /// How it is stored.
    pub format: ModelFormat,
    /// The GGUF file, or the sim model's folder.
    pub path: PathBuf,
    /// Bytes of the model file.
    pub size_bytes: u64,
    /// When the model file was last written.
    pub modified: SystemTime,
}

/// One line of the list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    /// Its name.
    pub name: String,
    /// How it is stored; `None` while it is not here or cannot be read.
    pub format: Option<ModelFormat>,
    /// Bytes of the model file, or to fetch.
    pub size_bytes: u64,
    /// Whether it is on disk.
    pub on_disk: bool,
    /// What is wrong with it.
    pub broken: Option<String>,
    /// One line about it; empty when nothing is known.
    pub description: String,
}

impl ModelStore {
    /// The models in `models_dir`, and those of Ingle's own catalogue.
    #[must_use]
    pub const fn new(models_dir: PathBuf) -> Self {
        Self::with_catalog(models_dir, CATALOG)
    }

    /// The same with another catalogue, whose first entry is the default model.
    #[must_use]
    pub const fn with_catalog(models_dir: PathBuf, catalog: &'static [CatalogEntry]) -> Self {
        Self { models_dir, catalog }
    }

    /// The folder of the models that are named rather than pointed at.
    #[must_use]
    pub fn models_dir(&self) -> &Path {
        &self.models_dir
    }

    /// The model of calls that name none.
    #[must_use]
    pub fn default_model(&self) -> &'static str {
        self.catalog.first().map_or(catalog::DEFAULT_MODEL, |entry| entry.name)
    }

    /// Finds a model by its name, by the absolute path (or one that starts with `~/`) of a GGUF
    /// file or model folder, or the default one. Does a few small reads and no more.
    ///
    /// # Errors
    /// When the name or path is malformed, nothing is there, or what is there is no whole model.
    pub fn resolve(&self, model: Option<&str>) -> Result<ModelSource, StoreError> {
        match names::parse(model.unwrap_or(self.default_model()))? {
            Named::Name(name) => self.resolve_name(name),
            Named::Path(path) => self.resolve_path(&path),
        }
    }

    /// Everything in the models folder and the catalogue, by name.
    ///
    /// # Errors
    /// When the models folder is there and cannot be read.
    pub fn list(&self) -> Result<Vec<StoreEntry>, StoreError> {
        let mut entries: Vec<StoreEntry> = self
            .folder_names()?
            .into_iter()
            .map(|name| {
                let found = if names::is_valid_name(&name) {
                    folder::inspect(&self.models_dir.join(&name)).map_err(|error| error.to_string())
                } else {
                    Err(format!(
                        "rename the folder: model names are lower-case letters, digits, `.`, `_` \
                         and `-`, such as `{}`",
                        names::from_path(Path::new(&name)).unwrap_or("my-model".to_owned())
                    ))
                };
                self.entry_on_disk(name, found)
            })
            .collect();
        for offer in self.catalog {
            if !entries.iter().any(|entry| entry.name == offer.name) {
                entries.push(StoreEntry {
                    name: offer.name.to_owned(),
                    format: None,
                    size_bytes: offer.wheel_bytes,
                    on_disk: false,
                    broken: None,
                    description: describe(offer),
                });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn entry_on_disk(&self, name: String, found: Result<Found, String>) -> StoreEntry {
        let description = catalog::find(self.catalog, &name).map(describe).unwrap_or_default();
        let (format, size_bytes, broken) = match found {
            Ok(found) => (Some(found.format), found.size_bytes, None),
            Err(reason) => (None, 0, Some(reason)),
        };
        StoreEntry { name, format, size_bytes, on_disk: true, broken, description }
    }

    fn resolve_name(&self, name: String) -> Result<ModelSource, StoreError> {
        let folder = self.models_dir.join(&name);
        match folder::inspect(&folder) {
            // Only the folder's own absence: a dangling link inside it is a broken model.
            Err(StoreError::PathNotFound { path }) if path == folder => Err(self.not_found(name)),
            Err(StoreError::PathNotFound { path }) => {
                Err(StoreError::Broken { path, reason: "is a link to nothing".to_owned() })
            }
            Err(error) => Err(error),
            Ok(found) => Ok(source(name, &folder, found)),
        }
    }

    fn resolve_path(&self, path: &Path) -> Result<ModelSource, StoreError> {
        let path = canonical(path)?;
        let found = folder::inspect(&path)?;
        // A path into the models folder is another spelling of a name.
        let models = fs::canonicalize(&self.models_dir).ok();
        let own = path.ancestors().take(2).find(|folder| folder.parent() == models.as_deref());
        let name = own
            .and_then(|folder| folder.file_name()?.to_str())
            .filter(|name| names::is_valid_name(name))
            .map_or_else(|| found_path(&path, &found), str::to_owned);
        Ok(source(name, &path, found))
    }

    fn not_found(&self, name: String) -> StoreError {
        let in_catalog = catalog::find(self.catalog, &name).is_some();
        let here = self.folder_names().unwrap_or_default();
        let offers = self.catalog.iter().map(|offer| offer.name);
        let known = here.iter().map(String::as_str).chain(offers);
        let suggestion = if in_catalog { None } else { names::nearest(&name, known) };
        StoreError::NotFound { in_catalog, suggestion: suggestion.map(str::to_owned), name }
    }

    /// Names of the folders in the models folder, hidden ones (such as a pull's staging) left out.
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
            // A loose GGUF file is listed too: whoever put it there should learn what to do.
            if !name.starts_with('.') && (path.is_dir() || folder::has_extension(&path, "gguf")) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl From<StoreEntry> for ModelEntry {
    /// The entry of a model that is not in memory; a broken one is described by what is wrong.
    fn from(entry: StoreEntry) -> Self {
        let state = match (&entry.broken, entry.on_disk) {
            (Some(_), _) => ModelState::Broken,
            (None, true) => ModelState::OnDisk,
            (None, false) => ModelState::Available,
        };
        Self {
            name: entry.name,
            format: entry.format.map_or("", ModelFormat::as_str).to_owned(),
            size_bytes: entry.size_bytes,
            state,
            description: entry.broken.unwrap_or(entry.description),
        }
    }
}

/// `path` without detours, so that two spellings of it are one. A file keeps its own name even if
/// it is a link: in a Hugging Face cache what it points at is named by its hash alone.
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

/// The name of a model outside the models folder: its file's path, however it was reached.
fn found_path(path: &Path, found: &Found) -> String {
    match found.format {
        ModelFormat::Gguf => found.file.to_string_lossy().into_owned(),
        ModelFormat::Sim => path.to_string_lossy().into_owned(),
    }
}

fn source(name: String, folder: &Path, found: Found) -> ModelSource {
    let path = match found.format {
        ModelFormat::Gguf => found.file,
        ModelFormat::Sim => folder.to_owned(),
    };
    let Found { format, size_bytes, modified, .. } = found;
    ModelSource { name, format, path, size_bytes, modified }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ingle_protocol::error::{ErrorBody, ErrorCode};
    use std::os::unix::fs::symlink;

    struct Room {
        dir: tempfile::TempDir,
        store: ModelStore,
    }

    fn room() -> Room {
        let dir = tempfile::tempdir().unwrap();
        let store = ModelStore::new(dir.path().join("models"));
        fs::create_dir(store.models_dir()).unwrap();
        Room { dir, store }
    }

    impl Room {
        fn put(&self, path: &str, content: &str) -> PathBuf {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::canonicalize(path).unwrap()
        }
    }

    #[test]
    fn a_name_and_every_spelling_of_its_path_are_one_model() {
        let room = room();
        let file = room.put("models/tiny/a.gguf", "GGUF1234");
        let by_name = room.store.resolve(Some("Tiny")).unwrap();
        assert_eq!((by_name.name.as_str(), by_name.size_bytes), ("tiny", 8));
        for path in [file.clone(), file.parent().unwrap().join("../tiny/.")] {
            assert_eq!(room.store.resolve(path.to_str()).unwrap().name, "tiny");
        }
        let folder = room.put("elsewhere/b.gguf", "GGUF");
        let named = [folder.to_str(), folder.parent().unwrap().to_str()]
            .map(|path| room.store.resolve(path).unwrap().name);
        assert_eq!(named, [folder.to_str().unwrap(), folder.to_str().unwrap()]);
    }

    #[test]
    fn links_are_followed_and_a_dangling_one_is_named() {
        let room = room();
        let file = room.put("elsewhere/b.gguf", "GGUF");
        symlink(file.parent().unwrap(), room.store.models_dir().join("linked")).unwrap();
        assert_eq!(room.store.resolve(Some("linked")).unwrap().name, "linked");
        fs::create_dir(room.store.models_dir().join("lost")).unwrap();
        symlink("/nowhere/c.gguf", room.store.models_dir().join("lost/c.gguf")).unwrap();
        let error = room.store.resolve(Some("lost")).unwrap_err();
        assert!(error.to_string().ends_with("c.gguf` is a link to nothing"), "{error}");
    }

    #[test]
    fn a_sim_folder_is_resolved_to_the_folder() {
        let room = room();
        room.put("models/sim/config.json", r#"{"model_type":"sim"}"#);
        let source = room.store.resolve(Some("sim")).unwrap();
        assert_eq!(source.format, ModelFormat::Sim);
        assert_eq!(source.path, room.store.models_dir().join("sim"));
    }

    #[test]
    fn what_is_missing_is_told_with_the_next_step() {
        let room = room();
        room.put("models/tiny/a.gguf", "GGUF");
        let body = |model| ErrorBody::from(room.store.resolve(model).unwrap_err());
        let default = body(None);
        assert_eq!(default.code, ErrorCode::ModelNotFound);
        assert_eq!(default.remediation, "Run `ingle pull smollm2`.");
        assert!(body(Some("tinny")).remediation.contains("`tiny`"));
        assert!(body(Some("smolm")).remediation.contains("`smollm2`"));
        assert_eq!(body(Some("gpt-5")).remediation, ErrorCode::ModelNotFound.remediation());
        assert_eq!(body(Some("/nowhere/a.gguf")).code, ErrorCode::ModelNotFound);
        for bad in ["../tiny", "tiny/a.gguf", "..", "", "a b", "~root/x"] {
            assert_eq!(body(Some(bad)).code, ErrorCode::InvalidParams, "{bad}");
        }
    }

    #[test]
    fn the_list_has_what_is_here_what_is_broken_and_what_can_be_had() {
        let room = room();
        room.put("models/tiny/a.gguf", "GGUF");
        room.put("models/empty/readme.txt", "");
        room.put("models/BIG/a.gguf", "GGUF");
        room.put("models/.staging-1/a.gguf", "GGUF");
        let list: Vec<ModelEntry> =
            room.store.list().unwrap().into_iter().map(ModelEntry::from).collect();
        let states: Vec<_> = list.iter().map(|entry| (entry.name.as_str(), entry.state)).collect();
        assert_eq!(
            states,
            [
                ("BIG", ModelState::Broken),
                ("empty", ModelState::Broken),
                ("smollm2", ModelState::Available),
                ("tiny", ModelState::OnDisk),
            ]
        );
        assert!(list[0].description.contains("`big`"), "{}", list[0].description);
        assert_eq!(ModelStore::new("/nowhere".into()).list().unwrap().len(), 1);
    }
}
