//! Metrics of the edges, and the output format of all metrics.
//!
//! Owns the counts of requests, errors and connections, and Prometheus' text. Edges, jobs and the
//! service call it; `gather` collects all metrics for one reading. What happens on the engine thread
//! is counted in `engine::counters`.
//!
//! A label never holds text from a request: methods are `&'static str`, codes and edges enums. So
//! the number of series is bounded by the program's own text.

pub mod families;
mod gather;
pub mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ingle_protocol::error::ErrorCode;
use ingle_protocol::wire::jobs::JobStatus;
use ingle_protocol::wire::status::JobCounts;

use self::families::{Families, labels};
use ingle_engine::histogram::{Histogram, WAITS};

/// The label of an unknown method, or of a request that names none.
pub const UNKNOWN: &str = "unknown";

/// The edge that a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// JSON-RPC on the local socket.
    Rpc,
    /// A tool call of an MCP host.
    Mcp,
    /// HTTP.
    Http,
}

impl Edge {
    /// Every edge.
    pub const ALL: [Self; 3] = [Self::Rpc, Self::Mcp, Self::Http];

    /// The name in labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Mcp => "mcp",
            Self::Http => "http",
        }
    }
}

/// How a request ended.
pub type Outcome = Result<(), ErrorCode>;

/// The labels of an outcome; codes have a metric of their own.
const OUTCOMES: [&str; 4] = ["ok", "error", "timeout", "cancelled"];

const fn outcome_index(outcome: Outcome) -> usize {
    match outcome {
        Ok(()) => 0,
        Err(ErrorCode::Timeout) => 2,
        Err(ErrorCode::Cancelled) => 3,
        Err(_) => 1,
    }
}

