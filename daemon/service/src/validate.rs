//! Validation of the parameters of a generation.
//!
//! Owns the checks that need no model, and the sampler's defaults. Every error names its parameter.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::limits;
use ingle_protocol::error::ErrorBody;
use ingle_protocol::wire::chat::{OutputFormat, ToolChoice};
use ingle_protocol::wire::generate::GenerateParams;
use serde_json::json;

use ingle_engine::sampling::{MAX_BIAS, PenaltySettings, SamplerSettings};
use ingle_text::chat_template::RESERVED;
use ingle_text::tool_calls::is_tool_name;

pub(super) fn one_of(field: &str, has_text: bool, has_messages: bool) -> Result<(), ErrorBody> {
    match (has_text, has_messages) {
        (true, false) | (false, true) => Ok(()),
        (true, true) => {
            Err(ErrorBody::invalid(field, "and `messages` exclude each other; give one"))
        }
        (false, false) => Err(ErrorBody::invalid(field, "or `messages` must be given")),
    }
}

/// Checks the parameters and fills in the sampler's defaults.
pub fn validate(params: &GenerateParams) -> Result<(SamplerSettings, PenaltySettings), ErrorBody> {
    match &params.prompt_tokens {
        None => one_of("prompt", params.prompt.is_some(), params.messages.is_some())?,
        Some(_) if params.prompt.is_some() || params.messages.is_some() => {
            let problem = "excludes `prompt` and `messages`; give one";
            return Err(ErrorBody::invalid("prompt_tokens", problem));
        }
        Some(tokens) if tokens.is_empty() => {
            return Err(ErrorBody::invalid("prompt_tokens", "must not be empty"));
        }
        Some(_) if params.suffix.is_some() => {
            return Err(ErrorBody::invalid(
                "suffix",
                "goes with `prompt`, not with `prompt_tokens`",
            ));
        }
        Some(_) => {}
    }
    if let Some(messages) = &params.messages {
        if messages.is_empty() {
            return Err(ErrorBody::invalid("messages", "must not be empty"));
        }
        if messages.len() > limits::MESSAGES {
            return Err(ErrorBody::invalid(
                "messages",
                format!("has more than {} entries", limits::MESSAGES),
            ));
        }
    }
    check_input(params)?;
    check_tools(params)?;
    let is_constrained = params.format.as_ref().is_some_and(|format| *format != OutputFormat::Text)
        || matches!(params.tool_choice, Some(ToolChoice::Required | ToolChoice::Tool(_)));
    if is_constrained && params.ignore_eos {
        let problem = "and `format` exclude each other: a text in that format must end";
        return Err(ErrorBody::invalid("ignore_eos", problem));
    }
    if params.max_tokens == Some(0) {
        return Err(ErrorBody::invalid("max_tokens", "must be at least 1"));
    }
    if params.stop.len() > limits::STOP_STRINGS {
        return Err(ErrorBody::invalid(
            "stop",
            format!("has more than {} entries", limits::STOP_STRINGS),
        ));
    }
    if params.stop.iter().any(|stop| stop.is_empty() || stop.len() > limits::STOP_STRING_BYTES) {
        let problem = format!("entries must have 1 to {} bytes", limits::STOP_STRING_BYTES);
        return Err(ErrorBody::invalid("stop", problem));
    }
    if params.top_logprobs > limits::TOP_LOGPROBS {
        return Err(ErrorBody::invalid(
            "top_logprobs",
            format!("must be at most {}", limits::TOP_LOGPROBS),
        ));
    }
    let settings = SamplerSettings {
        temperature: params.temperature.unwrap_or(0.0),
        top_k: params.top_k.unwrap_or(0),
        top_p: params.top_p.unwrap_or(1.0),
        min_p: params.min_p.unwrap_or(0.0),
    };
    settings.validate()?;
    let none = PenaltySettings::NONE;
    let window =
        params.repetition_window.map(|window| usize::try_from(window).unwrap_or(usize::MAX));
    let penalties = PenaltySettings {
        repetition: params.repetition_penalty.unwrap_or(none.repetition),
        repetition_window: window.unwrap_or(none.repetition_window),
        frequency: params.frequency_penalty.unwrap_or(none.frequency),
        presence: params.presence_penalty.unwrap_or(none.presence),
    };
    penalties.validate()?;
    if penalties.repetition_window == 0 {
        let problem = "must be at least 1; a `repetition_penalty` of 1 turns the penalty off";
        return Err(ErrorBody::invalid("repetition_window", problem));
    }
    if !(1..=limits::CHOICES).contains(&params.choices()) {
        return Err(ErrorBody::invalid("n", format!("must be from 1 to {}", limits::CHOICES)));
    }
    Ok((settings, penalties))
}

