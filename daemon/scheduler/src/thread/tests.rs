//! Tests of the scheduler, turn by turn: sim models, no engine thread, no waiting.

use std::pin::Pin;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::deadline::Deadline;
use ingle_protocol::timeouts::Layer;
use ingle_protocol::wire::models::{EngineKind, Fit, LoadEstimate, LoadedModel};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::memory::Protection;
use super::*;
use crate::command::{Completion, EmbedRequest, RequestChoice};
use crate::memory::{Budget, ModelOptions};
use ingle_engine::engines::{Engine, Engines};
use ingle_engine::error::EngineError;
use ingle_engine::model::{EngineModel, Weights};
use ingle_engine::role::Role;
use ingle_engine::sampling::{PenaltySettings, SamplerSettings};
use ingle_engine::sim::SimEngine;
use ingle_text::output::TextOutput;
use ingle_text::tokenizer::ByteTokenizer;

type Answer<T> = oneshot::Receiver<Result<T, EngineFailure>>;

/// The caller's end of a generation.
struct Call {
    done: Answer<Completion>,
    cancel: CancellationToken,
    _events: mpsc::Receiver<GenerateEvent>,
}

struct Bench {
    scheduler: Scheduler,
    status: StatusCell,
    _commands: SyncSender<Command>,
    _folder: tempfile::TempDir,
}

fn model(name: &str, config: &Value) -> EngineModel {
    let mut config = config.clone();
    config["model_type"] = json!("sim");
    EngineModel {
        name: name.to_owned(),
        version: "1".to_owned(),
        engine: EngineKind::Sim,
        role: Role::Generates,
        weights: Weights::Sim(serde_json::from_value(config).unwrap()),
    }
}

fn weights(bytes: u64) -> Value {
    json!({ "weight_bytes": bytes, "kv_bytes_per_token": 0 })
}

/// A model that generates until it is stopped.
fn talkative(name: &str, bytes: u64) -> EngineModel {
    let config = json!({
        "weight_bytes": bytes, "kv_bytes_per_token": 0, "reply": "x".repeat(100_000),
        "context_tokens": 200_000,
    });
    model(name, &config)
}

/// A model whose load does not end.
fn slow(name: &str) -> EngineModel {
    model(name, &json!({ "load_delay_ms": 600_000 }))
}

fn embedder(name: &str, bytes: u64) -> EngineModel {
    EngineModel { role: Role::Embeds, ..model(name, &weights(bytes)) }
}

fn changed(model: &EngineModel) -> EngineModel {
    EngineModel { version: "2".to_owned(), ..model.clone() }
}

fn deadline() -> Deadline {
    Deadline::new(Layer::Daemon, 600_000, None, Instant::now())
}

/// A time past the patience for memory.
fn long_ago() -> Option<Instant> {
    Instant::now().checked_sub(Duration::from_millis(2 * limits::MEMORY_PATIENCE_MS))
}

impl Bench {
    fn new(budget: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let journal = CrashJournal::open(&path("journal"), &path("quarantine.json"));
        let (commands, inbox) = sync_channel(1);
        let status = StatusCell::new(Instant::now());
        let memory = MemoryOptions { budget: Budget::Bytes(budget), ..MemoryOptions::default() };
        let settings = EngineSettings::default();
        let engines = Engines::new([Arc::new(SimEngine) as Arc<dyn Engine>]);
        let scheduler = Scheduler::new(
            inbox,
            status.clone(),
            engines,
            settings,
            memory,
            Cores::default(),
            journal,
        );
        Self { scheduler, status, _commands: commands, _folder: folder }
    }

    fn generate_prompt(&mut self, model: &EngineModel, prompt: &[u32], max_tokens: usize) -> Call {
        let (request, call) = request(model, prompt, max_tokens);
        self.scheduler.handle(Command::Generate(Box::new(request)));
        call
    }

