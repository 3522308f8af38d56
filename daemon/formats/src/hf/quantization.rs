//! Quantization in `config.json`.
//!
//! Owns mlx-lm's `quantization` entry: a default, and exceptions by module path. Does not know tensors.
//! Source: mlx-lm's `utils.load_model` and `nn.quantize`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::Config;
use super::error::FolderError;

/// Group-wise affine quantization, `w = scale * q + bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affine {
    /// Bits of a value: 4 or 8.
    pub bits: u8,
    /// Number of values with one scale: 32, 64 or 128.
    pub group_size: usize,
}

/// The `quantization` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quantization {
    default: Affine,
    /// Layers that differ from the default; `None` for those that are not quantized.
    layers: BTreeMap<String, Option<Affine>>,
}

impl Quantization {
    /// Reads the entry; `None` if the model is not quantized.
    pub(super) fn read(config: &Config) -> Result<Option<Self>, FolderError> {
        let entry = match config.section_opt("quantization")? {
            Some(entry) => entry,
            // The entry of other tools than MLX names a method.
            None => match config.section_opt("quantization_config")? {
                Some(entry) if entry.value("quant_method").is_some() => {
                    return Err(entry.unsupported("quant_method", "models quantized by MLX"));
                }
                Some(entry) => entry,
                None => return Ok(None),
            },
        };
        if config.flag_opt("quantize_activations")?.unwrap_or(false) {
            return Err(config.unsupported("quantize_activations", "false"));
        }
        let default = affine(&entry)?;
        let mut layers = BTreeMap::new();
        for key in entry.keys() {
            let layer = match entry.value(key) {
                Some(Value::Bool(false)) => None,
                Some(Value::Bool(true)) => Some(default),
                Some(Value::Object(_)) => match entry.section_opt(key)? {
                    Some(section) => Some(affine(&section)?),
                    None => continue,
                },
                _ => continue,
            };
            layers.insert(key.to_owned(), layer);
        }
        Ok(Some(Self { default, layers }))
    }

    /// The quantization of the module at `path`; `None` if it is not quantized.
    pub(super) fn of(&self, path: &str) -> Option<Affine> {
        self.layers.get(path).copied().unwrap_or(Some(self.default))
    }
}

fn affine(entry: &Config) -> Result<Affine, FolderError> {
    if entry.string_opt("mode")?.is_some_and(|mode| mode != "affine") {
        return Err(entry.unsupported("mode", "`affine`"));
    }
    let (group_size, bits) = (entry.size("group_size")?, entry.size("bits")?);
    if !matches!(group_size, 32 | 64 | 128) {
        return Err(entry.unsupported("group_size", "32, 64, 128"));
    }
    let bits = match bits {
        4 => 4,
        8 => 8,
        _ => return Err(entry.unsupported("bits", "4, 8")),
    };
    Ok(Affine { bits, group_size })
}
