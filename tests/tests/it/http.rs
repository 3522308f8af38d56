//! The OpenAI-compatible edge over its socket: requests, responses, streams and refusals.

use ingle_protocol::limits;
use ingle_tests::exposition::Exposition;
use ingle_tests::http::{Answer, Http};
use ingle_tests::{Home, status_when};
use rustix::process::Signal;
use serde_json::{Value, json};

fn chat(more: Value) -> Value {
    let mut request =
        json!({ "messages": [{ "role": "user", "content": "hi" }], "temperature": 0 });
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

/// The parsed events of a stream without the last, which marks it as complete.
fn whole_stream(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let mut events = answer.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{answer:?}");
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[test]
fn chat_whole_and_streamed_agree() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut http = Http::socket(&home);
    let whole = http.post("/v1/chat/completions", &chat(json!({}))).expect(200);
    let request_id = whole.header("x-request-id").unwrap().to_owned();
    let whole = whole.json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["id"], format!("chatcmpl-{request_id}"));
    assert_eq!(whole["model"], "sim");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.len() > 16);
    let usage = &whole["usage"];
    let sum =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);

    // On the same connection.
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = whole_stream(&http.post("/v1/chat/completions", &chat(options)));
    let first = &events[0]["choices"][0]["delta"];
    assert_eq!((&first["role"], &first["content"]), (&json!("assistant"), &json!("")));
    let streamed: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(streamed, text);
    let (last, end) = (&events[events.len() - 1], &events[events.len() - 2]);
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], usage["completion_tokens"]);
    assert!(last["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(0));
}

#[test]
fn completions_accept_prompts_tokens_and_logprobs() {
    let home = Home::with_sim(json!({ "reply": "a b", "logits": {} }));
    let _daemon = home.daemon();
    let mut http = Http::socket(&home);
    let request = json!({ "prompt": ["x", "y"], "n": 2, "echo": true, "temperature": 0 });
    let answer = http.post("/v1/completions", &request).expect(200).json();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).sum::<u64>(), 6);
    assert_eq!(choices[3]["text"], "ya b");
    assert_eq!(answer["object"], "text_completion");

    let mut request = json!({ "prompt": [120, 121], "logprobs": 1, "stop": " " });
    let answer = http.post("/v1/completions", &request).expect(200).json();
    assert_eq!(answer["choices"][0]["text"], "a");
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"][0], "a");
    assert_eq!(answer["choices"][0]["logprobs"]["text_offset"][0], 0);
    request["stream"] = json!(true);
    let events = whole_stream(&http.post("/v1/completions", &request));
    let text: String = events.iter().filter_map(|one| one["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "a");
    assert!(events.iter().any(|one| one["choices"][0]["logprobs"]["tokens"][0] == "a"));
}

#[test]
fn format_allows_calls_and_stop_keeps_reasoning() {
    let call = "{\"name\": \"f\", \"arguments\": {\"secret\": \"x\"}}";
    let home = Home::with_sim(json!({ "reply": format!("<tool_call>\n{call}\n</tool_call>") }));
    home.add_sim("thinks", json!({ "reply": "<think>a b</think>c d" }));
    let _daemon = home.daemon();
    let mut http = Http::socket(&home);
    let parameters = json!({ "type": "object", "properties": {
        "secret": { "type": "string", "format": "password" } } });
    let function = json!({ "name": "f", "parameters": parameters });
    let tools = |function: &Value| json!([{ "type": "function", "function": function }]);
    let schema = json!({ "name": "s", "schema": { "type": "object" } });
    let format = json!({ "type": "json_schema", "json_schema": schema });
    let mut request = chat(json!({ "tools": tools(&function), "response_format": format }));
    for choice in ["auto", "required"] {
        request["tool_choice"] = json!(choice);
        let answer = http.post("/v1/chat/completions", &request).expect(200).json();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        assert_eq!(choice["message"]["content"], Value::Null);
        assert_eq!(
            choice["message"]["tool_calls"][0]["function"]["arguments"],
            "{\"secret\": \"x\"}"
        );
    }
    let mut strict = function.clone();
    strict["strict"] = json!(true);
    request["tools"] = tools(&strict);
    let problem = http.post("/v1/chat/completions", &request).expect(422).json();
    assert_eq!(problem["error"]["param"], "tools", "{problem}");
    request["tools"] = tools(&function);
    request["tool_choice"] = json!("auto");
    request["response_format"]["json_schema"]["schema"] = json!({ "not": {} });
    let problem = http.post("/v1/chat/completions", &request).expect(422).json();
    assert_eq!(problem["error"]["param"], "response_format", "{problem}");

    let request = chat(json!({ "model": "thinks", "stop": " " }));
    let answer = http.post("/v1/chat/completions", &request).expect(200).json();
    let (message, reason) =
        (&answer["choices"][0]["message"], &answer["choices"][0]["finish_reason"]);
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("c"), &json!("a b")));
    assert_eq!(reason, "stop");
}

