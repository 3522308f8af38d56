//! Tests of jobs on a real service with the sim engine, above all of promotion.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ingle_client::paths::Paths;
use ingle_protocol::timeouts::WorkTimeouts;
use ingle_protocol::wire::generate::GenerateParams;
use ingle_protocol::wire::jobs::{JobResult, JobWork};
use ingle_protocol::wire::status::HttpStatus;
use tokio_util::sync::CancellationToken;

use super::promote::Promotion;
use super::store::{Retention, Store};
use super::*;
use ingle_engine::engines::{Engine, Engines};
use ingle_engine::settings::EngineSettings;
use ingle_engine::sim::SimEngine;
use ingle_models::{ModelStore, PullSetup, Puller};
use ingle_scheduler::command::Command;
use ingle_scheduler::crash_journal::CrashJournal;
use ingle_scheduler::handle::EngineHandle;
use ingle_scheduler::memory::MemoryOptions;
use ingle_scheduler::watchdog::Watchdog;
use ingle_service::ServiceParts;
use ingle_service::memory_watch::MemoryWatch;
use ingle_service::model_cache::ModelCache;
use ingle_text::gguf_vocab;

/// Jobs with their engine and store.
struct TestJobs {
    jobs: Jobs,
    engine: EngineHandle,
    store: PathBuf,
}

impl std::ops::Deref for TestJobs {
    type Target = Jobs;

    fn deref(&self) -> &Jobs {
        &self.jobs
    }
}

/// Jobs in a folder, with the models `sim` (100 tokens, 2 ms each) and `slow` (without an end).
fn jobs(folder: &Path) -> TestJobs {
    let paths = Paths::new(folder.join("i"), None).unwrap();
    for (name, tokens) in [("sim", 100), ("slow", 30_000)] {
        let model = paths.models_dir().join(name);
        std::fs::create_dir_all(&model).unwrap();
        let reply = "x".repeat(tokens);
        let config = json!({ "model_type": "sim", "reply": reply, "token_delay_ms": 2 });
        std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    }
    let settings = EngineSettings::default();
    let memory = MemoryOptions { memory_bytes: 1 << 30, ..MemoryOptions::default() };
    let journal = CrashJournal::open(&folder.join("journal"), &folder.join("quarantine"));
    let engines = Engines::new([Arc::new(SimEngine) as Arc<dyn Engine>]);
    let (engine, _) =
        EngineHandle::spawn(engines.clone(), settings.clone(), memory, journal).unwrap();
    let store = ModelStore::new(paths.models_dir());
    let service = Service::new(ServiceParts {
        work_timeouts: WorkTimeouts::default(),
        models: ModelCache::new(
            store,
            "sim".to_owned(),
            settings,
            engines,
            |gguf, _| gguf_vocab::text_model(gguf),
            engine.cores(),
        ),
        engine: engine.clone(),
        puller: Puller::new(PullSetup::new(paths.models_dir())),
        memory: MemoryWatch::default(),
        watchdog: Watchdog::new(Duration::from_secs(60)),
        http: HttpStatus::default(),
        draining: CancellationToken::new(),
        paths,
    });
    let store = store_in(folder);
    let jobs = Jobs::spawn(Arc::new(service), store.clone(), JobSettings::default()).unwrap();
    TestJobs { jobs, engine, store }
}

fn store_in(folder: &Path) -> PathBuf {
    Paths::new(folder.join("i"), None).unwrap().job_store()
}

fn params(model: &str) -> JobParams {
    let work = JobWork::Generate(GenerateParams {
        model: Some(model.to_owned()),
        prompt: Some("hi".to_owned()),
        max_tokens: Some(100_000),
        ..GenerateParams::default()
    });
    JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None }
}

fn context(jobs: &Jobs) -> RequestContext {
    let service = &jobs.pool.service;
    let cancel = CancellationToken::new();
    let (id, timeouts) = (service.next_request_id(), service.work_timeouts());
    RequestContext::new(id, Class::Simple, timeouts, None, cancel, Instant::now())
}

