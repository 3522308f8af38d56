//! Logs: one file a day in the Ingle folder; the oldest are removed.
//!
//! Owns the destination of log lines and the number of files. Each module decides what it logs; none
//! ever logs a prompt or an output. Lines of a request have its span: id, method, class, model.

use std::path::Path;

use crate::limits;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable with the filter, such as `debug` or `ingled::engine=trace`.
const FILTER_VARIABLE: &str = "INGLE_LOG";

/// Starts logging to `folder`, and to standard error too if `also_stderr`.
///
/// The guard flushes the log when it is dropped. Without a usable folder the daemon runs without a
/// log file.
#[must_use]
pub fn start(folder: &Path, also_stderr: bool) -> Option<WorkerGuard> {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let appender = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("ingled")
        .filename_suffix("log")
        .max_log_files(limits::LOG_FILES)
        .build(folder)
        .ok()?;
    let (writer, guard) = tracing_appender::non_blocking(appender);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    // Whatever the filter is: below an error, rmcp logs requests and results with their contents.
    let without_requests = filter_fn(|metadata| {
        !metadata.target().starts_with("rmcp") || *metadata.level() <= LevelFilter::ERROR
    });
    // A second start in one process keeps the log of the first.
    let _ = if also_stderr {
        builder.with_writer(writer.and(std::io::stderr)).finish().with(without_requests).try_init()
    } else {
        builder.with_writer(writer).finish().with(without_requests).try_init()
    };
    Some(guard)
}
