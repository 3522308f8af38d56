//! Demand for a model: the requests and load callers that need it.
//!
//! Owns the one count of them, and what it means for an unload, an eviction or a load in progress,
//! so that no two rules can disagree.

use super::Scheduler;
use super::eviction::Protection;
use crate::admission::Arrival;
use ingle_engine::model::EngineModel;

/// The requests and callers that need one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Demand {
    /// Generations running on it.
    pub(super) running: usize,
    /// Generations in the queue.
    pub(super) queued: usize,
    /// Requests for embeddings.
    pub(super) embedding: usize,
    /// Callers that wait for its load, in progress or waiting for memory.
    pub(super) load_waiters: usize,
}

impl Demand {
    /// Requests that run on the model, embeddings included.
    pub(super) fn in_use(self) -> usize {
        self.running + self.embedding
    }

    /// Requests that need the model: they keep its load going and the model in memory.
    pub(super) fn requests(self) -> usize {
        self.in_use() + self.queued
    }

    /// All requests and load callers.
    pub(super) fn total(self) -> usize {
        self.requests() + self.load_waiters
    }
}

impl Scheduler {
    /// Demand for the model `name`, in any version.
    pub(super) fn demand(&self, name: &str) -> Demand {
        let pending = self.loads.iter().filter(|load| load.model.name == name && load.is_awaited());
        Demand {
            load_waiters: self.registry.load_waiters(name) + pending.count(),
            ..self.requests(|model| model.name == name, |_| true)
        }
    }

    /// Requests that protect `name` from eviction: the running ones, and the waiting ones that
    /// `protection` covers.
    pub(super) fn protectors(&self, name: &str, protection: Protection) -> Demand {
        self.requests(|model| model.name == name, |arrival| protection.protects(arrival))
    }

    /// Demand for another version of the model.
    pub(super) fn rivals(&self, model: &EngineModel) -> Demand {
        let is_rival =
            |other: &EngineModel| other.name == model.name && other.version != model.version;
        let pending = self.loads.iter().filter(|load| is_rival(&load.model) && load.is_awaited());
        let under_way = match self.registry.is_other_version(model) {
            true => self.registry.load_waiters(&model.name),
            false => 0,
        };
        Demand { load_waiters: under_way + pending.count(), ..self.requests(is_rival, |_| true) }
    }

    /// Requests on the selected models: all that have begun, and the waiting ones that are counted.
    fn requests(
        &self,
        is_meant: impl Fn(&EngineModel) -> bool,
        is_counted: impl Fn(Arrival) -> bool,
    ) -> Demand {
        let running = self.running.iter().filter(|sequence| is_meant(&sequence.request.model));
        let queued = self
            .waiting
            .iter()
            .filter(|waiting| waiting.has_begun() || is_counted(waiting.arrival))
            .filter(|waiting| is_meant(&waiting.request.model));
        let embedding = self.embeddings.iter().filter(|job| {
            (job.has_begun() || is_counted(job.arrival)) && is_meant(&job.request.model)
        });
        Demand {
            running: running.count(),
            queued: queued.count(),
            embedding: embedding.count(),
            load_waiters: 0,
        }
    }
}
