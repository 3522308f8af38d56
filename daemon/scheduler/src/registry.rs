//! Model registry: the models in memory, and those being loaded.
//!
//! Owns every generator, embedder and load in progress. It lives on the engine thread, and only the
//! scheduler changes it. Does not know queues or text, and does not decide evictions: it reports
//! the memory of each model, and unloads models on request.

mod loading;
mod resident;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::wire::models::{EngineKind, LoadedModel};

use self::loading::ModelLoad;
pub use self::loading::{FinishedLoad, LoadWaiter};
use self::resident::ResidentEmbedder;
pub use self::resident::ResidentGenerator;
use super::error::EngineFailure;
use super::ledger::Holding;
use super::memory::{ModelOptions, Retention};
use super::pacing::Pacing;
use ingle_engine::backend::Embedder;
use ingle_engine::engines::{Engines, LoadTarget};
use ingle_engine::error::EngineError;
use ingle_engine::estimate::Estimate;
use ingle_engine::model::EngineModel;
use ingle_engine::settings::EngineSettings;

enum ModelState {
    Loading(ModelLoad),
    Generator(ResidentGenerator),
    Embedder(ResidentEmbedder),
}

/// A model in memory, or being loaded.
struct ModelEntry {
    version: String,
    retention: Retention,
    estimate: Estimate,
    state: ModelState,
}

impl ModelEntry {
    fn holding(&self, name: &str) -> Holding {
        let (weights, kept, loading) = match &self.state {
            // The reservation covers the maximum of the load.
            ModelState::Loading(_) => (self.estimate.load_bytes(), Vec::new(), true),
            ModelState::Generator(resident) => {
                let generator = &resident.generator;
                let weights = generator.info().weight_bytes + generator.overhead_bytes();
                // Closing sequences frees nothing in an engine whose sequences do not grow.
                let grows = generator.kv_bytes_per_token() > 0;
                let kept = if grows { resident.prompt_cache.kept_bytes() } else { Vec::new() };
                (weights, kept, false)
            }
            ModelState::Embedder(resident) => {
                let embedder = &resident.embedder;
                (embedder.info().weight_bytes + embedder.overhead_bytes(), Vec::new(), false)
            }
        };
        Holding {
            model: name.to_owned(),
            weights,
            running: 0,
            kept,
            active: 0,
            loading,
            pinned: self.retention.pinned,
            last_used: self.retention.last_used,
        }
    }

    /// The model's description for replies; `None` while it is being loaded.
    fn describe(&self, name: &str, active: usize) -> Option<LoadedModel> {
        let (info, engine, load_ms) = match &self.state {
            ModelState::Loading(_) => return None,
            ModelState::Generator(resident) => {
                (resident.generator.info(), resident.engine, resident.load_ms)
            }
            ModelState::Embedder(resident) => {
                (resident.embedder.info(), resident.engine, resident.load_ms)
            }
        };
        let (kv_bytes, prompt_cache_bytes, context_tokens) = match &self.state {
            ModelState::Generator(resident) => (
                resident.generator.kv_bytes(),
                resident.prompt_cache.bytes(),
                resident.generator.capacity().context_tokens,
            ),
            ModelState::Embedder(resident) => (0, 0, resident.embedder.context_tokens()),
            ModelState::Loading(_) => (0, 0, 0),
        };
        Some(LoadedModel {
            name: name.to_owned(),
            engine: engine.as_str().to_owned(),
            architecture: info.architecture.clone(),
            weight_bytes: info.weight_bytes,
            kv_bytes,
            prompt_cache_bytes,
            context_tokens,
            active,
            load_ms,
            pinned: self.retention.pinned,
            keep_alive: self.retention.keep_alive,
            // Filled in when the status is read, because it depends on the time.
            expires_in_s: None,
        })
    }
}

