//! Signals: the first one drains the daemon, the second ends it at once.
//!
//! Owns the handlers and the thread that waits for signals.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ingle_client::exit;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio_util::sync::CancellationToken;

/// Starts the thread that waits for signals and cancels `draining` at the first.
///
/// # Errors
/// When the system refuses the handler or the thread.
pub fn start(draining: CancellationToken) -> io::Result<()> {
    // With a handler, a write past the file size limit fails instead of ending the daemon.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if draining.is_cancelled() {
                tracing::warn!(signal, "second signal: the daemon ends at once");
                signal_hook::low_level::exit(i32::from(exit::FAILED));
            }
            tracing::info!(signal, "the daemon drains");
            draining.cancel();
        }
    })?;
    Ok(())
}