/// The logit bias in the engine's type.
pub(super) fn logit_bias(
    biases: &BTreeMap<u32, f32>,
    vocab_size: usize,
) -> Result<Arc<[(u32, f32)]>, ErrorBody> {
    if biases.len() > limits::LOGIT_BIASES {
        let problem = format!("has more than {} entries", limits::LOGIT_BIASES);
        return Err(ErrorBody::invalid("logit_bias", problem));
    }
    for (&id, &bias) in biases {
        if id as usize >= vocab_size {
            let problem =
                format!("names token {id}, and the model's ids end at {}", vocab_size - 1);
            return Err(ErrorBody::invalid("logit_bias", problem));
        }
        if !(-MAX_BIAS..=MAX_BIAS).contains(&bias) {
            let range = format!("from -{MAX_BIAS} to {MAX_BIAS}");
            let problem = format!("of token {id} must be a number {range}, not {bias}");
            return Err(ErrorBody::invalid("logit_bias", problem));
        }
    }
    Ok(biases.iter().map(|(&id, &bias)| (id, bias)).collect())
}

/// Checks what belongs to a conversation only, or to a raw prompt only.
fn check_input(params: &GenerateParams) -> Result<(), ErrorBody> {
    let is_chat = params.messages.is_some();
    if params.suffix.is_some() && is_chat {
        return Err(ErrorBody::invalid("suffix", "goes with `prompt`, not with `messages`"));
    }
    if !params.tools.is_empty() && !is_chat {
        return Err(ErrorBody::invalid("tools", "go with `messages`, not with `prompt`"));
    }
    let options = &params.template_options;
    if !options.is_empty() && !is_chat {
        return Err(ErrorBody::invalid(
            "template_options",
            "go with `messages`, not with `prompt`",
        ));
    }
    if options.len() > limits::TEMPLATE_OPTIONS {
        let problem = format!("has more than {} entries", limits::TEMPLATE_OPTIONS);
        return Err(ErrorBody::invalid("template_options", problem));
    }
    if let Some(name) = RESERVED.iter().find(|name| options.contains_key(**name)) {
        return Err(ErrorBody::invalid("template_options", format!("cannot set `{name}`")));
    }
    if json!(options).to_string().len() > limits::TEMPLATE_OPTION_BYTES {
        let problem = format!("has more than {} bytes", limits::TEMPLATE_OPTION_BYTES);
        return Err(ErrorBody::invalid("template_options", problem));
    }
    Ok(())
}

fn check_tools(params: &GenerateParams) -> Result<(), ErrorBody> {
    let tools = &params.tools;
    if tools.len() > limits::TOOLS {
        return Err(ErrorBody::invalid(
            "tools",
            format!("has more than {} entries", limits::TOOLS),
        ));
    }
    let mut names = HashSet::new();
    for (tool, index) in tools.iter().zip(0..) {
        let name = &tool.name;
        if !is_tool_name(name) {
            let most = limits::TOOL_NAME_CHARS;
            let problem = format!(
                "entry {index} must have a `name` of 1 to {most} letters, digits, `_` and `-`"
            );
            return Err(ErrorBody::invalid("tools", problem));
        }
        if !names.insert(name.as_str()) {
            return Err(ErrorBody::invalid(
                "tools",
                format!("has two entries with the name `{name}`"),
            ));
        }
    }
    // Measured last, when their number is known to be small.
    if json!(tools).to_string().len() > limits::TOOL_BYTES {
        return Err(ErrorBody::invalid(
            "tools",
            format!("has more than {} bytes", limits::TOOL_BYTES),
        ));
    }
    let problem = match &params.tool_choice {
        None | Some(ToolChoice::Auto) => {
            return match params.format {
                Some(OutputFormat::Grammar { .. }) if !tools.is_empty() => {
                    Err(grammar_with_tools())
                }
                _ => Ok(()),
            };
        }
        Some(ToolChoice::None) => return Ok(()),
        Some(ToolChoice::Required) if tools.is_empty() => "requires a call, and `tools` is empty",
        Some(ToolChoice::Tool(name)) if !names.contains(name.as_str()) => {
            let problem = format!("names the tool {name:?}, which is not among `tools`");
            return Err(ErrorBody::invalid("tool_choice", problem));
        }
        Some(ToolChoice::Required | ToolChoice::Tool(_)) => return Ok(()),
    };
    Err(ErrorBody::invalid("tool_choice", problem))
}

