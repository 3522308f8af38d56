//! Limits of models on disk and of downloads.
//!
//! Owns the numbers of this crate.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{MODEL_JSON_BYTES, PULL_MS};

/// Maximum number of branches and tags that the manifest of a pulled model keeps.
pub const MODEL_REFS: usize = 16;
/// Maximum number of files in one model folder.
pub const MODEL_FOLDER_FILES: usize = 4_096;
/// Maximum number of files and folders that a scan of one library reads.
pub const LIBRARY_ENTRIES: usize = 20_000;
/// Maximum depth of the folders that a scan of one library reads.
pub const LIBRARY_DEPTH: usize = 3;
/// Timeout for connecting to Hugging Face, and for silence on a connection, in milliseconds.
pub const HUB_STALL_MS: u64 = 30_000;
/// Pause before the first new attempt to reach Hugging Face, in milliseconds.
///
/// Each later pause is twice as long.
pub const HUB_RETRY_MS: u64 = 500;
/// Number of successive attempts without new bytes after which a download fails.
pub const HUB_ATTEMPTS: u32 = 5;
/// Maximum number of redirects of one request.
pub const HUB_REDIRECTS: usize = 5;
/// Maximum size of Hugging Face's description of a repository, in bytes.
pub const HUB_LIST_BYTES: usize = 16 * 1024 * 1024;
/// Maximum number of a download's chunks between the network and the disk.
pub const HUB_CHUNKS: usize = 16;
/// Age in days at which an abandoned download is removed.
pub const HUB_PARTIAL_DAYS: u64 = 14;
