//! Jobs: work that outlives the connection that started it.
//!
//! Owns the jobs that have not ended, the workers that run them, and the API under the edges:
//! create, get, list, wait, cancel, delete, and calls that become jobs ([`Jobs::start`]). Does not
//! know RPC or MCP; the work itself is the service's.
//!
//! A store that cannot be opened or written affects jobs only: every call here reports the problem,
//! and the daemon serves everything else.
//!
//! # Layout
//! - `lib`, `promote`: the API, and calls that become jobs while they run.
//! - `pool`, `run`: the workers, and one job's run with its attempts.
//! - `state`: the transitions of a job's life and the arithmetic of its time, pure.
//! - `live`, `record`, `watch`: a job in memory, its record, its progress events.
//! - `store`, `clock`: the database on a thread of its own, and the age of what is in it.

pub mod clock;
pub mod limits;
mod live;
mod pool;
pub mod promote;
pub mod record;
mod run;
pub mod settings;
pub mod state;
pub mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ingle_protocol::deadline::Deadline;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::{Class, Layer};
use ingle_protocol::wire::jobs::{
    DeleteJobsParams, JobEvent, JobList, JobParams, JobReply, JobStatus, JobsDeleted,
    ListJobsParams, WaitParams,
};
use ingle_protocol::wire::status::JobCounts;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::sync::watch::Receiver;
use tracing::Instrument;

use self::pool::JobPool;
use self::record::JobRecord;
use self::settings::JobSettings;
use self::state::{Ending, Transition};
use self::watch::watch;
use ingle_scheduler::error::EngineFailure;
use ingle_service::Service;
use ingle_service::request::RequestContext;

/// All jobs. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Jobs {
    pool: Arc<JobPool>,
}

