//! The engines of this build.
//!
//! Owns the list of concrete engines, which no other module names.

use std::sync::Arc;

use ingle_engine::engines::{Engine, Engines};
use ingle_formats::gguf::GgufFile;
use ingle_protocol::wire::models::EngineKind;
use ingle_text::{TextError, TextModel, gguf_vocab};

/// Whether this daemon was built with an engine.
#[must_use]
pub const fn is_built_in(engine: EngineKind) -> bool {
    match engine {
        EngineKind::Gguf => cfg!(feature = "gguf"),
        EngineKind::Mlx => cfg!(feature = "mlx"),
        EngineKind::Sim => cfg!(feature = "sim"),
    }
}

/// All engines of this build.
#[must_use]
pub fn built_in() -> Engines {
    let engines: Vec<Arc<dyn Engine>> = vec![
        #[cfg(feature = "gguf")]
        Arc::new(ingle_engine_llama::LlamaEngine),
        #[cfg(feature = "mlx")]
        Arc::new(ingle_engine_mlx::MlxEngine),
        #[cfg(feature = "sim")]
        Arc::new(ingle_engine::sim::SimEngine),
    ];
    Engines::new(engines)
}

/// Reads the tokenizer and the chat templates of a GGUF file, for the engine that will run it.
///
/// The engine matters because llama.cpp's own tokenizer reads every vocabulary that llama.cpp runs.
///
/// # Errors
/// The error of the vocabulary's reader.
pub fn gguf_text(gguf: &GgufFile, engine: EngineKind) -> Result<TextModel, TextError> {
    match engine {
        #[cfg(feature = "gguf")]
        EngineKind::Gguf => {
            ingle_engine_llama::forward_log();
            ingle_engine_llama::vocab::text_model(gguf)
        }
        _ => gguf_vocab::text_model(gguf),
    }
}
