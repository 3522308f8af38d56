//! Command handling: replies at once, or queues the work for the loop.
//!
//! Owns the replies to commands and the early refusals. Work that takes longer than a check of the
//! queues waits in one of them for its turn in the loop.

use std::time::Instant;

use crate::limits;
use ingle_protocol::wire::generate::GenerateEvent;

use super::Scheduler;
use super::loads::PendingLoad;
use crate::admission::QueueFull;
use crate::command::{Command, GenerateRequest};
use crate::error::EngineFailure;
use crate::memory::ModelOptions;
use crate::registry::LoadWaiter;
use crate::sequence::QueuedRequest;
use ingle_engine::counters::UnloadReason;
use ingle_engine::model::EngineModel;

impl Scheduler {
    /// Handles one command.
    pub(super) fn handle(&mut self, command: Command) {
        match command {
            Command::Generate(request) => {
                self.enqueue(*request);
                // Admit at once, so that a burst does not fill the queue while capacity is free.
                self.admit();
            }
            Command::Embed(request) => self.enqueue_embed(*request),
            Command::Load { model, options, force, span, progress, done } => {
                if force && !self.draining {
                    self.journal.forgive(&model.name);
                }
                self.enqueue_load(model, options, LoadWaiter { span, progress, done });
            }
            Command::Estimate { model, done } => {
                let estimate = self.estimate(&model);
                self.reply(done, Ok(estimate));
            }
            Command::Unload { name, done } => {
                let outcome = self.unload(&name);
                self.reply(done, outcome);
            }
            Command::Shutdown { now } => self.shut_down(now),
        }
        self.report();
    }

    fn enqueue(&mut self, request: GenerateRequest) {
        let now = Instant::now();
        let mut waiting = QueuedRequest::new(request, self.next_arrival());
        let model = &waiting.request.model;
        // Nothing is evicted or loaded for a refused request.
        let refused = match waiting.end_reason(now) {
            _ if self.draining => Some(EngineFailure::ShuttingDown),
            Some(failure) => Some(failure),
            None => self.quarantined(model).or_else(|| self.conflict(model)),
        };
        if let Some(failure) = refused {
            self.fail(waiting.request, failure);
            return;
        }
        if self.registry.loading_fraction(&waiting.request.model.name).is_some() {
            waiting.note_memory_wait(false, now);
        }
        // Only the first choice of a request sends progress events.
        let events = (waiting.request.choice.index == 0).then(|| waiting.request.events.clone());
        match self.waiting.push(waiting) {
            Ok(position) => {
                let Some(events) = events else { return };
                self.status.update(|status| status.accepted += 1);
                if position > 0 || self.running.len() >= limits::CONCURRENT_GENERATIONS {
                    // A progress event that does not fit into the channel is dropped.
                    let _ = events.try_send(GenerateEvent::Queued { position });
                }
            }
            Err(QueueFull(waiting)) => {
                let failure =
                    EngineFailure::Overloaded { waiting: self.waiting.len(), what: "generations" };
                self.fail(waiting.request, failure);
            }
        }
    }

    /// Replies to a `load` command, or lets it join a load, start one, or wait for memory.
    fn enqueue_load(&mut self, model: EngineModel, asked: ModelOptions, waiter: LoadWaiter) {
        if waiter.done.is_closed() {
            return;
        }
        let refused = match self.draining {
            true => Some(EngineFailure::ShuttingDown),
            false => self.quarantined(&model).or_else(|| self.conflict(&model)),
        };
        if let Some(failure) = refused {
            self.fail_load(waiter, failure);
            return;
        }
        let arrival = self.next_arrival();
        self.loads.push(PendingLoad { model, asked, waiter, arrival, memory_since: None });
        self.start_waiting_loads(Instant::now());
        // The loads left here wait for memory; the last one is the new one.
        if self.loads.len() > limits::QUEUED_LOADS
            && let Some(load) = self.loads.pop()
        {
            let waiting = self.loads.len();
            self.fail_load(load.waiter, EngineFailure::Overloaded { waiting, what: "loads" });
        }
    }

    /// Unloads a model that no request needs.
    ///
    /// If the model is not in memory yet, its load and all requests that wait for it are
    /// cancelled. Returns whether there was anything to unload.
    fn unload(&mut self, name: &str) -> Result<bool, EngineFailure> {
        let demand = self.demand(name);
        if self.registry.is_resident(name) && demand.requests() > 0 {
            let (model, active) = (name.to_owned(), demand.requests());
            return Err(EngineFailure::Busy { model, active });
        }
        self.end_requests(name, &EngineFailure::Cancelled);
        let (ended, others) = std::mem::take(&mut self.loads)
            .into_iter()
            .partition(|load: &PendingLoad| load.model.name == name);
        self.loads = others;
        for load in ended {
            self.fail_load(load.waiter, EngineFailure::Cancelled);
        }
        let was_there = self.drop_model(name, UnloadReason::Requested, &EngineFailure::Cancelled);
        Ok(was_there || demand.total() > 0)
    }

    /// Refuses new work from here on, and with `now` cancels the running work too.
    fn shut_down(&mut self, now: bool) {
        self.draining = true;
        let failure = EngineFailure::ShuttingDown;
        if now {
            for waiting in self.waiting.remove_where(|_| true) {
                self.fail(waiting.request, failure.clone());
            }
            for index in (0..self.running.len()).rev() {
                let sequence = self.remove_running(index);
                self.fail(sequence.request, failure.clone());
            }
            self.embeddings.end_where(|_| Some(failure.clone()));
        }
        for load in std::mem::take(&mut self.loads) {
            self.fail_load(load.waiter, failure.clone());
        }
        // A daemon that ends needs a load only if a request waits for it.
        for name in self.registry.loading_names() {
            if self.demand(&name).requests() == 0 {
                self.drop_model(&name, UnloadReason::Requested, &failure);
            }
        }
    }
}