impl Jobs {
    /// Starts the thread of the store at `path`, and the workers on the current runtime.
    ///
    /// The workers open the store in the background; the first call waits for it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(service: Arc<Service>, path: PathBuf, settings: JobSettings) -> io::Result<Self> {
        Ok(Self { pool: JobPool::spawn(service, path, settings)? })
    }

    /// Stores a job and queues it. The reply means that it is on disk.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter; `OVERLOADED` when too many jobs wait;
    /// `JOB_STORE_UNAVAILABLE`; `SHUTTING_DOWN`; `TIMEOUT` and `CANCELLED`, after which the job may exist.
    pub async fn create(
        &self,
        params: JobParams,
        context: &RequestContext,
    ) -> Result<JobReply, ErrorBody> {
        let pool = &self.pool;
        if pool.service.draining().is_cancelled() {
            return Err(EngineFailure::ShuttingDown.into());
        }
        let plan = pool.plan(&params, Class::Job)?;
        let job = pool.admit(pool.record(params, Class::Job, plan.work_ms), plan)?;
        let created = job.record();
        let pool = Arc::clone(pool);
        // Fires when the client has gone or its time is over.
        let gone = context.cancel.child_token();
        let _gone_on_drop = gone.clone().drop_guard();
        // A task of its own: a client that goes must not leave a job that is stored and not queued.
        let store = async move {
            pool.ensure_open().await?;
            if gone.is_cancelled() {
                return Err(EngineFailure::Cancelled.into());
            }
            // It is live before it is stored: a client that finds it can wait for it and cancel it.
            pool.live.add(&job);
            let stored = pool.store.insert(job.record()).await;
            match &stored {
                Ok(()) => pool.live.queue(job),
                Err(_) => pool.live.remove(&job.id),
            }
            Ok(stored?)
        };
        let storing = tokio::spawn(store.in_current_span());
        let stored =
            self.pool.service.within_deadline("storing the job", context, joined(storing)).await;
        stored.map_err(|error| match error.code {
            // A client that sends the request again would have the job twice.
            ErrorCode::Timeout | ErrorCode::Cancelled => {
                let next = "It may have been created: see `ingle jobs list`.";
                error.with_remediation(next).with_retryable(false)
            }
            _ => error,
        })?;
        Ok(created.reply(clock::unix_ms()))
    }

    /// Reads one job.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_STORE_UNAVAILABLE`.
    pub async fn get(&self, id: &str, context: &RequestContext) -> Result<JobReply, ErrorBody> {
        let record =
            self.pool.service.within_deadline("reading the job", context, self.find(id)).await?;
        Ok(record.reply(clock::unix_ms()))
    }

    /// Lists jobs, the newest first.
    ///
    /// # Errors
    /// `INVALID_PARAMS` for a limit out of range; `JOB_STORE_UNAVAILABLE`.
    pub async fn list(
        &self,
        params: ListJobsParams,
        context: &RequestContext,
    ) -> Result<JobList, ErrorBody> {
        let limit = params.limit.unwrap_or(limits::DEFAULT_JOB_LIST);
        if !(1..=limits::JOB_LIST).contains(&limit) {
            return Err(ErrorBody::invalid(
                "limit",
                format!("must be from 1 to {}", limits::JOB_LIST),
            ));
        }
        let read = async {
            self.pool.ensure_open().await?;
            Ok(self.pool.store.list(params.status, limit).await?)
        };
        let mut stored: Vec<JobRecord> =
            self.pool.service.within_deadline("listing the jobs", context, read).await?;
        for job in &mut stored {
            // What runs is further than what was written last.
            if let Some(live) = self.pool.live.get(&job.id) {
                *job = live.record();
            }
        }
        let is_wanted = |job: &JobRecord| params.status.is_none_or(|status| job.status == status);
        let jobs = stored.iter().filter(|job| is_wanted(job)).map(JobRecord::info).collect();
        Ok(JobList { jobs })
    }

    /// Waits until a job has ended, the request's W is over, or the job is left to the next daemon.
    ///
    /// Progress goes to `events`. At the end of W the reply is `pending` and no error.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_STORE_UNAVAILABLE`, `CANCELLED` when the client has gone.
    pub async fn wait(
        &self,
        params: &WaitParams,
        events: mpsc::Sender<JobEvent>,
        context: &RequestContext,
    ) -> Result<JobReply, ErrorBody> {
        let accepted_at = context.deadline.accepted_at;
        let until = context.deadline.work_ends_at(accepted_at);
        // Only the waiting is as short as the request asks: reading the job has its usual time.
        let read_ms = self.pool.service.work_timeouts().work_ms(Class::Simple);
        let reading = RequestContext {
            deadline: Deadline::new(Layer::Daemon, read_ms, None, accepted_at),
            ..context.clone()
        };
        let found = self
            .pool
            .service
            .within_deadline("reading the job", &reading, self.find(&params.id))
            .await?;
        let Some(job) = self.pool.live.get(&params.id) else {
            // It ended between the two readings, or before them.
            let record = self
                .pool
                .service
                .within_deadline("reading the job", &reading, self.find(&params.id))
                .await;
            return Ok(record.unwrap_or(found).reply(clock::unix_ms()));
        };
        let limit = tokio::time::Instant::from_std(until);
        tokio::select! {
            () = context.cancel.cancelled() => return Err(EngineFailure::Cancelled.into()),
            () = self.pool.drained_while_queued(&job) => {}
            _ = tokio::time::timeout_at(limit, watch(&job, &events)) => {}
        }
        Ok(job.record().reply(clock::unix_ms()))
    }

    /// Cancels a job, unless it has ended; the reply has its outcome.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_STORE_UNAVAILABLE`.
    pub async fn cancel(&self, id: &str, context: &RequestContext) -> Result<JobReply, ErrorBody> {
        // Jobs that the last daemon left queued are live once the store is open.
        let opened = async { Ok(self.pool.ensure_open().await?) };
        self.pool.service.within_deadline("opening the job store", context, opened).await?;
        let Some(job) = self.pool.live.get(id) else {
            return self.get(id, context).await;
        };
        if job.phase.apply(Transition::End(Ending::Cancelled)).is_ok() {
            job.cancel.cancel();
        }
        if job.phase.get().is_cancelled() && job.take() {
            // No worker has taken it, so its end is written here, even if the client goes.
            self.pool.live.leave_queue(id);
            let (pool, job) = (Arc::clone(&self.pool), Arc::clone(&job));
            self.pool.tasks.spawn(async move {
                pool.end(&job, Ending::Cancelled, Err(run::cancelled()), None).await;
            });
        }
        let ended = async { Ok(job.ended().await) };
        let record = self.pool.service.within_deadline("ending the job", context, ended).await?;
        Ok(record.reply(clock::unix_ms()))
    }

    /// Deletes jobs that have ended.
    ///
    /// # Errors
    /// `INVALID_PARAMS` unless exactly one of the two parameters is given; `CONFLICT` for a job that
    /// has not ended; `JOB_NOT_FOUND`, `JOB_STORE_UNAVAILABLE`.
    pub async fn delete(
        &self,
        params: DeleteJobsParams,
        context: &RequestContext,
    ) -> Result<JobsDeleted, ErrorBody> {
        let store = &self.pool.store;
        let work = async {
            self.pool.ensure_open().await?;
            let deleted = match (params.id, params.all_ended) {
                (Some(id), false) => match store.delete(id.clone()).await? {
                    0 => return Err(self.not_deleted(&id).await),
                    deleted => deleted,
                },
                (None, true) => store.delete_ended().await?,
                _ => {
                    return Err(ErrorBody::invalid(
                        "id",
                        "or `all_ended` must be given, and not both",
                    ));
                }
            };
            self.pool.live.announce();
            Ok(JobsDeleted { deleted })
        };
        self.pool.service.within_deadline("deleting jobs", context, work).await
    }

    async fn not_deleted(&self, id: &str) -> ErrorBody {
        match self.find(id).await {
            Ok(_) => ErrorBody::new(ErrorCode::Conflict, format!("the job `{id}` has not ended"))
                .with_remediation(format!("Run `ingle jobs cancel {id}` first.")),
            Err(error) => error,
        }
    }

    /// A counter that changes whenever a job is added, ends or is deleted.
    #[must_use]
    pub fn changes(&self) -> Receiver<u64> {
        self.pool.live.changes()
    }

    /// The reports of a job that has not ended.
    #[must_use]
    pub fn follow(&self, id: &str) -> Option<Receiver<JobRecord>> {
        self.pool.live.get(id).map(|job| job.state.subscribe())
    }

    /// The counts of jobs that have not ended.
    #[must_use]
    pub fn counts(&self) -> JobCounts {
        JobCounts {
            running: self.pool.live.count(JobStatus::Running),
            queued: self.pool.live.count(JobStatus::Queued),
        }
    }

    /// A function that gives [`Jobs::counts`] and keeps nothing alive.
    pub fn counter(&self) -> impl Fn() -> JobCounts + Send + Sync + 'static {
        let pool = Arc::downgrade(&self.pool);
        move || pool.upgrade().map_or_else(JobCounts::default, |pool| Self { pool }.counts())
    }

    /// Interrupts running jobs, waits until every end is stored, and closes the store.
    ///
    /// The next daemon runs the queued jobs.
    pub async fn shutdown(&self) {
        self.pool.ending.cancel();
        self.pool.tasks.close();
        self.pool.tasks.wait().await;
        self.pool.store.close().await;
    }

    /// The job as it is now.
    async fn find(&self, id: &str) -> Result<JobRecord, ErrorBody> {
        self.pool.ensure_open().await?;
        if let Some(job) = self.pool.live.get(id) {
            return Ok(job.record());
        }
        self.pool.store.get(id.to_owned()).await?.ok_or_else(|| {
            ErrorBody::new(ErrorCode::JobNotFound, format!("there is no job `{id}`"))
                .with_details(json!({ "job_id": id }))
        })
    }
}

async fn joined<T>(task: tokio::task::JoinHandle<Result<T, ErrorBody>>) -> Result<T, ErrorBody> {
    match task.await {
        Ok(outcome) => outcome,
        Err(error) => Err(ErrorBody::new(ErrorCode::Internal, error.to_string())),
    }
}
