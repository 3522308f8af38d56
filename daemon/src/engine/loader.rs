//! The loader thread: reads, verifies and converts weights into plain memory.
//!
//! Owns one thread per load and the bounded channel out of it. Knows nothing of engines or
//! architectures: the engine thread takes each [`HostTensor`] to its builder.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::time::Duration;

use ingle_protocol::limits;

use super::backend::EngineError;
use super::dequantize::Converter;
use super::tensor::{HostTensor, WeightPrecision};
use crate::formats::gguf::{GgmlType, GgufError, GgufErrorKind, GgufFile, TensorInfo};

/// Bytes read between two looks at the cancel flag, about.
const CHUNK_BYTES: usize = 4 << 20;

/// How often a loader that waits for room looks at the cancel flag.
const WAIT_POLL: Duration = Duration::from_millis(1);

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

/// Refuses a file with a tensor type the loader cannot read. It needs no reading, so callers can
/// refuse before they make room for the model.
///
/// # Errors
/// [`EngineError::Unsupported`] naming the first such tensor, its type and the readable types.
pub fn check_readable(gguf: &GgufFile) -> Result<(), EngineError> {
    match gguf.tensors().iter().find(|tensor| !tensor.ggml_type.is_readable()) {
        None => Ok(()),
        Some(tensor) => Err(EngineError::Unsupported {
            file: gguf.path().to_owned(),
            problem: format!(
                "tensor `{}` is stored as {}; this engine reads {}",
                tensor.name,
                tensor.ggml_type,
                GgmlType::READABLE.map(GgmlType::name).join(", ")
            ),
        }),
    }
}

/// Bytes of memory the tensors take once loaded; an exact sum, found without reading them.
#[must_use]
pub fn loaded_bytes(gguf: &GgufFile, precision: WeightPrecision) -> u64 {
    let bytes_of = |tensor: &TensorInfo| {
        let elements = tensor.elements() as u64;
        match (precision, tensor.ggml_type) {
            (WeightPrecision::AsStored, GgmlType::Q4_0 | GgmlType::Q4_1) => elements / 32 * 20,
            (WeightPrecision::AsStored, GgmlType::Q8_0) => elements / 32 * 36,
            (WeightPrecision::AsStored, GgmlType::F16 | GgmlType::BF16) => elements * 2,
            _ => elements * 4,
        }
    };
    gguf.tensors().iter().map(bytes_of).sum()
}

/// Starts the loader thread for all tensors of `gguf`, in the file's order.
///
/// It ends promptly when `cancel` is set (with [`EngineError::Cancelled`]) or the stream is
/// dropped. A panic of the thread arrives as [`LoadItem::Failed`].
///
/// # Errors
/// [`EngineError::Native`] when the operating system gives no thread.
pub fn spawn(
    gguf: Arc<GgufFile>,
    precision: WeightPrecision,
    cancel: Arc<AtomicBool>,
) -> Result<LoadStream, EngineError> {
    spawn_work(cancel, move |outlet| load(&gguf, precision, outlet))
}

/// Starts a loader thread whose items come from `work`.
///
/// # Errors
/// As [`spawn`].
pub(super) fn spawn_work(
    cancel: Arc<AtomicBool>,
    work: impl FnOnce(&Outlet) -> Result<(), Ended> + Send + 'static,
) -> Result<LoadStream, EngineError> {
    let (sender, items) = sync_channel(limits::LOADER_TENSORS);
    let queued_bytes = Arc::new(AtomicU64::new(0));
    let outlet = Outlet { sender, queued_bytes: Arc::clone(&queued_bytes), cancel };
    spawn_with(outlet, work)?;
    Ok(LoadStream { items, queued_bytes, ended: false })
}

fn spawn_with(
    outlet: Outlet,
    work: impl FnOnce(&Outlet) -> Result<(), Ended> + Send + 'static,
) -> Result<(), EngineError> {
    let body = move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&outlet)));
        let last = match outcome {
            Ok(Ok(())) => LoadItem::Done,
            Ok(Err(Ended::Failed(error))) => LoadItem::Failed(error),
            Ok(Err(Ended::NobodyListens)) => return,
            Err(panic) => LoadItem::Failed(EngineError::Native(format!(
                "the loader thread panicked: {}",
                super::panic_message(panic.as_ref())
            ))),
        };
        // A blocking send: it ends when the stream takes the item or is dropped.
        let _ = outlet.sender.send(last);
    };
    let spawned = std::thread::Builder::new().name("ingle-loader".to_owned()).spawn(body);
    spawned.map(drop).map_err(|error| {
        EngineError::Native(format!("the loader thread could not be started: {error}"))
    })
}

