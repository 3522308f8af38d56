//! Constrained completions on the sim engine, whose free output would not match the format.

use ingle_client::client::Client;
use ingle_client::exit;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::generate::{
    FinishReason, Generate, GenerateEvent, GenerateParams, GenerateResult, OutputFormat,
};
use ingle_protocol::wire::models::EngineKind;
use ingle_tests::{Home, status_when};
use serde_json::{Value, json};

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "tags": { "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 3 }
        },
        "required": ["name", "age"],
        "additionalProperties": false
    })
}

fn asking(format: OutputFormat) -> GenerateParams {
    GenerateParams {
        prompt: Some("Who?".to_owned()),
        format: Some(format),
        max_tokens: Some(600),
        ..GenerateParams::default()
    }
}

fn schema(schema: Value) -> OutputFormat {
    OutputFormat::JsonSchema { schema }
}

async fn generate(client: &Client, params: &GenerateParams) -> Result<GenerateResult, ErrorBody> {
    client.start::<Generate>(params, params.class())?.reply().await
}

fn check_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(value["name"].as_str().unwrap().chars().count() <= 8, "{text}");
    assert!(value["age"].as_u64().unwrap() <= 150, "{text}");
    let tags = value["tags"].as_array().cloned().unwrap_or_default();
    assert!(tags.iter().all(|tag| *tag == "a" || *tag == "b"), "{text}");
    assert!(
        value
            .as_object()
            .unwrap()
            .keys()
            .all(|key| ["name", "age", "tags"].contains(&key.as_str()))
    );
}

#[tokio::test]
async fn finished_completion_always_matches_format() {
    let home = Home::with_sim(json!({ "reply": "Sure! Here is some JSON for you." }));
    let _daemon = home.daemon();
    let client = home.client().await;
    for (seed, temperature) in [(1, 0.0), (1, 1.5), (2, 1.5), (3, 50.0), (4, 100.0)] {
        let params = GenerateParams {
            seed: Some(seed),
            temperature: Some(temperature),
            n: Some(3),
            stream: true,
            ..asking(schema(person()))
        };
        let mut call = client.start::<Generate>(&params, params.class()).unwrap();
        let mut streamed = vec![String::new(); 3];
        while let Some(event) = call.event::<GenerateEvent>().await {
            if let GenerateEvent::Delta { choice, text, .. } = event {
                streamed[choice].push_str(&text);
            }
        }
        let result = call.reply().await.unwrap();
        assert_eq!(result.choices.len(), 3);
        for (choice, streamed) in result.choices.iter().zip(&streamed) {
            assert_eq!(choice.finish_reason, FinishReason::Stop);
            assert_eq!(choice.text, *streamed);
            check_person(&choice.text);
        }
        assert!(result.timings.mask_ms > 0.0);
    }
    // The model's own completion, where it already matches the format.
    let lark = OutputFormat::Grammar { lark: "start: /Sure!.*/".to_owned() };
    let result = generate(&client, &asking(lark)).await.unwrap();
    assert_eq!(result.first().text, "Sure! Here is some JSON for you.");
    let object = generate(&client, &asking(OutputFormat::JsonObject)).await.unwrap();
    assert!(
        serde_json::from_str::<Value>(&object.first().text).is_ok_and(|value| value.is_object())
    );
    let free = generate(&client, &asking(OutputFormat::Text)).await.unwrap();
    assert_eq!(
        (free.first().text.as_str(), free.timings.mask_ms),
        ("Sure! Here is some JSON for you.", 0.0)
    );
}

