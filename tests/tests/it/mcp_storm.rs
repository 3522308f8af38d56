//! MCP sessions whose daemon is killed repeatedly.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ingle_tests::Home;
use ingle_tests::shim::Shim;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

/// Kills in a row.
const KILLS: usize = 50;
/// Calls of each host in flight at each kill; their total is at most the daemon's slots.
const CALLS: usize = 2;

/// The resource that both hosts subscribe to, and its change notification.
const MODELS: &str = "ingle://models";
const UPDATED: &str = "notifications/resources/updated";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// A host, with the metadata in every request of its revision.
struct Host {
    shim: Shim,
    meta: Option<Value>,
    asked: usize,
}

impl Host {
    /// A host with a revision that begins with a handshake.
    fn with_handshake(home: &Home) -> Self {
        let mut host = Self { shim: Shim::spawn_as(home, &["mcp"]), meta: None, asked: 0 };
        let info = json!({ "name": "test host", "version": "1" });
        let params =
            json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info });
        let id = host.ask("initialize", params);
        assert_eq!(host.shim.answer(id).frame["result"]["protocolVersion"], "2025-06-18");
        host.shim.notify("notifications/initialized");
        let id = host.ask("resources/subscribe", json!({ "uri": MODELS }));
        assert_eq!(host.code(id), "result");
        host
    }

    /// A host with the revision without a handshake.
    fn stateless(home: &Home) -> Self {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "test host", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let mut host = Self { shim: Shim::spawn_as(home, &["mcp"]), meta: Some(meta), asked: 0 };
        let wanted = json!({ "resourceSubscriptions": [MODELS] });
        host.ask("subscriptions/listen", json!({ "notifications": wanted }));
        host.shim.hear(ACKNOWLEDGED, 1);
        host
    }

    fn ask(&mut self, method: &str, mut params: Value) -> i64 {
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        self.asked += 1;
        self.shim.request(method, &params)
    }

    fn call(&mut self, tool: &str, arguments: &Value) -> i64 {
        self.ask("tools/call", json!({ "name": tool, "arguments": arguments }))
    }

    /// The error code of an answer, or `result`.
    fn code(&mut self, id: i64) -> String {
        let answer = self.shim.answer(id);
        if answer.frame["result"].is_object() {
            "result".to_owned()
        } else {
            answer.code().to_owned()
        }
    }
}

#[test]
fn sessions_survive_fifty_kills_in_a_row() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut hosts = [Host::with_handshake(&home), Host::stateless(&home)];
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    let mut back_after = Vec::new();
    let begin = Instant::now();
    for kill in 0..KILLS {
        let long = json!({ "prompt": "hi", "max_tokens": 100_000 });
        let in_flight = hosts.each_mut().map(|host| [(); CALLS].map(|()| host.call("chat", &long)));
        home.wait_active((hosts.len() * CALLS) as u64);
        let pid = home.daemon_pid().expect("a daemon runs");
        kill_process(pid, Signal::KILL).unwrap();
        let killed_at = Instant::now();
        // These may reach the old daemon or the next; each must get one answer.
        let sent_blindly = hosts.each_mut().map(|host| host.ask("tools/list", json!({})));
        for (host, (calls, blind)) in hosts.iter_mut().zip(in_flight.iter().zip(sent_blindly)) {
            for &id in calls {
                assert_eq!(host.code(id), "DAEMON_LOST", "kill {kill}");
            }
            let code = host.code(blind);
            assert!(matches!(&code[..], "result" | "DAEMON_LOST"), "kill {kill}: {code}");
            *codes.entry(code).or_default() += 1;
            let id = host.call("list_models", &json!({}));
            assert_eq!(host.code(id), "result", "the call after kill {kill}");
        }
        back_after.push(killed_at.elapsed());
        assert_ne!(home.daemon_pid(), Some(pid));
    }
    let took = begin.elapsed();
    // The last daemon has loaded nothing yet, and has both subscriptions.
    let before = hosts.each_ref().map(|host| host.shim.heard(UPDATED));
    home.ingle(["load"]).ok();
    for (host, before) in hosts.iter_mut().zip(before) {
        host.shim.hear(UPDATED, before + 1);
        assert!(host.shim.heard(ACKNOWLEDGED) <= 1, "a host hears once that it is heard");
    }
    for host in hosts {
        // An open stream has no answer and ends with the session.
        let asked = host.asked - usize::from(host.meta.is_some());
        let (status, answers) = host.shim.finish();
        assert!(status.success(), "{status}");
        // The handshake's reply is included, so a host sees no second one.
        assert_eq!(answers.len(), asked);
        for (id, answers) in answers {
            assert_eq!(answers.len(), 1, "request {id}: {answers:?}");
        }
    }
    back_after.sort();
    let ms = |time: Duration| time.as_millis();
    println!(
        "{KILLS} kills took {} ms; both hosts were served again after {} ms (median), {} ms (worst); \
         what was sent right after a kill: {codes:?}",
        ms(took),
        ms(back_after[KILLS / 2]),
        ms(back_after[KILLS - 1]),
    );
}
