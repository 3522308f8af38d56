//! Engine model: the name, version, engine, role and weights of a model.
//!
//! Owns the description that a load starts from. Does not know the library of models.

use std::path::Path;
use std::sync::Arc;

use ingle_formats::gguf::GgufFile;
use ingle_formats::hf::ModelFolder;
use ingle_protocol::wire::models::EngineKind;

use crate::role::Role;
#[cfg(feature = "sim")]
use crate::sim::config::SimConfig;

/// A model as the engine knows it.
#[derive(Debug, Clone)]
pub struct EngineModel {
    /// The canonical name.
    pub name: String,
    /// The version of its files.
    ///
    /// Weights of one version must not be used with the vocabulary of another.
    pub version: String,
    /// The engine that runs it.
    pub engine: EngineKind,
    /// Whether it generates or embeds.
    pub role: Role,
    /// The source of its weights.
    pub weights: Weights,
}

/// The source of a model's weights. Its format decides which engines can run the model.
#[derive(Debug, Clone)]
pub enum Weights {
    /// A GGUF file whose header has been read and checked.
    Gguf(Arc<GgufFile>),
    /// A folder of safetensors whose config and headers have been read and checked.
    Safetensors(Arc<ModelFolder>),
    /// The sim engine's settings.
    #[cfg(feature = "sim")]
    Sim(Box<SimConfig>),
}

impl Weights {
    /// The path of the weights, for messages; sim models have a placeholder.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(gguf) => gguf.path(),
            Self::Safetensors(folder) => folder.path(),
            #[cfg(feature = "sim")]
            Self::Sim(_) => Path::new("config.json"),
        }
    }
}
