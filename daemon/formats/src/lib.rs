//! Bounded readers of model files: GGUF, safetensors and Hugging Face folders.
//!
//! Owns the checks that turn untrusted files into plain descriptions. Does not know engines,
//! architectures or text.

mod data;
pub mod gguf;
pub mod hf;
pub mod safetensors;

/// Class of the reason why a file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFault {
    /// The operating system cannot read the file.
    Io,
    /// The file is valid, but this build cannot use it.
    Unsupported,
    /// The file violates its format.
    Invalid,
}
