//! Making room: what the worker does so that loads and running sequences stay within the budget.
//!
//! Owns the reservations (a load's estimate, a sequence's KV cache up to its last token), who is
//! protected from eviction, and what expires. The decisions themselves are `ledger`'s.

use std::time::{Duration, Instant};

use ingle_protocol::wire::models::{Eviction, Fit, LoadEstimate};

use super::loads::is_long;
use super::{Worker, first_choice};
use crate::admission::Arrival;
use crate::command::GenerateRequest;
use crate::error::EngineFailure;
use crate::ledger::{Ledger, Need, Plan, Step};
use crate::memory::{ModelOptions, Stay};
use crate::registry::Registry;
use crate::sequence::{Sequence, Waiting};
use ingle_engine::counters::{LoadOutcome, UnloadReason};
use ingle_engine::model::EngineModel;

/// Who asks for memory: what came before it keeps its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Everything that waits protects its model.
    Patient,
    /// Only what came before this does.
    Since(Arrival),
}

impl Asker {
    /// Whether what came at `arrival` keeps its model.
    pub(super) fn comes_after(self, arrival: Arrival) -> bool {
        match self {
            Self::Patient => true,
            Self::Since(own) => arrival < own,
        }
    }
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
pub(super) fn reserved_tokens(request: &GenerateRequest, context_tokens: usize) -> usize {
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
            holding.active = self.protectors(&holding.model, asker).requests();
            let mine = |sequence: &&Sequence| sequence.request.model.name == holding.model;
            for sequence in self.running.iter().filter(mine) {
                let bytes = running_bytes(&self.registry, sequence);
                holding.running = holding.running.saturating_add(bytes);
            }
        }
        Ledger::new(self.budget_bytes, holdings)
    }

    /// Whether what came at `arrival`, and waits for memory since `since`, may take models that
    /// only later requests wait for: when it has waited long, or when nothing else moves that could
    /// make room.
    pub(super) fn asker(&self, arrival: Arrival, since: Option<Instant>, now: Instant) -> Asker {
        let nothing_moves = self.running.is_empty()
            && self.registry.loading().is_none()
            && self.next_job(now).is_none();
        if nothing_moves || since.is_some_and(|since| is_long(since, now)) {
            Asker::Since(arrival)
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
                        self.status.counters().kept_dropped.add(*sequences as u64);
                    }
                }
                Step::Unload { model, bytes } => {
                    tracing::info!(model, bytes, "an idle model makes room");
                    self.drop_model(model, UnloadReason::Memory, &EngineFailure::Cancelled);
                }
            }
        }
    }

    /// Starts the model's load if there is memory for it and for `sequence_tokens` of KV cache. What
    /// is in memory under its name in another version makes way, if nobody wants it.
    pub(super) fn make_resident(
        &mut self,
        model: &EngineModel,
        sequence_tokens: usize,
        asked: ModelOptions,
        asker: Asker,
        now: Instant,
    ) -> Result<Residence, EngineFailure> {
        if self.registry.holds(model) {
            return Ok(Residence::Granted);
        }
        if let Some(failure) = self.conflict(model) {
            return Err(failure);
        }
        let estimate = self.registry.estimate(model);
        // What is staged has gone before the first sequence grows.
        let beside = estimate.staging.max(estimate.growth(sequence_tokens));
        let bytes = estimate.loaded_bytes().saturating_add(beside);
        let mut ledger = self.ledger(asker);
        ledger.leave_out(&model.name);
        match ledger.plan(Need { model: &model.name, bytes }) {
            Plan::Fits(steps) => {
                let stay = match self.registry.stay(&model.name) {
                    // How a model stays does not depend on its version.
                    Some(mut stay) => {
                        stay.change(asked);
                        Stay { last_used: now, ..stay }
                    }
                    None => self.memory.stay(&model.name, asked, now),
                };
                // Before anything is evicted: a header that shows that the model cannot be loaded
                // must cost nobody anything.
                self.journal.adopts();
                self.journal.load_begins(model);
                let other = self.registry.is_other_version(model);
                let was_resident = self.registry.is_resident(&model.name);
                if let Err(error) = self.registry.start(model, estimate, stay) {
                    self.status.counters().load_ended(LoadOutcome::Failed);
                    return Err(error.into());
                }
                if other {
                    self.count_departure(was_resident, UnloadReason::Replaced);
                }
                self.make_room(&steps);
                Ok(Residence::Granted)
            }
            Plan::Wait(_) => Ok(Residence::Awaited),
            Plan::Never(shortage) => Err(EngineFailure::InsufficientMemory(Box::new(shortage))),
        }
    }

    /// Why this version of a model cannot be had now: somebody wants another.
    pub(super) fn conflict(&self, model: &EngineModel) -> Option<EngineFailure> {
        let active = self.rivals(model).total();
        (active > 0).then(|| EngineFailure::Busy { model: model.name.clone(), active })
    }

    /// Why a model is refused whatever memory there is, if it is.
    pub(super) fn quarantined(&self, model: &EngineModel) -> Option<EngineFailure> {
        let deaths = Box::new(self.journal.refused(model)?.clone());
        Some(EngineFailure::Quarantined { model: model.name.clone(), deaths })
    }

    /// Takes the next waiting request that has a slot, a resident model and memory, and makes that
    /// memory free. `None` when there is none; a failure is the request's own.
    pub(super) fn next_admitted(
        &mut self,
        now: Instant,
    ) -> Option<(Waiting, Result<(), EngineFailure>)> {
        let held = self.held_from(now);
        let mut blocked = Vec::new();
        let mut chosen = Plan::Fits(Vec::new());
        let next = self.waiting.next(self.running.len(), |index, waiting| {
            let name = &waiting.request.model.name;
            // What is at work already is not held: its time runs.
            if !waiting.has_begun() && held.is_some_and(|held| held < waiting.arrival) {
                return false;
            }
            // The other choices of a request go on from the first one's prompt.
            let is_read =
                first_choice(&self.running, &waiting.request).is_none_or(Sequence::has_read_prompt);
            let is_first = !blocked.iter().any(|(_, model)| model == name);
            if is_first && is_read && self.registry.is_ready(&waiting.request.model) {
                let plan = self.plan_admission(waiting, now);
                if !matches!(plan, Plan::Wait(_)) {
                    chosen = plan;
                    return true;
                }
                blocked.push((index, name.clone()));
            }
            false
        });
        for (index, _) in blocked {
            if let Some(waiting) = self.waiting.iter_mut().nth(index) {
                waiting.memory(true, now);
            }
        }
        let waiting = self.waiting.remove(next?)?;
        if let Some(failure) = self.unknown_token(&waiting.request) {
            return Some((waiting, Err(failure)));
        }
        let admitted = match chosen {
            Plan::Fits(steps) => {
                // The one it goes on from must not be among those that are given up for it.
                if first_choice(&self.running, &waiting.request).is_none()
                    && let Some(resident) = self.registry.resident(&waiting.request.model.name)
                {
                    resident.prefer(&waiting.request.prompt);
                }
                self.make_room(&steps);
                Ok(())
            }
            Plan::Wait(shortage) | Plan::Never(shortage) => {
                Err(EngineFailure::InsufficientMemory(Box::new(shortage)))
            }
        };
        Some((waiting, admitted))
    }

    /// Why a prompt cannot be read by the weights it is for, if it has a token they do not know: a
    /// pass it took part in would fail for everybody.
    fn unknown_token(&self, request: &GenerateRequest) -> Option<EngineFailure> {
        let model = &request.model.name;
        let vocab_size = self.registry.look(model)?.generator.info().vocab_size;
        let is_unknown = |token: &&u32| usize::try_from(**token).is_ok_and(|id| id >= vocab_size);
        let token = *request.prompt.iter().find(is_unknown)?;
        Some(EngineFailure::UnknownToken { model: model.clone(), token, vocab_size })
    }

    /// What has to go for the KV cache of a waiting request, up to its last token.
    fn plan_admission(&self, waiting: &Waiting, now: Instant) -> Plan {
        let model = &waiting.request.model.name;
        let Some(resident) = self.registry.look(model) else { return Plan::Fits(Vec::new()) };
        let tokens =
            reserved_tokens(&waiting.request, resident.generator.capacity().context_tokens);
        let bytes = resident.generator.kv_bytes_per_token().saturating_mul(tokens as u64);
        if bytes == 0 {
            return Plan::Fits(Vec::new());
        }
        let asker = self.asker(waiting.arrival, waiting.memory_since, now);
        let mut ledger = self.ledger(asker);
        // A further choice forks the first one and leaves the kept ones alone.
        let is_further = first_choice(&self.running, &waiting.request).is_some();
        let goes_on_from = resident.goes_on_from(&waiting.request.prompt);
        let brought = match goes_on_from.filter(|_| !is_further) {
            Some((kept, true)) => ledger.take_over(model, kept),
            Some((kept, false)) => {
                ledger.use_kept(model, kept);
                0
            }
            None => 0,
        };
        ledger.plan(Need { model, bytes: bytes.saturating_sub(brought) })
    }

    /// Unloads models whose keep-alive has run out, and cancels loads nobody waits for.
    pub(super) fn expire(&mut self, now: Instant) {
        let expired = self.expiries().into_iter().filter(|(_, at)| *at <= now);
        for (name, _) in expired.collect::<Vec<_>>() {
            tracing::info!(model = name, "an idle model's keep-alive has run out");
            self.drop_model(&name, UnloadReason::Idle, &EngineFailure::Cancelled);
        }
        if self.running.is_empty() && self.registry.trim_due().is_some_and(|at| at <= now) {
            self.registry.trim();
        }
        for name in self.registry.loading_names() {
            if self.demand(&name).total() == 0 {
                tracing::info!(model = name, "a load that nobody waits for is cancelled");
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
        let estimate = self.registry.estimate(model);
        let ledger = self.ledger(Asker::Patient);
        let is_loaded = self.registry.holds(model);
        let need = Need { model: &model.name, bytes: estimate.load_bytes() };
        let mut replaced = None;
        let plan = if is_loaded {
            Plan::Fits(Vec::new())
        } else {
            let mut ledger = ledger.clone();
            replaced = ledger.leave_out(&model.name);
            ledger.plan(need)
        };
        // Another version of the model goes too.
        let replaced = replaced.map(|bytes| Step::Unload { model: model.name.clone(), bytes });
        let plan = match plan {
            Plan::Fits(steps) => Plan::Fits(replaced.into_iter().chain(steps).collect()),
            refused => refused,
        };
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
