//! Limits of the scheduler: its queues, sizes and times, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{
    CONCURRENT_GENERATIONS, QUEUED_GENERATIONS, RETRY_AFTER_MS,
};

/// Commands in the engine thread's inbox.
pub const ENGINE_COMMANDS: usize = 256;
/// Requests for embeddings that wait or run.
pub const QUEUED_EMBEDDINGS: usize = 64;
/// Load commands waiting for memory, and callers waiting for one load.
pub const QUEUED_LOADS: usize = 64;
/// Milliseconds a request waits for memory before later requests are held back for it.
pub const MEMORY_PATIENCE_MS: u64 = 2_000;
/// Maximum age in milliseconds of the cached status while no work begins or ends.
pub const STATUS_REFRESH_MS: u64 = 250;
/// Finished sequences of one model that are kept for prompts with the same beginning.
pub const PROMPT_CACHE_SEQUENCES: usize = 4;
/// Bytes of the KV caches of these sequences.
pub const PROMPT_CACHE_BYTES: u64 = 512 * 1024 * 1024;
/// Milliseconds of one adoption slice while the engine thread has no other work.
///
/// Commands are read between two slices.
pub const ADOPT_SLICE_MS: u64 = 50;
/// Milliseconds of one adoption slice between two steps of running sequences.
///
/// Less than a step takes, so that streams stay as smooth as a reader can tell.
pub const ADOPT_BETWEEN_STEPS_MS: u64 = 10;
/// Milliseconds after an unload at which an idle engine thread trims the heap once more.
///
/// By then the rest of the daemon has released its parts of the model.
pub const TRIM_AFTER_MS: u64 = 1_000;
/// Milliseconds that a step waits for the token mask of a constraint.
///
/// llguidance's own limits end nearly all of its work long before.
pub const MASK_MS: u64 = 3_000;

const _: () = {
    assert!(ADOPT_BETWEEN_STEPS_MS < ADOPT_SLICE_MS);
    assert!(QUEUED_GENERATIONS + QUEUED_EMBEDDINGS <= ENGINE_COMMANDS);
};
