//! Memory ledger: the holdings of all models, and the evictions that a new need requires.
//!
//! Owns the sum against the budget and the order of eviction: kept sequences first, then idle
//! models by last use; never a model that is in use, being loaded or pinned. Pure policy: it evicts
//! nothing itself, does no I/O and reads no clock. The scheduler fills it from the engines' own
//! numbers for each decision, so that it cannot drift from them.

use std::fmt::Write as _;
use std::time::Instant;

/// The memory of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The model.
    pub model: String,
    /// Bytes held as long as the model is loaded: weights and the engine's overhead.
    ///
    /// While the model is being loaded, the maximum of the load.
    pub weights: u64,
    /// Bytes reserved for its running sequences, up to their last tokens.
    pub running: u64,
    /// Bytes of each kept sequence of its prompt cache, least recently used first.
    pub kept: Vec<u64>,
    /// Requests that run on it, and the waiting ones that protect it.
    pub active: usize,
    /// Whether it is being loaded.
    pub loading: bool,
    /// Whether it is never evicted.
    pub pinned: bool,
    /// When it was last used.
    pub last_used: Instant,
}

impl Holding {
    fn total(&self) -> u64 {
        self.weights.saturating_add(self.running).saturating_add(sum(&self.kept))
    }

    fn is_evictable(&self) -> bool {
        self.active == 0 && !self.loading && !self.pinned && self.total() > 0
    }
}

/// A need for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed<'a> {
    /// The model that needs it; it is never unloaded for its own need.
    pub model: &'a str,
    /// Bytes needed.
    pub bytes: u64,
}

/// One eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvictionStep {
    /// Drop the least recently used sequences of a prompt cache.
    DropKept {
        /// The model of the prompt cache.
        model: String,
        /// Number of sequences.
        sequences: usize,
        /// Bytes freed.
        bytes: u64,
    },
    /// Unload an idle model.
    Unload {
        /// The model.
        model: String,
        /// Bytes freed.
        bytes: u64,
    },
}

/// The answer to a need for memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryPlan {
    /// It fits after these evictions.
    Fits(Vec<EvictionStep>),
    /// It will fit when models in use have become idle.
    Wait(Shortage),
    /// It cannot fit with the present budget and pinned models.
    Never(Shortage),
}

/// Why a need does not fit, with numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The model that needs memory.
    pub model: String,
    /// Bytes needed.
    pub needed_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// The budget, in bytes.
    pub budget_bytes: u64,
    /// The models that hold the rest.
    pub holders: Vec<Holder>,
}

/// One model in a [`Shortage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The model.
    pub model: String,
    /// Bytes it holds.
    pub bytes: u64,
    /// Its state, which shows why it is not evicted.
    pub state: &'static str,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut holders = String::new();
        for holder in &self.holders {
            let _ = write!(
                holders,
                "; `{}` holds {} ({})",
                holder.model,
                human(holder.bytes),
                holder.state
            );
        }
        write!(
            formatter,
            "`{}` needs {} of memory, and {} of the budget of {} is free{holders}",
            self.model,
            human(self.needed_bytes),
            human(self.free_bytes),
            human(self.budget_bytes)
        )
    }
}

/// The budget and the holdings of all models at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    budget_bytes: u64,
    holdings: Vec<Holding>,
}

impl Ledger {
    /// The ledger of these holdings.
    #[must_use]
    pub fn new(budget_bytes: u64, holdings: Vec<Holding>) -> Self {
        Self { budget_bytes, holdings }
    }

