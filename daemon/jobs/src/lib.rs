//! Jobs: work that outlives the connection that started it.
//!
//! Owns the jobs that have not ended, the workers that run them, and the API under the edges:
//! create, get, list, wait, cancel, delete, and calls that become jobs ([`Jobs::start`]). Knows
//! nothing of RPC or MCP; the work itself is the service's.
//!
//! A store that cannot be opened or written keeps nobody from anything else: every call here says
//! what is wrong with it, and the daemon serves the rest.

pub mod clock;
pub mod limits;
mod live;
pub mod promote;
pub mod record;
mod run;
pub mod settings;
pub mod state;
pub mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ingle_protocol::deadline::Deadline;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::{Class, Layer};
use ingle_protocol::wire::jobs::{
    DeleteJobsParams, JobEvent, JobList, JobParams, JobReply, JobStatus, JobWork, JobsDeleted,
    ListJobsParams, WaitParams,
};
use ingle_protocol::wire::status::JobCounts;
use serde_json::json;
use tokio::sync::watch::Receiver;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::live::{LiveJob, LiveJobs};
use self::record::{JobRecord, Outcome};
use self::settings::JobSettings;
use self::state::{Ending, Move, Phase, Plan};
use self::store::{Keep, Store, StoreError};
use self::watch::watch;
use ingle_scheduler::error::EngineFailure;
use ingle_service::request::RequestContext;
use ingle_service::{Service, embed, validate};

/// All jobs. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    service: Arc<Service>,
    store: Store,
    /// Whether the store has been opened, and what waited in it is queued here.
    is_open: Mutex<bool>,
    live: LiveJobs,
    /// KiB of parameters that jobs may hold together.
    room: Arc<Semaphore>,
    /// Calls that may become jobs.
    promotable: Arc<Semaphore>,
    /// Fires when jobs must end because the daemon does.
    ending: CancellationToken,
    /// Runs that are not over.
    tasks: TaskTracker,
}

impl Jobs {
    /// Starts the store's thread, and workers on the runtime this is called in. The store is opened
    /// beside: whoever comes first waits for it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(service: Arc<Service>, settings: JobSettings) -> io::Result<Self> {
        let keep = Keep {
            ms: u64::from(settings.keep_days) * 24 * 60 * 60 * 1_000,
            count: settings.keep_count,
        };
        let inner = Arc::new(Inner {
            store: Store::spawn(service.paths.job_store(), keep)?,
            service,
            is_open: Mutex::new(false),
            live: LiveJobs::new(),
            room: Arc::new(Semaphore::new(limits::QUEUED_JOB_BYTES / 1_024)),
            promotable: Arc::new(Semaphore::new(limits::PROMOTED_JOBS)),
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for _ in 0..settings.workers {
            tokio::spawn(Arc::clone(&inner).work());
        }
        tokio::spawn(Arc::clone(&inner).clean_up());
        Ok(Self { inner })
    }

    /// Stores a job and queues it. The reply comes when it is on disk.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter; `OVERLOADED` when too many jobs wait;
    /// `JOB_STORE_UNAVAILABLE`; `SHUTTING_DOWN`; `TIMEOUT` and `CANCELLED`, after which it may exist.
    pub async fn create(
        &self,
        params: JobParams,
        context: &RequestContext,
    ) -> Result<JobReply, ErrorBody> {
        let inner = &self.inner;
        if inner.service.draining.is_cancelled() {
            return Err(EngineFailure::ShuttingDown.into());
        }
        let plan = inner.plan(&params, Class::Job)?;
        let job = inner.queued(inner.record(params, Class::Job, plan.work_ms), plan)?;
        let created = job.record();
        let inner = Arc::clone(inner);
        // Fires when the caller has gone or has been told that its time is over.
        let gone = context.cancel.child_token();
        let _gone_on_drop = gone.clone().drop_guard();
        // A task of its own: a caller that goes leaves no job that is stored and not queued.
        let storing = tokio::spawn(async move {
            inner.opened().await?;
            if gone.is_cancelled() {
                return Err(EngineFailure::Cancelled.into());
            }
            // Known before it is stored: whoever finds it in the store can wait for it and end it.
            inner.live.add(&job);
            let stored = inner.store.insert(job.record()).await;
            match &stored {
                Ok(()) => inner.live.queue(job),
                Err(_) => inner.live.remove(&job.id),
            }
            Ok(stored?)
        });
        let stored = self.inner.service.bounded("storing the job", context, joined(storing)).await;
        stored.map_err(|error| match error.code {
            // A caller that sends it again would have it twice.
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
        let record = self.inner.service.bounded("reading the job", context, self.find(id)).await?;
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
                &format!("must be from 1 to {}", limits::JOB_LIST),
            ));
        }
        let read = async {
            self.inner.opened().await?;
            Ok(self.inner.store.list(params.status, limit).await?)
        };
        let mut stored: Vec<JobRecord> =
            self.inner.service.bounded("listing the jobs", context, read).await?;
        for job in &mut stored {
            // What runs is further than what was written last.
            if let Some(live) = self.inner.live.get(&job.id) {
                *job = live.record();
            }
        }
        let is_wanted = |job: &JobRecord| params.status.is_none_or(|status| job.status == status);
        let jobs = stored.iter().filter(|job| is_wanted(job)).map(JobRecord::info).collect();
        Ok(JobList { jobs })
    }

