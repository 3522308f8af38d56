//! The context of a request: id, class, deadline, cancel token.
//!
//! Owns request ids, the context that a request carries through the daemon from any edge, and that
//! an error has the id of its request. Does not know edges or engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ingle_protocol::deadline::{Budget, Deadline};
use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::{Class, Layer, WorkTimeouts};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field};

/// The context of one request.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Its id in logs and errors.
    pub id: String,
    /// Its class.
    pub class: Class,
    /// The daemon's limit, and W.
    pub deadline: Deadline,
    /// Ends the request early.
    pub cancel: CancellationToken,
    /// Once it is set, a completion ends with its next sentence.
    pub finish_at_sentence: Arc<AtomicBool>,
}

/// Request ids: unique within one daemon and, by the process id, between daemons.
#[derive(Debug)]
pub struct RequestIds {
    pid: u32,
    next: AtomicU64,
}

impl RequestIds {
    /// The ids of the daemon with this process id.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid, next: AtomicU64::new(1) }
    }

    /// The id of the next request.
    pub fn next(&self) -> String {
        format!("{}-{}", self.pid, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl RequestContext {
    /// The context of a request with this id that is accepted at `now`.
    #[must_use]
    pub fn new(
        id: String,
        class: Class,
        timeouts: &WorkTimeouts,
        budget: Option<Budget>,
        cancel: CancellationToken,
        now: Instant,
    ) -> Self {
        let deadline = Deadline::new(Layer::Daemon, timeouts.work_ms(class), budget, now);
        Span::current().record("class", class.as_str());
        Self { id, class, deadline, cancel, finish_at_sentence: Arc::default() }
    }

    /// The context of a job's attempt that begins at `now`.
    ///
    /// Its W is the job's own, in milliseconds, and may be longer than the class's.
    #[must_use]
    pub fn of_job(
        id: String,
        class: Class,
        work_ms: u64,
        cancel: CancellationToken,
        now: Instant,
    ) -> Self {
        let deadline = Deadline::new(Layer::Daemon, work_ms, None, now);
        Span::current().record("class", class.as_str());
        Self { id, class, deadline, cancel, finish_at_sentence: Arc::default() }
    }
}

/// The span of a request, which every log line of it is in.
///
/// An edge enters it with the request. Its class is recorded with the [`RequestContext`], its model
/// once that is found.
#[must_use]
pub fn request_span(id: &str, method: &str) -> Span {
    tracing::info_span!("request", id, method, class = field::Empty, model = field::Empty)
}

/// Records the model in the span of the current request.
pub(crate) fn record_model(name: &str) {
    Span::current().record("model", name);
}

/// The error with the id of its request, which the place of its origin need not know.
#[must_use]
pub fn named(error: ErrorBody, id: &str) -> ErrorBody {
    if error.request_id.is_some() { error } else { error.with_request_id(id) }
}
