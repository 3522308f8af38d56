//! The daemon's limit of 1.5 W, on every step of a request.
//!
//! Owns what ends a step early: the deadline, the cancel token, a stalled engine thread. Does not
//! know what the step does.

use std::time::Instant;

use ingle_protocol::deadline::Deadline;
use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::Layer;
use tokio::sync::oneshot;

use crate::request::RequestContext;
use crate::service::Service;
use ingle_scheduler::error::EngineFailure;

/// The `TIMEOUT` of the daemon layer, for when no inner layer has answered at 1.5 W.
#[must_use]
pub(crate) fn daemon_timeout(
    what: &'static str,
    context: &RequestContext,
    now: Instant,
) -> ErrorBody {
    let Deadline { limit_ms, .. } = context.deadline;
    ErrorBody::timeout(what, Layer::Daemon, limit_ms, context.deadline.elapsed_ms(now))
}

impl Service {
    /// Waits for the engine's reply, within the bounds of [`Service::engine_step`].
    ///
    /// A limit that the engine reports as reached is counted.
    pub(crate) async fn engine_reply<T>(
        &self,
        what: &'static str,
        context: &RequestContext,
        reply: oneshot::Receiver<Result<T, EngineFailure>>,
    ) -> Result<T, ErrorBody> {
        let reply = async {
            match reply.await {
                Ok(outcome) => Ok(outcome.inspect_err(|failure| {
                    if let EngineFailure::Timeout { layer, .. } = failure {
                        self.timeout_counters.count(context.class, *layer);
                    }
                })?),
                Err(_) => Err(EngineFailure::ThreadEnded.into()),
            }
        };
        self.engine_step(what, context, reply).await
    }

    /// Runs a step of a request until the deadline, its cancellation, or a stalled engine thread.
    pub(crate) async fn engine_step<T>(
        &self,
        what: &'static str,
        context: &RequestContext,
        step: impl Future<Output = Result<T, ErrorBody>>,
    ) -> Result<T, ErrorBody> {
        tokio::select! {
            stalled = self.engine.alarm().stalled() => Err(stalled.into()),
            outcome = self.within_deadline(what, context, step) => outcome,
        }
    }

    /// Runs a step of a request that needs no engine, until the deadline or its cancellation.
    ///
    /// # Errors
    /// The step's own, `CANCELLED`, and `TIMEOUT` at the daemon's limit, which is counted.
    pub async fn within_deadline<T>(
        &self,
        what: &'static str,
        context: &RequestContext,
        step: impl Future<Output = Result<T, ErrorBody>>,
    ) -> Result<T, ErrorBody> {
        let limit = tokio::time::Instant::from_std(context.deadline.expires_at());
        tokio::select! {
            () = context.cancel.cancelled() => Err(EngineFailure::Cancelled.into()),
            outcome = tokio::time::timeout_at(limit, step) => outcome.unwrap_or_else(|_| {
                self.timeout_counters.count(context.class, Layer::Daemon);
                Err(daemon_timeout(what, context, Instant::now()))
            }),
        }
    }
}