fn text_of(reply: &JobReply) -> &str {
    let Some(JobResult::Generate(result)) = &reply.result else { panic!("{reply:?}") };
    &result.first().text
}

async fn listed(jobs: &Jobs) -> usize {
    jobs.list(ListJobsParams::default(), &context(jobs)).await.unwrap().jobs.len()
}

fn in_a_minute() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(60)
}

async fn stop(jobs: &TestJobs) {
    jobs.pool.service.draining().cancel();
    let _ = jobs.engine.send(Command::Shutdown { now: true });
    jobs.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_that_ends_first_leaves_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(folder.path());
    let call = jobs.start(params("sim"), Class::Workflow).unwrap();
    let reply = call.ended().await;
    assert_eq!(text_of(&reply).len(), 100);
    assert_eq!(reply.job.class, Class::Workflow);
    // Too late: the result won.
    let Promotion::Ended(late) = call.promote(in_a_minute()).await.unwrap() else {
        panic!("promoted")
    };
    assert_eq!(*late, reply);
    assert_eq!(listed(&jobs).await, 0);
    stop(&jobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoted_call_outlives_its_caller() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(folder.path());
    let call = jobs.start(params("sim"), Class::Workflow).unwrap();
    // `promote` takes the call, which is dropped at its end.
    let Promotion::Stored(reply) = call.promote(in_a_minute()).await.unwrap() else {
        panic!("not promoted")
    };
    let id = reply.job.id;
    let live = jobs.pool.live.get(&id).unwrap();
    assert_eq!(live.ended().await.status, JobStatus::Done);
    let stored = jobs.get(&id, &context(&jobs)).await.unwrap();
    assert_eq!((stored.job.status, stored.job.class), (JobStatus::Done, Class::Workflow));
    assert_eq!(text_of(&stored).len(), 100);

    let call = jobs.start(params("slow"), Class::Workflow).unwrap();
    let state = call.watch();
    drop(call);
    let mut state = state;
    let ended = state.wait_for(|record| record.status.has_ended()).await.unwrap().clone();
    assert_eq!(ended.status, JobStatus::Cancelled);
    assert_eq!(listed(&jobs).await, 1);

    // Its own time still ends it, and so does `jobs.cancel`.
    let call = jobs.start(params("slow"), Class::Workflow).unwrap();
    let Promotion::Stored(reply) = call.promote(in_a_minute()).await.unwrap() else {
        panic!("not promoted")
    };
    let cancelled = jobs.cancel(&reply.job.id, &context(&jobs)).await.unwrap();
    assert_eq!(cancelled.job.status, JobStatus::Cancelled);
    assert_eq!(listed(&jobs).await, 2);
    stop(&jobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promotion_without_a_store_ends_the_call() {
    let folder = tempfile::tempdir().unwrap();
    // A folder stands where the file should be.
    std::fs::create_dir_all(store_in(folder.path())).unwrap();
    let jobs = jobs(folder.path());
    let call = jobs.start(params("slow"), Class::Workflow).unwrap();
    let mut state = call.watch();
    let error = call.promote(in_a_minute()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::JobStoreUnavailable);
    assert!(error.message.contains("jobs.sqlite3"), "{error:?}");
    let ended = state.wait_for(|record| record.status.has_ended()).await.unwrap().clone();
    assert_eq!(ended.status, JobStatus::Cancelled);
    stop(&jobs).await;
}

/// Opens the store, then makes every insert into its file fail.
async fn break_store(jobs: &TestJobs) -> rusqlite::Connection {
    listed(jobs).await;
    let file = rusqlite::Connection::open(&jobs.store).unwrap();
    file.execute_batch(
        "CREATE TRIGGER no_room BEFORE INSERT ON jobs BEGIN SELECT RAISE(FAIL, 'no room'); END",
    )
    .unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_promotion_frees_its_permit() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(folder.path());
    let file = break_store(&jobs).await;
    let call = jobs.start(params("slow"), Class::Workflow).unwrap();
    let mut state = call.watch();
    let error = call.promote(in_a_minute()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::JobStoreUnavailable);
    let ended = state.wait_for(|record| record.status.has_ended()).await.unwrap().clone();
    assert_eq!((ended.status, ended.not_stored), (JobStatus::Cancelled, None));
    // All permits are free once the run is over, and no retry waits for the disk.
    let all = u32::try_from(limits::PROMOTED_JOBS).unwrap();
    drop(jobs.pool.call_permits.acquire_many(all).await.unwrap());
    assert_eq!(jobs.counts(), JobCounts { running: 0, queued: 0 });
    file.execute_batch("DROP TRIGGER no_room").unwrap();
    assert_eq!(listed(&jobs).await, 0);
    stop(&jobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promotion_on_a_slow_store_is_answered_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(folder.path());
    // The store never opens while this is held, so that nothing can be claimed.
    let opening = jobs.pool.is_open.lock().await;
    let call = jobs.start(params("slow"), Class::Workflow).unwrap();
    let error = call.promote(tokio::time::Instant::now()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::JobStoreUnavailable);
    drop(opening);
    assert_eq!(listed(&jobs).await, 0);
    // Claimed but not on disk: it has an id, and can be waited for.
    let file = rusqlite::Connection::open(&jobs.store).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let call = jobs.start(params("sim"), Class::Workflow).unwrap();
    let soon = tokio::time::Instant::now() + Duration::from_millis(100);
    let Promotion::Stored(reply) = call.promote(soon).await.unwrap() else { panic!("ended") };
    let live = jobs.pool.live.get(&reply.job.id).unwrap();
    file.execute_batch("ROLLBACK").unwrap();
    assert_eq!(live.ended().await.status, JobStatus::Done);
    assert_eq!(listed(&jobs).await, 1);
    stop(&jobs).await;
}

/// On one thread, so that no worker opens the store before the call does.
#[tokio::test]
async fn recovered_job_can_be_cancelled_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // The state that an earlier daemon has left.
    let last = Store::spawn(store_in(folder.path()), Retention { ms: 1_000, count: 9 }).unwrap();
    last.open().await.unwrap();
    let params = Arc::new(params("slow"));
    let waiting = JobRecord::new("j-1".to_owned(), params, Class::Job, None, clock::unix_ms());
    last.insert(waiting).await.unwrap();
    last.close().await;
    let jobs = jobs(folder.path());
    let cancelled = jobs.cancel("j-1", &context(&jobs)).await.unwrap();
    assert_eq!(cancelled.job.status, JobStatus::Cancelled);
    stop(&jobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_gives_the_state_at_its_end_and_at_the_drain() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(folder.path());
    let plain = context(&jobs);
    let made = jobs.create(params("slow"), &plain).await.unwrap();
    let wait = WaitParams { id: made.job.id, ..WaitParams::default() };
    // Its time was over before the store was asked.
    let mut short = context(&jobs);
    (short.deadline.work_ms, short.deadline.limit_ms) = (1, 0);
    let (events, _received) = mpsc::channel(8);
    let reply = jobs.wait(&wait, events.clone(), &short).await.unwrap();
    assert!(!reply.job.status.has_ended() && reply.error.is_none(), "{reply:?}");
    // No worker takes a queued job once the daemon drains.
    jobs.pool.service.draining().cancel();
    let record = jobs.pool.record(params("slow"), Class::Job, None);
    let plan = jobs.pool.plan(&record.params, Class::Job).unwrap();
    let job = jobs.pool.admit(record, plan).unwrap();
    jobs.pool.live.add(&job);
    let wait = WaitParams { id: job.id.clone(), ..WaitParams::default() };
    let reply = jobs.wait(&wait, events, &plain).await.unwrap();
    assert_eq!(reply.job.status, JobStatus::Queued);
    stop(&jobs).await;
}