#[tokio::test]
async fn completion_ends_where_format_ends_or_is_cut() {
    let home = Home::with_sim(json!({ "reply": "no" }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let lark = |lark: &str| asking(OutputFormat::Grammar { lark: lark.to_owned() });
    // No end token is generated: no choice is left for the model.
    let result = generate(&client, &lark("start: \"yes, sir\"")).await.unwrap();
    assert_eq!(
        (result.first().text.as_str(), result.first().finish_reason),
        ("yes, sir", FinishReason::Stop)
    );
    assert_eq!(result.usage.completion_tokens, 8);
    let cut = GenerateParams { max_tokens: Some(3), ..lark("start: \"yes, sir\"") };
    let result = generate(&client, &cut).await.unwrap();
    assert_eq!(
        (result.first().text.as_str(), result.first().finish_reason),
        ("yes", FinishReason::Length)
    );
    let stopped = GenerateParams { stop: vec![",".to_owned()], ..lark("start: \"yes, sir\"") };
    let result = generate(&client, &stopped).await.unwrap();
    assert_eq!(
        (result.first().text.as_str(), result.first().stop_string.as_deref()),
        ("yes", Some(","))
    );
}

#[tokio::test]
async fn impossible_format_is_named_without_harm() {
    let home = Home::with_sim(json!({ "reply": "fine" }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let wide: Vec<Value> = (0..40).map(|n| json!({ "required": [n.to_string()] })).collect();
    let wide = json!({ "anyOf": wide });
    for (format, expected) in [
        (schema(json!({ "type": "objekt" })), "objekt"),
        (schema(json!({ "$ref": "http://127.0.0.1:9/x.json" })), "http://127.0.0.1:9/x.json"),
        (schema(json!({ "type": "string", "pattern": "[" })), "cannot be enforced"),
        (schema(json!({ "allOf": [wide, wide, wide] })), "alternatives"),
        (OutputFormat::Grammar { lark: "start: nothing".to_owned() }, "nothing"),
    ] {
        let error = generate(&client, &asking(format)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidParams, "{error:?}");
        assert_eq!(error.details["field"], "format");
        assert!(
            error.message.contains("`format`") && error.message.contains(expected),
            "{error:?}"
        );
    }
    let endless = GenerateParams { ignore_eos: true, ..asking(OutputFormat::JsonObject) };
    let error = generate(&client, &endless).await.unwrap_err();
    assert_eq!(
        (error.code, &error.details["field"]),
        (ErrorCode::InvalidParams, &json!("ignore_eos"))
    );
    let free = generate(&client, &asking(OutputFormat::Text)).await.unwrap();
    assert_eq!(free.first().text, "fine");
    status_when(&client, |status| status.active == 0 && status.queued == 0).await;
}

/// A real vocabulary on both engines: constrained completions in one batch with a free one.
#[tokio::test]
async fn smollm2_keeps_schema_next_to_free_request() {
    let home = Home::new();
    home.add_smollm2();
    let _daemon = home.daemon();
    let client = home.client().await;
    for engine in [EngineKind::Gguf, EngineKind::Mlx] {
        let free = GenerateParams {
            engine: Some(engine),
            prompt: Some("Once upon a time".to_owned()),
            max_tokens: Some(24),
            ..GenerateParams::default()
        };
        let alone = generate(&client, &free).await.unwrap().first().text.clone();
        let held = GenerateParams {
            engine: Some(engine),
            temperature: Some(1.5),
            seed: Some(3),
            n: Some(3),
            max_tokens: Some(300),
            logprobs: true,
            ..asking(schema(person()))
        };
        let calls = [&free, &held].map(|params| client.start::<Generate>(params, params.class()));
        let [beside, held] = calls.map(Result::unwrap);
        assert_eq!(beside.reply().await.unwrap().first().text, alone, "{engine}");
        let result = held.reply().await.unwrap();
        assert!(result.first().logprobs.iter().all(|entry| entry.logprob.is_finite()));
        for choice in &result.choices {
            assert_eq!(choice.finish_reason, FinishReason::Stop, "{engine}: {}", choice.text);
            check_person(&choice.text);
        }
    }
}

#[test]
fn cli_accepts_format_and_schema() {
    let home = Home::with_sim(json!({ "reply": "fine" }));
    let file = home.folder().join("person.json");
    std::fs::write(&file, person().to_string()).unwrap();
    let file = file.to_str().unwrap();
    let told = ["--max-tokens", "600", "Who?"];
    let finished = home.ingle(["chat", "--schema", file].into_iter().chain(told)).ok();
    check_person(finished.stdout.trim());
    let finished = home.ingle(["complete", "--format", "json"].into_iter().chain(told)).ok();
    let value: Value = serde_json::from_str(finished.stdout.trim()).unwrap();
    assert!(value.is_object());
    for (arguments, expected) in [
        (["--schema", "/nowhere/x.json"], "cannot be read"),
        (["--schema", env!("CARGO_MANIFEST_PATH")], "not JSON"),
        (["--format", "xml"], "json"),
    ] {
        let refused = home.ingle(["chat"].into_iter().chain(arguments).chain(["hi"]));
        assert_eq!(refused.code(), i32::from(exit::USAGE), "{refused:?}");
        assert!(refused.stderr.contains(expected), "{refused:?}");
    }
}
