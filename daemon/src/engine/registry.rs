//! The models in memory: loading, resident, unloaded.
//!
//! Owns every generator and every load under way; lives on the engine thread and is written by the
//! worker only. The one place that names concrete engines. Knows nothing of queues or text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ingle_protocol::limits;
use ingle_protocol::wire::models::{EngineKind, LoadedModel, ProgressEvent};
use tokio::sync::{mpsc, oneshot};

use super::backend::{Builder, EngineError, Generator, SeqId, Trimmed};
use super::handle::{EngineFailure, EngineModel, Weights, millis};
#[cfg(feature = "mlx")]
use super::loader;
use super::loader::{LoadItem, LoadStream};
use super::pacing::Pacing;
use super::prompt_cache::{PromptCache, Reuse};
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
                Err(error @ EngineError::NoCapacity { .. }) => {
                    let kept = self.prompt_cache.evict().ok_or(error)?;
                    self.generator.close(kept);
                }
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
                Err(EngineError::NoCapacity { .. }) => {
                    let kept = self.prompt_cache.evict()?;
                    self.generator.close(kept);
                }
                forked => return forked.ok(),
            }
        }
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
    engine: EngineKind,
    bytes_read: u64,
    bytes_total: u64,
    started_at: Instant,
    waiters: Vec<LoadWaiter>,
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
pub struct Registry {
    slots: BTreeMap<String, (String, Slot)>,
    settings: EngineSettings,
}

impl Registry {
    /// No models yet.
    #[must_use]
    pub fn new(settings: EngineSettings) -> Self {
        Self { slots: BTreeMap::new(), settings }
    }

    /// Whether another state of the model's files is in memory under its name.
    #[must_use]
    pub fn is_other_version(&self, model: &EngineModel) -> bool {
        self.slots.get(&model.name).is_some_and(|(version, _)| *version != model.version)
    }

    /// Makes a model resident or joins the load under way: one load for any number of callers.
    ///
    /// # Errors
    /// When the model's header shows that it cannot be loaded.
    pub fn ensure(&mut self, model: &EngineModel, now: Instant) -> Result<(), EngineError> {
        if !self.slots.contains_key(&model.name) {
            let loading = start_load(model, &self.settings, now)?;
            self.slots.insert(model.name.clone(), (model.version.clone(), Slot::Loading(loading)));
        }
        Ok(())
    }

    /// Tells `waiter` of the load's progress and outcome, or at once that the model is resident.
    pub fn wait_for(&mut self, name: &str, waiter: LoadWaiter, active: usize) {
        match self.slots.get_mut(name) {
            Some((_, Slot::Loading(loading))) => loading.waiters.push(waiter),
            Some((_, Slot::Resident(resident))) => {
                // A caller that has gone needs no answer.
                let _ = waiter.done.send(Ok(describe(name, resident, active)));
            }
            None => {
                let _ = waiter.done.send(Err(EngineFailure::Cancelled));
            }
        }
    }

    /// The resident model of that name.
    pub fn resident(&mut self, name: &str) -> Option<&mut Resident> {
        match self.slots.get_mut(name) {
            Some((_, Slot::Resident(resident))) => Some(resident),
            _ => None,
        }
    }

    /// Whether the model can generate now.
    #[must_use]
    pub fn is_resident(&self, name: &str) -> bool {
        matches!(self.slots.get(name), Some((_, Slot::Resident(_))))
    }

    /// Drops a model, or cancels its load, whose waiters hear `failure`. Whether there was one.
    pub fn unload(&mut self, name: &str, failure: &EngineFailure) -> bool {
        match self.slots.remove(name) {
            Some((_, Slot::Loading(loading))) => {
                for waiter in loading.waiters {
                    // A caller that has gone needs no answer.
                    let _ = waiter.done.send(Err(failure.clone()));
                }
                true
            }
            Some((_, Slot::Resident(_))) => {
                tracing::info!(model = name, "a model was unloaded");
                true
            }
            None => false,
        }
    }

    /// The first load under way: model and share of its bytes in place.
    #[must_use]
    pub fn loading(&self) -> Option<(&str, f32)> {
        self.slots.iter().find_map(|(name, (_, slot))| match slot {
            Slot::Loading(loading) => Some((name.as_str(), loading.fraction())),
            Slot::Resident(_) => None,
        })
    }

