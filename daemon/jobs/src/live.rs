//! A job that has not ended, and the queue of those that wait.
//!
//! Owns what running, cancelling and watching a job share. Knows nothing of the store.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ingle_protocol::wire::jobs::JobStatus;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::record::JobRecord;
use super::state::{Claim, Phase, Plan};

/// A job that has not ended, or whose end is not stored yet.
#[derive(Debug)]
pub(super) struct LiveJob {
    /// Its name.
    pub(super) id: String,
    /// Its time.
    pub(super) plan: Plan,
    /// Who ends it.
    pub(super) claim: Claim,
    /// Ends its work.
    pub(super) cancel: CancellationToken,
    /// Fires when it could not be made a stored job: nobody knows its name, so its end is not stored
    /// either.
    pub(super) refused: CancellationToken,
    /// How it is seen; watchers wake at reports, not at every token.
    pub(super) state: watch::Sender<JobRecord>,
    /// Whether somebody runs it, or has ended it before anybody did.
    is_taken: AtomicBool,
    /// Its share of what jobs may hold.
    _room: OwnedSemaphorePermit,
}

impl LiveJob {
    /// A job in `phase` that nobody runs.
    pub(super) fn new(
        record: JobRecord,
        plan: Plan,
        phase: Phase,
        cancel: CancellationToken,
        room: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        let id = record.id.clone();
        Arc::new(Self {
            id,
            plan,
            claim: Claim::new(phase),
            cancel,
            refused: CancellationToken::new(),
            state: watch::Sender::new(record),
            is_taken: AtomicBool::new(false),
            _room: room,
        })
    }

    /// Whether the caller is the first that wants to run or end it, and so is the one who does.
    pub(super) fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::AcqRel)
    }

    /// The job as it is now.
    pub(super) fn record(&self) -> JobRecord {
        self.state.borrow().clone()
    }

    /// Waits until it has ended: its end is stored, or could not be.
    pub(super) async fn ended(&self) -> JobRecord {
        let mut watch = self.state.subscribe();
        let ended = watch.wait_for(|record| record.status.has_ended()).await;
        // The sender is this job itself, so it is there.
        ended.map_or_else(|_| self.record(), |record| record.clone())
    }
}

/// Jobs that have not ended, and which of them come next.
#[derive(Debug)]
pub(super) struct LiveJobs {
    all: Mutex<HashMap<String, Arc<LiveJob>>>,
    waiting: Mutex<VecDeque<Arc<LiveJob>>>,
    /// As many permits as jobs were put into `waiting`.
    ready: Semaphore,
    /// Counts the changes of which jobs there are.
    changes: watch::Sender<u64>,
}

impl LiveJobs {
    /// None.
    pub(super) fn new() -> Self {
        Self {
            all: Mutex::default(),
            waiting: Mutex::default(),
            ready: Semaphore::new(0),
            changes: watch::Sender::new(0),
        }
    }

    /// Makes a job known.
    pub(super) fn add(&self, job: &Arc<LiveJob>) {
        lock(&self.all).insert(job.id.clone(), Arc::clone(job));
        self.announce();
    }

    /// Puts a job that is known behind all others, unless it was cancelled since.
    pub(super) fn queue(&self, job: Arc<LiveJob>) {
        if job.is_taken.load(Ordering::Acquire) {
            return;
        }
        lock(&self.waiting).push_back(job);
        self.ready.add_permits(1);
    }

    /// The next job to run; waits for one. The caller has taken it.
    pub(super) async fn next(&self) -> Option<Arc<LiveJob>> {
        self.ready.acquire().await.ok()?.forget();
        // One that was cancelled meanwhile has left the queue, or been taken.
        let job = lock(&self.waiting).pop_front();
        job.filter(|job| job.take())
    }

    /// Takes a job that was cancelled out of the queue.
    pub(super) fn leave_queue(&self, id: &str) {
        lock(&self.waiting).retain(|job| job.id != id);
    }

    /// Forgets a job.
    pub(super) fn remove(&self, id: &str) {
        let known = lock(&self.all).remove(id);
        if known.is_some() {
            self.announce();
        }
    }

    /// Wakes whoever wants to know which jobs there are.
    pub(super) fn announce(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Changes whenever a job comes or ends.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// One job.
    pub(super) fn get(&self, id: &str) -> Option<Arc<LiveJob>> {
        lock(&self.all).get(id).cloned()
    }

    /// How many are `status`.
    pub(super) fn count(&self, status: JobStatus) -> usize {
        let all = lock(&self.all);
        all.values().filter(|job| job.state.borrow().status == status).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both are whole after every statement, so a panic elsewhere cannot have torn them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
