//! llama.cpp's log lines, and its message before it aborts.

use std::ffi::c_char;
use std::sync::OnceLock;

use crate::{Error, check, sys};

/// The severity of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Details.
    Debug,
    /// What llama.cpp calls information.
    Info,
    /// A warning.
    Warn,
    /// An error.
    Error,
    /// An assertion failed; the process aborts when the line has been handed over.
    Abort,
}

/// The function that takes the lines, and whether it wants details too.
static LOG: OnceLock<(LogFunction, bool)> = OnceLock::new();

/// Takes one line.
type LogFunction = fn(Level, &str);

/// Names the function that is given every line, before anything is loaded. The first call counts;
/// the function must not panic. Lines of [`Level::Debug`] come only if `wants_debug`: there are
/// thousands of them.
pub fn set_log(log: LogFunction, wants_debug: bool) {
    let _ = LOG.set((log, wants_debug));
    // The load that follows starts it again, and says why it cannot.
    let _ = start();
}

/// Installs the hooks and starts llama.cpp's backends, once for the process.
///
/// # Errors
/// When llama.cpp throws.
pub(crate) fn start() -> Result<(), Error> {
    let wants_debug = LOG.get().is_some_and(|(_, wants_debug)| *wants_debug);
    // SAFETY: the hook is a function that lives as long as the process.
    check(|message, len| unsafe { sys::guard_start(hook, wants_debug, message, len) })
}

extern "C" fn hook(level: i32, line: *const c_char, len: usize) {
    let Some((log, _)) = LOG.get() else { return };
    // SAFETY: guard.cpp gives `len` readable bytes, which live until this returns.
    let line = unsafe { std::slice::from_raw_parts(line.cast::<u8>(), len) };
    let level = match level {
        2 => Level::Info,
        3 => Level::Warn,
        4 => Level::Error,
        5 => Level::Abort,
        _ => Level::Debug,
    };
    log(level, &String::from_utf8_lossy(line));
}
