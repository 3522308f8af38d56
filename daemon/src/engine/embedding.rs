//! Requests for embeddings on the engine thread: queued, worked off in slices, answered once.
//!
//! Owns the queue and how far each request has come. Reads no clock: time is an argument. Knows
//! nothing of generations; the worker lends it the models.

use std::collections::VecDeque;
use std::time::Instant;

use ingle_protocol::limits;
use ingle_protocol::timeouts::Layer;

use super::backend::{Embedder, EngineError};
use super::handle::{EmbedRequest, EngineFailure, EngineModel};

/// One request and the vectors it has so far.
#[derive(Debug)]
struct Job {
    request: EmbedRequest,
    vectors: Vec<Vec<f32>>,
}

impl Job {
    fn end(self, outcome: Result<(), EngineFailure>) {
        // A caller that has gone needs no answer.
        let _ = self.request.done.send(outcome.map(|()| self.vectors));
    }

    /// Why it must end at `now`, if it must.
    fn ended(&self, now: Instant) -> Option<EngineFailure> {
        let EmbedRequest { cancel, done, deadline, .. } = &self.request;
        if cancel.is_cancelled() || done.is_closed() {
            return Some(EngineFailure::Cancelled);
        }
        (now >= deadline.work_ends_at(deadline.accepted_at)).then(|| EngineFailure::Timeout {
            what: "the work",
            layer: Layer::Work,
            limit_ms: deadline.work_ms,
            elapsed_ms: u64::try_from(now.duration_since(deadline.accepted_at).as_millis())
                .unwrap_or(u64::MAX),
        })
    }
}

/// The requests, first come first.
#[derive(Debug, Default)]
pub struct Embeddings {
    jobs: VecDeque<Job>,
}

impl Embeddings {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Requests on `model`.
    #[must_use]
    pub fn count(&self, model: &str) -> usize {
        self.jobs.iter().filter(|job| job.request.model.name == model).count()
    }

    /// Takes a request in, or answers it that the queue is full.
    pub fn push(&mut self, request: EmbedRequest) {
        let job = Job { request, vectors: Vec::new() };
        if self.jobs.len() < limits::QUEUED_EMBEDDINGS {
            self.jobs.push_back(job);
        } else {
            let waiting = self.jobs.len();
            let what = "requests for embeddings";
            job.end(Err(EngineFailure::Overloaded { waiting, what }));
        }
    }

    /// Answers what was cancelled or ran out of time.
    pub fn drop_ended(&mut self, now: Instant) {
        self.end_where(|job| job.ended(now));
    }

    /// Answers the requests on `model`, or all of them, with `failure`.
    pub fn fail(&mut self, model: Option<&str>, failure: &EngineFailure) {
        self.end_where(|job| {
            let is_meant = model.is_none_or(|model| job.request.model.name == model);
            is_meant.then(|| failure.clone())
        });
    }

    fn end_where(&mut self, failure: impl Fn(&Job) -> Option<EngineFailure>) {
        for job in std::mem::take(&mut self.jobs) {
            match failure(&job) {
                Some(failure) => job.end(Err(failure)),
                None => self.jobs.push_back(job),
            }
        }
    }

    /// The models of all requests, each once.
    #[must_use]
    pub fn models(&self) -> Vec<EngineModel> {
        let mut models: Vec<EngineModel> = Vec::new();
        for job in &self.jobs {
            if models.iter().all(|model| model.name != job.request.model.name) {
                models.push(job.request.model.clone());
            }
        }
        models
    }

    /// The first request whose model `is_ready`.
    pub fn next_model(&self, is_ready: impl Fn(&str) -> bool) -> Option<&EmbedRequest> {
        let mut requests = self.jobs.iter().map(|job| &job.request);
        requests.find(|request| is_ready(&request.model.name))
    }

    /// Embeds some texts of the first request on `model`: about [`limits::EMBED_SLICE_TOKENS`]
    /// tokens, and one text at least. A request that is not done then goes behind the others.
    /// Whether it was done well.
    pub fn step(&mut self, model: &str, embedder: &mut dyn Embedder) -> bool {
        let index = self.jobs.iter().position(|job| job.request.model.name == model);
        let Some(mut job) = index.and_then(|index| self.jobs.remove(index)) else { return false };
        let left = &job.request.inputs[job.vectors.len()..];
        let mut tokens = 0;
        let slice: Vec<&[u32]> = left
            .iter()
            .take_while(|text| {
                let is_first = tokens == 0;
                tokens += text.len();
                is_first || tokens <= limits::EMBED_SLICE_TOKENS
            })
            .map(Vec::as_slice)
            .collect();
        match embedder.embed(&slice) {
            Ok(vectors) if vectors.len() == slice.len() => job.vectors.extend(vectors),
            Ok(_) => {
                let problem = "the engine gave too few vectors".to_owned();
                job.end(Err(EngineError::Native(problem).into()));
                return false;
            }
            Err(error) => {
                job.end(Err(error.into()));
                return false;
            }
        }
        let is_done = job.vectors.len() == job.request.inputs.len();
        if is_done {
            job.end(Ok(()));
        } else {
            // In turns, so that a long request does not hold short ones up.
            self.jobs.push_back(job);
        }
        is_done
    }
}
