//! Whether a model continues texts or turns them into vectors.
//!
//! Owns how a GGUF header shows it. Knows nothing of engines.

use crate::formats::gguf::{GgufError, GgufFile};

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It generates text.
    Generates,
    /// It turns a text into a vector.
    Embeds,
}

/// Architectures of which every model embeds.
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

impl Role {
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
    use super::*;
    use crate::formats::gguf::testing::GgufWriter;

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
