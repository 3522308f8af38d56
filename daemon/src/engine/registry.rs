//! The models in memory: loading, resident, unloaded.
//!
//! Owns every generator and every load under way; lives on the engine thread and is written by the
//! worker only. The one place that names concrete engines. Knows nothing of queues or text, and
//! decides nothing about eviction: it says what each model holds, and drops what it is told to.

mod engine_limits;
mod entry;
mod estimate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ingle_protocol::limits;
use ingle_protocol::wire::models::{LoadedModel, ProgressEvent};
use tokio::sync::{mpsc, oneshot};

pub use self::engine_limits::EngineLimits;
use self::entry::Entry;
pub use self::estimate::{Estimate, estimate};
use super::backend::{Builder, EngineError, Generator, SeqId, Trimmed};
use super::handle::{EngineFailure, EngineModel, Weights, millis};
use super::ledger::Holding;
#[cfg(feature = "mlx")]
use super::loader;
use super::loader::{LoadItem, LoadStream};
use super::memory::{ModelOptions, Stay};
use super::pacing::Pacing;
use super::prompt_cache::{PromptCache, Reuse};
use super::sim;

/// Somebody who waits for a load.
#[derive(Debug)]
pub struct LoadWaiter {
    /// Where progress goes.
    pub progress: mpsc::Sender<ProgressEvent>,
    /// Where the outcome goes.
    pub done: oneshot::Sender<Result<LoadedModel, EngineFailure>>,
}

/// A model that can generate.
pub struct Resident {
    /// Its numerics.
    pub generator: Box<dyn Generator>,
    /// Its prefill chunk size.
    pub pacing: Pacing,
    prompt_cache: PromptCache,
    engine: &'static str,
    load_ms: f64,
}

impl Resident {
    /// Opens a sequence for `prompt`, from a kept one if it begins alike: the sequence, and how
    /// many of the prompt's tokens it holds already.
    ///
    /// # Errors
    /// What the generator reports.
    pub fn open(&mut self, prompt: &[u32]) -> Result<(SeqId, usize), EngineError> {
        match self.prompt_cache.find(prompt) {
            Some(Reuse::Whole { seq, tokens }) => return Ok((seq, tokens)),
            Some(Reuse::Beginning { seq, tokens }) => {
                // An engine that cannot fork or has no room reads the prompt from its start.
                if let Ok(forked) = self.generator.fork(seq, tokens) {
                    return Ok((forked, tokens));
                }
            }
            None => {}
        }
        loop {
            match self.generator.open() {
                Err(error @ EngineError::NoCapacity { .. }) => {
                    let kept = self.prompt_cache.evict().ok_or(error)?;
                    self.generator.close(kept);
                }
                opened => return Ok((opened?, 0)),
            }
        }
    }

    /// Gives up the least recently used kept sequences.
    pub fn drop_kept(&mut self, sequences: usize) {
        for _ in 0..sequences {
            let Some(seq) = self.prompt_cache.evict() else { return };
            self.generator.close(seq);
        }
    }

    /// Which kept sequence `prompt` would take over, counted from the least recently used one.
    #[must_use]
    pub fn takes_over(&self, prompt: &[u32]) -> Option<usize> {
        self.prompt_cache.whole(prompt)
    }

    /// Takes back a sequence whose KV cache should hold `tokens`, and keeps it for prompts that
    /// begin alike.
    pub fn keep(&mut self, seq: SeqId, tokens: Vec<u32>) {
        // A pass that was under way may have put more into it than was accounted for.
        if !matches!(self.generator.trim(seq, tokens.len()), Ok(Trimmed::Done)) {
            self.generator.close(seq);
            return;
        }
        let bytes = self.generator.bytes(seq);
        for closed in self.prompt_cache.keep(seq, tokens, bytes) {
            self.generator.close(closed);
        }
    }
}

struct Loading {
    builder: Box<dyn Builder>,
    stream: LoadStream,
    _cancel: CancelOnDrop,
    engine: &'static str,
    bytes_read: u64,
    bytes_total: u64,
    started_at: Instant,
    waiters: Vec<LoadWaiter>,
}

impl Loading {
    /// Whether somebody still waits for its outcome.
    fn is_awaited(&self) -> bool {
        self.waiters.iter().any(|waiter| !waiter.done.is_closed())
    }
}

enum Slot {
    Loading(Loading),
    Resident(Resident),
}

/// The outcome of a load that has just ended.
pub struct LoadEnd {
    /// The model.
    pub name: String,
    /// What it came to.
    pub result: Result<(), EngineError>,
}

