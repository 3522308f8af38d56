//! Limits: every maximum of queues, frames and concurrency, by name.
//!
//! Owns the numbers and the relations between them (asserted at compile time). A channel or queue
//! takes its bound from here, or from the limits of its own crate. Does not know where each one is
//! enforced.

/// Bytes of one frame on the socket, newline excluded.
pub const FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Milliseconds without a byte after which a half-sent frame is given up.
pub const FRAME_STALL_MS: u64 = 10_000;
/// Requests one connection may have in flight.
pub const IN_FLIGHT_PER_CONNECTION: usize = 64;
/// Requests in one JSON-RPC batch.
pub const BATCH_REQUESTS: usize = 64;
/// Requests of a batch over that number which are refused each under its own id.
pub const REFUSED_BATCH_REQUESTS: usize = 1_024;
/// Bytes of the id that is looked for in a frame that cannot be read.
pub const SCANNED_ID_BYTES: usize = 256;
/// Connections at once.
pub const CONNECTIONS: usize = 256;
/// Replies and events waiting to be written to one connection.
pub const OUTBOUND_FRAMES: usize = 256;
/// Milliseconds one frame may take to be written to a peer that does not read.
pub const WRITE_STALL_MS: u64 = 30_000;

/// Bytes of one HTTP request's body.
pub const HTTP_BODY_BYTES: usize = FRAME_BYTES;

/// Events of one request between the engine thread and its reader; past it text is coalesced.
pub const ENGINE_EVENTS: usize = 64;
/// Generations waiting for a slot.
pub const QUEUED_GENERATIONS: usize = 128;
/// Generations running at once.
pub const CONCURRENT_GENERATIONS: usize = 5;
/// What a refused request is told to wait, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 1_000;

/// Texts that one request may ask for.
pub const CHOICES: usize = 8;

/// Tools that one request may offer.
pub const TOOLS: usize = 128;

/// Bytes of any other JSON file or template of a model; the largest in use have about 1 MB.
pub const MODEL_JSON_BYTES: u64 = 16 * 1024 * 1024;

/// Jobs of one listing that asks for no number.
pub const DEFAULT_JOB_LIST: usize = 100;

/// Progress events of one pull or load between its source and one waiter.
pub const PROGRESS_EVENTS: usize = 16;
/// Milliseconds the whole of a pull may take. A download that stands still ends long before.
pub const PULL_MS: u64 = 12 * 60 * 60 * 1_000;

/// Milliseconds a drain may take before work in flight is cancelled, and again before the process
/// ends without waiting for the engine thread.
pub const DRAIN_MS: u64 = 5_000;

const _: () = {
    assert!(CONCURRENT_GENERATIONS <= QUEUED_GENERATIONS);
    assert!(IN_FLIGHT_PER_CONNECTION <= OUTBOUND_FRAMES);
    assert!(BATCH_REQUESTS <= IN_FLIGHT_PER_CONNECTION);
    assert!(BATCH_REQUESTS <= REFUSED_BATCH_REQUESTS);
};
