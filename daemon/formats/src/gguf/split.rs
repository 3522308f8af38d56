//! Models split over several GGUF files.
//!
//! Owns the parts' names and their total size; opens none of them. Source: llama.cpp's
//! `llama_split_path`.

use std::path::Path;

use super::limits::MAX_PARTS;

/// Total size of the parts after the first, which is at `path`.
///
/// Missing parts count as 0: reading them gives the error.
pub(super) fn later_parts_bytes(path: &Path, parts: u32) -> u64 {
    let name = |part: u32| format!("-{part:05}-of-{parts:05}.gguf");
    let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(stem) = file_name.strip_suffix(&name(1)) else { return 0 };
    let bytes = |part| std::fs::metadata(path.with_file_name(format!("{stem}{}", name(part))));
    let sizes = (2..=parts.min(MAX_PARTS)).filter_map(|part| Some(bytes(part).ok()?.len()));
    sizes.fold(0, u64::saturating_add)
}
