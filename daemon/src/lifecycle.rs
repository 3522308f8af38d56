//! The life of a running daemon: until its end, the drain, and the shutdown.
//!
//! Owns what ends the daemon (a signal or a request, the end or a stall of the engine thread), and
//! the order and the times of the shutdown. Does not know how the parts were made.

use std::sync::Arc;
use std::time::Duration;

use ingle_client::exit;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits;
use ingle_jobs::Jobs;
use ingle_scheduler::command::{Command, EngineExit};
use ingle_scheduler::crash_journal::StallMark;
use ingle_scheduler::handle::EngineHandle;
use ingle_scheduler::watchdog::Watchdog;
use ingle_service::Service;

/// What can end the daemon, and what it has to end itself.
pub(crate) struct Lifecycle {
    /// The engine thread.
    pub(crate) engine: EngineHandle,
    /// Its end.
    pub(crate) engine_exit: oneshot::Receiver<EngineExit>,
    /// The watchdog of the engine thread.
    pub(crate) watchdog: Watchdog,
    /// Marks the crash journal when the engine thread stalls.
    pub(crate) stall_mark: StallMark,
    /// The service, for its downloads.
    pub(crate) service: Arc<Service>,
    /// The jobs.
    pub(crate) jobs: Jobs,
    /// The loops that accept connections; they end when the daemon drains.
    pub(crate) accepting: [JoinHandle<()>; 2],
    /// The connections.
    pub(crate) connections: TaskTracker,
    /// Begins the drain.
    pub(crate) draining: CancellationToken,
    /// Cancels what is in flight instead of waiting for it.
    pub(crate) at_once: CancellationToken,
    /// Closes every connection.
    pub(crate) closing: CancellationToken,
}

impl Lifecycle {
    /// Runs until something ends the daemon, shuts it down, and gives the exit code.
    pub(crate) async fn run(mut self) -> u8 {
        let mut code = tokio::select! {
            () = self.draining.cancelled() => exit::OK,
            ended = &mut self.engine_exit => engine_died(ended),
            stall = self.watchdog.clone().run(self.engine.clone()) => {
                tracing::error!(%stall, "the engine thread has stalled; the daemon ends");
                self.stall_mark.write();
                self.engine.alarm().trigger(stall);
                exit::ENGINE_STALLED
            }
        };
        // From here on no connection and no request is accepted, whatever the cause is.
        self.draining.cancel();
        if code == exit::OK {
            code = drain_engine(&self.engine, &mut self.engine_exit, &self.at_once).await;
        }
        self.shut_down().await;
        code
    }

    /// Ends the parts, each within a time of its own, so that none can hold up the daemon's end.
    async fn shut_down(self) {
        let Self { accepting: [socket, http], connections, jobs, service, closing, .. } = self;
        connections.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), async { tokio::join!(socket, http) })
            .await;
        // The results of jobs are in by now or never will be: they are stored before the clients that
        // wait for them get their replies.
        let _ = tokio::time::timeout(Duration::from_secs(2), jobs.shutdown()).await;
        // Downloads end with their child processes, and replies that are known already go out; then
        // the connections are closed.
        let last = async { tokio::join!(service.shutdown_downloads(), connections.wait()) };
        let _ = tokio::time::timeout(Duration::from_secs(1), last).await;
        closing.cancel();
    }
}

fn engine_died(ended: Result<EngineExit, oneshot::error::RecvError>) -> u8 {
    match ended {
        Ok(EngineExit::Finished) => exit::OK,
        Ok(EngineExit::Panicked(message)) => {
            tracing::error!(message, "the engine thread panicked; the daemon ends");
            exit::INTERNAL
        }
        Err(_) => exit::INTERNAL,
    }
}

/// Lets the engine finish what is in flight, then stops it at the next token, then abandons it.
async fn drain_engine(
    engine: &EngineHandle,
    engine_exit: &mut oneshot::Receiver<EngineExit>,
    at_once: &CancellationToken,
) -> u8 {
    let limit = Duration::from_millis(limits::DRAIN_MS);
    // A full inbox means that the thread takes no commands: it is abandoned below.
    let _ = engine.send(Command::Shutdown { now: at_once.is_cancelled() });
    tokio::select! {
        ended = &mut *engine_exit => return engine_died(ended),
        () = tokio::time::sleep(limit) => {}
        () = at_once.cancelled() => {}
    }
    let _ = engine.send(Command::Shutdown { now: true });
    match tokio::time::timeout(limit, &mut *engine_exit).await {
        Ok(ended) => engine_died(ended),
        Err(_) => {
            tracing::error!("the engine thread does not stop; the daemon ends without it");
            exit::INTERNAL
        }
    }
}