    fn generate(&mut self, model: &EngineModel, max_tokens: usize) -> Call {
        self.generate_prompt(model, &[104, 105], max_tokens)
    }

    fn embed(&mut self, model: &EngineModel) -> Answer<Vec<Vec<f32>>> {
        let (request, done) = texts(model, deadline());
        self.scheduler.handle(Command::Embed(Box::new(request)));
        done
    }

    fn load(&mut self, model: &EngineModel, options: ModelOptions) -> Answer<LoadedModel> {
        let (done, outcome) = oneshot::channel();
        let (progress, _) = mpsc::channel(1);
        let model = model.clone();
        self.scheduler.handle(Command::Load {
            model,
            options,
            force: false,
            span: Span::none(),
            progress,
            done,
        });
        outcome
    }

    fn estimate(&mut self, model: &EngineModel) -> LoadEstimate {
        let (done, mut outcome) = oneshot::channel();
        self.scheduler.handle(Command::Estimate { model: model.clone(), done });
        outcome.try_recv().unwrap().unwrap()
    }

    fn unload(&mut self, name: &str) -> Result<bool, EngineFailure> {
        let (done, mut outcome) = oneshot::channel();
        self.scheduler.handle(Command::Unload { name: name.to_owned(), done });
        outcome.try_recv().unwrap()
    }

    /// Turns the loop until `answer` is there.
    fn outcome<T>(&mut self, answer: &mut Answer<T>) -> Result<T, EngineFailure> {
        let started_at = Instant::now();
        loop {
            self.scheduler.turn();
            if let Ok(outcome) = answer.try_recv() {
                return outcome;
            }
            assert!(started_at.elapsed() < Duration::from_secs(20), "no answer");
        }
    }

    /// Loads a model, which stays idle.
    fn warm(&mut self, model: &EngineModel) {
        let mut load = self.load(model, ModelOptions::default());
        self.outcome(&mut load).unwrap();
    }

    fn resident(&self) -> Vec<String> {
        self.status.read().models.into_iter().map(|model| model.name).collect()
    }

    /// Lets everything that waits for memory have waited long.
    fn age(&mut self) {
        let scheduler = &mut self.scheduler;
        let generations = scheduler.waiting.iter_mut().map(|waiting| &mut waiting.memory_since);
        let jobs = scheduler.embeddings.iter_mut().map(|job| &mut job.memory_since);
        let loads = scheduler.loads.iter_mut().map(|load| &mut load.memory_since);
        for since in generations.chain(jobs).chain(loads) {
            *since = since.and(long_ago());
        }
    }
}

fn request(model: &EngineModel, prompt: &[u32], max_tokens: usize) -> (GenerateRequest, Call) {
    let (done_tx, done) = oneshot::channel();
    let (events, kept) = mpsc::channel(ingle_protocol::limits::ENGINE_EVENTS);
    let cancel = CancellationToken::new();
    let request = GenerateRequest {
        request_id: "r".to_owned(),
        span: Span::none(),
        model: model.clone(),
        output: TextOutput::new(Arc::new(ByteTokenizer), Vec::new()).unwrap(),
        constraint: None,
        end_tokens: vec![257],
        prompt: prompt.to_vec(),
        max_tokens,
        settings: SamplerSettings::GREEDY,
        penalties: PenaltySettings::NONE,
        logit_bias: Arc::new([]),
        seed: 1,
        logprobs: None,
        stream_text: false,
        deadline: deadline(),
        finish_at_sentence: Arc::default(),
        choice: RequestChoice::default(),
        cancel: cancel.clone(),
        events,
        done: done_tx,
    };
    (request, Call { done, cancel, _events: kept })
}

fn texts(model: &EngineModel, deadline: Deadline) -> (EmbedRequest, Answer<Vec<Vec<f32>>>) {
    let (done, outcome) = oneshot::channel();
    let request = EmbedRequest {
        request_id: "e".to_owned(),
        span: Span::none(),
        model: model.clone(),
        inputs: vec![vec![1, 2, 3]],
        deadline,
        cancel: CancellationToken::new(),
        done,
    };
    (request, outcome)
}

