//! The decoder's hyperparameters from GGUF metadata.
//!
//! Owns the keys that all architectures of the family have, each behind the architecture's name.

use super::names::{Module, Names};
use super::{Config, Head, Parts};
use crate::error::MlxError;
use crate::rope::{Heads, Pairs, Rope};
use ingle_engine::error::EngineError;
use ingle_formats::gguf::GgufFile;

impl Config {
    /// Reads and checks the keys of `architecture`, which has at least `parts`: biases may be in
    /// any file.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] and [`EngineError::Unsupported`], naming the key.
    pub(in super::super) fn from_gguf(
        gguf: &GgufFile,
        architecture: &str,
        pairs: Pairs,
        parts: Parts,
    ) -> Result<Self, MlxError> {
        let keys = Keys { gguf, architecture };
        let parts_of_file = gguf.part_count();
        if parts_of_file > 1 {
            let problem = format!(
                "a model split over {parts_of_file} files; this engine reads whole ones only, and \
                 llama.cpp (`--engine gguf`) reads both"
            );
            return Err(unsupported(gguf, problem));
        }
        let experts = keys.number_opt("expert_count")?.unwrap_or(0);
        if experts > 0 {
            let problem = format!("a mixture of {experts} experts; only dense models run here");
            return Err(unsupported(gguf, problem));
        }
        let hidden = keys.size("embedding_length")?;
        let query = keys.size("attention.head_count")?;
        let key_value = keys.size_opt("attention.head_count_kv")?.unwrap_or(query);
        let head_dim = keys.size_opt("attention.key_length")?.unwrap_or(hidden / query);
        let rotated = keys.size_opt("rope.dimension_count")?.unwrap_or(head_dim);
        let vocab_size = match gguf.tensor("token_embd.weight") {
            Some(embedding) => embedding.shape[0],
            None => keys.size("vocab_size")?,
        };
        let has_bias =
            |module| gguf.tensor(&format!("{}.bias", Names::Gguf.layer(0, module))).is_some();
        let config = Self {
            names: Names::Gguf,
            layers: keys.size("block_count")?,
            hidden,
            intermediate: keys.size("feed_forward_length")?,
            heads: Heads { query, key_value },
            rope: keys.rope(head_dim, rotated, pairs)?,
            norm_eps: keys.norm_eps()?,
            vocab_size,
            context_tokens: keys.size("context_length")?,
            head: Head::OwnIfThere,
            parts: Parts {
                qkv_bias: parts.qkv_bias || has_bias(Module::QUERY),
                output_bias: parts.output_bias || has_bias(Module::ATTENTION_OUTPUT),
                mlp_bias: parts.mlp_bias || has_bias(Module::GATE),
                ..parts
            },
        };
        config.check().map_err(|problem| invalid(gguf, problem))?;
        Ok(config)
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    gguf: &'a GgufFile,
    architecture: &'a str,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn number_opt(&self, key: &str) -> Result<Option<u32>, MlxError> {
        Ok(self.gguf.metadata().u32_opt(&self.full(key))?)
    }

    /// A positive integer, if the key is there. The ceiling lies far above any real model and keeps
    /// products of sizes from overflowing.
    fn size_opt(&self, key: &str) -> Result<Option<usize>, MlxError> {
        match self.number_opt(key)? {
            Some(value @ 1..=0xFF_FFFF) => Ok(usize::try_from(value).ok()),
            Some(value) => Err(invalid(
                self.gguf,
                format!("`{}` is {value}, expected 1 to 16777215", self.full(key)),
            )),
            None => Ok(None),
        }
    }

    /// A positive integer.
    fn size(&self, key: &str) -> Result<usize, MlxError> {
        self.size_opt(key)?
            .ok_or_else(|| invalid(self.gguf, format!("`{}` is missing", self.full(key))))
    }

    fn norm_eps(&self) -> Result<f32, MlxError> {
        let key = self.full("attention.layer_norm_rms_epsilon");
        match self.gguf.metadata().f32(&key)? {
            eps if eps >= 0.0 => Ok(eps),
            eps => Err(invalid(self.gguf, format!("`{key}` is {eps}, expected a number from 0"))),
        }
    }

    /// The rotation. As llama.cpp has it, the scaling is linear where its type is not given, an
    /// older key counts where the factor is not, and a factor of 0 is none.
    fn rope(&self, head_dim: usize, rotated: usize, pairs: Pairs) -> Result<Rope, MlxError> {
        let metadata = self.gguf.metadata();
        let number = |key: &str| metadata.f32_opt(&self.full(key));
        let base = number("rope.freq_base")?.unwrap_or(10_000.0);
        if base <= 0.0 {
            let key = self.full("rope.freq_base");
            let problem = format!("`{key}` is {base}, expected a positive number");
            return Err(invalid(self.gguf, problem));
        }
        let mut rope = Rope::new(head_dim, rotated, base.into(), pairs);
        match metadata.string_opt(&self.full("rope.scaling.type"))?.unwrap_or("linear") {
            "none" => {}
            "linear" => {
                let mut key = "rope.scaling.factor";
                let mut factor = number(key)?;
                if factor.is_none() {
                    key = "rope.scale_linear";
                    factor = number(key)?;
                }
                match factor {
                    Some(factor) if factor < 0.0 => {
                        let key = self.full(key);
                        let problem = format!("`{key}` is {factor}, expected a number from 0");
                        return Err(invalid(self.gguf, problem));
                    }
                    Some(factor) if factor > 0.0 => {
                        rope.stretch(std::iter::repeat(f64::from(factor)));
                    }
                    _ => {}
                }
            }
            other => {
                let problem =
                    format!("rope scaling of type `{other}`; supported: `none`, `linear`");
                return Err(unsupported(self.gguf, problem));
            }
        }
        Ok(rope)
    }
}

fn invalid(gguf: &GgufFile, problem: String) -> MlxError {
    EngineError::InvalidModel { file: gguf.path().to_owned(), problem }.into()
}

fn unsupported(gguf: &GgufFile, problem: String) -> MlxError {
    EngineError::Unsupported { file: gguf.path().to_owned(), problem }.into()
}
