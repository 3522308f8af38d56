//! `ingle mcp` as a tool host spawns it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use ingle_tests::Home;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

/// A spawned shim with an open session.
pub(crate) struct Host {
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Host {
    pub(crate) fn spawn(home: &Home) -> Self {
        Self::spawn_with(home, &[])
    }

    fn spawn_with(home: &Home, options: &[&str]) -> Self {
        let mut command = home.command("ingle");
        command.arg("mcp").args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    pub(crate) fn send(&mut self, message: &Value) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{message}\n").as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn request(&mut self, id: i64, method: &str, params: &Value) -> Value {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        self.receive()
    }

    pub(crate) fn initialize(&mut self) -> Value {
        let params = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "test host", "version": "1" },
        });
        let reply = self.request(1, "initialize", &params);
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        reply
    }

    pub(crate) fn call(&mut self, id: i64, tool: &str, arguments: &Value) -> Value {
        self.request(id, "tools/call", &json!({ "name": tool, "arguments": arguments }))
    }

    /// Sends a call that would run for minutes, and returns once it runs.
    fn start_long_call(&mut self, home: &Home, id: i64) {
        let arguments = json!({ "prompt": "hi", "max_tokens": 100_000 });
        let params = json!({ "name": "chat", "arguments": arguments });
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }));
        home.wait_active(1);
    }

    /// Closes standard input and waits for the end.
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_session_lists_and_calls_tools() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    let mut host = Host::spawn(&home);
    let reply = host.initialize();
    assert_eq!(reply["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(reply["result"]["serverInfo"]["name"], "ingle");
    let tools = host.request(2, "tools/list", &json!({}));
    let names: Vec<_> =
        tools["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    let expected = ["chat", "generate", "list_models", "job_wait", "job_get", "job_cancel"];
    assert_eq!(names, expected);
    for (id, tool) in [(3, "chat"), (4, "generate")] {
        let reply = host.call(id, tool, &json!({ "prompt": "hello" }));
        assert_eq!(reply["result"]["content"][0]["text"], "crackle", "{reply}");
        assert_eq!(reply["result"]["structuredContent"]["finish_reason"], "stop");
    }
    let reply = host.call(5, "list_models", &json!({}));
    assert_eq!(reply["result"]["structuredContent"]["default"], "sim");
    host.end();
}

#[test]
fn errors_tell_the_model_what_to_do() {
    let home = Home::with_sim(json!({}));
    let mut host = Host::spawn(&home);
    host.initialize();
    let reply = host.call(2, "chat", &json!({ "prompt": "x", "model": "nobody" }));
    assert_eq!(reply["result"]["isError"], true);
    assert!(reply["result"]["content"][0]["text"].as_str().unwrap().contains("MODEL_NOT_FOUND"));
    let reply = host.call(3, "chat", &json!({ "prompt": "x".repeat(20_001) }));
    assert!(reply["result"]["content"][0]["text"].as_str().unwrap().contains("20001"), "{reply}");
    assert!(host.call(4, "chat", &json!({ "promt": "x" }))["error"].is_object());
    assert!(host.call(5, "no_such_tool", &json!({}))["error"].is_object());
    assert!(host.request(6, "no/such/method", &json!({}))["error"].is_object());
    host.end();
}

#[test]
fn progress_comes_only_when_it_was_asked_for() {
    let home = Home::with_sim(json!({ "load_delay_ms": 100 }));
    let mut host = Host::spawn(&home);
    host.initialize();
    let params = json!({
        "name": "chat",
        "arguments": { "prompt": "hi" },
        "_meta": { "progressToken": "p" },
    });
    let first = host.request(2, "tools/call", &params);
    assert_eq!(first["method"], "notifications/progress", "{first}");
    let mut last = 0.0;
    let mut message = first;
    while message["method"] == "notifications/progress" {
        assert_eq!(message["params"]["progressToken"], "p");
        let progress = message["params"]["progress"].as_f64().unwrap();
        assert!(progress > last);
        last = progress;
        message = host.receive();
    }
    assert_eq!(message["id"], 2);
    assert_eq!(host.call(3, "chat", &json!({ "prompt": "hi" }))["id"], 3);
    host.end();
}

#[test]
fn a_cancelled_call_gets_no_reply_and_frees_the_engine() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut host = Host::spawn(&home);
    host.initialize();
    host.start_long_call(&home, 2);
    let cancel = json!({ "requestId": 2 });
    host.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel }));
    home.wait_active(0);
    assert_eq!(host.request(3, "ping", &json!({}))["id"], 3);
    host.end();
}

