//! Log of llama.cpp, forwarded to the daemon's log.

use std::sync::Once;

/// Forwards llama.cpp's log to the daemon's log.
pub fn forward_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let wants_debug = tracing::enabled!(target: "llama.cpp", tracing::Level::TRACE);
        llama_guard::set_log(log, wants_debug);
    });
}

fn log(level: llama_guard::Level, line: &str) {
    use llama_guard::Level;
    match level {
        Level::Debug => tracing::trace!(target: "llama.cpp", "{line}"),
        Level::Info => tracing::debug!(target: "llama.cpp", "{line}"),
        Level::Warn | Level::Error => tracing::warn!(target: "llama.cpp", "{line}"),
        Level::Abort => {
            tracing::error!(target: "llama.cpp", "an assertion failed, the daemon aborts: {line}");
            // Another thread writes the log, and will not run again before the abort.
            eprintln!("llama.cpp: an assertion failed, the daemon aborts: {line}");
        }
    }
}
