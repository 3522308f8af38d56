//! A load in progress: adopts tensors from the loader thread, and reports progress.
//!
//! Owns the builder, the loader thread's stream and the waiting callers. Does not choose the engine
//! (`engines` does) and does not keep the model (the registry does).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::wire::models::{EngineKind, LoadedModel, ProgressEvent};
use tokio::sync::{mpsc, oneshot};

use crate::error::EngineFailure;
use ingle_engine::engines::{LoadStart, LoadTarget};
use ingle_engine::error::EngineError;
use ingle_engine::loader::{LoadItem, LoadStream};
use ingle_engine::tensor::HostTensor;
use tracing::Span;

/// A caller that waits for a load.
#[derive(Debug)]
pub struct LoadWaiter {
    /// The caller's tracing span.
    pub span: Span,
    /// Receives the progress.
    pub progress: mpsc::Sender<ProgressEvent>,
    /// Receives the outcome.
    pub done: oneshot::Sender<Result<LoadedModel, EngineFailure>>,
}

impl LoadWaiter {
    /// Sends the outcome, and logs it for the caller's request.
    pub fn notify(self, outcome: Result<LoadedModel, EngineFailure>) {
        self.span.in_scope(|| match &outcome {
            Ok(loaded) => tracing::debug!(load_ms = loaded.load_ms, "load request ended"),
            Err(failure) => failure.log("load request failed"),
        });
        // A closed channel is no error: the caller has gone.
        let _ = self.done.send(outcome);
    }
}

/// A load that has just ended.
pub struct FinishedLoad {
    /// The model.
    pub name: String,
    /// The loaded model, or the error.
    pub result: Result<LoadedModel, EngineError>,
    /// The callers that wait for it.
    pub waiters: Vec<LoadWaiter>,
}

impl FinishedLoad {
    /// Replies to the waiting callers.
    ///
    /// Only after the status shows the outcome: a caller may read the status next.
    pub fn notify(self) {
        for waiter in self.waiters {
            waiter.notify(self.result.clone().map_err(EngineFailure::Engine));
        }
    }
}

/// Advances the builder, as [`Builder::advance`](ingle_engine::backend::Builder::advance) does.
fn advance(target: &mut LoadTarget, has_all: bool) -> Result<bool, EngineError> {
    match target {
        LoadTarget::Generator(builder) => builder.advance(has_all),
        LoadTarget::Embedder(builder) => builder.advance(has_all),
    }
}

/// Passes a tensor to the builder.
fn adopt(target: &mut LoadTarget, tensor: HostTensor) -> Result<(), EngineError> {
    match target {
        LoadTarget::Generator(builder) => builder.adopt(tensor),
        LoadTarget::Embedder(builder) => builder.adopt(tensor),
    }
}

/// Maximum time between two checks of a load that counts as time without progress.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A load in progress.
pub(super) struct ModelLoad {
    pub(super) target: LoadTarget,
    pub(super) stream: LoadStream,
    pub(super) cancel: CancelOnDrop,
    pub(super) engine: EngineKind,
    pub(super) bytes_read: u64,
    pub(super) bytes_total: u64,
    pub(super) started_at: Instant,
    /// When the loader thread last delivered an item.
    pub(super) moved_at: Instant,
    /// When the load was last checked.
    pub(super) checked_at: Instant,
    /// Maximum time without an item.
    pub(super) stall: Duration,
    pub(super) waiters: Vec<LoadWaiter>,
}

impl ModelLoad {
    /// A load that begins at `now`.
    pub(super) fn new(
        start: LoadStart,
        cancel: Arc<AtomicBool>,
        engine: EngineKind,
        stall: Duration,
        now: Instant,
    ) -> Self {
        Self {
            target: start.target,
            stream: start.stream,
            cancel: CancelOnDrop(cancel),
            engine,
            bytes_read: 0,
            bytes_total: 0,
            started_at: now,
            moved_at: now,
            checked_at: now,
            stall,
            waiters: Vec::new(),
        }
    }