    /// Waits until a job has ended, the caller's W is over, or the job is left to the next daemon, and
    /// tells `events` meanwhile how it comes on. The reply to a caller whose time is over is `pending`, and no error.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_STORE_UNAVAILABLE`, `CANCELLED` when the caller has gone.
    pub async fn wait(
        &self,
        params: &WaitParams,
        events: mpsc::Sender<JobEvent>,
        context: &RequestContext,
    ) -> Result<JobReply, ErrorBody> {
        let accepted_at = context.deadline.accepted_at;
        let until = context.deadline.work_ends_at(accepted_at);
        // Only the waiting is as short as the caller asks: a look has the time of any look.
        let look_ms = self.inner.service.work_timeouts.work_ms(Class::Simple);
        let look = RequestContext {
            deadline: Deadline::new(Layer::Daemon, look_ms, None, accepted_at),
            ..context.clone()
        };
        let found =
            self.inner.service.bounded("reading the job", &look, self.find(&params.id)).await?;
        let Some(job) = self.inner.live.get(&params.id) else {
            // It ended between the two looks, or before them.
            let record =
                self.inner.service.bounded("reading the job", &look, self.find(&params.id)).await;
            return Ok(record.unwrap_or(found).reply(clock::unix_ms()));
        };
        let limit = tokio::time::Instant::from_std(until);
        tokio::select! {
            () = context.cancel.cancelled() => return Err(EngineFailure::Cancelled.into()),
            () = self.inner.left_waiting(&job) => {}
            _ = tokio::time::timeout_at(limit, watch(&job, &events)) => {}
        }
        Ok(job.record().reply(clock::unix_ms()))
    }

    /// Ends a job, unless it has ended; the reply says how it did.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_STORE_UNAVAILABLE`.
    pub async fn cancel(&self, id: &str, context: &RequestContext) -> Result<JobReply, ErrorBody> {
        // What waited for this daemon is known once the store is open.
        let opened = async { Ok(self.inner.opened().await?) };
        self.inner.service.bounded("opening the job store", context, opened).await?;
        let Some(job) = self.inner.live.get(id) else {
            return self.get(id, context).await;
        };
        if job.claim.make(Move::End(Ending::Cancelled)).is_ok() {
            job.cancel.cancel();
        }
        if job.claim.phase().is_cancelled() && job.take() {
            // No worker has seen it, so its end is ours to write; whoever asked may go meanwhile.
            self.inner.live.leave_queue(id);
            let (inner, job) = (Arc::clone(&self.inner), Arc::clone(&job));
            self.inner.tasks.spawn(async move {
                inner.end(&job, Ending::Cancelled, Err(run::cancelled()), None).await;
            });
        }
        let ended = async { Ok(job.ended().await) };
        let record = self.inner.service.bounded("ending the job", context, ended).await?;
        Ok(record.reply(clock::unix_ms()))
    }

