//! Garbage on the socket: clear errors, and no effect on other clients.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use ingle_protocol::limits;
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::status::Health;
use ingle_tests::Home;
use ingle_tests::raw::Raw;
use serde_json::{Value, json};

/// Asserts that the connection still works.
fn assert_alive(raw: &mut Raw) {
    let reply = raw.call(999, "health", &json!({}));
    assert_eq!(reply["result"]["state"], "ok", "{reply}");
}

#[test]
fn broken_frames_do_not_end_connection() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    for (bytes, code) in [
        (&b"this is not json\n"[..], "PARSE_ERROR"),
        (b"\xff\xfe\x00binary\n", "PARSE_ERROR"),
        (b"[]\n", "INVALID_REQUEST"),
        (b"{\"id\":1}\n", "INVALID_REQUEST"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":42}\n", "INVALID_REQUEST"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"no/such\"}\n", "METHOD_NOT_FOUND"),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"generate\",\"params\":[7]}\n",
            "INVALID_PARAMS",
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"generate\",\"params\":{\"prompt\":5}}\n",
            "INVALID_PARAMS",
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\",\"params\":{\"x\":1}}\n",
            "INVALID_PARAMS",
        ),
    ] {
        raw.send(bytes);
        assert_eq!(raw.error_code(), code, "{}", String::from_utf8_lossy(bytes));
    }
    let deep = format!("{}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    raw.send(deep.as_bytes());
    // It parses as a batch with one broken entry.
    assert_eq!(raw.reply()[0]["error"]["data"]["code"], "INVALID_REQUEST");
    assert_alive(&mut raw);
}

#[tokio::test]
async fn huge_line_is_refused_without_side_effects() {
    let home = Home::with_sim(json!({}));
    let daemon = home.daemon();
    let other = home.client().await;
    let mut raw = Raw::connect(&home);
    let chunk = vec![b'x'; 1024 * 1024];
    for _ in 0..100 {
        raw.send(&chunk);
        other.call::<Health>(&NoParams {}).await.unwrap();
    }
    raw.send(b"\n");
    assert_eq!(raw.error_code(), "FRAME_TOO_LARGE");
    assert_alive(&mut raw);
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().as_raw_nonzero()));
    // Where the system reports memory use, the line has not stayed in memory.
    if let Ok(status) = status {
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(kib < 80 * 1024, "{line}");
    }
}

#[test]
fn half_frame_then_silence_closes_connection() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    raw.send(b"{\"jsonrpc\":\"2.0\",\"id\":1,");
    // The daemon's own limit ends the silence.
    assert_eq!(raw.error_code(), "PARSE_ERROR");
    raw.send(b"\"method\":\"health\"}\n");
    assert_alive(&mut raw);
}

/// The daemon stops reading from a peer that does not read; requests sent meanwhile are not late.
#[test]
fn late_reader_gets_every_answer() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    const REQUESTS: i64 = 4_000;
    let writer = raw.stream().try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for id in 0..REQUESTS {
            let frame = json!({ "jsonrpc": "2.0", "id": id, "method": "status" });
            (&writer).write_all(format!("{frame}\n").as_bytes()).unwrap();
        }
    });
    // Longer than the limit for half a frame: this pause is the injected fault.
    std::thread::sleep(Duration::from_millis(limits::FRAME_STALL_MS + 1_000));
    for _ in 0..REQUESTS {
        assert!(raw.reply()["result"].is_object());
    }
    sending.join().unwrap();
}

#[test]
fn hanging_model_folder_does_not_block_others() {
    let home = Home::with_sim(json!({}));
    let pipe = home.paths().models_dir().join("pipe");
    std::fs::create_dir(&pipe).unwrap();
    let made = std::process::Command::new("mkfifo").arg(pipe.join("config.json")).status();
    assert!(made.unwrap().success());
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    for id in 0..3 {
        assert!(raw.call(id, "models.list", &json!({}))["result"].is_object());
    }
    raw.request(7, "generate", &json!({ "model": "pipe", "prompt": "x" }));
    assert_eq!(raw.error_code(), "MODEL_INVALID");
    assert_alive(&mut raw);
}

