//! `ingle mcp`, spawned as a tool host would.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use ingle_tests::Home;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

/// A spawned shim.
pub(crate) struct Host {
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
    last_id: i64,
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
        Self { child, stdout, last_id: 0 }
    }

    /// A shim with an open session.
    pub(crate) fn open(home: &Home) -> Self {
        Self::open_with(home, &[])
    }

    pub(crate) fn open_with(home: &Home, options: &[&str]) -> Self {
        let mut host = Self::spawn_with(home, options);
        host.initialize();
        host
    }

    pub(crate) fn send(&mut self, message: &Value) {
        self.send_line(&message.to_string());
    }

    fn send_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub(crate) fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The next notification of that method; other messages are skipped.
    pub(crate) fn wait_for(&mut self, method: &str) -> Value {
        loop {
            let message = self.receive();
            if message["method"] == method {
                return message;
            }
        }
    }

    /// Sends a request and returns its id.
    pub(crate) fn start(&mut self, method: &str, params: &Value) -> i64 {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    /// Sends a request and returns its answer, skipping notifications other than progress.
    pub(crate) fn request(&mut self, method: &str, params: &Value) -> Value {
        let id = self.start(method, params);
        loop {
            let message = self.receive();
            if message["method"] == "notifications/progress" || message["id"] == id {
                return message;
            }
            assert!(message["method"].is_string(), "nobody asked: {message}");
        }
    }

    pub(crate) fn initialize(&mut self) -> Value {
        self.initialize_as("2025-06-18")
    }

    pub(crate) fn initialize_as(&mut self, version: &str) -> Value {
        let params = json!({
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": { "name": "test host", "version": "1" },
        });
        let reply = self.request("initialize", &params);
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        reply
    }

    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.request("tools/call", &json!({ "name": tool, "arguments": arguments }))
    }

    /// Sends a call that would run for minutes, and returns its id once it runs.
    fn start_long_call(&mut self, home: &Home) -> i64 {
        let arguments = json!({ "prompt": "hi", "max_tokens": 100_000 });
        let id = self.start("tools/call", &json!({ "name": "chat", "arguments": arguments }));
        home.wait_active(1);
        id
    }

    /// The next message other than a list change.
    pub(crate) fn next_but_changes(&mut self) -> Value {
        loop {
            let message = self.receive();
            if message["method"] != "notifications/resources/list_changed" {
                return message;
            }
        }
    }

    /// The answer to a request, skipping notifications before it.
    fn answer_to(&mut self, id: i64) -> Value {
        loop {
            let message = self.receive();
            if message["id"] == id {
                return message;
            }
        }
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
fn session_lists_and_calls_tools() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    let mut host = Host::spawn(&home);
    let reply = host.initialize();
    assert_eq!(reply["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(reply["result"]["serverInfo"]["name"], "ingle");
    let tools = host.request("tools/list", &json!({}));
    let names: Vec<_> =
        tools["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    assert!(names.len() == 13 && names[0] == "chat", "{names:?}");
    for tool in ["chat", "generate"] {
        let reply = host.call(tool, &json!({ "prompt": "hello" }));
        assert_eq!(reply["result"]["content"][0]["text"], "crackle", "{reply}");
        assert_eq!(reply["result"]["structuredContent"]["finish_reason"], "stop");
    }
    let reply = host.call("list_models", &json!({}));
    assert_eq!(reply["result"]["structuredContent"]["default"], "sim");
    host.end();
}

#[test]
fn errors_name_the_next_step() {
    let home = Home::with_sim(json!({}));
    let mut host = Host::spawn(&home);
    host.initialize();
    let reply = host.call("chat", &json!({ "prompt": "x", "model": "nobody" }));
    assert_eq!(reply["result"]["isError"], true);
    assert!(reply["result"]["content"][0]["text"].as_str().unwrap().contains("MODEL_NOT_FOUND"));
    let reply = host.call("chat", &json!({ "prompt": "x".repeat(20_001) }));
    assert!(reply["result"]["content"][0]["text"].as_str().unwrap().contains("20001"), "{reply}");
    assert!(host.call("no_such_tool", &json!({}))["error"].is_object());
    assert!(host.request("no/such/method", &json!({}))["error"].is_object());
    host.end();
}

#[test]
fn progress_is_sent_only_on_request() {
    let home = Home::with_sim(json!({ "load_delay_ms": 100 }));
    let mut host = Host::spawn(&home);
    host.initialize();
    let params = json!({
        "name": "chat",
        "arguments": { "prompt": "hi" },
        "_meta": { "progressToken": "p" },
    });
    let first = host.request("tools/call", &params);
    assert_eq!(first["method"], "notifications/progress", "{first}");
    let mut last = 0.0;
    let mut message = first;
    while message["method"] == "notifications/progress" {
        assert_eq!(message["params"]["progressToken"], "p");
        let progress = message["params"]["progress"].as_f64().unwrap();
        assert!(progress > last);
        last = progress;
        message = host.next_but_changes();
    }
    assert!(message["result"].is_object(), "{message}");
    // Without a progress token the next message other than a list change is the answer.
    assert!(host.call("chat", &json!({ "prompt": "hi" }))["result"].is_object());
    host.end();
}

#[test]
fn cancelled_call_gets_no_reply_and_frees_engine() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut host = Host::spawn(&home);
    host.initialize();
    let id = host.start_long_call(&home);
    let cancel = json!({ "requestId": id });
    host.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel }));
    home.wait_active(0);
    assert!(host.request("ping", &json!({}))["result"].is_object());
    host.end();
}

