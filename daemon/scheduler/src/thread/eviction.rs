//! Memory: keeps loads and running sequences within the budget, by eviction and waiting.
//!
//! Owns the reservations (a load's estimate, a sequence's KV cache up to its last token), the
//! protection of models from eviction, and expiry. Does not decide what is evicted: `ledger` does.

use std::time::{Duration, Instant};

use ingle_protocol::wire::models::{Eviction, Fit, LoadEstimate};

use super::loads::is_long;
use super::{Scheduler, first_choice};
use crate::admission::Arrival;
use crate::command::GenerateRequest;
use crate::error::EngineFailure;
use crate::ledger::{EvictionStep, Ledger, MemoryNeed, MemoryPlan};
use crate::memory::{ModelOptions, Retention};
use crate::registry::Registry;
use crate::sequence::{QueuedRequest, Sequence};
use ingle_engine::counters::{LoadOutcome, UnloadReason};
use ingle_engine::model::EngineModel;

/// Which waiting requests protect their models from eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// All of them.
    All,
    /// Those that arrived before this request.
    Before(Arrival),
}

impl Protection {
    /// Whether the request that came at `arrival` keeps its model.
    pub(super) fn protects(self, arrival: Arrival) -> bool {
        match self {
            Self::All => true,
            Self::Before(own) => arrival < own,
        }
    }
}

/// Whether a model has memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Residence {
    /// The model is in memory or being loaded.
    Granted,
    /// The model waits for memory that models in use hold.
    Awaited,
}

/// Maximum number of tokens that a request's sequence can hold.
pub(super) fn reserved_tokens(request: &GenerateRequest, context_tokens: usize) -> usize {
    request.prompt.len().saturating_add(request.max_tokens).min(context_tokens)
}

/// Bytes reserved for a running sequence, up to its last token.
fn running_bytes(registry: &Registry, sequence: &Sequence) -> u64 {
    let Some(resident) = registry.resident(&sequence.request.model.name) else { return 0 };
    let generator = &resident.generator;
    let per_token = generator.kv_bytes_per_token();
    if per_token == 0 {
        return 0;
    }
    let tokens = reserved_tokens(&sequence.request, generator.capacity().context_tokens);
    per_token.saturating_mul(tokens as u64).max(generator.bytes(sequence.seq))
}

impl Scheduler {
    /// The present holdings of all models.
    pub(super) fn ledger(&self, protection: Protection) -> Ledger {
        let mut holdings = self.registry.holdings();
        for holding in &mut holdings {
            holding.active = self.protectors(&holding.model, protection).requests();
            let mine = |sequence: &&Sequence| sequence.request.model.name == holding.model;
            for sequence in self.running.iter().filter(mine) {
                let bytes = running_bytes(&self.registry, sequence);
                holding.running = holding.running.saturating_add(bytes);
            }
        }
        Ledger::new(self.budget_bytes, holdings)
    }

    /// The requests that are protected from eviction by work that came at `arrival`.
    ///
    /// Work that has waited long for memory, since `since`, may evict models that only later
    /// requests wait for. So may any work when nothing runs that could free memory.
    pub(super) fn protection(
        &self,
        arrival: Arrival,
        since: Option<Instant>,
        now: Instant,
    ) -> Protection {
        let nothing_moves = self.running.is_empty()
            && self.registry.loading().is_none()
            && self.next_embed_job(now).is_none();
        if nothing_moves || since.is_some_and(|since| is_long(since, now)) {
            Protection::Before(arrival)
        } else {
            Protection::All
        }
    }

