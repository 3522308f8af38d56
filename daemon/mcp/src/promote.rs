//! Promotion of tool calls that outlast their host's timeout to jobs.
//!
//! Owns when a call is promoted, and the text that tells a model how to get the job's result. Does
//! not know single tools.

use std::time::Duration;

use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::{JobInfo, JobParams, JobReply};
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::Peer;
use tokio::time::Instant;

use ingle_jobs::Jobs;
use ingle_jobs::promote::Promotion;

use crate::host_timeout::HostTimeout;

/// Sends a call's progress to its host, if the host requested it.
pub struct Progress<'a> {
    peer: &'a Peer<RoleServer>,
    token: Option<ProgressToken>,
    last_share: f64,
}

impl<'a> Progress<'a> {
    /// Progress under the host's token. Without a token, nothing is sent.
    #[must_use]
    pub fn new(peer: &'a Peer<RoleServer>, token: Option<ProgressToken>) -> Self {
        Self { peer, token, last_share: 0.0 }
    }

    /// Sends the call's progress, 0 to 1. Progress that does not grow is not sent.
    pub async fn send(&mut self, share: f32, message: &str) {
        // Rounded to thousandths: further digits carry no information.
        let share = (f64::from(share) * 1_000.0).round() / 1_000.0;
        let Some(token) = self.token.clone().filter(|_| share > self.last_share) else { return };
        self.last_share = share;
        let note =
            ProgressNotificationParam::new(token, share).with_total(1.0).with_message(message);
        // A host that cannot receive progress still gets its result.
        let _ = self.peer.notify_progress(note).await;
    }
}

/// Runs a call of `class`. If it has not ended when its reply is due, it continues as a stored job,
/// and the reply shows it as pending. Dropping the future before that ends the work.
///
/// # Errors
/// What [`Jobs::start`] and the promotion report. The error of failed work is in the reply.
pub async fn run(
    jobs: &Jobs,
    params: JobParams,
    class: Class,
    timeout: HostTimeout,
    mut progress: Progress<'_>,
) -> Result<JobReply, ErrorBody> {
    let began_at = Instant::now();
    let due_at = began_at + Duration::from_millis(timeout.due_ms());
    let answer_at = began_at + Duration::from_millis(timeout.answer_ms());
    let running = jobs.start(params, class)?;
    let mut watch = running.watch();
    loop {
        tokio::select! {
            biased;
            reply = running.ended() => return Ok(reply),
            () = tokio::time::sleep_until(due_at) => break,
            // The sender is dropped when the work has ended; the first branch handles that.
            changed = watch.changed(), if progress.token.is_some() => if changed.is_ok() {
                let (share, message) = {
                    let record = watch.borrow_and_update();
                    (record.progress, record.message.clone())
                };
                progress.send(share, &message).await;
            },
        }
    }
    match running.promote(answer_at).await? {
        Promotion::Ended(reply) | Promotion::Stored(reply) => Ok(*reply),
    }
}

/// Tells a model how to get the result of a running job. `job_wait` waits up to `wait_ms`.
#[must_use]
pub fn running_job_text(job: &JobInfo, wait_ms: u64) -> String {
    let JobInfo { id, progress, message, .. } = job;
    let seconds = wait_ms.div_ceil(1_000);
    format!(
        "Not finished yet ({:.0} %, {message}): the work continues as job {id}, and nothing is \
         lost. Call job_wait with {{\"job_id\": \"{id}\"}} to get the whole result; it waits up to \
         {seconds} seconds, and can be called again. job_get does not wait, job_cancel ends the \
         job. Do not send the same request again.",
        progress * 100.0
    )
}
