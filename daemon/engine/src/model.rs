//! A model as the engine knows it: its name, and where its weights come from.

use std::path::Path;
use std::sync::Arc;

use ingle_formats::gguf::GgufFile;
use ingle_formats::hf::ModelFolder;
use ingle_protocol::wire::models::EngineKind;

use crate::role::Role;
#[cfg(feature = "sim")]
use crate::sim::SimConfig;

/// A model as the engine knows it: its name and where its weights come from.
#[derive(Debug, Clone)]
pub struct EngineModel {
    /// The name everything about it is filed under.
    pub name: String,
    /// Which state of its files this is. Weights of one state must not meet the vocabulary of
    /// another.
    pub version: String,
    /// What runs it.
    pub engine: EngineKind,
    /// What it is for.
    pub role: Role,
    /// Its weights.
    pub weights: Weights,
}

/// Where a model's weights come from. The format decides which engines can run it.
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
    /// The file they come from, for messages; sim models have none.
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
