//! Grammar of tool calls: constrains responses that must call tools, or may.
//!
//! Owns the rules of each format of calls, in llguidance's dialect of Lark. The schemas that the rules
//! name are separate: `constraint` decides which schemas it accepts.

use ingle_protocol::wire::chat::Tool;
use serde_json::{Value, json};

use super::ToolFormat;

/// Maximum number of calls in one response. Without a limit, a model that repeats itself never ends.
const MAX_CALLS: usize = 16;

/// Grammar of a response with tool calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallGrammar {
    /// The rules, except those that are schemas.
    pub rules: String,
    /// Whether white space may separate any two parts of the rules, as within JSON.
    pub is_spaced: bool,
    /// The arguments of each tool.
    pub arguments: Vec<Arguments>,
    /// The schema of a response without calls, as the rule `content`; if absent, it must call.
    pub content: Option<Value>,
}

/// The arguments of one tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The name of their rule.
    pub rule: String,
    /// The tool.
    pub tool: String,
    /// Their schema.
    pub schema: Value,
    /// Whether the schema is refused if it cannot be enforced exactly.
    pub is_strict: bool,
}

/// The grammar of a response with one call of one of the `tools`, or several if `is_parallel`.
///
/// With a schema `content`, the response may be such content instead. `special` returns the id of a tag
/// that is a special token, which no text matches.
#[must_use]
pub fn of_calls(
    format: ToolFormat,
    tools: &[Tool],
    is_parallel: bool,
    content: Option<Value>,
    special: impl Fn(&str) -> Option<u32>,
) -> CallGrammar {
    let tag = |tag: &str| match special(tag) {
        Some(id) => format!("<[{id}]>"),
        None => literal(tag),
    };
    let open = tag(format.opener());
    let more = |between: &str, item: &str| {
        let most = MAX_CALLS - 1;
        if is_parallel { format!(" ({between} {item}){{0,{most}}}") } else { String::new() }
    };
    // A bare call and the content both begin with a brace. The lexer takes the longest token and never
    // goes back, so both must consist of the same tokens until they differ.
    let is_spaced = format == ToolFormat::Llama3 && content.is_some();
    let calls = match format {
        ToolFormat::Hermes => {
            let close = tag("</tool_call>");
            let more = more("\"\\n\"", "call");
            format!("call{more}\ncall: {open} \"\\n\" object \"\\n\" {close}\n")
        }
        // The template of Llama 3 allows one call at a time.
        ToolFormat::Llama3 => "object\n".to_owned(),
        ToolFormat::MistralList => {
            format!("{open} \"[\" object{} \"]\"\n", more("\", \"", "object"))
        }
        ToolFormat::MistralNamed => {
            let more = more("", "call");
            format!("call{more}\ncall: {open} object\n")
        }
    };
    let start = if content.is_some() { "calls | content" } else { "calls" };
    let mut rules = format!("start: {start}\ncalls: {calls}");
    let names: Vec<String> = (0..tools.len()).map(|index| format!("tool{index}")).collect();
    rules.push_str(&format!("object: {}\n", names.join(" | ")));
    let mut arguments = Vec::with_capacity(tools.len());
    for (tool, rule) in tools.iter().zip(&names) {
        let name = tool.name.as_str();
        let around = match format {
            ToolFormat::MistralNamed => {
                format!("{} {} {rule}_arguments", literal(name), tag("[ARGS]"))
            }
            _ if is_spaced => {
                let parts =
                    ["{", "\"name\"", ":", &json!(name).to_string(), ",", "\"parameters\"", ":"];
                format!("{} {rule}_arguments \"}}\"", parts.map(literal).join(" "))
            }
            _ => {
                let key = if format == ToolFormat::Llama3 { "parameters" } else { "arguments" };
                let before = literal(&format!("{{\"name\": {}, \"{key}\": ", json!(name)));
                format!("{before} {rule}_arguments \"}}\"")
            }
        };
        rules.push_str(&format!("{rule}: {around}\n"));
        arguments.push(Arguments {
            rule: format!("{rule}_arguments"),
            tool: tool.name.clone(),
            schema: schema(tool),
            is_strict: tool.strict,
        });
    }
    CallGrammar { rules, is_spaced, arguments, content }
}

fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// The schema of a tool's arguments, which are always an object.
fn schema(tool: &Tool) -> Value {
    match &tool.parameters {
        Some(parameters) if !parameters.is_empty() => {
            let mut schema = parameters.clone();
            schema.entry("type").or_insert_with(|| json!("object"));
            Value::Object(schema)
        }
        _ => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
    }
}

#[cfg(test)]
mod tests;
