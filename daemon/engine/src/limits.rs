//! Limits of the engine interface: its queues, sizes and times, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
#[cfg(feature = "sim")]
pub(crate) use ingle_protocol::limits::CONCURRENT_GENERATIONS;
pub(crate) use ingle_protocol::limits::RETRY_AFTER_MS;

/// Tensors between the loader thread and the engine thread.
pub const LOADER_TENSORS: usize = 4;
/// Bytes of those tensors; a single larger tensor waits alone.
///
/// A tied embedding in 32 bits is over 100 MB, so the count of tensors alone is no good bound.
pub const LOADER_BYTES: u64 = 128 * 1024 * 1024;
/// Maximum wait for a core reservation, in milliseconds: one pass of a model that streams well.
pub const CORE_RESERVATION_WAIT_MS: u64 = 100;
/// Milliseconds of silence after which the engine thread counts as stalled, unless configured.
pub const ENGINE_STALL_MS: u64 = 60_000;
/// Maximum number of models with metrics of their own; all others share one name.
pub const COUNTED_MODELS: usize = 32;
