//! Generation through socket, daemon and engine thread, on the sim engine.

use ingle_client::client::Client;
use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::generate::{
    FinishReason, Generate, GenerateEvent, GenerateParams, GenerateResult, Message,
};
use ingle_protocol::wire::models::{LoadModel, LoadParams, ModelParams, UnloadModel};
use ingle_protocol::wire::status::{Status, StatusReply};
use ingle_protocol::wire::tokens::{Detokenize, DetokenizeParams, Tokenize, TokenizeParams};
use ingle_tests::raw::Raw;
use ingle_tests::{Home, status_when};
use serde_json::json;

fn prompt(text: &str) -> GenerateParams {
    GenerateParams { prompt: Some(text.to_owned()), ..GenerateParams::default() }
}

async fn generate(client: &Client, params: &GenerateParams) -> Result<GenerateResult, ErrorBody> {
    client.start::<Generate>(params, params.class())?.reply().await
}

/// Streams a generation and returns its streamed text and its result.
async fn stream(client: &Client, params: GenerateParams) -> (String, GenerateResult) {
    let params = GenerateParams { stream: true, ..params };
    let mut call = client.start::<Generate>(&params, params.class()).unwrap();
    let mut text = String::new();
    while let Some(event) = call.event().await {
        if let GenerateEvent::Delta { text: more, .. } = event {
            text.push_str(&more);
        }
    }
    (text, call.reply().await.unwrap())
}

#[tokio::test]
async fn stream_has_whole_text_and_ends_once() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let client = home.client().await;
    let whole = generate(&client, &prompt("one")).await.unwrap();
    let (streamed, result) = stream(&client, prompt("one")).await;
    assert_eq!(streamed, whole.first().text);
    assert_eq!(result.first().text, whole.first().text);
    assert_eq!(result.first().finish_reason, FinishReason::Stop);
    assert_eq!(result.usage.prompt_tokens, 3);
    assert!(result.timings.ttft_ms > 0.0 && result.timings.total_ms >= result.timings.ttft_ms);
}

/// The sim model's text depends on every prompt token, so a wrong cached prefix would change it.
#[tokio::test]
async fn shared_prompt_prefix_is_not_read_again() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let client = home.client().await;
    let (short, long) = ("Once upon a time", "Once upon a time there was a hearth");
    let first = generate(&client, &prompt(long)).await.unwrap();
    assert_eq!(first.usage.cached_tokens, 0);
    let again = generate(&client, &prompt(long)).await.unwrap();
    assert_eq!(again.first().text, first.first().text);
    assert_eq!(again.usage.cached_tokens, long.len() - 1);
    let turn = format!("{long}{}", again.first().text);
    let next = generate(&client, &prompt(&format!("{turn} and then"))).await.unwrap();
    assert_eq!(next.usage.cached_tokens, turn.len());
    let shorter = generate(&client, &prompt(short)).await.unwrap();
    assert!(shorter.usage.cached_tokens > 0);
    // Another daemon with an empty cache gives the same text.
    let fresh = Home::with_sim(json!({}));
    let _fresh_daemon = fresh.daemon();
    let fresh = fresh.client().await;
    assert_eq!(generate(&fresh, &prompt(short)).await.unwrap().first().text, shorter.first().text);
}

#[tokio::test]
async fn twenty_clients_get_whole_unmixed_answers() {
    let home = Home::with_sim(json!({ "token_delay_ms": 1 }));
    let _daemon = home.daemon();
    let alone = home.client().await;
    let mut expected = Vec::new();
    for number in 0..20 {
        let prompt = prompt(&format!("client {number}"));
        expected.push(generate(&alone, &prompt).await.unwrap().first().text.clone());
    }
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let socket = home.paths().socket().to_owned();
            tokio::spawn(async move {
                let client = Client::connect(&socket).await.unwrap();
                stream(&client, prompt(&format!("client {number}"))).await
            })
        })
        .collect();
    for (task, expected) in tasks.into_iter().zip(expected) {
        let (streamed, result) = task.await.unwrap();
        assert_eq!(streamed, expected);
        assert_eq!(result.first().text, expected);
    }
}

#[tokio::test]
async fn dropped_connection_frees_engine_in_one_token() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let _daemon = home.daemon();
    let watcher = home.client().await;
    let raw = Raw::connect(&home);
    raw.request(1, "generate", &json!({ "prompt": "hi", "max_tokens": 100_000, "stream": true }));
    status_when(&watcher, |status| status.active == 1).await;
    drop(raw);
    let freed_from = std::time::Instant::now();
    status_when(&watcher, |status| status.active == 0).await;
    // One token takes 5 ms; the rest is room for a busy machine, and far below the text's length.
    assert!(freed_from.elapsed().as_secs() < 5);
}