    /// Bytes held by all models.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.holdings.iter().fold(0, |used, holding| used.saturating_add(holding.total()))
    }

    /// Bytes free.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.used_bytes())
    }

    /// The budget.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Removes a model that the need is to replace, and returns the bytes it held.
    pub fn leave_out(&mut self, model: &str) -> Option<u64> {
        let index = self.holdings.iter().position(|holding| holding.model == model)?;
        Some(self.holdings.remove(index).total())
    }

    /// Makes a kept sequence the model's most recent one, because a new sequence will fork it.
    pub fn use_kept(&mut self, model: &str, index: usize) {
        let own = self.holdings.iter_mut().find(|holding| holding.model == model);
        if let Some(own) = own.filter(|own| index < own.kept.len()) {
            own.kept[index..].rotate_left(1);
        }
    }

    /// Counts a kept sequence as running, because a new request will continue it.
    ///
    /// Returns its bytes.
    pub fn take_over(&mut self, model: &str, index: usize) -> u64 {
        let own = self.holdings.iter_mut().find(|holding| holding.model == model);
        let Some(own) = own.filter(|own| index < own.kept.len()) else { return 0 };
        let bytes = own.kept.remove(index);
        own.running = own.running.saturating_add(bytes);
        bytes
    }

    /// Plans the evictions for `need`.
    #[must_use]
    pub fn plan(&self, need: MemoryNeed<'_>) -> MemoryPlan {
        let missing =
            self.used_bytes().saturating_add(need.bytes).saturating_sub(self.budget_bytes);
        if missing == 0 {
            return MemoryPlan::Fits(Vec::new());
        }
        let mut eviction = EvictionPlanner::default();
        eviction.drop_kept(&self.by_last_use(need.model, |_| true), missing);
        let idle = self.by_last_use(need.model, Holding::is_evictable);
        eviction.unload(idle.into_iter().filter(|idle| idle.model != need.model), missing);
        if eviction.freed < missing {
            return self.refuse(need);
        }
        eviction.spare(missing);
        MemoryPlan::Fits(eviction.steps())
    }

    /// Holdings that are `wanted`, least recently used first; those of model `own` come last.
    fn by_last_use(&self, own: &str, wanted: impl Fn(&Holding) -> bool) -> Vec<&Holding> {
        let mut holdings: Vec<_> = self.holdings.iter().filter(|holding| wanted(holding)).collect();
        holdings.sort_by_key(|holding| (holding.model == own, holding.last_used));
        holdings
    }

    fn refuse(&self, need: MemoryNeed<'_>) -> MemoryPlan {
        // All other memory is freed sooner or later, when its requests end.
        let stays =
            self.holdings.iter().filter(|holding| holding.pinned || holding.model == need.model);
        let stays = stays.fold(0_u64, |stays, holding| stays.saturating_add(holding.weights));
        let shortage = self.shortage(need);
        if stays.saturating_add(need.bytes) <= self.budget_bytes {
            MemoryPlan::Wait(shortage)
        } else {
            MemoryPlan::Never(shortage)
        }
    }

    fn shortage(&self, need: MemoryNeed<'_>) -> Shortage {
        let holders = self.holdings.iter().map(|holding| Holder {
            model: holding.model.clone(),
            bytes: holding.total(),
            state: match holding {
                Holding { loading: true, .. } => "being loaded",
                Holding { active: 1.., .. } => "in use",
                Holding { pinned: true, .. } => "pinned",
                _ => "idle",
            },
        });
        Shortage {
            model: need.model.to_owned(),
            needed_bytes: need.bytes,
            free_bytes: self.free_bytes(),
            budget_bytes: self.budget_bytes,
            holders: holders.collect(),
        }
    }
}

/// Builds the list of evictions.
#[derive(Debug, Default)]
struct EvictionPlanner<'a> {
    freed: u64,
    /// Kept sequences in the order in which they are dropped.
    dropped: Vec<(&'a Holding, u64)>,
    unloaded: Vec<&'a Holding>,
}

impl<'a> EvictionPlanner<'a> {
    fn drop_kept(&mut self, holdings: &[&'a Holding], missing: u64) {
        for holding in holdings {
            for &bytes in &holding.kept {
                if self.freed >= missing {
                    return;
                }
                self.freed = self.freed.saturating_add(bytes);
                self.dropped.push((holding, bytes));
            }
        }
    }

    fn unload(&mut self, idle: impl Iterator<Item = &'a Holding>, missing: u64) {
        for holding in idle {
            if self.freed >= missing {
                return;
            }
            let is_own = |(owner, _): &&(&Holding, u64)| owner.model == holding.model;
            let dropped: Vec<u64> =
                self.dropped.iter().filter(is_own).map(|(_, bytes)| *bytes).collect();
            self.freed = self.freed.saturating_add(holding.total()).saturating_sub(sum(&dropped));
            self.unloaded.push(holding);
            self.dropped.retain(|(owner, _)| owner.model != holding.model);
        }
    }

    /// Takes back kept sequences that need not be dropped after all.
    ///
    /// An unloaded model may free so much that other prompt caches can stay. Of one cache the most
    /// recently used sequences are taken back first.
    fn spare(&mut self, missing: u64) {
        let mut kept_going: Vec<&str> = Vec::new();
        for index in (0..self.dropped.len()).rev() {
            let (holding, bytes) = self.dropped[index];
            if kept_going.contains(&holding.model.as_str()) {
                continue;
            }
            if self.freed.saturating_sub(bytes) >= missing {
                self.freed = self.freed.saturating_sub(bytes);
                self.dropped.remove(index);
            } else {
                kept_going.push(&holding.model);
            }
        }
    }

    fn steps(self) -> Vec<EvictionStep> {
        let mut steps: Vec<EvictionStep> = Vec::new();
        for (holding, more) in self.dropped {
            match steps.last_mut() {
                Some(EvictionStep::DropKept { model, sequences, bytes })
                    if *model == holding.model =>
                {
                    *sequences += 1;
                    *bytes = bytes.saturating_add(more);
                }
                _ => steps.push(EvictionStep::DropKept {
                    model: holding.model.clone(),
                    sequences: 1,
                    bytes: more,
                }),
            }
        }
        let unloads = self.unloaded.into_iter();
        steps.extend(unloads.map(|holding| EvictionStep::Unload {
            model: holding.model.clone(),
            bytes: holding.total(),
        }));
        steps
    }
}

fn sum(bytes: &[u64]) -> u64 {
    bytes.iter().fold(0, |sum, &bytes| sum.saturating_add(bytes))
}

/// Formats bytes for people.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "rounded to two digits anyway")]
pub fn human(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests;