/// The models in memory, by name.
pub struct Registry {
    models: BTreeMap<String, ModelEntry>,
    engines: Engines,
    settings: EngineSettings,
    /// When the last model was unloaded.
    emptied_at: Option<Instant>,
    revision: u64,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(engines: Engines, settings: EngineSettings) -> Self {
        Self { models: BTreeMap::new(), engines, settings, emptied_at: None, revision: 0 }
    }

    /// Memory that `model` will take in its engine.
    #[must_use]
    pub fn estimate(&self, model: &EngineModel) -> Estimate {
        self.engines.estimate(model, &self.settings)
    }

    /// A number that changes when a model is added or removed, or its retention changes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether another version of the model is in memory or being loaded.
    #[must_use]
    pub fn is_other_version(&self, model: &EngineModel) -> bool {
        self.models.get(&model.name).is_some_and(|entry| entry.version != model.version)
    }

    /// Whether this version of the model is in memory or being loaded.
    #[must_use]
    pub fn holds(&self, model: &EngineModel) -> bool {
        self.models.get(&model.name).is_some_and(|entry| entry.version == model.version)
    }

    /// Whether this version of the model is in memory.
    ///
    /// The name alone never decides that: tokens of one version must not be run on the weights of
    /// another.
    #[must_use]
    pub fn is_ready(&self, model: &EngineModel) -> bool {
        self.holds(model) && self.is_resident(&model.name)
    }

    /// The engine of each model in memory or being loaded.
    pub fn engines(&self) -> impl Iterator<Item = (&str, EngineKind)> {
        self.models.iter().map(|(name, entry)| (name.as_str(), entry.estimate.engine))
    }

    /// The retention of the model `name`.
    #[must_use]
    pub fn retention(&self, name: &str) -> Option<Retention> {
        self.models.get(name).map(|entry| entry.retention)
    }

    /// Starts to load a model that is neither in memory nor being loaded.
    ///
    /// One load serves any number of callers. Another version of the model is unloaded, which no
    /// request may need any more, but only once the load has started: a model whose header shows
    /// that it cannot be loaded unloads nothing.
    ///
    /// # Errors
    /// When the model's header shows that it cannot be loaded.
    pub fn start(
        &mut self,
        model: &EngineModel,
        estimate: Estimate,
        retention: Retention,
    ) -> Result<(), EngineError> {
        let cancel = Arc::new(AtomicBool::new(false));
        let start = self.engines.start_load(model, &self.settings, Arc::clone(&cancel))?;
        let loading =
            ModelLoad::new(start, cancel, model.engine, self.settings.load_stall, Instant::now());
        self.unload(&model.name);
        let state = ModelState::Loading(loading);
        let version = model.version.clone();
        self.models.insert(model.name.clone(), ModelEntry { version, retention, estimate, state });
        self.revision += 1;
        Ok(())
    }

    /// The memory of every model, without its running sequences.
    #[must_use]
    pub fn holdings(&self) -> Vec<Holding> {
        self.models.iter().map(|(name, entry)| entry.holding(name)).collect()
    }

    /// Records that a model is used at `now`.
    pub fn touch(&mut self, name: &str, now: Instant) {
        if let Some(entry) = self.models.get_mut(name) {
            entry.retention.last_used = now;
        }
    }

    /// Changes the retention of a model.
    pub fn change_retention(&mut self, name: &str, asked: ModelOptions) {
        if let Some(entry) = self.models.get_mut(name) {
            entry.retention.change(asked);
            self.revision += 1;
        }
    }

    /// When each unused resident model expires; models that never expire are left out.
    pub fn expiries(&self) -> impl Iterator<Item = (&str, Instant)> {
        self.models.iter().filter_map(|(name, entry)| match entry.state {
            ModelState::Generator(_) | ModelState::Embedder(_) => {
                Some((name.as_str(), entry.retention.expires_at()?))
            }
            ModelState::Loading(_) => None,
        })
    }

    /// Number of load commands that wait for this load; queued requests are not counted.
    #[must_use]
    pub fn load_waiters(&self, name: &str) -> usize {
        match self.models.get(name).map(|entry| &entry.state) {
            Some(ModelState::Loading(loading)) => loading.awaited_by(),
            _ => 0,
        }
    }