#[test]
fn killed_daemon_fails_only_calls_in_flight() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut host = Host::spawn(&home);
    host.initialize();
    let id = host.start_long_call(&home);
    let first = home.daemon_pid().unwrap();
    kill_process(first, Signal::KILL).unwrap();
    let reply = host.answer_to(id);
    assert_eq!(reply["error"]["data"]["code"], "DAEMON_LOST", "{reply}");
    // Many hosts show the model only this.
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(message.contains("Call the tool again"), "{message}");
    let id = host.start("tools/list", &json!({}));
    // Changes made meanwhile were not announced, so the host gets a list change.
    host.wait_for("notifications/resources/list_changed");
    let reply = host.answer_to(id);
    assert!(reply["result"]["tools"].is_array(), "{reply}");
    assert_ne!(home.daemon_pid(), Some(first));
    host.end();
}

#[test]
fn every_message_of_batch_is_answered() {
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
fn broken_lines_are_answered_and_session_works() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    let mut host = Host::spawn(&home);
    host.initialize();
    host.send_line("this is not json");
    assert_eq!(host.receive()["error"]["code"], -32700);
    let reply = host.call("chat", &json!({ "prompt": "hello" }));
    assert_eq!(reply["result"]["content"][0]["text"], "crackle");
    host.end();
}

