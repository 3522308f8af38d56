//! Reasoning, tool calls and gaps, from a model's output to the client's events, on the sim engine.

use ingle_client::client::Client;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::generate::{
    FinishReason, Generate, GenerateEvent, GenerateParams, GenerateResult, ToolCall,
};
use ingle_tests::Home;
use serde_json::{Value, json};

fn params(params: &Value) -> GenerateParams {
    serde_json::from_value(params.clone()).unwrap()
}

async fn generate(client: &Client, asked: &Value) -> Result<GenerateResult, ErrorBody> {
    let params = params(asked);
    client.start::<Generate>(&params, params.class())?.reply().await
}

/// The contents of the events of one completion.
#[derive(Debug, Default)]
struct Heard {
    text: String,
    reasoning: String,
    tool_calls: Vec<ToolCall>,
    argument_events: usize,
}

async fn stream(client: &Client, asked: &Value) -> (Vec<Heard>, GenerateResult) {
    let params = GenerateParams { stream: true, ..params(asked) };
    let mut heard: Vec<Heard> = (0..params.choices()).map(|_| Heard::default()).collect();
    let mut call = client.start::<Generate>(&params, params.class()).unwrap();
    while let Some(event) = call.event().await {
        match event {
            GenerateEvent::Delta { choice, text, .. } => heard[choice].text.push_str(&text),
            GenerateEvent::Reasoning { choice, text } => heard[choice].reasoning.push_str(&text),
            GenerateEvent::ToolCall { choice, index, id, name, arguments } => {
                let heard = &mut heard[choice];
                heard.argument_events += usize::from(!arguments.is_empty());
                if let (Some(id), Some(name)) = (id, name) {
                    heard.tool_calls.push(ToolCall { id, name, arguments });
                } else {
                    heard.tool_calls[index].arguments.push_str(&arguments);
                }
            }
            _ => {}
        }
    }
    (heard, call.reply().await.unwrap())
}

fn weather(more: Value) -> Value {
    let mut asked = json!({
        "messages": [{ "role": "user", "content": "Is it warm in Rome?" }],
        "tools": [{
            "name": "weather",
            "description": "Tells the weather",
            "parameters": { "type": "object", "properties": { "city": { "type": "string" } } },
        }],
    });
    asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    asked
}

const REPLY: &str = "<think>\nRome, then.\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \
    \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"weather\", \
    \"arguments\": {\"city\": \"Ostia\"}}\n</tool_call>";

