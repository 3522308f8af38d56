//! The host's side of `ingle rpc` and `ingle mcp`, with the arrival time of each frame.
//!
//! Owns the child and the count of answers to each request, so that a second answer to a request
//! is seen. Does not know what the frames mean.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ingle_client::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::Home;

/// Seconds to wait for an answer before the test fails.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// One answer and its arrival time.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The frame.
    pub frame: Value,
    /// When it arrived.
    pub at: Instant,
}

impl Answer {
    /// The error's code, empty without an error.
    #[must_use]
    pub fn code(&self) -> &str {
        self.frame["error"]["data"]["code"].as_str().unwrap_or_default()
    }

    /// The layer that ended the request at its limit, empty if none did.
    #[must_use]
    pub fn layer(&self) -> &str {
        self.frame["error"]["data"]["details"]["layer"].as_str().unwrap_or_default()
    }
}

/// A running `ingle rpc` or `ingle mcp`.
#[derive(Debug)]
pub struct Shim {
    child: Child,
    stdin: Option<ChildStdin>,
    frames: Receiver<Answer>,
    next_id: i64,
    answers: HashMap<i64, Vec<Answer>>,
    events: usize,
    /// Notifications by method.
    heard: HashMap<String, usize>,
}

impl Shim {
    /// Spawns `ingle rpc`.
    ///
    /// # Panics
    /// When `ingle` cannot be run.
    #[must_use]
    pub fn spawn(home: &Home) -> Self {
        Self::spawn_as(home, &["rpc"])
    }

    /// Spawns `ingle` as a pump with these arguments.
    ///
    /// # Panics
    /// When `ingle` cannot be run.
    #[must_use]
    pub fn spawn_as(home: &Home, arguments: &[&str]) -> Self {
        let mut child = piped(home, arguments);
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, frames) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let at = Instant::now();
                let frame = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(Answer { frame, at }).is_err() {
                    return;
                }
            }
        });
        let (answers, heard) = (HashMap::new(), HashMap::new());
        Self { child, stdin, frames, next_id: 1, answers, events: 0, heard }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends the shim a signal.
    ///
    /// # Panics
    /// When the process has already ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the shim is there");
    }

    /// Sends a request and returns its id. A killed shim reads and answers nothing.
    pub fn request(&mut self, method: &str, params: &Value) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    /// Sends a notification.
    pub fn notify(&mut self, method: &str) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method }));
    }

    fn send(&mut self, frame: &Value) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(format!("{frame}\n").as_bytes());
        }
    }

    /// The answer to a request.
    ///
    /// # Panics
    /// When none arrives within a minute, or the shim ends first.
    pub fn answer(&mut self, id: i64) -> Answer {
        let give_up_at = Instant::now() + ANSWER_LIMIT;
        loop {
            if let Some(answer) = self.answers.get(&id).and_then(|answers| answers.first()) {
                return answer.clone();
            }
            let left = give_up_at.saturating_duration_since(Instant::now());
            match self.frames.recv_timeout(left) {
                Ok(frame) => self.note(frame),
                Err(RecvTimeoutError::Timeout) => panic!("no answer to request {id}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the shim ended before {id}"),
            }
        }
    }

    /// Waits for the first event of any request.
    ///
    /// # Panics
    /// When none arrives within a minute.
    pub fn event(&mut self) {
        let before = self.events;
        while self.events == before {
            let frame = self.frames.recv_timeout(ANSWER_LIMIT).expect("an event");
            self.note(frame);
        }
    }

    /// The number of notifications of this method read so far.
    #[must_use]
    pub fn heard(&self, method: &str) -> usize {
        self.heard.get(method).copied().unwrap_or_default()
    }

    /// Reads until this many notifications of this method have arrived.
    ///
    /// # Panics
    /// When one of them takes more than a minute.
    pub fn hear(&mut self, method: &str, count: usize) {
        while self.heard(method) < count {
            let frame = self.frames.recv_timeout(ANSWER_LIMIT).expect("a notification");
            self.note(frame);
        }
    }

    /// Ends its input, reads the rest of its output, and returns every answer.
    ///
    /// # Panics
    /// When the shim does not end.
    #[must_use]
    pub fn finish(mut self) -> (ExitStatus, HashMap<i64, Vec<Answer>>) {
        drop(self.stdin.take());
        let status = self.wait();
        (status, std::mem::take(&mut self.answers))
    }

    /// Waits until the shim ends by itself, with its input open.
    ///
    /// # Panics
    /// When the shim does not end.
    #[must_use]
    pub fn ended(mut self) -> ExitStatus {
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        loop {
            match self.frames.recv_timeout(ANSWER_LIMIT) {
                Ok(frame) => self.note(frame),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the shim does not end"),
            }
        }
        self.child.wait().expect("the shim ends")
    }

    fn note(&mut self, answer: Answer) {
        match answer.frame["id"].as_i64() {
            Some(id) => self.answers.entry(id).or_default().push(answer),
            None if answer.frame["id"].is_string() => panic!("nobody asked: {}", answer.frame),
            None => {
                self.events += 1;
                let method = answer.frame["method"].as_str().unwrap_or_default().to_owned();
                *self.heard.entry(method).or_default() += 1;
            }
        }
    }
}

fn piped(home: &Home, arguments: &[&str]) -> Child {
    let mut command = home.command("ingle");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("`ingle` runs")
}

/// A running `ingle rpc` whose pipes a client library holds.
#[derive(Debug)]
pub struct Carrier {
    child: Child,
}

impl Carrier {
    /// Spawns the shim and a client that uses it.
    ///
    /// # Panics
    /// When `ingle` cannot be run, or the daemon does not answer.
    pub async fn spawn(home: &Home) -> (Self, Client) {
        use tokio::net::unix::pipe::{Receiver, Sender};
        let mut child = piped(home, &["rpc"]);
        let reader = Receiver::from_owned_fd(child.stdout.take().expect("a pipe").into());
        let writer = Sender::from_owned_fd(child.stdin.take().expect("a pipe").into());
        let client = Client::over_pipes(reader.expect("a pipe"), writer.expect("a pipe")).await;
        (Self { child }, client.expect("the daemon answers"))
    }

    /// Sends the shim a signal.
    ///
    /// # Panics
    /// When the process has already ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the shim is there");
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::CONT);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = kill_process(self.pid(), Signal::CONT);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
