//! Models that other programs have put on this machine: the Hugging Face cache, LM Studio's
//! folders, and folders the user names.
//!
//! Owns where such a library keeps a model and what the model is called. Reads only: nothing here
//! creates, changes or removes a file, so that a library stays what its owner made it. Every scan
//! is bounded and blocks. Knows nothing of formats.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::limits;

use super::names;
use super::quant;

/// Bytes of a file that names a commit.
const REF_BYTES: u64 = 256;

/// Who keeps a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibraryKind {
    /// The cache of Hugging Face's programs: `models--ORG--NAME/snapshots/COMMIT`.
    HuggingFace,
    /// LM Studio's: `ORG/NAME`.
    LmStudio,
    /// A folder named in the settings, with models in it or in folders of it.
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

/// A folder of models that are not Ingle's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Whose it is.
    pub kind: LibraryKind,
    /// The folder that the models are in.
    pub root: PathBuf,
}

/// One model's place in a library: a folder, or a loose GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shelf {
    /// `org/name`, or `name` where the library has no more.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) kind: LibraryKind,
}

impl Library {
    /// All places where a model is, as far as names tell, by name. A library that is not there is
    /// empty.
    ///
    /// # Errors
    /// When the library's own folder is there and cannot be read; what cannot be read inside is
    /// left out.
    pub(super) fn shelves(&self) -> io::Result<Vec<Shelf>> {
        self.look_for(None)
    }

    fn look_for(&self, wanted: Option<&str>) -> io::Result<Vec<Shelf>> {
        let left = limits::LIBRARY_ENTRIES;
        let mut scan = Scan { library: self, wanted, left, shelves: Vec::new() };
        match self.kind {
            LibraryKind::HuggingFace => scan.cache()?,
            LibraryKind::LmStudio | LibraryKind::Folder => scan.tree(&self.root, &[])?,
        }
        if scan.left == 0 {
            let root = self.root.display();
            tracing::warn!(%root, entries = left, "a folder of models is too large to be seen whole");
        }
        scan.shelves.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(scan.shelves)
    }

    /// The places of the model called `name`: its full name, or the last part of it alone. The
    /// spelling of capitals does not count. A `revision` is a branch, tag or commit of the Hugging
    /// Face cache; no other library has such.
    pub(super) fn find(&self, name: &str, revision: Option<&str>) -> Vec<Shelf> {
        if revision.is_some() && self.kind != LibraryKind::HuggingFace {
            return Vec::new();
        }
        let shelves = self.look_for(Some(name)).unwrap_or_default().into_iter();
        match revision {
            None => shelves.collect(),
            Some(revision) => shelves
                .filter_map(|shelf| {
                    let repo = shelf.path.parent()?.parent()?;
                    let path = snapshot(repo, Some(revision))?;
                    Some(Shelf { path, ..shelf })
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
        let shelves = self.shelves().ok()?;
        let at = |shelf: &Shelf| fs::canonicalize(&shelf.path).is_ok_and(|shelf| shelf == path);
        shelves.into_iter().find(at).map(|shelf| shelf.name)
    }
}

/// One look through a library.
struct Scan<'a> {
    library: &'a Library,
    /// The one model that is looked for, as in [`Library::find`].
    wanted: Option<&'a str>,
    /// Entries that may still be looked at.
    left: usize,
    shelves: Vec<Shelf>,
}

impl Scan<'_> {
    /// The entries of `folder`: name and path. None once the bound is reached.
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
        // A file may be called anything; a name is something that can be typed.
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let name = name.replace(|c| !is_fine(c), "-");
        if name.split('/').all(names::is_repo_part) && self.is_wanted(&name) {
            self.shelves.push(Shelf { name, path, kind: self.library.kind });
        }
    }

    /// A Hugging Face cache.
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

    /// A tree of folders: one that has model files in it is a model, and is not looked into.
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

/// The snapshot folder of a revision in a repository's cache folder: what `refs/REVISION` names, or
/// the commit itself. Without a revision that of `main`, or where there is none the newest.
fn snapshot(repo: &Path, revision: Option<&str>) -> Option<PathBuf> {
    let snapshots = repo.join("snapshots");
    let named = |revision: &str| {
        let mut commit = String::new();
        let file = repo.join("refs").join(revision);
        // Opening a pipe would wait for somebody to write to it.
        fs::metadata(&file).ok().filter(fs::Metadata::is_file)?;
        fs::File::open(file).ok()?.take(REF_BYTES).read_to_string(&mut commit).ok()?;
        let folder = snapshots.join(plain(commit.trim())?);
        folder.is_dir().then_some(folder)
    };
    if let Some(revision) = revision {
        // Names were checked when they were parsed; none leads out of the folder.
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

/// A name that stays in its folder.
fn plain(name: &str) -> Option<&str> {
    names::is_repo_part(name).then_some(name)
}
