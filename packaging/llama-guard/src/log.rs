//! llama.cpp's log lines, and its last words before it aborts.

use std::ffi::c_char;
use std::sync::OnceLock;

use crate::sys;

/// How grave a line is.
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

static LOG: OnceLock<fn(Level, &str)> = OnceLock::new();

/// Names the function that is given every line. The first call counts; it must not panic.
pub fn set_log(log: fn(Level, &str)) {
    let _ = LOG.set(log);
    start();
}

/// Installs the hooks and starts llama.cpp's backends, once for the process.
pub(crate) fn start() {
    // SAFETY: the hook is a function that lives as long as the process.
    unsafe { sys::guard_start(hook) };
}

extern "C" fn hook(level: i32, line: *const c_char, len: usize) {
    let Some(log) = LOG.get() else { return };
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
