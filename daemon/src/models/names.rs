//! Model names: which are allowed, when an input is a path instead, and what a typo may have meant.
//!
//! Owns the grammar `[a-z0-9][a-z0-9._-]{0,63}`, which leaves no room for path traversal. Knows
//! nothing of which models exist. Pure but for the user's home folder, which `~` stands for.

use super::error::StoreError;
use std::path::{Path, PathBuf};

/// Characters of a model's name.
pub(super) const NAME_CHARS: usize = 64;
/// Bytes of a path or name that is looked at at all.
const INPUT_BYTES: usize = 4_096;

/// What a caller named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// A model's name, folded to lower case.
    Name(String),
    /// An absolute path.
    Path(PathBuf),
}

/// Whether `name` is a model's name in its one spelling.
pub(super) const fn is_valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'a'..=b'z' | b'0'..=b'9' => {}
            b'.' | b'_' | b'-' if index > 0 => {}
            _ => return false,
        }
        index += 1;
    }
    !bytes.is_empty() && bytes.len() <= NAME_CHARS
}

/// The one spelling of the name `input`.
pub(super) fn fold(input: &str) -> Result<String, StoreError> {
    let name = input.trim().to_ascii_lowercase();
    if is_valid_name(&name) {
        Ok(name)
    } else {
        Err(StoreError::InvalidName { name: clipped(input) })
    }
}

/// Tells a name from a path, and makes a path that starts with `~` absolute.
pub(super) fn parse(input: &str) -> Result<Named, StoreError> {
    if input.len() > INPUT_BYTES {
        return Err(StoreError::InvalidName { name: clipped(input) });
    }
    let relative = || StoreError::RelativePath { path: input.to_owned() };
    match input.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = std::env::home_dir().filter(|home| home.is_absolute());
            let home = home.ok_or_else(relative)?;
            Ok(Named::Path(home.join(rest.trim_start_matches('/'))))
        }
        Some(_) => Err(relative()),
        None if input.starts_with('/') => Ok(Named::Path(PathBuf::from(input))),
        None if input.contains('/') || input == "." || input == ".." => Err(relative()),
        None => fold(input).map(Named::Name),
    }
}

/// A name for the model at `path`: its file stem, with what a name cannot hold replaced by `-`.
pub(super) fn from_path(path: &Path) -> Result<String, StoreError> {
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let stem = if is_gguf { path.file_stem() } else { path.file_name() };
    let stem = stem.map(|stem| stem.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(NAME_CHARS)
        .collect();
    if is_valid_name(&name) {
        Ok(name)
    } else {
        Err(StoreError::InvalidName { name: clipped(&stem) })
    }
}

/// The candidate that `wanted` was probably meant to be, if one is near enough.
pub(super) fn nearest<'a>(
    wanted: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let contains = |one: &str, other: &str| other.len() >= 3 && one.contains(other);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = edit_distance(wanted, candidate);
            let close = distance <= wanted.len().max(candidate.len()).div_ceil(3)
                || contains(wanted, candidate)
                || contains(candidate, wanted);
            close.then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, over bytes: names are ASCII.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// At most 80 characters of what a caller sent, for a message.
fn clipped(input: &str) -> String {
    match input.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &input[..end]),
        None => input.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_no_room_for_path_traversal() {
        for good in ["smollm2", "a", "qwen3-0.6b", "7b_instruct", &"x".repeat(64)] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-x", "a/b", "a\\b", "a b", "A", "é", "a\0"] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
        assert!(!is_valid_name(&"x".repeat(65)));
    }

    #[test]
    fn a_name_is_folded_and_a_path_is_told_from_it() {
        assert_eq!(parse(" SmolLM2 ").unwrap(), Named::Name("smollm2".into()));
        assert_eq!(parse("/m/a.gguf").unwrap(), Named::Path("/m/a.gguf".into()));
        let home = std::env::home_dir().unwrap();
        assert_eq!(parse("~/a.gguf").unwrap(), Named::Path(home.join("a.gguf")));
        for relative in ["a/b", "./a.gguf", "..", ".", "~someone/a"] {
            let error = parse(relative).unwrap_err();
            assert!(matches!(error, StoreError::RelativePath { .. }), "{relative}");
        }
        let long = parse(&"x".repeat(1_000_000)).unwrap_err();
        assert!(long.to_string().len() < 400, "{long}");
    }

    #[test]
    fn a_file_lends_its_name() {
        assert_eq!(
            from_path(Path::new("/m/SmolLM2-135M Instruct.Q4_1.gguf")).unwrap(),
            "smollm2-135m-instruct.q4_1"
        );
        assert_eq!(from_path(Path::new("/m/_v1.2")).unwrap(), "v1.2");
        assert!(from_path(Path::new("/")).is_err());
    }

    #[test]
    fn a_typo_finds_its_name() {
        let names = ["smollm2", "minilm", "qwen3-0.6b"];
        for (typo, meant) in [
            ("smolm2", Some("smollm2")),
            ("smollm", Some("smollm2")),
            ("smollm2-135m-instruct", Some("smollm2")),
            ("mini", Some("minilm")),
            ("gpt-5", None),
        ] {
            assert_eq!(nearest(typo, names), meant, "{typo}");
        }
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
