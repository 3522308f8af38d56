//! Limits of the service: every queue, size and time it bounds, by name.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{CHOICES, ENGINE_EVENTS, PULL_MS, TOOLS};
pub(crate) use ingle_text::limits::{TOOL_BYTES, TOOL_NAME_CHARS};

/// Texts of one request for embeddings: as many as OpenAI's API takes.
pub const EMBED_INPUTS: usize = 2_048;
/// Bytes of one of them.
pub const EMBED_INPUT_BYTES: usize = 256 * 1024;
/// Stop strings of one request.
pub const STOP_STRINGS: usize = 16;
/// Bytes of one stop string.
pub const STOP_STRING_BYTES: usize = 256;
/// Alternatives reported for one token.
pub const TOP_LOGPROBS: usize = 20;
/// Tokens that one request may bias.
pub const LOGIT_BIASES: usize = 1_024;
/// Formats that are prepared at once.
pub const FORMS_AT_ONCE: usize = 2;
/// Formats that are prepared or wait to be.
pub const QUEUED_FORMS: usize = 64;
/// Tokens generated when a request names no maximum: enough to think and then to answer. Not the
/// whole context, as memory for all of them is set aside before the first.
pub const DEFAULT_MAX_TOKENS: u32 = 4_096;
/// Messages of one conversation.
pub const MESSAGES: usize = 4_096;
/// Variables that one request may give the chat template.
pub const TEMPLATE_OPTIONS: usize = 32;
/// Bytes of them, as JSON.
pub const TEMPLATE_OPTION_BYTES: usize = 64 * 1024;
/// Models whose header and tokenizer are kept in memory, loaded or not.
pub const OPEN_MODELS: usize = 8;

const _: () = {
    use ingle_protocol::limits::FRAME_BYTES;
    assert!(EMBED_INPUT_BYTES < FRAME_BYTES);
};
