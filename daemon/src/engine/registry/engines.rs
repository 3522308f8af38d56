//! The one place that names concrete engines: which of them loads what, and what they are told.
//!
//! Owns nothing. Everything else knows engines by the traits of `backend` only.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ingle_protocol::wire::models::EngineKind;

use super::loading::{CancelOnDrop, Loading, Target};
use crate::engine::backend::EngineError;
use crate::engine::handle::{EngineModel, Weights};
#[cfg(feature = "mlx")]
use crate::engine::loader;
use crate::engine::role::Role;
use crate::engine::settings::EngineSettings;
use crate::engine::sim;

/// Starts a load on the model's engine.
///
/// # Errors
/// When the model's header shows that it cannot be loaded.
pub(super) fn start_load(
    model: &EngineModel,
    settings: &EngineSettings,
    now: Instant,
) -> Result<Loading, EngineError> {
    let cancel = Arc::new(AtomicBool::new(false));
    let (target, stream) = match (model.engine, model.role, &model.weights) {
        #[cfg(feature = "gguf")]
        (EngineKind::Gguf, Role::Generates, Weights::Gguf(gguf)) => {
            let (builder, stream) = crate::engine::gguf::load(gguf, settings, Arc::clone(&cancel))?;
            (Target::Generator(builder), stream)
        }
        #[cfg(feature = "gguf")]
        (EngineKind::Gguf, Role::Embeds, Weights::Gguf(gguf)) => {
            let (builder, stream) =
                crate::engine::gguf::load_embedder(gguf, settings, Arc::clone(&cancel))?;
            (Target::Embedder(builder), stream)
        }
        #[cfg(feature = "mlx")]
        (EngineKind::Mlx, Role::Generates, Weights::Gguf(gguf)) => {
            let builder = crate::engine::mlx::builder(gguf)?;
            let precision = crate::engine::mlx::weight_precision();
            let stream = loader::spawn(Arc::clone(gguf), precision, Arc::clone(&cancel))?;
            (Target::Generator(builder), stream)
        }
        #[cfg(feature = "mlx")]
        (EngineKind::Mlx, Role::Generates, Weights::Safetensors(folder)) => {
            let builder = crate::engine::mlx::folder_builder(folder)?;
            let precision = crate::engine::mlx::weight_precision();
            let stream = loader::spawn(Arc::clone(folder), precision, Arc::clone(&cancel))?;
            (Target::Generator(builder), stream)
        }
        #[cfg(feature = "mlx")]
        (EngineKind::Mlx, Role::Embeds, Weights::Safetensors(folder)) => {
            let builder = crate::engine::mlx::folder_embedder(folder)?;
            let precision = crate::engine::mlx::weight_precision();
            let stream = loader::spawn(Arc::clone(folder), precision, Arc::clone(&cancel))?;
            (Target::Embedder(builder), stream)
        }
        (EngineKind::Sim, Role::Generates, Weights::Sim(config)) => {
            let (builder, stream) = sim::load((**config).clone(), Arc::clone(&cancel))?;
            (Target::Generator(builder), stream)
        }
        (EngineKind::Sim, Role::Embeds, Weights::Sim(config)) => {
            let (builder, stream) = sim::load_embedder((**config).clone(), Arc::clone(&cancel))?;
            (Target::Embedder(builder), stream)
        }
        (engine, role, weights) => {
            let what = match role {
                Role::Generates => "",
                Role::Embeds => ", an embedding model",
            };
            let problem = format!("the engine `{engine}` of this daemon cannot run it{what}");
            let file = weights.path().to_owned();
            return Err(EngineError::Unsupported { file, problem });
        }
    };
    tracing::debug!(model = model.name, engine = %model.engine, ?settings, "a load starts");
    Ok(Loading {
        target,
        stream,
        cancel: CancelOnDrop(cancel),
        engine: model.engine,
        bytes_read: 0,
        bytes_total: 0,
        started_at: now,
        moved_at: now,
        looked_at: now,
        stall: settings.load_stall,
        waiters: Vec::new(),
    })
}

/// Hands an engine its memory settings. MLX is left alone until a model needs it: if it does not
/// start, nobody else is harmed.
pub(super) fn set_limits(settings: &EngineSettings, engine: EngineKind) {
    #[cfg(feature = "mlx")]
    if engine == EngineKind::Mlx {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut limits = crate::engine::mlx::Limits::default();
        if let Some(bytes) = settings.mlx_cache_bytes {
            limits.cache_bytes = size(bytes);
        }
        limits.wired_bytes = settings.mlx_wired_bytes.map(size);
        if let Err(error) = crate::engine::mlx::set_limits(limits) {
            tracing::warn!(%error, "a limit of the `mlx` settings could not be set");
        }
    }
    #[cfg(not(feature = "mlx"))]
    let _ = (settings, engine);
}

/// Gives back what the engines and the C heap keep of a model that has gone.
pub(super) fn release_memory() {
    #[cfg(feature = "mlx")]
    crate::engine::mlx::cleanup();
    crate::engine::heap::trim();
}
