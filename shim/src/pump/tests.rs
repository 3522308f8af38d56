//! The pump over in-memory streams: a host on one side, one daemon after the other on the other.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;

use ingle_protocol::launch::LaunchError;
use ingle_protocol::wire::envelope::REMAINING;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf, split};
use tokio::task::{JoinHandle, LocalSet};

use crate::fake;
use crate::link::Pipes;

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
        self.write(&json!({ "id": hello["id"], "result": fake::hello() })).await;
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
    pump: JoinHandle<u8>,
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
        let pump = tokio::task::spawn_local(async move {
            run(HelloParams::new(role), connector, host_end, out, report).await
        });
        let unread = VecDeque::new();
        Self { stdin: Some(stdin), stdout, unread, daemons, failures, reported, pump }
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
        let code = self.pump.await.unwrap();
        let mut rest = Vec::from(self.unread);
        while let Some(chunk) = self.stdout.recv().await {
            let frames = serde_json::Deserializer::from_slice(&chunk).into_iter::<Value>();
            rest.extend(frames.map(Result::unwrap));
        }
        (code, rest)
    }
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
        daemon.write(&json!({ "id": "nobody", "result": 2 })).await;
        daemon.write(&json!({ "id": 1, "result": "é" })).await;
        assert_eq!(host.read().await, event);
        // What nobody waits for reaches nobody.
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
fn a_daemon_that_is_late_is_answered_for_and_its_own_answer_reaches_nobody() {
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
fn a_request_that_waited_for_a_daemon_hands_down_what_is_left() {
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
fn broken_lines_are_answered_and_the_next_line_is_whole() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        let mut daemon = host.greeted().await;
        host.write_raw("{nonsense\n[]\n").await;
        assert_eq!(host.read().await["error"]["data"]["code"], "PARSE_ERROR");
        let answer = host.read().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32600)));
        host.write_raw(&" ".repeat(limits::FRAME_BYTES + 2)).await;
        host.write_raw("\n").await;
        assert_eq!(host.read().await["error"]["data"]["code"], "FRAME_TOO_LARGE");
        host.write(&request(1, "health")).await;
        assert_eq!(daemon.read().await["id"], 1);
    });
}

#[test]
fn a_lost_daemon_is_answered_for_once_and_the_rest_goes_to_the_next() {
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
fn an_idle_session_starts_no_daemon_until_it_needs_one() {
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

#[test]
fn a_new_daemon_hears_the_mcp_handshake_and_the_host_does_not() {
    on_one_thread(async {
        let (mut host, daemon) = initialized().await;
        drop(daemon);
        host.write(&request(5, "tools/list")).await;
        let mut next = host.greeted().await;
        assert_eq!(next.read().await["method"], "initialize");
        next.write(&json!({ "method": "notifications/message" })).await;
        next.write(&json!({ "id": 0, "result": { "protocolVersion": "2025-06-18" } })).await;
        assert_eq!(next.read().await["method"], "notifications/initialized");
        assert_eq!(next.read().await["id"], 5);
        next.write(&json!({ "id": 5, "result": {} })).await;
        assert_eq!(host.read().await["method"], "notifications/message");
        assert_eq!(host.read().await["id"], 5);
    });
}

#[test]
fn a_new_daemon_of_another_mcp_version_ends_the_session() {
    on_one_thread(async {
        let (mut host, daemon) = initialized().await;
        drop(daemon);
        host.write(&request(5, "tools/list")).await;
        let mut next = host.greeted().await;
        next.read().await;
        next.write(&json!({ "id": 0, "result": { "protocolVersion": "2024-11-05" } })).await;
        let answer = host.read().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["data"]["code"]),
            (&json!(5), &json!("VERSION_SKEW"))
        );
        assert_eq!(host.pump.await.unwrap(), exit::UNAVAILABLE);
    });
}

#[test]
fn a_cancelled_mcp_request_gets_no_answer_from_us() {
    on_one_thread(async {
        let (mut host, mut daemon) = initialized().await;
        host.write(&request(5, "tools/call")).await;
        host.write(&request(6, "tools/list")).await;
        daemon.read().await;
        daemon.read().await;
        let cancel = json!({ "method": "notifications/cancelled", "params": { "requestId": 5 } });
        host.write(&cancel).await;
        daemon.read().await;
        drop(daemon);
        assert_eq!(host.read().await["id"], 6);
        let (code, rest) = host.end().await;
        assert_eq!((code, rest.len()), (exit::OK, 0));
    });
}