#[tokio::test]
async fn cancel_ends_one_request_and_no_other() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(300), "token_delay_ms": 2 }));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    raw.request(1, "generate", &json!({ "prompt": "a", "max_tokens": 100_000 }));
    raw.request(2, "generate", &json!({ "prompt": "b" }));
    raw.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"$/cancel\",\"params\":{\"id\":1}}\n");
    let first = raw.reply();
    assert_eq!(first["id"], 1);
    assert_eq!(first["error"]["data"]["code"], "CANCELLED");
    let second = raw.reply();
    assert_eq!(second["id"], 2);
    assert_eq!(second["result"]["choices"][0]["text"].as_str().map(str::len), Some(300));
}

#[tokio::test]
async fn dropped_call_is_cancelled() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let params = GenerateParams { max_tokens: Some(100_000), ..prompt("hi") };
    let call = client.start::<Generate>(&params, Class::Completions).unwrap();
    status_when(&client, |status| status.active == 1).await;
    drop(call);
    status_when(&client, |status| status.active == 0).await;
}

#[tokio::test]
async fn timeout_stops_work_and_names_layer() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let budget = Budget { work_ms: Some(200), remaining_ms: None };
    let params = GenerateParams { max_tokens: Some(100_000), budget: Some(budget), ..prompt("hi") };
    let error = generate(&client, &params).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    assert_eq!(error.details["layer"], "work");
    assert_eq!(error.details["limit_ms"], 200);
    assert!(error.request_id.is_some());
    // The engine thread publishes its status once a step, which may come after the reply.
    status_when(&client, |status| status.active == 0).await;
}

#[tokio::test]
async fn hanging_engine_is_answered_by_daemon() {
    let home = Home::with_sim(json!({ "hang_at": 3 }));
    let daemon = home.daemon();
    let client = home.client().await;
    let budget = Budget { work_ms: Some(200), remaining_ms: None };
    let params = GenerateParams { budget: Some(budget), ..prompt("hi") };
    let error = generate(&client, &params).await.unwrap_err();
    assert_eq!((error.code, error.details["layer"].as_str()), (ErrorCode::Timeout, Some("daemon")));
    // Health answers at once, from cached state.
    client.call::<Status>(&NoParams {}).await.unwrap();
    drop(daemon);
}

#[tokio::test]
async fn blocked_reader_slows_no_other_client() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(200_000), "context_tokens": 300_000 }));
    let _daemon = home.daemon();
    let slow = Raw::connect(&home);
    for id in 0..4 {
        let params = json!({ "prompt": "hi", "max_tokens": 200_000, "stream": true });
        slow.request(id, "generate", &params);
    }
    let client = home.client().await;
    let params = GenerateParams { max_tokens: Some(50), ..prompt("hi") };
    assert_eq!(generate(&client, &params).await.unwrap().first().text.len(), 50);
}

#[tokio::test]
async fn slow_reader_gets_whole_text() {
    let home =
        Home::with_sim(json!({ "reply": "abcdefghij".repeat(20_000), "context_tokens": 300_000 }));
    let _daemon = home.daemon();
    let watcher = home.client().await;
    let mut slow = Raw::connect(&home);
    slow.request(1, "generate", &json!({ "prompt": "a", "max_tokens": 200_000, "stream": true }));
    // Nothing is read until the engine has finished the request.
    status_when(&watcher, |status| status.generations == 1 && status.active == 0).await;
    let mut text = String::new();
    loop {
        let frame = slow.reply();
        if let Some(delta) = frame["params"]["event"]["text"].as_str() {
            text.push_str(delta);
        }
        if frame["id"] == 1 {
            assert_eq!(frame["result"]["choices"][0]["text"].as_str(), Some(text.as_str()));
            break;
        }
    }
    assert_eq!(text.len(), 200_000);
}

#[tokio::test]
async fn full_queue_refuses_at_once() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 20 }));
    let _daemon = home.daemon();
    let wanted = limits::CONCURRENT_GENERATIONS + limits::QUEUED_GENERATIONS;
    let per_connection = limits::IN_FLIGHT_PER_CONNECTION - 1;
    let mut clients = Vec::new();
    let mut calls = Vec::new();
    let params = GenerateParams { max_tokens: Some(100_000), ..prompt("hi") };
    for number in 0..wanted {
        if number % per_connection == 0 {
            clients.push(home.client().await);
        }
        let client = clients.last().unwrap();
        calls.push(client.start::<Generate>(&params, Class::Completions).unwrap());
    }
    let watcher = home.client().await;
    let full = |status: &StatusReply| {
        status.active == limits::CONCURRENT_GENERATIONS
            && status.queued == limits::QUEUED_GENERATIONS
    };
    status_when(&watcher, full).await;
    let error = generate(&watcher, &params).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Overloaded);
    assert!(error.details["retry_after_ms"].as_u64().is_some());
    drop(calls);
    status_when(&watcher, |status| status.active == 0 && status.queued == 0).await;
}

