//! Grammars of answers that must be tool calls.
//!
//! Owns writing a call's form in llguidance's dialect of Lark, with the tools' own schemas inside.

use ingle_protocol::wire::chat::Tool;
use serde_json::{Value, json};

use super::ToolFormat;

/// Calls of one answer. Without an end to them, a model that likes to repeat itself finds none.
const MAX_CALLS: usize = 16;

/// The grammar of an answer that is one call of one of the `tools`, or several if `is_parallel`.
/// `special` gives the id of a tag that is a special token, which no text matches.
#[must_use]
pub fn of_calls(
    format: ToolFormat,
    tools: &[Tool],
    is_parallel: bool,
    special: impl Fn(&str) -> Option<u32>,
) -> String {
    let tag = |tag: &str| match special(tag) {
        Some(id) => format!("<[{id}]>"),
        None => literal(tag),
    };
    let open = tag(format.opener());
    let more = |between: &str, item: &str| {
        let most = MAX_CALLS - 1;
        if is_parallel { format!(" ({between} {item}){{0,{most}}}") } else { String::new() }
    };
    let start = match format {
        ToolFormat::Hermes => {
            let close = tag("</tool_call>");
            let item = "call";
            let more = more("\"\\n\"", item);
            format!("start: {item}{more}\ncall: {open} \"\\n\" object \"\\n\" {close}\n")
        }
        // Its template says that it makes one call at a time.
        ToolFormat::Llama3 => "start: object\n".to_owned(),
        ToolFormat::MistralList => {
            format!("start: {open} \"[\" object{} \"]\"\n", more("\", \"", "object"))
        }
        ToolFormat::MistralNamed => {
            let more = more("", "call");
            format!("start: call{more}\ncall: {open} object\n")
        }
    };
    let mut grammar = start;
    let rules: Vec<String> = (0..tools.len()).map(|index| format!("tool{index}")).collect();
    grammar.push_str(&format!("object: {}\n", rules.join(" | ")));
    for (tool, rule) in tools.iter().zip(&rules) {
        let name = tool.name.as_str();
        let around = match format {
            ToolFormat::MistralNamed => {
                format!("{} {} {rule}_arguments", literal(name), tag("[ARGS]"))
            }
            _ => {
                let key = if format == ToolFormat::Llama3 { "parameters" } else { "arguments" };
                let before = literal(&format!("{{\"name\": {}, \"{key}\": ", json!(name)));
                format!("{before} {rule}_arguments \"}}\"")
            }
        };
        grammar.push_str(&format!("{rule}: {around}\n"));
        grammar.push_str(&format!("{rule}_arguments: %json {}\n", schema(tool)));
    }
    grammar
}

fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// The schema of a tool's arguments, which are an object whatever it says.
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
