//! The proxy over in-memory streams: a host on one side, one daemon after the other on the other.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;

use ingle_client::launch::LaunchError;
use ingle_protocol::wire::extensions::REMAINING;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf, split};
use tokio::task::{JoinHandle, LocalSet};

use crate::fake_daemon;
use crate::proxy::daemon_link::Pipes;

mod mcp;

const PIPE_BYTES: usize = 256;

/// The daemon's end of one connection.
struct Daemon {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
}

impl Daemon {
    async fn read(&mut self) -> Value {
        serde_json::from_str(&self.lines.next_line().await.unwrap().expect("a frame")).unwrap()
    }

    async fn reads_end(&mut self) -> bool {
        self.lines.next_line().await.unwrap().is_none()
    }

    async fn write(&mut self, frame: &Value) {
        self.writer.write_all(format!("{frame}\n").as_bytes()).await.unwrap();
    }

    async fn greet(&mut self) -> Value {
        let hello = self.read().await;
        assert_eq!(hello["method"], "hello");
        self.write(&json!({ "id": hello["id"], "result": fake_daemon::hello() })).await;
        hello
    }
}

/// A host session under test.
struct Host {
    stdin: Option<DuplexStream>,
    stdout: mpsc::Receiver<Vec<u8>>,
    /// Frames of a chunk that holds several.
    unread: VecDeque<Value>,
    daemons: mpsc::UnboundedReceiver<DuplexStream>,
    /// Errors that the next connections fail with.
    failures: Rc<RefCell<VecDeque<LaunchError>>>,
    reported: Rc<RefCell<Vec<ErrorBody>>>,
    proxy: JoinHandle<u8>,
}

impl Host {
    fn start(role: Role) -> Self {
        Self::start_with(role, Vec::new())
    }

    fn start_with(role: Role, failures: Vec<LaunchError>) -> Self {
        let (stdin, host_end) = tokio::io::duplex(PIPE_BYTES);
        let (out, stdout) = mpsc::channel(4);
        let (connections, daemons) = mpsc::unbounded_channel();
        let failures = Rc::new(RefCell::new(VecDeque::from(failures)));
        let reported = Rc::new(RefCell::new(Vec::new()));
        let (failing, reports) = (Rc::clone(&failures), Rc::clone(&reported));
        let connector: Connector = Box::new(move || {
            let failure = failing.borrow_mut().pop_front();
            let connections = connections.clone();
            Box::pin(async move {
                if let Some(failure) = failure {
                    return Err(failure);
                }
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                connections.send(theirs).unwrap();
                let (reader, writer) = split(ours);
                Ok(Pipes { reader: Box::new(reader), writer: Box::new(writer) })
            })
        });
        let report = move |error: &ErrorBody| reports.borrow_mut().push(error.clone());
        let proxy = tokio::task::spawn_local(async move {
            run(HelloParams::new(role), connector, host_end, out, report).await
        });
        let unread = VecDeque::new();
        Self { stdin: Some(stdin), stdout, unread, daemons, failures, reported, proxy }
    }

    async fn write(&mut self, frame: &Value) {
        self.write_raw(&format!("{frame}\n")).await;
    }

    async fn write_raw(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
    }

    async fn read(&mut self) -> Value {
        while self.unread.is_empty() {
            let chunk = self.stdout.recv().await.expect("a frame");
            assert_eq!(chunk.last(), Some(&b'\n'));
            let frames = serde_json::Deserializer::from_slice(&chunk).into_iter();
            self.unread.extend(frames.map(Result::unwrap));
        }
        self.unread.pop_front().unwrap()
    }

    async fn daemon(&mut self) -> Daemon {
        let (reader, writer) = split(self.daemons.recv().await.expect("a connection"));
        Daemon { lines: BufReader::new(reader).lines(), writer }
    }

    async fn greeted(&mut self) -> Daemon {
        let mut daemon = self.daemon().await;
        daemon.greet().await;
        daemon
    }

