//! The models in memory: loading, resident, unloaded.
//!
//! Owns every generator and every load under way; lives on the engine thread and is written by the
//! worker only. Knows nothing of queues or text, and decides nothing about eviction: it says what
//! each model holds, and drops what it is told to.

mod loading;
mod resident;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::wire::models::{EngineKind, LoadedModel};

pub use self::loading::{LoadEnd, LoadWaiter};
use self::loading::{Loading, finish};
pub use self::resident::Resident;
use self::resident::ResidentEmbedder;
use super::error::EngineFailure;
use super::ledger::Holding;
use super::memory::{ModelOptions, Stay};
use super::pacing::Pacing;
use ingle_engine::backend::Embedder;
use ingle_engine::engines::Engines;
use ingle_engine::error::EngineError;
use ingle_engine::estimate::Estimate;
use ingle_engine::model::EngineModel;
use ingle_engine::settings::EngineSettings;

enum Slot {
    Loading(Loading),
    Resident(Resident),
    Embedder(ResidentEmbedder),
}

/// A model in memory, or on its way there.
struct Entry {
    version: String,
    stay: Stay,
    estimate: Estimate,
    slot: Slot,
}

impl Entry {
    fn holding(&self, name: &str) -> Holding {
        let (weights, kept, loading) = match &self.slot {
            // What is reserved covers the load's height.
            Slot::Loading(_) => (self.estimate.load_bytes(), Vec::new(), true),
            Slot::Resident(resident) => {
                let generator = &resident.generator;
                let weights = generator.info().weight_bytes + generator.overhead_bytes();
                // An engine whose sequences do not grow gets nothing back by closing them.
                let grows = generator.kv_bytes_per_token() > 0;
                let kept = if grows { resident.prompt_cache.kept_bytes() } else { Vec::new() };
                (weights, kept, false)
            }
            Slot::Embedder(resident) => {
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
            pinned: self.stay.pinned,
            last_used: self.stay.last_used,
        }
    }

    /// What is to be said of the model, unless it is still being loaded.
    fn describe(&self, name: &str, active: usize) -> Option<LoadedModel> {
        let (info, engine, load_ms) = match &self.slot {
            Slot::Loading(_) => return None,
            Slot::Resident(resident) => {
                (resident.generator.info(), resident.engine, resident.load_ms)
            }
            Slot::Embedder(resident) => {
                (resident.embedder.info(), resident.engine, resident.load_ms)
            }
        };
        let (kv_bytes, prompt_cache_bytes, context_tokens) = match &self.slot {
            Slot::Resident(resident) => (
                resident.generator.kv_bytes(),
                resident.prompt_cache.bytes(),
                resident.generator.capacity().context_tokens,
            ),
            Slot::Embedder(resident) => (0, 0, resident.embedder.context_tokens()),
            Slot::Loading(_) => (0, 0, 0),
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
            pinned: self.stay.pinned,
            keep_alive: self.stay.keep_alive,
            // The reader knows what time it is.
            expires_in_s: None,
        })
    }
}

/// The models in memory, by name.
pub struct Registry {
    slots: BTreeMap<String, Entry>,
    engines: Engines,
    settings: EngineSettings,
    /// When a model went last.
    emptied_at: Option<Instant>,
    revision: u64,
}

impl Registry {
    /// No models yet.
    #[must_use]
    pub fn new(engines: Engines, settings: EngineSettings) -> Self {
        Self { slots: BTreeMap::new(), engines, settings, emptied_at: None, revision: 0 }
    }

    /// What `model` will take in its engine.
    #[must_use]
    pub fn estimate(&self, model: &EngineModel) -> Estimate {
        self.engines.estimate(model, &self.settings)
    }

    /// A number that changes whenever a model comes, goes, or is to stay for another time.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether another version of the model is in memory, or on its way there, under its name.
    #[must_use]
    pub fn is_other_version(&self, model: &EngineModel) -> bool {
        self.slots.get(&model.name).is_some_and(|entry| entry.version != model.version)
    }

    /// Whether this version of the model is in memory or on its way there.
    #[must_use]
    pub fn holds(&self, model: &EngineModel) -> bool {
        self.slots.get(&model.name).is_some_and(|entry| entry.version == model.version)
    }

    /// Whether this version of the model can work now. The name alone never decides that: tokens
    /// of one version must not meet the weights of another.
    #[must_use]
    pub fn is_ready(&self, model: &EngineModel) -> bool {
        self.holds(model) && self.is_resident(&model.name)
    }

