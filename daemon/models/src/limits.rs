//! Limits of the models on disk: every queue, size and time it bounds, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{MODEL_JSON_BYTES, PULL_MS};

/// Branches and tags that a pulled model remembers to have been asked for by.
pub const MODEL_REFS: usize = 16;
/// Files of one model folder that are looked at.
pub const MODEL_FOLDER_FILES: usize = 4_096;
/// Files and folders of one library of other programs' models that are looked at.
pub const LIBRARY_ENTRIES: usize = 20_000;
/// Folders below such a library's own that are looked into.
pub const LIBRARY_DEPTH: usize = 3;
/// Milliseconds of silence after which a connection to Hugging Face counts as lost, and those one
/// may take to come about.
pub const HUB_STALL_MS: u64 = 30_000;
/// Milliseconds before the first new attempt to reach Hugging Face; each later one waits twice as
/// long.
pub const HUB_RETRY_MS: u64 = 500;
/// Attempts in a row that bring nothing, after which a download is given up.
pub const HUB_ATTEMPTS: u32 = 5;
/// Redirects followed for one request.
pub const HUB_REDIRECTS: usize = 5;
/// Bytes of what Hugging Face says of a repository.
pub const HUB_LIST_BYTES: usize = 16 * 1024 * 1024;
/// Chunks of a download between the network and the disk.
pub const HUB_CHUNKS: usize = 16;
/// Days after which a download that nobody went on with is removed.
pub const HUB_PARTIAL_DAYS: u64 = 14;