    /// The share of `name`'s bytes in place, if it is being loaded.
    #[must_use]
    pub fn loading_fraction(&self, name: &str) -> Option<f32> {
        match self.slots.get(name) {
            Some((_, Slot::Loading(loading))) => Some(loading.fraction()),
            _ => None,
        }
    }

    /// Names of the models being loaded.
    #[must_use]
    pub fn loading_names(&self) -> Vec<String> {
        let names = self.slots.iter().filter(|(_, (_, slot))| matches!(slot, Slot::Loading(_)));
        names.map(|(name, _)| name.clone()).collect()
    }

    /// What is resident; `active` counts a model's running generations.
    pub fn describe(&self, active: impl Fn(&str) -> usize) -> Vec<LoadedModel> {
        let residents = self.slots.iter().filter_map(|(name, (_, slot))| match slot {
            Slot::Resident(resident) => Some(describe(name, resident, active(name))),
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
            let Some((_, Slot::Loading(loading))) = self.slots.get_mut(&name) else { continue };
            let result = loading.adopt_until(ends_at, wait);
            if let Some(result) = result {
                ended.push(self.end_load(name, result));
            }
        }
        ended
    }

    fn end_load(&mut self, name: String, result: Result<(), EngineError>) -> LoadEnd {
        let Some((version, Slot::Loading(loading))) = self.slots.remove(&name) else {
            return LoadEnd { name, result };
        };
        let Loading { builder, waiters, engine, started_at, .. } = loading;
        let result = result.and_then(|()| builder.finish()).map(|generator| {
            let load_ms = millis(started_at.elapsed());
            tracing::info!(model = name, %engine, load_ms, "a model was loaded");
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
            let described = describe(&name, &resident, 0);
            self.slots.insert(name.clone(), (version, Slot::Resident(resident)));
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
                LoadItem::Progress { bytes_read, bytes_total } => {
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

fn describe(name: &str, resident: &Resident, active: usize) -> LoadedModel {
    let info = resident.generator.info();
    LoadedModel {
        name: name.to_owned(),
        engine: resident.engine.as_str().to_owned(),
        architecture: info.architecture.clone(),
        weight_bytes: info.weight_bytes,
        kv_bytes: resident.generator.kv_bytes(),
        context_tokens: resident.generator.capacity().context_tokens,
        active,
        load_ms: resident.load_ms,
    }
}

fn start_load(
    model: &EngineModel,
    settings: &EngineSettings,
    now: Instant,
) -> Result<Loading, EngineError> {
    let cancel = Arc::new(AtomicBool::new(false));
    let (builder, stream): (Box<dyn Builder>, _) = match (model.engine, &model.weights) {
        #[cfg(feature = "gguf")]
        (EngineKind::Gguf, Weights::Gguf(gguf)) => {
            super::gguf::load(gguf, settings, Arc::clone(&cancel))?
        }
        #[cfg(feature = "mlx")]
        (EngineKind::Mlx, Weights::Gguf(gguf)) => {
            let builder = super::mlx::builder(gguf)?;
            let precision = super::mlx::weight_precision();
            (builder, loader::spawn(Arc::clone(gguf), precision, Arc::clone(&cancel))?)
        }
        #[cfg(feature = "mlx")]
        (EngineKind::Mlx, Weights::Safetensors(folder)) => {
            let builder = super::mlx::folder_builder(folder)?;
            let precision = super::mlx::weight_precision();
            (builder, loader::spawn(Arc::clone(folder), precision, Arc::clone(&cancel))?)
        }
        (EngineKind::Sim, Weights::Sim(config)) => {
            sim::load((**config).clone(), Arc::clone(&cancel))?
        }
        (engine, weights) => {
            let problem = format!("the engine `{engine}` of this daemon cannot run it");
            let file = weights.path().to_owned();
            return Err(EngineError::Unsupported { file, problem });
        }
    };
    tracing::debug!(model = model.name, engine = %model.engine, ?settings, "a load starts");
    Ok(Loading {
        builder,
        stream,
        _cancel: CancelOnDrop(cancel),
        engine: model.engine,
        bytes_read: 0,
        bytes_total: 0,
        started_at: now,
        waiters: Vec::new(),
    })
}
