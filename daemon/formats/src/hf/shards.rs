//! Shards: the files of a folder that hold its weights.
//!
//! Owns `model.safetensors.index.json` and the file names in it. Does not know the contents of the
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::error::{FolderError, FolderErrorKind};
use super::limits::{MAX_INDEX_BYTES, MAX_SHARDS};
use crate::data::Data;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The files of a model's weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shards {
    /// The index, or the only file.
    pub(super) path: PathBuf,
    /// The file names, sorted.
    pub(super) files: Vec<String>,
    /// The file of each tensor, if there is an index.
    pub(super) weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Finds the weights' files in `folder`.
    pub(super) fn find(folder: &Path) -> Result<Self, FolderError> {
        let index = folder.join(INDEX);
        if fs::exists(&index).unwrap_or(false) {
            let bytes = read_bounded(&index, MAX_INDEX_BYTES)?;
            return Self::parse(&index, &bytes);
        }
        let single = folder.join(SINGLE);
        if fs::exists(&single).unwrap_or(false) {
            let files = vec![SINGLE.to_owned()];
            return Ok(Self { path: single, files, weight_map: BTreeMap::new() });
        }
        Err(FolderErrorKind::Invalid(format!("it holds neither {SINGLE} nor {INDEX}")).at(folder))
    }

    /// Parses the bytes of an index; `path` is for messages only.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, FolderError> {
        let invalid = |problem| FolderErrorKind::Invalid(problem).at(path);
        let index: Index = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("it is not an index of tensors: {error}")))?;
        let weight_map = index.weight_map.0;
        let files: BTreeSet<&String> = weight_map.values().collect();
        if files.is_empty() {
            return Err(invalid("its `weight_map` is empty".to_owned()));
        }
        if files.len() > MAX_SHARDS {
            let problem = format!("it names {} files, more than {MAX_SHARDS}", files.len());
            return Err(invalid(problem));
        }
        for &file in &files {
            let mut parts = Path::new(file).components();
            let is_name =
                matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            if !is_name || file.contains(['/', '\\', '\0']) || !file.ends_with(".safetensors") {
                return Err(invalid(format!(
                    "`weight_map` names the file `{file}`, expected a .safetensors file of the \
                     same folder"
                )));
            }
        }
        let files = files.into_iter().cloned().collect();
        Ok(Self { path: path.to_owned(), files, weight_map })
    }
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FolderError> {
    let io = |error: std::io::Error| FolderErrorKind::Io(error.to_string()).at(path);
    let data = Data::open(path).map_err(io)?;
    let bytes = data.len().map_err(io)?;
    if bytes > limit {
        let problem = format!("it has {bytes} bytes, more than the {limit} allowed");
        return Err(FolderErrorKind::Invalid(problem).at(path));
    }
    let mut out = vec![0; bytes as usize];
    data.read_exact_at(&mut out, 0).map_err(io)?;
    Ok(out)
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// File name by tensor. A plain map would keep only the last of two equal names.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if entries.contains_key(&tensor) {
                        let problem = format!("`weight_map` names tensor `{tensor}` twice");
                        return Err(A::Error::custom(problem));
                    }
                    entries.insert(tensor, file);
                }
                Ok(WeightMap(entries))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}
