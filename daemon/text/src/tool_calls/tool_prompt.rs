//! Tool prompt: tools in plain text, for chat templates without tools.
//!
//! Owns the text for the tools, earlier calls and their results, where a template has no place for them
//! or writes calls in an unknown format. Words and tags are those of Hermes and Qwen, which many models
//! have seen in training.

use ingle_protocol::wire::chat::{Message, Tool, ToolCall};
use serde_json::{Value, json};

use crate::chat_template::tool_json;

/// Message that describes the tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The system message.
    System,
    /// The user's first message, for templates that refuse system messages.
    User,
}

/// Rewrites a conversation with tools as one without tools.
#[must_use]
pub fn conversation(messages: &[Message], tools: &[Tool], placement: Placement) -> Vec<Message> {
    let mut plain: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    let mut was_tool = false;
    for message in messages {
        let is_tool = message.role == "tool";
        match plain.last_mut() {
            // Results of several calls become one message, because templates want roles to alternate.
            Some(before) if is_tool && was_tool => {
                before.content.push('\n');
                before.content.push_str(&response(&message.content));
            }
            _ if is_tool => plain.push(Message::new("user", response(&message.content))),
            _ => plain.push(Message {
                content: with_calls(&message.content, &message.tool_calls),
                tool_calls: Vec::new(),
                ..message.clone()
            }),
        }
        was_tool = is_tool;
    }
    if !tools.is_empty() {
        insert(&mut plain, &instructions(tools), placement);
    }
    plain
}

fn insert(messages: &mut Vec<Message>, text: &str, placement: Placement) {
    match placement {
        Placement::System => match messages.first_mut().filter(|first| first.role == "system") {
            Some(system) => {
                system.content.push_str("\n\n");
                system.content.push_str(text);
            }
            None => messages.insert(0, Message::new("system", text)),
        },
        Placement::User => match messages.iter_mut().find(|message| message.role == "user") {
            Some(user) => user.content = format!("{text}\n\n{}", user.content),
            None => messages.insert(0, Message::new("user", text)),
        },
    }
}

fn instructions(tools: &[Tool]) -> String {
    let tools: Vec<String> = tools.iter().map(|tool| tool_json(tool).to_string()).collect();
    format!(
        "# Tools\n\nYou can call functions to help with the user's request. Their signatures, as JSON, \
         are:\n<tools>\n{}\n</tools>\n\nTo call a function, answer with a JSON object of its name and \
         its arguments between <tool_call></tool_call> tags, and nothing else:\n<tool_call>\n{{\"name\": \
         <function-name>, \"arguments\": <args-json-object>}}\n</tool_call>\nThe result comes between \
         <tool_response></tool_response> tags. If no function is needed, answer in plain text.",
        tools.join("\n")
    )
}

fn response(content: &str) -> String {
    format!("<tool_response>\n{content}\n</tool_response>")
}

fn with_calls(content: &str, calls: &[ToolCall]) -> String {
    let mut text = content.to_owned();
    for call in calls {
        let arguments = serde_json::from_str(&call.arguments)
            .unwrap_or_else(|_| Value::from(call.arguments.as_str()));
        let object = json!({ "name": call.name, "arguments": arguments });
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("<tool_call>\n{object}\n</tool_call>"));
    }
    text
}
