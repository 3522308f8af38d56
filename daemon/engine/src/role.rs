//! Model role: whether a model generates text or embeds it.
//!
//! Owns the detection from a GGUF header or a model folder. Does not know engines.

use ingle_formats::gguf::{GgufError, GgufFile};
use ingle_formats::hf::{FolderError, ModelFolder};

/// The role of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The model generates text.
    Generates,
    /// The model turns a text into a vector.
    Embeds,
}

/// GGUF architectures whose models all embed.
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

/// `model_type`s of folders whose models all embed: encoders.
const ENCODERS: &[&str] = &["bert", "distilbert", "modernbert", "mpnet", "roberta", "xlm-roberta"];

impl Role {
    /// The role of the model in a folder.
    ///
    /// It embeds if its architecture is an encoder, or if sentence-transformers files are present.
    ///
    /// # Errors
    /// When `model_type` is not a string.
    pub fn of_folder(folder: &ModelFolder) -> Result<Self, FolderError> {
        let kind = folder.config().string_opt("model_type")?;
        let is_encoder = kind.is_some_and(|kind| ENCODERS.contains(&kind.as_str()));
        let embeds = is_encoder || folder.sentence().is_some();
        Ok(if embeds { Self::Embeds } else { Self::Generates })
    }

    /// The role of the model in a GGUF file, from its architecture or its pooling type.
    ///
    /// # Errors
    /// When a key has the wrong type.
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
    fn encoder_folder_embeds() {
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
    fn architecture_and_pooling_decide_the_role() {
        let role = |writer: GgufWriter| Role::of_gguf(&writer.open().unwrap());
        let of = |architecture| GgufWriter::new().string("general.architecture", architecture);
        assert_eq!(role(of("llama")), Ok(Role::Generates));
        assert_eq!(role(of("bert")), Ok(Role::Embeds));
        assert_eq!(role(of("qwen3").u32("qwen3.pooling_type", 3)), Ok(Role::Embeds));
        assert_eq!(role(of("qwen3").u32("qwen3.pooling_type", 0)), Ok(Role::Generates));
        assert!(role(of("qwen3").string("qwen3.pooling_type", "last")).is_err());
    }
}
