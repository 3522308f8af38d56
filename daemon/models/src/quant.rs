//! GGUF file names: quantization, parts of a split model, and files that are not models.
//!
//! Owns these conventions, which come from llama.cpp and the Hugging Face hub. Pure; does not know
//! files.

use std::collections::HashMap;

/// Maximum number of parts of a split model.
const MAX_PARTS: u32 = 10_000;

/// A part of a split model, such as `model-00001-of-00003.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SplitPart<'a> {
    /// The common beginning of all parts' names.
    pub(super) stem: &'a str,
    /// The part's number, counted from 1.
    pub(super) number: u32,
    /// The number of parts.
    pub(super) of: u32,
    /// The number of digits of the part's number.
    pub(super) width: usize,
    /// The common end of all parts' names, from `-of-` on.
    pub(super) end: &'a str,
}

impl<'a> SplitPart<'a> {
    /// Parses a file name; `None` for a model in one file.
    pub(super) fn of(name: &'a str) -> Option<Self> {
        let body = strip_gguf(name)?;
        let (head, of) = body.rsplit_once("-of-")?;
        let (stem, number) = head.rsplit_once('-')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(of) || !is_number(number) {
            return None;
        }
        let part = Self {
            stem,
            number: number.parse().ok()?,
            of: of.parse().ok()?,
            width: number.len(),
            end: &name[head.len()..],
        };
        ((1..=part.of).contains(&part.number) && part.of <= MAX_PARTS).then_some(part)
    }

    /// The names of all parts, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = String> {
        (1..=self.of).map(|number| self.name(number))
    }

    fn name(&self, number: u32) -> String {
        let width = self.width;
        format!("{}-{number:0width$}{}", self.stem, self.end)
    }
}

/// Whether a file name is the name of a GGUF model.
///
/// Hidden files are not models, because copying tools leave `._model.gguf` next to `model.gguf`, nor
/// are the projectors of vision models.
pub(super) fn is_model(name: &str) -> bool {
    strip_gguf(name)
        .is_some_and(|stem| !name.starts_with('.') && !stem.to_ascii_lowercase().contains("mmproj"))
}

/// The GGUF models among `files` (paths with `/`); the first part stands for a split model.
pub(super) fn models<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut models: HashMap<String, &str> = HashMap::new();
    for path in files {
        let name = file_name(path);
        if !is_model(name) {
            continue;
        }
        // All parts have the same key. The smallest path stands for them.
        let key = match SplitPart::of(name) {
            Some(part) => format!("{}{}-{}", &path[..path.len() - name.len()], part.stem, part.end),
            None => path.to_owned(),
        };
        models.entry(key).and_modify(|first| *first = (*first).min(path)).or_insert(path);
    }
    let mut models: Vec<&str> = models.into_values().collect();
    models.sort_unstable();
    models
}

/// Whether `choice` names the model at `path`.
///
/// A choice is a file name, or a quantization in the name, such as `Q4_K_M` in `model-Q4_K_M.gguf`.
pub(super) fn is_choice(path: &str, choice: &str) -> bool {
    if strip_gguf(choice).is_some() {
        let is_part = || {
            let (part, other) = (SplitPart::of(file_name(path))?, SplitPart::of(choice)?);
            Some(other.number <= part.of && part.name(other.number) == choice)
        };
        return path.eq_ignore_ascii_case(choice)
            || file_name(path).eq_ignore_ascii_case(choice)
            || is_part() == Some(true);
    }
    let stem = stem(path).to_ascii_lowercase();
    let choice = choice.to_ascii_lowercase();
    // A quantization may follow a `_`, but not end before one: `Q4_K` is not `Q4_K_M`.
    let is_edge = |byte: Option<&u8>, edges: &[u8]| byte.is_none_or(|byte| edges.contains(byte));
    let bytes = stem.as_bytes();
    !choice.is_empty()
        && stem.match_indices(&choice).any(|(at, found)| {
            is_edge(at.checked_sub(1).and_then(|before| bytes.get(before)), b"-._/")
                && is_edge(bytes.get(at + found.len()), b"-./")
        })
}

/// The shortest choice that names only the model at `path`: its quantization, or its file name.
pub(super) fn label(path: &str, others: &[&str]) -> String {
    let short = quantization(path).filter(|short| {
        others.iter().filter(|other| **other != path).all(|other| !is_choice(other, short))
    });
    short.unwrap_or_else(|| file_name(path).to_owned())
}

