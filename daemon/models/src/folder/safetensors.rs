//! Model folders with safetensors: which files are the weights, and whether all are present.
//!
//! Owns the file names of Hugging Face's and MLX's folders. Reads sizes and first bytes only: the engine
//! checks the tensors.

use std::collections::{BTreeSet, HashSet};

use super::ModelFiles;
use super::listing::{
    FileSummary, Listing, broken, file_metadata, first_bytes, read_json, unsupported,
};
use crate::error::StoreError;
use crate::folder::{CONFIG, ModelFormat};
use std::path::Path;

/// The index of a sharded model.
const INDEX: &str = "model.safetensors.index.json";
/// The weights of a model in one file.
const SINGLE: &str = "model.safetensors";
/// Maximum number of missing files that a message names.
const NAMED: usize = 3;

/// A model's files other than the weights: configuration, tokenizer and template.
const COMPANIONS: [&str; 16] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    INDEX,
];

/// Whether a file of a repository or folder belongs to a safetensors model, without being weights.
pub(crate) fn is_companion(name: &str) -> bool {
    COMPANIONS.contains(&name) || is_pooling(name)
}

/// Whether a file configures the pooling of an embedding model.
///
/// It is the only companion in a subfolder, whose name is its position in `modules.json`, such as
/// `1_Pooling/config.json`.
pub(crate) fn is_pooling(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(folder, file)| folder.ends_with("_Pooling") && file == CONFIG)
}

/// The weights among `names`, by name only: an index, once on disk, lists them exactly.
pub(crate) fn weights<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let plain = names.filter(|name| !name.contains('/') && !name.starts_with('.'));
    let all: Vec<&str> = plain.filter(|name| name.ends_with(".safetensors")).collect();
    let models = |is_model: fn(&str) -> bool| -> Vec<&str> {
        all.iter().copied().filter(|name| is_model(name)).collect()
    };
    // Some repositories hold the same weights twice, under Mistral's names (`consolidated`).
    [
        models(|name| name == SINGLE),
        models(|name| name.starts_with("model")),
        models(|name| !name.starts_with("consolidated") && !name.starts_with("adapter")),
        models(|name| name.starts_with("consolidated")),
    ]
    .into_iter()
    .find(|names| !names.is_empty())
    .unwrap_or_default()
}

/// The model in `folder`, which has a `config.json`; `None` if it has no safetensors.
pub(super) fn found(folder: &Path, listing: &Listing) -> Result<Option<ModelFiles>, StoreError> {
    let (main, weights) = if listing.has(INDEX) {
        (INDEX, indexed(folder, listing)?)
    } else {
        let names = weights(listing.names());
        let Some(first) = names.first().copied() else {
            if listing.has("adapter_model.safetensors") {
                let reason = "is an adapter for another model; fuse it into that one first";
                return Err(unsupported(folder, reason));
            }
            return Ok(None);
        };
        shards_are_whole(folder, &names, listing)?;
        (first, names.into_iter().map(str::to_owned).collect())
    };
    let mut summary = FileSummary::new();
    for name in &weights {
        let path = listing.path(name);
        summary.add(&path, true)?;
        check_beginning(&path)?;
    }
    let mut files: Vec<String> = weights;
    for name in listing.names().filter(|name| is_companion(name)) {
        summary.add(&listing.path(name), false)?;
        files.push(name.to_owned());
    }
    Ok(Some(ModelFiles {
        format: ModelFormat::Safetensors,
        file: folder.join(main),
        label: None,
        files: files.iter().map(|name| folder.join(name)).collect(),
        size_bytes: summary.bytes,
        modified: summary.modified,
        stamp: summary.stamp(),
    }))
}

/// The files that the index names, all of which must exist.
fn indexed(folder: &Path, listing: &Listing) -> Result<Vec<String>, StoreError> {
    let path = listing.path(INDEX);
    let index = read_json(&path)?;
    let Some(map) = index["weight_map"].as_object().filter(|map| !map.is_empty()) else {
        return Err(broken(&path, "has no `weight_map`, which names the file of each tensor"));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str() {
            Some(name) if is_plain(name) => names.insert(name.to_owned()),
            _ => {
                let reason = format!("names no file of this folder for the tensor `{tensor}`");
                return Err(broken(&path, &reason));
            }
        };
    }
    let missing = names.iter().filter(|name| !listing.has(name)).map(String::as_str).collect();
    none_missing(folder, missing, listing)?;
    Ok(names.into_iter().collect())
}

/// Checks the count in the names of shards without an index: `model-00001-of-00002.safetensors`.
fn shards_are_whole(folder: &Path, names: &[&str], listing: &Listing) -> Result<(), StoreError> {
    let mut sets = HashSet::new();
    let mut missing = BTreeSet::new();
    for name in names {
        let as_gguf = name.replace(".safetensors", ".gguf");
        let Some(part) = crate::quant::SplitPart::of(&as_gguf) else { continue };
        // One short name stands for up to 10,000 files, and all shards of a set for the same files, so
        // each set is checked once.
        if !sets.insert((part.stem.to_owned(), part.width, part.end.to_owned())) {
            continue;
        }
        let all = part.all().map(|part| part.replace(".gguf", ".safetensors"));
        missing.extend(all.filter(|name| !listing.has(name)));
        if missing.len() > NAMED {
            break;
        }
    }
    none_missing(folder, missing.iter().map(String::as_str).collect(), listing)
}

fn none_missing(folder: &Path, missing: Vec<&str>, listing: &Listing) -> Result<(), StoreError> {
    if missing.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = missing.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let reason = format!("lacks {}{more}{}", named.join(", "), listing.unfinished());
    Err(broken(folder, &reason))
}

/// Checks the first bytes of a file: the length of its header, then the header, which is JSON.
fn check_beginning(path: &Path) -> Result<(), StoreError> {
    let bytes = file_metadata(path)?.len();
    let first = first_bytes(path, 9)?;
    let length = first.first_chunk().map(|length| u64::from_le_bytes(*length));
    let is_whole = length.is_some_and(|length| length <= bytes.saturating_sub(8));
    match first.get(8) {
        Some(b'{') if is_whole => Ok(()),
        None if bytes == 0 => Err(broken(path, "is empty")),
        Some(b'{') => Err(broken(path, "is truncated: its header is not complete")),
        _ => Err(broken(path, "is not a safetensors file")),
    }
}

/// Whether a name stays in its folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != ".."
}
