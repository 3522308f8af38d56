//! Tests of every format: calls in texts cut anywhere, and the prompts of templates.

use std::sync::Arc;

use ingle_protocol::wire::chat::{Message, Tool, ToolCall};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::chat::Chat;
use crate::{TextError, TextModel};

const FORMATS: [ToolFormat; 4] =
    [ToolFormat::Hermes, ToolFormat::Llama3, ToolFormat::MistralList, ToolFormat::MistralNamed];

/// Reads the answer of a model that has been shown three tools.
fn parser(format: ToolFormat) -> ToolParser {
    ToolParser::new(format, ["f", "g-1", "weather"].map(str::to_owned).to_vec())
}

/// What a text says, its calls as `name(arguments)`.
fn read(format: ToolFormat, pieces: &[&str]) -> (String, Vec<String>) {
    read_by(parser(format), pieces)
}

pub(super) fn read_by(mut parser: ToolParser, pieces: &[&str]) -> (String, Vec<String>) {
    let mut said: Vec<ToolPart> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    said.extend(parser.finish());
    let (mut text, mut calls): (String, Vec<String>) = Default::default();
    let mut is_in_call = false;
    for piece in said {
        match piece {
            ToolPart::Text(more) => {
                assert!(!is_in_call);
                text.push_str(&more);
            }
            ToolPart::Begin { name } => {
                assert!(!is_in_call);
                is_in_call = true;
                calls.push(format!("{name}("));
            }
            ToolPart::Arguments(more) => {
                assert!(is_in_call);
                calls.last_mut().unwrap().push_str(&more);
            }
            ToolPart::End => {
                assert!(is_in_call);
                is_in_call = false;
                calls.last_mut().unwrap().push(')');
            }
        }
    }
    assert!(!is_in_call);
    (text, calls)
}

