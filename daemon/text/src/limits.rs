//! Limits of the text layer: every queue, size and time it bounds, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{FRAME_BYTES, MODEL_JSON_BYTES};

/// Bytes of the schema or grammar that a text is to follow.
pub const FORMAT_BYTES: usize = 64 * 1024;
/// Bytes of the schemas of tools that a call is held to, all together and without what only describes.
pub const CALL_SCHEMA_BYTES: usize = 256 * 1024;
/// Milliseconds spent on finding out which of those schemas cannot be enforced.
pub const CALL_SCHEMAS_MS: u64 = 3_000;
/// References of such a schema, and rules of such a grammar: each is compiled inside of what names it.
pub const FORMAT_REFERENCES: usize = 500;
/// How deep the brackets of such a grammar go.
pub const FORMAT_DEPTH: usize = 100;
/// Schemas that one schema may become when its alternatives are combined.
pub const FORMAT_ALTERNATIVES: usize = 1_000;
/// Bytes of their descriptions and schemas, as JSON.
pub const TOOL_BYTES: usize = 1024 * 1024;
/// Characters of a tool's name.
pub const TOOL_NAME_CHARS: usize = 64;
/// Calls that are read out of one answer; what looks like more of them stays text.
pub const TOOL_CALLS: usize = 128;
/// Bytes of what may be a tool call that are held back until it is known to be one.
pub const TOOL_CALL_HELD_BYTES: usize = 64 * 1024;
/// Bytes of a `tokenizer.json` that is read at all; the largest in use have about 35 MB.
pub const TOKENIZER_BYTES: u64 = 64 * 1024 * 1024;
