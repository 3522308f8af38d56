//! Embedding queue: requests for embeddings, processed in slices and answered once.
//!
//! Owns the queue, the progress of each request, and outcomes until they are sent. Reads no clock:
//! time is an argument. Does not know generations or the registry: the scheduler passes the
//! embedder in.

use std::collections::VecDeque;
use std::time::Instant;

use crate::limits;

use super::admission::Arrival;
use super::command::EmbedRequest;
use super::error::EngineFailure;
use super::time::{millis, timeout_failure};
use ingle_engine::backend::Embedder;
use ingle_engine::error::EngineError;

/// One request and the vectors it has so far.
#[derive(Debug)]
pub struct EmbedJob {
    /// The request.
    pub request: EmbedRequest,
    /// Its position in the arrival order.
    pub arrival: Arrival,
    /// When its model began to wait for memory; `None` while it waits for something else.
    pub memory_since: Option<Instant>,
    /// When its first slice began: W runs from there.
    work_since: Option<Instant>,
    /// Indexes of the inputs by length, longest first.
    ///
    /// Inputs that share a pass then have similar lengths, and an input that there is no memory for
    /// fails first.
    order: Vec<usize>,
    /// How many of `order` are done.
    done: usize,
    /// A vector for each input, empty until it is done.
    vectors: Vec<Vec<f32>>,
}

/// The result of one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedSlice {
    /// Tokens that were read.
    pub tokens: usize,
    /// Whether the request has all of its vectors.
    pub is_done: bool,
}

impl EmbedJob {
    /// Whether its first slice has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.work_since.is_some()
    }

    /// Starts W at the first slice.
    fn begin(&mut self, now: Instant) {
        if self.work_since.is_none() {
            self.work_since = Some(now);
            let waited = now.saturating_duration_since(self.request.deadline.accepted_at);
            let inputs = self.request.inputs.len();
            self.request.span.in_scope(|| {
                tracing::debug!(waited_ms = millis(waited), inputs, "admitted");
            });
        }
    }

    fn log_end(&self, failure: Option<&EngineFailure>, now: Instant) {
        let elapsed = now.saturating_duration_since(self.request.deadline.accepted_at);
        let input_tokens: usize = self.request.inputs.iter().map(Vec::len).sum();
        self.request.span.in_scope(|| match failure {
            Some(failure) => failure.log("failed"),
            None => tracing::debug!(input_tokens, total_ms = millis(elapsed), "ended"),
        });
    }

    /// The failure that ends the request at `now`, if any.
    fn end_reason(&self, now: Instant) -> Option<EngineFailure> {
        let EmbedRequest { cancel, done, deadline, .. } = &self.request;
        if cancel.is_cancelled() || done.is_closed() {
            return Some(EngineFailure::Cancelled);
        }
        timeout_failure(deadline, self.work_since, "waiting for the model", now)
    }
}

/// The queued requests, in arrival order, and the outcomes not yet sent.
#[derive(Debug, Default)]
pub struct EmbedQueue {
    jobs: VecDeque<EmbedJob>,
    outcomes: Vec<(EmbedJob, Result<(), EngineFailure>)>,
}

impl EmbedQueue {
    /// Whether the queue is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Number of requests that wait or run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there are outcomes to send.
    #[must_use]
    pub fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Sends the outcomes.
    pub fn answer(&mut self, now: Instant) {
        for (job, outcome) in self.outcomes.drain(..) {
            job.log_end(outcome.as_ref().err(), now);
            // A closed channel is no error: the caller has gone.
            let _ = job.request.done.send(outcome.map(|()| job.vectors));
        }
    }

    /// The requests, in the order in which their turn comes.
    pub fn iter(&self) -> impl Iterator<Item = &EmbedJob> {
        self.jobs.iter()
    }