/// The quantization at the end of a file name, in its own spelling.
fn quantization(path: &str) -> Option<String> {
    let stem = file_name(stem(path));
    let last = stem.rsplit(['-', '.']).next()?;
    let upper = last.to_ascii_uppercase();
    let digit_after = |prefix: &str| {
        upper
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let is_known = ["Q", "IQ", "TQ", "F", "FP", "BF", "MXFP"].iter().any(|p| digit_after(p));
    is_known.then(|| last.to_owned())
}

/// A path without `.gguf` and without a part's number.
pub(super) fn stem(path: &str) -> &str {
    let whole = strip_gguf(path).unwrap_or(path);
    match SplitPart::of(file_name(path)) {
        Some(part) => &path[..path.len() - file_name(path).len() + part.stem.len()],
        None => whole,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn strip_gguf(name: &str) -> Option<&str> {
    let at = name.len().checked_sub(5)?;
    let (stem, end) = name.split_at_checked(at)?;
    (end.eq_ignore_ascii_case(".gguf") && !stem.is_empty()).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_part_is_none_for_whole_files() {
        let part = SplitPart::of("m-Q8_0-00002-of-00003.gguf").unwrap();
        assert_eq!((part.stem, part.number, part.of), ("m-Q8_0", 2, 3));
        let all: Vec<_> = part.all().collect();
        assert_eq!(all[0], "m-Q8_0-00001-of-00003.gguf");
        assert_eq!(all.len(), 3);
        for whole in [
            "m.gguf",
            "m-of-3.gguf",
            "m-1-of-x.gguf",
            "m-4-of-3.gguf",
            "m-0-of-3.gguf",
            "m-1-of-99999999.gguf",
            "m-1-of-99999999999999999999.gguf",
            ".gguf",
            "é.gguf",
        ] {
            assert_eq!(SplitPart::of(whole), None, "{whole}");
        }
    }

    #[test]
    fn models_lists_split_models_once() {
        let files = [
            "m-Q4_K_M.gguf",
            "mmproj-F16.gguf",
            "m-mmproj.gguf",
            "._m.gguf",
            "README.md",
            "Q8_0/m-Q8_0-00002-of-00002.gguf",
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "M.GGUF",
        ];
        assert_eq!(models(files), ["M.GGUF", "Q8_0/m-Q8_0-00001-of-00002.gguf", "m-Q4_K_M.gguf"]);
    }

    #[test]
    fn choice_is_quantization_or_file() {
        for (path, choice, expected) in [
            ("m-Q4_K_M.gguf", "Q4_K_M", true),
            ("m-Q4_K_M.gguf", "q4_k_m", true),
            ("m-Q4_K_M.gguf", "Q4_K", false),
            ("m.IQ4_XS.gguf", "Q4_XS", false),
            ("m.IQ4_XS.gguf", "iq4_xs", true),
            ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL", true),
            ("Q8_0/m-00001-of-00002.gguf", "Q8_0", true),
            ("sub/m-Q8_0-00001-of-00002.gguf", "Q8_0", true),
            ("sub/m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", true),
            ("sub/m-Q8_0-00001-of-00002.gguf", "m-Q8_0-2-of-00002.gguf", false),
            ("sub/m-Q8_0-00001-of-00002.gguf", "n-Q8_0-00002-of-00002.gguf", false),
            ("sub/m-Q8_0.gguf", "m-Q8_0.gguf", true),
            ("sub/m-Q8_0.gguf", "sub/m-Q8_0.gguf", true),
            ("sub/m-Q8_0.gguf", "Q8_0.gguf", false),
            ("m.gguf", "", false),
        ] {
            assert_eq!(is_choice(path, choice), expected, "{path} {choice}");
        }
    }

    #[test]
    fn label_is_the_shortest_unique_choice() {
        let all = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "n-Q8_0.gguf", "plain.gguf"];
        let labels: Vec<_> = all.iter().map(|path| label(path, &all)).collect();
        assert_eq!(labels, ["Q4_K_M", "m-Q8_0.gguf", "n-Q8_0.gguf", "plain.gguf"]);
        assert_eq!(label("m-00001-of-00002.gguf", &[]), "m-00001-of-00002.gguf");
    }
}
