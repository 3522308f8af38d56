//! Safe bindings to llama.cpp that catch its C++ exceptions on the C++ side.
//!
//! Owns everything `unsafe` about llama.cpp: models, vocabularies and contexts as safe types. Does
//! not know requests, engines, or files beyond their paths.
//!
//! llama-cpp-sys-2 builds llama.cpp and links it; its declarations are not used, and neither is the
//! safe wrapper llama-cpp-2, because both call the C functions from Rust: an exception that a C
//! function lets through would then end the process. Here every call goes through `guard.cpp`.

mod context;
mod cores;
mod log;
mod model;
mod sys;
mod vocab;

use std::ffi::c_char;

// What it links is what `guard.cpp` calls.
use llama_cpp_sys_2 as _;

pub use context::{Context, ContextOptions, Pass, Pooling, Stop};
pub use cores::physical_cores;
pub use log::{Level, set_log};
pub use model::{LoadOptions, Model, ModelFacts};
pub use vocab::{TokenAttributes, Vocab, VocabFacts, VocabKind};

/// Sequences of one context at most; llama.cpp's `LLAMA_MAX_SEQ`.
pub const MAX_SEQUENCES: usize = 256;

/// Whether whole blocks of the ggml type with that number hold finite numbers only; false for an
/// unknown type and for a part of a block too.
///
/// llama.cpp can check a file's tensors itself, but it starts a thread for each of them at once,
/// and everything else on the machine stands still meanwhile.
#[must_use]
pub fn is_finite(kind: u32, blocks: &[u8]) -> bool {
    let Ok(kind) = i32::try_from(kind) else { return false };
    // SAFETY: the call reads the bytes of the slice only.
    unsafe { sys::guard_is_finite(kind, blocks.as_ptr(), blocks.len()) }
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// The cause, in llama.cpp's words where it has any.
    pub message: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// llama.cpp reported an error.
    Failed,
    /// A C++ exception was caught.
    Exception,
    /// There was no memory.
    NoMemory,
    /// An assertion of llama.cpp failed while a file was loaded.
    Assertion,
    /// The caller ended the load, or gave the run up.
    Cancelled,
    /// The KV cache has no room.
    Full,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl Error {
    fn failed(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, message: message.into() }
    }
}

/// Makes one guarded call: `call` is given the buffer for the message.
fn check(call: impl FnOnce(*mut c_char, usize) -> i32) -> Result<(), Error> {
    // Not cleared: the C++ side writes it on failure, and a decode step should cost nothing.
    let mut message = [std::mem::MaybeUninit::<u8>::uninit(); 512];
    let status = call(message.as_mut_ptr().cast(), message.len());
    let kind = match status {
        sys::GUARD_OK => return Ok(()),
        sys::GUARD_EXCEPTION => ErrorKind::Exception,
        sys::GUARD_NO_MEMORY => ErrorKind::NoMemory,
        sys::GUARD_ASSERTION => ErrorKind::Assertion,
        sys::GUARD_CANCELLED => ErrorKind::Cancelled,
        sys::GUARD_FULL => ErrorKind::Full,
        _ => ErrorKind::Failed,
    };
    // SAFETY: with any other status the call has written a terminated string into the buffer.
    let text = unsafe { std::ffi::CStr::from_ptr(message.as_ptr().cast()) };
    Err(Error { kind, message: text.to_string_lossy().into_owned() })
}