    /// Ends input and gives the exit code and what was still to come.
    async fn end(mut self) -> (u8, Vec<Value>) {
        drop(self.stdin.take());
        let code = self.proxy.await.unwrap();
        let mut rest = Vec::from(self.unread);
        while let Some(chunk) = self.stdout.recv().await {
            let frames = serde_json::Deserializer::from_slice(&chunk).into_iter::<Value>();
            rest.extend(frames.map(Result::unwrap));
        }
        (code, rest)
    }
}

/// A host and its daemon after the MCP handshake.
async fn initialized() -> (Host, Daemon) {
    let mut host = Host::start(Role::Mcp);
    let mut daemon = host.greeted().await;
    host.write(&request(0, "initialize")).await;
    daemon.read().await;
    daemon.write(&json!({ "id": 0, "result": { "protocolVersion": "2025-06-18" } })).await;
    host.read().await;
    host.write(&json!({ "method": "notifications/initialized" })).await;
    daemon.read().await;
    (host, daemon)
}

/// Runs a test on one thread, with the clock at rest.
fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let limit = Duration::from_secs(3_600);
    let test = async { tokio::time::timeout(limit, test).await.expect("the test hangs") };
    runtime.block_on(LocalSet::new().run_until(test));
}

fn request(id: impl Into<Value>, method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method })
}

fn unavailable() -> LaunchError {
    LaunchError {
        body: ErrorBody::new(ErrorCode::DaemonUnavailable, "no ingled"),
        exit_code: exit::UNAVAILABLE,
    }
}

#[test]
fn frames_pass_unchanged_in_both_directions() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        let mut daemon = host.daemon().await;
        assert_eq!(daemon.greet().await["params"]["role"], "rpc");
        let long =
            json!({ "id": 1, "method": "generate", "params": { "prompt": "x".repeat(9_999) } });
        host.write(&long).await;
        assert_eq!(daemon.read().await, long);
        let event = json!({ "method": "$/event", "params": { "id": 1, "event": {} } });
        daemon.write(&event).await;
        daemon.write(&json!({ "id": "unknown", "result": 2 })).await;
        daemon.write(&json!({ "id": 1, "result": "é" })).await;
        assert_eq!(host.read().await, event);
        // A reply to no request reaches no host.
        assert_eq!(host.read().await["result"], "é");
    });
}

#[test]
fn input_is_read_while_the_daemon_starts() {
    on_one_thread(async {
        let mut host = Host::start(Role::Mcp);
        for id in 0..40 {
            host.write(&request(id, "tools/list")).await;
        }
        let mut daemon = host.greeted().await;
        for id in 0..40 {
            assert_eq!(daemon.read().await["id"], id);
        }
    });
}

#[test]
fn late_reply_is_replaced_and_dropped() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        let mut daemon = host.greeted().await;
        host.write(&request(1, "status")).await;
        assert_eq!(daemon.read().await["id"], 1);
        let begin = tokio::time::Instant::now();
        let answer = host.read().await;
        assert!(begin.elapsed() >= Duration::from_millis(120_000 - 1), "{:?}", begin.elapsed());
        assert_eq!(answer["error"]["data"]["details"]["layer"], "shim");
        let cancel = daemon.read().await;
        assert_eq!((&cancel["method"], &cancel["params"]["id"]), (&json!(CANCEL), &json!(1)));
        // The id is not free before the daemon has answered.
        host.write(&request(1, "health")).await;
        assert_eq!(host.read().await["error"]["data"]["code"], "INVALID_REQUEST");
        daemon.write(&json!({ "id": 1, "result": "late" })).await;
        host.write(&request(2, "health")).await;
        assert_eq!(daemon.read().await["id"], 2);
        daemon.write(&json!({ "id": 2, "result": "ok" })).await;
        assert_eq!(host.read().await["result"], "ok");
        host.write(&request(1, "health")).await;
        daemon.read().await;
        daemon.write(&json!({ "id": 1, "result": "again" })).await;
        assert_eq!(host.read().await["result"], "again");
    });
}

