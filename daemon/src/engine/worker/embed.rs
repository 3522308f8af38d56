//! Embeddings between the steps of generations.
//!
//! Owns when a slice of them is worked off and on which model. The queue itself is `embedding`'s.

use std::time::Instant;

use ingle_protocol::wire::status::Phase as Heartbeat;

use super::Worker;
use crate::engine::backend::EngineError;
use crate::engine::crash_journal::Work;
use crate::engine::handle::{EmbedRequest, EngineFailure};
use crate::engine::memory::ModelOptions;

impl Worker {
    /// Takes a request for embeddings in, or answers it.
    pub(super) fn enqueue_texts(&mut self, request: EmbedRequest) {
        let refused = if self.draining {
            Some(EngineFailure::ShuttingDown)
        } else {
            self.quarantined(&request.model)
        };
        match refused {
            None => {
                self.status.update(|status| status.accepted += 1);
                self.embeddings.push(request);
            }
            Some(failure) => {
                // A caller that has gone needs no answer.
                let _ = request.done.send(Err(failure));
            }
        }
    }

    /// Starts the loads that requests for embeddings need and there is memory for, then works off a
    /// slice of one request.
    pub(super) fn embed(&mut self) {
        let now = Instant::now();
        for model in self.embeddings.models() {
            let asker = self.asker(self.waiting.len(), None, now);
            if let Err(failure) = self.make_resident(&model, 0, ModelOptions::default(), asker, now)
            {
                self.embeddings.fail(Some(&model.name), &failure);
            }
        }
        let registry = &self.registry;
        let Some(next) = self.embeddings.next_model(|model| registry.is_resident(model)) else {
            return;
        };
        let (model, request_id) = (next.model.clone(), next.request_id.clone());
        self.status.beat(Heartbeat::Prefill { model: model.name.clone() }, now);
        self.journal.step(Work::Prefill, &model, std::iter::once(request_id.as_str()));
        match self.registry.embedder(&model.name) {
            Some(embedder) => {
                if self.embeddings.step(&model.name, embedder) {
                    self.journal.succeeded(&model.name);
                }
                self.registry.touch(&model.name, Instant::now());
            }
            // The service does not ask for it.
            None => {
                let problem = format!("`{}` is not an embedding model", model.name);
                self.embeddings.fail(Some(&model.name), &EngineError::Native(problem).into());
            }
        }
    }
}
