//! `ingle jobs`: what can be typed.

use std::time::Duration;

use clap::{Args, Subcommand};
use ingle_protocol::limits;
use ingle_protocol::wire::jobs::{JobStatus, JobTimeout};
use ingle_protocol::wire::models::EngineKind;

use super::value::duration;

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Start a job and print its name
    #[command(after_help = "\
Examples:
  ingle jobs create \"Write a long story\" --timeout 10m
  ingle jobs create --timeout none --max-tokens 8000 - < prompt.txt
  ingle jobs create \"Summarise:\" - --timeout 30s --retry 2 < report.txt
  ingle jobs wait $(ingle jobs create \"Why is the sky blue?\")
  ingle jobs create --embed --model minilm \"a campfire\" \"warm light\"

The time of a job is that of its work: waiting for a worker does not count. Without --timeout it is
`timeouts.job`. With `none` only the limit on a silent engine guards it.")]
    Create(CreateOptions),
    /// List the jobs, the newest first
    #[command(after_help = "\
Examples:
  ingle jobs list
  ingle jobs list --status running
  ingle jobs list --json | jq -r '.jobs[].id'")]
    List {
        /// Only queued, running, done, failed, cancelled, timed_out or interrupted ones
        #[arg(long)]
        status: Option<JobStatus>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = limits::DEFAULT_JOB_LIST)]
        limit: usize,
    },
    /// Show a job, with its result or what there is of it
    #[command(after_help = "\
Examples:
  ingle jobs get j-4x2m8c1qf7zk
  ingle jobs get j-4x2m8c1qf7zk --json | jq .error.details.partial_result.text")]
    Get {
        /// Its name
        id: String,
    },
    /// Wait for a job, show how it comes on, and print its text
    #[command(after_help = "\
Examples:
  ingle jobs wait j-4x2m8c1qf7zk
  ingle jobs wait j-4x2m8c1qf7zk --timeout 1m

Ctrl-C stops the waiting, not the job. Exits with 0 when the job is done, with 1 when it ended in
another way or --timeout is over.")]
    Wait {
        /// Its name
        id: String,
        /// Wait no longer than this
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// End a job
    #[command(after_help = "\
Examples:
  ingle jobs cancel j-4x2m8c1qf7zk

What there is of its text is kept. A job that has ended stays as it is.")]
    Cancel {
        /// Its name
        id: String,
    },
    /// Forget a job that has ended, or all of them
    #[command(after_help = "\
Examples:
  ingle jobs delete j-4x2m8c1qf7zk
  ingle jobs delete --all-ended

Old jobs are forgotten by themselves; see `[jobs]` in README.md.")]
    Delete {
        /// Its name
        #[arg(required_unless_present = "all_ended", conflicts_with = "all_ended")]
        id: Option<String>,
        /// All jobs that have ended
        #[arg(long)]
        all_ended: bool,
    },
}

/// What the job does.
#[derive(Debug, Clone, Args)]
pub(crate) struct CreateOptions {
    /// What to ask; `-` stands for standard input
    #[arg(required = true)]
    pub(crate) prompt: Vec<String>,
    /// Name or path of the model; the default one when absent
    #[arg(long, short)]
    pub(crate) model: Option<String>,
    /// The engine to run it on, where its format leaves a choice
    #[arg(long, value_name = "gguf|mlx")]
    pub(crate) engine: Option<EngineKind>,
    /// Tell the model how to behave
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["raw", "embed"])]
    pub(crate) system: Option<String>,
    /// Continue the prompt as it is, without a chat template
    #[arg(long, conflicts_with = "embed")]
    pub(crate) raw: bool,
    /// Turn each argument into a vector instead
    #[arg(long)]
    pub(crate) embed: bool,
    /// Tokens to generate at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// How freely to draw; 0 always takes the likeliest token
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Draw the same way every time
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// End the text at this string; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Time for its work, such as 30s, 10m, 2h or none
    #[arg(long, value_name = "TIME", value_parser = job_timeout)]
    pub(crate) timeout: Option<JobTimeout>,
    /// After this time, end the text with the next sentence
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) soft_timeout: Option<Duration>,
    /// After a timeout, run it again with twice the time, so often at most
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
    fn times_have_units() {
        for (text, seconds) in [("30", 30.0), ("30s", 30.0), ("1.5m", 90.0), ("1h30m", 5_400.0)] {
            assert_eq!(job_timeout(text), Ok(JobTimeout::Seconds(seconds)), "{text}");
        }
        assert_eq!(job_timeout("none"), Ok(JobTimeout::None));
        for text in ["", "s", "0", "-1s", "1y", "forever"] {
            job_timeout(text).unwrap_err();
        }
    }
}
