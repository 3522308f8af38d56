//! How many want a model.
//!
//! The one place that counts them. What a count means for an unload, an eviction or a load under
//! way is said here too, so that no two rules can disagree.

use super::Worker;
use super::memory::Asker;
use crate::admission::Arrival;
use ingle_engine::model::EngineModel;

/// Who wants one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Demand {
    /// Generations running on it.
    pub(super) running: usize,
    /// Generations in the queue.
    pub(super) queued: usize,
    /// Requests for embeddings.
    pub(super) embedding: usize,
    /// Callers who wait for its load, under way or still waiting for memory.
    pub(super) load_waiters: usize,
}

impl Demand {
    /// What works on it, or would if nothing else did.
    pub(super) fn in_use(self) -> usize {
        self.running + self.embedding
    }

    /// Requests that need it: they keep a load going, and a resident model in memory.
    pub(super) fn requests(self) -> usize {
        self.in_use() + self.queued
    }

    /// Everybody.
    pub(super) fn total(self) -> usize {
        self.requests() + self.load_waiters
    }
}

impl Worker {
    /// Who wants `name`, in whatever version.
    pub(super) fn demand(&self, name: &str) -> Demand {
        let pending = self.loads.iter().filter(|load| load.model.name == name && load.is_awaited());
        Demand {
            load_waiters: self.registry.load_waiters(name) + pending.count(),
            ..self.requests(|model| model.name == name, |_| true)
        }
    }

    /// Requests that protect `name` from being evicted for `asker`: what runs, and of what waits
    /// the part that came first.
    pub(super) fn protectors(&self, name: &str, asker: Asker) -> Demand {
        self.requests(|model| model.name == name, |arrival| asker.comes_after(arrival))
    }

    /// Who wants the model of that name, but another version of it.
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

    /// Requests on the models meant: all that have begun, and of what waits what is `counted`.
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
