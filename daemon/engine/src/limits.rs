//! Limits of the engine edge: every queue, size and time it bounds, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{CONCURRENT_GENERATIONS, RETRY_AFTER_MS};

/// Tensors between the loader thread and the engine thread.
pub const LOADER_TENSORS: usize = 4;
/// Bytes of those tensors; a single larger tensor waits alone. A tied embedding in 32 bits is over
/// 100 MB, so the count of tensors alone would not bound memory well.
pub const LOADER_BYTES: u64 = 128 * 1024 * 1024;
/// Milliseconds that work beside the engine thread waits for it to leave a core: a pass of a model
/// that streams well.
pub const CORE_RESERVATION_WAIT_MS: u64 = 100;
/// Milliseconds of silence after which the engine thread counts as stalled, unless configured.
pub const ENGINE_STALL_MS: u64 = 60_000;
/// Models with metrics of their own; all others share one name.
pub const COUNTED_MODELS: usize = 32;
