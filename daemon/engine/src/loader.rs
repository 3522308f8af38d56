//! The loader thread: reads, verifies and converts weights into plain memory.
//!
//! Owns one thread per load and the bounded channel out of it. Knows nothing of engines or
//! architectures: the engine thread takes each [`HostTensor`] to its builder.

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

pub use folder::folder_loaded_bytes;
pub use gguf::{check_readable, loaded_bytes};

/// Bytes read between two looks at the cancel flag, about.
const CHUNK_BYTES: usize = 4 << 20;

/// How often a loader that waits for room looks at the cancel flag.
const WAIT_POLL: Duration = Duration::from_millis(1);

thread_local! {
    /// Whether this thread reads weights. Constant from the start and without a destructor, so that
    /// a signal handler can read it: that makes and registers nothing.
    static IS_LOADER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a loader thread. Safe to call in a signal handler.
#[must_use]
pub fn is_loader_thread() -> bool {
    IS_LOADER.get()
}

/// What the loader thread reports.
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
    /// How far a load has come whose tensors do not come through here.
    Progress {
        /// Bytes in place so far.
        bytes_read: u64,
        /// Bytes of all tensors.
        bytes_total: u64,
    },
    /// All tensors have been given; nothing follows.
    Done,
    /// The load ended early; nothing follows.
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
    /// The next item if one is ready. After [`LoadItem::Done`] or [`LoadItem::Failed`] there is
    /// none, for ever.
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

    /// The next item, waiting for it at most `limit`; `None` when the time is up or the load has
    /// ended.
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

    /// Whether [`LoadItem::Done`] or [`LoadItem::Failed`] has been given.
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
        LoadItem::Failed(EngineError::Native("the loader thread ended without a word".to_owned()))
    }
}

/// What the loader reads tensors from. Reading moves no file position, so a source may be shared.
pub trait Source: Send + Sync + 'static {
    /// Refuses what cannot be read, without reading it.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] naming the first such tensor.
    fn check_readable(&self) -> Result<(), EngineError>;

    /// How many tensors there are.
    fn tensor_count(&self) -> usize;

    /// Bytes of all tensors together, as stored.
    fn stored_bytes(&self) -> u64;

    /// Reads and converts the tensor of that index, in pieces of at most a few MiB; returns it with
    /// the bytes it took in the file. `buffer` is room for one piece, and `check_cancel` is asked
    /// before each.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] naming the tensor and what is wrong with it,
    /// [`EngineError::NoMemory`], [`EngineError::Io`], and what `check_cancel` gives.
    fn read(
        &self,
        index: usize,
        precision: WeightPrecision,
        buffer: &mut Vec<u8>,
        check_cancel: &dyn Fn() -> Result<(), EngineError>,
    ) -> Result<(HostTensor, u64), EngineError>;
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

/// Why the loader's work ended early.
#[derive(Debug)]
pub enum LoaderExit {
    /// It failed.
    Failed(EngineError),
    /// The stream was dropped.
    Disconnected,
}

impl From<EngineError> for LoaderExit {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

/// The loader's end of the channel.
#[derive(Debug)]
pub struct LoadSink {
    sender: SyncSender<LoadItem>,
    queued_bytes: Arc<AtomicU64>,
    cancel: Arc<AtomicBool>,
}

impl LoadSink {
    /// Whether the load is still wanted.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`].
    pub fn check_cancel(&self) -> Result<(), EngineError> {
        if self.cancel.load(Ordering::Relaxed) { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    /// Waits for room for `bytes` and sends the item, unless cancelled meanwhile.
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
            // The standard channel has no way to wait for room, a flag and a byte count at once.
            std::thread::sleep(WAIT_POLL);
        }
    }
}

impl LoadSink {
    /// Reports progress if there is room for it, and says whether to go on.
    ///
    /// # Errors
    /// When the load was cancelled, or nobody listens any more.
    pub fn report(&self, bytes_read: u64, bytes_total: u64) -> Result<(), LoaderExit> {
        self.check_cancel()?;
        match self.sender.try_send(LoadItem::Progress { bytes_read, bytes_total }) {
            // Progress that finds no room is not missed.
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
