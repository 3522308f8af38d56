//! Model libraries of other programs: the Hugging Face cache, LM Studio, and the user's own folders.
//!
//! Owns the place and the name of each model in such a library. Reads only: nothing here creates,
//! changes or removes a file, because a library belongs to another program. Every scan is bounded and
//! blocks. Does not know formats.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::limits;

use super::names;
use super::quant;

/// Maximum size of a file that names a commit, in bytes.
const REF_BYTES: u64 = 256;

/// Kind of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibraryKind {
    /// The cache of Hugging Face's programs: `models--ORG--NAME/snapshots/COMMIT`.
    HuggingFace,
    /// LM Studio's folder: `ORG/NAME`.
    LmStudio,
    /// A folder from the settings, with models in it or in its subfolders.
    Folder,
}

impl LibraryKind {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HuggingFace => "huggingface",
            Self::LmStudio => "lm_studio",
            Self::Folder => "folder",
        }
    }
}

/// A folder of models that Ingle does not manage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The kind, which decides the layout.
    pub kind: LibraryKind,
    /// The library's own folder.
    pub root: PathBuf,
}

/// A model in a library: a folder, or a single GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LibraryModel {
    /// `org/name`, or `name` in a library without publishers.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) kind: LibraryKind,
}

impl Library {
    /// All models of the library, sorted by name. A library that does not exist is empty.
    ///
    /// Only names of files are read, so an entry may not be a complete model.
    ///
    /// # Errors
    /// When the library's own folder exists and cannot be read. Unreadable folders in it are left out.
    pub(super) fn models(&self) -> io::Result<Vec<LibraryModel>> {
        self.scan(None)
    }

    fn scan(&self, wanted: Option<&str>) -> io::Result<Vec<LibraryModel>> {
        let left = limits::LIBRARY_ENTRIES;
        let mut scan = Scan { library: self, wanted, left, models: Vec::new() };
        match self.kind {
            LibraryKind::HuggingFace => scan.cache()?,
            LibraryKind::LmStudio | LibraryKind::Folder => scan.tree(&self.root, &[])?,
        }
        if scan.left == 0 {
            let root = self.root.display();
            tracing::warn!(%root, entries = left, "a folder of models is too large: some are left out");
        }
        scan.models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(scan.models)
    }

    /// The models with this name: the full name, or its last part only, in any case.
    ///
    /// A `revision` is a branch, tag or commit of the Hugging Face cache. Other libraries have none.
    pub(super) fn find(&self, name: &str, revision: Option<&str>) -> Vec<LibraryModel> {
        if revision.is_some() && self.kind != LibraryKind::HuggingFace {
            return Vec::new();
        }
        let models = self.scan(Some(name)).unwrap_or_default().into_iter();
        match revision {
            None => models.collect(),
            Some(revision) => models
                .filter_map(|model| {
                    let repo = model.path.parent()?.parent()?;
                    let path = snapshot(repo, Some(revision))?;
                    Some(LibraryModel { path, ..model })
                })
                .collect(),
        }
    }

    /// The name of the model at `path`, a canonical path of a file or folder in this library.
    pub(super) fn name_of(&self, path: &Path) -> Option<String> {
        let root = fs::canonicalize(&self.root).ok()?;
        if !path.starts_with(&root) {
            return None;
        }
        let models = self.models().ok()?;
        let at =
            |model: &LibraryModel| fs::canonicalize(&model.path).is_ok_and(|model| model == path);
        models.into_iter().find(at).map(|model| model.name)
    }
}

/// One scan of a library.
struct Scan<'a> {
    library: &'a Library,
    /// The name to find, as in [`Library::find`]; all models if absent.
    wanted: Option<&'a str>,
    /// Number of entries that the scan may still read.
    left: usize,
    models: Vec<LibraryModel>,
}

