//! Limits of the service: every queue, size and time that it bounds.
//!
//! Owns the numbers and the relations between them, which are asserted at compile time.

// Limits of other crates that this one enforces too.
pub(crate) use ingle_protocol::limits::{CHOICES, ENGINE_EVENTS, PULL_MS, TOOLS};
pub(crate) use ingle_text::limits::{TOOL_BYTES, TOOL_NAME_CHARS};

/// Inputs of one `embed` request: as many as OpenAI's API allows.
pub const EMBED_INPUTS: usize = 2_048;
/// Bytes of one input of an `embed` request.
pub const EMBED_INPUT_BYTES: usize = 256 * 1024;
/// Stop strings of one request.
pub const STOP_STRINGS: usize = 16;
/// Bytes of one stop string.
pub const STOP_STRING_BYTES: usize = 256;
/// Alternatives that are reported for one token.
pub const TOP_LOGPROBS: usize = 20;
/// Tokens that one request may bias.
pub const LOGIT_BIASES: usize = 1_024;
/// Grammars that are compiled at the same time.
pub const CONCURRENT_GRAMMARS: usize = 2;
/// Grammars that are compiled or wait for it.
pub const QUEUED_GRAMMARS: usize = 64;
/// Tokens generated when a request has no `max_tokens`: enough for reasoning and an answer.
///
/// It is not the whole context, because memory for all of them is reserved before the first.
pub const DEFAULT_MAX_TOKENS: u32 = 4_096;
/// Messages of one conversation.
pub const MESSAGES: usize = 4_096;
/// Chat template options of one request.
pub const TEMPLATE_OPTIONS: usize = 32;
/// Bytes of the chat template options, as JSON.
pub const TEMPLATE_OPTION_BYTES: usize = 64 * 1024;
/// Models whose header and tokenizer stay in memory, loaded or not.
pub const OPEN_MODELS: usize = 8;

const _: () = {
    use ingle_protocol::limits::FRAME_BYTES;
    assert!(EMBED_INPUT_BYTES < FRAME_BYTES);
};