#[tokio::test]
async fn sixteen_first_requests_make_one_load() {
    let home = Home::with_sim(json!({ "load_delay_ms": 100 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let prompt = prompt("hi");
    let calls: Vec<_> =
        (0..16).map(|_| client.start::<Generate>(&prompt, Class::Completions).unwrap()).collect();
    for call in calls {
        call.reply().await.unwrap();
    }
    let status = client.call::<Status>(&NoParams {}).await.unwrap();
    assert_eq!((status.models.len(), status.generations), (1, 16));
}

#[tokio::test]
async fn load_does_not_stop_other_model() {
    let home = Home::with_sim(json!({ "token_delay_ms": 1 }));
    home.add_sim("slow", json!({ "load_delay_ms": 60_000 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    generate(&client, &prompt("warm")).await.unwrap();
    let slow = GenerateParams { model: Some("slow".to_owned()), ..prompt("cold") };
    let loading = client.start::<Generate>(&slow, Class::Completions).unwrap();
    generate(&client, &prompt("still warm")).await.unwrap();
    drop(loading);
    let unload = ModelParams { model: Some("slow".to_owned()), stream: false };
    client.call::<UnloadModel>(&unload).await.unwrap();
}

#[tokio::test]
async fn busy_model_is_not_unloaded() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let loaded = client.call::<LoadModel>(&LoadParams::default()).await.unwrap();
    assert_eq!((loaded.name.as_str(), loaded.engine.as_str()), ("sim", "sim"));
    let params = GenerateParams { max_tokens: Some(100_000), ..prompt("hi") };
    let call = client.start::<Generate>(&params, Class::Completions).unwrap();
    status_when(&client, |status| status.active == 1).await;
    let error = client.call::<UnloadModel>(&ModelParams::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    drop(call);
    status_when(&client, |status| status.active == 0).await;
    assert!(client.call::<UnloadModel>(&ModelParams::default()).await.unwrap().was_loaded);
    assert!(!client.call::<UnloadModel>(&ModelParams::default()).await.unwrap().was_loaded);
}

#[tokio::test]
async fn stop_strings_and_limits_end_text() {
    let home = Home::with_sim(json!({ "reply": "one two three" }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let stop = GenerateParams { stop: vec!["tw".to_owned()], ..prompt("x") };
    let (streamed, result) = stream(&client, stop).await;
    assert_eq!((streamed.as_str(), result.first().text.as_str()), ("one ", "one "));
    assert_eq!(result.first().stop_string.as_deref(), Some("tw"));
    let short = GenerateParams { max_tokens: Some(3), ..prompt("x") };
    let result = generate(&client, &short).await.unwrap();
    assert_eq!(
        (result.first().text.as_str(), result.first().finish_reason),
        ("one", FinishReason::Length)
    );
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let home = Home::with_sim(json!({ "context_tokens": 8 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let message = Message::new("user", "hi");
    let base = prompt("hi");
    for (params, code, named) in [
        (GenerateParams::default(), ErrorCode::InvalidParams, "messages"),
        (
            GenerateParams { messages: Some(vec![message]), ..base.clone() },
            ErrorCode::InvalidParams,
            "messages",
        ),
        (
            GenerateParams { temperature: Some(-1.0), ..base.clone() },
            ErrorCode::InvalidParams,
            "temperature",
        ),
        (GenerateParams { top_p: Some(2.0), ..base.clone() }, ErrorCode::InvalidParams, "top_p"),
        (
            GenerateParams { max_tokens: Some(0), ..base.clone() },
            ErrorCode::InvalidParams,
            "max_tokens",
        ),
        (
            GenerateParams { stop: vec![String::new()], ..base.clone() },
            ErrorCode::InvalidParams,
            "stop",
        ),
        (prompt(""), ErrorCode::InvalidParams, "prompt"),
        (prompt("much too long"), ErrorCode::ContextTooLong, "13"),
        (
            GenerateParams { model: Some("smim".to_owned()), ..base.clone() },
            ErrorCode::ModelNotFound,
            "smim",
        ),
        (
            GenerateParams { model: Some("../../etc".to_owned()), ..base },
            ErrorCode::InvalidParams,
            "..",
        ),
    ] {
        let error = generate(&client, &params).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(named), "{error}");
        assert!(!error.remediation().is_empty());
    }
}

#[tokio::test]
async fn tokens_round_trip() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let client = home.client().await;
    let text = "Grüße 🙂";
    let params = TokenizeParams { text: Some(text.to_owned()), ..TokenizeParams::default() };
    let tokens = client.call::<Tokenize>(&params).await.unwrap().tokens;
    let params = DetokenizeParams { model: None, engine: None, tokens };
    assert_eq!(client.call::<Detokenize>(&params).await.unwrap().text, text);
    let params = DetokenizeParams { model: None, engine: None, tokens: vec![99_999] };
    let error = client.call::<Detokenize>(&params).await.unwrap_err();
    assert!(error.message.contains("99999"), "{error}");
}
