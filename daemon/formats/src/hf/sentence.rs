//! sentence-transformers files of an embedding model: pooling and maximum length of a text.
//!
//! Owns the names and keys of these files. An unknown setting that changes the numbers is an error,
//! never a guess. Source: `modules.json`, `models/Pooling.py` and `models/Transformer.py` of
//! sentence-transformers.

use std::path::{Component, Path};

use serde::Deserialize;

use super::config::Config;
use super::error::{FolderError, FolderErrorKind};
use super::limits::MAX_CONFIG_BYTES;
use super::shards::read_bounded;

/// The list of modules.
const MODULES: &str = "modules.json";
/// Names of the file with the maximum length; the first is the usual one.
const TRANSFORMER: [&str; 2] = ["sentence_bert_config.json", "sentence_transformers_config.json"];
/// The file with the prompts.
const PROMPTS: &str = "config_sentence_transformers.json";

/// Method that turns the token vectors of a text into one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all vectors.
    Mean,
    /// The vector of the first token.
    Cls,
    /// The maximum of each dimension.
    Max,
}

/// Settings of a sentence-transformers folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentenceConfig {
    /// The pooling method.
    pub pooling: Pooling,
    /// Maximum number of tokens of a text, if the folder gives one.
    pub max_tokens: Option<usize>,
}

/// One module of the pipeline.
#[derive(Deserialize)]
struct Module {
    /// The module's folder below the model's folder.
    #[serde(default)]
    path: String,
    /// The Python class, whose path differs between versions.
    #[serde(rename = "type")]
    kind: String,
}

impl SentenceConfig {
    /// Reads the files in `folder`; `None` if it has no `modules.json`.
    ///
    /// `hidden` is the width of a token's vector, if `config.json` gives it.
    pub(super) fn read(folder: &Path, hidden: Option<usize>) -> Result<Option<Self>, FolderError> {
        let path = folder.join(MODULES);
        if !is_there(&path) {
            return Ok(None);
        }
        let modules: Vec<Module> = serde_json::from_slice(&read_bounded(&path, MAX_CONFIG_BYTES)?)
            .map_err(|error| {
                FolderErrorKind::Invalid(format!("it is not a list of modules: {error}")).at(&path)
            })?;
        let invalid = |problem: String| Err(FolderErrorKind::Invalid(problem).at(&path));
        let kind = |module: &Module| {
            module.kind.rsplit('.').next().unwrap_or_default().to_ascii_lowercase()
        };
        let kinds: Vec<String> = modules.iter().map(kind).collect();
        let (transformer, pooling) = match kinds.iter().map(String::as_str).collect::<Vec<_>>()[..]
        {
            ["transformer", "pooling"] | ["transformer", "pooling", "normalize"] => {
                (&modules[0], &modules[1])
            }
            ["transformer"] | [] => {
                return invalid(
                    "it names no pooling, which makes one vector of a text's tokens".to_owned(),
                );
            }
            _ => {
                let problem = format!(
                    "a text goes through {}; supported: transformer, pooling, normalize, in this \
                     order",
                    kinds.join(", ")
                );
                return Err(FolderErrorKind::Unsupported(problem).at(&path));
            }
        };
        for module in [transformer, pooling] {
            let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
            if !Path::new(&module.path).components().all(inside) {
                return invalid(format!("`{}` is not a folder of the model", module.path));
            }
        }
        if !transformer.path.is_empty() {
            return invalid(format!(
                "the transformer is in `{}`, expected in the folder of this file",
                transformer.path
            ));
        }
        refuse_default_prompt(folder)?;
        let pooling = read_config(&folder.join(&pooling.path).join("config.json"))?;
        Ok(Some(Self {
            pooling: Pooling::read(&pooling, hidden)?,
            max_tokens: max_tokens(folder)?,
        }))
    }
}

