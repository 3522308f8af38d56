//! Model names: their grammar, names against paths, and suggestions for typos.
//!
//! Owns the grammar of Ingle's own names, `[a-z0-9][a-z0-9._-]{0,63}`, and of the names of repositories
//! and libraries, `org/name[:choice][@revision]`. Neither allows path traversal. Does not know which
//! models exist. Pure, except that `~` stands for the user's home folder.

use super::error::StoreError;
use std::path::{Path, PathBuf};

/// Maximum number of characters of a model's name.
pub(super) const NAME_CHARS: usize = 64;
/// Maximum size of a path or name in a request, in bytes.
const INPUT_BYTES: usize = 4_096;

/// Maximum number of characters of either part of a repository's name (Hugging Face's limit).
const REPO_PART_CHARS: usize = 96;
/// The prefix of a name that belongs to Hugging Face, even without a `/` in it.
const HUB_PREFIX: &str = "hf:";

/// A model as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ModelInput {
    /// A model's name: Ingle's own, or that of a repository or library.
    Model(Reference),
    /// An absolute path.
    Path(PathBuf),
}

/// A model's name with choice and revision: `[hf:][org/]name[:choice][@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// `org/name` or `name`, in the request's spelling.
    pub(super) repo: String,
    /// The choice among its GGUF files: a file name or a quantization.
    pub(super) choice: Option<String>,
    /// A branch, tag or commit.
    pub(super) revision: Option<String>,
    /// Whether the name has the prefix of Hugging Face.
    pub(super) is_hub: bool,
}

impl Reference {
    /// The name in Ingle's own spelling, if it can name a model of the models folder.
    pub(super) fn own_name(&self) -> Option<String> {
        let name = self.repo.to_ascii_lowercase();
        (!self.is_hub && self.revision.is_none() && is_valid_name(&name)).then_some(name)
    }

    /// The full name, which [`parse`] accepts.
    pub(super) fn full(&self) -> String {
        format!("{}{self}", if self.is_hub { HUB_PREFIX } else { "" })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.repo)?;
        if let Some(choice) = &self.choice {
            write!(f, ":{choice}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        Ok(())
    }
}

/// Whether `name` is a model's name in canonical spelling.
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

/// Whether `text` can be one part of a repository's or library's model name.
pub(super) fn is_repo_part(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=REPO_PART_CHARS).contains(&text.len())
        && text.bytes().all(is_fine)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
}

/// The commit, or its beginning, in canonical spelling; `None` for a branch or tag.
pub(super) fn commit(revision: &str) -> Option<String> {
    let is_commit =
        (7..=40).contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| revision.to_ascii_lowercase())
}

/// The canonical spelling of the name `input`.
pub(super) fn fold(input: &str) -> Result<String, StoreError> {
    let name = input.trim().to_ascii_lowercase();
    if is_valid_name(&name) {
        Ok(name)
    } else {
        Err(StoreError::InvalidName { name: clipped(input) })
    }
}

/// Parses a name or a path. A path that starts with `~` becomes absolute.
pub(super) fn parse(input: &str) -> Result<ModelInput, StoreError> {
    let input = input.trim();
    if input.len() > INPUT_BYTES {
        return Err(StoreError::InvalidName { name: clipped(input) });
    }
    let relative = || StoreError::RelativePath { path: input.to_owned() };
    match input.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = std::env::home_dir().filter(|home| home.is_absolute());
            let home = home.ok_or_else(relative)?;
            Ok(ModelInput::Path(home.join(rest.trim_start_matches('/'))))
        }
        Some(_) => Err(relative()),
        None if input.starts_with('/') => Ok(ModelInput::Path(PathBuf::from(input))),
        None => match reference(input) {
            Some(reference) => Ok(ModelInput::Model(reference)),
            // Input with a folder in it that is not a repository was meant as a path.
            None if input.contains('/') || matches!(input, "." | "..") => Err(relative()),
            None => Err(StoreError::InvalidName { name: clipped(input) }),
        },
    }
}

