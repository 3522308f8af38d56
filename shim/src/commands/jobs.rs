//! `jobs`: creates, lists, shows, awaits, cancels and deletes jobs.

use std::time::Duration;

use ingle_client::client::Client;
use ingle_client::exit;
use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::Method;
use ingle_protocol::wire::embed::EmbedParams;
use ingle_protocol::wire::generate::GenerateParams;
use ingle_protocol::wire::jobs::{
    CancelJob, CreateJob, DeleteJobs, DeleteJobsParams, GetJob, JobEvent, JobId, JobInfo,
    JobParams, JobReply, JobReplyStatus, JobResult, JobRetry, JobTimeout, JobWork, ListJobs,
    ListJobsParams, WaitJob, WaitParams,
};
use serde_json::json;
use tokio::time::Instant;

use super::generate::{fill_in, message};
use crate::cli::{CreateOptions, JobsCommand};
use crate::context::{Context, model_argument};
use crate::output::{self, Failure, Outcome, Output};
use crate::progress::Progress;

/// Runs one of the commands of `ingle jobs`.
pub(crate) async fn run(context: &mut Context, command: JobsCommand) -> Outcome {
    let client = context.connect().await?;
    match command {
        JobsCommand::Create(options) => create(context, &client, options).await,
        JobsCommand::List { status, limit } => {
            let params = ListJobsParams { status, limit: Some(limit) };
            let list = client.call::<ListJobs>(&params).await?;
            if context.output.json {
                context.output.json(&list)?;
            } else {
                table(&mut context.output, &list.jobs)?;
            }
            Ok(exit::OK)
        }
        JobsCommand::Get { id } => {
            let reply = client.call::<GetJob>(&JobId { id }).await?;
            show(&mut context.output, &reply)?;
            Ok(exit::OK)
        }
        JobsCommand::Wait { id, timeout } => {
            let give_up_at = timeout.map(|timeout| Instant::now() + timeout);
            // The daemon may end while we wait; its jobs are stored, and the next one has them.
            let waiting = wait(context, client, &id, give_up_at);
            let reply = tokio::select! {
                reply = waiting => Some(reply?),
                _ = tokio::signal::ctrl_c() => None,
            };
            match reply {
                Some(reply) => end_wait(&mut context.output, &reply),
                None => {
                    context
                        .output
                        .note(&format!("the job continues; `ingle jobs wait {id}` waits again"));
                    Ok(exit::INTERRUPTED)
                }
            }
        }
        JobsCommand::Cancel { id } => {
            let reply = client.call::<CancelJob>(&JobId { id }).await?;
            if context.output.json {
                context.output.json(&reply)?;
            } else {
                let job = &reply.job;
                context.output.line(&format!("{} is {}", job.id, job.status.as_str()))?;
            }
            Ok(exit::OK)
        }
        JobsCommand::Delete { id, all_ended } => {
            let params = DeleteJobsParams { id, all_ended };
            let deleted = client.call::<DeleteJobs>(&params).await?;
            if context.output.json {
                context.output.json(&deleted)?;
            } else {
                context.output.line(&format!("{} deleted", deleted.deleted))?;
            }
            Ok(exit::OK)
        }
    }
}

async fn create(context: &mut Context, client: &Client, options: CreateOptions) -> Outcome {
    let reply = client.call::<CreateJob>(&params(options)?).await?;
    if context.output.json {
        context.output.json(&reply)?;
    } else {
        context.output.line(&reply.job.id)?;
    }
    Ok(exit::OK)
}

fn params(options: CreateOptions) -> Result<JobParams, Failure> {
    let model = options.model.as_deref().map(model_argument);
    let engine = options.engine;
    let work = if options.embed {
        let input = options.prompt.into_iter().map(Into::into).collect();
        JobWork::Embed(EmbedParams { model, engine, input, ..EmbedParams::default() })
    } else {
        let text = fill_in(&options.prompt)?;
        let (messages, prompt) = if options.raw {
            (None, Some(text))
        } else {
            let system = options.system.map(|system| message("system", system));
            (Some(system.into_iter().chain([message("user", text)]).collect()), None)
        };
        JobWork::Generate(GenerateParams {
            model,
            engine,
            messages,
            prompt,
            max_tokens: options.max_tokens,
            temperature: options.temperature,
            seed: options.seed,
            stop: options.stop,
            ..GenerateParams::default()
        })
    };
    Ok(JobParams {
        work,
        timeout_s: options.timeout,
        soft_timeout_s: options.soft_timeout.map(|time| time.as_secs_f64()),
        retry: (options.retry > 0).then_some(JobRetry { times: options.retry, factor: None }),
    })
}

