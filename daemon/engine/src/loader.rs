//! The loader thread: reads, verifies and converts weights into plain memory.
//!
//! Owns one thread per load and its bounded output channel. Does not know engines or architectures:
//! the engine thread passes each [`HostTensor`] to a builder.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::time::Duration;

use crate::limits;

use super::error::EngineError;
use super::tensor::{HostTensor, WeightPrecision};

mod folder;
mod gguf;
mod source;

pub use folder::folder_loaded_bytes;
pub use gguf::{check_readable, loaded_bytes};
pub use source::Source;

/// Interval at which a loader with a full channel checks the cancel flag.
const WAIT_POLL: Duration = Duration::from_millis(1);

thread_local! {
    /// Whether this thread is a loader.
    ///
    /// It has a constant initial value and no destructor, so that a signal handler can read it: the
    /// access allocates and registers nothing.
    static IS_LOADER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a loader thread. Safe to call in a signal handler.
#[must_use]
pub fn is_loader_thread() -> bool {
    IS_LOADER.get()
}

/// An item from the loader thread.
#[derive(Debug)]
pub enum LoadItem {
    /// One tensor, with the load's progress in bytes of the file's tensors.
    Tensor {
        /// The tensor.
        tensor: HostTensor,
        /// Bytes read so far, this tensor included.
        bytes_read: u64,
        /// Bytes of all tensors.
        bytes_total: u64,
    },
    /// Progress of a load that builds its model on the loader thread.
    Progress {
        /// Bytes read so far.
        bytes_read: u64,
        /// Bytes of all tensors.
        bytes_total: u64,
    },
    /// All tensors were delivered; no item follows.
    Done,
    /// The load failed; no item follows.
    Failed(EngineError),
}

/// The engine thread's end of one load. Dropping it ends the loader thread.
#[derive(Debug)]
pub struct LoadStream {
    items: Receiver<LoadItem>,
    queued_bytes: Arc<AtomicU64>,
    ended: bool,
}

impl LoadStream {
    /// The next item if one is ready; always `None` after [`LoadItem::Done`] or
    /// [`LoadItem::Failed`].
    pub fn try_next(&mut self) -> Option<LoadItem> {
        if self.ended {
            return None;
        }
        match self.items.try_recv() {
            Ok(item) => Some(self.note(item)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(self.lost()),
        }
    }

    /// Waits at most `limit` for the next item; `None` when there is none or the load has ended.
    pub fn next_within(&mut self, limit: Duration) -> Option<LoadItem> {
        if self.ended {
            return None;
        }
        match self.items.recv_timeout(limit) {
            Ok(item) => Some(self.note(item)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(self.lost()),
        }
    }

    /// Whether [`LoadItem::Done`] or [`LoadItem::Failed`] was delivered.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    fn note(&mut self, item: LoadItem) -> LoadItem {
        match &item {
            LoadItem::Tensor { tensor, .. } => {
                self.queued_bytes.fetch_sub(tensor.bytes() as u64, Ordering::Relaxed);
            }
            LoadItem::Progress { .. } => {}
            LoadItem::Done | LoadItem::Failed(_) => self.ended = true,
        }
        item
    }

    fn lost(&mut self) -> LoadItem {
        self.ended = true;
        LoadItem::Failed(EngineError::Native("the loader thread ended without a result".to_owned()))
    }
}

/// Starts the loader thread for all tensors of `source`, in its order.
///
/// It ends promptly when `cancel` is set (with [`EngineError::Cancelled`]) or the stream is
/// dropped. A panic of the thread arrives as [`LoadItem::Failed`].
///
/// # Errors
/// [`EngineError::Native`] when the operating system gives no thread.
pub fn spawn(
    source: Arc<impl Source>,
    precision: WeightPrecision,
    cancel: Arc<AtomicBool>,
) -> Result<LoadStream, EngineError> {
    spawn_work(cancel, move |sink| load(&*source, precision, sink))
}

/// Starts a loader thread whose items come from `work`.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_work(
    cancel: Arc<AtomicBool>,
    work: impl FnOnce(&LoadSink) -> Result<(), LoaderExit> + Send + 'static,
) -> Result<LoadStream, EngineError> {
    let (sender, items) = sync_channel(limits::LOADER_TENSORS);
    let queued_bytes = Arc::new(AtomicU64::new(0));
    let sink = LoadSink { sender, queued_bytes: Arc::clone(&queued_bytes), cancel };
    spawn_with(sink, work)?;
    Ok(LoadStream { items, queued_bytes, ended: false })
}

fn spawn_with(
    sink: LoadSink,
    work: impl FnOnce(&LoadSink) -> Result<(), LoaderExit> + Send + 'static,
) -> Result<(), EngineError> {
    let body = move || {
        IS_LOADER.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&sink)));
        let last = match outcome {
            Ok(Ok(())) => LoadItem::Done,
            Ok(Err(LoaderExit::Failed(error))) => LoadItem::Failed(error),
            Ok(Err(LoaderExit::Disconnected)) => return,
            Err(panic) => LoadItem::Failed(EngineError::Native(format!(
                "the loader thread panicked: {}",
                crate::panic_message(panic.as_ref())
            ))),
        };
        // A blocking send: it ends when the stream takes the item or is dropped.
        let _ = sink.sender.send(last);
    };
    let spawned = std::thread::Builder::new().name("ingle-loader".to_owned()).spawn(body);
    spawned.map(drop).map_err(|error| {
        EngineError::Native(format!("the loader thread could not be started: {error}"))
    })
}

