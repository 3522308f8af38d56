//! Embeddings between the steps of generations.
//!
//! Owns when a slice of them is worked off and on which model. The queue itself is `embedding`'s.

use std::time::Instant;

use ingle_protocol::wire::status::Phase as Heartbeat;

use super::Worker;
use crate::command::EmbedRequest;
use crate::crash_journal::Work;
use crate::embedding::Job;
use crate::error::EngineFailure;
use crate::pacing::Company;
use ingle_engine::counters::Activity;
use ingle_engine::error::EngineError;

impl Worker {
    /// Takes a request for embeddings in, or answers it. Its model's load starts with the next
    /// turn.
    pub(super) fn enqueue_texts(&mut self, request: EmbedRequest) {
        let refused = match self.draining {
            true => Some(EngineFailure::ShuttingDown),
            false => self.quarantined(&request.model).or_else(|| self.conflict(&request.model)),
        };
        if let Some(failure) = refused {
            self.reply(request.done, Err(failure));
            return;
        }
        let arrival = self.next_arrival();
        if self.embeddings.push(request, arrival, Instant::now()) {
            self.status.update(|status| status.accepted += 1);
        }
    }

    /// The request whose turn it is at `now`: its model is in memory, and it has begun or needs not
    /// stand back.
    pub(super) fn next_job(&self, now: Instant) -> Option<&Job> {
        if self.embeddings.is_empty() {
            return None;
        }
        let held = self.held_from(now);
        let may_begin = |job: &&Job| job.has_begun() || held.is_none_or(|held| job.arrival <= held);
        self.embeddings
            .iter()
            .filter(|job| self.registry.is_ready(&job.request.model))
            .find(may_begin)
    }

    /// Works off a slice of one request.
    pub(super) fn embed(&mut self) {
        let now = Instant::now();
        let Some(job) = self.next_job(now) else { return };
        let (arrival, model) = (job.arrival, job.request.model.clone());
        let request_id = job.request.request_id.clone();
        self.status.beat(Heartbeat::Prefill { model: model.name.clone() }, now);
        self.journal.step(Work::Prefill, &model, std::iter::once(request_id.as_str()));
        match self.registry.embedder(&model.name) {
            Some((embedder, pacing)) => {
                // A slice is a prompt's chunk as far as others are concerned.
                let is_alone = self.running.is_empty();
                let company = if is_alone { Company::Prompts } else { Company::Streams };
                let most_tokens = pacing.chunk_tokens(company);
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
            // The service does not ask for it.
            None => {
                let problem = format!("`{}` is not an embedding model", model.name);
                let failure = EngineFailure::from(EngineError::Native(problem));
                self.embeddings.end_where(|job| (job.arrival == arrival).then(|| failure.clone()));
            }
        }
    }
}
