//! Embedding between the steps of generations.
//!
//! Owns when a slice of embedding runs and on which model. Does not own the queue: `embed_queue`
//! does.

use std::time::Instant;

use ingle_protocol::wire::status::Phase as Heartbeat;

use super::Scheduler;
use crate::command::EmbedRequest;
use crate::crash_journal::Work;
use crate::embed_queue::EmbedJob;
use crate::error::EngineFailure;
use crate::pacing::Contention;
use ingle_engine::counters::Activity;
use ingle_engine::error::EngineError;

impl Scheduler {
    /// Queues a request for embeddings, or refuses it. Its model's load starts in the next turn.
    pub(super) fn enqueue_embed(&mut self, request: EmbedRequest) {
        let refused = match self.draining {
            true => Some(EngineFailure::ShuttingDown),
            false => self.quarantined(&request.model).or_else(|| self.conflict(&request.model)),
        };
        if let Some(failure) = refused {
            self.defer(move || {
                request.span.in_scope(|| failure.log("failed"));
                // A closed channel is no error: the caller has gone.
                let _ = request.done.send(Err(failure));
            });
            return;
        }
        let arrival = self.next_arrival();
        if self.embeddings.push(request, arrival, Instant::now()) {
            self.status.update(|status| status.accepted += 1);
        }
    }

    /// The embedding request that runs next at `now`.
    ///
    /// Its model is in memory, and it has begun or arrived before the admission barrier.
    pub(super) fn next_embed_job(&self, now: Instant) -> Option<&EmbedJob> {
        if self.embeddings.is_empty() {
            return None;
        }
        let barrier = self.admission_barrier(now);
        let may_begin =
            |job: &&EmbedJob| job.has_begun() || barrier.is_none_or(|last| job.arrival <= last);
        self.embeddings
            .iter()
            .filter(|job| self.registry.is_ready(&job.request.model))
            .find(may_begin)
    }

    /// Runs one slice of one embedding request.
    pub(super) fn embed(&mut self) {
        let now = Instant::now();
        let Some(job) = self.next_embed_job(now) else { return };
        let (arrival, model) = (job.arrival, job.request.model.clone());
        let request_id = job.request.request_id.clone();
        self.status.beat(Heartbeat::Prefill { model: model.name.clone() }, now);
        self.journal.step(Work::Prefill, &model, std::iter::once(request_id.as_str()));
        match self.registry.embedder(&model.name) {
            Some((embedder, pacing)) => {
                // For other requests a slice costs as much as a prefill chunk.
                let is_alone = self.running.is_empty();
                let contention = if is_alone { Contention::Prompts } else { Contention::Streams };
                let most_tokens = pacing.chunk_tokens(contention);
                let counters = self.status.counters();
                let slice = self.embeddings.step(arrival, embedder, most_tokens, now);
                if let Some(slice) = slice {
                    pacing.learn(slice.tokens, now.elapsed());
                    counters.of(&model.name, model.engine).read_tokens.add(slice.tokens as u64);
                }
                if slice.is_some_and(|slice| slice.is_done) {
                    self.journal.succeeded(&model.name);
                }
                counters.busy(Activity::Embed, now.elapsed());
                self.registry.touch(&model.name, Instant::now());
            }
            // Defensive: the service checks the model's role before.
            None => {
                let problem = format!("`{}` is not an embedding model", model.name);
                let failure = EngineFailure::from(EngineError::Native(problem));
                self.embeddings.end_where(|job| (job.arrival == arrival).then(|| failure.clone()));
            }
        }
    }
}