#[test]
fn a_request_cancelled_before_it_is_sent_never_is() {
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
fn requests_of_the_daemon_and_their_answers_pass() {
    on_one_thread(async {
        let (mut host, mut daemon) = initialized().await;
        daemon.write(&request(0, "roots/list")).await;
        assert_eq!(host.read().await["method"], "roots/list");
        host.write(&json!({ "id": 0, "result": { "roots": [] } })).await;
        assert_eq!(daemon.read().await["result"]["roots"], json!([]));
    });
}

#[test]
fn a_daemon_that_cannot_start_is_each_requests_answer_and_the_exit_code() {
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
fn a_daemon_that_takes_nothing_is_given_up_after_a_few_connections() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        host.write(&request(1, "health")).await;
        for _ in 0..limits::SHIM_FRUITLESS_CONNECTIONS {
            drop(host.daemon().await);
        }
        assert_eq!(host.read().await["error"]["data"]["code"], "DAEMON_UNAVAILABLE");
        host.write(&request(2, "health")).await;
        assert_eq!(host.greeted().await.read().await["id"], 2);
    });
}

#[test]
fn the_end_of_input_half_closes_and_answers_still_come() {
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
        assert_eq!(host.pump.await.unwrap(), exit::OK);
    });
}

#[test]
fn an_mcp_session_ends_soon_after_its_input() {
    on_one_thread(async {
        let (mut host, mut daemon) = initialized().await;
        host.write(&request(1, "tools/call")).await;
        daemon.read().await;
        let started = tokio::time::Instant::now();
        let (code, rest) = host.end().await;
        assert_eq!((code, rest.len()), (exit::OK, 0));
        assert_eq!(started.elapsed().as_millis() / 100, u128::from(limits::DRAIN_MS / 100));
    });
}

#[test]
fn a_host_that_reads_no_more_ends_the_session() {
    on_one_thread(async {
        let host = Host::start(Role::Rpc);
        drop(host.stdout);
        assert_eq!(host.pump.await.unwrap(), exit::OK);
    });
}

