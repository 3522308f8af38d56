//! Readers of model file formats.
//!
//! Owns turning untrusted files into checked, plain descriptions. Knows nothing of engines,
//! architectures or text.

mod data;
pub mod gguf;
pub mod hf;
pub mod safetensors;