    /// Executes the steps of a memory plan.
    pub(super) fn evict(&mut self, steps: &[EvictionStep]) {
        for step in steps {
            match step {
                EvictionStep::DropKept { model, sequences, bytes } => {
                    tracing::debug!(model, sequences, bytes, "kept sequences evicted");
                    if let Some(resident) = self.registry.resident_mut(model) {
                        resident.drop_kept(*sequences);
                        self.status.counters().kept_dropped.add(*sequences as u64);
                    }
                }
                EvictionStep::Unload { model, bytes } => {
                    tracing::info!(model, bytes, "idle model evicted");
                    self.drop_model(model, UnloadReason::Memory, &EngineFailure::Cancelled);
                }
            }
        }
    }

    /// Starts the model's load if there is memory for it and for `sequence_tokens` of KV cache.
    ///
    /// Another version of the model is unloaded for it, if no request needs that version.
    pub(super) fn make_resident(
        &mut self,
        model: &EngineModel,
        sequence_tokens: usize,
        asked: ModelOptions,
        protection: Protection,
        now: Instant,
    ) -> Result<Residence, EngineFailure> {
        if self.registry.holds(model) {
            return Ok(Residence::Granted);
        }
        if let Some(failure) = self.conflict(model) {
            return Err(failure);
        }
        let estimate = self.registry.estimate(model);
        // Staging memory is freed before the first sequence grows, so the larger of the two counts.
        let extra = estimate.staging.max(estimate.growth(sequence_tokens));
        let bytes = estimate.loaded_bytes().saturating_add(extra);
        let mut ledger = self.ledger(protection);
        ledger.leave_out(&model.name);
        match ledger.plan(MemoryNeed { model: &model.name, bytes }) {
            MemoryPlan::Fits(steps) => {
                let retention = match self.registry.retention(&model.name) {
                    // Keep-alive and pin do not depend on the version.
                    Some(mut retention) => {
                        retention.change(asked);
                        Retention { last_used: now, ..retention }
                    }
                    None => self.memory.retention(&model.name, asked, now),
                };
                // The load starts before anything is evicted: a model whose header shows that it
                // cannot be loaded must not cost other models their memory.
                self.journal.adopts();
                self.journal.load_begins(model);
                let other = self.registry.is_other_version(model);
                let was_resident = self.registry.is_resident(&model.name);
                if let Err(error) = self.registry.start(model, estimate, retention) {
                    self.status.counters().load_ended(LoadOutcome::Failed);
                    return Err(error.into());
                }
                if other {
                    self.count_departure(was_resident, UnloadReason::Replaced);
                }
                self.evict(&steps);
                Ok(Residence::Granted)
            }
            MemoryPlan::Wait(_) => Ok(Residence::Awaited),
            MemoryPlan::Never(shortage) => {
                Err(EngineFailure::InsufficientMemory(Box::new(shortage)))
            }
        }
    }

    /// The refusal of this version of a model while requests need another version.
    pub(super) fn conflict(&self, model: &EngineModel) -> Option<EngineFailure> {
        let active = self.rivals(model).total();
        (active > 0).then(|| EngineFailure::Busy { model: model.name.clone(), active })
    }

    /// The refusal of a model in quarantine.
    pub(super) fn quarantined(&self, model: &EngineModel) -> Option<EngineFailure> {
        let deaths = Box::new(self.journal.refused(model)?.clone());
        Some(EngineFailure::Quarantined { model: model.name.clone(), deaths })
    }