    /// What runs each model in memory or on its way there.
    pub fn engines(&self) -> impl Iterator<Item = (&str, EngineKind)> {
        self.slots.iter().map(|(name, entry)| (name.as_str(), entry.estimate.engine))
    }

    /// How the model of that name stays.
    #[must_use]
    pub fn stay(&self, name: &str) -> Option<Stay> {
        self.slots.get(name).map(|entry| entry.stay)
    }

    /// Starts to load a model that is neither in memory nor on its way there: one load for any
    /// number of callers. Another version of it goes, which nobody may want any more, but only once
    /// the load has begun: a header that shows that the model cannot be loaded costs nobody
    /// anything.
    ///
    /// # Errors
    /// When the model's header shows that it cannot be loaded.
    pub fn start(
        &mut self,
        model: &EngineModel,
        estimate: Estimate,
        stay: Stay,
    ) -> Result<(), EngineError> {
        let cancel = Arc::new(AtomicBool::new(false));
        let start = self.engines.start_load(model, &self.settings, Arc::clone(&cancel))?;
        let loading =
            Loading::new(start, cancel, model.engine, self.settings.load_stall, Instant::now());
        self.unload(&model.name);
        let slot = Slot::Loading(loading);
        let version = model.version.clone();
        self.slots.insert(model.name.clone(), Entry { version, stay, estimate, slot });
        self.revision += 1;
        Ok(())
    }

    /// What every model holds, what runs on them left out.
    #[must_use]
    pub fn holdings(&self) -> Vec<Holding> {
        self.slots.iter().map(|(name, entry)| entry.holding(name)).collect()
    }

    /// Notes that a model is used at `now`.
    pub fn touch(&mut self, name: &str, now: Instant) {
        if let Some(entry) = self.slots.get_mut(name) {
            entry.stay.last_used = now;
        }
    }

    /// Changes how long a model stays.
    pub fn change_stay(&mut self, name: &str, asked: ModelOptions) {
        if let Some(entry) = self.slots.get_mut(name) {
            entry.stay.change(asked);
            self.revision += 1;
        }
    }

    /// When each resident model expires if nothing uses it; those that stay are left out.
    pub fn expiries(&self) -> impl Iterator<Item = (&str, Instant)> {
        self.slots.iter().filter_map(|(name, entry)| match entry.slot {
            Slot::Resident(_) | Slot::Embedder(_) => {
                Some((name.as_str(), entry.stay.expires_at()?))
            }
            Slot::Loading(_) => None,
        })
    }

    /// Callers who wait for this load's outcome, requests in the queue left out.
    #[must_use]
    pub fn load_waiters(&self, name: &str) -> usize {
        match self.slots.get(name).map(|entry| &entry.slot) {
            Some(Slot::Loading(loading)) => loading.awaited_by(),
            _ => 0,
        }
    }

