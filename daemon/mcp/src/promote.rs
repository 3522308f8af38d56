//! Tool calls that outlast their host's patience.
//!
//! Owns when a reply is due, and what it says of a call that has become a job: words that tell a
//! model how to go on. Knows nothing of single tools.

use std::time::Duration;

use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::{Class, margin_ms};
use ingle_protocol::wire::jobs::{JobInfo, JobParams, JobReply};
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::Peer;
use tokio::time::Instant;

use ingle_jobs::Jobs;
use ingle_jobs::promote::Promotion;

/// How long the host waits for one reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    limit_ms: u64,
}

impl Patience {
    /// A host that gives a call up after `limit_ms` milliseconds.
    #[must_use]
    pub const fn new(limit_ms: u64) -> Self {
        Self { limit_ms }
    }

    /// Milliseconds after which it gives a call up.
    #[must_use]
    pub const fn limit_ms(self) -> u64 {
        self.limit_ms
    }

    /// Milliseconds after which a reply is due: the host's limit less a margin for the way back.
    #[must_use]
    pub const fn due_ms(self) -> u64 {
        self.limit_ms.saturating_sub(margin_ms(self.limit_ms))
    }

    /// Milliseconds after which a call that becomes a job is answered, stored or not: half of the
    /// margin is left for the way back.
    #[must_use]
    pub const fn answer_ms(self) -> u64 {
        self.limit_ms.saturating_sub(margin_ms(self.limit_ms) / 2)
    }
}

/// Where a call's progress goes, if its host wants to hear of it.
pub struct Progress<'a> {
    peer: &'a Peer<RoleServer>,
    token: Option<ProgressToken>,
    told: f64,
}

impl<'a> Progress<'a> {
    /// Progress under the host's token; without one it goes nowhere.
    #[must_use]
    pub fn new(peer: &'a Peer<RoleServer>, token: Option<ProgressToken>) -> Self {
        Self { peer, token, told: 0.0 }
    }

    /// Tells how far the call has come, 0 to 1. Progress that does not grow is not told.
    pub async fn tell(&mut self, share: f32, message: &str) {
        // In thousandths: a float's other digits say nothing.
        let share = (f64::from(share) * 1_000.0).round() / 1_000.0;
        let Some(token) = self.token.clone().filter(|_| share > self.told) else { return };
        self.told = share;
        let note =
            ProgressNotificationParam::new(token, share).with_total(1.0).with_message(message);
        // A host that does not take progress still gets its result.
        let _ = self.peer.notify_progress(note).await;
    }
}

/// Runs a call of `class`. One that has not ended when its reply is due goes on as a stored job,
/// and the reply shows it as pending. Dropping the future before that ends the work.
///
/// # Errors
/// What [`Jobs::start`] and the promotion report; the error of work that failed is in the reply.
pub async fn run(
    jobs: &Jobs,
    params: JobParams,
    class: Class,
    patience: Patience,
    mut progress: Progress<'_>,
) -> Result<JobReply, ErrorBody> {
    let begun_at = Instant::now();
    let due_at = begun_at + Duration::from_millis(patience.due_ms());
    let answer_at = begun_at + Duration::from_millis(patience.answer_ms());
    let running = jobs.start(params, class)?;
    let mut watch = running.watch();
    loop {
        tokio::select! {
            biased;
            reply = running.ended() => return Ok(reply),
            () = tokio::time::sleep_until(due_at) => break,
            // The sender is gone when the work has ended, which the first branch sees.
            changed = watch.changed(), if progress.token.is_some() => if changed.is_ok() {
                let (share, message) = {
                    let record = watch.borrow_and_update();
                    (record.progress, record.message.clone())
                };
                progress.tell(share, &message).await;
            },
        }
    }
    match running.promote(answer_at).await? {
        Promotion::Ended(reply) | Promotion::Stored(reply) => Ok(*reply),
    }
}

/// How a model goes on with a job that has not ended; job_wait waits `wait_ms` milliseconds at most.
#[must_use]
pub fn going_on(job: &JobInfo, wait_ms: u64) -> String {
    let JobInfo { id, progress, message, .. } = job;
    let seconds = wait_ms.div_ceil(1_000);
    format!(
        "Not finished yet ({:.0} %, {message}): the work goes on as job {id}, and nothing is lost. \
         Call job_wait with {{\"job_id\": \"{id}\"}} to get the whole result; it waits up to {seconds} \
         seconds, and can be called again. job_get looks without waiting, job_cancel ends the job. \
         Do not send the same request again.",
        progress * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_due_a_little_before_the_host_gives_up() {
        for (limit_ms, due_ms) in [(60_000, 59_000), (1_000, 980), (100, 95), (3, 0)] {
            assert_eq!(Patience::new(limit_ms).due_ms(), due_ms);
        }
    }
}