    /// Removes the next request to admit from the queue, and frees the memory it needs.
    ///
    /// It is the first request with a resident model and memory, while capacity is free. `None`
    /// when there is none. A failure concerns this request only.
    pub(super) fn next_admitted(
        &mut self,
        now: Instant,
    ) -> Option<(QueuedRequest, Result<(), EngineFailure>)> {
        let barrier = self.admission_barrier(now);
        let mut blocked = Vec::new();
        let mut chosen = MemoryPlan::Fits(Vec::new());
        let next = self.waiting.next(self.running.len(), |index, waiting| {
            let name = &waiting.request.model.name;
            // Further choices of a running request pass the barrier: their W runs already.
            if !waiting.has_begun() && barrier.is_some_and(|last| last < waiting.arrival) {
                return false;
            }
            // Further choices fork the first one's KV cache, once it holds the prompt.
            let is_read =
                first_choice(&self.running, &waiting.request).is_none_or(Sequence::has_read_prompt);
            // At most one request a model waits for memory; those behind it keep their order.
            let is_first = !blocked.iter().any(|(_, model)| model == name);
            if is_first && is_read && self.registry.is_ready(&waiting.request.model) {
                let plan = self.plan_admission(waiting, now);
                if !matches!(plan, MemoryPlan::Wait(_)) {
                    chosen = plan;
                    return true;
                }
                blocked.push((index, name.clone()));
            }
            false
        });
        for (index, _) in blocked {
            if let Some(waiting) = self.waiting.iter_mut().nth(index) {
                waiting.note_memory_wait(true, now);
            }
        }
        let waiting = self.waiting.remove(next?)?;
        if let Some(failure) = self.unknown_token(&waiting.request) {
            return Some((waiting, Err(failure)));
        }
        let admitted = match chosen {
            MemoryPlan::Fits(steps) => {
                // The kept sequence that it reuses must not be among those evicted for it.
                if first_choice(&self.running, &waiting.request).is_none()
                    && let Some(resident) = self.registry.resident_mut(&waiting.request.model.name)
                {
                    resident.prefer(&waiting.request.prompt);
                }
                // Evictions are logged for the request that needs the memory.
                waiting.request.span.in_scope(|| self.evict(&steps));
                Ok(())
            }
            MemoryPlan::Wait(shortage) | MemoryPlan::Never(shortage) => {
                Err(EngineFailure::InsufficientMemory(Box::new(shortage)))
            }
        };
        Some((waiting, admitted))
    }

    /// The refusal of a prompt with a token outside the model's vocabulary.
    ///
    /// Such a token would fail the pass for all sequences in it.
    fn unknown_token(&self, request: &GenerateRequest) -> Option<EngineFailure> {
        let model = &request.model.name;
        let vocab_size = self.registry.resident(model)?.generator.info().vocab_size;
        let is_unknown = |token: &&u32| usize::try_from(**token).is_ok_and(|id| id >= vocab_size);
        let token = *request.prompt.iter().find(is_unknown)?;
        Some(EngineFailure::UnknownToken { model: model.clone(), token, vocab_size })
    }

    /// The evictions for the KV cache of a waiting request, up to its last token.
    fn plan_admission(&self, waiting: &QueuedRequest, now: Instant) -> MemoryPlan {
        let model = &waiting.request.model.name;
        let Some(resident) = self.registry.resident(model) else {
            return MemoryPlan::Fits(Vec::new());
        };
        let tokens =
            reserved_tokens(&waiting.request, resident.generator.capacity().context_tokens);
        let bytes = resident.generator.kv_bytes_per_token().saturating_mul(tokens as u64);
        if bytes == 0 {
            return MemoryPlan::Fits(Vec::new());
        }
        let protection = self.protection(waiting.arrival, waiting.memory_since, now);
        let mut ledger = self.ledger(protection);
        // A further choice forks the first one and does not use kept sequences.
        let is_further = first_choice(&self.running, &waiting.request).is_some();
        let reusable_kept = resident.reusable_kept(&waiting.request.prompt);
        let brought = match reusable_kept.filter(|_| !is_further) {
            Some((kept, true)) => ledger.take_over(model, kept),
            Some((kept, false)) => {
                ledger.use_kept(model, kept);
                0
            }
            None => 0,
        };
        ledger.plan(MemoryNeed { model, bytes: bytes.saturating_sub(brought) })
    }