    /// Tells `waiter` of the load's progress and outcome later, or gives it back with its answer:
    /// the model is resident already, or too many wait. `active` is what works on it.
    pub fn wait_for(
        &mut self,
        name: &str,
        waiter: LoadWaiter,
        active: usize,
    ) -> Option<(LoadWaiter, Result<LoadedModel, EngineFailure>)> {
        match self.slots.get_mut(name) {
            Some(Entry { slot: Slot::Loading(loading), .. }) => {
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

    /// The resident model of that name.
    pub fn resident(&mut self, name: &str) -> Option<&mut Resident> {
        match self.slots.get_mut(name) {
            Some(Entry { slot: Slot::Resident(resident), .. }) => Some(resident),
            _ => None,
        }
    }

    /// The resident model of that name, to look at.
    #[must_use]
    pub fn look(&self, name: &str) -> Option<&Resident> {
        match self.slots.get(name) {
            Some(Entry { slot: Slot::Resident(resident), .. }) => Some(resident),
            _ => None,
        }
    }

    /// The resident embedding model of that name.
    pub fn embedder(&mut self, name: &str) -> Option<(&mut dyn Embedder, &mut Pacing)> {
        match self.slots.get_mut(name) {
            Some(Entry { slot: Slot::Embedder(resident), .. }) => {
                Some((&mut *resident.embedder, &mut resident.pacing))
            }
            _ => None,
        }
    }

    /// Whether the model can work now.
    #[must_use]
    pub fn is_resident(&self, name: &str) -> bool {
        let slot = self.slots.get(name).map(|entry| &entry.slot);
        matches!(slot, Some(Slot::Resident(_) | Slot::Embedder(_)))
    }

    /// Drops a model, or cancels its load, and gives memory back. Who waited for the load, if there
    /// was anything to drop.
    pub fn unload(&mut self, name: &str) -> Option<Vec<LoadWaiter>> {
        let waiters = match self.slots.remove(name)?.slot {
            Slot::Loading(loading) => loading.waiters,
            slot @ (Slot::Resident(_) | Slot::Embedder(_)) => {
                drop(slot);
                tracing::info!(model = name, "a model was unloaded");
                Vec::new()
            }
        };
        self.release_memory();
        self.revision += 1;
        Some(waiters)
    }

    /// Tells every engine whether to leave a core to others.
    pub fn share_cores(&mut self, shares: bool) {
        for entry in self.slots.values_mut() {
            match &mut entry.slot {
                Slot::Resident(resident) => resident.generator.share_cores(shares),
                Slot::Embedder(resident) => resident.embedder.share_cores(shares),
                Slot::Loading(_) => {}
            }
        }
    }

    /// The first load under way: model and share of its bytes in place.
    #[must_use]
    pub fn loading(&self) -> Option<(&str, f32)> {
        self.slots.iter().find_map(|(name, entry)| match &entry.slot {
            Slot::Loading(loading) => Some((name.as_str(), loading.fraction())),
            Slot::Resident(_) | Slot::Embedder(_) => None,
        })
    }

    /// The share of `name`'s bytes in place, if it is being loaded.
    #[must_use]
    pub fn loading_fraction(&self, name: &str) -> Option<f32> {
        match self.slots.get(name) {
            Some(Entry { slot: Slot::Loading(loading), .. }) => Some(loading.fraction()),
            _ => None,
        }
    }

    /// Names of the models being loaded.
    #[must_use]
    pub fn loading_names(&self) -> Vec<String> {
        let is_loading = |entry: &Entry| matches!(entry.slot, Slot::Loading(_));
        let names = self.slots.iter().filter(|(_, entry)| is_loading(entry));
        names.map(|(name, _)| name.clone()).collect()
    }

    /// What is resident; `active` counts a model's running generations.
    pub fn describe(&self, active: impl Fn(&str) -> usize) -> Vec<LoadedModel> {
        let slots = self.slots.iter();
        slots.filter_map(|(name, entry)| entry.describe(name, active(name))).collect()
    }

    /// Takes over tensors of the loads under way for at most `slice`. Waits that long for the
    /// loader if `may_wait`, that is, if there is nothing else to do; among several loads a slow one
    /// is waited for only shortly, for the sake of the others.
    pub fn adopt(&mut self, slice: Duration, may_wait: bool) -> Vec<LoadEnd> {
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
            let Some(Entry { slot: Slot::Loading(loading), .. }) = self.slots.get_mut(&name) else {
                continue;
            };
            let result = loading.adopt_until(ends_at, wait);
            if let Some(result) = result {
                ended.push(self.end_load(name, result));
            }
        }
        ended
    }

    /// Gives back what the engines keep of a model that has gone.
    fn release_memory(&mut self) {
        self.engines.release_memory();
        self.emptied_at = Some(Instant::now());
    }

    /// When free memory should be given back once more, if it should.
    #[must_use]
    pub fn trim_due(&self) -> Option<Instant> {
        Some(self.emptied_at? + Duration::from_millis(limits::TRIM_AFTER_MS))
    }

    /// Gives free memory back once more.
    pub fn trim(&mut self) {
        self.emptied_at = None;
        ingle_engine::heap::trim();
    }

    fn end_load(&mut self, name: String, result: Result<(), EngineError>) -> LoadEnd {
        let Some(Entry { slot: Slot::Loading(loading), version, stay, estimate }) =
            self.slots.remove(&name)
        else {
            let result = result.and(Err(EngineError::Cancelled));
            return LoadEnd { name, result, waiters: Vec::new() };
        };
        self.revision += 1;
        let Loading { target, stream, cancel, waiters, engine, started_at, .. } = loading;
        // What they hold is to be given back below.
        drop((stream, cancel));
        let result = result.and_then(|()| finish(target, engine, started_at));
        if result.is_err() {
            self.release_memory();
        }
        let result = result.and_then(|slot| {
            tracing::info!(model = name, %engine, "a model was loaded");
            let stay = Stay { last_used: Instant::now(), ..stay };
            let entry = Entry { version, stay, estimate, slot };
            let described = entry.describe(&name, 0).ok_or(EngineError::Cancelled);
            self.slots.insert(name.clone(), entry);
            described
        });
        LoadEnd { name, result, waiters }
    }
}
