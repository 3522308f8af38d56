//! Load order: which model is loaded next, for requests and for load commands.
//!
//! Owns the one order over everything that waits for a model, and the admission barrier that holds
//! later work back. Does not decide whether there is memory: `memory` does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::wire::models::EngineKind;

use super::Scheduler;
use super::eviction::{Residence, reserved_tokens};
use crate::admission::Arrival;
use crate::error::EngineFailure;
use crate::memory::ModelOptions;
use crate::registry::LoadWaiter;
use ingle_engine::model::EngineModel;
use tracing::Span;

/// A load command whose load has not started.
pub(super) struct PendingLoad {
    pub(super) model: EngineModel,
    pub(super) asked: ModelOptions,
    pub(super) waiter: LoadWaiter,
    /// Its position in the arrival order.
    pub(super) arrival: Arrival,
    /// When it began to wait for memory.
    pub(super) memory_since: Option<Instant>,
}

impl PendingLoad {
    /// Whether its caller still waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiter.done.is_closed()
    }
}

/// A waiting request or load command, and what it needs.
#[derive(Clone, Copy)]
struct PendingWork<'a> {
    arrival: Arrival,
    model: &'a EngineModel,
    /// Its request's tracing span.
    span: &'a Span,
    /// Tokens of KV cache that it needs besides the model.
    tokens: usize,
    asked: ModelOptions,
    memory_since: Option<Instant>,
}

impl Scheduler {
    /// Starts the loads that there is memory for, in arrival order.
    ///
    /// Work that has waited long for memory holds back everything that arrived after it.
    pub(super) fn start_waiting_loads(&mut self, now: Instant) {
        self.loads.retain(PendingLoad::is_awaited);
        let mut tried = BTreeSet::new();
        let mut last = None;
        loop {
            let is_next = |work: &PendingWork<'_>| {
                Some(work.arrival) > last
                    && !self.registry.holds(work.model)
                    && !tried.contains(&work.model.name)
            };
            let next = self.pending_work().filter(is_next).min_by_key(|work| work.arrival);
            let Some(PendingWork { arrival, model, span, tokens, asked, memory_since }) = next
            else {
                break;
            };
            if self.admission_barrier(now).is_some_and(|barrier| barrier < arrival) {
                break;
            }
            last = Some(arrival);
            let (model, span) = (model.clone(), span.clone());
            let protection = self.protection(arrival, memory_since, now);
            // The load and its evictions are logged for the request that needs them.
            let residence =
                span.in_scope(|| self.make_resident(&model, tokens, asked, protection, now));
            match residence {
                Ok(residence) => {
                    self.note_residence(&model, residence, now);
                    tried.insert(model.name);
                }
                Err(failure) => self.end_waiting(arrival, &failure),
            }
        }
        self.join_loads(now);
    }

    /// The admission barrier: the first arrival that has waited long for memory.
    ///
    /// Work that arrived after it neither loads a model nor begins, so that the memory it waits for
    /// is not taken again and again. `None` when nothing has waited long.
    pub(super) fn admission_barrier(&self, now: Instant) -> Option<Arrival> {
        let is_held =
            |work: &PendingWork<'_>| work.memory_since.is_some_and(|since| is_long(since, now));
        self.pending_work().filter(is_held).map(|work| work.arrival).min()
    }

    /// All waiting work, in no particular order.
    fn pending_work(&self) -> impl Iterator<Item = PendingWork<'_>> {
        let asked = ModelOptions::default();
        let generations = self.waiting.iter().map(move |waiting| PendingWork {
            arrival: waiting.arrival,
            model: &waiting.request.model,
            span: &waiting.request.span,
            tokens: reserved_tokens(&waiting.request, usize::MAX),
            asked,
            memory_since: waiting.memory_since,
        });
        let jobs = self.embeddings.iter().map(move |job| PendingWork {
            arrival: job.arrival,
            model: &job.request.model,
            span: &job.request.span,
            tokens: 0,
            asked,
            memory_since: job.memory_since,
        });
        let loads = self.loads.iter().map(|load| PendingWork {
            arrival: load.arrival,
            model: &load.model,
            span: &load.waiter.span,
            tokens: 0,
            asked: load.asked,
            memory_since: load.memory_since,
        });
        generations.chain(jobs).chain(loads)
    }

    /// The engine of each model that is in memory, being loaded or waited for.
    pub(super) fn engines(&self) -> Vec<(String, EngineKind)> {
        let present = self.registry.engines();
        let mut engines: Vec<_> = present.map(|(name, engine)| (name.to_owned(), engine)).collect();
        // The engine of a waiting version replaces that of a present one.
        for PendingWork { model, .. } in
            self.pending_work().filter(|work| !self.registry.holds(work.model))
        {
            match engines.iter_mut().find(|(name, _)| *name == model.name) {
                Some((_, engine)) => *engine = model.engine,
                None => engines.push((model.name.clone(), model.engine)),
            }
        }
        engines
    }

    /// Records, for all work that needs this version of `model`, whether it waits for memory.
    fn note_residence(&mut self, model: &EngineModel, residence: Residence, now: Instant) {
        let is_awaited = residence == Residence::Awaited;
        let is_same =
            |other: &EngineModel| other.name == model.name && other.version == model.version;
        let note = |since: &mut Option<Instant>| {
            *since = is_awaited.then(|| since.unwrap_or(now));
        };
        for waiting in self.waiting.iter_mut().filter(|one| is_same(&one.request.model)) {
            waiting.note_memory_wait(is_awaited, now);
        }
        for job in self.embeddings.iter_mut().filter(|job| is_same(&job.request.model)) {
            note(&mut job.memory_since);
        }
        for load in self.loads.iter_mut().filter(|load| is_same(&load.model)) {
            note(&mut load.memory_since);
        }
    }

    /// Ends the waiting request or load command that came at `arrival`.
    fn end_waiting(&mut self, arrival: Arrival, failure: &EngineFailure) {
        for waiting in self.waiting.remove_where(|waiting| waiting.arrival == arrival) {
            self.fail(waiting.request, failure.clone());
        }
        self.embeddings.end_where(|job| (job.arrival == arrival).then(|| failure.clone()));
        if let Some(index) = self.loads.iter().position(|load| load.arrival == arrival) {
            let load = self.loads.remove(index);
            self.fail_load(load.waiter, failure.clone());
        }
    }

    /// Attaches load commands to loads that have started meanwhile.
    ///
    /// A command whose model is in memory gets its reply.
    fn join_loads(&mut self, now: Instant) {
        for load in std::mem::take(&mut self.loads) {
            if !self.registry.holds(&load.model) {
                self.loads.push(load);
                continue;
            }
            let name = &load.model.name;
            self.registry.change_retention(name, load.asked);
            self.registry.touch(name, now);
            let active = self.demand(name).in_use();
            if let Some((waiter, answer)) = self.registry.wait_for(name, load.waiter, active) {
                self.defer(move || waiter.notify(answer));
            }
        }
    }
}

/// Whether the wait for memory is so long that later work is held back.
pub(super) fn is_long(since: Instant, now: Instant) -> bool {
    let patience = Duration::from_millis(limits::MEMORY_PATIENCE_MS);
    now.saturating_duration_since(since) >= patience
}
