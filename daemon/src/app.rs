//! The only place that constructs and wires.
//!
//! Owns the daemon's life: locks, socket, engine thread, edges, readiness, signals, drain, end.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits;
use ingle_client::exit;
use ingle_client::launch::{self, StartReport};
use ingle_client::paths::Paths;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::listener::{self, Shared};
use crate::logging;
use crate::rpc::methods;
use crate::{engines, signals};
use ingle_engine::heap;
use ingle_http::server::{HttpListeners, Shutdown};
use ingle_jobs::Jobs;
use ingle_models::library_paths;
use ingle_models::{DEFAULT_MODEL, ModelStore, PullSetup, Puller};
use ingle_scheduler::command::Command;
use ingle_scheduler::command::EngineExit;
use ingle_scheduler::crash_journal::CrashJournal;
use ingle_scheduler::handle::EngineHandle;
use ingle_scheduler::memory::MemoryOptions;
use ingle_scheduler::watchdog::Watchdog;
use ingle_service::Service;
use ingle_service::forms::Forms;
use ingle_service::memory_watch::MemoryWatch;
use ingle_service::models::Models;
use ingle_service::request::RequestNames;
use ingle_service::system_memory;

/// Why the daemon does not run.
struct StartFailure {
    report: Box<StartReport>,
    exit_code: u8,
}

impl StartFailure {
    fn new(error: ErrorBody, exit_code: u8) -> Self {
        Self { report: Box::new(StartReport::Failed { error, exit_code }), exit_code }
    }

    fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot {what} `{}`: {error}", path.display());
        let next = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "Free space on that disk, or set INGLE_HOME to a folder on another one."
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorCode::PermissionDenied.remediation()
            }
            _ => ErrorCode::DaemonUnavailable.remediation(),
        };
        let body = ErrorBody::new(ErrorCode::DaemonUnavailable, message).with_remediation(next);
        Self::new(body, exit::CANNOT_CREATE)
    }
}

/// What the daemon holds for its life, before anything runs.
struct Held {
    paths: Paths,
    config: Config,
    daemon_lock: File,
    /// Given back when the daemon is ready. A launcher holds it itself.
    start_lock: Option<File>,
}

/// Runs the daemon. `launched` means that a launcher reads the report on standard output and holds
/// the start lock; `http` is where HTTP is to be spoken over TCP, whatever the settings say.
#[must_use]
pub fn serve(launched: bool, http: Option<SocketAddr>) -> ExitCode {
    heap::run_without_thread_caches();
    heap::configure();
    let held = match prepare(launched, http) {
        Ok(held) => held,
        Err(failure) => return give_up(launched, &failure),
    };
    let log_guard = logging::start(&held.paths.logs_dir(), !launched);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("async")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = ErrorBody::new(ErrorCode::Internal, format!("no runtime: {error}"));
            return give_up(launched, &StartFailure::new(error, exit::INTERNAL));
        }
    };
    let code = match runtime.block_on(run(held, launched)) {
        Ok(code) => code,
        Err(failure) => {
            drop(log_guard);
            return give_up(launched, &failure);
        }
    };
    tracing::info!(exit_code = code, "the daemon ends");
    // Work on the blocking pool (a template, a download) must not hold the end up.
    runtime.shutdown_background();
    drop(log_guard);
    if code == exit::OK {
        return ExitCode::SUCCESS;
    }
    // The engine thread may be stuck in native code: no destructor of it may run now.
    signal_hook::low_level::exit(i32::from(code))
}

fn give_up(launched: bool, failure: &StartFailure) -> ExitCode {
    tracing::error!(report = ?failure.report, "the daemon cannot run");
    report(launched, &failure.report);
    ExitCode::from(failure.exit_code)
}

/// Tells the launcher, or the terminal, how the start went.
fn report(launched: bool, report: &StartReport) {
    if launched {
        let line = serde_json::to_string(report).unwrap_or_default();
        // A launcher that has gone needs no report.
        let _ = writeln!(io::stdout(), "{line}");
        return;
    }
    match report {
        StartReport::Ready { pid } => eprintln!("ingled is ready (process {pid})"),
        StartReport::AlreadyRunning { pid } => {
            let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            eprintln!("error: another ingled holds this Ingle folder{pid}");
            eprintln!("hint: use it, or end it with `ingle stop`.");
        }
        StartReport::Failed { error, .. } => {
            eprintln!("error: {}", error.message);
            eprintln!("hint: {}", error.remediation());
        }
    }
}