#[test]
fn models_are_listed_and_found_by_name() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut http = Http::socket(&home);
    let list = http.get("/v1/models").expect(200).json();
    assert_eq!(list["object"], "list");
    let model = &list["data"][0];
    assert_eq!((&model["id"], &model["object"]), (&json!("sim"), &json!("model")));
    assert!(model["created"].as_u64() > Some(1_600_000_000), "{model}");
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "what is not here is not listed: {list}");
    assert_eq!(&http.get("/v1/models/sim").expect(200).json(), model);
    let missing = http.get("/v1/models/org%2Fname").expect(404).json();
    assert_eq!(missing["error"]["code"], "model_not_found");
    assert!(missing["detail"].as_str().unwrap().contains("`org/name`"), "{missing}");
    assert_eq!(http.get("/health").expect(200).json()["status"], "ok");
    let metrics = Exposition::read(&http.get("/metrics").expect(200).body);
    assert!(metrics.kinds.len() > 10, "{metrics:?}");
    let document = http.get("/openapi.json").expect(200).json();
    assert_eq!(document["openapi"], "3.1.0");
}

#[test]
fn embeddings_are_numbers_or_base64() {
    let home = Home::with_sim(json!({ "embeds": true }));
    let _daemon = home.daemon();
    let mut http = Http::socket(&home);
    let request = json!({ "input": ["a", "b"] });
    let list = http.post("/v1/embeddings", &request).expect(200).json();
    assert_eq!((&list["object"], &list["model"]), (&json!("list"), &json!("sim")));
    let numbers: Vec<f64> = serde_json::from_value(list["data"][1]["embedding"].clone()).unwrap();
    assert_eq!(list["data"][1]["index"], 1);
    let length: f64 = numbers.iter().map(|number| number * number).sum();
    assert!((length - 1.0).abs() < 1e-5, "{list}");
    let request = json!({ "input": "b", "encoding_format": "base64" });
    let list = http.post("/v1/embeddings", &request).expect(200).json();
    // Four bytes per number; each group of three bytes takes four letters.
    let letters = (numbers.len() * 4).div_ceil(3) * 4;
    assert_eq!(list["data"][0]["embedding"].as_str().map(str::len), Some(letters), "{list}");
    assert!(list["usage"]["total_tokens"].as_u64() > Some(0));
    let wrong = json!({ "input": "a", "dimensions": numbers.len() + 1 });
    let problem = http.post("/v1/embeddings", &wrong).expect(422).json();
    assert_eq!(problem["error"]["param"], "dimensions");
}

