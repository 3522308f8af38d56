//! The events of a job for a client that waits for it.
//!
//! Owns which changes of the record become events. Does not know the store or the client's time.

use ingle_protocol::wire::jobs::{JobEvent, JobWarning};
use tokio::sync::mpsc;

use super::live::LiveJob;

/// Sends the progress and the warnings of a job until it has ended.
pub(super) async fn watch(job: &LiveJob, events: &mpsc::Sender<JobEvent>) {
    let mut state = job.state.subscribe();
    let mut sent = 0;
    let mut last = None;
    loop {
        let (progress, warnings, has_ended) = {
            let record = state.borrow_and_update();
            let progress = JobEvent::Progress {
                status: record.status,
                progress: record.progress,
                message: record.message.clone(),
            };
            let warnings = record.warnings.get(sent..).unwrap_or_default().to_vec();
            (progress, warnings, record.status.has_ended())
        };
        sent += warnings.len();
        for warning in warnings {
            let message = in_words(warning).to_owned();
            // A client that wants no events has closed the channel.
            let _ = events.send(JobEvent::Warning { warning, message }).await;
        }
        if has_ended {
            return;
        }
        if last.as_ref() != Some(&progress) {
            let _ = events.send(progress.clone()).await;
            last = Some(progress);
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

fn in_words(warning: JobWarning) -> &'static str {
    match warning {
        JobWarning::SoftTimeout => {
            "the soft timeout has passed; the text ends with its next sentence"
        }
        JobWarning::EightyPercent => "80 % of the job's time is over",
        JobWarning::Retry => "the attempt timed out; retrying",
    }
}