/// Parses `[hf:][org/]name[:choice][@revision]`, the last two in either order.
fn reference(input: &str) -> Option<Reference> {
    let (is_hub, rest) = match input.strip_prefix(HUB_PREFIX) {
        Some(rest) => (true, rest),
        None => (false, input),
    };
    let (before, revision) = match rest.split_once('@') {
        Some((before, after)) => (before, Some(after)),
        None => (rest, None),
    };
    let (repo, first) = match before.split_once(':') {
        Some((repo, choice)) => (repo, Some(choice)),
        None => (before, None),
    };
    let (revision, second) = match revision.and_then(|after| after.split_once(':')) {
        Some((revision, choice)) => (Some(revision), Some(choice)),
        None => (revision, None),
    };
    let choice = match (first, second) {
        (Some(_), Some(_)) => return None,
        (one, other) => one.or(other),
    };
    let is_path_like =
        |text: &str| text.split('/').all(is_repo_part) && text.split('/').count() <= 4;
    let is_repo = match repo.split_once('/') {
        // A GGUF file in a folder is a path for any name of the folder.
        Some((org, name)) => {
            is_repo_part(org) && is_repo_part(name) && !name.to_ascii_lowercase().ends_with(".gguf")
        }
        None => is_repo_part(repo),
    };
    let is_fine = is_repo && choice.is_none_or(is_path_like) && revision.is_none_or(is_path_like);
    is_fine.then(|| Reference {
        repo: repo.to_owned(),
        choice: choice.map(str::to_owned),
        revision: revision.map(str::to_owned),
        is_hub,
    })
}

/// A name for the model at `path`: its file stem, with `-` for characters a name cannot have.
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

/// The candidate closest to `wanted`, if one is close enough to be its correction.
pub(super) fn nearest<'a>(
    wanted: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let contains = |one: &str, other: &str| other.len() >= 3 && one.contains(other);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = strsim::levenshtein(wanted, candidate);
            let close = distance <= wanted.len().max(candidate.len()).div_ceil(3)
                || contains(wanted, candidate)
                || contains(candidate, wanted);
            close.then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// At most 80 characters of a request's input, for an error message.
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
    fn names_allow_no_path_traversal() {
        for good in ["smollm2", "a", "qwen3-0.6b", "7b_instruct", &"x".repeat(64)] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-x", "a/b", "a\\b", "a b", "A", "é", "a\0"] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
        assert!(!is_valid_name(&"x".repeat(65)));
    }

    #[test]
    fn parse_folds_names_and_finds_paths() {
        let ModelInput::Model(name) = parse(" SmolLM2 ").unwrap() else { panic!("not a name") };
        assert_eq!(name.own_name().as_deref(), Some("smollm2"));
        assert_eq!(parse("/m/a.gguf").unwrap(), ModelInput::Path("/m/a.gguf".into()));
        let home = std::env::home_dir().unwrap();
        assert_eq!(parse("~/a.gguf").unwrap(), ModelInput::Path(home.join("a.gguf")));
        for relative in ["a/b/c", "a/b.gguf", "a/", "./a.gguf", "..", ".", "~someone/a"] {
            let error = parse(relative).unwrap_err();
            assert!(matches!(error, StoreError::RelativePath { .. }), "{relative}");
        }
        let long = parse(&"x".repeat(1_000_000)).unwrap_err();
        assert!(long.to_string().len() < 400, "{long}");
    }

    #[test]
    fn parse_reads_choice_and_revision() {
        let parts = |input: &str| match parse(input).unwrap() {
            ModelInput::Model(Reference { repo, choice, revision, is_hub }) => {
                (repo, choice.unwrap_or_default(), revision.unwrap_or_default(), is_hub)
            }
            ModelInput::Path(path) => panic!("{path:?}"),
        };
        for (input, repo, choice, revision, is_hub) in [
            ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "", "", false),
            ("hf:gpt2", "gpt2", "", "", true),
            ("org/name:Q4_K_M", "org/name", "Q4_K_M", "", false),
            ("org/name:sub/m-Q8_0.gguf@v1.0", "org/name", "sub/m-Q8_0.gguf", "v1.0", false),
            ("hf:org/name@refs/pr/1:Q8_0", "org/name", "Q8_0", "refs/pr/1", true),
            ("tiny:Q8_0", "tiny", "Q8_0", "", false),
        ] {
            let expected = (repo.to_owned(), choice.to_owned(), revision.to_owned(), is_hub);
            assert_eq!(parts(input), expected, "{input}");
        }
        for bad in [
            "org/../name",
            "org/.hidden",
            "org/name:",
            "org/name@",
            "org/name:../x",
            "a:b@c:d",
            "org/name@../x",
            "hf:",
            "org/na me",
            "org/näme",
            "hf:/etc",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn file_stem_gives_model_name() {
        assert_eq!(
            from_path(Path::new("/m/SmolLM2-135M Instruct.Q4_1.gguf")).unwrap(),
            "smollm2-135m-instruct.q4_1"
        );
        assert_eq!(from_path(Path::new("/m/_v1.2")).unwrap(), "v1.2");
        assert!(from_path(Path::new("/")).is_err());
    }

    #[test]
    fn nearest_corrects_typos() {
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
    }
}
