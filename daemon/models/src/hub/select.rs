//! Selection of a model's files in a repository.
//!
//! Owns the choice among the files of a repository. Pure; does not know HTTP or disks.

use super::error::HubError;
use crate::folder::{CONFIG, safetensors};
use crate::quant::{self, SplitPart};

/// Quantizations to choose from several GGUF files without a choice, best balance of size and quality
/// first.
const PREFERRED: [&str; 7] = ["Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "Q5_K_M", "Q8_0", "F16"];

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// The path in the repository.
    pub(super) path: String,
    /// The size in bytes, if the hub gives it.
    pub(super) size_bytes: Option<u64>,
    /// The SHA-256 in lower-case hexadecimal, which the hub gives for all large files.
    pub(super) sha256: Option<String>,
}

impl RemoteFile {
    /// The path below the model's folder. GGUF files lose their subfolder.
    pub(super) fn name(&self) -> &str {
        if safetensors::is_pooling(&self.path) {
            return &self.path;
        }
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether the file holds weights.
    pub(super) fn is_weights(&self) -> bool {
        quant::is_model(self.name()) || self.name().ends_with(".safetensors")
    }
}

/// The files to download for the model of `repo` that `choice` names.
pub(super) fn select(
    repo: &str,
    files: Vec<RemoteFile>,
    choice: Option<&str>,
) -> Result<Vec<RemoteFile>, HubError> {
    let no_model = |reason: &str| HubError::NoModel { repo: repo.into(), reason: reason.into() };
    // The names come from a server and become file names on this disk.
    let files: Vec<RemoteFile> = files.into_iter().filter(|file| is_plain(&file.path)).collect();
    let paths = || files.iter().map(|file| file.path.as_str());
    let ggufs = quant::models(paths());
    let weights = safetensors::weights(paths());
    let wanted: Vec<String> = if choice.is_none() && !weights.is_empty() {
        if !paths().any(|path| path == CONFIG) {
            return Err(no_model("has safetensors, but no config.json that describes the model"));
        }
        let companions = paths().filter(|path| safetensors::is_companion(path));
        companions.chain(weights).map(str::to_owned).collect()
    } else if ggufs.is_empty() {
        let is_torch = |path: &str| path.ends_with(".bin") || path.ends_with(".pth");
        return Err(no_model(match choice {
            Some(_) => "has no GGUF files to choose from; leave the choice out",
            None if paths().any(is_torch) => {
                "has PyTorch files only, and neither safetensors nor GGUF"
            }
            None => "has neither safetensors nor GGUF files",
        }));
    } else {
        let path = one_of(repo, &ggufs, choice)?;
        let folder = path.rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
        let folder = folder.unwrap_or_default();
        match SplitPart::of(&path[folder.len()..]) {
            Some(part) => part.all().map(|name| format!("{folder}{name}")).collect(),
            None => vec![path.to_owned()],
        }
    };
    let take = |path: &String| {
        let file = files.iter().find(|file| file.path == *path);
        file.cloned()
            .ok_or_else(|| no_model(&format!("lacks `{path}`, which is part of the model")))
    };
    wanted.iter().map(take).collect()
}

fn one_of<'a>(repo: &str, ggufs: &[&'a str], choice: Option<&str>) -> Result<&'a str, HubError> {
    let matching = |choice: &str| -> Vec<&'a str> {
        ggufs.iter().copied().filter(|path| quant::is_choice(path, choice)).collect()
    };
    let found = match choice {
        Some(choice) => matching(choice),
        None if ggufs.len() == 1 => ggufs.to_vec(),
        None => {
            let preferred = PREFERRED.iter().map(|choice| matching(choice));
            preferred.into_iter().find(|found| found.len() == 1).unwrap_or_default()
        }
    };
    match found.as_slice() {
        [one] => Ok(one),
        _ => Err(HubError::Choose {
            repo: repo.to_owned(),
            choice: choice.map(str::to_owned),
            choices: ggufs.iter().map(|path| quant::label(path, ggufs)).collect(),
        }),
    }
}