    /// Forgets jobs that have ended.
    ///
    /// # Errors
    /// `INVALID_PARAMS` unless exactly one of the two parameters is given; `CONFLICT` for a job that
    /// has not ended; `JOB_NOT_FOUND`, `JOB_STORE_UNAVAILABLE`.
    pub async fn delete(
        &self,
        params: DeleteJobsParams,
        context: &RequestContext,
    ) -> Result<JobsDeleted, ErrorBody> {
        let store = &self.inner.store;
        let work = async {
            self.inner.opened().await?;
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
            self.inner.live.announce();
            Ok(JobsDeleted { deleted })
        };
        self.inner.service.bounded("deleting jobs", context, work).await
    }

    async fn not_deleted(&self, id: &str) -> ErrorBody {
        match self.find(id).await {
            Ok(_) => ErrorBody::new(ErrorCode::Conflict, format!("the job `{id}` has not ended"))
                .with_remediation(format!("Run `ingle jobs cancel {id}` first.")),
            Err(error) => error,
        }
    }

    /// Changes whenever a job comes, ends or is forgotten.
    #[must_use]
    pub fn changes(&self) -> Receiver<u64> {
        self.inner.live.changes()
    }

    /// One job as it is reported, while it has not ended.
    #[must_use]
    pub fn follow(&self, id: &str) -> Option<Receiver<JobRecord>> {
        self.inner.live.get(id).map(|job| job.state.subscribe())
    }

    /// Jobs that have not ended.
    #[must_use]
    pub fn counts(&self) -> JobCounts {
        JobCounts {
            running: self.inner.live.count(JobStatus::Running),
            queued: self.inner.live.count(JobStatus::Queued),
        }
    }

    /// A way to ask for [`Jobs::counts`] that keeps nothing alive.
    pub fn counter(&self) -> impl Fn() -> JobCounts + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.inner);
        move || inner.upgrade().map_or_else(JobCounts::default, |inner| Self { inner }.counts())
    }

    /// Interrupts what still runs, waits until every end is stored, and closes the store. What waits
    /// is run by the next daemon.
    pub async fn shutdown(&self) {
        self.inner.ending.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.store.close().await;
    }

    /// The job as it is now.
    async fn find(&self, id: &str) -> Result<JobRecord, ErrorBody> {
        self.inner.opened().await?;
        if let Some(job) = self.inner.live.get(id) {
            return Ok(job.record());
        }
        self.inner.store.get(id.to_owned()).await?.ok_or_else(|| {
            ErrorBody::new(ErrorCode::JobNotFound, format!("there is no job `{id}`"))
                .with_details(json!({ "job_id": id }))
        })
    }
}

impl Inner {
    /// A job's time, and whether its parameters make sense.
    fn plan(&self, params: &JobParams, class: Class) -> Result<Plan, ErrorBody> {
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
        let default_ms = self.service.work_timeouts.work_ms(class);
        Plan::new(params, default_ms)
            .map_err(|(field, problem)| ErrorBody::invalid(field, &problem))
    }

    fn record(&self, params: JobParams, class: Class, work_ms: Option<u64>) -> JobRecord {
        JobRecord::new(new_id(), Arc::new(params), class, work_ms, clock::unix_ms())
    }

    /// A stored job that waits, if there is room for it.
    fn queued(&self, record: JobRecord, plan: Plan) -> Result<Arc<LiveJob>, ErrorBody> {
        const LEAST_KIB: usize = limits::QUEUED_JOB_BYTES / limits::QUEUED_JOBS / 1_024;
        let bytes = serde_json::to_vec(&*record.params).map_or(0, |params| params.len());
        let kib = u32::try_from((bytes / 1_024).max(LEAST_KIB)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib).map_err(|_| {
            ErrorBody::overloaded(format!(
                "{} jobs are waiting or running, and there is no room for this one",
                self.live.count(JobStatus::Queued) + self.live.count(JobStatus::Running)
            ))
        })?;
        Ok(LiveJob::new(record, plan, Phase::Detached, self.ending.child_token(), room))
    }

