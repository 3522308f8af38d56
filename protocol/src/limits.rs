//! Every queue, frame and concurrency maximum, by name.
//!
//! Owns the numbers and the relations between them (asserted at compile time). A channel or queue
//! anywhere in Ingle takes its bound from here. Knows nothing of who enforces which.

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

/// Frames a shim holds for a daemon that is being started or does not read; past it the shim stops
/// reading its host.
pub const SHIM_QUEUED_FRAMES: usize = 256;
/// Bytes of those frames.
pub const SHIM_QUEUED_BYTES: usize = 2 * FRAME_BYTES;
/// Requests a shim follows at once; past it the shim refuses.
pub const SHIM_PENDING: usize = 1_024;
/// Chunks between a shim's thread on standard input or output and its loop.
pub const SHIM_STDIO_CHUNKS: usize = 16;
/// Connections in a row that a shim may lose, without a byte getting through, before it gives the
/// waiting requests up.
pub const SHIM_FRUITLESS_CONNECTIONS: u32 = 3;
/// Subscriptions of one host that a shim repeats to a new daemon, of each kind.
pub const SHIM_SUBSCRIPTIONS: usize = 256;
/// Bytes of a tool host's configuration file that `ingle mcp install` changes.
pub const HOST_CONFIG_BYTES: usize = 64 * 1024 * 1024;
/// Backups of such a file, at most.
pub const HOST_CONFIG_BACKUPS: u32 = 20;
/// Milliseconds between a shim's looks at whether its host is still its parent.
pub const SHIM_PARENT_CHECK_MS: u64 = 2_000;

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

/// Bytes of `config.toml`, and of `.env`, in the Ingle folder.
pub const SETTINGS_FILE_BYTES: u64 = 1024 * 1024;

/// Milliseconds the daemon may take from its start to its readiness report.
pub const START_MS: u64 = 20_000;
/// Milliseconds a client waits for the reply to `hello`.
pub const HELLO_MS: u64 = 5_000;
/// Milliseconds a drain may take before work in flight is cancelled, and again before the process
/// ends without waiting for the engine thread.
pub const DRAIN_MS: u64 = 5_000;

const _: () = {
    assert!(CONCURRENT_GENERATIONS <= QUEUED_GENERATIONS);
    assert!(IN_FLIGHT_PER_CONNECTION <= OUTBOUND_FRAMES);
    assert!(BATCH_REQUESTS <= IN_FLIGHT_PER_CONNECTION);
    assert!(BATCH_REQUESTS <= REFUSED_BATCH_REQUESTS);
    assert!(FRAME_BYTES <= SHIM_QUEUED_BYTES);
    assert!(IN_FLIGHT_PER_CONNECTION <= SHIM_PENDING);
};