/// Waits until the job has ended, or until `give_up_at`.
async fn wait(
    context: &Context,
    mut client: Client,
    id: &str,
    give_up_at: Option<Instant>,
) -> Result<JobReply, Failure> {
    let mut progress = Progress::new();
    let mut is_reconnected = false;
    loop {
        let left = give_up_at.map(|at| at.saturating_duration_since(Instant::now()));
        match wait_once(&client, id, left, &mut progress).await {
            Ok(reply) if reply.status != JobReplyStatus::Pending => return Ok(reply),
            Ok(reply) if left.is_some_and(|left| left.is_zero()) => return Ok(reply),
            Ok(_) => is_reconnected = false,
            Err(error)
                if !is_reconnected
                    && matches!(error.code, ErrorCode::DaemonLost | ErrorCode::ShuttingDown) =>
            {
                is_reconnected = true;
                client = context.connect().await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes one call of `jobs.wait`, up to the daemon's limit.
async fn wait_once(
    client: &Client,
    id: &str,
    left: Option<Duration>,
    progress: &mut Progress,
) -> Result<JobReply, ErrorBody> {
    let work_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
    let budget = work_ms.map(|work_ms| Budget { work_ms: Some(work_ms), remaining_ms: None });
    let params = WaitParams { id: id.to_owned(), stream: true, budget };
    let mut call = client.start::<WaitJob>(&params, WaitJob::CLASS)?;
    while let Some(event) = call.event::<JobEvent>().await {
        match event {
            JobEvent::Progress { status, progress: share, message } => {
                progress.job(status.as_str(), share, &message);
            }
            JobEvent::Warning { message, .. } => progress.say("warning", &message),
        }
    }
    call.reply().await
}

fn end_wait(output: &mut Output, reply: &JobReply) -> Outcome {
    let id = &reply.job.id;
    if output.json {
        output.json(reply)?;
        let is_done = reply.status == JobReplyStatus::Success;
        return Ok(if is_done { exit::OK } else { exit::FAILED });
    }
    match (&reply.result, &reply.error) {
        (Some(result), _) => {
            output.line(result_text(result).trim_end_matches('\n'))?;
            Ok(exit::OK)
        }
        (None, Some(error)) => {
            // The partial text, then the error.
            if let Some(text) = error.details["partial_result"]["text"].as_str() {
                output.line(text.trim_end_matches('\n'))?;
            }
            Err(Failure::Error { body: Box::new(error.clone()), exit_code: exit::FAILED })
        }
        (None, None) => {
            let message = format!("the job `{id}` is still {}", reply.job.status.as_str());
            let body = ErrorBody::new(ErrorCode::Timeout, message)
                .with_remediation(format!("It continues; run `ingle jobs wait {id}` again."));
            Err(Failure::Error { body: Box::new(body), exit_code: exit::FAILED })
        }
    }
}

/// A result for a person: the first completion, or the vectors, one a line.
fn result_text(result: &JobResult) -> String {
    match result {
        JobResult::Generate(result) => result.first().text.clone(),
        JobResult::Embed(result) => {
            let lines = result.embeddings.iter().map(|vector| json!(vector).to_string());
            lines.collect::<Vec<_>>().join("\n")
        }
        JobResult::Unknown(result) => result.to_string(),
    }
}

fn table(output: &mut Output, jobs: &[JobInfo]) -> Result<(), Failure> {
    let rows = jobs.iter().map(|job| {
        [
            job.id.clone(),
            job.status.as_str().to_owned(),
            job.kind.clone(),
            job.model.clone().unwrap_or_else(|| "(default)".to_owned()),
            job.created_at.get(..19).unwrap_or(&job.created_at).replace('T', " "),
            took(job),
            format!("{:.0} %", job.progress * 100.0),
        ]
    });
    let headings = ["ID", "STATUS", "KIND", "MODEL", "CREATED (UTC)", "TOOK", "PROGRESS"];
    output.table(headings, &["TOOK", "PROGRESS"], rows.collect())
}

#[expect(clippy::cast_precision_loss, reason = "a tenth of a second is shown")]
fn took(job: &JobInfo) -> String {
    match job.duration_ms {
        ms if ms < 60_000 => output::milliseconds(ms as f64),
        ms => output::seconds(ms / 1_000),
    }
}

fn show(output: &mut Output, reply: &JobReply) -> Result<(), Failure> {
    if output.json {
        return output.json(reply);
    }
    let job = &reply.job;
    let timeout = match job.timeout_s {
        JobTimeout::None => "none".to_owned(),
        JobTimeout::Seconds(seconds) => format!("{seconds} s"),
    };
    let mut lines = vec![
        ("job", job.id.clone()),
        ("status", job.status.as_str().to_owned()),
        ("work", format!("{}, {}", job.kind, job.model.as_deref().unwrap_or("default model"))),
        ("created", job.created_at.clone()),
        ("took", took(job)),
        ("timeout", format!("{timeout}, attempt {}", job.attempts)),
        ("progress", format!("{:.0} %, {}", job.progress * 100.0, job.message)),
    ];
    if let Some(problem) = &job.not_stored {
        lines.push(("not stored", problem.clone()));
    }
    if let Some(error) = &reply.error {
        lines.push(("error", format!("{}: {}", error.code.as_str(), error.message)));
        lines.push(("hint", error.remediation().to_owned()));
    }
    for (name, value) in lines {
        output.line(&format!("{name:<12} {value}"))?;
    }
    let text = match (&reply.result, &reply.error, &reply.partial_result) {
        (Some(result), ..) => Some(result_text(result)),
        (None, Some(error), _) => {
            error.details["partial_result"]["text"].as_str().map(str::to_owned)
        }
        (None, None, partial) => partial.as_ref().map(|partial| partial.text.clone()),
    };
    if let Some(text) = text {
        output.line("")?;
        output.line(text.trim_end_matches('\n'))?;
    }
    Ok(())
}
