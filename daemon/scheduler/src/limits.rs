//! Limits of the scheduler: every queue, size and time it bounds, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{
    CONCURRENT_GENERATIONS, QUEUED_GENERATIONS, RETRY_AFTER_MS,
};

/// Commands on their way to the engine thread.
pub const ENGINE_COMMANDS: usize = 256;
/// Requests for embeddings that wait or run.
pub const QUEUED_EMBEDDINGS: usize = 64;
/// Loads waiting for memory that no request asked for, and callers waiting for one load.
pub const QUEUED_LOADS: usize = 64;
/// Milliseconds a request waits for memory before requests that came later are held back for it.
pub const MEMORY_PATIENCE_MS: u64 = 2_000;
/// How old the engine thread's status may be while it works and nothing begins or ends.
pub const STATUS_REFRESH_MS: u64 = 250;
/// Finished sequences of one model that are kept for prompts that begin alike.
pub const PROMPT_CACHE_SEQUENCES: usize = 4;
/// Bytes of their KV caches.
pub const PROMPT_CACHE_BYTES: u64 = 512 * 1024 * 1024;
/// Milliseconds the engine thread spends adopting tensors between two looks at its commands while
/// nothing else is to be done.
pub const ADOPT_SLICE_MS: u64 = 50;
/// Milliseconds of the same between two steps of running sequences: less than a step takes, so that
/// streams stay as smooth as a reader can tell.
pub const ADOPT_BETWEEN_STEPS_MS: u64 = 10;
/// Milliseconds after an unload at which an idle engine thread gives free memory back once more:
/// what the rest of the daemon held of the model has gone by then.
pub const TRIM_AFTER_MS: u64 = 1_000;
/// Milliseconds that a step waits for the set of tokens a format allows. llguidance's own limits end
/// nearly all of its work long before.
pub const MASK_MS: u64 = 3_000;

const _: () = {
    assert!(ADOPT_BETWEEN_STEPS_MS < ADOPT_SLICE_MS);
    assert!(QUEUED_GENERATIONS + QUEUED_EMBEDDINGS <= ENGINE_COMMANDS);
};