#[tokio::test]
async fn streamed_and_whole_chat_replies_agree() {
    let home = Home::with_sim(json!({ "reply": REPLY, "token_delay_ms": 1 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let whole = generate(&client, &weather(json!({ "n": 2 }))).await.unwrap();
    assert_eq!(
        (whole.first().text.as_str(), whole.first().reasoning.as_deref()),
        ("I look.", Some("Rome, then."))
    );
    assert_eq!(whole.first().finish_reason, FinishReason::ToolCalls);
    let arguments: Vec<&str> =
        whole.first().tool_calls.iter().map(|call| &*call.arguments).collect();
    assert_eq!(arguments, ["{\"city\": \"Rome\"}", "{\"city\": \"Ostia\"}"]);
    assert_ne!(whole.first().tool_calls[0].id, whole.first().tool_calls[1].id);
    assert_eq!(whole.choices[1].tool_calls.len(), 2);

    let (heard, result) = stream(&client, &weather(json!({ "n": 2 }))).await;
    for (heard, choice) in heard.iter().zip(&result.choices) {
        assert_eq!((heard.text.as_str(), heard.reasoning.as_str()), ("I look.", "Rome, then."));
        assert_eq!(heard.tool_calls, choice.tool_calls);
        assert!(heard.argument_events > 2, "{heard:?}");
    }

    // Only one call, and no call without tools in the request.
    let one = generate(&client, &weather(json!({ "parallel_tool_calls": false }))).await.unwrap();
    assert_eq!((one.first().text.as_str(), one.first().tool_calls.len()), ("I look.", 1));
    let none = generate(&client, &weather(json!({ "tool_choice": "none" }))).await.unwrap();
    assert!(
        none.first().tool_calls.is_empty() && none.first().text.starts_with("I look.\n<tool_call>")
    );
    assert_eq!(none.first().finish_reason, FinishReason::Stop);
    assert!(none.usage.prompt_tokens < one.usage.prompt_tokens);
    // The completion of a raw prompt is not parsed.
    let raw = generate(&client, &json!({ "prompt": "x" })).await.unwrap();
    assert_eq!((raw.first().text.as_str(), &raw.first().reasoning), (REPLY, &None));
}

#[tokio::test]
async fn required_tool_call_is_made() {
    let home =
        Home::with_sim(json!({ "reply": "I would rather talk.", "chat_template": "a<think>\n" }));
    let _daemon = home.daemon();
    let client = home.client().await;
    for choice in [json!("required"), json!({ "tool": "weather" })] {
        let asked = weather(json!({ "tool_choice": choice, "max_tokens": 2_000 }));
        let result = generate(&client, &asked).await.unwrap();
        assert_eq!(
            (result.first().text.as_str(), &result.first().reasoning),
            ("", &None),
            "{result:?}"
        );
        assert_eq!(
            result.first().finish_reason,
            FinishReason::ToolCalls,
            "{:?}",
            result.first().tool_calls
        );
        assert_eq!(result.first().tool_calls[0].name, "weather");
        assert_eq!(result.first().tool_calls.len() > 1, choice == "required");
        let arguments: Value =
            serde_json::from_str(&result.first().tool_calls[0].arguments).unwrap();
        assert!(arguments.is_object());
    }
}

/// Stop strings apply to the content, not to the reasoning before it.
#[tokio::test]
async fn stop_string_ends_content_only() {
    let home = Home::with_sim(json!({ "reply": REPLY }));
    let told = "<think>\nWell.\n\nRome.\n</think>\n\nIt is.\n\nVery.";
    home.add_sim("talks", json!({ "reply": told }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let asked = json!({ "messages": [{ "role": "user", "content": "Is it warm?" }],
        "model": "talks", "stop": ["\n\n"] });
    let whole = generate(&client, &asked).await.unwrap();
    let (said, thought) = (whole.first().text.as_str(), whole.first().reasoning.as_deref());
    assert_eq!((said, thought), ("It is.", Some("Well.\n\nRome.")));
    assert_eq!(whole.first().finish_reason, FinishReason::Stop);
    assert_eq!(whole.first().stop_string.as_deref(), Some("\n\n"));
    // Generation ended there; the text was not just cut there.
    assert_eq!(whole.usage.completion_tokens, told.len() - "Very.".len());
    let (heard, result) = stream(&client, &asked).await;
    assert_eq!((heard[0].text.as_str(), result.first().text.as_str()), ("It is.", "It is."));
    assert_eq!(heard[0].reasoning, "Well.\n\nRome.");

    for (stop, text, calls, found) in [
        (json!(["\n", "Ostia", "}", "tool"]), "I look.", 2, None),
        (json!(["look"]), "I ", 0, Some("look")),
    ] {
        let asked = weather(json!({ "stop": stop, "n": 2 }));
        let whole = generate(&client, &asked).await.unwrap();
        assert_eq!(
            (whole.first().text.as_str(), whole.first().tool_calls.len()),
            (text, calls),
            "{stop}"
        );
        assert_eq!(whole.first().stop_string.as_deref(), found);
        let reason = if calls > 0 { FinishReason::ToolCalls } else { FinishReason::Stop };
        assert!(whole.choices.iter().all(|choice| choice.finish_reason == reason), "{whole:?}");
        let (heard, result) = stream(&client, &asked).await;
        assert_eq!((heard[1].text.as_str(), heard[1].tool_calls.len()), (text, calls));
        assert_eq!(result.first().stop_string.as_deref(), found);
    }
    // A required call is generated to its end.
    let demanded =
        weather(json!({ "tool_choice": { "tool": "weather" }, "stop": ["\n", "{", "e"] }));
    let result = generate(&client, &demanded).await.unwrap();
    let only = result.first();
    let ended = (only.finish_reason, only.stop_string.as_deref(), only.text.as_str());
    assert_eq!(ended, (FinishReason::ToolCalls, None, ""));
    // The stop string shows that a formatted completion was cut.
    let held = json!({ "messages": [{ "role": "user", "content": "Is it?" }], "stop": [","],
        "format": { "type": "grammar", "lark": "start: \"yes, sir\"" } });
    let result = generate(&client, &held).await.unwrap();
    assert_eq!(
        (result.first().text.as_str(), result.first().stop_string.as_deref()),
        ("yes", Some(","))
    );
}

#[tokio::test]
async fn response_format_binds_content_and_keeps_tools() {
    let hermes =
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
    let bare = "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}";
    let llama = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}<|python_tag|>";
    let content = "{\"name\": \"weather\", \"warm\": true}";
    let home = Home::with_sim(json!({ "reply": hermes }));
    home.add_sim("hermes-talks", json!({ "reply": content }));
    home.add_sim("llama", json!({ "reply": bare, "chat_template": llama }));
    home.add_sim("llama-talks", json!({ "reply": content, "chat_template": llama }));
    home.add_sim("llama-chats", json!({ "reply": "Yes, it is.", "chat_template": llama }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let schema = json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 9 }, "warm": { "type": "boolean" } },
        "required": ["name", "warm"], "additionalProperties": false,
    });
    for format in
        [json!({ "type": "json_object" }), json!({ "type": "json_schema", "schema": schema })]
    {
        for (model, calls, text) in [
            ("sim", 1, Some("")),
            ("llama", 1, Some("")),
            ("hermes-talks", 0, Some(content)),
            ("llama-talks", 0, Some(content)),
            ("llama-chats", 0, None),
        ] {
            let asked = weather(json!({ "model": model, "format": format, "max_tokens": 600 }));
            let (heard, result) = stream(&client, &asked).await;
            let whole = generate(&client, &asked).await.unwrap();
            assert_eq!(
                (&whole.first().text, whole.first().tool_calls.len()),
                (&result.first().text, calls),
                "{model}"
            );
            assert_eq!(
                (&heard[0].text, &heard[0].tool_calls),
                (&result.first().text, &result.first().tool_calls)
            );
            let reason = if calls > 0 { FinishReason::ToolCalls } else { FinishReason::Stop };
            assert_eq!(result.first().finish_reason, reason, "{model}: {result:?}");
            if let Some(text) = text {
                assert_eq!(result.first().text, text, "{model}");
            }
            if let Some(call) = result.first().tool_calls.first() {
                assert_eq!((&*call.name, &*call.arguments), ("weather", "{\"city\": \"Rome\"}"));
            } else {
                let value: Value = serde_json::from_str(&result.first().text).unwrap();
                assert!(value.is_object(), "{model}: {value}");
            }
        }
        // A required call has no content to constrain.
        let asked =
            weather(json!({ "tool_choice": "required", "format": format, "model": "llama-talks" }));
        let demanded = generate(&client, &asked).await.unwrap();
        assert_eq!(demanded.first().tool_calls[0].name, "weather");
        // Without tools a model writes content.
        let asked = weather(json!({ "tool_choice": "none", "format": format, "max_tokens": 600 }));
        let none = generate(&client, &asked).await.unwrap();
        assert!(
            none.first().tool_calls.is_empty() && none.first().text.starts_with('{'),
            "{none:?}"
        );
    }
    let bad = json!({ "type": "json_schema", "schema": { "not": {} } });
    let lark = json!({ "type": "grammar", "lark": "start: \"a\"" });
    let tool = json!([{ "name": "f", "strict": true, "parameters": { "not": {} } }]);
    for (more, field) in [
        (json!({ "format": bad }), "format"),
        (json!({ "format": lark }), "format"),
        (json!({ "format": { "type": "json_object" }, "tools": tool }), "tools"),
        (json!({ "tool_choice": "required", "tools": tool }), "tools"),
    ] {
        let error = generate(&client, &weather(more)).await.unwrap_err();
        assert_eq!(
            (error.code, &error.details["field"]),
            (ErrorCode::InvalidParams, &json!(field))
        );
        assert!(error.message.contains(&format!("`{field}` ")), "{error:?}");
    }
}

#[tokio::test]
async fn conversation_continues_from_tool_result() {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.reasoning_content }}\
        {% for call in m.tool_calls %}{{ call.function.arguments.city }}{% endfor %}{% endfor %}\
        {{ tools[0].function.name }}{{ enable_thinking }}<tool_call><think>";
    let home = Home::with_sim(json!({ "reply": "hm</think>Yes.", "chat_template": template }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let call = json!({ "id": "c1", "name": "weather", "arguments": "{\"city\":\"Rome\"}" });
    let asked = weather(json!({
        "messages": [
            { "role": "user", "content": "Is it warm?" },
            { "role": "assistant", "reasoning": "hm", "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "c1", "content": "30" },
        ],
        "template_options": { "enable_thinking": true },
    }));
    let result = generate(&client, &asked).await.unwrap();
    // The template has opened the reasoning.
    assert_eq!(
        (result.first().text.as_str(), result.first().reasoning.as_deref()),
        ("Yes.", Some("hm"))
    );
    let prompt = "<user>Is it warm?<assistant>hmRome<tool>30weatherTrue<tool_call><think>";
    assert_eq!(result.usage.prompt_tokens, prompt.len());
}

#[tokio::test]
async fn gap_is_filled_by_capable_models_only() {
    let home = Home::with_sim(json!({ "reply": "a + b\u{2}never" }));
    home.add_sim("plain", json!({ "fills_gaps": false }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let asked = json!({ "prompt": "return ", "suffix": "\n}" });
    let result = generate(&client, &asked).await.unwrap();
    // The completion ends where the model begins another gap.
    assert_eq!(
        (result.first().text.as_str(), result.first().finish_reason),
        ("a + b", FinishReason::Stop)
    );
    assert_eq!(result.usage.prompt_tokens, "return \n}".len() + 3);
    let asked = json!({ "prompt": "return ", "suffix": "\n}", "model": "plain" });
    let error = generate(&client, &asked).await.unwrap_err();
    assert_eq!((error.code, &error.details["field"]), (ErrorCode::InvalidParams, &json!("suffix")));
    assert!(error.remediation().contains("Qwen2.5-Coder"), "{}", error.remediation());
}

#[tokio::test]
async fn logprobs_have_bytes_and_miss_no_token() {
    let home = Home::with_sim(json!({ "reply": REPLY }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let asked = weather(json!({ "top_logprobs": 1 }));
    let result = generate(&client, &asked).await.unwrap();
    let bytes: Vec<u8> =
        result.first().logprobs.iter().flat_map(|entry| entry.bytes.clone()).collect();
    assert_eq!(bytes, REPLY.as_bytes());
    assert_eq!(result.first().logprobs[0].top_bytes, [vec![b'<']]);
    let params = GenerateParams { stream: true, ..params(&asked) };
    let mut call = client.start::<Generate>(&params, params.class()).unwrap();
    let mut streamed = Vec::new();
    while let Some(event) = call.event().await {
        if let GenerateEvent::Delta { logprobs, .. } = event {
            streamed.extend(logprobs.into_iter().flat_map(|entry| entry.bytes));
        }
    }
    assert_eq!(streamed, REPLY.as_bytes());
}
