//! Limits of the shim and of the command line.
//!
//! Owns the maximums that no other program depends on. Those that the daemon shares are in
//! `ingle_protocol::limits`.

use ingle_protocol::limits::{FRAME_BYTES, IN_FLIGHT_PER_CONNECTION};

/// Frames that a shim holds for a daemon that is being started or does not read; above it the shim
/// stops reading its host.
pub(crate) const SHIM_QUEUED_FRAMES: usize = 256;
/// Bytes of those frames.
pub(crate) const SHIM_QUEUED_BYTES: usize = 2 * FRAME_BYTES;
/// Requests that a shim follows at once; above it the shim refuses.
pub(crate) const SHIM_PENDING: usize = 1_024;
/// Chunks between a shim's thread on standard input or output and its event loop.
pub(crate) const SHIM_STDIO_CHUNKS: usize = 16;
/// Consecutive connections that a shim may lose without a byte written, before it gives up the
/// waiting requests.
pub(crate) const SHIM_FRUITLESS_CONNECTIONS: u32 = 3;
/// Subscriptions of one host that a shim repeats to a new daemon, of each kind.
pub(crate) const SHIM_SUBSCRIPTIONS: usize = 256;
/// Milliseconds between a shim's checks whether its host is still its parent.
pub(crate) const SHIM_PARENT_CHECK_MS: u64 = 2_000;
/// Bytes of a tool host's configuration file that `ingle mcp install` changes.
pub(crate) const HOST_CONFIG_BYTES: usize = 64 * 1024 * 1024;
/// Backups of such a file.
pub(crate) const HOST_CONFIG_BACKUPS: u32 = 20;

const _: () = {
    assert!(FRAME_BYTES <= SHIM_QUEUED_BYTES);
    assert!(IN_FLIGHT_PER_CONNECTION <= SHIM_PENDING);
};
