//! Which models are loaded next: for requests and for callers who asked for nothing else.
//!
//! Owns the one order over all that waits for a model, and what stands back for whom. Whether there
//! is memory is `memory`'s to say.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::wire::models::EngineKind;

use super::Worker;
use super::memory::{Residence, reserved_tokens};
use crate::admission::Arrival;
use crate::error::EngineFailure;
use crate::memory::ModelOptions;
use crate::registry::LoadWaiter;
use ingle_engine::model::EngineModel;

/// A load that nobody's request asked for and that has not begun.
pub(super) struct PendingLoad {
    pub(super) model: EngineModel,
    pub(super) asked: ModelOptions,
    pub(super) waiter: LoadWaiter,
    /// Its place among everything that waits.
    pub(super) arrival: Arrival,
    /// Since when there is no memory for it.
    pub(super) memory_since: Option<Instant>,
}

impl PendingLoad {
    /// Whether its caller still waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiter.done.is_closed()
    }
}

/// Something that waits on the engine thread, and what it needs.
#[derive(Clone, Copy)]
struct Wish<'a> {
    arrival: Arrival,
    model: &'a EngineModel,
    /// Tokens of KV cache it needs besides the model.
    tokens: usize,
    asked: ModelOptions,
    memory_since: Option<Instant>,
}

impl Worker {
    /// Starts the loads that there is memory for, in the order in which they were wished for. What
    /// has waited long for memory holds up what came after it.
    pub(super) fn start_waiting_loads(&mut self, now: Instant) {
        self.loads.retain(PendingLoad::is_awaited);
        let mut tried = BTreeSet::new();
        let mut last = None;
        loop {
            let is_next = |wish: &Wish<'_>| {
                Some(wish.arrival) > last
                    && !self.registry.holds(wish.model)
                    && !tried.contains(&wish.model.name)
            };
            let next = self.wishes().filter(is_next).min_by_key(|wish| wish.arrival);
            let Some(Wish { arrival, model, tokens, asked, memory_since }) = next else { break };
            if self.held_from(now).is_some_and(|held| held < arrival) {
                break;
            }
            last = Some(arrival);
            let model = model.clone();
            let asker = self.asker(arrival, memory_since, now);
            match self.make_resident(&model, tokens, asked, asker, now) {
                Ok(residence) => {
                    self.note_residence(&model, residence, now);
                    tried.insert(model.name);
                }
                Err(failure) => self.end_waiting(arrival, &failure),
            }
        }
        self.join_loads(now);
    }

    /// The first of what has waited long for memory: what came after it stands back.
    pub(super) fn held_from(&self, now: Instant) -> Option<Arrival> {
        let is_held = |wish: &Wish<'_>| wish.memory_since.is_some_and(|since| is_long(since, now));
        self.wishes().filter(is_held).map(|wish| wish.arrival).min()
    }

    /// Everything that waits, in no particular order.
    fn wishes(&self) -> impl Iterator<Item = Wish<'_>> {
        let asked = ModelOptions::default();
        let generations = self.waiting.iter().map(move |waiting| Wish {
            arrival: waiting.arrival,
            model: &waiting.request.model,
            tokens: reserved_tokens(&waiting.request, usize::MAX),
            asked,
            memory_since: waiting.memory_since,
        });
        let jobs = self.embeddings.iter().map(move |job| Wish {
            arrival: job.arrival,
            model: &job.request.model,
            tokens: 0,
            asked,
            memory_since: job.memory_since,
        });
        let loads = self.loads.iter().map(|load| Wish {
            arrival: load.arrival,
            model: &load.model,
            tokens: 0,
            asked: load.asked,
            memory_since: load.memory_since,
        });
        generations.chain(jobs).chain(loads)
    }

    /// What runs each model that is in memory, on its way there or waited for.
    pub(super) fn engines(&self) -> Vec<(String, EngineKind)> {
        let held = self.registry.engines();
        let mut engines: Vec<_> = held.map(|(name, engine)| (name.to_owned(), engine)).collect();
        // One that is wanted goes before one that is only there.
        for Wish { model, .. } in self.wishes().filter(|wish| !self.registry.holds(wish.model)) {
            match engines.iter_mut().find(|(name, _)| *name == model.name) {
                Some((_, engine)) => *engine = model.engine,
                None => engines.push((model.name.clone(), model.engine)),
            }
        }
        engines
    }

    /// Notes for all who need this version of `model` whether it waits for memory at `now`.
    fn note_residence(&mut self, model: &EngineModel, residence: Residence, now: Instant) {
        let is_awaited = residence == Residence::Awaited;
        let is_same =
            |other: &EngineModel| other.name == model.name && other.version == model.version;
        let note = |since: &mut Option<Instant>| {
            *since = is_awaited.then(|| since.unwrap_or(now));
        };
        for waiting in self.waiting.iter_mut().filter(|one| is_same(&one.request.model)) {
            waiting.memory(is_awaited, now);
        }
        for job in self.embeddings.iter_mut().filter(|job| is_same(&job.request.model)) {
            note(&mut job.memory_since);
        }
        for load in self.loads.iter_mut().filter(|load| is_same(&load.model)) {
            note(&mut load.memory_since);
        }
    }

    /// Ends what came at `arrival` and still waits.
    fn end_waiting(&mut self, arrival: Arrival, failure: &EngineFailure) {
        for waiting in self.waiting.remove_where(|waiting| waiting.arrival == arrival) {
            self.fail(waiting.request, failure.clone());
        }
        self.embeddings.end_where(|job| (job.arrival == arrival).then(|| failure.clone()));
        if let Some(index) = self.loads.iter().position(|load| load.arrival == arrival) {
            let load = self.loads.remove(index);
            self.reply(load.waiter.done, Err(failure.clone()));
        }
    }

    /// Lets callers wait for the loads that have begun meanwhile, and answers those whose model is
    /// in memory.
    fn join_loads(&mut self, now: Instant) {
        for load in std::mem::take(&mut self.loads) {
            if !self.registry.holds(&load.model) {
                self.loads.push(load);
                continue;
            }
            let name = &load.model.name;
            self.registry.change_stay(name, load.asked);
            self.registry.touch(name, now);
            let active = self.demand(name).in_use();
            if let Some((waiter, answer)) = self.registry.wait_for(name, load.waiter, active) {
                self.reply(waiter.done, answer);
            }
        }
    }
}

/// Whether something has waited so long that what came later must stand back.
pub(super) fn is_long(since: Instant, now: Instant) -> bool {
    let patience = Duration::from_millis(limits::MEMORY_PATIENCE_MS);
    now.saturating_duration_since(since) >= patience
}
