//! Settings of the jobs: workers and retention.

use crate::limits;

/// Settings of the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobSettings {
    /// Jobs that run at the same time.
    pub workers: usize,
    /// Days after which an ended job is deleted.
    pub keep_days: u32,
    /// Ended jobs that are kept, the newest ones.
    pub keep_count: usize,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self { workers: limits::JOB_WORKERS, keep_days: 30, keep_count: 1_000 }
    }
}