#[test]
fn stream_ending_inside_frame_gets_error() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    raw.send(b"{\"jsonrpc\":\"2.0\",\"id\":1");
    raw.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(raw.error_code(), "PARSE_ERROR");
}

#[test]
fn half_closed_connection_gets_its_answers() {
    let home = Home::with_sim(json!({ "token_delay_ms": 1 }));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    raw.request(1, "generate", &json!({ "prompt": "hi" }));
    raw.stream().shutdown(Shutdown::Write).unwrap();
    assert!(raw.reply()["result"]["choices"][0]["text"].is_string());
}

#[test]
fn batch_is_answered_together() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    let batch = json!([
        { "jsonrpc": "2.0", "id": 1, "method": "health" },
        { "jsonrpc": "2.0", "method": "nobody/knows" },
        { "jsonrpc": "2.0", "id": "two", "method": "generate", "params": { "prompt": "x" } },
        7,
    ]);
    raw.send(format!("{batch}\n").as_bytes());
    let reply = raw.reply();
    let answers = reply.as_array().unwrap();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().any(|answer| answer["id"] == "two" && answer["result"].is_object()));
    let many: Vec<Value> = (0..=limits::BATCH_REQUESTS)
        .map(|id| json!({ "jsonrpc": "2.0", "id": id, "method": "health" }))
        .collect();
    raw.send(format!("{}\n", json!(many)).as_bytes());
    let refused = raw.reply();
    let ids = refused.as_array().unwrap().iter().map(|answer| answer["id"].clone());
    assert!(ids.eq((0..=limits::BATCH_REQUESTS).map(Value::from)), "{refused}");
    assert_eq!(refused[0]["error"]["data"]["code"], "INVALID_REQUEST");
}

#[test]
fn unreadable_request_is_answered_under_its_id() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    let long = format!("\"{}\"", "x".repeat(limits::FRAME_BYTES));
    for (value, code) in [
        (r#""\ud83d""#, "INVALID_PARAMS"),
        ("1e999", "INVALID_PARAMS"),
        (deep.as_str(), "INVALID_PARAMS"),
        (long.as_str(), "FRAME_TOO_LARGE"),
    ] {
        let frame = format!(
            r#"{{"method":"generate","params":{{"prompt":{value}}},"jsonrpc":"2.0","id":7}}"#
        );
        raw.send(format!("{frame}\n").as_bytes());
        let reply = raw.reply();
        assert_eq!((&reply["id"], &reply["error"]["data"]["code"]), (&json!(7), &json!(code)));
    }
    assert_alive(&mut raw);
}

#[test]
fn reused_ids_and_excess_requests_are_refused() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 20 }));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    let long = json!({ "prompt": "hi", "max_tokens": 100_000 });
    raw.request(1, "generate", &long);
    raw.request(1, "generate", &long);
    assert_eq!(raw.error_code(), "INVALID_REQUEST");
    for id in 2..=limits::IN_FLIGHT_PER_CONNECTION {
        raw.request(i64::try_from(id).unwrap(), "generate", &long);
    }
    raw.request(1_000, "health", &json!({}));
    assert_eq!(raw.error_code(), "OVERLOADED");
}

#[test]
fn connections_over_limit_get_the_reason() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut open: Vec<Raw> = (0..limits::CONNECTIONS).map(|_| Raw::connect(&home)).collect();
    assert_alive(open.last_mut().unwrap());
    let mut refused = Raw::connect(&home);
    assert_eq!(refused.error_code(), "OVERLOADED");
    assert_alive(&mut open[0]);
}

#[test]
fn other_protocol_version_is_refused() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    let reply = raw.call(1, "hello", &json!({ "role": "mcp", "protocol": 99, "build": "9.9" }));
    assert_eq!(reply["error"]["data"]["code"], "VERSION_SKEW");
    assert_alive(&mut raw);
}

#[test]
fn peer_closing_mid_frame_leaves_daemon_healthy() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    for _ in 0..50 {
        let raw = Raw::connect(&home);
        let mut stream = raw.stream();
        let _ = stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"gener");
    }
    assert_alive(&mut Raw::connect(&home));
}
