//! Commands and options of `ingle jobs`.

use std::time::Duration;

use clap::{Args, Subcommand};
use ingle_protocol::limits;
use ingle_protocol::wire::jobs::{JobStatus, JobTimeout};
use ingle_protocol::wire::models::EngineKind;

use super::value::duration;

/// The commands of `ingle jobs`.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Create a job and print its id
    #[command(after_help = "\
Examples:
  ingle jobs create \"Write a long story\" --timeout 10m
  ingle jobs create --timeout none --max-tokens 8000 - < prompt.txt
  ingle jobs create \"Summarise:\" - --timeout 30s --retry 2 < report.txt
  ingle jobs wait $(ingle jobs create \"Why is the sky blue?\")
  ingle jobs create --embed --model minilm \"a campfire\" \"warm light\"

The timeout of a job covers its work: waiting for a worker does not count. The default is
`timeouts.job`. With `none` only the limit on an unresponsive engine applies.")]
    Create(CreateOptions),
    /// List the jobs, newest first
    #[command(after_help = "\
Examples:
  ingle jobs list
  ingle jobs list --status running
  ingle jobs list --json | jq -r '.jobs[].id'")]
    List {
        /// Only jobs that are queued, running, done, failed, cancelled, timed_out or interrupted
        #[arg(long)]
        status: Option<JobStatus>,
        /// Maximum number of jobs to list
        #[arg(long, value_name = "N", default_value_t = limits::DEFAULT_JOB_LIST)]
        limit: usize,
    },
    /// Show a job, with its result or partial result
    #[command(after_help = "\
Examples:
  ingle jobs get j-4x2m8c1qf7zk
  ingle jobs get j-4x2m8c1qf7zk --json | jq .error.details.partial_result.text")]
    Get {
        /// Id of the job
        id: String,
    },
    /// Wait for a job, show its progress, and print its text
    #[command(after_help = "\
Examples:
  ingle jobs wait j-4x2m8c1qf7zk
  ingle jobs wait j-4x2m8c1qf7zk --timeout 1m

Ctrl-C stops waiting, not the job. Exits with 0 when the job is done, with 1 when it ended in
another way or --timeout has passed.")]
    Wait {
        /// Id of the job
        id: String,
        /// Maximum time to wait
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Cancel a job
    #[command(after_help = "\
Examples:
  ingle jobs cancel j-4x2m8c1qf7zk

Its partial text is kept. A job that has ended stays unchanged.")]
    Cancel {
        /// Id of the job
        id: String,
    },
    /// Delete one job that has ended, or all of them
    #[command(after_help = "\
Examples:
  ingle jobs delete j-4x2m8c1qf7zk
  ingle jobs delete --all-ended

Old jobs are deleted automatically; see `[jobs]` in README.md.")]
    Delete {
        /// Id of the job
        #[arg(required_unless_present = "all_ended", conflicts_with = "all_ended")]
        id: Option<String>,
        /// Delete all jobs that have ended
        #[arg(long)]
        all_ended: bool,
    },
}

/// The work of the job.
#[derive(Debug, Clone, Args)]
pub(crate) struct CreateOptions {
    /// The question; `-` stands for standard input
    #[arg(required = true)]
    pub(crate) prompt: Vec<String>,
    /// Name or path of the model; the default one when absent
    #[arg(long, short)]
    pub(crate) model: Option<String>,
    /// The engine to run it on, where its format allows several
    #[arg(long, value_name = "gguf|mlx")]
    pub(crate) engine: Option<EngineKind>,
    /// System message: instructions for the model
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["raw", "embed"])]
    pub(crate) system: Option<String>,
    /// Continue the raw prompt, without a chat template
    #[arg(long, conflicts_with = "embed")]
    pub(crate) raw: bool,
    /// Compute an embedding of each argument instead
    #[arg(long)]
    pub(crate) embed: bool,
    /// Maximum number of tokens to generate [default: 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// Sampling temperature; 0 is greedy [default: 0]
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Random seed, for reproducible output
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Stop string: ends the text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Timeout of the work, such as 30s, 10m, 2h or none
    #[arg(long, value_name = "TIME", value_parser = job_timeout)]
    pub(crate) timeout: Option<JobTimeout>,
    /// Soft timeout: then the text ends with the next sentence
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) soft_timeout: Option<Duration>,
    /// Maximum retries after a timeout, each with twice the time
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) retry: u32,
}

fn job_timeout(text: &str) -> Result<JobTimeout, String> {
    match text {
        "none" => Ok(JobTimeout::None),
        text => duration(text)
            .map(|duration| JobTimeout::Seconds(duration.as_secs_f64()))
            .map_err(|problem| format!("{problem}; or `none`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_timeouts_are_durations_or_none() {
        for (text, seconds) in [("30", 30.0), ("30s", 30.0), ("1.5m", 90.0), ("1h30m", 5_400.0)] {
            assert_eq!(job_timeout(text), Ok(JobTimeout::Seconds(seconds)), "{text}");
        }
        assert_eq!(job_timeout("none"), Ok(JobTimeout::None));
        for text in ["", "s", "0", "-1s", "1y", "forever"] {
            job_timeout(text).unwrap_err();
        }
    }
}
