//! The daemon's own limit, on every step of a request.
//!
//! Owns what ends a step early: its time, its cancel token, an engine thread that stands still. What
//! the step does is its caller's business.

use std::time::Instant;

use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::Layer;
use tokio::sync::oneshot;

use super::Service;
use super::generate::daemon_timeout;
use crate::request::RequestContext;
use ingle_scheduler::error::EngineFailure;

impl Service {
    /// Waits for the engine's answer to a request, as [`Service::in_time`] does; a limit that the
    /// engine says was reached is counted.
    pub(super) async fn within_limit<T>(
        &self,
        what: &'static str,
        context: &RequestContext,
        outcome: oneshot::Receiver<Result<T, EngineFailure>>,
    ) -> Result<T, ErrorBody> {
        let outcome = async {
            match outcome.await {
                Ok(outcome) => Ok(outcome.inspect_err(|failure| {
                    if let EngineFailure::Timeout { layer, .. } = failure {
                        self.timeout_counters.count(context.class, *layer);
                    }
                })?),
                Err(_) => Err(EngineFailure::ThreadEnded.into()),
            }
        };
        self.in_time(what, context, outcome).await
    }

    /// Bounds a step of a request by the daemon's limit and by its cancel token, and ends it when
    /// the engine thread stands still.
    pub(super) async fn in_time<T>(
        &self,
        what: &'static str,
        context: &RequestContext,
        step: impl Future<Output = Result<T, ErrorBody>>,
    ) -> Result<T, ErrorBody> {
        tokio::select! {
            stalled = self.engine.alarm().stalled() => Err(stalled.into()),
            outcome = self.bounded(what, context, step) => outcome,
        }
    }

    /// Bounds a step of a request that needs no engine.
    ///
    /// # Errors
    /// The step's own, `CANCELLED`, and `TIMEOUT` at the daemon's limit, which is counted.
    pub async fn bounded<T>(
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
