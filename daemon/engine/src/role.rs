//! Whether a model continues texts or turns them into vectors.
//!
//! Owns how a GGUF header or a model folder shows it. Knows nothing of engines.

use ingle_formats::gguf::{GgufError, GgufFile};
use ingle_formats::hf::{FolderError, ModelFolder};

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It generates text.
    Generates,
    /// It turns a text into a vector.
    Embeds,
}

/// Architectures of GGUF files of which every model embeds.
const EMBEDDING: &[&str] = &[
    "bert",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "llama-embed",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "t5encoder",
];

/// The same by the `model_type` of folders: encoders, which can do nothing else here.
const ENCODERS: &[&str] = &["bert", "distilbert", "modernbert", "mpnet", "roberta", "xlm-roberta"];

impl Role {
    /// What the model of a folder is for: its architecture says so, or that sentence-transformers
    /// has left its files there.
    ///
    /// # Errors
    /// When `model_type` is no string.
    pub fn of_folder(folder: &ModelFolder) -> Result<Self, FolderError> {
        let kind = folder.config().string_opt("model_type")?;
        let is_encoder = kind.is_some_and(|kind| ENCODERS.contains(&kind.as_str()));
        let embeds = is_encoder || folder.sentence().is_some();
        Ok(if embeds { Self::Embeds } else { Self::Generates })
    }

    /// What the model of a GGUF file is for: its architecture says so, or that it pools.
    ///
    /// # Errors
    /// When a key has another type than it should.
    pub fn of_gguf(gguf: &GgufFile) -> Result<Self, GgufError> {
        let architecture = gguf.metadata().string("general.architecture")?;
        // llama.cpp's `llama_pooling_type`: 0 is none.
        let pooling = gguf.metadata().u32_opt(&format!("{architecture}.pooling_type"))?;
        let embeds = EMBEDDING.contains(&architecture) || pooling.is_some_and(|kind| kind > 0);
        Ok(if embeds { Self::Embeds } else { Self::Generates })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use ingle_formats::gguf::testing::GgufWriter;
    use ingle_formats::safetensors::testing::SafetensorsWriter;

    #[test]
    fn a_folder_of_an_encoder_embeds() {
        let role = |config: &str| {
            let weights = SafetensorsWriter::new().bytes();
            let folder = ModelFolder::from_bytes(Path::new("m"), config.as_bytes(), weights);
            Role::of_folder(&folder.unwrap())
        };
        assert_eq!(role(r#"{"model_type":"bert"}"#), Ok(Role::Embeds));
        assert_eq!(role(r#"{"model_type":"llama"}"#), Ok(Role::Generates));
        assert!(role(r#"{"model_type":1}"#).is_err());
    }

    #[test]
    fn architecture_and_pooling_tell_what_a_model_is_for() {
        let role = |writer: GgufWriter| Role::of_gguf(&writer.open().unwrap());
        let of = |architecture| GgufWriter::new().string("general.architecture", architecture);
        assert_eq!(role(of("llama")), Ok(Role::Generates));
        assert_eq!(role(of("bert")), Ok(Role::Embeds));
        assert_eq!(role(of("qwen3").u32("qwen3.pooling_type", 3)), Ok(Role::Embeds));
        assert_eq!(role(of("qwen3").u32("qwen3.pooling_type", 0)), Ok(Role::Generates));
        assert!(role(of("qwen3").string("qwen3.pooling_type", "last")).is_err());
    }
}
