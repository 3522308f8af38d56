//! Signal handlers that mark the crash journal, then let the signal end the process.
//!
//! Owns the unsafe part of the journal: safe registration refuses SIGSEGV and similar signals, and
//! installs handlers without the alternate stack that a stack overflow needs. Everything inside
//! the handler is async-signal-safe: reading values set before its installation, `pwrite` to an
//! open descriptor, the previous handler (the standard library's, which reports stack overflows),
//! `signal` and `raise`.

#![allow(unsafe_code, reason = "signal handlers are installed through the C library only")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::OnceLock;

use ingle_engine::loader::is_loader_thread;
use libc::{c_int, c_void, siginfo_t};

/// Signals by which native code ends the process.
const FATAL: [c_int; 5] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// The bytes of a mark, with a placeholder for the number.
const MARK: [u8; 11] = *b"signal 000\n";
/// The same on a loader thread.
const LOADER_MARK: [u8; 18] = *b"signal 000 loader\n";

/// The data of the handler, set once before its installation.
struct Watch {
    journal: RawFd,
    /// Where the mark stands in the journal.
    mark_offset: libc::off_t,
    previous: [libc::sigaction; FATAL.len()],
}

static WATCH: OnceLock<Watch> = OnceLock::new();

/// Installs the handlers, for the life of the process. Only the first call counts.
///
/// From here on, a fatal signal writes a mark into `journal` at `mark_offset`.
///
/// # Errors
/// When the operating system refuses.
pub(super) fn watch(journal: &File, mark_offset: u64) -> io::Result<()> {
    // The handler may run at any time until the process ends, so its descriptor is never closed.
    let descriptor = journal.try_clone()?;
    let mut previous = Vec::with_capacity(FATAL.len());
    for signal in FATAL {
        previous.push(current_action(signal)?);
    }
    let Ok(previous) = previous.try_into() else { return Ok(()) };
    let journal = descriptor.as_raw_fd();
    let watch = Watch { journal, mark_offset: mark_offset as libc::off_t, previous };
    if WATCH.set(watch).is_err() {
        return Ok(());
    }
    let _ = descriptor.into_raw_fd();
    FATAL.into_iter().try_for_each(install)
}

fn current_action(signal: c_int) -> io::Result<libc::sigaction> {
    // SAFETY: an all-zero `sigaction` is a valid one: the default action, no flags, no mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only asks for the present one, which has room in `action`.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    if result == 0 { Ok(action) } else { Err(io::Error::last_os_error()) }
}

fn install(signal: c_int) -> io::Result<()> {
    let mut action = current_action(signal)?;
    action.sa_sigaction = on_fatal as *const () as usize;
    // The alternate stack: after a stack overflow the thread's own stack is full.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and lives for ever; the old
    // action is not asked for.
    let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_fatal(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    if let Some(watch) = WATCH.get() {
        mark(watch, signal);
        let index = FATAL.iter().position(|&fatal| fatal == signal);
        if let Some(previous) = index.and_then(|index| watch.previous.get(index)) {
            let handler = previous.sa_sigaction;
            let is_function = handler != libc::SIG_DFL && handler != libc::SIG_IGN;
            if is_function && previous.sa_flags & libc::SA_SIGINFO != 0 {
                type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
                // SAFETY: the system held this address as a handler of this very signature.
                let handler =
                    unsafe { std::mem::transmute::<*const (), Handler>(handler as *const ()) };
                handler(signal, info, context);
            }
        }
    }
    // SAFETY: both calls are async-signal-safe and take plain numbers. The signal is blocked here,
    // so it arrives when the handler returns, and ends the process as if there were no handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn mark(watch: &Watch, signal: c_int) {
    let (mut plain, mut loader) = (MARK, LOADER_MARK);
    let text: &mut [u8] = if is_loader_thread() { &mut loader } else { &mut plain };
    let mut left = signal.max(0);
    for digit in text[7..10].iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    // SAFETY: `text` is valid for its length. A journal that cannot be written stays without mark.
    unsafe {
        libc::pwrite(watch.journal, text.as_ptr().cast(), text.len(), watch.mark_offset);
    }
}
