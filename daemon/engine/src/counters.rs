//! Engine counters: what the engine thread counts for the metrics.
//!
//! Owns plain atomics. The engine thread writes them, the metrics read them, and neither waits for
//! the other. A token costs two or three relaxed additions. Does not know the metrics format.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::limits;
use ingle_protocol::wire::models::EngineKind;

use crate::histogram::{Histogram, LOADS, TOKENS, WAITS};

/// Name of all models past [`limits::COUNTED_MODELS`].
pub const OTHER_MODELS: &str = "other";

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

labelled! {
    /// How a load ended.
    LoadOutcome {
        /// The model is in memory.
        Loaded = "ok",
        /// The load failed.
        Failed = "error",
        /// No caller waited any more, or the model was unloaded during the load.
        Cancelled = "cancelled",
    }
}

labelled! {
    /// Why a model was unloaded.
    UnloadReason {
        /// Another model needed its memory.
        Memory = "memory",
        /// Its keep-alive ran out.
        Idle = "idle",
        /// A client requested it.
        Requested = "asked",
        /// Its files have changed, or it will run on another engine.
        Replaced = "replaced",
    }
}

labelled! {
    /// The activity of the engine thread.
    Activity {
        /// Passes that read prompt tokens; they may sample tokens too.
        Prefill = "prefill",
        /// Passes that only sample tokens.
        Decode = "decode",
        /// Embeddings.
        Embed = "embed",
    }
}

/// A monotonic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one model.
#[derive(Debug)]
pub struct ModelCounters {
    /// The model, as the engine knows it.
    pub model: String,
    /// The engine that runs it.
    pub engine: EngineKind,
    /// Time from a request's acceptance to its first token.
    pub ttft: Histogram,
    /// Time from a request's admission to its first token.
    pub prefill: Histogram,
    /// Time between two tokens of a sequence, when they are sampled.
    pub inter_token: Histogram,
    /// Prompt tokens read, those of embedded texts included.
    pub read_tokens: Counter,
    /// Prompt tokens reused from a kept sequence.
    pub cached_tokens: Counter,
    /// Tokens generated, end tokens included.
    pub generated_tokens: Counter,
}

impl ModelCounters {
    fn new(model: &str, engine: EngineKind) -> Self {
        Self {
            model: model.to_owned(),
            engine,
            ttft: Histogram::new(WAITS),
            prefill: Histogram::new(WAITS),
            inter_token: Histogram::new(TOKENS),
            read_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generated_tokens: Counter::default(),
        }
    }
}

/// All counters of the engine thread.
#[derive(Debug)]
pub struct EngineCounters {
    /// Time from a request's acceptance to its admission, without its model's load.
    pub queue_wait: Histogram,
    /// Duration of successful loads.
    pub load_time: Histogram,
    /// Kept sequences dropped to stay within the budget.
    pub kept_dropped: Counter,
    loads: [Counter; LoadOutcome::ALL.len()],
    unloads: [Counter; UnloadReason::ALL.len()],
    busy_ns: [Counter; Activity::ALL.len()],
    models: Mutex<Vec<Arc<ModelCounters>>>,
}

impl Default for EngineCounters {
    fn default() -> Self {
        Self {
            queue_wait: Histogram::new(WAITS),
            load_time: Histogram::new(LOADS),
            kept_dropped: Counter::default(),
            loads: Default::default(),
            unloads: Default::default(),
            busy_ns: Default::default(),
            models: Mutex::default(),
        }
    }
}

impl EngineCounters {
    /// The counters of a model.
    ///
    /// They stay after the model is unloaded, so that no counter ever decreases. Past
    /// [`limits::COUNTED_MODELS`] all other models share one set.
    #[must_use]
    pub fn of(&self, model: &str, engine: EngineKind) -> Arc<ModelCounters> {
        // Held for a search or a copy, never across work.
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |models: &[Arc<ModelCounters>], name: &str| {
            let is_it = |known: &&Arc<ModelCounters>| known.model == name && known.engine == engine;
            models.iter().find(is_it).cloned()
        };
        if let Some(known) = find(&models, model) {
            return known;
        }
        let has_room = models.len() < limits::COUNTED_MODELS;
        let name = if has_room { model } else { OTHER_MODELS };
        find(&models, name).unwrap_or_else(|| {
            let counters = Arc::new(ModelCounters::new(name, engine));
            models.push(Arc::clone(&counters));
            counters
        })
    }

    /// Every model's counters.
    #[must_use]
    pub fn models(&self) -> Vec<Arc<ModelCounters>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the end of a load.
    pub fn load_ended(&self, outcome: LoadOutcome) {
        self.loads[outcome as usize].add(1);
    }

    /// Number of ended loads, by outcome.
    pub fn loads(&self) -> impl Iterator<Item = (LoadOutcome, u64)> {
        LoadOutcome::ALL.iter().copied().zip(self.loads.iter().map(Counter::get))
    }

    /// Counts an unloaded model.
    pub fn unloaded(&self, reason: UnloadReason) {
        self.unloads[reason as usize].add(1);
    }

    /// Number of unloaded models, by reason.
    pub fn unloads(&self) -> impl Iterator<Item = (UnloadReason, u64)> {
        UnloadReason::ALL.iter().copied().zip(self.unloads.iter().map(Counter::get))
    }

    /// Adds compute time of the engine thread.
    pub fn busy(&self, activity: Activity, time: Duration) {
        self.busy_ns[activity as usize].add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Compute time of the engine thread, by activity.
    pub fn busy_times(&self) -> impl Iterator<Item = (Activity, Duration)> {
        let times = self.busy_ns.iter().map(|time| Duration::from_nanos(time.get()));
        Activity::ALL.iter().copied().zip(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_bounded_and_complete() {
        let counters = EngineCounters::default();
        let models = limits::COUNTED_MODELS as u64 + 10;
        for round in 0..2 {
            for index in 0..models {
                let model = counters.of(&format!("m{index}"), EngineKind::Sim);
                model.generated_tokens.add(1);
                assert_eq!(model.model == OTHER_MODELS, index >= models - 10, "{round} {index}");
            }
        }
        counters.of("m0", EngineKind::Mlx).generated_tokens.add(1);
        let all = counters.models();
        assert!(all.len() <= limits::COUNTED_MODELS + EngineKind::ALL.len());
        let tokens: u64 = all.iter().map(|model| model.generated_tokens.get()).sum();
        assert_eq!(tokens, 2 * models + 1);
    }
}
