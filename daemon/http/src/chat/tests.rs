//! Tests of the mapping of chat requests and chunks. Sampling and parsing have their own tests.

use super::*;
use ingle_protocol::wire::generate::{FinishReason, TokenLogprob, Usage as Counted};
use serde_json::from_value;

fn mapped(request: Value) -> Result<GenerateParams, ErrorBody> {
    params(from_value(request).unwrap())
}

#[test]
fn chat_request_maps_every_field() {
    let params = mapped(json!({
        "model": "m",
        "messages": [
            { "role": "developer", "content": [
                { "type": "text", "text": "Be " }, { "type": "text", "text": "brief." },
            ] },
            { "role": "user", "content": "Weather?", "name": "eva" },
            { "role": "assistant", "content": null, "reasoning_content": "hm",
              "reasoning": "hm", "function_call": null, "tool_calls": [
                { "id": "c1", "type": "function",
                  "function": { "name": "weather", "arguments": "{\"at\":1}" } },
            ] },
            { "role": "tool", "content": "sun", "tool_call_id": "c1" },
        ],
        "tools": [{ "type": "function", "function": {
            "name": "weather", "description": "d", "parameters": { "type": "object" }, "strict": true,
        } }],
        "tool_choice": { "type": "function", "function": { "name": "weather" } },
        "parallel_tool_calls": false,
        "response_format": { "type": "json_schema", "json_schema": {
            "name": "x", "strict": true, "schema": { "type": "object" },
        } },
        "reasoning_effort": "none",
        "chat_template_kwargs": { "reasoning_effort": "low" },
        "max_tokens": 1, "max_completion_tokens": 7, "seed": -1, "stop": "x", "n": 2,
        "logit_bias": { "5": -100 }, "logprobs": true, "top_logprobs": 3, "stream": true,
        "user": "u", "store": true, "service_tier": "auto", "not_known": [1],
    }))
    .unwrap();
    let messages = params.messages.unwrap();
    assert_eq!(messages[0], Message::new("system", "Be brief."));
    assert_eq!(messages[1].name.as_deref(), Some("eva"));
    assert_eq!(messages[2].tool_calls[0].arguments, "{\"at\":1}");
    assert_eq!(messages[2].reasoning.as_deref(), Some("hm"));
    assert_eq!(messages[3].tool_call_id.as_deref(), Some("c1"));
    assert_eq!((params.tools[0].name.as_str(), params.tools[0].strict), ("weather", true));
    assert_eq!(params.tool_choice, Some(WireChoice::Tool("weather".to_owned())));
    assert_eq!(params.parallel_tool_calls, Some(false));
    let schema = json!({ "type": "object" });
    assert_eq!(params.format, Some(OutputFormat::JsonSchema { schema }));
    let options = json!({ "reasoning_effort": "low", "enable_thinking": false });
    assert_eq!(Value::Object(params.template_options), options);
    assert_eq!((params.max_tokens, params.seed), (Some(7), Some(u64::MAX)));
    assert_eq!((params.stop, params.n), (vec!["x".to_owned()], Some(2)));
    assert_eq!(params.logit_bias[&5], -100.0);
    assert_eq!((params.logprobs, params.top_logprobs, params.stream), (true, 3, true));
    assert_eq!(params.temperature, Some(1.0), "OpenAI's default, not ours");
}

#[test]
fn unsupported_fields_are_refused_by_path() {
    let image = json!([{ "type": "text", "text": "a" }, { "type": "image_url", "image_url": {} }]);
    for (more, field) in [
        (
            json!({ "messages": [{ "role": "user", "content": image }] }),
            "messages[0].content[1].type",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text" }] }] }),
            "messages[0].content[0].text",
        ),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "assistant", "function_call": { "name": "f" } }] }),
            "messages[0].function_call",
        ),
        (json!({ "max_completion_tokens": 0 }), "max_completion_tokens"),
        (json!({ "audio": {} }), "audio"),
        (json!({ "functions": [] }), "functions"),
        (json!({ "top_logprobs": 1 }), "top_logprobs"),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema"),
    ] {
        let mut request = json!({ "messages": [] });
        for (name, value) in more.as_object().unwrap() {
            request[name] = value.clone();
        }
        let error = mapped(request).unwrap_err();
        assert_eq!(error.details["field"], field, "{error}");
    }
}

