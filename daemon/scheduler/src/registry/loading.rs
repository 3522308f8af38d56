//! The life of one load: what it takes over, who waits for it, and what it ends in.
//!
//! Owns the builder, the loader thread's stream and the callers who wait. Which engine builds is
//! `engines`' business, what becomes of the model the registry's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::wire::models::{EngineKind, LoadedModel, ProgressEvent};
use tokio::sync::{mpsc, oneshot};

use super::Slot;
use super::resident::{Resident, ResidentEmbedder};
use crate::error::EngineFailure;
use ingle_engine::engines::{LoadStart, LoadTarget};
use ingle_engine::error::EngineError;
use ingle_engine::loader::{LoadItem, LoadStream};
use ingle_engine::tensor::HostTensor;

/// Somebody who waits for a load.
#[derive(Debug)]
pub struct LoadWaiter {
    /// Where progress goes.
    pub progress: mpsc::Sender<ProgressEvent>,
    /// Where the outcome goes.
    pub done: oneshot::Sender<Result<LoadedModel, EngineFailure>>,
}

/// The outcome of a load that has just ended.
pub struct LoadEnd {
    /// The model.
    pub name: String,
    /// What it came to.
    pub result: Result<LoadedModel, EngineError>,
    /// Who waits for it.
    pub waiters: Vec<LoadWaiter>,
}

impl LoadEnd {
    /// Tells those who wait. Only once the status shows the outcome: who hears of a load may ask
    /// for the status next.
    pub fn tell(self) {
        for waiter in self.waiters {
            // A caller that has gone needs no answer.
            let _ = waiter.done.send(self.result.clone().map_err(EngineFailure::Engine));
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

/// Gives the builder a tensor.
fn adopt(target: &mut LoadTarget, tensor: HostTensor) -> Result<(), EngineError> {
    match target {
        LoadTarget::Generator(builder) => builder.adopt(tensor),
        LoadTarget::Embedder(builder) => builder.adopt(tensor),
    }
}

/// The model, once nothing more is to come.
pub(super) fn finish(
    target: LoadTarget,
    engine: EngineKind,
    started_at: Instant,
) -> Result<Slot, EngineError> {
    Ok(match target {
        LoadTarget::Generator(builder) => {
            Slot::Resident(Resident::new(builder.finish()?, engine, started_at))
        }
        LoadTarget::Embedder(builder) => {
            Slot::Embedder(ResidentEmbedder::new(builder.finish()?, engine, started_at))
        }
    })
}

/// The longest time between two looks at a load that counts as its own silence.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// A load under way.
pub(super) struct Loading {
    pub(super) target: LoadTarget,
    pub(super) stream: LoadStream,
    pub(super) cancel: CancelOnDrop,
    pub(super) engine: EngineKind,
    pub(super) bytes_read: u64,
    pub(super) bytes_total: u64,
    pub(super) started_at: Instant,
    /// When the loader thread gave something last.
    pub(super) moved_at: Instant,
    /// When it was looked at last.
    pub(super) looked_at: Instant,
    /// How long it may give nothing.
    pub(super) stall: Duration,
    pub(super) waiters: Vec<LoadWaiter>,
}

impl Loading {
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
            looked_at: now,
            stall,
            waiters: Vec::new(),
        }
    }

    /// How many still wait for its outcome.
    pub(super) fn awaited_by(&self) -> usize {
        self.waiters.iter().filter(|waiter| !waiter.done.is_closed()).count()
    }

    /// Tells one more of its progress and outcome, unless too many wait already.
    pub(super) fn wait(&mut self, waiter: LoadWaiter) -> Result<(), LoadWaiter> {
        self.waiters.retain(|waiter| !waiter.done.is_closed());
        if self.waiters.len() >= limits::QUEUED_LOADS {
            return Err(waiter);
        }
        self.waiters.push(waiter);
        Ok(())
    }

    /// The share of its bytes in place.
    #[expect(clippy::cast_precision_loss, reason = "a share of the bytes, for people")]
    pub(super) fn fraction(&self) -> f32 {
        if self.bytes_total == 0 { 0.0 } else { self.bytes_read as f32 / self.bytes_total as f32 }
    }

    /// `Some` when the loader has nothing more to give and the model is as good as built.
    pub(super) fn adopt_until(
        &mut self,
        ends_at: Instant,
        wait: Duration,
    ) -> Option<Result<(), EngineError>> {
        // Nobody looked: this process, or the machine, stood still, and so did the loader.
        if self.looked_at.elapsed() > LONGEST_LOOK {
            self.moved_at = Instant::now();
        }
        self.looked_at = Instant::now();
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

    /// Why a load is given up whose loader thread is stuck: a disk that hangs, most likely. The
    /// thread itself cannot be ended; it ends when the disk answers.
    fn has_stalled(&self, now: Instant) -> Option<EngineError> {
        let silent = now.saturating_duration_since(self.moved_at);
        (!self.stream.ended() && silent >= self.stall).then(|| {
            EngineError::Native(format!(
                "the load has stood still for {} ms at {} of {} bytes; is the disk of the model well?",
                silent.as_millis(),
                self.bytes_read,
                self.bytes_total
            ))
        })
    }

    fn report(&self) {
        for waiter in &self.waiters {
            // Progress that finds no room is not missed.
            let _ = waiter.progress.try_send(ProgressEvent::Progress {
                phase: "loading".to_owned(),
                done_bytes: self.bytes_read,
                total_bytes: self.bytes_total,
            });
        }
    }
}

/// Ends the loader thread when the load goes, so that it never reads on for nobody.
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