/// The models in memory, by name.
#[derive(Default)]
pub struct Registry {
    slots: BTreeMap<String, Entry>,
    /// When a model went last.
    emptied_at: Option<Instant>,
    limits: EngineLimits,
}

impl Registry {
    /// No models, and these settings for the engines.
    #[must_use]
    pub fn new(limits: EngineLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether another state of the model's files is in memory under its name.
    #[must_use]
    pub fn is_other_version(&self, model: &EngineModel) -> bool {
        self.slots.get(&model.name).is_some_and(|entry| entry.version != model.version)
    }

    /// Whether the model is in memory or on its way there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.slots.contains_key(name)
    }

    /// Starts to load a model that is neither in memory nor on its way there: one load for any
    /// number of callers.
    ///
    /// # Errors
    /// When the model's header shows that it cannot be loaded.
    pub fn start(
        &mut self,
        model: &EngineModel,
        estimate: Estimate,
        stay: Stay,
    ) -> Result<(), EngineError> {
        let loading = start_load(model, stay.last_used)?;
        self.limits.apply(loading.engine);
        let slot = Slot::Loading(loading);
        let version = model.version.clone();
        self.slots.insert(model.name.clone(), Entry { version, stay, estimate, slot });
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
        }
    }

    /// When each resident model expires if nothing uses it; those that stay are left out.
    pub fn expiries(&self) -> impl Iterator<Item = (&str, Instant)> {
        self.slots.iter().filter_map(|(name, entry)| match entry.slot {
            Slot::Resident(_) => Some((name.as_str(), entry.stay.expires_at()?)),
            Slot::Loading(_) => None,
        })
    }

    /// Whether a caller still waits for this load's outcome, requests in the queue left out.
    #[must_use]
    pub fn is_load_awaited(&self, name: &str) -> bool {
        match self.slots.get(name).map(|entry| &entry.slot) {
            Some(Slot::Loading(loading)) => loading.is_awaited(),
            _ => false,
        }
    }

    /// Tells `waiter` of the load's progress and outcome, or at once that the model is resident.
    pub fn wait_for(&mut self, name: &str, waiter: LoadWaiter, active: usize) {
        match self.slots.get_mut(name) {
            Some(Entry { slot: Slot::Loading(loading), .. }) => loading.waiters.push(waiter),
            Some(Entry { slot: Slot::Resident(resident), stay, .. }) => {
                // A caller that has gone needs no answer.
                let _ = waiter.done.send(Ok(describe(name, resident, stay, active)));
            }
            None => {
                let _ = waiter.done.send(Err(EngineFailure::Cancelled));
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

    /// Whether the model can generate now.
    #[must_use]
    pub fn is_resident(&self, name: &str) -> bool {
        self.look(name).is_some()
    }

    /// Drops a model, or cancels its load, whose waiters hear `failure`. Whether there was one.
    pub fn unload(&mut self, name: &str, failure: &EngineFailure) -> bool {
        match self.slots.remove(name).map(|entry| entry.slot) {
            Some(Slot::Loading(loading)) => {
                for waiter in loading.waiters {
                    // A caller that has gone needs no answer.
                    let _ = waiter.done.send(Err(failure.clone()));
                }
                true
            }
            Some(Slot::Resident(resident)) => {
                drop(resident);
                self.release_memory();
                tracing::info!(model = name, "a model was unloaded");
                true
            }
            None => false,
        }
    }

    /// The first load under way: model and share of its bytes in place.
    #[must_use]
    pub fn loading(&self) -> Option<(&str, f32)> {
        self.slots.iter().find_map(|(name, entry)| match &entry.slot {
            Slot::Loading(loading) => Some((name.as_str(), loading.fraction())),
            Slot::Resident(_) => None,
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
        let residents = self.slots.iter().filter_map(|(name, entry)| match &entry.slot {
            Slot::Resident(resident) => Some(describe(name, resident, &entry.stay, active(name))),
            Slot::Loading(_) => None,
        });
        residents.collect()
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
        #[cfg(feature = "mlx")]
        super::mlx::cleanup();
        super::heap::trim();
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
        super::heap::trim();
    }

    fn end_load(&mut self, name: String, result: Result<(), EngineError>) -> LoadEnd {
        let Some(Entry { slot: Slot::Loading(loading), version, stay, estimate }) =
            self.slots.remove(&name)
        else {
            return LoadEnd { name, result };
        };
        let Loading { builder, waiters, engine, started_at, .. } = loading;
        let result = result.and_then(|()| builder.finish());
        if result.is_err() {
            self.release_memory();
        }
        let result = result.map(|generator| {
            let load_ms = millis(started_at.elapsed());
            tracing::info!(model = name, engine, load_ms, "a model was loaded");
            let resident = Resident {
                generator,
                pacing: Pacing::new(),
                prompt_cache: PromptCache::new(
                    limits::PROMPT_CACHE_SEQUENCES,
                    limits::PROMPT_CACHE_BYTES,
                ),
                engine,
                load_ms,
            };
            let stay = Stay { last_used: Instant::now(), ..stay };
            let described = describe(&name, &resident, &stay, 0);
            let slot = Slot::Resident(resident);
            self.slots.insert(name.clone(), Entry { version, stay, estimate, slot });
            described
        });
        for waiter in waiters {
            // A caller that has gone needs no answer.
            let _ = waiter.done.send(result.clone().map_err(EngineFailure::Engine));
        }
        LoadEnd { name, result: result.map(|_| ()) }
    }
}

impl Loading {
    #[expect(clippy::cast_precision_loss, reason = "a share of the bytes, for people")]
    fn fraction(&self) -> f32 {
        if self.bytes_total == 0 { 0.0 } else { self.bytes_read as f32 / self.bytes_total as f32 }
    }

    /// `Some` when the loader has nothing more to give.
    fn adopt_until(&mut self, ends_at: Instant, wait: Duration) -> Option<Result<(), EngineError>> {
        loop {
            let left = ends_at.saturating_duration_since(Instant::now());
            let item = if wait.is_zero() {
                self.stream.try_next()
            } else {
                self.stream.next_within(wait.min(left))
            }?;
            match item {
                LoadItem::Tensor { tensor, bytes_read, bytes_total } => {
                    if let Err(error) = self.builder.adopt(tensor) {
                        return Some(Err(error));
                    }
                    (self.bytes_read, self.bytes_total) = (bytes_read, bytes_total);
                    self.report();
                }
                LoadItem::Done => return Some(Ok(())),
                LoadItem::Failed(error) => return Some(Err(error)),
            }
            if Instant::now() >= ends_at {
                return None;
            }
        }
    }

    fn report(&self) {
        for waiter in &self.waiters {
            // Progress that finds no room is not missed.
            let _ = waiter.progress.try_send(ProgressEvent::Progress {
                phase: "loading".to_owned(),
                done_bytes: self.bytes_read,
                total_bytes: self.bytes_total,
            });
        }
    }
}

/// Ends the loader thread when the load goes, so that it never reads on for nobody.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn describe(name: &str, resident: &Resident, stay: &Stay, active: usize) -> LoadedModel {
    let info = resident.generator.info();
    LoadedModel {
        name: name.to_owned(),
        engine: resident.engine.to_owned(),
        architecture: info.architecture.clone(),
        weight_bytes: info.weight_bytes,
        kv_bytes: resident.generator.kv_bytes(),
        prompt_cache_bytes: resident.prompt_cache.bytes(),
        context_tokens: resident.generator.capacity().context_tokens,
        active,
        load_ms: resident.load_ms,
        pinned: stay.pinned,
        keep_alive: stay.keep_alive,
        // The reader knows what time it is.
        expires_in_s: None,
    }
}

fn start_load(model: &EngineModel, now: Instant) -> Result<Loading, EngineError> {
    let cancel = Arc::new(AtomicBool::new(false));
    let (engine, builder, stream): (_, Box<dyn Builder>, _) = match &model.weights {
        #[cfg(feature = "mlx")]
        Weights::Gguf(gguf) => {
            let builder = super::mlx::builder(gguf)?;
            let precision = super::mlx::weight_precision();
            ("mlx", builder, loader::spawn(Arc::clone(gguf), precision, Arc::clone(&cancel))?)
        }
        #[cfg(not(feature = "mlx"))]
        Weights::Gguf(gguf) => {
            return Err(EngineError::Unsupported {
                file: gguf.path().to_owned(),
                problem: "this daemon was built without an engine for GGUF files".to_owned(),
            });
        }
        Weights::Sim(config) => {
            let (builder, stream) = sim::load(config.clone(), Arc::clone(&cancel))?;
            ("sim", builder, stream)
        }
    };
    Ok(Loading {
        builder,
        stream,
        _cancel: CancelOnDrop(cancel),
        engine,
        bytes_read: 0,
        bytes_total: 0,
        started_at: now,
        waiters: Vec::new(),
    })
}
