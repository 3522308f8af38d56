//! Limits of the MCP edge: every queue, size and time it bounds, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_jobs::limits::JOB_RESULT_BYTES;
pub(crate) use ingle_protocol::limits::{
    BATCH_REQUESTS, FRAME_BYTES, IN_FLIGHT_PER_CONNECTION, OUTBOUND_FRAMES, WRITE_STALL_MS,
};

/// Characters of what one call of an MCP tool gives a model to read, unless configured.
pub const TOOL_PROMPT_CHARS: usize = 20_000;
/// The most that the settings may say.
pub const MAX_TOOL_PROMPT_CHARS: usize = 1_000_000;
/// Entries of one page of an MCP listing, and values of one completion (MCP's own maximum).
pub const MCP_PAGE: usize = 100;
/// Resources that one MCP host may subscribe to.
pub const MCP_SUBSCRIPTIONS: usize = 64;
/// Streams of changes (`subscriptions/listen`) that one MCP host may have open.
pub const MCP_LISTENERS: usize = 8;
/// Characters of what an MCP host wrote that a message repeats.
pub const MCP_QUOTED_CHARS: usize = 200;
/// Bytes of vectors that a model gets as text, where its host knows nothing but text.
pub const MCP_TEXT_BYTES: usize = 256 * 1024;
/// Milliseconds between two notifications that one resource has changed.
pub const MCP_UPDATE_MS: u64 = 500;

const _: () = {
    assert!(JOB_RESULT_BYTES + MCP_TEXT_BYTES <= FRAME_BYTES);
    assert!(TOOL_PROMPT_CHARS <= MAX_TOOL_PROMPT_CHARS);
    assert!(MAX_TOOL_PROMPT_CHARS * 4 < FRAME_BYTES);
    assert!(MCP_LISTENERS < IN_FLIGHT_PER_CONNECTION);
};