#[test]
fn parser_finds_calls_in_every_format() {
    use ToolFormat::{Hermes, Llama3, MistralList, MistralNamed};
    let cases: &[(ToolFormat, &str, &str, &[&str])] = &[
        (Hermes, "Hello there. ", "Hello there. ", &[]),
        (
            Hermes,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
            "",
            &["f({\"a\": 1})"],
        ),
        (
            Hermes,
            "Let me see.\n\n<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"}\\\"{\"}}</tool_call>\n\
             <tool_call>\n{\"arguments\": {}, \"name\": \"other\"}\n</tool_call>\n",
            "Let me see.",
            &["f({\"a\":\"}\\\"{\"})", "other({})"],
        ),
        // Without the end tag, without arguments, with arguments in a string, with null.
        (Hermes, "<tool_call>{\"name\": \"f\"}", "", &["f({})"]),
        (Hermes, "<tool_call>{\"name\": \"f\"}\n</tool", "", &["f({})"]),
        (
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
            "",
            &["f({\"a\": 1})"],
        ),
        (Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>", "", &["f({})"]),
        // The bare object counts only if it calls a tool that there is.
        (Hermes, " {\"name\": \"f\", \"arguments\": {}}", "", &["f({})"]),
        (
            Hermes,
            "{\"name\": \"Bob\", \"arguments\": {}}",
            "{\"name\": \"Bob\", \"arguments\": {}}",
            &[],
        ),
        (
            Hermes,
            "{\"city\": \"Rome\", \"name\": \"f\"}",
            "{\"city\": \"Rome\", \"name\": \"f\"}",
            &[],
        ),
        (Hermes, "As JSON: {\"name\": \"f\"}", "As JSON: {\"name\": \"f\"}", &[]),
        // What is no call is text, and what comes behind it is looked at again.
        (Hermes, "a <tool_call> b", "a <tool_call> b", &[]),
        (Hermes, "a <tool_call>{\"x\": 1}</tool_call>", "a <tool_call>{\"x\": 1}</tool_call>", &[]),
        (Hermes, "<tool_call>{\"name\": \"a b\"}", "<tool_call>{\"name\": \"a b\"}", &[]),
        (Hermes, "<tool_call>{\"name\": \"f", "<tool_call>{\"name\": \"f", &[]),
        (Hermes, "<tool_call><tool_call>{\"name\": \"f\"}", "<tool_call>", &["f({})"]),
        (Hermes, "a < b <tool", "a < b <tool", &[]),
        (Hermes, "</tool_call>", "</tool_call>", &[]),
        // Once it has begun, it is a call, however it ends.
        (Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1", "", &["f({\"a\": [1)"]),
        (
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1</tool_call> so",
            " so",
            &["f({\"a\": 1)"],
        ),
        (Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}</tool_call>", "", &["f({})"]),
        (Llama3, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "", &["f({\"a\": 1})"]),
        (
            Llama3,
            "<|python_tag|>{\"type\": \"function\", \"name\": \"x\", \"parameters\": {}}",
            "",
            &["x({})"],
        ),
        (
            Llama3,
            "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g-1\", \"parameters\": {}}",
            "",
            &["f({})", "g-1({})"],
        ),
        (Llama3, "<|python_tag|>f.call(a=1)", "<|python_tag|>f.call(a=1)", &[]),
        (Llama3, "I think {\"name\": \"f\"}", "I think {\"name\": \"f\"}", &[]),
        (
            MistralList,
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": [1]}, \"id\": \"123456789\"}, \
             {\"name\": \"g-1\", \"arguments\": {}}]",
            "",
            &["f({\"a\": [1]})", "g-1({})"],
        ),
        (MistralList, "[1, 2] [TOOL_CALLS][]", "[1, 2] [TOOL_CALLS][]", &[]),
        (MistralList, "{\"name\": \"f\"}", "{\"name\": \"f\"}", &[]),
        (
            MistralNamed,
            "Well.[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g-1[CALL_ID]abc12[ARGS]{}",
            "Well.",
            &["f({\"a\": 1})", "g-1({})"],
        ),
        (MistralNamed, "[TOOL_CALLS]f{\"a\": 1}", "", &["f({\"a\": 1})"]),
        (MistralNamed, "[TOOL_CALLS]f[ARG]{}", "[TOOL_CALLS]f[ARG]{}", &[]),
    ];
    for (format, whole, text, calls) in cases {
        let (found, found_calls) = read(*format, &[whole]);
        assert_eq!(
            (found.as_str(), &found_calls[..]),
            (*text, &calls.map_to_owned()[..]),
            "{whole}"
        );
        let cut: Vec<String> = whole.chars().map(String::from).collect();
        let cut: Vec<&str> = cut.iter().map(String::as_str).collect();
        assert_eq!(read(*format, &cut), (found, found_calls), "{whole}");
    }
}

trait MapToOwned {
    fn map_to_owned(&self) -> Vec<String>;
}

impl MapToOwned for &[&str] {
    fn map_to_owned(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}

#[test]
fn arguments_are_passed_on_unchanged() {
    let mut parser = ToolParser::new(ToolFormat::Hermes, Vec::new());
    let begin = parser.push("<tool_call>\n{\"name\": \"write\", \"arguments\": {\"text\": \"Once");
    let arguments = ToolPart::Arguments("{\"text\": \"Once".to_owned());
    assert_eq!(begin, [ToolPart::Begin { name: "write".to_owned() }, arguments]);
    assert_eq!(parser.push(" upon"), [ToolPart::Arguments(" upon".to_owned())]);
}

#[test]
fn held_back_text_is_bounded() {
    let long = "x".repeat(limits::TOOL_CALL_HELD_BYTES + 1_000);
    for begin in ["<tool_call>{\"id\": \"", "<tool_call>{\"arguments\": {\"a\": \"", "<tool_call>"]
    {
        let mut parser = ToolParser::new(ToolFormat::Hermes, Vec::new());
        let spaces = " ".repeat(long.len());
        let more = if begin.ends_with('>') { &spaces } else { &long };
        let said = parser.push(&format!("{begin}{more}"));
        assert!(matches!(said.first(), Some(ToolPart::Text(_))), "{begin}");
    }
    // Arguments that are streamed are not held.
    let mut parser = ToolParser::new(ToolFormat::Hermes, Vec::new());
    let said =
        parser.push(&format!("<tool_call>{{\"name\":\"f\",\"arguments\":{{\"a\":\"{long}\"}}}}"));
    assert_eq!(said.len(), 3);
    let many = "<tool_call>{\"name\":\"f\"}</tool_call>".repeat(limits::TOOL_CALLS + 5);
    assert_eq!(read(ToolFormat::Hermes, &[&many]).1.len(), limits::TOOL_CALLS);
}

#[test]
fn with_response_format_other_text_is_content() {
    use ToolFormat::{Hermes, Llama3, MistralNamed};
    let bare = "{\"name\": \"f\", \"parameters\": {\"a\": \"}\"}}";
    for (format, whole, calls) in [
        (Hermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", &["f({})"][..]),
        (Hermes, "{\"name\": \"f\", \"arguments\": {}}", &[]),
        (Hermes, "[1, \"<tool_call>\", {\"name\": \"f\"}]", &[]),
        (MistralNamed, "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]f[ARGS]{}", &["f({})", "f({})"]),
        (MistralNamed, "{\"a\": \"[TOOL_CALLS]f[ARGS]{}\"}", &[]),
        (Llama3, bare, &["f({\"a\": \"}\"})"]),
        (Llama3, "{ \"parameters\": {}, \"name\": \"f\" }", &["f({})"]),
        // More than a call has, less than one, and other things in it.
        (Llama3, "{\"name\": \"f\", \"parameters\": {}, \"note\": 1}", &[]),
        (Llama3, "{\"name\": \"f\", \"parameters\": {}, \"id\": \"1\"}", &[]),
        (Llama3, "{\"name\": \"f\"}", &[]),
        (Llama3, "{\"name\": \"f\", \"parameters\": \"{}\"}", &[]),
        (Llama3, "{\"name\": \"f\", \"arguments\": {}}", &[]),
        (Llama3, "{\"name\": \"Rome\", \"parameters\": {}}", &[]),
        (Llama3, "[{\"name\": \"f\", \"parameters\": {}}]", &[]),
        (Llama3, "{\"name\": \"f\", \"parameters\": {\"a\": 1", &[]),
    ] {
        let text = if calls.is_empty() { whole } else { "" };
        let expected = (text.to_owned(), calls.map_to_owned());
        let cut: Vec<String> = whole.chars().map(String::from).collect();
        let cut: Vec<&str> = cut.iter().map(String::as_str).collect();
        for pieces in [&[whole][..], &cut] {
            assert_eq!(read_by(parser(format).with_response_format(), pieces), expected, "{whole}");
        }
    }
    // What can be no call is not held back.
    let mut content = parser(Llama3).with_response_format();
    assert_eq!(content.push("{\"answer\": \"O"), [ToolPart::Text("{\"answer\": \"O".to_owned())]);
    let mut content = parser(Llama3).with_response_format();
    let begun = "{\"name\": \"Rome\", \"parameters\": {";
    assert_eq!(content.push(begun), [ToolPart::Text(begun.to_owned())]);
}

proptest! {
    #[test]
    fn cutting_text_anywhere_loses_nothing(
        format in proptest::sample::select(FORMATS.to_vec()),
        pieces in proptest::collection::vec(
            "(<tool_call>|</tool_call>|<\\|python_tag\\|>|\\[TOOL_CALLS\\]|\\[ARGS\\]|\\[CALL_ID\\]|\
              \\{\"name\": \"f\", \"arguments\": |\\{\"name\": \"f\", \"parameters\": |\"arguments\": |\
              \\{\"a\": 1\\}|\"name\": \"g-1\"|[\\[\\]{}\",:; f1\n\\\\é]){0,5}", 0..10),
    ) {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let whole = pieces.concat();
        for parser in [parser(format), parser(format).with_response_format()] {
            let found = read_by(parser.clone(), &pieces);
            prop_assert_eq!(&found, &read_by(parser, &[&whole]));
            if found.1.is_empty() {
                prop_assert_eq!(&found.0, &whole);
            }
        }
    }
}

fn model(template: &str) -> TextModel {
    let template = ChatTemplate::new(template, "<s>", "</s>");
    TextModel { chat_template: Some(Arc::new(template)), ..TextModel::bytes() }
}

const QWEN3: &str = include_str!("templates/qwen3.jinja");
const LLAMA3: &str = include_str!("templates/llama3.jinja");
const MISTRAL: &str = include_str!("templates/mistral.jinja");
const MISTRAL_NAMED: &str = include_str!("templates/mistral_named.jinja");
const CHATML: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
const NO_SYSTEM: &str = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}\
    {% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";

#[test]
fn tool_style_follows_from_the_template() {
    for (template, format, is_native) in [
        (QWEN3, ToolFormat::Hermes, true),
        (LLAMA3, ToolFormat::Llama3, true),
        (MISTRAL, ToolFormat::MistralList, true),
        (MISTRAL_NAMED, ToolFormat::MistralNamed, true),
        (CHATML, ToolFormat::Hermes, false),
        ("{{ tools }}", ToolFormat::Hermes, false),
        ("{{ tools }}<tool_call>\n<function=", ToolFormat::Hermes, false),
    ] {
        let style = model(template).tool_style().unwrap();
        assert_eq!(style, ToolStyle { format, is_native }, "{template}");
    }
}

fn tools() -> Vec<Tool> {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    vec![Tool {
        name: "weather".to_owned(),
        description: Some("Tells the weather".to_owned()),
        parameters: parameters.as_object().cloned(),
        strict: false,
    }]
}

/// A question, a call, what came of it.
fn chat() -> Chat {
    let call = ToolCall {
        id: "call_1".to_owned(),
        name: "weather".to_owned(),
        arguments: "{\"city\":\"Rome\"}".to_owned(),
    };
    let messages = vec![
        Message::new("user", "Weather?"),
        Message {
            tool_calls: vec![call],
            reasoning: Some("hm".to_owned()),
            ..Message::new("assistant", "")
        },
        Message { tool_call_id: Some("call_1".to_owned()), ..Message::new("tool", "\"sunny\"") },
    ];
    Chat { messages, tools: tools(), unix_time_s: 1_795_219_200, ..Chat::default() }
}

fn prompt(template: &str, chat: &Chat) -> String {
    let model = model(template);
    let tokens = model.chat_prompt(chat).unwrap().tokens;
    model.tokenizer.decode(&tokens).unwrap()
}

#[test]
fn qwen3_prompt_equals_hugging_faces() {
    assert_eq!(
        prompt(QWEN3, &chat()),
        "<|im_start|>system\n# Tools\n\nYou may call one or more functions to assist with the user \
         query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n\
         {\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\": \"Tells the \
         weather\", \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \
         \"string\"}}}}}\n</tools>\n\nFor each function call, return a json object with function name \
         and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": \
         <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\n\
         Weather?<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>\n\n<tool_call>\n{\"name\": \
         \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call><|im_end|>\n<|im_start|>user\n\
         <tool_response>\n\"sunny\"\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn llama_and_mistral_prompts_use_their_formats() {
    let llama = prompt(LLAMA3, &chat());
    for part in [
        "Environment: ipython\nToday Date: 21 Nov 2026",
        "{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"weather\"",
        "assistant<|end_header_id|>\n\n{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}<|eot",
        "<|start_header_id|>ipython<|end_header_id|>\n\n\"\\\"sunny\\\"\"<|eot_id|>",
    ] {
        assert!(llama.contains(part), "{part} in {llama}");
    }
    let mistral = prompt(MISTRAL, &chat());
    let (id, rest) = mistral.split_once("\"id\": \"").unwrap().1.split_once('"').unwrap();
    assert_eq!(id.len(), 9);
    assert!(rest.contains(&format!("\"call_id\": \"{id}\"")), "{mistral}");
    assert!(
        mistral.contains(
            "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}, "
        )
    );
    let named = prompt(MISTRAL_NAMED, &chat());
    assert!(named.contains("[TOOL_CALLS]weather[ARGS]{\"city\": \"Rome\"}</s>"), "{named}");
}

#[test]
fn template_without_tools_gets_plain_text() {
    let told = prompt(CHATML, &chat());
    let (system, rest) = told.split_once("<user>").unwrap();
    assert!(system.starts_with("<system># Tools") && system.contains("\"weather\""), "{told}");
    assert_eq!(
        rest,
        "Weather?<assistant><tool_call>\n{\"name\":\"weather\",\"arguments\":{\"city\":\"Rome\"}}\n\
         </tool_call><user><tool_response>\n\"sunny\"\n</tool_response>"
    );
    let told = prompt(NO_SYSTEM, &chat());
    assert!(told.starts_with("<user># Tools") && told.contains("text.\n\nWeather?"), "{told}");
    // A caller's own system message is refused as ever.
    let mut refused = chat();
    refused.messages.insert(0, Message::new("system", "Be brief"));
    let error = model(NO_SYSTEM).chat_prompt(&refused).unwrap_err();
    assert_eq!(error, TextError::ChatTemplate("No system".to_owned()));
}

#[test]
fn template_options_replace_no_reserved_variable() {
    let messages = vec![Message::new("user", "Hi")];
    let options = json!({ "enable_thinking": false, "messages": [], "bos_token": "no" });
    let options = options.as_object().cloned().unwrap();
    let chat = Chat { messages, options, ..Chat::default() };
    assert!(
        prompt(QWEN3, &chat)
            .ends_with("user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    );
    assert_eq!(prompt("{{ bos_token }}{{ enable_thinking }}", &chat), "<s>False");
    // The same if the response format allows no reasoning, and if a template opens it.
    let chat = Chat { options: Default::default(), skips_reasoning: true, ..chat };
    assert!(prompt(QWEN3, &chat).ends_with("<think>\n\n</think>\n\n"));
    assert_eq!(prompt("a<think>\n", &chat), "a<think>\n\n</think>\n\n");
    let chat = Chat { skips_reasoning: false, ..chat };
    assert_eq!(model("a<think>\n").chat_prompt(&chat).unwrap().reasoning_end, Some("</think>"));
}
