//! Model folders in Hugging Face's and MLX's layout: `config.json` and safetensors.
//!
//! Owns finding the files and the checks that make them safe to use: after [`ModelFolder::open`] every
//! weight has a unique name, a valid shape and all its bytes, and quantized weights agree with the
//! config. Does not know architectures: the engines check that the weights fit theirs.

mod config;
mod error;
mod limits;
mod quantization;
mod sentence;
mod shards;
mod tensors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use config::Config;
pub use error::{FolderError, FolderErrorKind};
pub use quantization::Affine;
pub use sentence::{Pooling, SentenceConfig};
pub use tensors::{Part, Storage, Tensor};

use super::safetensors::SafetensorsFile;
use quantization::Quantization;
use shards::{Shards, read_bounded};

/// An open model folder: its config and tensor index in memory, its tensors on disk.
///
/// It can be shared between threads: reading tensors moves no file position.
#[derive(Debug)]
pub struct ModelFolder {
    path: PathBuf,
    config: Config,
    sentence: Option<SentenceConfig>,
    files: Vec<SafetensorsFile>,
    tensors: Vec<Tensor>,
}

impl ModelFolder {
    /// Opens and checks the folder. Reads the config, the index and the files' headers only.
    ///
    /// # Errors
    /// [`FolderError`] naming the file, the key or tensor, and what was found and expected.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let config_path = path.join("config.json");
        let bytes = read_bounded(&config_path, limits::MAX_CONFIG_BYTES)?;
        let config = Config::parse(&config_path, &bytes)?;
        let sentence = SentenceConfig::read(path, config.size_opt("hidden_size")?)?;
        let shards = Shards::find(path)?;
        let files = shards
            .files
            .iter()
            .map(|name| SafetensorsFile::open(&path.join(name)))
            .collect::<Result<_, _>>()?;
        Self::join(path, config, sentence, &shards, files)
    }

    /// Checks a config and a single weights file in memory; `path` is for messages only.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn from_bytes(path: &Path, config: &[u8], weights: Vec<u8>) -> Result<Self, FolderError> {
        let config = Config::parse(&path.join("config.json"), config)?;
        let name = "model.safetensors";
        let file = SafetensorsFile::from_bytes(&path.join(name), weights)?;
        let shards = Shards {
            path: path.join(name),
            files: vec![name.to_owned()],
            weight_map: BTreeMap::new(),
        };
        Self::join(path, config, None, &shards, vec![file])
    }

    fn join(
        path: &Path,
        config: Config,
        sentence: Option<SentenceConfig>,
        shards: &Shards,
        files: Vec<SafetensorsFile>,
    ) -> Result<Self, FolderError> {
        let quantization = Quantization::read(&config)?;
        let tied = config.flag_opt("tie_word_embeddings")?.unwrap_or(false);
        let mut parts: BTreeMap<String, Part> = BTreeMap::new();
        for (shard, file) in files.iter().enumerate() {
            for info in file.tensors() {
                let part = Part { shard, info: info.clone() };
                if let Some(other) = parts.insert(info.name.clone(), part) {
                    return Err(FolderErrorKind::Invalid(format!(
                        "tensor `{}` is in {} too",
                        info.name, shards.files[other.shard]
                    ))
                    .at(file.path()));
                }
            }
        }
        if parts.len() > limits::MAX_TENSORS {
            return Err(FolderErrorKind::Invalid(format!(
                "its files hold {} tensors, more than the {} allowed",
                parts.len(),
                limits::MAX_TENSORS
            ))
            .at(path));
        }
        for (tensor, file) in &shards.weight_map {
            let found = parts.get(tensor).map(|part| &shards.files[part.shard]);
            if found != Some(file) {
                let found =
                    found.map_or("it is in none".to_owned(), |name| format!("it is in {name}"));
                return Err(FolderErrorKind::Invalid(format!(
                    "tensor `{tensor}` should be in {file}, but {found}"
                ))
                .at(&shards.path));
            }
        }
        let embeds = sentence.is_some();
        parts.retain(|name, _| !(is_left_out(name, tied) || embeds && serves_no_vector(name)));
        let tensors = tensors::join(parts, quantization.as_ref())
            .map_err(|(shard, kind)| kind.at(files[shard].path()))?;
        Ok(Self { path: path.to_owned(), config, sentence, files, tensors })
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The contents of `config.json`.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The settings of a sentence-transformers folder, if it is one.
    #[must_use]
    pub fn sentence(&self) -> Option<&SentenceConfig> {
        self.sentence.as_ref()
    }

    /// Maximum number of tokens of the model's context.
    ///
    /// A text to embed may have a lower limit. Layers with a sliding window are computed with full
    /// attention, which gives equal results as long as the context is not longer than the window, so the
    /// window limits the context.
    ///
    /// # Errors
    /// When the config does not give the number, or names an unknown kind of attention.
    pub fn context_tokens(&self) -> Result<usize, FolderError> {
        let config = &self.config;
        let context = config.size("max_position_embeddings")?;
        let first = self.first_position()?;
        if first >= context {
            return Err(config.invalid(format!(
                "`max_position_embeddings` is {context}, and positions begin at {first}"
            )));
        }
        let context = context - first;
        let slides = match config.strings_opt("layer_types")? {
            Some(types) => {
                let known = ["full_attention", "sliding_attention"];
                if types.iter().any(|layer| !known.contains(&layer.as_str())) {
                    let supported = "`full_attention`, `sliding_attention`";
                    return Err(config.unsupported("layer_types", supported));
                }
                types.iter().any(|layer| layer == "sliding_attention")
            }
            None => config.flag_opt("use_sliding_window")?.unwrap_or(true),
        };
        let window = if slides { config.size_opt("sliding_window")? } else { None };
        let text = self.sentence.as_ref().and_then(|sentence| sentence.max_tokens);
        Ok([window, text].into_iter().flatten().fold(context, usize::min))
    }

    /// The position of a text's first token. RoBERTa models count from after the padding token's id.
    ///
    /// # Errors
    /// When a key has the wrong type.
    pub fn first_position(&self) -> Result<usize, FolderError> {
        let kind = self.config.string_opt("model_type")?;
        if !matches!(kind.as_deref(), Some("roberta" | "xlm-roberta")) {
            return Ok(0);
        }
        Ok(self.config.size_opt("pad_token_id")?.unwrap_or(1) + 1)
    }

    /// All weights that a model may need, in the order of the files' bytes.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The file of `part`.
    #[must_use]
    pub fn file_of(&self, part: &Part) -> &Path {
        self.files.get(part.shard).map_or(&self.path, SafetensorsFile::path)
    }

    /// Total size of all weights in the files, in bytes.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::stored_bytes).sum()
    }

    /// Fills `out` with the stored bytes of one part of a weight, from `offset` on.
    ///
    /// # Errors
    /// When the file has become shorter, or the operating system returns an error.
    pub fn read(&self, part: &Part, offset: u64, out: &mut [u8]) -> Result<(), FolderError> {
        match self.files.get(part.shard) {
            Some(file) => Ok(file.read_tensor(&part.info, offset, out)?),
            None => Err(FolderErrorKind::Invalid(format!(
                "tensor `{}` is of another folder",
                part.info.name
            ))
            .at(&self.path)),
        }
    }
}

/// Whether a stored tensor is not used, because each implementation computes or shares it.
///
/// These are the angles of the rotary embedding, the position ids, and the output head if it is tied to
/// the embedding.
fn is_left_out(name: &str, tied: bool) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || name.ends_with("embeddings.position_ids")
        || (tied && name.starts_with("lm_head."))
}

/// Whether a tensor of an encoder is not used for embeddings: the pooler and the language-model heads.
fn serves_no_vector(name: &str) -> bool {
    let inner = name.strip_prefix("bert.").or(name.strip_prefix("roberta.")).unwrap_or(name);
    ["pooler.", "cls.", "lm_head."].iter().any(|head| inner.starts_with(head))
}
