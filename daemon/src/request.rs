//! What every request carries through the daemon, whatever edge it came in by.
//!
//! Owns request names, and the bundle of deadline and cancel token. Knows nothing of edges or
//! engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ingle_protocol::deadline::{Budget, Deadline};
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
    pub wrap_up: Arc<AtomicBool>,
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

    /// Starts a request that is accepted at `now`.
    pub fn start(
        &self,
        class: Class,
        timeouts: &WorkTimeouts,
        budget: Option<Budget>,
        cancel: CancellationToken,
        now: Instant,
    ) -> RequestContext {
        let deadline = Deadline::new(Layer::Daemon, timeouts.work_ms(class), budget, now);
        self.context(class, deadline, cancel)
    }

    /// Starts an attempt of a job at `now`. Its W is the job's own, in milliseconds, and may be
    /// longer than the class's.
    pub fn start_job(
        &self,
        class: Class,
        work_ms: u64,
        cancel: CancellationToken,
        now: Instant,
    ) -> RequestContext {
        self.context(class, Deadline::new(Layer::Daemon, work_ms, None, now), cancel)
    }

    fn context(
        &self,
        class: Class,
        deadline: Deadline,
        cancel: CancellationToken,
    ) -> RequestContext {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", self.pid);
        RequestContext { id, class, deadline, cancel, wrap_up: Arc::default() }
    }
}