/// Whether every part of a path is an ordinary name.
fn is_plain(path: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.len() <= 255
            && !name.starts_with('.')
            && !name.contains(|c: char| c.is_control() || c == '\\')
    };
    path.split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(files: &[&str], choice: Option<&str>) -> String {
        let files = files.iter().map(|path| RemoteFile {
            path: (*path).to_owned(),
            size_bytes: None,
            sha256: None,
        });
        match select("org/m", files.collect(), choice) {
            Ok(files) => files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(" "),
            Err(error) => {
                format!("{error} {}", ingle_protocol::error::ErrorBody::from(&error).remediation())
            }
        }
    }

    #[test]
    fn select_takes_only_the_models_files() {
        for (files, choice, expected) in [
            (
                &[
                    "README.md",
                    ".gitattributes",
                    "config.json",
                    "tokenizer.json",
                    "../../etc/x",
                    "model-00001-of-00002.safetensors",
                    "model-00002-of-00002.safetensors",
                    "model.safetensors.index.json",
                    "pytorch_model.bin",
                    "onnx/model.safetensors",
                    "consolidated.safetensors",
                    "chat_template.jinja",
                ][..],
                None,
                "config.json tokenizer.json model.safetensors.index.json chat_template.jinja \
                 model-00001-of-00002.safetensors model-00002-of-00002.safetensors",
            ),
            (
                &[
                    "1_Pooling/config.json",
                    "2_Normalize/x",
                    "config.json",
                    "modules.json",
                    "model.safetensors",
                    "onnx/config.json",
                ],
                None,
                "1_Pooling/config.json config.json modules.json model.safetensors",
            ),
            (&["m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-F16.gguf"], None, "m-Q4_K_M.gguf"),
            (&["m-Q8_0.gguf", "m-Q4_K_M.gguf"], Some("q8_0"), "m-Q8_0.gguf"),
            (
                &[
                    "BF16/m-BF16-00002-of-00002.gguf",
                    "BF16/m-BF16-00001-of-00002.gguf",
                    "m-Q8_0.gguf",
                ],
                Some("BF16"),
                "BF16/m-BF16-00001-of-00002.gguf BF16/m-BF16-00002-of-00002.gguf",
            ),
            (
                &["config.json", "model.safetensors", "m.gguf"],
                None,
                "config.json model.safetensors",
            ),
            (&["config.json", "model.safetensors", "m.gguf"], Some("m.gguf"), "m.gguf"),
        ] {
            assert_eq!(paths(files, choice), expected, "{files:?}");
        }
    }

    #[test]
    fn only_pooling_files_keep_their_folder() {
        for (path, name) in [
            ("1_Pooling/config.json", "1_Pooling/config.json"),
            ("BF16/m-BF16.gguf", "m-BF16.gguf"),
            ("config.json", "config.json"),
        ] {
            let file = RemoteFile { path: path.to_owned(), size_bytes: None, sha256: None };
            assert_eq!(file.name(), name);
        }
    }

    #[test]
    fn select_lists_choices_in_its_error() {
        for (files, choice, expected) in [
            (&["a-Q3_K_S.gguf", "b-Q3_K_S.gguf"][..], None, "`:a-Q3_K_S.gguf`, `:b-Q3_K_S.gguf`"),
            (&["a-Q8_0.gguf", "a-Q4_0.gguf"], Some("Q5_0"), "`:Q5_0` is not one of them"),
            (&["m-00001-of-00002.gguf"], None, "lacks `m-00002-of-00002.gguf`"),
            (&["config.json", "pytorch_model.bin"], None, "PyTorch files only"),
            (&["README.md"], None, "neither safetensors nor GGUF"),
            (&["model.safetensors"], None, "no config.json"),
            (&["config.json", "model.safetensors"], Some("Q4_0"), "leave the choice out"),
        ] {
            let message = paths(files, choice);
            assert!(message.contains(expected), "{files:?}: {message}");
        }
    }
}
