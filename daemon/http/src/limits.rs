//! Limits of HTTP: every queue, size and time that this crate bounds.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this crate enforces too.
pub(crate) use ingle_protocol::limits::{
    CHOICES, FRAME_STALL_MS, HTTP_BODY_BYTES, TOOLS, WRITE_STALL_MS,
};
pub(crate) use ingle_service::limits::TOP_LOGPROBS;

/// Maximum number of open connections per listener.
pub const HTTP_CONNECTIONS: usize = 256;
/// Connections over that limit that get a refusal at once; further ones are closed without a
/// response.
pub const HTTP_REFUSALS: usize = 64;
/// Milliseconds for one refusal, including the discarded request.
pub const HTTP_REFUSAL_MS: u64 = 1_000;
/// Bytes of a refused connection's request to discard, so that the client reads the refusal.
pub const HTTP_REFUSAL_BYTES: u64 = 1024 * 1024;
/// Bytes of an oversized body to discard, so that the client reads the refusal.
pub const HTTP_DISCARD_BYTES: usize = 8 * HTTP_BODY_BYTES;
/// Maximum size of a request's line and headers, in bytes.
pub const HTTP_HEADER_BYTES: usize = 64 * 1024;
/// Milliseconds in which a client must send the headers; also the idle time of a connection.
pub const HTTP_HEADER_MS: u64 = 60_000;
/// Milliseconds without a byte after which the daemon stops waiting for a body.
pub const HTTP_BODY_STALL_MS: u64 = FRAME_STALL_MS;
/// Milliseconds for a whole body.
pub const HTTP_BODY_MS: u64 = 60_000;
/// Chunks that a stream may queue for its connection.
pub const HTTP_STREAM_CHUNKS: usize = 16;
/// Milliseconds in which a stream that waits for a permit or a load can still fail with a status.
pub const HTTP_COMMIT_MS: u64 = 1_000;
/// Milliseconds of silence after which a stream sends a comment, so that proxies keep it open.
pub const HTTP_HEARTBEAT_MS: u64 = 5_000;
/// Milliseconds for which a model list is cached.
pub const HTTP_MODELS_MS: u64 = 2_000;
/// Completions of one request: its prompts times `n`.
pub const HTTP_COMPLETIONS: usize = 64;
/// Maximum size of all bodies that are being read, in bytes.
pub const HTTP_BODIES_BYTES: usize = 8 * HTTP_BODY_BYTES;
/// Size from which a blocking thread parses a body, in bytes.
pub const HTTP_BODY_BLOCKING_PARSE_BYTES: usize = 256 * 1024;

const _: () = {
    use ingle_protocol::limits::QUEUED_GENERATIONS;
    assert!(CHOICES <= HTTP_COMPLETIONS && HTTP_COMPLETIONS <= QUEUED_GENERATIONS);
    assert!(HTTP_BODY_STALL_MS <= HTTP_BODY_MS && HTTP_COMMIT_MS <= HTTP_HEARTBEAT_MS);
};
