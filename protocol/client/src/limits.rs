//! Limits of the client: waits for the daemon, and the size of settings files.
//!
//! Owns the maximums that the daemon does not share.

/// Bytes of `config.toml`, and of `.env`, in the Ingle folder.
pub const SETTINGS_FILE_BYTES: u64 = 1024 * 1024;

/// Milliseconds the daemon may take from its start to its readiness report.
pub const START_MS: u64 = 20_000;
/// Milliseconds a client waits for the reply to `hello`.
pub const HELLO_MS: u64 = 5_000;