/// The error for a grammar together with tools.
///
/// The two grammars would have to be one, and the names and settings of the request's rules would
/// no longer mean what they did.
pub(super) fn grammar_with_tools() -> ErrorBody {
    let problem = "of a grammar leaves no room for calls of `tools`; use a JSON schema, or set \
                   `tool_choice` to \"none\" or \"required\"";
    ErrorBody::invalid("format", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicting_parameters_are_refused_by_name() {
        let tool = json!({ "name": "f" });
        let messages = json!([{ "role": "user", "content": "x" }]);
        let many: Vec<_> =
            (0..=limits::TOOLS).map(|n| json!({ "name": format!("f{n}") })).collect();
        let long = "x".repeat(limits::TOOL_BYTES);
        for (params, field, words) in [
            (json!({ "messages": messages, "suffix": "x" }), "suffix", "`prompt`"),
            (json!({ "suffix": "x" }), "prompt", "must be given"),
            (json!({ "prompt": "x", "prompt_tokens": [1] }), "prompt_tokens", "excludes"),
            (json!({ "messages": messages, "prompt_tokens": [1] }), "prompt_tokens", "excludes"),
            (json!({ "prompt_tokens": [] }), "prompt_tokens", "empty"),
            (json!({ "prompt_tokens": [1], "suffix": "x" }), "suffix", "`prompt`"),
            (json!({ "prompt": "x", "tools": [tool] }), "tools", "`messages`"),
            (
                json!({ "prompt": "x", "template_options": { "a": 1 } }),
                "template_options",
                "go with",
            ),
            (
                json!({ "messages": messages, "template_options": { "messages": 1 } }),
                "template_options",
                "`messages`",
            ),
            (json!({ "messages": messages, "tools": [{ "name": "a b" }] }), "tools", "entry 0"),
            (json!({ "messages": messages, "tools": [tool, tool] }), "tools", "`f`"),
            (json!({ "messages": messages, "tools": many }), "tools", "128 entries"),
            (
                json!({ "messages": messages, "tools": [{ "name": "f", "description": long }] }),
                "tools",
                "bytes",
            ),
            (json!({ "messages": messages, "tool_choice": "required" }), "tool_choice", "empty"),
            (
                json!({ "messages": messages, "tools": [tool], "tool_choice": { "tool": "g" } }),
                "tool_choice",
                "\"g\"",
            ),
            (
                json!({ "messages": messages, "tools": [tool],
                    "format": { "type": "grammar", "lark": "start: \"a\"" } }),
                "format",
                "`tools`",
            ),
        ] {
            let params: GenerateParams = serde_json::from_value(params).unwrap();
            let error = validate(&params).unwrap_err();
            assert_eq!(error.details["field"], field, "{}", error.message);
            assert!(error.message.contains(words), "{}", error.message);
        }
        let lark = json!({ "type": "grammar", "lark": "start: \"a\"" });
        for more in [
            json!({ "tool_choice": { "tool": "f" }, "format": lark }),
            json!({ "tool_choice": "none", "format": lark }),
            json!({ "format": { "type": "json_object" } }),
            json!({ "template_options": { "enable_thinking": false } }),
        ] {
            let mut fine = json!({ "messages": messages, "tools": [tool] });
            fine.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            validate(&serde_json::from_value(fine).unwrap()).unwrap();
        }
    }
}
