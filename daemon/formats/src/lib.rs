//! Readers of model file formats.
//!
//! Owns turning untrusted files into checked, plain descriptions. Knows nothing of engines,
//! architectures or text.

mod data;
pub mod gguf;
pub mod hf;
pub mod safetensors;

/// Whose fault it is that a file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFault {
    /// The operating system refused to read it.
    Io,
    /// The file is well-formed, and this build cannot use it.
    Unsupported,
    /// The file contradicts its format.
    Invalid,
}
