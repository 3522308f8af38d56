//! Companion files of a `tokenizer.json`.
//!
//! Owns their names, sizes and keys, and their precedence. Does not know vocabularies. Unknown keys are
//! ignored, because many programs write these files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::limits;
use serde::Deserialize as _;
use serde_json::Value;
use tokenizers::AddedToken;

use crate::TextError;

/// The tokenizer's file.
pub(super) const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";
const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";

/// Settings from the companion files.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Name of the token at the beginning of a text.
    pub(super) bos: Option<String>,
    /// Name of the token at the end of a text.
    pub(super) eos: Option<String>,
    /// Ids that end a generation, from both configurations.
    pub(super) eos_ids: Vec<u32>,
    /// Whether a raw prompt begins with `bos`; if absent, the tokenizer's own steps decide.
    pub(super) add_bos: Option<bool>,
    /// Source of the chat template.
    pub(super) chat_template: Option<String>,
    /// Tokens to add to the vocabulary or to describe again, by id.
    pub(super) added: Vec<(u32, AddedToken)>,
}

impl Settings {
    /// Reads the files in `folder`; all of them may be absent.
    pub(super) fn read(folder: &Path) -> Result<Self, TextError> {
        let json = |name: &str| json(&folder.join(name));
        let tokenizer = json(TOKENIZER_CONFIG)?;
        let specials = json(SPECIAL_TOKENS)?;
        let config = json(CONFIG)?;
        let generation = json(GENERATION_CONFIG)?;
        let token = |key: &str| token_name(&tokenizer[key]).or_else(|| token_name(&specials[key]));
        let mut eos_ids = ids(&generation["eos_token_id"]);
        eos_ids.extend(ids(&config["eos_token_id"]));
        eos_ids.extend(ids(&config["text_config"]["eos_token_id"]));
        let chat_template = match text(&folder.join(TEMPLATE))? {
            Some(template) => Some(template),
            None => match template(&tokenizer["chat_template"]) {
                Some(template) => Some(template),
                None => template(&json(TEMPLATE_JSON)?["chat_template"]),
            },
        };
        Ok(Self {
            bos: token("bos_token"),
            eos: token("eos_token"),
            eos_ids,
            add_bos: tokenizer["add_bos_token"].as_bool(),
            chat_template,
            added: added(&tokenizer["added_tokens_decoder"])
                .map_err(|problem| invalid(folder.join(TOKENIZER_CONFIG), problem))?,
        })
    }
}

/// The bytes of `tokenizer.json`; `None` if the file is missing.
pub(super) fn tokenizer_bytes(folder: &Path) -> Result<Option<Vec<u8>>, TextError> {
    read(&folder.join(TOKENIZER), limits::TOKENIZER_BYTES)
}

/// The name of a token, which is a string or an object with its content.
fn token_name(value: &Value) -> Option<String> {
    let name = value.as_str().or_else(|| value["content"].as_str())?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// A template, or the default one of several.
fn template(value: &Value) -> Option<String> {
    let source = match value {
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            &default.or_else(|| named.first())?["template"]
        }
        one => one,
    };
    source.as_str().map(str::to_owned)
}

fn added(value: &Value) -> Result<Vec<(u32, AddedToken)>, String> {
    let mut tokens = Vec::new();
    for (id, token) in value.as_object().into_iter().flatten() {
        let number =
            id.parse().map_err(|_| format!("`added_tokens_decoder`: {id:?} is not an id"))?;
        let token = AddedToken::deserialize(token)
            .map_err(|error| format!("`added_tokens_decoder`, token {id}: {error}"))?;
        tokens.push((number, token));
    }
    // New tokens get the next ids, in this order.
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

fn json(path: &Path) -> Result<Value, TextError> {
    let Some(bytes) = read(path, limits::MODEL_JSON_BYTES)? else { return Ok(Value::Null) };
    serde_json::from_slice(&bytes)
        .map_err(|error| invalid(path.to_owned(), format!("is not JSON: {error}")))
}

fn text(path: &Path) -> Result<Option<String>, TextError> {
    let Some(bytes) = read(path, limits::MODEL_JSON_BYTES)? else { return Ok(None) };
    let text = String::from_utf8(bytes)
        .map_err(|_| invalid(path.to_owned(), "is not UTF-8 text".to_owned()))?;
    Ok(Some(text))
}

/// Reads a file of at most `limit` bytes; `None` if it is missing.
fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TextError> {
    let bytes = || -> io::Result<Vec<u8>> {
        // Opening a named pipe would block until a program writes to it.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match bytes() {
        Ok(bytes) if bytes.len() as u64 > limit => {
            let problem = format!("is larger than the limit of {} MiB", limit >> 20);
            Err(invalid(path.to_owned(), problem))
        }
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match std::fs::symlink_metadata(path) {
                Ok(_) => Err(invalid(path.to_owned(), "is a link to a missing file".to_owned())),
                Err(_) => Ok(None),
            }
        }
        Err(error) => Err(invalid(path.to_owned(), format!("cannot be read: {error}"))),
    }
}

fn invalid(file: PathBuf, problem: String) -> TextError {
    TextError::InvalidVocabulary { file, problem }
}