    /// Number of callers that still wait for its outcome.
    pub(super) fn awaited_by(&self) -> usize {
        self.waiters.iter().filter(|waiter| !waiter.done.is_closed()).count()
    }

    /// Adds a waiting caller, or returns it when too many wait.
    pub(super) fn wait(&mut self, waiter: LoadWaiter) -> Result<(), LoadWaiter> {
        self.waiters.retain(|waiter| !waiter.done.is_closed());
        if self.waiters.len() >= limits::QUEUED_LOADS {
            return Err(waiter);
        }
        self.waiters.push(waiter);
        Ok(())
    }

    /// The fraction of its bytes loaded.
    #[expect(clippy::cast_precision_loss, reason = "a share of the bytes, for people")]
    pub(super) fn fraction(&self) -> f32 {
        if self.bytes_total == 0 { 0.0 } else { self.bytes_read as f32 / self.bytes_total as f32 }
    }

    /// Adopts tensors until `ends_at`, waiting at most `wait` for each.
    ///
    /// `Some` when the load has ended: all tensors are adopted, or it failed.
    pub(super) fn adopt_until(
        &mut self,
        ends_at: Instant,
        wait: Duration,
    ) -> Option<Result<(), EngineError>> {
        // After a long gap between two checks the process or the machine was suspended, and the
        // loader thread with it.
        if self.checked_at.elapsed() > MAX_CHECK_INTERVAL {
            self.moved_at = Instant::now();
        }
        self.checked_at = Instant::now();
        loop {
            let has_all = self.stream.ended();
            match advance(&mut self.target, has_all) {
                Ok(true) if has_all => return Some(Ok(())),
                Ok(true) => {}
                Ok(false) if Instant::now() >= ends_at => return None,
                Ok(false) => continue,
                Err(error) => return Some(Err(error)),
            }
            let left = ends_at.saturating_duration_since(Instant::now());
            let item = if wait.is_zero() {
                self.stream.try_next()
            } else {
                self.stream.next_within(wait.min(left))
            };
            let Some(item) = item else {
                return self.has_stalled(Instant::now()).map(Err);
            };
            self.moved_at = Instant::now();
            match item {
                LoadItem::Tensor { tensor, bytes_read, bytes_total } => {
                    if let Err(error) = adopt(&mut self.target, tensor) {
                        return Some(Err(error));
                    }
                    (self.bytes_read, self.bytes_total) = (bytes_read, bytes_total);
                    self.report();
                }
                LoadItem::Progress { bytes_read, bytes_total } => {
                    (self.bytes_read, self.bytes_total) = (bytes_read, bytes_total);
                    self.report();
                }
                LoadItem::Done => {}
                LoadItem::Failed(error) => return Some(Err(error)),
            }
            if Instant::now() >= ends_at {
                return None;
            }
        }
    }

    /// The failure of a load whose loader thread is stuck, most likely on a disk that hangs.
    ///
    /// The thread itself cannot be ended; it ends when the disk responds.
    fn has_stalled(&self, now: Instant) -> Option<EngineError> {
        let silent = now.saturating_duration_since(self.moved_at);
        (!self.stream.ended() && silent >= self.stall).then(|| {
            EngineError::Native(format!(
                "the load has made no progress for {} ms at {} of {} bytes; check the model's disk",
                silent.as_millis(),
                self.bytes_read,
                self.bytes_total
            ))
        })
    }

    fn report(&self) {
        for waiter in &self.waiters {
            // A progress event that does not fit into the channel is dropped.
            let _ = waiter.progress.try_send(ProgressEvent::Progress {
                phase: "loading".to_owned(),
                done_bytes: self.bytes_read,
                total_bytes: self.bytes_total,
            });
        }
    }
}

/// Ends the loader thread when the load is dropped, so that it does not read on in vain.
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
