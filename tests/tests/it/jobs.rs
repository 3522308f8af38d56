//! Jobs through socket, daemon and job store, on the sim engine.

use std::fs;

use ingle_client::client::Client;
use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::{Class, Layer};
use ingle_protocol::wire::embed::EmbedParams;
use ingle_protocol::wire::generate::{Choice, FinishReason, Generate, GenerateParams};
use ingle_protocol::wire::jobs::{
    CancelJob, CreateJob, DeleteJobs, DeleteJobsParams, GetJob, JobEvent, JobId, JobParams,
    JobReply, JobReplyStatus, JobResult, JobRetry, JobStatus, JobTimeout, JobWarning, JobWork,
    ListJobs, ListJobsParams, WaitJob, WaitParams,
};
use ingle_tests::{Home, status_when};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A model that would generate for minutes.
fn slow() -> Value {
    json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 })
}

fn job(model: &str) -> JobParams {
    let work = JobWork::Generate(GenerateParams {
        model: Some(model.to_owned()),
        prompt: Some("hi".to_owned()),
        max_tokens: Some(100_000),
        ..GenerateParams::default()
    });
    JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None }
}

fn within(seconds: f64, params: JobParams) -> JobParams {
    JobParams { timeout_s: Some(JobTimeout::Seconds(seconds)), ..params }
}

async fn create(client: &Client, params: &JobParams) -> String {
    client.call::<CreateJob>(params).await.unwrap().job.id
}

fn id(id: &str) -> JobId {
    JobId { id: id.to_owned() }
}

/// Waits for the job's end without a limit.
async fn wait(client: &Client, id: &str) -> JobReply {
    loop {
        let params = WaitParams { id: id.to_owned(), ..WaitParams::default() };
        let reply = client.call::<WaitJob>(&params).await.unwrap();
        if reply.status != JobReplyStatus::Pending {
            return reply;
        }
    }
}

/// Waits until a job is as wanted. Each check follows an event, so no sleep time is guessed.
async fn wait_until(client: &Client, id: &str, wanted: impl Fn(&JobReply) -> bool) -> JobReply {
    let params = WaitParams { id: id.to_owned(), stream: true, budget: None };
    let mut call = client.start::<WaitJob>(&params, Class::Simple).unwrap();
    loop {
        let reply = client.call::<GetJob>(&JobId { id: id.to_owned() }).await.unwrap();
        if wanted(&reply) {
            return reply;
        }
        assert!(call.event::<JobEvent>().await.is_some(), "it ended: {reply:?}");
    }
}

fn has_text(reply: &JobReply) -> bool {
    reply.partial_result.is_some()
}

/// The first completion of a job.
fn generated(reply: &JobReply) -> &Choice {
    let Some(JobResult::Generate(result)) = &reply.result else { panic!("{reply:?}") };
    result.first()
}

/// A job's error, and how much text it had.
fn failure(reply: JobReply) -> (ErrorBody, usize) {
    assert_eq!((reply.status, &reply.result), (JobReplyStatus::Error, &None));
    let error = reply.error.unwrap();
    let text = error.details["partial_result"]["text"].as_str().map_or(0, str::len);
    (error, text)
}

#[tokio::test]
async fn job_outlives_its_connection() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(200), "token_delay_ms": 2 }));
    let _daemon = home.daemon();
    let maker = home.client().await;
    let params = JobParams { timeout_s: Some(JobTimeout::None), ..job("sim") };
    let made = maker.call::<CreateJob>(&params).await.unwrap();
    assert_eq!((made.status, made.job.status), (JobReplyStatus::Pending, JobStatus::Queued));
    drop(maker);
    let client = home.client().await;
    let done = wait(&client, &made.job.id).await;
    assert_eq!((done.status, done.job.status), (JobReplyStatus::Success, JobStatus::Done));
    assert_eq!(generated(&done).text.len(), 200);
    assert!(done.job.progress >= 1.0 && done.job.timeout_s == JobTimeout::None);
    assert_eq!(client.call::<GetJob>(&id(&made.job.id)).await.unwrap(), done);
    let list = client.call::<ListJobs>(&ListJobsParams::default()).await.unwrap();
    assert_eq!(list.jobs, [done.job]);
    let none = DeleteJobsParams { id: Some(made.job.id.clone()), all_ended: false };
    assert_eq!(client.call::<DeleteJobs>(&none).await.unwrap().deleted, 1);
    let error = client.call::<GetJob>(&id(&made.job.id)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::JobNotFound);
}