    /// The requests, in the order in which their turn comes.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut EmbedJob> {
        self.jobs.iter_mut()
    }

    /// Queues a request, and returns whether it was queued.
    ///
    /// The request ends at once when the queue is full, or when it is cancelled or overdue at
    /// `now`.
    pub fn push(&mut self, request: EmbedRequest, arrival: Arrival, now: Instant) -> bool {
        let inputs = &request.inputs;
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(inputs[index].len()));
        let vectors = vec![Vec::new(); inputs.len()];
        let job = EmbedJob {
            request,
            arrival,
            memory_since: None,
            work_since: None,
            order,
            done: 0,
            vectors,
        };
        let full =
            EngineFailure::Overloaded { waiting: self.jobs.len(), what: "requests for embeddings" };
        let is_full = self.jobs.len() >= limits::QUEUED_EMBEDDINGS;
        match job.end_reason(now).or(is_full.then_some(full)) {
            Some(failure) => self.outcomes.push((job, Err(failure))),
            None => {
                self.jobs.push_back(job);
                return true;
            }
        }
        false
    }

    /// Ends cancelled and timed-out requests.
    pub fn drop_ended(&mut self, now: Instant) {
        self.end_where(|job| job.end_reason(now));
    }

    /// Ends the requests for which there is a failure.
    pub fn end_where(&mut self, failure: impl Fn(&EmbedJob) -> Option<EngineFailure>) {
        for job in std::mem::take(&mut self.jobs) {
            match failure(&job) {
                Some(failure) => self.outcomes.push((job, Err(failure))),
                None => self.jobs.push_back(job),
            }
        }
    }

    /// Embeds some inputs of the request that came at `arrival`.
    ///
    /// A slice holds about `most_tokens` tokens, and at least one input. A request with inputs left
    /// moves behind the others. `None` when the slice failed.
    pub fn step(
        &mut self,
        arrival: Arrival,
        embedder: &mut dyn Embedder,
        most_tokens: usize,
        now: Instant,
    ) -> Option<EmbedSlice> {
        let index = self.jobs.iter().position(|job| job.arrival == arrival)?;
        let mut job = self.jobs.remove(index)?;
        job.begin(now);
        let mut tokens = 0;
        let left = &job.order[job.done..];
        let fits = |index: &&usize| {
            let with = tokens + job.request.inputs[**index].len();
            let fits = tokens == 0 || with <= most_tokens;
            tokens = if fits { with } else { tokens };
            fits
        };
        let members: Vec<usize> = left.iter().take_while(fits).copied().collect();
        let slice: Vec<&[u32]> =
            members.iter().map(|&index| job.request.inputs[index].as_slice()).collect();
        let failure = match embedder.embed(&slice) {
            Ok(vectors) if vectors.len() == slice.len() => {
                for (&index, vector) in members.iter().zip(vectors) {
                    job.vectors[index] = vector;
                }
                job.done += members.len();
                None
            }
            Ok(_) => Some(EngineError::Native("the engine gave too few vectors".to_owned())),
            Err(error) => Some(error),
        };
        let is_done = job.done == job.order.len();
        match failure {
            Some(error) => {
                self.outcomes.push((job, Err(error.into())));
                return None;
            }
            None if is_done => self.outcomes.push((job, Ok(()))),
            // Requests take turns, so that a long one does not delay short ones.
            None => self.jobs.push_back(job),
        }
        Some(EmbedSlice { tokens, is_done })
    }
}

#[cfg(test)]
mod tests {
    use ingle_protocol::deadline::Deadline;
    use ingle_protocol::timeouts::Layer;
    use ingle_protocol::wire::models::EngineKind;
    use serde_json::json;
    use tokio::sync::oneshot;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use ingle_engine::backend::ModelInfo;
    use ingle_engine::model::{EngineModel, Weights};
    use ingle_engine::role::Role;

    /// Embeds each text as its length, and records the lengths in each slice.
    struct Lengths {
        info: ModelInfo,
        slices: Vec<Vec<usize>>,
    }

    impl Embedder for Lengths {
        fn info(&self) -> &ModelInfo {
            &self.info
        }

        fn context_tokens(&self) -> usize {
            100
        }

        fn dimensions(&self) -> usize {
            1
        }

        fn overhead_bytes(&self) -> u64 {
            0
        }

        fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError> {
            self.slices.push(texts.iter().map(|text| text.len()).collect());
            Ok(texts.iter().map(|text| vec![text.len() as f32]).collect())
        }
    }

    #[test]
    fn slices_group_lengths_and_keep_input_order() {
        let lengths = [3, 50, 1, 4, 9, 2, 5];
        let now = Instant::now();
        let config = serde_json::from_value(json!({ "model_type": "sim" })).unwrap();
        let model = EngineModel {
            name: "e".to_owned(),
            version: String::new(),
            engine: EngineKind::Sim,
            role: Role::Embeds,
            weights: Weights::Sim(Box::new(config)),
        };
        let (done, mut outcome) = oneshot::channel();
        let request = EmbedRequest {
            request_id: "r".to_owned(),
            span: tracing::Span::none(),
            model,
            inputs: lengths.iter().map(|&len| vec![7; len]).collect(),
            deadline: Deadline::new(Layer::Daemon, 60_000, None, now),
            cancel: CancellationToken::new(),
            done,
        };
        let info = ModelInfo { architecture: String::new(), vocab_size: 9, weight_bytes: 0 };
        let mut embedder = Lengths { info, slices: Vec::new() };
        let mut embeddings = EmbedQueue::default();
        assert!(embeddings.push(request, Arrival(1), now));
        let mut tokens = Vec::new();
        while !embeddings.is_empty() {
            let slice = embeddings.step(Arrival(1), &mut embedder, 12, now).unwrap();
            assert_eq!(slice.is_done, embeddings.is_empty());
            tokens.push(slice.tokens);
        }
        // An input longer than a slice gets a slice of its own.
        let expected: [&[usize]; 4] = [&[50], &[9], &[5, 4, 3], &[2, 1]];
        assert_eq!(embedder.slices, expected);
        assert_eq!(tokens, [50, 9, 12, 3]);
        embeddings.answer(now);
        let vectors = outcome.try_recv().unwrap().unwrap();
        assert_eq!(vectors, lengths.map(|len| vec![len as f32]));
    }
}
