//! What the engine thread is told, and what it does about it at once.
//!
//! Owns the answers to commands. Whatever takes longer than a look at the queues waits in one of
//! them for its turn in the loop.

use std::time::Instant;

use ingle_protocol::limits;
use ingle_protocol::wire::generate::GenerateEvent;

use super::Worker;
use super::memory::{Asker, PendingLoad, Residence};
use crate::engine::admission::QueueFull;
use crate::engine::handle::{Command, EngineFailure, GenerateRequest};
use crate::engine::memory::ModelOptions;
use crate::engine::registry::LoadWaiter;
use crate::engine::sequence::{self, Waiting};

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
                if self.draining {
                    let _ = done.send(Err(EngineFailure::ShuttingDown));
                    return;
                }
                if force {
                    self.journal.forgive(&model.name);
                }
                let (waiter, since) = (LoadWaiter { progress, done }, Instant::now());
                let load = PendingLoad { model, asked: options, waiter, since };
                self.load(load, Asker::Patient);
            }
            Command::Estimate { model, done } => {
                // A caller that has gone needs no answer.
                let _ = done.send(Ok(self.estimate(&model)));
            }
            Command::Unload { name, done } => {
                // Requests that only wait for a slot are somebody's too; those that wait for the
                // load go with it.
                let mut active = self.active_on(&name);
                if self.registry.is_resident(&name) {
                    let waiting = self.waiting.iter_mut();
                    active += waiting.filter(|waiting| waiting.request.model.name == name).count();
                }
                let outcome = if active > 0 {
                    Err(EngineFailure::Busy { model: name, active })
                } else {
                    Ok(self.unload(&name))
                };
                let _ = done.send(outcome);
            }
            Command::Shutdown { now } => {
                self.draining = true;
                if now {
                    for waiting in self.waiting.remove_where(|_| true) {
                        sequence::fail(waiting.request, EngineFailure::ShuttingDown);
                    }
                    for index in (0..self.running.len()).rev() {
                        self.take_out(index).fail(EngineFailure::ShuttingDown);
                    }
                    self.embeddings.fail(None, &EngineFailure::ShuttingDown);
                }
                for load in self.loads.drain(..) {
                    let _ = load.waiter.done.send(Err(EngineFailure::ShuttingDown));
                }
                // A load is worth nothing to a daemon that ends, unless a request waits for it.
                for name in self.registry.loading_names() {
                    let is_awaited =
                        self.waiting.iter_mut().any(|waiting| waiting.request.model.name == name)
                            || self.embeddings.count(&name) > 0;
                    if !is_awaited {
                        self.registry.unload(&name, &EngineFailure::ShuttingDown);
                    }
                }
            }
        }
        self.publish();
    }

    /// Drops a model. Requests that wait for its load end as cancelled.
    pub(super) fn unload(&mut self, name: &str) -> bool {
        for waiting in self.waiting.remove_where(|waiting| waiting.request.model.name == name) {
            sequence::fail(waiting.request, EngineFailure::Cancelled);
        }
        self.embeddings.fail(Some(name), &EngineFailure::Cancelled);
        self.registry.unload(name, &EngineFailure::Cancelled)
    }

    fn enqueue(&mut self, request: GenerateRequest) {
        if self.draining {
            sequence::fail(request, EngineFailure::ShuttingDown);
            return;
        }
        if let Some(failure) = self.quarantined(&request.model) {
            sequence::fail(request, failure);
            return;
        }
        let now = Instant::now();
        let (none, asker) = (ModelOptions::default(), self.asker(self.waiting.len(), None, now));
        let tokens = request.prompt.len().saturating_add(request.max_tokens);
        let residence = match self.make_resident(&request.model, tokens, none, asker, now) {
            Ok(residence) => residence,
            Err(failure) => {
                sequence::fail(request, failure);
                return;
            }
        };
        let mut waiting = Waiting::new(request);
        if !self.registry.is_resident(&waiting.request.model.name) {
            waiting.memory(residence == Residence::Awaited, now);
        }
        // The first of a request's choices speaks for all.
        let events = (waiting.request.choice.index == 0).then(|| waiting.request.events.clone());
        match self.waiting.push(waiting) {
            Ok(position) => {
                self.status.update(|status| status.accepted += 1);
                let waits = position > 0 || self.running.len() >= limits::CONCURRENT_GENERATIONS;
                if let Some(events) = events.filter(|_| waits) {
                    // Progress that finds no room is not missed.
                    let _ = events.try_send(GenerateEvent::Queued { position });
                }
            }
            Err(QueueFull(waiting)) => {
                let failure = EngineFailure::Overloaded { waiting: self.waiting.len() };
                sequence::fail(waiting.request, failure);
            }
        }
    }
}
