//! `config.json`: typed values by key.
//!
//! Owns the parsed file and the conversions of values. Does not know any key by name: the engines ask
//! for the keys that decide numerics. `null` counts as absent, as everywhere in this format.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{FolderError, FolderErrorKind};
use super::limits::{MAX_CONFIG_BYTES, MAX_SIZE};

/// The object of a `config.json`, or an object inside it.
///
/// Every getter has two variants: `x` requires the key, `x_opt` returns `None` if it is absent. Both
/// return an error for another value, with file, key, found and expected value.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    path: PathBuf,
    /// Names of the enclosing objects, each with a dot after it.
    prefix: String,
    entries: Map<String, Value>,
}

macro_rules! getters {
    ($($name:ident, $name_opt:ident, $type:ty, $expected:literal, $convert:expr;)*) => {
        $(
            #[doc = concat!("The value of `key`, ", $expected, ".")]
            ///
            /// # Errors
            /// [`FolderErrorKind::MissingKey`] or [`FolderErrorKind::WrongValue`].
            pub fn $name(&self, key: &str) -> Result<$type, FolderError> {
                self.$name_opt(key)?.ok_or_else(|| {
                    let key = format!("{}{key}", self.prefix);
                    FolderErrorKind::MissingKey { key, expected: $expected }.at(&self.path)
                })
            }

            #[doc = concat!("The value of `key`, ", $expected, ", if the key is present.")]
            ///
            /// # Errors
            /// [`FolderErrorKind::WrongValue`].
            pub fn $name_opt(&self, key: &str) -> Result<Option<$type>, FolderError> {
                let convert: fn(&Value) -> Option<$type> = $convert;
                let Some(value) = self.value(key) else { return Ok(None) };
                convert(value).map(Some).ok_or_else(|| self.wrong(key, value, $expected))
            }
        )*
    };
}

impl Config {
    /// Parses the bytes of a file; `path` is for messages only.
    ///
    /// # Errors
    /// [`FolderErrorKind::Invalid`] if there are too many bytes, or they are not a JSON object.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, FolderError> {
        let invalid = |problem| FolderErrorKind::Invalid(problem).at(path);
        if bytes.len() as u64 > MAX_CONFIG_BYTES {
            return Err(invalid(format!("it is larger than the {MAX_CONFIG_BYTES} bytes allowed")));
        }
        let entries = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("it is not a JSON object: {error}")))?;
        Ok(Self { path: path.to_owned(), prefix: String::new(), entries })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    getters! {
        size, size_opt, usize, "a whole number from 1 to 16777215",
            |value| value.as_u64().filter(|size| (1..=MAX_SIZE).contains(size)).map(|size| size as usize);
        number, number_opt, f64, "a finite number",
            |value| value.as_f64().filter(|number| number.is_finite());
        flag, flag_opt, bool, "true or false", Value::as_bool;
        string, string_opt, String, "a string", |value| value.as_str().map(str::to_owned);
        strings, strings_opt, Vec<String>, "an array of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        };
    }

    /// The object under `key`, if the key is present.
    ///
    /// # Errors
    /// [`FolderErrorKind::WrongValue`].
    pub fn section_opt(&self, key: &str) -> Result<Option<Self>, FolderError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(entries)) => Ok(Some(Self {
                path: self.path.clone(),
                prefix: format!("{}{key}.", self.prefix),
                entries: entries.clone(),
            })),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The value under `key` unless it is `null`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).filter(|value| !value.is_null())
    }

    /// The error for a value of `key` that no engine supports; `supported` lists the supported values.
    #[must_use]
    pub fn unsupported(&self, key: &str, supported: &str) -> FolderError {
        let found = self.value(key).map_or("missing".to_owned(), describe);
        let problem = format!("`{}{key}` is {found}; supported: {supported}", self.prefix);
        FolderErrorKind::Unsupported(problem).at(&self.path)
    }

    /// The error for a file that contradicts itself.
    #[must_use]
    pub fn invalid(&self, problem: String) -> FolderError {
        FolderErrorKind::Invalid(problem).at(&self.path)
    }

    fn wrong(&self, key: &str, found: &Value, expected: &'static str) -> FolderError {
        let key = format!("{}{key}", self.prefix);
        FolderErrorKind::WrongValue { key, found: describe(found), expected }.at(&self.path)
    }
}

/// A value for a message.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.len() > 100 => "a long string".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => other.to_string(),
    }
}