#[test]
fn waiting_request_carries_its_remaining_time() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        let mut daemon = host.daemon().await;
        host.write(&request(1, "status")).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        daemon.greet().await;
        let left = daemon.read().await[REMAINING].as_u64().unwrap();
        assert!((116_000..=117_000).contains(&left), "{left}");
        host.write(&request(2, "status")).await;
        assert_eq!(daemon.read().await, request(2, "status"), "it has not waited");
    });
}

#[test]
fn broken_lines_are_answered() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        let mut daemon = host.greeted().await;
        host.write_raw("{nonsense\n[]\n").await;
        assert_eq!(host.read().await["error"]["data"]["code"], "PARSE_ERROR");
        let answer = host.read().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32600)));
        host.write_raw(&" ".repeat(limits::FRAME_BYTES + 2)).await;
        host.write_raw("\n").await;
        let answer = host.read().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["data"]["code"]),
            (&Value::Null, &json!("FRAME_TOO_LARGE"))
        );
        host.write(&request(1, "health")).await;
        assert_eq!(daemon.read().await["id"], 1);
    });
}

/// Hosts throw away what comes under null, and wait for as long as they wait for anything.
#[test]
fn refused_messages_are_answered_by_id() {
    on_one_thread(async {
        let mut host = Host::start(Role::Mcp);
        let mut daemon = host.greeted().await;
        let text = "x".repeat(limits::FRAME_BYTES);
        for (line, id) in [
            (format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":"{text}"}}"#), json!(1)),
            (format!(r#"{{"method":"x","params":"{text}","id":"b"}}"#), json!("b")),
        ] {
            host.write_raw(&format!("{line}\n")).await;
            let answer = host.read().await;
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(-32009)));
            assert!(answer["error"]["message"].as_str().unwrap().contains("smaller"), "{answer}");
        }
        host.write_raw("{\"id\":4,\"method\":\"\\ud83d\"}\n").await;
        assert_eq!(host.read().await["id"], 4);
        let many: Vec<Value> =
            (0..=limits::BATCH_REQUESTS).map(|id| request(id, "tools/list")).collect();
        host.write(&json!(many)).await;
        let answers = host.read().await;
        let ids = answers.as_array().unwrap().iter().map(|answer| answer["id"].clone());
        assert!(ids.eq((0..=limits::BATCH_REQUESTS).map(Value::from)), "{answers}");
        host.write(&request(9, "tools/list")).await;
        assert_eq!(daemon.read().await["id"], 9, "the daemon has seen none of it");
    });
}

#[test]
fn lost_requests_are_answered_once() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        let mut daemon = host.greeted().await;
        host.write(&request("a", "generate")).await;
        host.write(&request("b", "models.load")).await;
        daemon.read().await;
        daemon.read().await;
        // Bigger than the pipe: its first bytes are written, its last are not.
        let long = json!({ "id": "c", "method": "x", "params": "y".repeat(4 * PIPE_BYTES) });
        host.write(&long).await;
        host.write(&request("d", "health")).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(daemon);
        for (id, retryable) in [("a", true), ("b", false), ("c", true)] {
            let answer = host.read().await;
            assert_eq!(answer["id"], id);
            assert_eq!(answer["error"]["data"]["code"], "DAEMON_LOST");
            assert_eq!(answer["error"]["data"]["retryable"], retryable);
        }
        let mut next = host.greeted().await;
        assert_eq!(next.read().await["id"], "d");
        next.write(&json!({ "id": "d", "result": 1 })).await;
        assert_eq!(host.read().await["id"], "d");
    });
}

#[test]
fn idle_session_starts_no_daemon() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        drop(host.greeted().await);
        host.write(&json!({ "method": "$/cancel", "params": { "id": 1 } })).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(host.daemons.try_recv().is_err());
        host.write(&request(1, "health")).await;
        assert_eq!(host.greeted().await.read().await["method"], "health");
    });
}

