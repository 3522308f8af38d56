//! What the engine thread is told, and what it does about it at once.
//!
//! Owns the answers to commands, and who is refused at the door. Whatever takes longer than a look
//! at the queues waits in one of them for its turn in the loop.

use std::time::Instant;

use crate::limits;
use ingle_protocol::wire::generate::GenerateEvent;

use super::Worker;
use super::loads::PendingLoad;
use crate::admission::QueueFull;
use crate::command::{Command, GenerateRequest};
use crate::error::EngineFailure;
use crate::memory::ModelOptions;
use crate::registry::LoadWaiter;
use crate::sequence::Waiting;
use ingle_engine::counters::UnloadReason;
use ingle_engine::model::EngineModel;

impl Worker {
    pub(super) fn handle(&mut self, command: Command) {
        match command {
            Command::Generate(request) => {
                self.enqueue(*request);
                // At once, so that a burst does not fill the queue while slots are free.
                self.admit();
            }
            Command::Embed(request) => self.enqueue_texts(*request),
            Command::Load { model, options, force, progress, done } => {
                if force && !self.draining {
                    self.journal.forgive(&model.name);
                }
                self.enqueue_load(model, options, LoadWaiter { progress, done });
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
        let mut waiting = Waiting::new(request, self.next_arrival());
        let model = &waiting.request.model;
        // Nothing is evicted or loaded for what is refused.
        let refused = match waiting.ended(now) {
            _ if self.draining => Some(EngineFailure::ShuttingDown),
            Some(failure) => Some(failure),
            None => self.quarantined(model).or_else(|| self.conflict(model)),
        };
        if let Some(failure) = refused {
            self.fail(waiting.request, failure);
            return;
        }
        if self.registry.loading_fraction(&waiting.request.model.name).is_some() {
            waiting.memory(false, now);
        }
        // The first of a request's choices speaks for all.
        let events = (waiting.request.choice.index == 0).then(|| waiting.request.events.clone());
        match self.waiting.push(waiting) {
            Ok(position) => {
                let Some(events) = events else { return };
                self.status.update(|status| status.accepted += 1);
                if position > 0 || self.running.len() >= limits::CONCURRENT_GENERATIONS {
                    // Progress that finds no room is not missed.
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

    /// A `load` command: is answered, joins a load, starts one, or waits for memory.
    fn enqueue_load(&mut self, model: EngineModel, asked: ModelOptions, waiter: LoadWaiter) {
        if waiter.done.is_closed() {
            return;
        }
        let refused = match self.draining {
            true => Some(EngineFailure::ShuttingDown),
            false => self.quarantined(&model).or_else(|| self.conflict(&model)),
        };
        if let Some(failure) = refused {
            self.reply(waiter.done, Err(failure));
            return;
        }
        let arrival = self.next_arrival();
        self.loads.push(PendingLoad { model, asked, waiter, arrival, memory_since: None });
        self.start_waiting_loads(Instant::now());
        // What is still here waits; the last is the one that has just come.
        if self.loads.len() > limits::QUEUED_LOADS
            && let Some(load) = self.loads.pop()
        {
            let waiting = self.loads.len();
            self.reply(load.waiter.done, Err(EngineFailure::Overloaded { waiting, what: "loads" }));
        }
    }

    /// Drops a model that no request needs. Where it is not in memory yet, whoever waits for that
    /// ends as cancelled, and so does its load. Whether there was anything to drop.
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
            self.reply(load.waiter.done, Err(EngineFailure::Cancelled));
        }
        let was_there = self.drop_model(name, UnloadReason::Asked, &EngineFailure::Cancelled);
        Ok(was_there || demand.total() > 0)
    }

    fn shut_down(&mut self, now: bool) {
        self.draining = true;
        let failure = EngineFailure::ShuttingDown;
        if now {
            for waiting in self.waiting.remove_where(|_| true) {
                self.fail(waiting.request, failure.clone());
            }
            for index in (0..self.running.len()).rev() {
                let sequence = self.take_out(index);
                self.fail(sequence.request, failure.clone());
            }
            self.embeddings.end_where(|_| Some(failure.clone()));
        }
        for load in std::mem::take(&mut self.loads) {
            self.reply(load.waiter.done, Err(failure.clone()));
        }
        // A load is worth nothing to a daemon that ends, unless a request waits for it.
        for name in self.registry.loading_names() {
            if self.demand(&name).requests() == 0 {
                self.drop_model(&name, UnloadReason::Asked, &failure);
            }
        }
    }
}