impl Scan<'_> {
    /// The entries of `folder`, name and path; none after the scan has reached its bound.
    fn entries(&mut self, folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries.take(self.left) {
            self.left -= 1;
            let Ok(entry) = entry else { continue };
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with('.')
            {
                found.push((name, entry.path()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn is_wanted(&self, name: &str) -> bool {
        let last = name.rsplit('/').next().unwrap_or(name);
        self.wanted.is_none_or(|wanted| {
            name.eq_ignore_ascii_case(wanted) || last.eq_ignore_ascii_case(wanted)
        })
    }

    fn add(&mut self, name: &str, path: PathBuf) {
        // A file name may hold any character. A model name must be easy to type.
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let name = name.replace(|c| !is_fine(c), "-");
        if name.split('/').all(names::is_repo_part) && self.is_wanted(&name) {
            self.models.push(LibraryModel { name, path, kind: self.library.kind });
        }
    }

    /// Scans a Hugging Face cache.
    fn cache(&mut self) -> io::Result<()> {
        for (folder, path) in self.entries(&self.library.root)? {
            let Some(name) = folder.strip_prefix("models--") else { continue };
            // Neither part of a repository's name can have two hyphens in a row.
            let name = name.replacen("--", "/", 1);
            if self.is_wanted(&name)
                && let Some(snapshot) = snapshot(&path, None)
            {
                self.add(&name, snapshot);
            }
        }
        Ok(())
    }

    /// Scans a tree of folders. A folder with model files is a model, and the scan stops there.
    fn tree(&mut self, folder: &Path, above: &[String]) -> io::Result<()> {
        let entries = match self.entries(folder) {
            // Only the library's own folder has to be readable.
            Err(_) if !above.is_empty() => return Ok(()),
            other => other?,
        };
        let is_model_file = |name: &str| {
            quant::is_model(name) || name.ends_with(".safetensors") || name == "config.json"
        };
        let has_model = entries.iter().any(|(name, _)| is_model_file(name));
        if has_model && !above.is_empty() {
            // The last two folders: publisher and model.
            let from = above.len().saturating_sub(2);
            self.add(&above[from..].join("/"), folder.to_owned());
            return Ok(());
        }
        let loose = quant::models(entries.iter().map(|(name, _)| name.as_str()));
        for file in loose {
            self.add(quant::stem(file), folder.join(file));
        }
        for (name, path) in &entries {
            if above.len() < limits::LIBRARY_DEPTH && path.is_dir() {
                let mut inside = above.to_vec();
                inside.push(name.clone());
                self.tree(path, &inside)?;
            }
        }
        Ok(())
    }
}

/// The snapshot folder of a revision in a repository's cache folder.
///
/// It is the commit in `refs/REVISION`, or the revision itself as a commit. Without a revision it is
/// the snapshot of `main`, or the newest one.
fn snapshot(repo: &Path, revision: Option<&str>) -> Option<PathBuf> {
    let snapshots = repo.join("snapshots");
    let named = |revision: &str| {
        let mut commit = String::new();
        let file = repo.join("refs").join(revision);
        // Opening a named pipe would block until a program writes to it.
        fs::metadata(&file).ok().filter(fs::Metadata::is_file)?;
        fs::File::open(file).ok()?.take(REF_BYTES).read_to_string(&mut commit).ok()?;
        let folder = snapshots.join(plain(commit.trim())?);
        folder.is_dir().then_some(folder)
    };
    if let Some(revision) = revision {
        // Names were checked during parsing, so none leads out of the folder.
        let commit = names::commit(revision);
        let exact = || Some(snapshots.join(plain(commit.as_deref().unwrap_or(revision))?));
        return named(revision).or_else(|| exact().filter(|folder| folder.is_dir()));
    }
    named("main").or_else(|| {
        let entries = fs::read_dir(&snapshots).ok()?.take(limits::LIBRARY_ENTRIES).flatten();
        let folders = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
        let age = |path: &PathBuf| {
            fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        folders.max_by_key(age)
    })
}

/// Returns the name if it stays in its folder.
fn plain(name: &str) -> Option<&str> {
    names::is_repo_part(name).then_some(name)
}