#[test]
fn request_cancelled_early_is_never_sent() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        host.write(&request(1, "generate")).await;
        host.write(&json!({ "method": CANCEL, "params": { "id": 1 } })).await;
        host.write(&request(2, "health")).await;
        assert_eq!(host.read().await["error"]["data"]["code"], "CANCELLED");
        let mut daemon = host.greeted().await;
        assert_eq!(daemon.read().await["method"], CANCEL);
        assert_eq!(daemon.read().await["id"], 2);
    });
}

#[test]
fn requests_of_the_daemon_pass() {
    on_one_thread(async {
        let (mut host, mut daemon) = initialized().await;
        daemon.write(&request(0, "roots/list")).await;
        assert_eq!(host.read().await["method"], "roots/list");
        host.write(&json!({ "id": 0, "result": { "roots": [] } })).await;
        assert_eq!(daemon.read().await["result"]["roots"], json!([]));
    });
}

#[test]
fn start_failure_answers_requests_and_exits() {
    on_one_thread(async {
        let mut host = Host::start_with(Role::Mcp, vec![unavailable(), unavailable()]);
        host.write(&request(0, "initialize")).await;
        let answer = host.read().await;
        assert_eq!(answer["error"]["data"]["code"], "DAEMON_UNAVAILABLE");
        host.failures.borrow_mut().push_back(unavailable());
        assert!(!host.reported.borrow().is_empty());
        let (code, rest) = host.end().await;
        assert_eq!((code, rest.len()), (exit::UNAVAILABLE, 0));
    });
}

#[test]
fn fruitless_connections_are_given_up() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        host.write(&request(1, "health")).await;
        for _ in 0..crate::limits::SHIM_FRUITLESS_CONNECTIONS {
            drop(host.daemon().await);
        }
        assert_eq!(host.read().await["error"]["data"]["code"], "DAEMON_UNAVAILABLE");
        host.write(&request(2, "health")).await;
        assert_eq!(host.greeted().await.read().await["id"], 2);
    });
}

#[test]
fn end_of_input_half_closes() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        // The last line has no newline.
        host.write_raw(&request(1, "generate").to_string()).await;
        drop(host.stdin.take());
        let mut daemon = host.greeted().await;
        assert_eq!(daemon.read().await["id"], 1);
        assert!(daemon.reads_end().await);
        // Longer than the drain limit: a script waits for its answers.
        tokio::time::sleep(Duration::from_millis(4 * limits::DRAIN_MS)).await;
        daemon.write(&json!({ "id": 1, "result": "late" })).await;
        assert_eq!(host.read().await["result"], "late");
        drop(daemon);
        assert_eq!(host.proxy.await.unwrap(), exit::OK);
    });
}

#[test]
fn closed_host_output_ends_the_session() {
    on_one_thread(async {
        let host = Host::start(Role::Rpc);
        drop(host.stdout);
        assert_eq!(host.proxy.await.unwrap(), exit::OK);
    });
}

#[test]
fn torn_frame_of_the_daemon_is_dropped() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        let mut daemon = host.greeted().await;
        host.write(&request(1, "generate")).await;
        daemon.read().await;
        daemon.writer.write_all(br#"{"id":1,"resu"#).await.unwrap();
        drop(daemon);
        assert_eq!(host.read().await["error"]["data"]["code"], "DAEMON_LOST");
    });
}

#[test]
fn daemon_of_another_protocol_is_refused() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        host.write(&request(1, "health")).await;
        let mut daemon = host.daemon().await;
        let hello = daemon.read().await;
        let mut reply = fake_daemon::hello();
        reply["protocol"] = json!(99);
        daemon.write(&json!({ "id": hello["id"], "result": reply })).await;
        let answer = host.read().await;
        assert_eq!(answer["error"]["data"]["code"], "VERSION_SKEW");
        assert_eq!(answer["id"], 1);
    });
}
