//! The decoder's hyperparameters from `config.json`.
//!
//! Owns the keys that all architectures of the family have. What decides numerics and is not known
//! here is refused, never ignored. Source: the configuration classes of transformers and mlx-lm.

use super::names::Names;
use super::{Config, Head, Parts};
use crate::error::MlxError;
use crate::rope::{Heads, Llama3Scaling, Pairs, Rope};
use ingle_formats::hf::{self, FolderError, ModelFolder};

impl Config {
    /// Reads and checks the keys of an architecture that has `parts`. Where `rope_theta` is absent
    /// it is `default_theta`, and an error if there is none.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] and [`EngineError::Unsupported`], naming the key.
    pub(in super::super) fn from_folder(
        folder: &ModelFolder,
        default_theta: Option<f64>,
        parts: Parts,
    ) -> Result<Self, MlxError> {
        let keys = folder.config();
        refuse_variants(keys)?;
        let hidden = keys.size("hidden_size")?;
        let query = keys.size("num_attention_heads")?;
        let key_value = keys.size_opt("num_key_value_heads")?.unwrap_or(query);
        let head_dim = keys.size_opt("head_dim")?.unwrap_or(hidden / query);
        let config = Self {
            names: Names::HuggingFace,
            layers: keys.size("num_hidden_layers")?,
            hidden,
            intermediate: keys.size("intermediate_size")?,
            heads: Heads { query, key_value },
            rope: rope(keys, head_dim, default_theta)?,
            norm_eps: norm_eps(keys)?,
            vocab_size: keys.size("vocab_size")?,
            context_tokens: folder.context_tokens()?,
            // mlx-lm and transformers disagree on what holds when the key is absent.
            head: match keys.flag_opt("tie_word_embeddings")? {
                Some(true) => Head::Tied,
                Some(false) => Head::Own,
                None => Head::OwnIfThere,
            },
            parts,
        };
        config.check().map_err(|problem| keys.invalid(problem))?;
        Ok(config)
    }
}

/// Refuses what would be computed in another way.
fn refuse_variants(keys: &hf::Config) -> Result<(), FolderError> {
    for key in ["hidden_act", "hidden_activation"] {
        if keys.string_opt(key)?.is_some_and(|name| name != "silu") {
            return Err(keys.unsupported(key, "`silu`"));
        }
    }
    if keys.number_opt("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(keys.unsupported("partial_rotary_factor", "1"));
    }
    if keys.value("model_file").is_some() {
        return Err(keys.unsupported("model_file", "models without code of their own"));
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "a small number, stored with few digits")]
fn norm_eps(keys: &hf::Config) -> Result<f32, FolderError> {
    let eps = keys.number("rms_norm_eps")? as f32;
    if eps >= 0.0 && eps.is_finite() {
        Ok(eps)
    } else {
        Err(keys.invalid(format!("`rms_norm_eps` is {eps}, expected a number from 0")))
    }
}

/// The rotation. Since transformers 5, base and scaling are together in `rope_parameters`; where a
/// file has both forms, the older counts, as in mlx-lm.
fn rope(
    keys: &hf::Config,
    head_dim: usize,
    default_theta: Option<f64>,
) -> Result<Rope, FolderError> {
    let parameters = keys.section_opt("rope_parameters")?;
    let mut base = keys.number_opt("rope_theta")?;
    if let (None, Some(parameters)) = (base, &parameters) {
        base = parameters.number_opt("rope_theta")?;
    }
    let base = match base.or(default_theta) {
        Some(base) => base,
        None => keys.number("rope_theta")?,
    };
    if base <= 0.0 {
        return Err(keys.invalid(format!("`rope_theta` is {base}, expected a positive number")));
    }
    let pairs = match keys.flag_opt("rope_traditional")? {
        Some(true) => Pairs::SideBySide,
        Some(false) | None => Pairs::Halves,
    };
    let mut rope = Rope::new(head_dim, head_dim, base, pairs);
    let scaling = match keys.section_opt("rope_scaling")? {
        Some(scaling) => scaling,
        None => match parameters {
            Some(parameters) => parameters,
            None => return Ok(rope),
        },
    };
    // The older name counts where both are there, as in mlx-lm.
    let key = if scaling.value("type").is_some() { "type" } else { "rope_type" };
    match scaling.string_opt(key)?.as_deref() {
        None | Some("default") => {}
        Some("linear") => rope.stretch(std::iter::repeat(positive(&scaling, "factor", None)?)),
        Some("llama3") => {
            let low_freq_factor = positive(&scaling, "low_freq_factor", Some(1.0))?;
            let high_freq_factor = positive(&scaling, "high_freq_factor", Some(4.0))?;
            if high_freq_factor <= low_freq_factor {
                return Err(scaling.invalid(format!(
                    "`rope_scaling` has a high_freq_factor of {high_freq_factor}, expected more \
                     than the low_freq_factor of {low_freq_factor}"
                )));
            }
            rope.stretch_as_llama3(Llama3Scaling {
                factor: positive(&scaling, "factor", None)?,
                low_freq_factor,
                high_freq_factor,
                original_context: positive(
                    &scaling,
                    "original_max_position_embeddings",
                    Some(8_192.0),
                )?,
            });
        }
        Some(_) => return Err(scaling.unsupported(key, "`default`, `linear`, `llama3`")),
    }
    Ok(rope)
}

fn positive(keys: &hf::Config, key: &str, default: Option<f64>) -> Result<f64, FolderError> {
    let value = match (keys.number_opt(key)?, default) {
        (Some(value), _) | (None, Some(value)) => value,
        (None, None) => keys.number(key)?,
    };
    if value > 0.0 {
        Ok(value)
    } else {
        Err(keys.invalid(format!("`{key}` of the rope scaling is {value}, expected more than 0")))
    }
}
