//! Limits of the daemon itself: every queue, size and time that it bounds.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_engine::limits::ENGINE_STALL_MS;
pub(crate) use ingle_jobs::limits::MAX_JOB_WORKERS;
pub(crate) use ingle_mcp::limits::{MAX_TOOL_PROMPT_CHARS, TOOL_PROMPT_CHARS};
pub(crate) use ingle_protocol::limits::{
    BATCH_REQUESTS, CONNECTIONS, DRAIN_MS, FRAME_BYTES, FRAME_STALL_MS, IN_FLIGHT_PER_CONNECTION,
    OUTBOUND_FRAMES, PROGRESS_EVENTS, REFUSED_BATCH_REQUESTS, WRITE_STALL_MS,
};

/// Bytes that wait to be written to one connection, above which it produces no more.
pub const OUTBOUND_BYTES: usize = 256 * 1024;
/// Daily log files that are kept.
pub const LOG_FILES: usize = 7;

#[cfg(feature = "gguf")]
const _: () = {
    use ingle_engine_llama::limits::GGUF_SEQUENCES;
    use ingle_protocol::limits::CONCURRENT_GENERATIONS;
    use ingle_scheduler::limits::PROMPT_CACHE_SEQUENCES;
    assert!(CONCURRENT_GENERATIONS + PROMPT_CACHE_SEQUENCES < GGUF_SEQUENCES);
};
