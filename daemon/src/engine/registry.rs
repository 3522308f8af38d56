//! The models in memory: loading, resident, unloaded.
//!
//! Owns every generator and every load under way; lives on the engine thread and is written by the
//! worker only. The one place that names concrete engines. Knows nothing of queues or text, and
//! decides nothing about eviction: it says what each model holds, and drops what it is told to.

mod estimate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ingle_protocol::limits;
use ingle_protocol::wire::models::{EngineKind, LoadedModel, ProgressEvent};
use tokio::sync::{mpsc, oneshot};

pub use self::estimate::{Estimate, estimate};
use super::backend::{Builder, Embedder, EmbedderBuilder, EngineError, Generator, SeqId, Trimmed};
use super::handle::{EngineFailure, EngineModel, Weights, millis};
use super::ledger::Holding;
#[cfg(feature = "mlx")]
use super::loader;
use super::loader::{LoadItem, LoadStream};
use super::memory::{ModelOptions, Stay};
use super::pacing::Pacing;
use super::prompt_cache::{PromptCache, Reuse};
use super::role::Role;
use super::settings::EngineSettings;
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
    engine: EngineKind,
    load_ms: f64,
}

impl Resident {
    /// Opens a sequence for `prompt`: the sequence, and how many of the prompt's tokens it holds
    /// already. It is forked from `reader`, a running one that has read the same prompt, or goes on
    /// from a kept one if that begins alike.
    ///
    /// # Errors
    /// What the generator reports.
    pub fn open(
        &mut self,
        prompt: &[u32],
        reader: Option<SeqId>,
    ) -> Result<(SeqId, usize), EngineError> {
        // The last token is read again, because its logits are wanted.
        let shared = prompt.len().saturating_sub(1);
        let reader = reader.filter(|_| shared > 0);
        if let Some(forked) = reader.and_then(|reader| self.fork(reader, shared)) {
            return Ok((forked, shared));
        }
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
                Err(EngineError::NoCapacity { .. }) if self.give_up_kept() => {}
                opened => return Ok((opened?, 0)),
            }
        }
    }

    /// Closes the kept sequence that has not been used for longest, to make room in the KV cache.
    /// False when none is kept.
    pub fn give_up_kept(&mut self) -> bool {
        let kept = self.prompt_cache.evict();
        if let Some(seq) = kept {
            self.generator.close(seq);
        }
        kept.is_some()
    }

    /// Forks a running sequence, at the cost of kept ones if need be. `None` where the engine
    /// cannot: the prompt is read once more then.
    fn fork(&mut self, reader: SeqId, len: usize) -> Option<SeqId> {
        loop {
            match self.generator.fork(reader, len) {
                Err(EngineError::NoCapacity { .. }) if self.give_up_kept() => {}
                forked => return forked.ok(),
            }
        }
    }

    /// Gives up the least recently used kept sequences.
    pub fn drop_kept(&mut self, sequences: usize) {
        for _ in 0..sequences {
            if !self.give_up_kept() {
                return;
            }
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

/// A model that embeds.
struct ResidentEmbedder {
    embedder: Box<dyn Embedder>,
    engine: EngineKind,
    load_ms: f64,
}

/// What a load ends in.
enum Target {
    Generator(Box<dyn Builder>),
    #[cfg_attr(not(feature = "gguf"), allow(dead_code, reason = "only llama.cpp embeds"))]
    Embedder(Box<dyn EmbedderBuilder>),
}

struct Loading {
    target: Target,
    stream: LoadStream,
    _cancel: CancelOnDrop,
    engine: EngineKind,
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

/// The outcome of a load that has just ended.
pub struct LoadEnd {
    /// The model.
    pub name: String,
    /// What it came to.
    pub result: Result<LoadedModel, EngineError>,
    /// Who waits for it.
    pub waiters: Vec<LoadWaiter>,
}

impl LoadEnd {
    /// Tells those who wait. Only once the status shows the outcome: who hears of a load may ask
    /// for the status next.
    pub fn tell(self) {
        for waiter in self.waiters {
            // A caller that has gone needs no answer.
            let _ = waiter.done.send(self.result.clone().map_err(EngineFailure::Engine));
        }
    }
}

/// The models in memory, by name.
pub struct Registry {
    slots: BTreeMap<String, Entry>,
    settings: EngineSettings,
    /// When a model went last.
    emptied_at: Option<Instant>,
}

impl Registry {
    /// No models yet.
    #[must_use]
    pub fn new(settings: EngineSettings) -> Self {
        Self { slots: BTreeMap::new(), settings, emptied_at: None }
    }

    /// What the engines were told.
    #[must_use]
    pub fn settings(&self) -> &EngineSettings {
        &self.settings
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
        let loading = start_load(model, &self.settings, stay.last_used)?;
        self.set_limits(loading.engine);
        let slot = Slot::Loading(loading);
        let version = model.version.clone();
        self.slots.insert(model.name.clone(), Entry { version, stay, estimate, slot });
        Ok(())
    }

    /// Hands an engine its memory settings. MLX is left alone until a model needs it: if it does
    /// not start, nobody else is harmed.
    fn set_limits(&self, engine: EngineKind) {
        #[cfg(feature = "mlx")]
        if engine == EngineKind::Mlx {
            let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
            let mut limits = super::mlx::Limits::default();
            if let Some(bytes) = self.settings.mlx_cache_bytes {
                limits.cache_bytes = size(bytes);
            }
            limits.wired_bytes = self.settings.mlx_wired_bytes.map(size);
            if let Err(error) = super::mlx::set_limits(limits) {
                tracing::warn!(%error, "a limit of the `mlx` settings could not be set");
            }
        }
        #[cfg(not(feature = "mlx"))]
        let _ = engine;
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
            Slot::Resident(_) | Slot::Embedder(_) => {
                Some((name.as_str(), entry.stay.expires_at()?))
            }
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
            entry => {
                let described = entry.and_then(|entry| entry.describe(name, active));
                // A caller that has gone needs no answer.
                let _ = waiter.done.send(described.ok_or(EngineFailure::Cancelled));
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
    pub fn embedder(&mut self, name: &str) -> Option<&mut dyn Embedder> {
        match self.slots.get_mut(name) {
            Some(Entry { slot: Slot::Embedder(resident), .. }) => Some(&mut *resident.embedder),
            _ => None,
        }
    }

    /// Whether the model can work now.
    #[must_use]
    pub fn is_resident(&self, name: &str) -> bool {
        let slot = self.slots.get(name).map(|entry| &entry.slot);
        matches!(slot, Some(Slot::Resident(_) | Slot::Embedder(_)))
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
            Some(slot @ (Slot::Resident(_) | Slot::Embedder(_))) => {
                drop(slot);
                self.release_memory();
                tracing::info!(model = name, "a model was unloaded");
                true
            }
            None => false,
        }
    }

    /// Tells every engine whether to leave a core to others.
    pub fn share_cores(&mut self, shares: bool) {
        for entry in self.slots.values_mut() {
            if let Slot::Resident(resident) = &mut entry.slot {
                resident.generator.share_cores(shares);
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
            let result = result.and(Err(EngineError::Cancelled));
            return LoadEnd { name, result, waiters: Vec::new() };
        };
        let Loading { target, waiters, engine, started_at, .. } = loading;
        let result = result.and_then(|()| target.finish(engine, started_at));
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

impl Target {
    /// As [`Builder::advance`].
    fn advance(&mut self, has_all: bool) -> Result<bool, EngineError> {
        match self {
            Self::Generator(builder) => builder.advance(has_all),
            Self::Embedder(_) => Ok(true),
        }
    }

    fn finish(self, engine: EngineKind, started_at: Instant) -> Result<Slot, EngineError> {
        Ok(match self {
            Self::Generator(builder) => Slot::Resident(Resident {
                generator: builder.finish()?,
                pacing: Pacing::new(),
                prompt_cache: PromptCache::new(
                    limits::PROMPT_CACHE_SEQUENCES,
                    limits::PROMPT_CACHE_BYTES,
                ),
                engine,
                load_ms: millis(started_at.elapsed()),
            }),
            Self::Embedder(builder) => Slot::Embedder(ResidentEmbedder {
                embedder: builder.finish()?,
                engine,
                load_ms: millis(started_at.elapsed()),
            }),
        })
    }
}

impl Loading {
    #[expect(clippy::cast_precision_loss, reason = "a share of the bytes, for people")]
    fn fraction(&self) -> f32 {
        if self.bytes_total == 0 { 0.0 } else { self.bytes_read as f32 / self.bytes_total as f32 }
    }

    /// `Some` when the loader has nothing more to give and the model is as good as built.
    fn adopt_until(&mut self, ends_at: Instant, wait: Duration) -> Option<Result<(), EngineError>> {
        loop {
            let has_all = self.stream.ended();
            match self.target.advance(has_all) {
                Ok(true) if has_all => return Some(Ok(())),
                Ok(true) => {}
                Ok(false) if Instant::now() >= ends_at => return None,
                Ok(false) => continue,
                Err(error) => return Some(Err(error)),
            }
            let left = ends_at.saturating_duration_since(Instant::now());
            let item = if wait.is_zero() {
                self.stream.try_next()
            } else {
                self.stream.next_within(wait.min(left))
            }?;
            match item {
                LoadItem::Tensor { tensor, bytes_read, bytes_total } => {
                    if let Target::Generator(builder) = &mut self.target
                        && let Err(error) = builder.adopt(tensor)
                    {
                        return Some(Err(error));
                    }
                    (self.bytes_read, self.bytes_total) = (bytes_read, bytes_total);
                    self.report();
                }
                LoadItem::Progress { bytes_read, bytes_total } => {
                    (self.bytes_read, self.bytes_total) = (bytes_read, bytes_total);
                    self.report();
                }
                LoadItem::Done => {}
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

fn start_load(
    model: &EngineModel,
    settings: &EngineSettings,
    now: Instant,
) -> Result<Loading, EngineError> {
    let cancel = Arc::new(AtomicBool::new(false));
    let (target, stream) = match (model.engine, model.role, &model.weights) {
        #[cfg(feature = "gguf")]
        (EngineKind::Gguf, Role::Generates, Weights::Gguf(gguf)) => {
            let (builder, stream) = super::gguf::load(gguf, settings, Arc::clone(&cancel))?;
            (Target::Generator(builder), stream)
        }
        #[cfg(feature = "gguf")]
        (EngineKind::Gguf, Role::Embeds, Weights::Gguf(gguf)) => {
            let (builder, stream) =
                super::gguf::load_embedder(gguf, settings, Arc::clone(&cancel))?;
            (Target::Embedder(builder), stream)
        }
        #[cfg(feature = "mlx")]
        (EngineKind::Mlx, Role::Generates, Weights::Gguf(gguf)) => {
            let builder = super::mlx::builder(gguf)?;
            let precision = super::mlx::weight_precision();
            let stream = loader::spawn(Arc::clone(gguf), precision, Arc::clone(&cancel))?;
            (Target::Generator(builder), stream)
        }
        #[cfg(feature = "mlx")]
        (EngineKind::Mlx, Role::Generates, Weights::Safetensors(folder)) => {
            let builder = super::mlx::folder_builder(folder)?;
            let precision = super::mlx::weight_precision();
            let stream = loader::spawn(Arc::clone(folder), precision, Arc::clone(&cancel))?;
            (Target::Generator(builder), stream)
        }
        (EngineKind::Sim, Role::Generates, Weights::Sim(config)) => {
            let (builder, stream) = sim::load((**config).clone(), Arc::clone(&cancel))?;
            (Target::Generator(builder), stream)
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
        _cancel: CancelOnDrop(cancel),
        engine: model.engine,
        bytes_read: 0,
        bytes_total: 0,
        started_at: now,
        waiters: Vec::new(),
    })
}