#[test]
fn unreadable_call_is_answered_under_its_id() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    let mut host = Host::open(&home);
    let call = |id: i64, prompt: &str| {
        let params = format!(r#"{{"name":"chat","arguments":{{"prompt":{prompt}}}}}"#);
        format!(r#"{{"method":"tools/call","params":{params},"jsonrpc":"2.0","id":{id}}}"#)
    };
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (id, prompt, named) in
        [(101, r#""\ud83d""#, "character"), (102, "1e999", "float"), (103, &deep, "deep")]
    {
        host.send_line(&call(id, prompt));
        let reply = host.next_but_changes();
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(id), &json!(-32602)));
        assert!(reply["error"]["message"].as_str().unwrap().contains(named), "{reply}");
    }
    // A batch gets one answer per request.
    host.send_line(&format!("[{},{}]", call(104, "1e999"), call(105, r#""hi""#)));
    let mut replies = [host.next_but_changes(), host.next_but_changes()];
    replies.sort_by_key(|reply| reply["id"].as_i64());
    assert_eq!((&replies[0]["id"], &replies[0]["error"]["code"]), (&json!(104), &json!(-32602)));
    assert_eq!(replies[1]["result"]["content"][0]["text"], "crackle", "{replies:?}");
    host.end();
}

#[test]
fn job_lost_with_daemon_error_names_tools() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut host = Host::open_with(&home, &["--host-timeout", "0.3"]);
    let reply = host.call("chat", &json!({ "prompt": "hi", "max_tokens": 100_000 }));
    let job = reply["result"]["structuredContent"]["job_id"].clone();
    kill_process(home.daemon_pid().unwrap(), Signal::KILL).unwrap();
    // The request that reaches the dead daemon may be lost with it.
    let told = (0..2).map(|_| host.call("job_get", &json!({ "job_id": job })));
    let told = told.filter(|reply| reply["result"].is_object()).last().expect("a daemon");
    assert_eq!(told["result"]["isError"], true, "{told}");
    let text = told["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("INTERRUPTED") && text.contains("`chat`"), "{text}");
    host.end();
}

#[test]
fn call_outlasting_host_limit_becomes_job() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(400), "token_delay_ms": 5 }));
    let mut host = Host::spawn_with(&home, &["--host-timeout", "0.5"]);
    host.initialize();
    let begin = std::time::Instant::now();
    let reply = host.call("chat", &json!({ "prompt": "hi" }));
    // The text takes two seconds; the reply should arrive before the host's limit.
    assert!(begin.elapsed().as_millis() >= 490, "{:?}", begin.elapsed());
    let content = &reply["result"]["structuredContent"];
    assert_eq!(
        (&content["status"], &reply["result"]["isError"]),
        (&json!("running"), &json!(false))
    );
    let job = content["job_id"].as_str().unwrap().to_owned();
    assert!(reply["result"]["content"][0]["text"].as_str().unwrap().contains(&job), "{reply}");
    let looked = host.call("job_get", &json!({ "job_id": job }));
    assert_eq!(looked["result"]["structuredContent"]["job_id"], json!(job));
    // The end of the session does not end the job, which then has no owner.
    host.end();
    let mut host = Host::spawn_with(&home, &["--host-timeout", "0.5"]);
    host.initialize();
    let mut waits = 0;
    let text = loop {
        waits += 1;
        let reply = host.call("job_wait", &json!({ "job_id": job }));
        let content = &reply["result"]["structuredContent"];
        if let Some(text) = content["text"].as_str() {
            break text.to_owned();
        }
        assert_eq!(content["status"], "running", "{reply}");
    };
    assert_eq!(text, "x".repeat(400));
    assert!(waits > 1, "it was waited for in pieces");
    let gone = host.call("job_cancel", &json!({ "job_id": "j-nobody" }));
    assert_eq!(gone["result"]["isError"], true);
    host.end();
}

#[test]
fn host_job_is_cancelled_and_short_call_has_none() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    home.add_sim("quick", json!({ "reply": "crackle" }));
    let mut host = Host::spawn_with(&home, &["--host-timeout", "0.3"]);
    host.initialize();
    let reply = host.call("generate", &json!({ "prompt": "hi", "max_tokens": 100_000 }));
    let job = reply["result"]["structuredContent"]["job_id"].clone();
    let reply = host.call("job_cancel", &json!({ "job_id": job }));
    assert_eq!(reply["result"]["structuredContent"]["status"], "cancelled", "{reply}");
    home.wait_active(0);
    let reply = host.call("job_wait", &json!({ "job_id": job }));
    assert_eq!(reply["result"]["isError"], true);
    let reply = host.call("generate", &json!({ "prompt": "hi", "model": "quick" }));
    assert_eq!(reply["result"]["content"][0]["text"], "crackle");
    let listed = home.ingle(["jobs", "list", "--json"]).ok().json();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1, "{listed}");
    host.end();
}
