//! Limits of MCP: every queue, size and time that this crate bounds.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this crate enforces too.
pub(crate) use ingle_jobs::limits::JOB_RESULT_BYTES;
pub(crate) use ingle_protocol::limits::{
    BATCH_REQUESTS, FRAME_BYTES, IN_FLIGHT_PER_CONNECTION, OUTBOUND_FRAMES, WRITE_STALL_MS,
};

/// Characters of input text per tool call, unless configured.
pub const TOOL_PROMPT_CHARS: usize = 20_000;
/// Maximum value of that setting.
pub const MAX_TOOL_PROMPT_CHARS: usize = 1_000_000;
/// Entries of one page of a list, and values of one completion (MCP's own maximum).
pub const MCP_PAGE: usize = 100;
/// Resource subscriptions per host.
pub const MCP_SUBSCRIPTIONS: usize = 64;
/// Open notification streams (`subscriptions/listen`) per host.
pub const MCP_LISTENERS: usize = 8;
/// Characters of a host's text that a message may quote.
pub const MCP_QUOTED_CHARS: usize = 200;
/// Bytes of vectors as text, for a host that has no structured content.
pub const MCP_TEXT_BYTES: usize = 256 * 1024;
/// Milliseconds between two notifications of changes of one resource.
pub const MCP_UPDATE_MS: u64 = 500;

const _: () = {
    assert!(JOB_RESULT_BYTES + MCP_TEXT_BYTES <= FRAME_BYTES);
    assert!(TOOL_PROMPT_CHARS <= MAX_TOOL_PROMPT_CHARS);
    assert!(MAX_TOOL_PROMPT_CHARS * 4 < FRAME_BYTES);
    assert!(MCP_LISTENERS < IN_FLIGHT_PER_CONNECTION);
};