fn is_busy<T>(answer: &mut Answer<T>) -> bool {
    matches!(answer.try_recv(), Ok(Err(EngineFailure::Busy { .. })))
}

#[test]
fn other_version_is_refused_while_one_is_used() {
    let mut bench = Bench::new(100);
    let (old, new) = (slow("m"), changed(&slow("m")));
    let mut load = bench.load(&old, ModelOptions::default());
    assert_eq!(bench.status.read().engines, [("m".to_owned(), EngineKind::Sim)]);
    assert!(is_busy(&mut bench.generate(&new, 1).done));
    assert!(is_busy(&mut bench.load(&new, ModelOptions::default())));
    assert!(is_busy(&mut bench.embed(&new)));
    // Requests for the same version join the load.
    let mut queued = bench.generate(&old, 1);
    bench.scheduler.turn();
    assert!(load.try_recv().is_err() && queued.done.try_recv().is_err());
    // The load has no waiters any more, and is cancelled for the other version.
    drop((load, queued));
    bench.scheduler.drop_ended();
    let mut call = bench.generate(&changed(&model("m", &weights(1))), 1);
    bench.outcome(&mut call.done).unwrap();
}

#[test]
fn changed_embedding_model_is_reloaded() {
    let mut bench = Bench::new(100);
    let old = embedder("e", 1);
    let mut job = bench.embed(&old);
    bench.outcome(&mut job).unwrap();
    let mut job = bench.embed(&changed(&old));
    assert_eq!(bench.outcome(&mut job).unwrap().len(), 1);
    assert!(bench.scheduler.registry.is_ready(&changed(&old)));
}

#[test]
fn tokens_and_weights_are_of_one_version() {
    let mut bench = Bench::new(100);
    let old = talkative("m", 1);
    bench.warm(&old);
    let _running = bench.generate(&old, 50_000);
    // Bypasses the checks of `handle`, as if the model had been replaced while it waited.
    let (waiting, mut call) = request(&changed(&old), &[104], 1);
    let arrival = bench.scheduler.next_arrival();
    assert!(bench.scheduler.waiting.push(QueuedRequest::new(waiting, arrival)).is_ok());
    assert!(bench.scheduler.next_admitted(Instant::now()).is_none());
    bench.scheduler.turn();
    assert!(is_busy(&mut call.done));
    assert_eq!(bench.scheduler.running.len(), 1);
}

#[test]
fn old_version_stays_until_new_load_starts() {
    let mut bench = Bench::new(10);
    let old = model("m", &weights(4));
    let mut load = bench.load(&old, ModelOptions { pin: Some(true), keep_alive: None });
    assert!(bench.outcome(&mut load).unwrap().pinned);
    let larger = changed(&model("m", &weights(20)));
    let mut load = bench.load(&larger, ModelOptions::default());
    let refused = bench.outcome(&mut load);
    assert!(matches!(refused, Err(EngineFailure::InsufficientMemory(_))), "{refused:?}");
    let unsupported = EngineModel { engine: EngineKind::Gguf, ..changed(&old) };
    let mut load = bench.load(&unsupported, ModelOptions::default());
    let refused = bench.outcome(&mut load);
    assert!(
        matches!(refused, Err(EngineFailure::Engine(EngineError::Unsupported { .. }))),
        "{refused:?}"
    );
    assert!(bench.scheduler.registry.is_ready(&old));
    // Both versions do not fit together.
    let new = changed(&model("m", &weights(8)));
    let estimate = bench.estimate(&new);
    assert_eq!((estimate.fit, estimate.evictions.len()), (Fit::AfterEvictions, 1));
    let mut load = bench.load(&new, ModelOptions::default());
    let loaded = bench.outcome(&mut load).unwrap();
    assert!(loaded.pinned && bench.scheduler.registry.is_ready(&new));
}

