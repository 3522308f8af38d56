//! `[jobs]` of `config.toml`.

use crate::limits;
use ingle_jobs::settings::JobSettings;
use serde::Deserialize;

/// `[jobs]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobsTable {
    workers: Option<usize>,
    keep_days: Option<u32>,
    keep_count: Option<usize>,
}

impl JobsTable {
    /// The settings, checked.
    pub(super) fn settings(&self) -> Result<JobSettings, String> {
        let defaults = JobSettings::default();
        let settings = JobSettings {
            workers: self.workers.unwrap_or(defaults.workers),
            keep_days: self.keep_days.unwrap_or(defaults.keep_days),
            keep_count: self.keep_count.unwrap_or(defaults.keep_count),
        };
        let most = limits::MAX_JOB_WORKERS;
        if !(1..=most).contains(&settings.workers) {
            let found = settings.workers;
            return Err(format!("jobs.workers is {found}; it must be from 1 to {most}"));
        }
        if settings.keep_days == 0 {
            return Err("jobs.keep_days is 0; it must be at least 1".to_owned());
        }
        if !(1..=100_000).contains(&settings.keep_count) {
            let found = settings.keep_count;
            return Err(format!("jobs.keep_count is {found}; it must be from 1 to 100000"));
        }
        Ok(settings)
    }
}
