//! Making room: what the worker does so that loads and running sequences stay within the budget.
//!
//! Owns the reservations (a load's estimate, a sequence's KV cache up to its last token), who is
//! protected from eviction, what waits for memory, and what expires. The decisions themselves are
//! `ledger`'s.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ingle_protocol::limits;
use ingle_protocol::wire::models::{Eviction, Fit, LoadEstimate};

use super::{Worker, first_choice};
use crate::engine::admission::Turn;
use crate::engine::handle::{EngineFailure, EngineModel, GenerateRequest};
use crate::engine::ledger::{Ledger, Need, Plan, Step};
use crate::engine::memory::ModelOptions;
use crate::engine::registry::{LoadWaiter, Registry, estimate};
use crate::engine::sequence::{self, Sequence, Waiting};

/// A load that nobody's request asked for and that waits for memory.
pub(super) struct PendingLoad {
    pub(super) model: EngineModel,
    pub(super) asked: ModelOptions,
    pub(super) waiter: LoadWaiter,
    pub(super) since: Instant,
}

/// Who asks for memory: what stands before it keeps its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Every waiting request protects its model.
    Patient,
    /// Only the first so many requests of the queue do.
    Before(usize),
}

/// Whether a model is in memory or on its way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Residence {
    /// It is.
    Granted,
    /// It waits for memory that models in use hold.
    Awaited,
}

/// Tokens a request's sequence may come to hold.
fn reserved_tokens(request: &GenerateRequest, context_tokens: usize) -> usize {
    request.prompt.len().saturating_add(request.max_tokens).min(context_tokens)
}

/// Bytes a running sequence holds or may yet come to hold.
fn running_bytes(registry: &Registry, sequence: &Sequence) -> u64 {
    let Some(resident) = registry.look(&sequence.request.model.name) else { return 0 };
    let generator = &resident.generator;
    let per_token = generator.kv_bytes_per_token();
    if per_token == 0 {
        return 0;
    }
    let tokens = reserved_tokens(&sequence.request, generator.capacity().context_tokens);
    per_token.saturating_mul(tokens as u64).max(generator.bytes(sequence.seq))
}

impl Worker {
    /// Everybody's holdings now.
    pub(super) fn ledger(&self, asker: Asker) -> Ledger {
        let mut holdings = self.registry.holdings();
        for holding in &mut holdings {
            let mine = |request: &GenerateRequest| request.model.name == holding.model;
            let protects = match asker {
                Asker::Patient => usize::MAX,
                Asker::Before(count) => count,
            };
            let waiting = self.waiting.iter().take(protects);
            holding.active = waiting.filter(|waiting| mine(&waiting.request)).count()
                + self.embeddings.count(&holding.model);
            for sequence in self.running.iter().filter(|sequence| mine(&sequence.request)) {
                holding.active += 1;
                let bytes = running_bytes(&self.registry, sequence);
                holding.running = holding.running.saturating_add(bytes);
            }
        }
        Ledger::new(self.budget_bytes, holdings)
    }

    /// Whether what is at `index` of the queue, and waits for memory since `since`, may take
    /// models that only later requests wait for: when it has waited long, or when nothing else
    /// moves that could make room.
    pub(super) fn asker(&self, index: usize, since: Option<Instant>, now: Instant) -> Asker {
        let nothing_moves = self.running.is_empty() && self.registry.loading().is_none();
        if nothing_moves || since.is_some_and(|since| is_long(since, now)) {
            Asker::Before(index)
        } else {
            Asker::Patient
        }
    }