#[test]
fn unknown_token_fails_its_own_request_only() {
    let mut bench = Bench::new(100);
    let sim = talkative("m", 1);
    bench.warm(&sim);
    let mut good = bench.generate(&sim, 3);
    let mut bad = bench.generate_prompt(&sim, &[104, 258], 3);
    let unknown =
        EngineFailure::UnknownToken { model: "m".to_owned(), token: 258, vocab_size: 258 };
    assert_eq!(bench.outcome(&mut bad.done), Err(unknown));
    assert_eq!(bench.outcome(&mut good.done).unwrap().usage.completion_tokens, 3);
}

#[test]
fn reused_sequence_is_not_evicted_for_its_request() {
    for (extra, cached) in [(10, 20), (-2, 17)] {
        let mut bench = Bench::new(60);
        let config = json!({ "weight_bytes": 0, "kv_bytes_per_token": 1, "reply": "x".repeat(90) });
        let sim = model("m", &config);
        // Two turns are kept, 20 bytes each; the first is the least recently used one.
        let (first, other) = (vec![1; 20], vec![2; 20]);
        for prompt in [&first, &other] {
            let mut call = bench.generate_prompt(&sim, prompt, 1);
            bench.outcome(&mut call.done).unwrap();
        }
        // The next turn fits once one of them is evicted.
        let length = usize::try_from(20 + extra).unwrap();
        let max_tokens = 50 - length - if extra < 0 { 20 } else { 0 };
        let mut call = bench.generate_prompt(&sim, &vec![1; length], max_tokens);
        let usage = bench.outcome(&mut call.done).unwrap().usage;
        assert_eq!(usage.cached_tokens, cached, "{extra}");
    }
}

#[test]
fn refused_requests_evict_and_load_nothing() {
    let mut bench = Bench::new(10);
    let (busy, idle) = (talkative("busy", 5), model("idle", &weights(4)));
    let cold = model("cold", &weights(4));
    bench.warm(&busy);
    bench.warm(&idle);
    let (cancelled, call) = request(&cold, &[104], 1);
    call.cancel.cancel();
    bench.scheduler.handle(Command::Generate(Box::new(cancelled)));
    let (done, gone) = oneshot::channel();
    drop(gone);
    let (options, (progress, _)) = (ModelOptions::default(), mpsc::channel(1));
    let load = Command::Load {
        model: cold.clone(),
        options,
        force: false,
        span: Span::none(),
        progress,
        done,
    };
    bench.scheduler.handle(load);
    let (late, _outcome) = texts(&cold, Deadline { limit_ms: 0, ..deadline() });
    bench.scheduler.handle(Command::Embed(Box::new(late)));
    let most = limits::QUEUED_GENERATIONS + limits::CONCURRENT_GENERATIONS;
    let _calls: Vec<_> = (0..most).map(|_| bench.generate(&busy, 50_000)).collect();
    let mut refused = bench.generate(&cold, 1);
    assert!(matches!(refused.done.try_recv(), Ok(Err(EngineFailure::Overloaded { .. }))));
    bench.scheduler.turn();
    assert_eq!(bench.resident(), ["busy", "idle"]);
    assert!(bench.scheduler.registry.loading().is_none());
    assert_eq!(bench.status.read().accepted, most as u64);
}

#[test]
fn cold_embedding_precedes_later_generations() {
    let mut bench = Bench::new(10);
    let (rival, cold) = (talkative("rival", 6), embedder("cold", 6));
    bench.warm(&rival);
    let first = bench.generate(&rival, 50_000);
    let mut job = bench.embed(&cold);
    bench.scheduler.turn();
    bench.age();
    let mut later = bench.generate(&rival, 1);
    bench.scheduler.turn();
    assert_eq!((bench.scheduler.running.len(), bench.scheduler.waiting.len()), (1, 1));
    drop(first);
    bench.outcome(&mut job).unwrap();
    assert!(later.done.try_recv().is_err());
    bench.outcome(&mut later.done).unwrap();
}

