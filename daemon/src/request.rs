//! What every request carries through the daemon, whatever edge it came in by.
//!
//! Owns request names, and the bundle of deadline and cancel token. Knows nothing of edges or
//! engines.

use std::sync::atomic::{AtomicU64, Ordering};
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
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        RequestContext {
            id: format!("{}-{number}", self.pid),
            class,
            deadline: Deadline::new(Layer::Daemon, timeouts.work_ms(class), budget, now),
            cancel,
        }
    }
}