    /// Attaches `waiter` to the load in progress, or returns it with its reply.
    ///
    /// The reply is immediate when the model is resident already, or when too many callers wait.
    /// `active` is the number of requests that run on the model.
    pub fn wait_for(
        &mut self,
        name: &str,
        waiter: LoadWaiter,
        active: usize,
    ) -> Option<(LoadWaiter, Result<LoadedModel, EngineFailure>)> {
        match self.models.get_mut(name) {
            Some(ModelEntry { state: ModelState::Loading(loading), .. }) => {
                let refused = loading.wait(waiter).err()?;
                let waiting = limits::QUEUED_LOADS;
                Some((
                    refused,
                    Err(EngineFailure::Overloaded { waiting, what: "callers of this load" }),
                ))
            }
            entry => {
                let described = entry.and_then(|entry| entry.describe(name, active));
                Some((waiter, described.ok_or(EngineFailure::Cancelled)))
            }
        }
    }

    /// The resident generator of that name, to change.
    pub fn resident_mut(&mut self, name: &str) -> Option<&mut ResidentGenerator> {
        match self.models.get_mut(name) {
            Some(ModelEntry { state: ModelState::Generator(resident), .. }) => Some(resident),
            _ => None,
        }
    }

    /// The resident generator of that name.
    #[must_use]
    pub fn resident(&self, name: &str) -> Option<&ResidentGenerator> {
        match self.models.get(name) {
            Some(ModelEntry { state: ModelState::Generator(resident), .. }) => Some(resident),
            _ => None,
        }
    }

    /// The resident embedder of that name, and its pacing.
    pub fn embedder(&mut self, name: &str) -> Option<(&mut dyn Embedder, &mut Pacing)> {
        match self.models.get_mut(name) {
            Some(ModelEntry { state: ModelState::Embedder(resident), .. }) => {
                Some((&mut *resident.embedder, &mut resident.pacing))
            }
            _ => None,
        }
    }

    /// Whether any version of the model is in memory.
    #[must_use]
    pub fn is_resident(&self, name: &str) -> bool {
        let state = self.models.get(name).map(|entry| &entry.state);
        matches!(state, Some(ModelState::Generator(_) | ModelState::Embedder(_)))
    }

    /// Unloads a model, or cancels its load, and frees the memory.
    ///
    /// Returns the callers that waited for the load, or `None` when there is no such model.
    pub fn unload(&mut self, name: &str) -> Option<Vec<LoadWaiter>> {
        let waiters = match self.models.remove(name)?.state {
            ModelState::Loading(loading) => loading.waiters,
            state @ (ModelState::Generator(_) | ModelState::Embedder(_)) => {
                drop(state);
                tracing::info!(model = name, "model unloaded");
                Vec::new()
            }
        };
        self.release_memory();
        self.revision += 1;
        Some(waiters)
    }

    /// Sets for every model whether its engine leaves a core free.
    pub fn share_cores(&mut self, shares: bool) {
        for entry in self.models.values_mut() {
            match &mut entry.state {
                ModelState::Generator(resident) => resident.generator.share_cores(shares),
                ModelState::Embedder(resident) => resident.embedder.share_cores(shares),
                ModelState::Loading(_) => {}
            }
        }
    }

    /// The first load in progress: the model and the fraction of its bytes loaded.
    #[must_use]
    pub fn loading(&self) -> Option<(&str, f32)> {
        self.models.iter().find_map(|(name, entry)| match &entry.state {
            ModelState::Loading(loading) => Some((name.as_str(), loading.fraction())),
            ModelState::Generator(_) | ModelState::Embedder(_) => None,
        })
    }

    /// The fraction of `name`'s bytes loaded, if it is being loaded.
    #[must_use]
    pub fn loading_fraction(&self, name: &str) -> Option<f32> {
        match self.models.get(name) {
            Some(ModelEntry { state: ModelState::Loading(loading), .. }) => {
                Some(loading.fraction())
            }
            _ => None,
        }
    }