#[test]
fn half_a_frame_of_a_dying_daemon_is_not_shown() {
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
fn a_daemon_of_another_protocol_is_refused() {
    on_one_thread(async {
        let mut host = Host::start(Role::Rpc);
        host.write(&request(1, "health")).await;
        let mut daemon = host.daemon().await;
        let hello = daemon.read().await;
        let mut reply = fake::hello();
        reply["protocol"] = json!(99);
        daemon.write(&json!({ "id": hello["id"], "result": reply })).await;
        let answer = host.read().await;
        assert_eq!(answer["error"]["data"]["code"], "VERSION_SKEW");
        assert_eq!(answer["id"], 1);
    });
}

fn subscribe(id: i64, method: &str, uri: &str) -> Value {
    json!({ "id": id, "method": method, "params": { "uri": uri, "_meta": { "x": 1 } } })
}

#[test]
fn a_new_daemon_hears_what_the_host_has_subscribed_to() {
    on_one_thread(async {
        let (mut host, mut daemon) = initialized().await;
        for (id, method, uri, holds) in [
            (1, "resources/subscribe", "ingle://jobs/a", true),
            (2, "resources/subscribe", "ingle://jobs/b", true),
            (3, "resources/subscribe", "ingle://nothing", false),
            (4, "resources/unsubscribe", "ingle://jobs/a", true),
            (5, "resources/subscribe", "ingle://jobs/c", true),
        ] {
            host.write(&subscribe(id, method, uri)).await;
            assert_eq!(daemon.read().await["id"], id);
            let kind = if holds { "result" } else { "error" };
            daemon.write(&json!({ "id": id, kind: {} })).await;
            assert_eq!(host.read().await["id"], id);
        }
        drop(daemon);
        host.write(&request(9, "tools/list")).await;
        let mut next = host.greeted().await;
        next.read().await;
        next.write(&json!({ "id": 0, "result": { "protocolVersion": "2025-06-18" } })).await;
        assert_eq!(next.read().await["method"], "notifications/initialized");
        let repeated = [next.read().await, next.read().await];
        let uris = repeated.each_ref().map(|frame| frame["params"]["uri"].clone());
        assert_eq!(uris, ["ingle://jobs/b", "ingle://jobs/c"]);
        assert_eq!(repeated[0]["params"]["_meta"]["x"], 1);
        next.write(&json!({ "method": "notifications/message" })).await;
        next.write(&json!({ "id": repeated[1]["id"], "result": {} })).await;
        next.write(&json!({ "id": repeated[0]["id"], "error": { "code": -1 } })).await;
        // The host hears no reply, and that it has to look again at what still holds.
        assert_eq!(host.read().await["method"], "notifications/message");
        let updated = host.read().await;
        assert_eq!(updated["method"], "notifications/resources/updated");
        assert_eq!(updated["params"], json!({ "uri": "ingle://jobs/c" }));
        assert_eq!(next.read().await["id"], 9);
        next.write(&json!({ "id": 9, "result": {} })).await;
        assert_eq!(host.read().await["id"], 9);
    });
}

fn acknowledged(id: i64) -> Value {
    let meta = json!({ "io.modelcontextprotocol/subscriptionId": id });
    json!({ "method": "notifications/subscriptions/acknowledged", "params": { "_meta": meta } })
}

/// A host of the revision without `initialize`.
#[test]
fn what_a_host_listens_to_goes_on_with_the_next_daemon() {
    on_one_thread(async {
        let mut host = Host::start(Role::Mcp);
        let mut daemon = host.greeted().await;
        host.write(&request(1, "subscriptions/listen")).await;
        host.write(&request(2, "subscriptions/listen")).await;
        host.write(&request(3, "tools/list")).await;
        for id in 1..4 {
            assert_eq!(daemon.read().await["id"], id);
        }
        for id in [1, 2] {
            daemon.write(&acknowledged(id)).await;
            assert_eq!(host.read().await, acknowledged(id));
        }
        drop(daemon);
        // The one call in flight gets its one error; what goes on gets none.
        let answer = host.read().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["data"]["code"]),
            (&json!(3), &json!("DAEMON_LOST"))
        );
        let cancel = json!({ "requestId": 2 });
        host.write(&json!({ "method": "notifications/cancelled", "params": cancel })).await;
        host.write(&request(4, "tools/list")).await;
        let mut next = host.greeted().await;
        assert_eq!(next.read().await["id"], 1);
        assert_eq!(next.read().await["id"], 4);
        let mut again = acknowledged(1);
        let told =
            json!({ "resourcesListChanged": true, "resourceSubscriptions": ["ingle://jobs"] });
        again["params"]["notifications"] = told;
        next.write(&again).await;
        next.write(&json!({ "method": "notifications/tools/list_changed" })).await;
        next.write(&json!({ "id": 4, "result": {} })).await;
        // What may have been missed is told instead of what the host knows.
        for (method, uri) in [("list_changed", Value::Null), ("updated", json!("ingle://jobs"))] {
            let news = host.read().await;
            assert_eq!(news["method"], format!("notifications/resources/{method}"));
            assert_eq!(news["params"]["_meta"], again["params"]["_meta"]);
            assert_eq!(news["params"]["uri"], uri);
        }
        assert_eq!(host.read().await["method"], "notifications/tools/list_changed");
        assert_eq!(host.read().await["id"], 4);
        // It ends when the daemon says so, once.
        for _ in 0..2 {
            next.write(&json!({ "id": 1, "result": {} })).await;
        }
        assert_eq!(host.read().await["id"], 1);
        let (code, rest) = host.end().await;
        assert_eq!((code, rest), (exit::OK, Vec::new()));
    });
}

#[test]
fn a_host_that_only_listens_can_end_its_session_and_hears_of_a_daemon_that_cannot_start() {
    on_one_thread(async {
        let mut host = Host::start_with(Role::Mcp, vec![unavailable()]);
        while host.reported.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        host.failures.borrow_mut().push_back(unavailable());
        host.write(&request("first", "subscriptions/listen")).await;
        let answer = host.read().await;
        assert_eq!(answer["error"]["data"]["code"], "DAEMON_UNAVAILABLE");
        assert_eq!(answer["id"], "first");
        host.write(&request(2, "subscriptions/listen")).await;
        let mut daemon = host.greeted().await;
        assert_eq!(daemon.read().await["id"], 2);
        let (code, rest) = host.end().await;
        assert_eq!((code, rest), (exit::OK, Vec::new()));
        assert!(daemon.reads_end().await);
    });
}