    /// Unloads models whose keep-alive has run out, and cancels loads without a waiter.
    pub(super) fn expire(&mut self, now: Instant) {
        let expired = self.expiries().into_iter().filter(|(_, at)| *at <= now);
        for (name, _) in expired.collect::<Vec<_>>() {
            tracing::info!(model = name, "keep-alive of an idle model has run out");
            self.drop_model(&name, UnloadReason::Idle, &EngineFailure::Cancelled);
        }
        if self.running.is_empty() && self.registry.trim_due().is_some_and(|at| at <= now) {
            self.registry.trim();
        }
        for name in self.registry.loading_names() {
            if self.demand(&name).total() == 0 {
                tracing::info!(model = name, "load without waiters cancelled");
                self.drop_model(&name, UnloadReason::Idle, &EngineFailure::Cancelled);
            }
        }
    }

    /// When each idle model expires.
    pub(super) fn expiries(&self) -> Vec<(String, Instant)> {
        let is_idle = |name: &str| self.demand(name).requests() == 0;
        let expiries = self.registry.expiries().filter(|(name, _)| is_idle(name));
        expiries.map(|(name, at)| (name.to_owned(), at)).collect()
    }

    /// Maximum sleep of an idle thread: until the next expiry or heap trim.
    pub(super) fn idle_limit(&self, now: Instant) -> Duration {
        /// The limit when nothing expires; a command wakes the thread at once.
        const LONG: Duration = Duration::from_secs(24 * 60 * 60);
        let expiries = self.expiries().into_iter().map(|(_, at)| at);
        let next = expiries.chain(self.registry.trim_due()).min();
        next.map_or(LONG, |at| at.saturating_duration_since(now)).min(LONG)
    }

    /// Memory and evictions that a load of `model` would need.
    pub(super) fn estimate(&self, model: &EngineModel) -> LoadEstimate {
        let estimate = self.registry.estimate(model);
        let ledger = self.ledger(Protection::All);
        let is_loaded = self.registry.holds(model);
        let need = MemoryNeed { model: &model.name, bytes: estimate.load_bytes() };
        let mut replaced = None;
        let plan = if is_loaded {
            MemoryPlan::Fits(Vec::new())
        } else {
            let mut ledger = ledger.clone();
            replaced = ledger.leave_out(&model.name);
            ledger.plan(need)
        };
        // Another version of the model is unloaded too.
        let replaced =
            replaced.map(|bytes| EvictionStep::Unload { model: model.name.clone(), bytes });
        let plan = match plan {
            MemoryPlan::Fits(steps) => {
                MemoryPlan::Fits(replaced.into_iter().chain(steps).collect())
            }
            refused => refused,
        };
        let (fit, steps, shortage) = match plan {
            MemoryPlan::Fits(steps) if steps.is_empty() => (Fit::Now, steps, None),
            MemoryPlan::Fits(steps) => (Fit::AfterEvictions, steps, None),
            MemoryPlan::Wait(shortage) => (Fit::WhenIdle, Vec::new(), Some(shortage)),
            MemoryPlan::Never(shortage) => (Fit::Never, Vec::new(), Some(shortage)),
        };
        let evictions = steps.into_iter().map(|step| match step {
            EvictionStep::DropKept { model, bytes, .. } => {
                Eviction { model, unloads: false, bytes }
            }
            EvictionStep::Unload { model, bytes } => Eviction { model, unloads: true, bytes },
        });
        LoadEstimate {
            model: model.name.clone(),
            engine: estimate.engine.as_str().to_owned(),
            is_loaded,
            weight_bytes: estimate.weights,
            overhead_bytes: estimate.overhead,
            staging_bytes: estimate.staging,
            kv_bytes_per_1k_tokens: estimate.kv_per_token.saturating_mul(1_000),
            context_tokens: estimate.context_tokens,
            kv_bytes_full_context: estimate.kv_bytes(estimate.context_tokens),
            budget_bytes: ledger.budget_bytes(),
            used_bytes: ledger.used_bytes(),
            free_bytes: ledger.free_bytes(),
            fit,
            evictions: evictions.collect(),
            shortage: shortage.map(|shortage| shortage.to_string()),
        }
    }
}