fn prepare(launched: bool, http: Option<SocketAddr>) -> Result<Held, StartFailure> {
    let path_failure = |error: ingle_client::paths::PathError| {
        StartFailure::new(ErrorBody::from(&error), error.exit_code())
    };
    // Everything the daemon writes is its user's alone, whatever folder it is in.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let paths = Paths::from_env().map_err(path_failure)?;
    paths.prepare().map_err(path_failure)?;
    let mut config = Config::load(&paths)
        .map_err(|error| StartFailure::new(ErrorBody::from(&error), exit::CONFIG))?;
    if let Some(listen) = http {
        config.http = config.http.listening_at(listen).map_err(|problem| {
            StartFailure::new(ErrorBody::new(ErrorCode::ConfigInvalid, problem), exit::CONFIG)
        })?;
    }
    if launched {
        // A session of our own: the launcher's terminal and its signals are not ours.
        let _ = rustix::process::setsid();
    }
    let start_lock = if launched { None } else { Some(lock_start(&paths)?) };
    let daemon_lock = lock_daemon(&paths)?;
    if launched {
        launch::empty_stderr();
    }
    Ok(Held { paths, config, daemon_lock, start_lock })
}

/// Waits for a start under way to end, so that two starts never race.
fn lock_start(paths: &Paths) -> Result<File, StartFailure> {
    let path = paths.start_lock();
    launch::open_lock(&path)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|error| StartFailure::io("lock", &path, &error))
}

fn lock_daemon(paths: &Paths) -> Result<File, StartFailure> {
    let path = paths.daemon_lock();
    let fail = |error: &io::Error| StartFailure::io("lock", &path, error);
    let mut file = launch::open_lock(&path).map_err(|error| fail(&error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).ok().and_then(|pid| pid.trim().parse().ok());
            return Err(StartFailure {
                report: Box::new(StartReport::AlreadyRunning { pid }),
                exit_code: exit::ALREADY_RUNNING,
            });
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(fail(&error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| fail(&error))?;
    Ok(file)
}

/// Removes what a dead daemon left at the socket's path. The daemon lock is held, so only a daemon
/// of another Ingle folder can still listen there.
fn clear_socket(path: &Path) -> Result<(), StartFailure> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("another program listens at `{}`", path.display());
        let error = ErrorBody::new(ErrorCode::DaemonUnavailable, message)
            .with_remediation("Give each Ingle folder a socket of its own (INGLE_SOCKET).");
        return Err(StartFailure::new(error, exit::ALREADY_RUNNING));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StartFailure::io("remove the stale socket", path, &error))
        }
        _ => Ok(()),
    }
}

