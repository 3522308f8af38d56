//! Settings of the jobs.

use crate::limits;

/// Settings of the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobSettings {
    /// Jobs that run at once.
    pub workers: usize,
    /// Days after which a job that has ended is forgotten.
    pub keep_days: u32,
    /// Jobs that have ended, of which the newest are kept.
    pub keep_count: usize,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self { workers: limits::JOB_WORKERS, keep_days: 30, keep_count: 1_000 }
    }
}