    /// Makes sure that the store is open, and that what waited in it is queued.
    async fn opened(self: &Arc<Self>) -> Result<(), StoreError> {
        if *self.is_open.lock().await {
            return Ok(());
        }
        let inner = Arc::clone(self);
        // A task of its own: a caller that goes must not take with it what was found.
        let opening = tokio::spawn(async move {
            let mut is_open = inner.is_open.lock().await;
            if !*is_open {
                let recovered = inner.store.open().await?;
                if recovered.interrupted > 0 || !recovered.queued.is_empty() {
                    let (interrupted, queued) = (recovered.interrupted, recovered.queued.len());
                    tracing::info!(interrupted, queued, "jobs of the last daemon were found");
                }
                for record in recovered.queued {
                    inner.requeue(record).await;
                }
                *is_open = true;
            }
            Ok(())
        });
        opening.await.unwrap_or_else(|_| Err(self.store.ended()))
    }

    /// Queues a job that a daemon before this one took.
    async fn requeue(self: &Arc<Self>, mut record: JobRecord) {
        let plan = self.plan(&record.params, record.class);
        let job = plan.and_then(|plan| self.queued(record.clone(), plan));
        match job {
            Ok(job) => {
                self.live.add(&job);
                self.live.queue(job);
            }
            Err(error) => {
                // Other settings than then; it ends as it would have if it came now.
                record.end(JobStatus::Failed, Outcome::Error(error), clock::unix_ms());
                self.service.metrics.job_ended(JobStatus::Failed);
                if let Err(error) = self.store.end(record).await {
                    tracing::warn!(%error, "a job that cannot be run was not stored");
                }
            }
        }
    }

    /// Waits until the daemon drains, if it does so before a worker takes the job.
    async fn left_waiting(&self, job: &LiveJob) {
        self.service.draining.cancelled().await;
        if job.state.borrow().status != JobStatus::Queued {
            std::future::pending().await
        }
    }

    /// One worker: runs one job at a time until the daemon drains.
    async fn work(self: Arc<Self>) {
        if let Err(error) = self.opened().await {
            // The first call that finds the store sound queues what is in it.
            tracing::warn!(%error, "the job store is not open");
        }
        loop {
            let job = tokio::select! {
                biased;
                () = self.service.draining.cancelled() => return,
                job = self.live.next() => job,
            };
            let Some(job) = job else { continue };
            let inner = Arc::clone(&self);
            // In a task of its own, so that a bug in one run is not this worker's end.
            let _ = self.tasks.spawn(async move { inner.run(&job).await }).await;
        }
    }

    /// Has the store cleaned up now and then.
    async fn clean_up(self: Arc<Self>) {
        let pause = Duration::from_millis(limits::JOB_SWEEP_MS);
        loop {
            tokio::select! {
                () = self.service.draining.cancelled() => return,
                () = tokio::time::sleep(pause) => self.store.sweep(),
            }
        }
    }
}

async fn joined<T>(task: tokio::task::JoinHandle<Result<T, ErrorBody>>) -> Result<T, ErrorBody> {
    match task.await {
        Ok(outcome) => outcome,
        Err(error) => Err(ErrorBody::new(ErrorCode::Internal, error.to_string())),
    }
}

/// A name no other job has: 60 random bits, in letters and digits that are easily told apart.
fn new_id() -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_i64(clock::unix_ms());
    hasher.write_u32(std::process::id());
    let bits = hasher.finish();
    let digit =
        |place: u32| char::from(DIGITS[usize::try_from(bits >> (5 * place) & 31).unwrap_or(0)]);
    format!("j-{}", (0..12).map(digit).collect::<String>())
}