/// Why the loader thread ended early.
#[derive(Debug)]
pub enum LoaderExit {
    /// The load failed or was cancelled.
    Failed(EngineError),
    /// The stream was dropped.
    Disconnected,
}

impl From<EngineError> for LoaderExit {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

/// The loader thread's end of the channel.
#[derive(Debug)]
pub struct LoadSink {
    sender: SyncSender<LoadItem>,
    queued_bytes: Arc<AtomicU64>,
    cancel: Arc<AtomicBool>,
}

impl LoadSink {
    /// Fails if the load is cancelled.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`].
    pub fn check_cancel(&self) -> Result<(), EngineError> {
        if self.cancel.load(Ordering::Relaxed) { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    /// Waits until the channel can take `bytes`, and sends the item, unless cancelled.
    ///
    /// # Errors
    /// When the load was cancelled or the stream was dropped.
    pub fn send(&self, item: LoadItem, bytes: u64) -> Result<(), LoaderExit> {
        let mut item = item;
        loop {
            self.check_cancel()?;
            let queued = self.queued_bytes.load(Ordering::Relaxed);
            // The count is raised before the item can be taken, so it never goes below zero.
            if queued == 0 || queued.saturating_add(bytes) <= limits::LOADER_BYTES {
                self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
                item = match self.sender.try_send(item) {
                    Ok(()) => return Ok(()),
                    Err(TrySendError::Disconnected(_)) => return Err(LoaderExit::Disconnected),
                    Err(TrySendError::Full(item)) => {
                        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                        item
                    }
                };
            }
            // The standard channel cannot wait for space, a flag and a byte count at once.
            std::thread::sleep(WAIT_POLL);
        }
    }
}

impl LoadSink {
    /// Reports progress, if the channel is not full.
    ///
    /// # Errors
    /// When the load was cancelled, or the stream was dropped.
    pub fn report(&self, bytes_read: u64, bytes_total: u64) -> Result<(), LoaderExit> {
        self.check_cancel()?;
        match self.sender.try_send(LoadItem::Progress { bytes_read, bytes_total }) {
            // A progress item that does not fit into the channel is dropped.
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(LoaderExit::Disconnected),
        }
    }
}

fn load(
    source: &impl Source,
    precision: WeightPrecision,
    sink: &LoadSink,
) -> Result<(), LoaderExit> {
    source.check_readable()?;
    let bytes_total = source.stored_bytes();
    let mut bytes_read = 0;
    let mut buffer = Vec::new();
    for index in 0..source.tensor_count() {
        let (tensor, stored_bytes) =
            source.read(index, precision, &mut buffer, &|| sink.check_cancel())?;
        bytes_read += stored_bytes;
        let bytes = tensor.bytes() as u64;
        sink.send(LoadItem::Tensor { tensor, bytes_read, bytes_total }, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