/// Why the loader's work ended early.
#[derive(Debug)]
pub(super) enum Ended {
    Failed(EngineError),
    NobodyListens,
}

impl From<EngineError> for Ended {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

impl From<GgufError> for EngineError {
    fn from(error: GgufError) -> Self {
        let (file, problem) = (error.path, error.kind.to_string());
        match error.kind {
            GgufErrorKind::Io(_) => Self::Io { file, problem },
            GgufErrorKind::Version { .. } => Self::Unsupported { file, problem },
            _ => Self::InvalidModel { file, problem },
        }
    }
}

/// The loader's end of the channel.
#[derive(Debug)]
pub(super) struct Outlet {
    sender: SyncSender<LoadItem>,
    queued_bytes: Arc<AtomicU64>,
    cancel: Arc<AtomicBool>,
}

impl Outlet {
    pub(super) fn check_cancel(&self) -> Result<(), EngineError> {
        if self.cancel.load(Ordering::Relaxed) { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    /// Waits for room for `bytes` and sends the item, unless cancelled meanwhile.
    pub(super) fn send(&self, item: LoadItem, bytes: u64) -> Result<(), Ended> {
        let mut item = item;
        loop {
            self.check_cancel()?;
            let queued = self.queued_bytes.load(Ordering::Relaxed);
            // The count is raised before the item can be taken, so it never goes below zero.
            if queued == 0 || queued.saturating_add(bytes) <= limits::LOADER_BYTES {
                self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
                item = match self.sender.try_send(item) {
                    Ok(()) => return Ok(()),
                    Err(TrySendError::Disconnected(_)) => return Err(Ended::NobodyListens),
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

impl Outlet {
    /// Reports progress if there is room for it, and says whether to go on.
    ///
    /// # Errors
    /// When the load was cancelled, or nobody listens any more.
    #[cfg(feature = "gguf")]
    pub(super) fn report(&self, bytes_read: u64, bytes_total: u64) -> Result<(), Ended> {
        self.check_cancel()?;
        match self.sender.try_send(LoadItem::Progress { bytes_read, bytes_total }) {
            // Progress that finds no room is not missed.
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(Ended::NobodyListens),
        }
    }
}

fn load(gguf: &GgufFile, precision: WeightPrecision, outlet: &Outlet) -> Result<(), Ended> {
    check_readable(gguf)?;
    let bytes_total = gguf.tensor_bytes();
    let mut bytes_read = 0;
    let mut buffer = Vec::new();
    for info in gguf.tensors() {
        let tensor = read_tensor(gguf, info, precision, outlet, &mut buffer)?;
        bytes_read += info.bytes;
        let bytes = tensor.bytes() as u64;
        outlet.send(LoadItem::Tensor { tensor, bytes_read, bytes_total }, bytes)?;
    }
    Ok(())
}

fn read_tensor(
    gguf: &GgufFile,
    info: &TensorInfo,
    precision: WeightPrecision,
    outlet: &Outlet,
    buffer: &mut Vec<u8>,
) -> Result<HostTensor, EngineError> {
    let invalid = |problem| EngineError::InvalidModel { file: gguf.path().to_owned(), problem };
    let to_f32 = precision == WeightPrecision::Float32;
    let Some(mut converter) = Converter::new(info.ggml_type, info.elements(), to_f32) else {
        return Err(invalid(format!(
            "tensor `{}`: there is no memory for its {} elements",
            info.name,
            info.elements()
        )));
    };
    let block_bytes = info.ggml_type.block_bytes();
    let chunk_bytes = (CHUNK_BYTES / block_bytes * block_bytes) as u64;
    let mut offset = 0;
    while offset < info.bytes {
        outlet.check_cancel()?;
        let len = chunk_bytes.min(info.bytes - offset);
        buffer.resize(len as usize, 0);
        gguf.read_tensor(info, offset, buffer)?;
        converter.push(buffer).map_err(|bad| invalid(format!("tensor `{}`: {bad}", info.name)))?;
        offset += len;
    }
    let shape = info.shape.clone();
    Ok(HostTensor { name: info.name.clone(), shape, data: converter.finish() })
}

#[cfg(test)]
mod tests;
