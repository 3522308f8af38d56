//! Requests for embeddings on the engine thread: queued, worked off in slices, answered once.
//!
//! Owns the queue, how far each request has come, and outcomes until they are sent. Reads no clock:
//! time is an argument. Knows nothing of generations; the worker lends it the models.

use std::collections::VecDeque;
use std::time::Instant;

use crate::limits;

use super::admission::Arrival;
use super::command::EmbedRequest;
use super::error::EngineFailure;
use super::sequence::out_of_time;
use ingle_engine::backend::Embedder;
use ingle_engine::error::EngineError;

/// One request and the vectors it has so far.
#[derive(Debug)]
pub struct Job {
    /// The request.
    pub request: EmbedRequest,
    /// Its place among everything that waits.
    pub arrival: Arrival,
    /// Since when there is no memory for its model; `None` while it waits for something else.
    pub memory_since: Option<Instant>,
    /// When its first slice began: W runs from there.
    work_since: Option<Instant>,
    /// The texts by length, the longest first: those that share a pass are of a length then, and
    /// what there is no memory for shows at once.
    order: Vec<usize>,
    /// How many of `order` are done.
    done: usize,
    /// A vector for each text, empty until it is done.
    vectors: Vec<Vec<f32>>,
}

/// What a slice came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Tokens it read.
    pub tokens: usize,
    /// Whether the request has all of its vectors now.
    pub is_done: bool,
}

impl Job {
    /// Whether some of its texts have been embedded.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.work_since.is_some()
    }

    /// Why it must end at `now`, if it must.
    fn ended(&self, now: Instant) -> Option<EngineFailure> {
        let EmbedRequest { cancel, done, deadline, .. } = &self.request;
        if cancel.is_cancelled() || done.is_closed() {
            return Some(EngineFailure::Cancelled);
        }
        out_of_time(deadline, self.work_since, "waiting for the model", now)
    }
}

/// The requests, first come first, and the outcomes that have not been sent.
#[derive(Debug, Default)]
pub struct Embeddings {
    jobs: VecDeque<Job>,
    outcomes: Vec<(Job, Result<(), EngineFailure>)>,
}

impl Embeddings {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How many wait or run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether an outcome is to be sent.
    #[must_use]
    pub fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Sends the outcomes.
    pub fn answer(&mut self) {
        for (job, outcome) in self.outcomes.drain(..) {
            // A caller that has gone needs no answer.
            let _ = job.request.done.send(outcome.map(|()| job.vectors));
        }
    }

    /// The requests, in the order in which their turn comes.
    pub fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter()
    }

    /// The requests, in the order in which their turn comes.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.jobs.iter_mut()
    }

    /// Takes a request in, or ends it because the queue is full or there is nothing left to do for
    /// it at `now`. Whether it was taken in.
    pub fn push(&mut self, request: EmbedRequest, arrival: Arrival, now: Instant) -> bool {
        let inputs = &request.inputs;
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(inputs[index].len()));
        let vectors = vec![Vec::new(); inputs.len()];
        let job =
            Job { request, arrival, memory_since: None, work_since: None, order, done: 0, vectors };
        let full =
            EngineFailure::Overloaded { waiting: self.jobs.len(), what: "requests for embeddings" };
        let is_full = self.jobs.len() >= limits::QUEUED_EMBEDDINGS;
        match job.ended(now).or(is_full.then_some(full)) {
            Some(failure) => self.outcomes.push((job, Err(failure))),
            None => {
                self.jobs.push_back(job);
                return true;
            }
        }
        false
    }

    /// Ends what was cancelled or ran out of time.
    pub fn drop_ended(&mut self, now: Instant) {
        self.end_where(|job| job.ended(now));
    }

    /// Ends the requests for which there is a failure.
    pub fn end_where(&mut self, failure: impl Fn(&Job) -> Option<EngineFailure>) {
        for job in std::mem::take(&mut self.jobs) {
            match failure(&job) {
                Some(failure) => self.outcomes.push((job, Err(failure))),
                None => self.jobs.push_back(job),
            }
        }
    }

    /// Embeds some texts of the request that came at `arrival`: about `most_tokens` tokens, and one
    /// text at least. A request that is not done then goes behind the others. `None` when it came
    /// to nothing.
    pub fn step(
        &mut self,
        arrival: Arrival,
        embedder: &mut dyn Embedder,
        most_tokens: usize,
        now: Instant,
    ) -> Option<Slice> {
        let index = self.jobs.iter().position(|job| job.arrival == arrival)?;
        let mut job = self.jobs.remove(index)?;
        job.work_since.get_or_insert(now);
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
            // In turns, so that a long request does not hold short ones up.
            None => self.jobs.push_back(job),
        }
        Some(Slice { tokens, is_done })
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

    /// Gives each text its length for a vector, and notes the lengths of each slice.
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
    fn slices_are_of_like_lengths_and_vectors_in_the_callers_order() {
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
            model,
            inputs: lengths.iter().map(|&len| vec![7; len]).collect(),
            deadline: Deadline::new(Layer::Daemon, 60_000, None, now),
            cancel: CancellationToken::new(),
            done,
        };
        let info = ModelInfo { architecture: String::new(), vocab_size: 9, weight_bytes: 0 };
        let mut embedder = Lengths { info, slices: Vec::new() };
        let mut embeddings = Embeddings::default();
        assert!(embeddings.push(request, Arrival(1), now));
        let mut tokens = Vec::new();
        while !embeddings.is_empty() {
            let slice = embeddings.step(Arrival(1), &mut embedder, 12, now).unwrap();
            assert_eq!(slice.is_done, embeddings.is_empty());
            tokens.push(slice.tokens);
        }
        // One text may be longer than a slice; the others fill theirs.
        let expected: [&[usize]; 4] = [&[50], &[9], &[5, 4, 3], &[2, 1]];
        assert_eq!(embedder.slices, expected);
        assert_eq!(tokens, [50, 9, 12, 3]);
        embeddings.answer();
        let vectors = outcome.try_recv().unwrap().unwrap();
        assert_eq!(vectors, lengths.map(|len| vec![len as f32]));
    }
}
