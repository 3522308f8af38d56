//! What every request carries through the daemon, whatever edge it came in by.
//!
//! Owns request names, the bundle of deadline and cancel token, and that an error names its request.
//! Knows nothing of edges or engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ingle_protocol::deadline::{Budget, Deadline};
use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::{Class, Layer, WorkTimeouts};
use tokio_util::sync::CancellationToken;

/// One request on its way through the daemon.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Its name in logs and errors.
    pub id: String,
    /// Its class.
    pub class: Class,
    /// The daemon's limit for it, and W.
    pub deadline: Deadline,
    /// Ends it early.
    pub cancel: CancellationToken,
    /// Once it is set, a text ends with its next sentence.
    pub finish_at_sentence: Arc<AtomicBool>,
}

/// Names requests: unique within one daemon and, by the process id, between daemons.
#[derive(Debug)]
pub struct RequestNames {
    pid: u32,
    next: AtomicU64,
}

impl RequestNames {
    /// Names for the daemon with this process id.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid, next: AtomicU64::new(1) }
    }

    /// The next request's name.
    pub fn next(&self) -> String {
        format!("{}-{}", self.pid, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl RequestContext {
    /// The request called `id`, which is accepted at `now`.
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
        Self { id, class, deadline, cancel, finish_at_sentence: Arc::default() }
    }

    /// An attempt of a job that begins at `now`. Its W is the job's own, in milliseconds, and may be
    /// longer than the class's.
    #[must_use]
    pub fn of_job(
        id: String,
        class: Class,
        work_ms: u64,
        cancel: CancellationToken,
        now: Instant,
    ) -> Self {
        let deadline = Deadline::new(Layer::Daemon, work_ms, None, now);
        Self { id, class, deadline, cancel, finish_at_sentence: Arc::default() }
    }
}

/// The error of the request called `id`; where it was made need not know the name.
#[must_use]
pub fn named(error: ErrorBody, id: &str) -> ErrorBody {
    if error.request_id.is_some() { error } else { error.with_request_id(id) }
}