/// The counts of one edge.
#[derive(Debug)]
struct EdgeCounts {
    /// In the order of [`ErrorCode::ALL`].
    errors: Vec<AtomicU64>,
    in_flight: AtomicUsize,
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Default for EdgeCounts {
    fn default() -> Self {
        Self {
            errors: ErrorCode::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            in_flight: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

/// The counts of one method of one edge.
#[derive(Debug)]
struct MethodCounts {
    /// In the order of [`OUTCOMES`].
    outcomes: [u64; OUTCOMES.len()],
    took: Histogram,
}

/// The start of the counts: the daemon's start.
#[derive(Debug)]
struct StartTime(SystemTime);

impl Default for StartTime {
    fn default() -> Self {
        Self(SystemTime::now())
    }
}

/// Gives the present counts of jobs.
type JobsNow = Box<dyn Fn() -> JobCounts + Send + Sync>;

/// The counts of everything above the engine.
#[derive(Default)]
pub struct Metrics {
    started: StartTime,
    edges: [EdgeCounts; Edge::ALL.len()],
    methods: Mutex<BTreeMap<(Edge, &'static str), MethodCounts>>,
    /// In the order of [`JobStatus::ALL`].
    jobs: [AtomicU64; JobStatus::ALL.len()],
    jobs_now: OnceLock<JobsNow>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Starts the timer of a request, which is in flight until [`RequestTimer::end`].
    ///
    /// A timer that is dropped before counts the request as cancelled. `method` is a name in this
    /// program, never text from the request.
    pub fn begin(self: &Arc<Self>, edge: Edge, method: &'static str) -> RequestTimer {
        self.edge(edge).in_flight.fetch_add(1, Ordering::Relaxed);
        let (metrics, began_at) = (Arc::clone(self), Instant::now());
        RequestTimer { metrics, edge, method, began_at, has_ended: false }
    }

    /// Counts a request that was answered at once and never in flight.
    pub fn request(&self, edge: Edge, method: &'static str, outcome: Outcome) {
        self.count(edge, method, outcome, Duration::ZERO);
    }

    /// Counts a new connection, which is open until the guard is dropped.
    pub fn connected(self: &Arc<Self>, edge: Edge) -> OpenConnection {
        let counts = self.edge(edge);
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        counts.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection { metrics: Arc::clone(self), edge }
    }

    /// Connections open now, over all edges.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.edges.iter().map(|counts| counts.open.load(Ordering::Relaxed)).sum()
    }

    /// Counts a connection that was refused because too many are open.
    pub fn connection_refused(&self, edge: Edge) {
        self.edge(edge).refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a stored job that has ended.
    pub fn job_ended(&self, status: JobStatus) {
        if let Some(index) = JobStatus::ALL.iter().position(|&known| known == status) {
            self.jobs[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sets the source of the present counts of jobs. Only the first call counts.
    ///
    /// Jobs are above the service, whose metrics show their number.
    pub fn watch_jobs(&self, now: impl Fn() -> JobCounts + Send + Sync + 'static) {
        let _ = self.jobs_now.set(Box::new(now));
    }

    fn count(&self, edge: Edge, method: &'static str, outcome: Outcome, took: Duration) {
        if let Err(code) = outcome
            && let Some(index) = ErrorCode::ALL.iter().position(|&known| known == code)
        {
            self.edge(edge).errors[index].fetch_add(1, Ordering::Relaxed);
        }
        let mut methods = self.methods();
        let counts = methods.entry((edge, method)).or_insert_with(|| MethodCounts {
            outcomes: [0; OUTCOMES.len()],
            took: Histogram::new(WAITS),
        });
        counts.outcomes[outcome_index(outcome)] += 1;
        counts.took.record(took);
    }

    fn edge(&self, edge: Edge) -> &EdgeCounts {
        &self.edges[edge as usize]
    }

    fn methods(&self) -> MutexGuard<'_, BTreeMap<(Edge, &'static str), MethodCounts>> {
        // Every statement leaves the counts whole, so a panic cannot have torn them.
        self.methods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the families of these counts.
    pub fn describe(&self, families: &mut Families) {
        let since_1970 = self.started.0.duration_since(SystemTime::UNIX_EPOCH);
        families
            .gauge("ingle_start_time_seconds", "When the daemon started, in seconds since 1970.")
            .seconds([], since_1970.unwrap_or_default());
        self.describe_requests(families);
        self.describe_connections(families);
        self.describe_jobs(families);
    }

    fn describe_requests(&self, families: &mut Families) {
        let methods = self.methods();
        let mut requests = families.counter(
            "ingle_requests_total",
            "Requests that have ended, by edge, method (a tool's name for MCP, an endpoint for HTTP) and outcome.",
        );
        for ((edge, method), counts) in methods.iter() {
            for (outcome, count) in OUTCOMES.into_iter().zip(counts.outcomes) {
                let labels = [("edge", edge.as_str()), ("method", method), ("outcome", outcome)];
                requests.count(labels, count);
            }
        }
        let mut took = families.histogram(
            "ingle_request_duration_seconds",
            "Time from a request's arrival to its answer, streams to their end.",
        );
        for ((edge, method), counts) in methods.iter() {
            took.buckets(&[("edge", edge.as_str()), ("method", method)], &counts.took.read());
        }
        drop(methods);
        let mut errors = families
            .counter("ingle_errors_total", "Requests that ended with an error, by edge and code.");
        for (edge, counts) in self.by_edge() {
            for (code, count) in ErrorCode::ALL.iter().zip(&counts.errors) {
                let labels = [("edge", edge.as_str()), ("code", code.as_str())];
                errors.count(labels, count.load(Ordering::Relaxed));
            }
        }
        let mut in_flight =
            families.gauge("ingle_requests_in_flight", "Requests that have not been answered.");
        for (edge, counts) in self.by_edge() {
            in_flight.size(labels(edge), counts.in_flight.load(Ordering::Relaxed));
        }
    }

    fn describe_connections(&self, families: &mut Families) {
        let mut open = families.gauge("ingle_connections", "Connections open now.");
        for (edge, counts) in self.by_edge() {
            open.size(labels(edge), counts.open.load(Ordering::Relaxed));
        }
        let mut accepted = families.counter(
            "ingle_connections_total",
            "Connections since the start. One of the socket's that turns to MCP is counted for both.",
        );
        for (edge, counts) in self.by_edge() {
            accepted.count(labels(edge), counts.accepted.load(Ordering::Relaxed));
        }
        let mut refused = families.counter(
            "ingle_connections_refused_total",
            "Connections that were refused because too many were open.",
        );
        for (edge, counts) in self.by_edge() {
            refused.count(labels(edge), counts.refused.load(Ordering::Relaxed));
        }
    }

    fn describe_jobs(&self, families: &mut Families) {
        let mut now = families.gauge("ingle_jobs", "Jobs that have not ended, by status.");
        if let Some(jobs) = self.jobs_now.get().map(|jobs_now| jobs_now()) {
            for (status, count) in
                [(JobStatus::Queued, jobs.queued), (JobStatus::Running, jobs.running)]
            {
                now.size([("status", status.as_str())], count);
            }
        }
        let mut ended =
            families.counter("ingle_jobs_ended_total", "Stored jobs that have ended, by status.");
        for (status, count) in JobStatus::ALL.into_iter().zip(&self.jobs) {
            if status.has_ended() {
                ended.count([("status", status.as_str())], count.load(Ordering::Relaxed));
            }
        }
    }

    fn by_edge(&self) -> impl Iterator<Item = (Edge, &EdgeCounts)> {
        Edge::ALL.into_iter().zip(&self.edges)
    }
}

/// The timer of a request in flight.
#[derive(Debug)]
#[must_use = "it counts as cancelled when it is dropped"]
pub struct RequestTimer {
    metrics: Arc<Metrics>,
    edge: Edge,
    method: &'static str,
    began_at: Instant,
    has_ended: bool,
}

impl RequestTimer {
    /// Ends the request with this outcome.
    pub fn end(mut self, outcome: Outcome) {
        self.has_ended = true;
        self.count(outcome);
    }

    fn count(&self, outcome: Outcome) {
        self.metrics.edge(self.edge).in_flight.fetch_sub(1, Ordering::Relaxed);
        self.metrics.count(self.edge, self.method, outcome, self.began_at.elapsed());
    }
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        if !self.has_ended {
            self.count(Err(ErrorCode::Cancelled));
        }
    }
}

/// An open connection.
#[derive(Debug)]
#[must_use = "it counts as closed when it is dropped"]
pub struct OpenConnection {
    metrics: Arc<Metrics>,
    edge: Edge,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.edge(self.edge).open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
