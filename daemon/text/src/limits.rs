//! Limits of the text layer.
//!
//! Owns the numbers of this crate. The limits of chat templates are in `ingle-template-bounds`.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{FRAME_BYTES, MODEL_JSON_BYTES};

/// Maximum size of a response format's schema or grammar, in bytes.
pub const FORMAT_BYTES: usize = 64 * 1024;
/// Maximum size of the schemas that constrain tool calls, in bytes.
///
/// It counts all tools of a request, without annotations such as descriptions.
pub const CALL_SCHEMA_BYTES: usize = 256 * 1024;
/// Time limit for finding the schemas that cannot be enforced, in milliseconds.
pub const CALL_SCHEMAS_MS: u64 = 3_000;
/// Maximum number of references in a schema, and of rules in a grammar.
///
/// Each is compiled inside of the one that names it.
pub const FORMAT_REFERENCES: usize = 500;
/// Maximum nesting of brackets in a grammar.
pub const FORMAT_DEPTH: usize = 100;
/// Maximum number of schemas that one schema becomes when its alternatives are combined.
pub const FORMAT_ALTERNATIVES: usize = 1_000;
/// Maximum size of the descriptions and schemas of a request's tools, in bytes of JSON.
pub const TOOL_BYTES: usize = 1024 * 1024;
/// Maximum number of characters of a tool's name.
pub const TOOL_NAME_CHARS: usize = 64;
/// Maximum number of tool calls parsed from one response; further calls stay text.
pub const TOOL_CALLS: usize = 128;
/// Maximum size of held-back text that may become a tool call, in bytes.
pub const TOOL_CALL_HELD_BYTES: usize = 64 * 1024;
/// Maximum size of a `tokenizer.json`, in bytes; the largest in use have about 35 MB.
pub const TOKENIZER_BYTES: u64 = 64 * 1024 * 1024;
