//! Limits of the llama.cpp engine, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::CONCURRENT_GENERATIONS;

/// Sequences of one GGUF model, running and kept; recurrent models have a state for each.
pub const GGUF_SEQUENCES: usize = 16;