    /// Takes the steps of a plan.
    pub(super) fn make_room(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::DropKept { model, sequences, bytes } => {
                    tracing::debug!(model, sequences, bytes, "kept sequences make room");
                    if let Some(resident) = self.registry.resident(model) {
                        resident.drop_kept(*sequences);
                    }
                }
                Step::Unload { model, bytes } => {
                    tracing::info!(model, bytes, "an idle model makes room");
                    self.registry.unload(model, &EngineFailure::Cancelled);
                }
            }
        }
    }

    /// Starts the model's load, or joins it, if there is memory for it and for `sequence_tokens`
    /// of KV cache. Drops what is in memory under its name first if its files have changed since.
    pub(super) fn make_resident(
        &mut self,
        model: &EngineModel,
        sequence_tokens: usize,
        asked: ModelOptions,
        asker: Asker,
        now: Instant,
    ) -> Result<Residence, EngineFailure> {
        if self.registry.is_other_version(model) {
            let active = self.active_on(&model.name);
            if active > 0 {
                return Err(EngineFailure::Busy { model: model.name.clone(), active });
            }
            self.unload(&model.name);
        }
        if self.registry.contains(&model.name) {
            return Ok(Residence::Granted);
        }
        let estimate = estimate(model, self.registry.settings());
        // What is staged has gone before the first sequence grows.
        let beside = estimate.staging.max(estimate.growth(sequence_tokens));
        let bytes = estimate.loaded_bytes().saturating_add(beside);
        match self.ledger(asker).plan(Need { model: &model.name, bytes }) {
            Plan::Fits(steps) => {
                // Before anything is evicted: a header that shows that the model cannot be loaded
                // must cost nobody anything.
                self.journal.adopts();
                self.journal.load_begins(model);
                self.registry.start(model, estimate, self.memory.stay(&model.name, asked, now))?;
                self.make_room(&steps);
                Ok(Residence::Granted)
            }
            Plan::Wait(_) => Ok(Residence::Awaited),
            Plan::Never(shortage) => Err(EngineFailure::InsufficientMemory(Box::new(shortage))),
        }
    }

    /// Why a model is refused whatever memory there is, if it is.
    pub(super) fn quarantined(&self, model: &EngineModel) -> Option<EngineFailure> {
        let deaths = Box::new(self.journal.refused(model)?.clone());
        Some(EngineFailure::Quarantined { model: model.name.clone(), deaths })
    }

    /// A `load` command: joins, starts, or waits for memory.
    pub(super) fn load(&mut self, load: PendingLoad, asker: Asker) {
        let PendingLoad { model, asked, waiter, since } = load;
        if let Some(failure) = self.quarantined(&model) {
            let _ = waiter.done.send(Err(failure));
            return;
        }
        match self.make_resident(&model, 0, asked, asker, since) {
            Ok(Residence::Granted) => {
                self.registry.change_stay(&model.name, asked);
                self.registry.touch(&model.name, Instant::now());
                let active = self.active_on(&model.name);
                self.registry.wait_for(&model.name, waiter, active);
            }
            Ok(Residence::Awaited) if self.loads.len() < limits::QUEUED_LOADS => {
                self.loads.push(PendingLoad { model, asked, waiter, since });
            }
            Ok(Residence::Awaited) => {
                let waiting = self.loads.len();
                let failure = EngineFailure::Overloaded { waiting, what: "loads" };
                let _ = waiter.done.send(Err(failure));
            }
            Err(failure) => {
                let _ = waiter.done.send(Err(failure));
            }
        }
    }

    /// Looks again for memory for models that waited for some: requests first, then loads.
    pub(super) fn start_waiting_loads(&mut self, now: Instant) {
        let mut tried = BTreeSet::new();
        loop {
            let is_next = |waiting: &Waiting| {
                let name = &waiting.request.model.name;
                !self.registry.contains(name) && !tried.contains(name)
            };
            let next = self.waiting.iter().enumerate().find(|(_, waiting)| is_next(waiting));
            let Some((index, waiting)) = next else { break };
            let model = waiting.request.model.clone();
            let tokens = reserved_tokens(&waiting.request, usize::MAX);
            let asker = self.asker(index, waiting.memory_since, now);
            let outcome = self.make_resident(&model, tokens, ModelOptions::default(), asker, now);
            let mine = |waiting: &&mut Waiting| waiting.request.model.name == model.name;
            match outcome {
                Ok(residence) => {
                    for waiting in self.waiting.iter_mut().filter(mine) {
                        waiting.memory(residence == Residence::Awaited, now);
                    }
                    tried.insert(model.name);
                }
                Err(failure) => {
                    if let Some(waiting) = self.waiting.remove(index) {
                        sequence::fail(waiting.request, failure);
                    }
                }
            }
        }
        let queued = self.waiting.len();
        for load in std::mem::take(&mut self.loads) {
            if load.waiter.done.is_closed() {
                continue;
            }
            let asker = match self.asker(0, Some(load.since), now) {
                // With nothing in motion the queue has had its chance above.
                Asker::Before(_) if is_long(load.since, now) || queued == 0 => Asker::Before(0),
                _ => Asker::Patient,
            };
            self.load(load, asker);
        }
    }

    /// Takes the next waiting request that has a slot, a resident model and memory, and makes that
    /// memory free. `None` when there is none; a failure is the request's own.
    pub(super) fn next_admitted(
        &mut self,
        now: Instant,
    ) -> Option<(Waiting, Result<(), EngineFailure>)> {
        // A load that has waited long goes before every request that came after it.
        let held_since =
            self.loads.iter().map(|load| load.since).find(|&since| is_long(since, now));
        let mut blocked = Vec::new();
        let mut chosen = Plan::Fits(Vec::new());
        let next = self.waiting.next(self.running.len(), |index, waiting| {
            let name = &waiting.request.model.name;
            let accepted_at = waiting.request.deadline.accepted_at;
            if held_since.is_some_and(|since| since < accepted_at) {
                return Turn::HoldsTheRest;
            }
            // The other choices of a request go on from the first one's prompt.
            let is_read =
                first_choice(&self.running, &waiting.request).is_none_or(Sequence::has_read_prompt);
            let is_first = !blocked.iter().any(|(_, model)| model == name);
            if is_first && is_read && self.registry.is_resident(name) {
                let plan = self.plan_admission(index, waiting, now);
                if !matches!(plan, Plan::Wait(_)) {
                    chosen = plan;
                    return Turn::Runs;
                }
                blocked.push((index, name.clone()));
            }
            match waiting.memory_since {
                Some(since) if is_long(since, now) => Turn::HoldsTheRest,
                _ => Turn::Waits,
            }
        });
        for (index, _) in blocked {
            if let Some(waiting) = self.waiting.iter_mut().nth(index) {
                waiting.memory(true, now);
            }
        }
        let waiting = self.waiting.remove(next?)?;
        let admitted = match chosen {
            Plan::Fits(steps) => {
                self.make_room(&steps);
                Ok(())
            }
            Plan::Wait(shortage) | Plan::Never(shortage) => {
                Err(EngineFailure::InsufficientMemory(Box::new(shortage)))
            }
        };
        Some((waiting, admitted))
    }

    /// What has to go for the KV cache of a waiting request, up to its last token.
    fn plan_admission(&self, index: usize, waiting: &Waiting, now: Instant) -> Plan {
        let model = &waiting.request.model.name;
        let Some(resident) = self.registry.look(model) else { return Plan::Fits(Vec::new()) };
        let tokens =
            reserved_tokens(&waiting.request, resident.generator.capacity().context_tokens);
        let bytes = resident.generator.kv_bytes_per_token().saturating_mul(tokens as u64);
        if bytes == 0 {
            return Plan::Fits(Vec::new());
        }
        let mut ledger = self.ledger(self.asker(index, waiting.memory_since, now));
        let taken_over = resident.takes_over(&waiting.request.prompt);
        let brought = taken_over.map_or(0, |kept| ledger.take_over(model, kept));
        ledger.plan(Need { model, bytes: bytes.saturating_sub(brought) })
    }

    /// Unloads models whose keep-alive has run out, and cancels loads nobody waits for.
    pub(super) fn expire(&mut self, now: Instant) {
        let expired = self.expiries().into_iter().filter(|(_, at)| *at <= now);
        for (name, _) in expired.collect::<Vec<_>>() {
            tracing::info!(model = name, "an idle model's keep-alive has run out");
            self.registry.unload(&name, &EngineFailure::Cancelled);
        }
        if self.running.is_empty() && self.registry.trim_due().is_some_and(|at| at <= now) {
            self.registry.trim();
        }
        for name in self.registry.loading_names() {
            let is_wanted = self.registry.is_load_awaited(&name)
                || self.embeddings.count(&name) > 0
                || self.waiting.iter().any(|waiting| waiting.request.model.name == name);
            if !is_wanted {
                tracing::info!(model = name, "a load that nobody waits for is cancelled");
                self.registry.unload(&name, &EngineFailure::Cancelled);
            }
        }
    }

    /// When each idle model expires.
    pub(super) fn expiries(&self) -> Vec<(String, Instant)> {
        let is_idle = |name: &str| {
            self.active_on(name) == 0
                && !self.waiting.iter().any(|waiting| waiting.request.model.name == name)
        };
        let expiries = self.registry.expiries().filter(|(name, _)| is_idle(name));
        expiries.map(|(name, at)| (name.to_owned(), at)).collect()
    }

    /// How long an idle thread may sleep: until the next model expires or memory is given back.
    pub(super) fn idle_limit(&self, now: Instant) -> Duration {
        /// For when nothing expires; a command wakes the thread at once.
        const LONG: Duration = Duration::from_secs(24 * 60 * 60);
        let expiries = self.expiries().into_iter().map(|(_, at)| at);
        let next = expiries.chain(self.registry.trim_due()).min();
        next.map_or(LONG, |at| at.saturating_duration_since(now)).min(LONG)
    }

    /// What a load of `model` would take and evict.
    pub(super) fn estimate(&self, model: &EngineModel) -> LoadEstimate {
        let estimate = estimate(model, self.registry.settings());
        let ledger = self.ledger(Asker::Patient);
        let is_loaded =
            self.registry.contains(&model.name) && !self.registry.is_other_version(model);
        let need = Need { model: &model.name, bytes: estimate.load_bytes() };
        let plan = if is_loaded { Plan::Fits(Vec::new()) } else { ledger.plan(need) };
        let (fit, steps, shortage) = match plan {
            Plan::Fits(steps) if steps.is_empty() => (Fit::Now, steps, None),
            Plan::Fits(steps) => (Fit::AfterEvictions, steps, None),
            Plan::Wait(shortage) => (Fit::WhenIdle, Vec::new(), Some(shortage)),
            Plan::Never(shortage) => (Fit::Never, Vec::new(), Some(shortage)),
        };
        let evictions = steps.into_iter().map(|step| match step {
            Step::DropKept { model, bytes, .. } => Eviction { model, unloads: false, bytes },
            Step::Unload { model, bytes } => Eviction { model, unloads: true, bytes },
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

/// Whether something has waited so long that what came later must stand back.
fn is_long(since: Instant, now: Instant) -> bool {
    let patience = Duration::from_millis(limits::MEMORY_PATIENCE_MS);
    now.saturating_duration_since(since) >= patience
}