#[test]
fn later_embeddings_do_not_protect_their_model() {
    let mut bench = Bench::new(10);
    let (warm, cold) = (embedder("warm", 6), model("cold", &weights(6)));
    bench.warm(&warm);
    let mut first = bench.embed(&warm);
    let mut call = bench.generate(&cold, 1);
    assert_eq!(bench.scheduler.waiting.len(), 1, "the request before it keeps its model");
    bench.age();
    let mut later = bench.embed(&warm);
    bench.outcome(&mut first).unwrap();
    bench.outcome(&mut call.done).unwrap();
    assert!(later.try_recv().is_err());
    bench.outcome(&mut later).unwrap();
}

#[test]
fn later_embeddings_wait_behind_the_barrier() {
    let mut bench = Bench::new(10);
    let (warm, busy, cold) =
        (embedder("warm", 2), talkative("busy", 6), model("cold", &weights(5)));
    bench.warm(&warm);
    bench.warm(&busy);
    let running = bench.generate(&busy, 50_000);
    let mut call = bench.generate(&cold, 1);
    bench.age();
    let mut later = bench.embed(&warm);
    bench.scheduler.turn();
    bench.scheduler.turn();
    assert!(later.try_recv().is_err());
    drop(running);
    bench.outcome(&mut call.done).unwrap();
    bench.outcome(&mut later).unwrap();
}

#[test]
fn long_waiting_load_holds_back_later_work_only() {
    let mut bench = Bench::new(10);
    let (running, idle) = (talkative("running", 1), model("idle", &weights(4)));
    let (wanted, small) = (model("wanted", &weights(9)), model("small", &weights(1)));
    bench.warm(&running);
    bench.warm(&idle);
    let slots: Vec<_> = (0..5).map(|_| bench.generate(&running, 50_000)).collect();
    let earlier = bench.generate(&idle, 1);
    let mut load = bench.load(&wanted, ModelOptions::default());
    bench.age();
    let later = bench.generate(&idle, 1);
    let late = bench.generate(&small, 1);
    bench.scheduler.turn();
    assert_eq!(bench.resident(), ["idle", "running"], "an earlier request needs it");
    assert!(bench.scheduler.registry.loading().is_none(), "a later request must not get ahead");
    let arrival = bench.scheduler.loads[0].arrival;
    assert_eq!(bench.scheduler.protectors("idle", Protection::Before(arrival)).queued, 1);
    earlier.cancel.cancel();
    bench.scheduler.drop_ended();
    bench.scheduler.admit();
    assert_eq!(bench.scheduler.registry.loading_names(), ["wanted"]);
    assert!(!bench.scheduler.registry.is_resident("idle"), "a later request does not keep it");
    bench.outcome(&mut load).unwrap();
    drop((slots, later, late));
}

#[test]
fn unload_ends_all_waiters() {
    let mut bench = Bench::new(10);
    let (cold, sim) = (slow("cold"), model("warm", &weights(9)));
    let mut load = bench.load(&cold, ModelOptions::default());
    let (mut call, mut job) = (bench.generate(&cold, 1), bench.embed(&cold));
    assert_eq!(bench.unload("cold"), Ok(true));
    assert_eq!(load.try_recv().unwrap(), Err(EngineFailure::Cancelled));
    assert_eq!(call.done.try_recv().unwrap(), Err(EngineFailure::Cancelled));
    assert_eq!(job.try_recv().unwrap(), Err(EngineFailure::Cancelled));
    assert_eq!(bench.unload("cold"), Ok(false));
    // A load that waits for memory goes too.
    bench.warm(&sim);
    let running = bench.generate(&talkative("warm", 9), 50_000);
    let mut load = bench.load(&model("cold", &weights(9)), ModelOptions::default());
    assert_eq!(bench.unload("cold"), Ok(true));
    assert_eq!(load.try_recv().unwrap(), Err(EngineFailure::Cancelled));
    assert!(matches!(bench.unload("warm"), Err(EngineFailure::Busy { active: 1, .. })));
    drop(running);
    bench.scheduler.turn();
    assert_eq!(bench.unload("warm"), Ok(true));
    assert!(bench.resident().is_empty(), "an answer is in the status when it goes out");
}

