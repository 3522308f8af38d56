//! Limits of the jobs: every queue, size and time that they bound.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{
    CONCURRENT_GENERATIONS, DEFAULT_JOB_LIST, FRAME_BYTES, RETRY_AFTER_MS,
};
pub(crate) use ingle_service::limits::DEFAULT_MAX_TOKENS;

/// Default number of jobs that run at the same time; it leaves a slot to interactive requests.
pub const JOB_WORKERS: usize = CONCURRENT_GENERATIONS - 1;
/// Largest number of workers in the settings.
pub const MAX_JOB_WORKERS: usize = 64;
/// Jobs that wait for a worker or run.
pub const QUEUED_JOBS: usize = 1_000;
/// Bytes of parameters of all these jobs, which are in memory; each job counts for its share at least.
pub const QUEUED_JOB_BYTES: usize = 64 * 1024 * 1024;
/// Running calls that may become jobs or have.
pub const PROMOTED_JOBS: usize = 256;
/// Commands that wait for the thread of the job store.
pub const JOB_STORE_COMMANDS: usize = 256;
/// Commands that share one transaction of the job store.
pub const JOB_STORE_BATCH: usize = 64;
/// Milliseconds between two writings of one job's partial result.
pub const JOB_PARTIAL_MS: u64 = 500;
/// Milliseconds between two reports of one job's progress to its watchers.
pub const JOB_REPORT_MS: u64 = 100;
/// Milliseconds before the first retry of storing a job's end. Each later pause is twice as long, up
/// to `JOB_STORE_RETRY_MAX_MS`.
pub const JOB_STORE_RETRY_MS: u64 = 500;
/// The longest of those pauses, in milliseconds.
pub const JOB_STORE_RETRY_MAX_MS: u64 = 15_000;
/// Milliseconds the job store waits for a lock of another program on its file.
pub const JOB_STORE_BUSY_MS: u64 = 2_000;
/// Bytes of one job's result: a reply that carries it is one frame.
pub const JOB_RESULT_BYTES: usize = FRAME_BYTES - 256 * 1024;
/// Jobs of one listing.
pub const JOB_LIST: usize = 1_000;
/// Retries after a timeout that a job may ask for.
pub const JOB_RETRIES: u32 = 10;
/// Largest factor of a job's time for a retry.
pub const JOB_RETRY_FACTOR: f64 = 10.0;
/// The time of a job with timeout `none`, in milliseconds: a year. The stall limit is far shorter.
pub const JOB_NO_TIMEOUT_MS: u64 = 365 * 24 * 60 * 60 * 1_000;
/// Milliseconds between two cleanups of the job store.
pub const JOB_SWEEP_MS: u64 = 60 * 60 * 1_000;
/// Largest time between two cleanups that counts as age, in milliseconds, whatever the clock says.
pub const JOB_SWEEP_GAP_MS: u64 = 24 * 60 * 60 * 1_000;

const _: () = {
    assert!(JOB_WORKERS >= 1 && JOB_WORKERS <= MAX_JOB_WORKERS);
    assert!(MAX_JOB_WORKERS < QUEUED_JOBS && FRAME_BYTES < QUEUED_JOB_BYTES);
    assert!(JOB_STORE_BATCH <= JOB_STORE_COMMANDS);
    assert!(JOB_RESULT_BYTES < FRAME_BYTES);
    assert!(DEFAULT_JOB_LIST <= JOB_LIST);
};