    /// Names of the models being loaded.
    #[must_use]
    pub fn loading_names(&self) -> Vec<String> {
        let is_loading = |entry: &ModelEntry| matches!(entry.state, ModelState::Loading(_));
        let names = self.models.iter().filter(|(_, entry)| is_loading(entry));
        names.map(|(name, _)| name.clone()).collect()
    }

    /// Descriptions of the resident models; `active` counts a model's running requests.
    pub fn describe(&self, active: impl Fn(&str) -> usize) -> Vec<LoadedModel> {
        let models = self.models.iter();
        models.filter_map(|(name, entry)| entry.describe(name, active(name))).collect()
    }

    /// Adopts tensors of the loads in progress for at most `slice`.
    ///
    /// With `may_wait`, when there is no other work, it waits that long for the loader thread.
    /// Among several loads the wait for each is short, so that a slow one does not delay the
    /// others.
    pub fn adopt(&mut self, slice: Duration, may_wait: bool) -> Vec<FinishedLoad> {
        const SHORTLY: Duration = Duration::from_millis(1);
        let ends_at = Instant::now() + slice;
        let names = self.loading_names();
        let wait = match (may_wait, names.len()) {
            (false, _) => Duration::ZERO,
            (true, 1) => slice,
            (true, _) => SHORTLY,
        };
        let mut ended = Vec::new();
        for name in names {
            let Some(ModelEntry { state: ModelState::Loading(loading), .. }) =
                self.models.get_mut(&name)
            else {
                continue;
            };
            let result = loading.adopt_until(ends_at, wait);
            if let Some(result) = result {
                ended.push(self.end_load(name, result));
            }
        }
        ended
    }

    /// Frees the memory that the engines cache after a model is unloaded.
    fn release_memory(&mut self) {
        self.engines.release_memory();
        self.emptied_at = Some(Instant::now());
    }

    /// When the heap is to be trimmed once more, if at all.
    #[must_use]
    pub fn trim_due(&self) -> Option<Instant> {
        Some(self.emptied_at? + Duration::from_millis(limits::TRIM_AFTER_MS))
    }

    /// Trims the heap once more.
    pub fn trim(&mut self) {
        self.emptied_at = None;
        ingle_engine::heap::trim();
    }

    fn end_load(&mut self, name: String, result: Result<(), EngineError>) -> FinishedLoad {
        let Some(ModelEntry { state: ModelState::Loading(loading), version, retention, estimate }) =
            self.models.remove(&name)
        else {
            let result = result.and(Err(EngineError::Cancelled));
            return FinishedLoad { name, result, waiters: Vec::new() };
        };
        self.revision += 1;
        let ModelLoad { target, stream, cancel, waiters, engine, started_at, .. } = loading;
        // Dropped before `release_memory` below, which frees what they held.
        drop((stream, cancel));
        let result = result.and_then(|()| finish(target, engine, started_at));
        if result.is_err() {
            self.release_memory();
        }
        let result = result.and_then(|state| {
            tracing::info!(model = name, %engine, "model loaded");
            let retention = Retention { last_used: Instant::now(), ..retention };
            let entry = ModelEntry { version, retention, estimate, state };
            let described = entry.describe(&name, 0).ok_or(EngineError::Cancelled);
            self.models.insert(name.clone(), entry);
            described
        });
        FinishedLoad { name, result, waiters }
    }
}

/// Builds the model once the loader has delivered everything.
fn finish(
    target: LoadTarget,
    engine: EngineKind,
    started_at: Instant,
) -> Result<ModelState, EngineError> {
    Ok(match target {
        LoadTarget::Generator(builder) => {
            ModelState::Generator(ResidentGenerator::new(builder.finish()?, engine, started_at))
        }
        LoadTarget::Embedder(builder) => {
            ModelState::Embedder(ResidentEmbedder::new(builder.finish()?, engine, started_at))
        }
    })
}
