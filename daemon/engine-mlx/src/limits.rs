//! Limits of the MLX engine, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_engine::limits::LOADER_BYTES;

/// Tokens of the texts that share a pass, with their padding; at least one text.
pub const EMBED_PASS_TOKENS: usize = 512;
/// Maximum padding in a batch of texts, in percent of its tokens.
pub const EMBED_PADDING_PERCENT: usize = 25;