/// Every refusal: the status, and the words that name the fault.
#[test]
fn wrong_request_error_names_the_fault() {
    let home = Home::with_sim(json!({ "context_tokens": 300 }));
    home.add_sim("picky", json!({ "chat_template": "{{ raise_exception('no more') }}" }));
    let _daemon = home.daemon();
    let (chats, completions) = ("/v1/chat/completions", "/v1/completions");
    let long = json!({ "prompt": "x".repeat(400) }).to_string();
    let image = chat(json!({ "messages": [{ "role": "user", "content": [
        { "type": "image_url", "image_url": { "url": "data:" } },
    ] }] }));
    for (method, path, headers, body, status, named) in [
        ("POST", chats, &[][..], "{\"messages\": [".to_owned(), 400, "not JSON"),
        ("POST", chats, &[], String::new(), 400, "not JSON"),
        ("POST", chats, &[], "{}".to_owned(), 422, "messages"),
        ("POST", chats, &[], json!({ "messages": [] }).to_string(), 422, "messages"),
        ("POST", chats, &[], image.to_string(), 422, "messages[0].content[0].type"),
        ("POST", chats, &[], chat(json!({ "n": 9 })).to_string(), 422, "`n`"),
        ("POST", chats, &[], chat(json!({ "temperature": -1 })).to_string(), 422, "temperature"),
        ("POST", chats, &[], chat(json!({ "stop": [1] })).to_string(), 422, "`stop`"),
        ("POST", chats, &[], chat(json!({ "model": "picky" })).to_string(), 422, "no more"),
        ("POST", chats, &[], chat(json!({ "model": "none" })).to_string(), 404, "`none`"),
        ("POST", chats, &[], chat(json!({ "model": "no/../ne" })).to_string(), 422, "absolute"),
        ("POST", chats, &[("content-type", "text/plain")], "{}".to_owned(), 415, "text/plain"),
        ("POST", completions, &[], long, 400, "400 tokens"),
        ("POST", completions, &[], json!({ "prompt": [] }).to_string(), 422, "`prompt`"),
        ("POST", completions, &[], json!({ "prompt": [9999] }).to_string(), 422, "9999"),
        ("POST", "/v1/embeddings", &[], json!({ "input": "x" }).to_string(), 422, "embeddings"),
        ("POST", "/v1/embeddings", &[], json!({ "input": [] }).to_string(), 422, "`input`"),
        ("POST", "/v1/embeddings", &[], json!({ "input": [[9906]] }).to_string(), 422, "token ids"),
        ("GET", chats, &[], String::new(), 405, "method"),
        ("GET", "/v2", &[], String::new(), 404, "path"),
    ] {
        let mut http = Http::socket(&home);
        let answer = http.ask(method, path, headers, &body).expect(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["request_id"], answer.header("x-request-id").unwrap());
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
        assert!(problem["error"]["message"].as_str().unwrap().contains(named), "{problem}");
        if status == 422 {
            assert!(problem["error"]["param"].is_string(), "{problem}");
        }
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("POST"));
        }
    }
}

#[test]
fn oversize_body_is_refused_sent_or_announced() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let body = format!("{{\"messages\": \"{}\"}}", "x".repeat(limits::HTTP_BODY_BYTES));
    let mut http = Http::socket(&home);
    let problem = http.ask("POST", "/v1/chat/completions", &[], &body).expect(413).json();
    assert!(problem["detail"].as_str().unwrap().contains("8388608"), "{problem}");
    let mut http = Http::socket(&home);
    let length = body.len();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    http.send(head.as_bytes());
    assert_eq!(http.head().status, 413);
}

#[tokio::test]
async fn client_disconnect_ends_its_work() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let _daemon = home.daemon();
    let watcher = home.client().await;
    for stream in [false, true] {
        let request = chat(json!({ "stream": stream, "max_tokens": 100_000 })).to_string();
        let mut http = Http::socket(&home);
        http.request("POST", "/v1/chat/completions", &[], &request);
        status_when(&watcher, |status| status.active == 1).await;
        if stream {
            assert_eq!(http.head().status, 200);
        }
        drop(http);
        status_when(&watcher, |status| status.active == 0).await;
    }
}