/// Reads the status at the moment a reply is sent.
struct Witness(StatusCell, Mutex<Vec<usize>>);

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        let status = self.0.read();
        let used = status.models.iter().map(|model| model.active).sum::<usize>();
        self.1.lock().unwrap().push(status.active + used);
    }
}

#[test]
fn status_is_published_before_the_reply() {
    let mut bench = Bench::new(10);
    let witness = Arc::new(Witness(bench.status.clone(), Mutex::default()));
    let waker = Waker::from(Arc::clone(&witness));
    let mut context = Context::from_waker(&waker);
    let mut call = bench.generate(&model("m", &weights(1)), 4);
    assert!(Pin::new(&mut call.done).poll(&mut context).is_pending());
    bench.outcome(&mut call.done).unwrap();
    let mut job = bench.embed(&embedder("e", 1));
    assert!(Pin::new(&mut job).poll(&mut context).is_pending());
    bench.outcome(&mut job).unwrap();
    assert_eq!(*witness.1.lock().unwrap(), [0, 0], "nothing was in use at the replies");
    assert_eq!(bench.status.read().accepted, 2);
}

#[test]
fn embedding_wait_counts_to_daemon_limit_only() {
    let mut bench = Bench::new(100);
    let ago = |ms| Instant::now().checked_sub(Duration::from_millis(ms)).unwrap();
    let accepted = |accepted_at| Deadline { work_ms: 60_000, limit_ms: 90_000, accepted_at };
    // Its W is over, counted from when it came.
    let (request, mut patient) = texts(&embedder("e", 1), accepted(ago(70_000)));
    bench.scheduler.handle(Command::Embed(Box::new(request)));
    bench.outcome(&mut patient).unwrap();
    let (request, mut late) = texts(&embedder("e", 1), accepted(ago(90_000)));
    bench.scheduler.handle(Command::Embed(Box::new(request)));
    let Ok(Err(EngineFailure::Timeout { layer, limit_ms, .. })) = late.try_recv() else {
        panic!("no time-out")
    };
    assert_eq!((layer, limit_ms), (Layer::Daemon, 90_000));
}

/// Collects the log of a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn log_lines_of_a_request_are_in_its_span() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut bench = Bench::new(100);
        let sim = model("m", &weights(1));
        let (mut ok, mut call) = request(&sim, &[104, 105], 2);
        ok.span = tracing::info_span!("request", id = "r-1");
        bench.scheduler.handle(Command::Generate(Box::new(ok)));
        bench.outcome(&mut call.done).unwrap();
        let (mut late, mut call) = request(&sim, &[104, 105], 2);
        late.span = tracing::info_span!("request", id = "r-2");
        late.deadline = Deadline { limit_ms: 0, ..deadline() };
        bench.scheduler.handle(Command::Generate(Box::new(late)));
        bench.outcome(&mut call.done).unwrap_err();
        let (mut job, mut done) = texts(&embedder("e", 1), deadline());
        job.span = tracing::info_span!("request", id = "r-3");
        bench.scheduler.handle(Command::Embed(Box::new(job)));
        bench.outcome(&mut done).unwrap();
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for (id, events) in [
        ("r-1", ["load started", "admitted", "first token", "ended"].as_slice()),
        ("r-2", &["failed"]),
        ("r-3", &["load started", "admitted", "ended"]),
    ] {
        let span = format!("request{{id=\"{id}\"}}");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&span)).collect();
        for event in events {
            let found = lines.iter().filter(|line| line.contains(event)).count();
            assert_eq!(found, 1, "{id} {event}: {log}");
        }
    }
}