#[tokio::test]
async fn failed_or_invalid_job_reports_its_error() {
    let home = Home::with_sim(json!({ "fail_at": 3, "reply": "abcdef" }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let failed = wait(&client, &create(&client, &job("sim")).await).await;
    assert_eq!(failed.job.status, JobStatus::Failed);
    let (error, text) = failure(failed);
    assert_eq!((error.code, text), (ErrorCode::EngineFailed, 2));
    let nobody = create(&client, &job("nobody")).await;
    assert_eq!(failure(wait(&client, &nobody).await).0.code, ErrorCode::ModelNotFound);
    let embed = JobWork::Embed(EmbedParams { input: vec!["a".into()], ..EmbedParams::default() });
    let embed = create(&client, &JobParams { work: embed, ..job("sim") }).await;
    assert_eq!(failure(wait(&client, &embed).await).0.code, ErrorCode::ModelUnsupported);
    let budget = Some(Budget { work_ms: Some(1), remaining_ms: None });
    let with_budget = JobWork::Generate(GenerateParams {
        prompt: Some("x".to_owned()),
        budget,
        ..GenerateParams::default()
    });
    for (params, named) in [
        (within(0.0, job("sim")), "timeout_s"),
        (JobParams { work: JobWork::Generate(GenerateParams::default()), ..job("sim") }, "prompt"),
        (JobParams { work: with_budget, ..job("sim") }, "budget"),
    ] {
        let error = client.call::<CreateJob>(&params).await.unwrap_err();
        assert_eq!(
            (error.code, &error.details["field"]),
            (ErrorCode::InvalidParams, &json!(named))
        );
    }
}

#[tokio::test]
async fn job_timeout_keeps_text_and_retry_runs_longer() {
    let home = Home::with_sim(slow());
    let _daemon = home.daemon();
    let client = home.client().await;
    let retry = Some(JobRetry { times: 1, factor: Some(1.5) });
    let made = create(&client, &JobParams { retry, ..within(0.2, job("sim")) }).await;
    let reply = wait(&client, &made).await;
    assert_eq!((reply.job.status, reply.job.attempts), (JobStatus::TimedOut, 2));
    assert_eq!(reply.job.warnings, [JobWarning::EightyPercent, JobWarning::Retry]);
    assert_eq!(reply.metadata.duration_ms, reply.job.duration_ms);
    assert!(reply.job.duration_ms >= 500, "{reply:?}");
    let (error, text) = failure(reply);
    assert_eq!((error.code, &error.details["timeout_seconds"]), (ErrorCode::Timeout, &json!(0.3)));
    assert!(text > 0 && error.details["layer"] == "work", "{error:?}");
    let status = status_when(&client, |_| true).await;
    let count = status.timeouts.first().unwrap();
    assert_eq!((count.class, count.layer, count.count), (Class::Job, Layer::Work, 2));
}

#[tokio::test]
async fn soft_timeout_ends_text_at_sentence() {
    let reply = "Once upon a time 3.5 sparks flew. ".repeat(1_000);
    let home = Home::with_sim(json!({ "reply": reply, "token_delay_ms": 2 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let params = JobParams { soft_timeout_s: Some(0.2), ..within(60.0, job("sim")) };
    let made = create(&client, &params).await;
    let done = wait(&client, &made).await;
    assert_eq!(
        (done.job.status, &done.job.warnings[..]),
        (JobStatus::Done, &[JobWarning::SoftTimeout][..])
    );
    let result = generated(&done);
    assert_eq!(result.finish_reason, FinishReason::SoftTimeout);
    assert!(result.text.ends_with("flew."), "{result:?}");
}

#[tokio::test]
async fn cancel_ends_only_running_and_waiting_jobs() {
    let home = Home::with_sim(slow());
    home.add_sim("quick", json!({ "reply": "quick" }));
    home.write("config.toml", "[jobs]\nworkers = 1\n");
    let _daemon = home.daemon();
    let client = home.client().await;
    let running = create(&client, &job("sim")).await;
    let waiting = create(&client, &job("sim")).await;
    let last = create(&client, &job("quick")).await;
    wait_until(&client, &running, has_text).await;
    let status = status_when(&client, |_| true).await;
    assert_eq!((status.jobs.running, status.jobs.queued), (1, 2));
    let delete = DeleteJobsParams { id: Some(waiting.clone()), all_ended: false };
    let error = client.call::<DeleteJobs>(&delete).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    let cancelled = client.call::<CancelJob>(&id(&waiting)).await.unwrap();
    assert_eq!((cancelled.job.status, cancelled.job.attempts), (JobStatus::Cancelled, 0));
    let cancelled = client.call::<CancelJob>(&id(&running)).await.unwrap();
    assert_eq!(cancelled.job.status, JobStatus::Cancelled);
    let (error, text) = failure(cancelled);
    assert!(error.code == ErrorCode::Cancelled && text > 0, "{error:?}");
    assert_eq!(wait(&client, &last).await.job.status, JobStatus::Done);
    assert_eq!(client.call::<CancelJob>(&id(&last)).await.unwrap().job.status, JobStatus::Done);
    let all = DeleteJobsParams { id: None, all_ended: true };
    assert_eq!(client.call::<DeleteJobs>(&all).await.unwrap().deleted, 3);
}

#[tokio::test]
async fn job_wait_ends_and_reports_progress() {
    let home = Home::with_sim(slow());
    let _daemon = home.daemon();
    let client = home.client().await;
    let made = create(&client, &job("sim")).await;
    let budget = Some(Budget { work_ms: Some(300), remaining_ms: None });
    let params = WaitParams { id: made.clone(), stream: true, budget };
    let mut call = client.start::<WaitJob>(&params, Class::Simple).unwrap();
    let mut shares = Vec::new();
    while let Some(event) = call.event::<JobEvent>().await {
        if let JobEvent::Progress { progress, .. } = event {
            shares.push(progress);
        }
    }
    let reply = call.reply().await.unwrap();
    assert_eq!((reply.status, reply.job.status), (JobReplyStatus::Pending, JobStatus::Running));
    assert!(shares.is_sorted() && shares.len() > 1, "{shares:?}");
}

#[tokio::test]
async fn killed_daemon_loses_no_job() {
    let home = Home::with_sim(slow());
    home.add_sim("quick", json!({ "reply": "quick" }));
    home.write("config.toml", "[jobs]\nworkers = 1\n");
    let daemon = home.daemon();
    let client = home.client().await;
    let ended = create(&client, &job("quick")).await;
    let ended = wait(&client, &ended).await;
    let running = create(&client, &job("sim")).await;
    let waiting = create(&client, &job("quick")).await;
    // Progress is written every half second, so by the second write it is certainly on disk.
    wait_until(&client, &running, |reply| reply.job.duration_ms > 1_200).await;
    daemon.signal(Signal::KILL);
    let _ = daemon.wait();
    let _daemon = home.daemon();
    let client = home.client().await;
    assert_eq!(client.call::<GetJob>(&id(&ended.job.id)).await.unwrap(), ended);
    let interrupted = wait(&client, &running).await;
    assert_eq!(interrupted.job.status, JobStatus::Interrupted);
    let (error, text) = failure(interrupted);
    assert!(error.code == ErrorCode::Interrupted && text > 0, "{error:?}");
    // The waiting job had not begun, and runs now.
    assert_eq!(wait(&client, &waiting).await.job.status, JobStatus::Done);
}

#[tokio::test]
async fn stop_interrupts_running_and_keeps_waiting_jobs() {
    let home = Home::with_sim(slow());
    home.write("config.toml", "[jobs]\nworkers = 1\n");
    let daemon = home.daemon();
    let client = home.client().await;
    let running = create(&client, &job("sim")).await;
    let waiting = create(&client, &job("sim")).await;
    wait_until(&client, &running, has_text).await;
    home.ingle(["stop", "--now"]).ok();
    assert_eq!(daemon.wait().code(), Some(0));
    let _daemon = home.daemon();
    let client = home.client().await;
    let reply = client.call::<GetJob>(&id(&running)).await.unwrap();
    assert_eq!(reply.job.status, JobStatus::Interrupted);
    assert!(failure(reply).1 > 0);
    wait_until(&client, &waiting, |reply| reply.job.status == JobStatus::Running).await;
}

#[tokio::test]
async fn broken_store_fails_only_jobs() {
    let home = Home::with_sim(json!({ "reply": "alive" }));
    home.write("jobs/jobs.sqlite3", &"no database at all ".repeat(100));
    let _daemon = home.daemon();
    let client = home.client().await;
    let error = client.call::<CreateJob>(&job("sim")).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::JobStoreUnavailable, false));
    assert!(error.message.contains("jobs.sqlite3"), "{error:?}");
    client.call::<ListJobs>(&ListJobsParams::default()).await.unwrap_err();
    let JobWork::Generate(params) = job("sim").work else { panic!("no generation") };
    let call = client.start::<Generate>(&params, Class::Completions).unwrap();
    assert_eq!(call.reply().await.unwrap().first().text, "alive");
    // Once the store is moved away, a new one is created without a restart.
    fs::remove_file(home.paths().job_store()).unwrap();
    let made = create(&client, &job("sim")).await;
    assert_eq!(wait(&client, &made).await.job.status, JobStatus::Done);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn full_disk_loses_no_result() {
    use rustix::process::{Resource, Rlimit, prlimit};

    let home = Home::with_sim(json!({ "reply": "x".repeat(20_000) }));
    home.add_sim("slow", slow());
    let daemon = home.daemon();
    let client = home.client().await;
    let bytes = |most| Rlimit { current: most, maximum: None };
    let slow = create(&client, &job("slow")).await;
    wait_until(&client, &slow, has_text).await;
    // From here on no file can grow, as on a full disk.
    prlimit(Some(daemon.pid()), Resource::Fsize, bytes(Some(1_000))).unwrap();
    let error = client.call::<CreateJob>(&job("sim")).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::JobStoreUnavailable, true), "{error:?}");
    let cancelled = client.call::<CancelJob>(&id(&slow)).await.unwrap();
    assert_eq!(cancelled.job.status, JobStatus::Cancelled);
    assert!(cancelled.job.not_stored.is_some(), "{cancelled:?}");
    let JobWork::Generate(params) = job("sim").work else { panic!("no generation") };
    let call = client.start::<Generate>(&params, Class::Completions).unwrap();
    assert_eq!(call.reply().await.unwrap().first().text.len(), 20_000);
    prlimit(Some(daemon.pid()), Resource::Fsize, bytes(None)).unwrap();
    loop {
        let reply = client.call::<GetJob>(&id(&slow)).await.unwrap();
        if reply.job.not_stored.is_none() {
            assert_eq!(reply.job.status, JobStatus::Cancelled);
            break;
        }
    }
    let made = create(&client, &job("sim")).await;
    assert_eq!(wait(&client, &made).await.job.status, JobStatus::Done);
}

/// Half of them have no limit and must finish; the other half cannot finish within their limit.
#[tokio::test]
async fn two_hundred_jobs_all_end_as_expected() {
    let home = Home::with_sim(slow());
    home.add_sim("quick", json!({ "reply": "quick", "token_delay_ms": 1 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let mut made = Vec::new();
    for number in 0..200_u32 {
        let seconds = 0.1 + f64::from(number * 7 % 40) / 1_000.0;
        let params = match number % 2 {
            0 => JobParams { timeout_s: Some(JobTimeout::None), ..job("quick") },
            _ => within(seconds, job("sim")),
        };
        made.push((create(&client, &params).await, number % 2 == 0, seconds));
    }
    for (id, is_quick, seconds) in made {
        let reply = wait(&client, &id).await;
        if is_quick {
            assert_eq!(generated(&reply).text, "quick");
            continue;
        }
        assert_eq!(reply.job.status, JobStatus::TimedOut, "{reply:?}");
        let (error, _) = failure(reply);
        let found = error.details["timeout_seconds"].as_f64().unwrap();
        assert!((found - seconds).abs() < 0.001_5, "{found} {seconds}");
        let text = error.details["partial_result"]["text"].as_str().unwrap_or_default();
        assert!(text.bytes().all(|byte| byte == b'x'), "{text}");
    }
    let all = ListJobsParams { status: Some(JobStatus::TimedOut), limit: Some(1_000) };
    assert_eq!(client.call::<ListJobs>(&all).await.unwrap().jobs.len(), 100);
}
