//! A call that can become a job while it runs.
//!
//! Owns the moment in which it does: one compare-and-set decides between the call's result, its
//! connection's end and its promotion.

use std::sync::Arc;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::{JobParams, JobReply};
use tokio::sync::watch;

use super::live::LiveJob;
use super::record::JobRecord;
use super::state::{Ending, Move, Phase};
use super::{Jobs, clock};

/// A call under way that is not stored. Dropping it ends the work, as a connection's end does,
/// unless it was promoted before.
#[derive(Debug)]
pub struct RunningJob {
    jobs: Jobs,
    job: Arc<LiveJob>,
}

/// What came of a promotion.
#[derive(Debug)]
pub enum Promotion {
    /// The work had ended first.
    Ended(Box<JobReply>),
    /// It is a stored job now, and runs on; this is how it stands.
    Stored(Box<JobReply>),
}

impl Jobs {
    /// Starts a call of `class` that is not stored unless it is promoted. It needs no worker, and
    /// runs at once.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter; `OVERLOADED` when too many run already.
    pub fn start(&self, params: JobParams, class: Class) -> Result<RunningJob, ErrorBody> {
        let plan = self.inner.plan(&params, class)?;
        let room = Arc::clone(&self.inner.promotable).try_acquire_owned().map_err(|_| {
            ErrorBody::overloaded(format!("{} such calls are running", limits::PROMOTED_JOBS))
        })?;
        let record = self.inner.record(params, class, plan.work_ms);
        let cancel = self.inner.ending.child_token();
        let job = LiveJob::new(record, plan, Phase::Attached, cancel, room);
        job.take();
        let (inner, running) = (Arc::clone(&self.inner), Arc::clone(&job));
        self.inner.tasks.spawn(async move { inner.run(&running).await });
        Ok(RunningJob { jobs: self.clone(), job })
    }
}

impl RunningJob {
    /// Its progress, as it is reported.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<JobRecord> {
        self.job.state.subscribe()
    }

    /// Waits until the work has ended.
    pub async fn ended(&self) -> JobReply {
        self.job.ended().await.reply(clock::unix_ms())
    }

    /// Makes a stored job of the call, which from then on nobody but `jobs.cancel` and its own time
    /// can end. When this returns `Stored`, it is on disk.
    ///
    /// # Errors
    /// `JOB_STORE_UNAVAILABLE`: the call could not be stored and has been ended, with its partial
    /// result in the error; `CANCELLED` when its end came first.
    pub async fn promote(self) -> Result<Promotion, ErrorBody> {
        let inner = Arc::clone(&self.jobs.inner);
        let job = Arc::clone(&self.job);
        // A task of its own: once it is detached, nobody's going may leave it half stored.
        let promoting = tokio::spawn(async move {
            let stored = async {
                inner.opened().await?;
                let room = inner.store.room().await?;
                if job.claim.make(Move::Promote).is_err() {
                    return Ok(None);
                }
                inner.live.add(&job);
                Ok(Some(room.insert(job.record())))
            };
            let stored = match stored.await {
                Ok(None) => return Ok(Promotion::Ended(Box::new(reply(&job).await))),
                Ok(Some(stored)) => stored.await.unwrap_or_else(|_| Err(inner.store.ended())),
                Err(error) => Err(error),
            };
            match stored {
                Ok(()) => Ok(Promotion::Stored(Box::new(job.record().reply(clock::unix_ms())))),
                Err(error) => {
                    // Its text so far is all that can be given now.
                    let partial = job.record().partial.value();
                    let _ = job.claim.make(Move::End(Ending::Cancelled));
                    job.cancel.cancel();
                    let mut error = ErrorBody::from(error);
                    if let Some(partial) = partial {
                        error.details = serde_json::json!({ "partial_result": partial });
                    }
                    Err(error)
                }
            }
        });
        let bug = |error: tokio::task::JoinError| {
            ErrorBody::new(ErrorCode::Internal, format!("the promotion failed: {error}"))
        };
        promoting.await.map_err(bug)?
    }
}

async fn reply(job: &LiveJob) -> JobReply {
    job.ended().await.reply(clock::unix_ms())
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        if self.job.claim.make(Move::HangUp).is_ok() {
            self.job.cancel.cancel();
        }
    }
}
