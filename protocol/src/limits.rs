//! Limits: every maximum of queues, frames and concurrency, by name.
//!
//! Owns the numbers and the relations between them (asserted at compile time). A channel or queue
//! takes its bound from here, or from the limits of its own crate. Does not know where each one is
//! enforced.

/// Bytes of one frame on the socket, newline excluded.
pub const FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Milliseconds without a byte after which a partial frame is discarded.
pub const FRAME_STALL_MS: u64 = 10_000;
/// Requests in flight on one connection.
pub const IN_FLIGHT_PER_CONNECTION: usize = 64;
/// Requests in one JSON-RPC batch.
pub const BATCH_REQUESTS: usize = 64;
/// Requests of a larger batch that are refused under their own ids.
pub const REFUSED_BATCH_REQUESTS: usize = 1_024;
/// Bytes of an id that is searched in a frame that cannot be read.
pub const SCANNED_ID_BYTES: usize = 256;
/// Concurrent connections.
pub const CONNECTIONS: usize = 256;
/// Replies and events waiting to be written to one connection.
pub const OUTBOUND_FRAMES: usize = 256;
/// Milliseconds for writing one frame to a peer that does not read.
pub const WRITE_STALL_MS: u64 = 30_000;

/// Bytes of one HTTP request's body.
pub const HTTP_BODY_BYTES: usize = FRAME_BYTES;

/// Events of one request between the engine thread and its reader; above it text is coalesced.
pub const ENGINE_EVENTS: usize = 64;
/// Generations waiting for a slot.
pub const QUEUED_GENERATIONS: usize = 128;
/// Concurrent generations.
pub const CONCURRENT_GENERATIONS: usize = 5;
/// Milliseconds after which a refused request may be sent again.
pub const RETRY_AFTER_MS: u64 = 1_000;

/// Choices of one request.
pub const CHOICES: usize = 8;

/// Tools of one request.
pub const TOOLS: usize = 128;

/// Bytes of a JSON file or template of a model, except `tokenizer.json`; the largest have about 1
/// MB.
pub const MODEL_JSON_BYTES: u64 = 16 * 1024 * 1024;

/// Jobs of one listing without a limit of its own.
pub const DEFAULT_JOB_LIST: usize = 100;

/// Progress events of one pull or load, waiting for one reader.
pub const PROGRESS_EVENTS: usize = 16;
/// Milliseconds for a whole pull. A stalled download ends long before.
pub const PULL_MS: u64 = 12 * 60 * 60 * 1_000;

/// Milliseconds for a drain before work in flight is cancelled, and again before the process
/// ends without waiting for the engine thread.
pub const DRAIN_MS: u64 = 5_000;

const _: () = {
    assert!(CONCURRENT_GENERATIONS <= QUEUED_GENERATIONS);
    assert!(IN_FLIGHT_PER_CONNECTION <= OUTBOUND_FRAMES);
    assert!(BATCH_REQUESTS <= IN_FLIGHT_PER_CONNECTION);
    assert!(BATCH_REQUESTS <= REFUSED_BATCH_REQUESTS);
};