async fn run(held: Held, launched: bool) -> Result<u8, StartFailure> {
    let Held { paths, config, daemon_lock, start_lock } = held;
    // It goes with the process and not before: the next daemon must not load its models beside ours,
    // and who waits for our end waits for this lock.
    std::mem::forget(daemon_lock);
    clear_socket(paths.socket())?;
    let listener = listener::bind(paths.socket())
        .map_err(|error| StartFailure::io("listen at", paths.socket(), &error))?;
    clear_socket(&paths.http_socket())?;
    let http = HttpListeners::bind(&paths, config.http.clone())
        .await
        .map_err(|error| StartFailure::new(error, exit::CANNOT_CREATE))?;
    let unknown_variables = config.unknown_variables.clone();
    let memory =
        MemoryOptions { memory_bytes: system_memory::total_bytes(), ..config.memory.clone() };
    let journal = CrashJournal::open(&paths.crash_journal(), &paths.quarantine());
    journal.watch_signals();
    let stall_mark = journal.stall_mark();
    let built_in = engines::built_in();
    let (engine, mut engine_exit) =
        EngineHandle::spawn(built_in.clone(), config.engine.clone(), memory, journal)
            .map_err(|error| StartFailure::io("start a thread for", paths.home(), &error))?;

    let draining = CancellationToken::new();
    let now = CancellationToken::new();
    signals::start(draining.clone())
        .map_err(|error| StartFailure::io("watch signals for", paths.home(), &error))?;

    let default_model = config.default_model.clone().unwrap_or_else(|| DEFAULT_MODEL.to_owned());
    let settings = config.engine.clone();
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let libraries = library_paths::libraries(&config.library, &env, home.as_ref());
    let store = ModelStore::new(paths.models_dir()).with_libraries(libraries.clone());
    let pulls = PullSetup {
        libraries,
        hub: library_paths::hub(&config.library, &env, home.as_ref()),
        ..PullSetup::new(paths.models_dir())
    };
    let watch = MemoryWatch::default();
    watch.sample();
    tokio::spawn(watch.clone().run(engine.clone()));
    let watchdog =
        Watchdog::new(config.stall.unwrap_or(Duration::from_millis(limits::ENGINE_STALL_MS)));
    let service = Arc::new(Service {
        work_timeouts: config.timeouts,
        names: RequestNames::new(std::process::id()),
        engine: engine.clone(),
        models: Models::new(
            store,
            default_model,
            settings,
            built_in,
            engines::gguf_text,
            engine.cores(),
        ),
        puller: Puller::new(pulls),
        memory: watch.clone(),
        watchdog: watchdog.clone(),
        metrics: Arc::default(),
        forms: Forms::default(),
        timeout_counters: Arc::default(),
        draining: draining.clone(),
        http: http.status().clone(),
        started_at: Instant::now(),
        paths,
    });
    let jobs = Jobs::spawn(Arc::clone(&service), config.jobs).map_err(|error| {
        StartFailure::io("start a thread for", &service.paths.job_store(), &error)
    })?;
    service.metrics.watch_jobs(jobs.counter());
    let (end, end_now) = (draining.clone(), now.clone());
    let methods = methods::table(Arc::clone(&service), jobs.clone(), move |at_once| {
        if at_once {
            end_now.cancel();
        }
        end.cancel();
    })
    .map_err(|error| {
        let error = ErrorBody::new(ErrorCode::Internal, error.to_string());
        StartFailure::new(error, exit::INTERNAL)
    })?;
    let closing = CancellationToken::new();
    let tracker = TaskTracker::new();
    let puller = service.puller.clone();
    let shutdown = Shutdown { closing: closing.clone(), tracker: tracker.clone() };
    let accepting_http = tokio::spawn(http.accept(Arc::clone(&service), shutdown));
    let shared = Shared {
        methods: methods.into(),
        service,
        jobs: jobs.clone(),
        mcp: config.mcp,
        closing: closing.clone(),
        tracker: tracker.clone(),
    };
    let accepting = tokio::spawn(listener::accept(listener, shared));

    for variable in unknown_variables {
        tracing::warn!("{variable} is no setting, and is ignored");
    }
    tracing::info!(build = ingle_protocol::BUILD, pid = std::process::id(), "the daemon is ready");
    report(launched, &StartReport::Ready { pid: std::process::id() });
    if launched {
        detach_stdout();
    }
    drop(start_lock);

    let mut code = tokio::select! {
        () = draining.cancelled() => exit::OK,
        ended = &mut engine_exit => engine_died(ended),
        stall = watchdog.run(engine.clone()) => {
            tracing::error!(%stall, "the engine thread has stalled; the daemon ends");
            stall_mark.write();
            engine.alarm().trigger(stall);
            exit::ENGINE_STALLED
        }
    };
    draining.cancel();
    if code == exit::OK {
        code = drain_engine(&engine, &mut engine_exit, &now).await;
    }
    tracker.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        tokio::join!(accepting, accepting_http)
    })
    .await;
    // Their results are in, or never will be: that is stored before those who wait are answered.
    let _ = tokio::time::timeout(Duration::from_secs(2), jobs.shutdown()).await;
    // A download under way is ended with its child process, and replies that are known already go
    // out; then the connections end.
    let last_things = async { tokio::join!(puller.shutdown(), tracker.wait()) };
    let _ = tokio::time::timeout(Duration::from_secs(1), last_things).await;
    closing.cancel();
    Ok(code)
}

fn engine_died(ended: Result<EngineExit, oneshot::error::RecvError>) -> u8 {
    match ended {
        Ok(EngineExit::Finished) => exit::OK,
        Ok(EngineExit::Panicked(message)) => {
            tracing::error!(message, "the engine thread panicked; the daemon ends");
            exit::INTERNAL
        }
        Err(_) => exit::INTERNAL,
    }
}

/// Lets the engine finish what is in flight, then tells it to stop at the next token, then gives
/// it up.
async fn drain_engine(
    engine: &EngineHandle,
    engine_exit: &mut oneshot::Receiver<EngineExit>,
    now: &CancellationToken,
) -> u8 {
    let limit = Duration::from_millis(limits::DRAIN_MS);
    // A full inbox means that the thread does not take commands: it is given up below.
    let _ = engine.send(Command::Shutdown { now: now.is_cancelled() });
    tokio::select! {
        ended = &mut *engine_exit => return engine_died(ended),
        () = tokio::time::sleep(limit) => {}
        () = now.cancelled() => {}
    }
    let _ = engine.send(Command::Shutdown { now: true });
    match tokio::time::timeout(limit, &mut *engine_exit).await {
        Ok(ended) => engine_died(ended),
        Err(_) => {
            tracing::error!("the engine thread does not stop; the daemon ends without it");
            exit::INTERNAL
        }
    }
}

/// After the report nobody reads standard output, and the launcher's pipe must not stay open.
fn detach_stdout() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
