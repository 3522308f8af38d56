//! Fake daemon for tests: a closure answers each method, over a real socket in a private home.

use std::path::PathBuf;

use ingle_client::paths::Paths;
use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::WorkTimeouts;
use ingle_protocol::{BUILD, PROTOCOL_VERSION};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use crate::context::Context;
use crate::output::tests::{Captured, captured};

/// Keeps a test's home folder until the test ends.
pub(crate) struct TestHome(#[expect(dead_code, reason = "held for its drop")] TempDir);

/// A context with an empty home, and its captured output.
pub(crate) fn context(json: bool) -> (Context, TestHome, Captured, Captured) {
    let home = tempfile::tempdir().unwrap();
    let (output, out, err) = captured(json);
    let paths = Paths::new(home.path().join("home"), None).unwrap();
    let program = PathBuf::from("/nonexistent/ingled");
    (Context { paths, program, output }, TestHome(home), out, err)
}

/// The result of a `generate`.
pub(crate) fn generated(text: &str) -> Value {
    json!({
        "request_id": "r-1", "model": "smollm2",
        "choices": [{ "text": text, "finish_reason": "stop", "seed": 7 }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 2 },
        "timings": {
            "queue_ms": 0.0, "load_ms": 0.0, "prefill_ms": 1.0, "ttft_ms": 2.0, "total_ms": 3.0,
            "prefill_tokens_per_s": 10.0, "decode_tokens_per_s": 20.0,
        },
    })
}

/// The answer of a fake daemon to one call: events first, then a reply or an error.
pub(crate) type Answer = (Vec<Value>, Result<Value, ErrorBody>);

/// The reply to `hello`.
pub(crate) fn hello() -> Value {
    json!({
        "protocol": PROTOCOL_VERSION,
        "build": BUILD,
        "pid": 42,
        "timeouts": WorkTimeouts::default(),
    })
}

/// Starts a daemon at the socket of `paths`. A `shutdown` closes its connection after the reply.
pub(crate) fn serve(paths: &Paths, answer: impl FnMut(&str, &Value) -> Answer + Send + 'static) {
    serve_hello(paths, json!({}), answer);
}

/// The same, with other fields in its reply to `hello`.
pub(crate) fn serve_hello(
    paths: &Paths,
    fields: Value,
    mut answer: impl FnMut(&str, &Value) -> Answer + Send + 'static,
) {
    let mut greeting = hello();
    for (name, value) in fields.as_object().unwrap() {
        greeting[name] = value.clone();
    }
    paths.prepare().unwrap();
    let listener = UnixListener::bind(paths.socket()).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let call: Value = serde_json::from_str(&line).unwrap();
                let method = call["method"].as_str().unwrap();
                let (events, reply) = match method {
                    "hello" => (Vec::new(), Ok(greeting.clone())),
                    method => answer(method, &call["params"]),
                };
                let mut frames = String::new();
                for event in events {
                    let params = json!({ "id": call["id"], "event": event });
                    let event = json!({ "jsonrpc": "2.0", "method": "$/event", "params": params });
                    frames += &format!("{event}\n");
                }
                let mut frame = json!({ "jsonrpc": "2.0", "id": call["id"] });
                match reply {
                    Ok(result) => frame["result"] = result,
                    Err(error) => frame["error"] = error.to_rpc(),
                }
                frames += &format!("{frame}\n");
                writer.write_all(frames.as_bytes()).await.unwrap();
                if method == "shutdown" {
                    break;
                }
            }
        }
    });
}