#[tokio::test]
async fn blocked_client_holds_up_no_other() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(20_000) }));
    home.add_sim("quick", json!({ "reply": "ok" }));
    let _daemon = home.daemon();
    let watcher = home.client().await;
    let request = chat(json!({ "stream": true, "max_tokens": 30_000 })).to_string();
    let mut sleeper = Http::socket(&home);
    sleeper.request("POST", "/v1/chat/completions", &[], &request);
    let mut http = Http::socket(&home);
    let quick = http.post("/v1/chat/completions", &chat(json!({ "model": "quick" }))).expect(200);
    assert_eq!(quick.json()["choices"][0]["message"]["content"], "ok");
    // The text is generated to its end while it is not read, and is then read whole.
    status_when(&watcher, |status| status.active == 0 && status.generations == 2).await;
    let mut answer = sleeper.head();
    while let Some(chunk) = sleeper.chunk() {
        answer.body.push_str(&chunk);
    }
    let events = whole_stream(&answer);
    let texts = events.iter().filter_map(|one| one["choices"][0]["delta"]["content"].as_str());
    assert_eq!(texts.map(str::len).sum::<usize>(), 20_000);
}

#[test]
fn timeout_is_status_first_and_event_later() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    home.add_sim("reading", json!({ "prompt_token_delay_ms": 50 }));
    home.write("config.toml", "default_model = \"sim\"\n[timeouts]\nchat = 0.5\nhttp = 300\n");
    let _daemon = home.daemon();
    let mut http = Http::socket(&home);
    let request = chat(json!({ "max_tokens": 100_000 }));
    let answer = http.post("/v1/chat/completions", &request).expect(408);
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    let problem = answer.json();
    assert_eq!((&problem["timeout_seconds"], &problem["layer"]), (&json!(0.5), &json!("work")));
    assert_eq!(problem["error"]["type"], "timeout");
    assert!(problem["remediation"].as_str().unwrap().len() > 10);

    let mut request = chat(json!({ "max_tokens": 100_000, "stream": true }));
    let answer = http.post("/v1/chat/completions", &request).expect(200);
    let events = answer.events();
    assert!(answer.body.contains("\n\nevent: error\ndata: {"), "{answer:?}");
    assert!(!answer.body.contains("[DONE]"));
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["type"], "timeout");
    assert_eq!(last["error"]["code"], "timeout");
    assert_eq!(last["error"]["timeout_seconds"], 0.5);
    // The connection still works.
    let _ = http.get("/health").expect(200);

    request["model"] = json!("missing");
    let _ = http.post("/v1/chat/completions", &request).expect(404);
}

#[test]
fn waiting_stream_is_kept_alive_by_comments() {
    let home = Home::with_sim(json!({ "reply": "ok", "load_delay_ms": 1_500 }));
    let _daemon = home.daemon();
    let mut http = Http::socket(&home);
    let answer = http.post("/v1/chat/completions", &chat(json!({ "stream": true })));
    assert!(answer.body.starts_with(": keep-alive\n\ndata: {"), "{answer:?}");
    whole_stream(&answer);
}

#[tokio::test]
async fn drain_finishes_requests_and_refuses_new_http() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(200), "token_delay_ms": 5 }));
    let daemon = home.daemon();
    let watcher = home.client().await;
    let mut idle = Http::socket(&home);
    let _ = idle.get("/health").expect(200);
    let mut busy = Http::socket(&home);
    let request = chat(json!({ "stream": true })).to_string();
    busy.request("POST", "/v1/chat/completions", &[], &request);
    status_when(&watcher, |status| status.active == 1).await;
    daemon.signal(Signal::TERM);
    assert!(idle.is_closed());
    assert_eq!(busy.head().status, 200);
    let mut text = String::new();
    while let Some(chunk) = busy.chunk() {
        text.push_str(&chunk);
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(daemon.wait().success());
}