#[test]
fn a_killed_daemon_costs_the_calls_in_flight_and_nothing_more() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut host = Host::spawn(&home);
    host.initialize();
    host.start_long_call(&home, 2);
    let first = home.daemon_pid().unwrap();
    kill_process(first, Signal::KILL).unwrap();
    let reply = host.receive();
    assert_eq!((&reply["id"], &reply["error"]["data"]["code"]), (&json!(2), &json!("DAEMON_LOST")));
    let reply = host.request(3, "tools/list", &json!({}));
    assert!(reply["result"]["tools"].is_array(), "{reply}");
    assert_ne!(home.daemon_pid(), Some(first));
    host.end();
}

#[test]
fn every_message_of_a_batch_is_answered() {
    let home = Home::with_sim(json!({}));
    let mut host = Host::spawn(&home);
    host.initialize();
    let ping = |id| json!({ "jsonrpc": "2.0", "id": id, "method": "ping" });
    host.send(&json!([ping(7), ping(8), { "jsonrpc": "2.0", "id": 9 }]));
    let mut ids: Vec<_> = (0..3).map(|_| host.receive()["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [7, 8, 9]);
    host.end();
}

#[test]
fn broken_lines_are_answered_and_the_session_goes_on() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    let mut host = Host::spawn(&home);
    host.initialize();
    host.child.stdin.as_mut().unwrap().write_all(b"this is not json\n").unwrap();
    assert_eq!(host.receive()["error"]["code"], -32700);
    let reply = host.call(2, "chat", &json!({ "prompt": "hello" }));
    assert_eq!(reply["result"]["content"][0]["text"], "crackle");
    host.end();
}

#[test]
fn a_call_that_outlasts_its_host_becomes_a_job_and_nothing_is_lost() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(400), "token_delay_ms": 5 }));
    let mut host = Host::spawn_with(&home, &["--host-timeout", "0.5"]);
    host.initialize();
    let begin = std::time::Instant::now();
    let reply = host.call(2, "chat", &json!({ "prompt": "hi" }));
    // The text takes two seconds; the reply comes before the host gives up, if it can.
    assert!(begin.elapsed().as_millis() >= 490, "{:?}", begin.elapsed());
    let content = &reply["result"]["structuredContent"];
    assert_eq!(
        (&content["status"], &reply["result"]["isError"]),
        (&json!("running"), &json!(false))
    );
    let job = content["job_id"].as_str().unwrap().to_owned();
    assert!(reply["result"]["content"][0]["text"].as_str().unwrap().contains(&job), "{reply}");
    let looked = host.call(3, "job_get", &json!({ "job_id": job }));
    assert_eq!(looked["result"]["structuredContent"]["job_id"], json!(job));
    // The session's end does not end the job: it is nobody's now.
    host.end();
    let mut host = Host::spawn_with(&home, &["--host-timeout", "0.5"]);
    host.initialize();
    let mut waits = 0;
    let text = loop {
        waits += 1;
        let reply = host.call(10 + waits, "job_wait", &json!({ "job_id": job }));
        let content = &reply["result"]["structuredContent"];
        if let Some(text) = content["text"].as_str() {
            break text.to_owned();
        }
        assert_eq!(content["status"], "running", "{reply}");
    };
    assert_eq!(text, "x".repeat(400));
    assert!(waits > 1, "it was waited for in pieces");
    let gone = host.call(90, "job_cancel", &json!({ "job_id": "j-nobody" }));
    assert_eq!(gone["result"]["isError"], true);
    host.end();
}

#[test]
fn a_job_of_a_host_can_be_cancelled_and_a_short_call_leaves_none() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    home.add_sim("quick", json!({ "reply": "crackle" }));
    let mut host = Host::spawn_with(&home, &["--host-timeout", "0.3"]);
    host.initialize();
    let reply = host.call(2, "generate", &json!({ "prompt": "hi", "max_tokens": 100_000 }));
    let job = reply["result"]["structuredContent"]["job_id"].clone();
    let reply = host.call(3, "job_cancel", &json!({ "job_id": job }));
    assert_eq!(reply["result"]["structuredContent"]["status"], "cancelled", "{reply}");
    home.wait_active(0);
    let reply = host.call(4, "job_wait", &json!({ "job_id": job }));
    assert_eq!(reply["result"]["isError"], true);
    let reply = host.call(5, "generate", &json!({ "prompt": "hi", "model": "quick" }));
    assert_eq!(reply["result"]["content"][0]["text"], "crackle");
    let listed = home.ingle(["jobs", "list", "--json"]).ok().json();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1, "{listed}");
    host.end();
}
