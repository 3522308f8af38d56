//! What somebody who waits for a job is told meanwhile.
//!
//! Knows nothing of the store, nor of how long the caller waits.

use ingle_protocol::wire::jobs::{JobEvent, JobWarning};
use tokio::sync::mpsc;

use super::live::LiveJob;

/// Tells how a job comes on until it has ended.
pub(super) async fn watch(job: &LiveJob, events: &mpsc::Sender<JobEvent>) {
    let mut state = job.state.subscribe();
    let mut told = 0;
    let mut last = None;
    loop {
        let (news, warnings, has_ended) = {
            let record = state.borrow_and_update();
            let progress = JobEvent::Progress {
                status: record.status,
                progress: record.progress,
                message: record.message.clone(),
            };
            let warnings = record.warnings.get(told..).unwrap_or_default().to_vec();
            (progress, warnings, record.status.has_ended())
        };
        told += warnings.len();
        for warning in warnings {
            let message = in_words(warning).to_owned();
            // A caller that wants no events has closed this.
            let _ = events.send(JobEvent::Warning { warning, message }).await;
        }
        if has_ended {
            return;
        }
        if last.as_ref() != Some(&news) {
            let _ = events.send(news.clone()).await;
            last = Some(news);
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

fn in_words(warning: JobWarning) -> &'static str {
    match warning {
        JobWarning::SoftTimeout => "the soft timeout has passed; it ends with the next sentence",
        JobWarning::EightyPercent => "80 % of its time is gone",
        JobWarning::Retry => "it timed out and runs again",
    }
}
