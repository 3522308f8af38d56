//! The pool: live jobs, their queue, the workers, and the recovery of the last daemon's jobs.
//!
//! Owns what the API and the runs share. Does not know the edges.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::{JobParams, JobStatus, JobWork};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::limits;
use crate::live::{LiveJob, LiveJobs};
use crate::record::{JobRecord, Outcome};
use crate::settings::JobSettings;
use crate::state::{JobPlan, Phase};
use crate::store::{Retention, Store, StoreError};
use ingle_service::{Service, embed, validate};

/// The jobs that have not ended, the store, and the workers.
#[derive(Debug)]
pub(super) struct JobPool {
    pub(super) service: Arc<Service>,
    pub(super) store: Store,
    /// Whether the store is open and the jobs that waited in it are queued.
    pub(super) is_open: Mutex<bool>,
    pub(super) live: LiveJobs,
    /// One permit for each KiB of parameters that all jobs may hold together.
    pub(super) parameter_permits: Arc<Semaphore>,
    /// One permit for each running call that may become a job.
    pub(super) call_permits: Arc<Semaphore>,
    /// Fires when running jobs must end because the daemon ends.
    pub(super) ending: CancellationToken,
    /// The runs in progress.
    pub(super) tasks: TaskTracker,
}

impl JobPool {
    /// Starts the store's thread, the workers and the periodic cleanup.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn spawn(
        service: Arc<Service>,
        path: PathBuf,
        settings: JobSettings,
    ) -> io::Result<Arc<Self>> {
        let retention = Retention {
            ms: u64::from(settings.keep_days) * 24 * 60 * 60 * 1_000,
            count: settings.keep_count,
        };
        let pool = Arc::new(Self {
            store: Store::spawn(path, retention)?,
            service,
            is_open: Mutex::new(false),
            live: LiveJobs::new(),
            parameter_permits: Arc::new(Semaphore::new(limits::QUEUED_JOB_BYTES / 1_024)),
            call_permits: Arc::new(Semaphore::new(limits::PROMOTED_JOBS)),
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for _ in 0..settings.workers {
            tokio::spawn(Arc::clone(&pool).work());
        }
        tokio::spawn(Arc::clone(&pool).clean_up());
        Ok(pool)
    }

    /// Checks a job's parameters and reads its times.
    pub(super) fn plan(&self, params: &JobParams, class: Class) -> Result<JobPlan, ErrorBody> {
        let budget = match &params.work {
            JobWork::Generate(params) => {
                validate::validate(params)?;
                params.budget
            }
            JobWork::Embed(params) => {
                embed::validate(&params.input)?;
                params.budget
            }
        };
        if budget.is_some() {
            return Err(ErrorBody::invalid("budget", "is for calls; a job's time is `timeout_s`"));
        }
        let default_ms = self.service.work_timeouts().work_ms(class);
        JobPlan::new(params, default_ms)
            .map_err(|(field, problem)| ErrorBody::invalid(field, &problem))
    }

    /// The record of a new job.
    pub(super) fn record(
        &self,
        params: JobParams,
        class: Class,
        work_ms: Option<u64>,
    ) -> JobRecord {
        JobRecord::new(new_id(), Arc::new(params), class, work_ms, clock::unix_ms())
    }

    /// Admits a job to the queue, if its parameters fit the limit of all jobs.
    pub(super) fn admit(
        &self,
        record: JobRecord,
        plan: JobPlan,
    ) -> Result<Arc<LiveJob>, ErrorBody> {
        const LEAST_KIB: usize = limits::QUEUED_JOB_BYTES / limits::QUEUED_JOBS / 1_024;
        let bytes = serde_json::to_vec(&*record.params).map_or(0, |params| params.len());
        let kib = u32::try_from((bytes / 1_024).max(LEAST_KIB)).unwrap_or(u32::MAX);
        let permit =
            Arc::clone(&self.parameter_permits).try_acquire_many_owned(kib).map_err(|_| {
                ErrorBody::overloaded(format!(
                    "{} jobs are queued or running, and the queue has no room for this one",
                    self.live.count(JobStatus::Queued) + self.live.count(JobStatus::Running)
                ))
            })?;
        Ok(LiveJob::new(record, plan, Phase::Detached, self.ending.child_token(), permit))
    }

    /// Opens the store unless it is open, and queues the jobs that waited in it.
    pub(super) async fn ensure_open(self: &Arc<Self>) -> Result<(), StoreError> {
        if *self.is_open.lock().await {
            return Ok(());
        }
        let pool = Arc::clone(self);
        // A task of its own: a client that goes must not take the recovered jobs with it.
        let opening = tokio::spawn(async move {
            let mut is_open = pool.is_open.lock().await;
            if !*is_open {
                let recovered = pool.store.open().await?;
                if recovered.interrupted > 0 || !recovered.queued.is_empty() {
                    let (interrupted, queued) = (recovered.interrupted, recovered.queued.len());
                    tracing::info!(interrupted, queued, "recovered the jobs of the last daemon");
                }
                for record in recovered.queued {
                    pool.requeue(record).await;
                }
                *is_open = true;
            }
            Ok(())
        });
        opening.await.unwrap_or_else(|_| Err(self.store.ended()))
    }

    /// Queues a job that an earlier daemon accepted.
    async fn requeue(self: &Arc<Self>, mut record: JobRecord) {
        let plan = self.plan(&record.params, record.class);
        let job = plan.and_then(|plan| self.admit(record.clone(), plan));
        match job {
            Ok(job) => {
                self.live.add(&job);
                self.live.queue(job);
            }
            Err(error) => {
                // The settings have changed since; it ends with the error of a new job.
                record.end(JobStatus::Failed, Outcome::Error(error), clock::unix_ms());
                self.service.metrics().job_ended(JobStatus::Failed);
                if let Err(error) = self.store.end(record).await {
                    tracing::warn!(%error, "the end of a job that cannot run was not stored");
                }
            }
        }
    }

    /// Waits until the daemon drains, and for ever if a worker has taken the job by then.
    pub(super) async fn drained_while_queued(&self, job: &LiveJob) {
        self.service.draining().cancelled().await;
        if job.state.borrow().status != JobStatus::Queued {
            std::future::pending().await
        }
    }

    /// Runs one job at a time until the daemon drains: the loop of one worker.
    async fn work(self: Arc<Self>) {
        if let Err(error) = self.ensure_open().await {
            // The first call that can open the store queues the jobs in it.
            tracing::warn!(%error, "the job store is not open");
        }
        loop {
            let job = tokio::select! {
                biased;
                () = self.service.draining().cancelled() => return,
                job = self.live.next() => job,
            };
            let Some(job) = job else { continue };
            let pool = Arc::clone(&self);
            // A task of its own, so that a panic in one run does not end this worker.
            let _ = self.tasks.spawn(async move { pool.run(&job).await }).await;
        }
    }

    /// Cleans up the store periodically.
    async fn clean_up(self: Arc<Self>) {
        let pause = Duration::from_millis(limits::JOB_SWEEP_MS);
        loop {
            tokio::select! {
                () = self.service.draining().cancelled() => return,
                () = tokio::time::sleep(pause) => self.store.sweep(),
            }
        }
    }
}

/// A new job id: 60 random bits, in letters and digits that are easy to distinguish.
fn new_id() -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_i64(clock::unix_ms());
    hasher.write_u32(std::process::id());
    let bits = hasher.finish();
    let digit =
        |index: u32| char::from(DIGITS[usize::try_from(bits >> (5 * index) & 31).unwrap_or(0)]);
    format!("j-{}", (0..12).map(digit).collect::<String>())
}
