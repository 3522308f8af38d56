//! The wiring: constructs every part of the daemon and connects them.
//!
//! Owns the order of construction. `startup` takes the locks before it, `lifecycle` runs the daemon
//! after it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use ingle_client::exit;
use ingle_client::launch::StartReport;
use ingle_client::paths::Paths;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::status::HttpStatus;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::lifecycle::Lifecycle;
use crate::listener::{self, Shared};
use crate::logging;
use crate::rpc::register;
use crate::startup::{self, Preparation, StartFailure, clear_socket, prepare, report};
use crate::{engines, signals};
use ingle_engine::engines::Engines;
use ingle_engine::heap;
use ingle_http::server::{HttpListeners, Shutdown};
use ingle_jobs::Jobs;
use ingle_models::library_paths;
use ingle_models::{DEFAULT_MODEL, ModelStore, PullSetup, Puller};
use ingle_scheduler::command::EngineExit;
use ingle_scheduler::crash_journal::{CrashJournal, StallMark};
use ingle_scheduler::handle::EngineHandle;
use ingle_scheduler::memory::MemoryOptions;
use ingle_scheduler::watchdog::Watchdog;
use ingle_service::memory_watch::MemoryWatch;
use ingle_service::model_cache::ModelCache;
use ingle_service::system_memory;
use ingle_service::{Service, ServiceParts};

/// Runs the daemon.
///
/// `launched` means that a launcher reads the report on standard output and holds the start lock;
/// `http` is an address for HTTP over TCP that replaces the one in the settings.
#[must_use]
pub fn serve(launched: bool, http: Option<SocketAddr>) -> ExitCode {
    heap::run_without_thread_caches();
    heap::configure();
    let preparation = match prepare(launched, http) {
        Ok(preparation) => preparation,
        Err(failure) => return fail(launched, &failure),
    };
    let log_guard = logging::start(&preparation.paths.logs_dir(), !launched);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("async")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = ErrorBody::new(ErrorCode::Internal, format!("no runtime: {error}"));
            return fail(launched, &StartFailure::new(error, exit::INTERNAL));
        }
    };
    let code = match runtime.block_on(run(preparation, launched)) {
        Ok(code) => code,
        Err(failure) => {
            drop(log_guard);
            return fail(launched, &failure);
        }
    };
    tracing::info!(exit_code = code, "the daemon ends");
    // Blocking work (a template, a download) must not delay the end.
    runtime.shutdown_background();
    drop(log_guard);
    if code == exit::OK {
        return ExitCode::SUCCESS;
    }
    // The engine thread may be stuck in native code: none of its destructors may run now.
    signal_hook::low_level::exit(i32::from(code))
}

fn fail(launched: bool, failure: &StartFailure) -> ExitCode {
    tracing::error!(report = ?failure.report, "the daemon cannot start");
    report(launched, &failure.report);
    ExitCode::from(failure.exit_code)
}

async fn run(preparation: Preparation, launched: bool) -> Result<u8, StartFailure> {
    let Preparation { paths, config, daemon_lock, start_lock } = preparation;
    // It is released with the process and not before: the next daemon must not load its models while
    // ours are in memory, and `ingle stop` waits for this lock.
    std::mem::forget(daemon_lock);
    let unknown_variables = config.unknown_variables.clone();
    let lifecycle = wire(paths, config).await?;
    for variable in unknown_variables {
        tracing::warn!("{variable} is no setting, and is ignored");
    }
    tracing::info!(build = ingle_protocol::BUILD, pid = std::process::id(), "the daemon is ready");
    report(launched, &StartReport::Ready { pid: std::process::id() });
    if launched {
        startup::detach_stdout();
    }
    drop(start_lock);
    Ok(lifecycle.run().await)
}

