//! Limits of the HTTP edge: every queue, size and time it bounds, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{
    CHOICES, FRAME_STALL_MS, HTTP_BODY_BYTES, TOOLS, WRITE_STALL_MS,
};
pub(crate) use ingle_service::limits::TOP_LOGPROBS;

/// HTTP connections at once, over the socket and TCP each.
pub const HTTP_CONNECTIONS: usize = 256;
/// HTTP connections past those that are told so at once; further ones are closed without a word.
pub const HTTP_REFUSALS: usize = 64;
/// Milliseconds that telling one may take, the reading of what it sends included.
pub const HTTP_REFUSAL_MS: u64 = 1_000;
/// Bytes of what it sends that are read and thrown away, so that it sees the refusal.
pub const HTTP_REFUSAL_BYTES: u64 = 1024 * 1024;
/// Bytes of a body over that which are read and thrown away, so that its sender sees the refusal.
pub const HTTP_DISCARD_BYTES: usize = 8 * HTTP_BODY_BYTES;
/// Bytes of one HTTP request's line and headers.
pub const HTTP_HEADER_BYTES: usize = 64 * 1024;
/// Milliseconds an HTTP connection may take to send a request's headers, and may be idle.
pub const HTTP_HEADER_MS: u64 = 60_000;
/// Milliseconds without a byte after which an HTTP request's body is given up.
pub const HTTP_BODY_STALL_MS: u64 = FRAME_STALL_MS;
/// Milliseconds an HTTP request's whole body may take.
pub const HTTP_BODY_MS: u64 = 60_000;
/// Chunks of one streamed answer between its making and its connection.
pub const HTTP_STREAM_CHUNKS: usize = 16;
/// Milliseconds a stream that waits for a slot or a load keeps the chance to fail with a status.
pub const HTTP_COMMIT_MS: u64 = 1_000;
/// Milliseconds of silence after which a stream gets a comment, so that proxies do not cut it.
pub const HTTP_HEARTBEAT_MS: u64 = 5_000;
/// Milliseconds for which one listing of the models serves all who ask over HTTP.
pub const HTTP_MODELS_MS: u64 = 2_000;
/// Texts of one request for completions: its prompts times what it asks of each.
pub const HTTP_TEXTS: usize = 64;
/// Bytes of all bodies of HTTP requests that are being read.
pub const HTTP_BODIES_BYTES: usize = 8 * HTTP_BODY_BYTES;
/// Bytes of a body past which it is parsed where parsing stops nothing else.
pub const HTTP_BODY_PARSED_APART_BYTES: usize = 256 * 1024;

const _: () = {
    use ingle_protocol::limits::QUEUED_GENERATIONS;
    assert!(CHOICES <= HTTP_TEXTS && HTTP_TEXTS <= QUEUED_GENERATIONS);
    assert!(HTTP_BODY_STALL_MS <= HTTP_BODY_MS && HTTP_COMMIT_MS <= HTTP_HEARTBEAT_MS);
};
