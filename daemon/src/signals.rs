//! Signals: the first asks for a drain, the second is final.

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
/// When the system allows no handler or no thread.
pub fn start(draining: CancellationToken) -> io::Result<()> {
    // A file at its size limit is an error of the write, and not the daemon's end.
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