/// Constructs the parts, from the engine thread up to the edges, and starts accepting connections.
async fn wire(paths: Paths, config: Config) -> Result<Lifecycle, StartFailure> {
    clear_socket(paths.socket())?;
    let listener = listener::bind(paths.socket())
        .map_err(|error| StartFailure::io("listen at", paths.socket(), &error))?;
    clear_socket(&paths.http_socket())?;
    let http = HttpListeners::bind(&paths, config.http.clone())
        .await
        .map_err(|error| StartFailure::new(error, exit::CANNOT_CREATE))?;
    let built_in = engines::built_in();
    let Engine { engine, engine_exit, stall_mark } =
        start_engine(&paths, &config, built_in.clone())?;
    let (draining, at_once) = (CancellationToken::new(), CancellationToken::new());
    signals::start(draining.clone())
        .map_err(|error| StartFailure::io("watch signals for", paths.home(), &error))?;
    let watchdog =
        Watchdog::new(config.stall.unwrap_or(Duration::from_millis(limits::ENGINE_STALL_MS)));
    let job_store = paths.job_store();
    let service = Arc::new(service(
        paths,
        &config,
        built_in,
        &engine,
        watchdog.clone(),
        draining.clone(),
        http.status().clone(),
    ));
    let jobs = Jobs::spawn(Arc::clone(&service), job_store.clone(), config.jobs)
        .map_err(|error| StartFailure::io("start a thread for", &job_store, &error))?;
    service.metrics().watch_jobs(jobs.counter());
    let (drain, cancel) = (draining.clone(), at_once.clone());
    let methods = register::all(Arc::clone(&service), &jobs, move |at_once| {
        if at_once {
            cancel.cancel();
        }
        drain.cancel();
    })
    .map_err(|error| {
        let error = ErrorBody::new(ErrorCode::Internal, error.to_string());
        StartFailure::new(error, exit::INTERNAL)
    })?;
    let (closing, connections) = (CancellationToken::new(), TaskTracker::new());
    let ends = Shutdown { closing: closing.clone(), tracker: connections.clone() };
    let accepting_http = tokio::spawn(http.accept(Arc::clone(&service), ends));
    let shared = Shared {
        methods: methods.into(),
        service: Arc::clone(&service),
        jobs: jobs.clone(),
        mcp: config.mcp,
        closing: closing.clone(),
        tracker: connections.clone(),
    };
    let accepting = tokio::spawn(listener::accept(listener, shared));
    Ok(Lifecycle {
        engine,
        engine_exit,
        watchdog,
        stall_mark,
        service,
        jobs,
        accepting: [accepting, accepting_http],
        connections,
        draining,
        at_once,
        closing,
    })
}

/// The engine thread.
struct Engine {
    engine: EngineHandle,
    engine_exit: oneshot::Receiver<EngineExit>,
    stall_mark: StallMark,
}

fn start_engine(paths: &Paths, config: &Config, built_in: Engines) -> Result<Engine, StartFailure> {
    let memory =
        MemoryOptions { memory_bytes: system_memory::total_bytes(), ..config.memory.clone() };
    let journal = CrashJournal::open(&paths.crash_journal(), &paths.quarantine());
    journal.watch_signals();
    let stall_mark = journal.stall_mark();
    let (engine, engine_exit) =
        EngineHandle::spawn(built_in, config.engine.clone(), memory, journal)
            .map_err(|error| StartFailure::io("start a thread for", paths.home(), &error))?;
    Ok(Engine { engine, engine_exit, stall_mark })
}

fn service(
    paths: Paths,
    config: &Config,
    built_in: Engines,
    engine: &EngineHandle,
    watchdog: Watchdog,
    draining: CancellationToken,
    http: HttpStatus,
) -> Service {
    let default_model = config.default_model.clone().unwrap_or_else(|| DEFAULT_MODEL.to_owned());
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let libraries = library_paths::libraries(&config.library, &env, home.as_ref());
    let store = ModelStore::new(paths.models_dir()).with_libraries(libraries.clone());
    let pulls = PullSetup {
        libraries,
        hub: library_paths::hub(&config.library, &env, home.as_ref()),
        ..PullSetup::new(paths.models_dir())
    };
    let memory = MemoryWatch::default();
    memory.sample();
    tokio::spawn(memory.clone().run(engine.clone()));
    Service::new(ServiceParts {
        work_timeouts: config.timeouts.clone(),
        models: ModelCache::new(
            store,
            default_model,
            config.engine.clone(),
            built_in,
            engines::gguf_text,
            engine.cores(),
        ),
        engine: engine.clone(),
        puller: Puller::new(pulls),
        memory,
        watchdog,
        draining,
        http,
        paths,
    })
}