/// The `data` of every event.
fn events(frames: &EventBuffer) -> Vec<Value> {
    let text = std::str::from_utf8(frames.bytes()).unwrap();
    let lines = text.split_terminator("\n\n").map(|line| line.strip_prefix("data: ").unwrap());
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn stream_has_role_deltas_finish_and_usage() {
    let mut chunks = ChatChunks {
        choices: 2,
        include_usage: true,
        id: "chatcmpl-1".to_owned(),
        created: 9,
        model: String::new(),
        fingerprint: "f".to_owned(),
        usage: None,
    };
    let mut out = EventBuffer::default();
    chunks.open("m", &mut out);
    let logprobs = vec![TokenLogprob {
        token: 1,
        logprob: 0.0,
        bytes: b"hi".to_vec(),
        top: Vec::new(),
        top_bytes: Vec::new(),
    }];
    let text = "hi".to_owned();
    chunks.event(0, GenerateEvent::Delta { choice: 1, text, logprobs }, &mut out);
    chunks.event(0, GenerateEvent::Reasoning { choice: 0, text: "hm".to_owned() }, &mut out);
    let first = GenerateEvent::ToolCall {
        choice: 0,
        index: 0,
        id: Some("c1".to_owned()),
        name: Some("weather".to_owned()),
        arguments: String::new(),
    };
    chunks.event(0, first, &mut out);
    let more = GenerateEvent::ToolCall {
        choice: 0,
        index: 0,
        id: None,
        name: None,
        arguments: "{}".to_owned(),
    };
    chunks.event(0, more, &mut out);
    let ended = |text: &str, finish_reason, seed| Choice {
        text: text.to_owned(),
        reasoning: None,
        tool_calls: Vec::new(),
        finish_reason,
        stop_string: None,
        seed,
        logprobs: Vec::new(),
    };
    let result = GenerateResult {
        request_id: "1".to_owned(),
        model: "m".to_owned(),
        choices: vec![ended("", FinishReason::ToolCalls, 1), ended("hi", FinishReason::Length, 2)],
        usage: Counted { prompt_tokens: 5, cached_tokens: 2, completion_tokens: 3 },
        timings: Default::default(),
    };
    chunks.finish(0, &result, &mut out);
    chunks.close(&mut out);
    let events = events(&out);
    let choice = |index: usize| &events[index]["choices"][0];
    assert_eq!(events.len(), 9);
    assert!(events[..8].iter().all(|event| event["usage"].is_null() && event["model"] == "m"));
    assert_eq!(choice(1)["delta"], json!({ "role": "assistant", "content": "" }));
    assert_eq!(
        (&choice(2)["index"], &choice(2)["delta"]),
        (&json!(1), &json!({ "content": "hi" }))
    );
    assert_eq!(choice(2)["logprobs"]["content"][0]["token"], "hi");
    assert_eq!(choice(3)["delta"], json!({ "reasoning_content": "hm" }));
    let first = json!([{
        "index": 0, "id": "c1", "type": "function",
        "function": { "name": "weather", "arguments": "" },
    }]);
    assert_eq!(choice(4)["delta"]["tool_calls"], first);
    let more = json!([{ "index": 0, "function": { "arguments": "{}" } }]);
    assert_eq!(choice(5)["delta"]["tool_calls"], more);
    assert_eq!(choice(6)["finish_reason"], "tool_calls");
    assert_eq!((&choice(7)["index"], &choice(7)["finish_reason"]), (&json!(1), &json!("length")));
    assert_eq!(events[8]["choices"], json!([]));
    let usage = json!({
        "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
        "prompt_tokens_details": { "cached_tokens": 2 },
    });
    assert_eq!(events[8]["usage"], usage);
}
