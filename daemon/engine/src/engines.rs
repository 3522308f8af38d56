//! Engine registry: the engines of this build, behind one trait.
//!
//! Owns the list that the daemon fills at its start, and the choice of an engine by its kind. Names
//! no concrete engine.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ingle_protocol::wire::models::EngineKind;

use crate::backend::{Builder, EmbedderBuilder};
use crate::error::EngineError;
use crate::estimate::Estimate;
use crate::loader::LoadStream;
use crate::model::EngineModel;
use crate::role::Role;
use crate::settings::EngineSettings;

/// An engine: loads models and estimates their memory.
///
/// Everything but [`Engine::estimate`] is called on the engine thread.
pub trait Engine: Send + Sync {
    /// The kind of the engine.
    fn kind(&self) -> EngineKind;

    /// Starts a load; the loader thread ends once `cancel` is set.
    ///
    /// # Errors
    /// When the model's header shows that it cannot be loaded.
    fn start_load(
        &self,
        model: &EngineModel,
        settings: &EngineSettings,
        cancel: Arc<AtomicBool>,
    ) -> Result<LoadStart, EngineError>;

    /// Estimates the memory of `model`.
    ///
    /// If the header lacks sizes, the estimate lacks the KV cache. Errors in the files are reported
    /// by the load.
    fn estimate(&self, model: &EngineModel, settings: &EngineSettings) -> Estimate;

    /// Applies the memory settings. Called when a load has started.
    fn set_limits(&self, _settings: &EngineSettings) {}

    /// Frees the memory that the engine caches of unloaded models.
    fn release_memory(&self) {}
}

/// A started load.
pub struct LoadStart {
    /// The builder of the model.
    pub target: LoadTarget,
    /// The tensors from the loader thread.
    pub stream: LoadStream,
}

/// The builder of a load.
pub enum LoadTarget {
    /// A model that generates.
    Generator(Box<dyn Builder>),
    /// A model that embeds.
    Embedder(Box<dyn EmbedderBuilder>),
}

/// The engines of this build. Cheap to clone.
#[derive(Clone, Default)]
pub struct Engines(Arc<[Arc<dyn Engine>]>);

impl Engines {
    /// Creates the list; it holds at most one engine of each kind.
    #[must_use]
    pub fn new(engines: impl IntoIterator<Item = Arc<dyn Engine>>) -> Self {
        Self(engines.into_iter().collect())
    }

    /// The engine of that kind, if this build has it.
    #[must_use]
    pub fn get(&self, kind: EngineKind) -> Option<&dyn Engine> {
        self.0.iter().find(|engine| engine.kind() == kind).map(|engine| &**engine)
    }

    /// Whether this build has an engine.
    #[must_use]
    pub fn has(&self, kind: EngineKind) -> bool {
        self.get(kind).is_some()
    }

    /// Starts a load on the model's engine.
    ///
    /// # Errors
    /// As [`Engine::start_load`], and [`EngineError::Unsupported`] when this build has no such
    /// engine.
    pub fn start_load(
        &self,
        model: &EngineModel,
        settings: &EngineSettings,
        cancel: Arc<AtomicBool>,
    ) -> Result<LoadStart, EngineError> {
        let engine = self.get(model.engine).ok_or_else(|| cannot_run(model))?;
        let start = engine.start_load(model, settings, cancel)?;
        engine.set_limits(settings);
        tracing::debug!(model = model.name, engine = %model.engine, ?settings, "load started");
        Ok(start)
    }

    /// Estimates the memory of `model` in its engine.
    #[must_use]
    pub fn estimate(&self, model: &EngineModel, settings: &EngineSettings) -> Estimate {
        self.get(model.engine).map_or_else(
            || {
                Estimate::unknown(
                    model.engine,
                    settings.context_tokens(model.engine, Estimate::USUAL_TOKENS),
                )
            },
            |engine| engine.estimate(model, settings),
        )
    }

    /// Frees the memory that the engines and the C heap cache of unloaded models.
    pub fn release_memory(&self) {
        for engine in &*self.0 {
            engine.release_memory();
        }
        crate::heap::trim();
    }
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|engine| engine.kind())).finish()
    }
}

/// The error for a model that its engine cannot run: wrong format or role.
#[must_use]
pub fn cannot_run(model: &EngineModel) -> EngineError {
    let what = match model.role {
        Role::Generates => "",
        Role::Embeds => ", an embedding model",
    };
    let problem = format!("the engine `{}` of this daemon cannot run it{what}", model.engine);
    EngineError::Unsupported { file: model.weights.path().to_owned(), problem }
}