impl Pooling {
    fn read(config: &Config, hidden: Option<usize>) -> Result<Self, FolderError> {
        const SUPPORTED: &str = "one of mean, cls and max";
        for key in ["word_embedding_dimension", "embedding_dimension"] {
            if let (Some(width), Some(hidden)) = (config.size_opt(key)?, hidden)
                && width != hidden
            {
                return Err(config.invalid(format!(
                    "`{key}` is {width}, expected {hidden}, the `hidden_size` of config.json"
                )));
            }
        }
        // Newer versions name the mode. Older versions have a flag for each.
        if let Some(mode) = config.string_opt("pooling_mode")? {
            return match mode.as_str() {
                "mean" => Ok(Self::Mean),
                "cls" => Ok(Self::Cls),
                "max" => Ok(Self::Max),
                _ => Err(config.unsupported("pooling_mode", SUPPORTED)),
            };
        }
        let keys: Vec<String> = config
            .keys()
            .filter(|key| key.starts_with("pooling_mode_"))
            .map(str::to_owned)
            .collect();
        let mut set = Vec::new();
        for key in &keys {
            if config.flag_opt(key)?.unwrap_or(false) {
                set.push(key.as_str());
            }
        }
        match set[..] {
            // The library's default without any flag.
            [] if keys.is_empty() => Ok(Self::Mean),
            ["pooling_mode_mean_tokens"] => Ok(Self::Mean),
            ["pooling_mode_cls_token"] => Ok(Self::Cls),
            ["pooling_mode_max_tokens"] => Ok(Self::Max),
            [] => Err(config.invalid(format!("no pooling mode is set, expected {SUPPORTED}"))),
            [key] => Err(config.unsupported(key, SUPPORTED)),
            [first, second, ..] => {
                let problem = format!("`{first}` and `{second}` are set; supported: {SUPPORTED}");
                Err(FolderErrorKind::Unsupported(problem).at(config.path()))
            }
        }
    }
}

/// Maximum number of tokens of a text: the library's limit, or else the tokenizer's.
fn max_tokens(folder: &Path) -> Result<Option<usize>, FolderError> {
    for name in TRANSFORMER {
        let path = folder.join(name);
        if !is_there(&path) {
            continue;
        }
        let config = read_config(&path)?;
        if config.flag_opt("do_lower_case")?.unwrap_or(false) {
            return Err(config
                .unsupported("do_lower_case", "false, because the tokenizer's own steps apply"));
        }
        if let Some(tokens) = config.size_opt("max_seq_length")? {
            return Ok(Some(tokens));
        }
    }
    let path = folder.join("tokenizer_config.json");
    if !is_there(&path) {
        return Ok(None);
    }
    // Files without a limit may have a number of 30 digits.
    let tokens = read_config(&path)?.number_opt("model_max_length")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
    Ok(tokens.filter(|tokens| (1.0..1e6).contains(tokens)).map(|tokens| tokens as usize))
}

/// Refuses a default prompt, which the library puts before every text.
///
/// Ingle adds no prompt: a client that wants a named prompt puts it before the text itself.
fn refuse_default_prompt(folder: &Path) -> Result<(), FolderError> {
    let path = folder.join(PROMPTS);
    if !is_there(&path) {
        return Ok(());
    }
    let config = read_config(&path)?;
    match config.string_opt("default_prompt_name")? {
        Some(_) => Err(config.unsupported("default_prompt_name", "null")),
        None => Ok(()),
    }
}

fn read_config(path: &Path) -> Result<Config, FolderError> {
    Config::parse(path, &read_bounded(path, MAX_CONFIG_BYTES)?)
}

