//! Live jobs, which have not ended, and their queue.
//!
//! Owns the state that running, cancelling and watching a job share. Does not know the store.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ingle_protocol::wire::jobs::JobStatus;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::record::JobRecord;
use super::state::{JobPhase, JobPlan, Phase};

/// A job that has not ended, or whose end is not stored yet.
#[derive(Debug)]
pub(super) struct LiveJob {
    /// The job's id.
    pub(super) id: String,
    /// The times and retries.
    pub(super) plan: JobPlan,
    /// The phase, which decides which of several endings counts.
    pub(super) phase: JobPhase,
    /// Cancels the work.
    pub(super) cancel: CancellationToken,
    /// Fires when its promotion to a stored job failed: no client has its id, so its end is not
    /// stored either.
    pub(super) refused: CancellationToken,
    /// The record; watchers wake at reports, not at every token.
    pub(super) state: watch::Sender<JobRecord>,
    /// Whether a worker runs it, or a cancel ended it before one did.
    is_taken: AtomicBool,
    /// Its share of the limit on all jobs.
    _permit: OwnedSemaphorePermit,
}

impl LiveJob {
    /// A job in `phase` that no worker has taken.
    pub(super) fn new(
        record: JobRecord,
        plan: JobPlan,
        phase: Phase,
        cancel: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        let id = record.id.clone();
        Arc::new(Self {
            id,
            plan,
            phase: JobPhase::new(phase),
            cancel,
            refused: CancellationToken::new(),
            state: watch::Sender::new(record),
            is_taken: AtomicBool::new(false),
            _permit: permit,
        })
    }

    /// Takes the job to run or to end it; true for the first caller only.
    pub(super) fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::AcqRel)
    }

    /// The present record.
    pub(super) fn record(&self) -> JobRecord {
        self.state.borrow().clone()
    }

    /// Waits until the job has ended: its end is stored, or could not be.
    pub(super) async fn ended(&self) -> JobRecord {
        let mut watch = self.state.subscribe();
        let ended = watch.wait_for(|record| record.status.has_ended()).await;
        // The sender is a field of this job, so the channel is open.
        ended.map_or_else(|_| self.record(), |record| record.clone())
    }
}

/// The live jobs, and the queue of those without a worker.
#[derive(Debug)]
pub(super) struct LiveJobs {
    all: Mutex<HashMap<String, Arc<LiveJob>>>,
    waiting: Mutex<VecDeque<Arc<LiveJob>>>,
    /// One permit for each job that was put into `waiting`.
    ready: Semaphore,
    /// Counts the changes of the list of jobs.
    changes: watch::Sender<u64>,
}

impl LiveJobs {
    /// No jobs.
    pub(super) fn new() -> Self {
        Self {
            all: Mutex::default(),
            waiting: Mutex::default(),
            ready: Semaphore::new(0),
            changes: watch::Sender::new(0),
        }
    }

    /// Adds a job.
    pub(super) fn add(&self, job: &Arc<LiveJob>) {
        lock(&self.all).insert(job.id.clone(), Arc::clone(job));
        self.announce();
    }

    /// Queues a job that was added, unless it was cancelled since.
    pub(super) fn queue(&self, job: Arc<LiveJob>) {
        if job.is_taken.load(Ordering::Acquire) {
            return;
        }
        lock(&self.waiting).push_back(job);
        self.ready.add_permits(1);
    }

    /// Waits for the next job to run, which the caller has taken then.
    pub(super) async fn next(&self) -> Option<Arc<LiveJob>> {
        self.ready.acquire().await.ok()?.forget();
        // A job that was cancelled meanwhile has left the queue, or is taken.
        let job = lock(&self.waiting).pop_front();
        job.filter(|job| job.take())
    }

    /// Removes a cancelled job from the queue.
    pub(super) fn leave_queue(&self, id: &str) {
        lock(&self.waiting).retain(|job| job.id != id);
    }

    /// Removes a job.
    pub(super) fn remove(&self, id: &str) {
        let known = lock(&self.all).remove(id);
        if known.is_some() {
            self.announce();
        }
    }

    /// Announces a change of the list of jobs.
    pub(super) fn announce(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// A counter that changes whenever a job is added or ends.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// One job.
    pub(super) fn get(&self, id: &str) -> Option<Arc<LiveJob>> {
        lock(&self.all).get(id).cloned()
    }

    /// The number of jobs with this status.
    pub(super) fn count(&self, status: JobStatus) -> usize {
        let all = lock(&self.all);
        all.values().filter(|job| job.state.borrow().status == status).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement leaves both whole, so a panic elsewhere cannot have torn them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