/// Whether the path exists. Reading the file reports its problems.
fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const USUAL: &str = r#"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]"#;

    /// The settings of a folder with these files, or the error with `m` for the folder's path.
    fn read(files: &[(&str, &str)]) -> Result<Option<SentenceConfig>, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let path = folder.path().display().to_string();
        SentenceConfig::read(folder.path(), Some(8))
            .map_err(|error| error.to_string().replace(&path, "m"))
    }

    #[test]
    fn read_finds_pooling_and_length() {
        let pooling = "1_Pooling/config.json";
        let sentence = |pooling, max_tokens| Ok(Some(SentenceConfig { pooling, max_tokens }));
        let flags = r#"{"word_embedding_dimension":8,"pooling_mode_cls_token":true,
            "pooling_mode_mean_tokens":false,"pooling_mode_lasttoken":false}"#;
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(MODULES, USUAL), (pooling, flags)]), sentence(Pooling::Cls, None));
        let newer = USUAL.replace("models.Pooling", "sentence_transformer.modules.pooling.Pooling");
        let normalized = newer.replace(']', r#",{"path":"2_Normalize","type":"x.Normalize"}]"#);
        let files = [
            (MODULES, normalized.as_str()),
            (pooling, r#"{"embedding_dimension":8,"pooling_mode":"max"}"#),
            ("tokenizer_config.json", r#"{"model_max_length":512}"#),
        ];
        assert_eq!(read(&files), sentence(Pooling::Max, Some(512)));
        let short =
            ("sentence_bert_config.json", r#"{"max_seq_length":256,"do_lower_case":false}"#);
        let named = (PROMPTS, r#"{"prompts":{"query":"query: "},"default_prompt_name":null}"#);
        let files = [files.as_slice(), &[short, named]].concat();
        assert_eq!(read(&files), sentence(Pooling::Max, Some(256)));
        let endless = ("tokenizer_config.json", r#"{"model_max_length":1e30}"#);
        assert_eq!(
            read(&[(MODULES, USUAL), (pooling, "{}"), endless]),
            sentence(Pooling::Mean, None)
        );
    }

    #[test]
    fn errors_name_missing_and_unknown_settings() {
        let pooling = "1_Pooling/config.json";
        let with = |config: &'static str| vec![(MODULES, USUAL), (pooling, config)];
        let dense = USUAL.replace(']', r#",{"path":"2_Dense","type":"a.Dense"}]"#);
        let outside = USUAL.replace("1_Pooling", "../1_Pooling");
        let alone = r#"[{"path":"","type":"a.Transformer"}]"#;
        for (files, problem) in [
            (vec![(MODULES, USUAL)], "m/1_Pooling/config.json: cannot read the file"),
            (vec![(MODULES, "{}")], "m/modules.json: it is not a list of modules"),
            (vec![(MODULES, alone)], "m/modules.json: it names no pooling"),
            (vec![(MODULES, &dense)], "transformer, pooling, dense; supported"),
            (vec![(MODULES, &outside)], "`../1_Pooling` is not a folder of the model"),
            (with("[]"), "m/1_Pooling/config.json: it is not a JSON object"),
            (with(r#"{"word_embedding_dimension":9}"#), "is 9, expected 8"),
            (with(r#"{"pooling_mode":"lasttoken"}"#), "`pooling_mode` is `lasttoken`; supported"),
            (
                with(r#"{"pooling_mode_cls_token":1}"#),
                "`pooling_mode_cls_token` is 1, expected true",
            ),
            (with(r#"{"pooling_mode_cls_token":false}"#), "no pooling mode is set"),
            (with(r#"{"pooling_mode_weightedmean_tokens":true}"#), "weightedmean_tokens` is true"),
            (
                with(r#"{"pooling_mode_cls_token":true,"pooling_mode_max_tokens":true}"#),
                "`pooling_mode_cls_token` and `pooling_mode_max_tokens` are set",
            ),
            (
                [with("{}"), vec![(TRANSFORMER[0], r#"{"do_lower_case":true}"#)]].concat(),
                "m/sentence_bert_config.json: `do_lower_case` is true",
            ),
            (
                [with("{}"), vec![(PROMPTS, r#"{"default_prompt_name":"query"}"#)]].concat(),
                "m/config_sentence_transformers.json: `default_prompt_name` is `query`",
            ),
        ] {
            let error = read(&files).unwrap_err();
            assert!(error.contains(problem), "{error}: expected {problem}");
        }
    }
}
