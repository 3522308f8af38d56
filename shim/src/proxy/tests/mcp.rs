//! An MCP session over the proxy: its repetition to a new daemon, and its end.

use super::*;

const LIST_CHANGED: &str = "notifications/resources/list_changed";

#[test]
fn new_daemon_gets_the_handshake_unseen() {
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
        // Changes in the meantime were notified to no host.
        assert_eq!(host.read().await["method"], LIST_CHANGED);
        assert_eq!(host.read().await["id"], 5);
    });
}

#[test]
fn host_before_initialized_gets_no_list_changed() {
    on_one_thread(async {
        let mut host = Host::start(Role::Mcp);
        let mut daemon = host.greeted().await;
        host.write(&request(0, "initialize")).await;
        daemon.read().await;
        daemon.write(&json!({ "id": 0, "result": { "protocolVersion": "2025-06-18" } })).await;
        host.read().await;
        drop(daemon);
        host.write(&request(1, "ping")).await;
        let mut next = host.greeted().await;
        assert_eq!(next.read().await["method"], "initialize");
        next.write(&json!({ "id": 0, "result": { "protocolVersion": "2025-06-18" } })).await;
        assert_eq!(next.read().await["id"], 1);
        next.write(&json!({ "id": 1, "result": {} })).await;
        assert_eq!(host.read().await["id"], 1);
    });
}

/// A model often sees the message only.
#[test]
fn errors_of_the_proxy_name_the_next_step() {
    on_one_thread(async {
        let (mut host, mut daemon) = initialized().await;
        let call = |id: i64, tool: &str| {
            let params = json!({ "name": tool, "arguments": {} });
            json!({ "id": id, "method": "tools/call", "params": params })
        };
        host.write(&call(1, "chat")).await;
        host.write(&call(2, "unload_model")).await;
        host.write(&request(3, "tools/list")).await;
        for _ in 0..3 {
            daemon.read().await;
        }
        drop(daemon);
        for (next, is_terminal) in [("Call the tool again", true), ("call server_status", false)] {
            let error = host.read().await["error"].take();
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(next) && !message.contains("ingle"), "{message}");
            let data = error["data"]["remediation"].as_str().unwrap();
            assert_eq!(data.contains("Send the request"), is_terminal, "{data}");
        }
        let plain = host.read().await;
        assert!(!plain["error"]["message"].as_str().unwrap().contains('.'), "{plain}");
    });
}

#[test]
fn other_mcp_version_ends_the_session() {
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
        assert_eq!(host.proxy.await.unwrap(), exit::UNAVAILABLE);
    });
}

#[test]
fn cancelled_mcp_request_gets_no_reply() {
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
fn mcp_session_ends_soon_after_its_input() {
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

fn subscribe(id: i64, method: &str, uri: &str) -> Value {
    json!({ "id": id, "method": method, "params": { "uri": uri, "_meta": { "x": 1 } } })
}

#[test]
fn subscriptions_are_repeated_to_a_new_daemon() {
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
        assert_eq!(host.read().await["method"], LIST_CHANGED);
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
fn listens_continue_with_the_next_daemon() {
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
        // The call in flight gets one error; the open request gets none.
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
        let filter =
            json!({ "resourcesListChanged": true, "resourceSubscriptions": ["ingle://jobs"] });
        again["params"]["notifications"] = filter;
        next.write(&again).await;
        next.write(&json!({ "method": "notifications/tools/list_changed" })).await;
        next.write(&json!({ "id": 4, "result": {} })).await;
        // Missed changes are notified in place of the known acknowledgement.
        for (method, uri) in [("list_changed", Value::Null), ("updated", json!("ingle://jobs"))] {
            let news = host.read().await;
            assert_eq!(news["method"], format!("notifications/resources/{method}"));
            assert_eq!(news["params"]["_meta"], again["params"]["_meta"]);
            assert_eq!(news["params"]["uri"], uri);
        }
        assert_eq!(host.read().await["method"], "notifications/tools/list_changed");
        assert_eq!(host.read().await["id"], 4);
        // It ends with the daemon's reply, once.
        for _ in 0..2 {
            next.write(&json!({ "id": 1, "result": {} })).await;
        }
        assert_eq!(host.read().await["id"], 1);
        let (code, rest) = host.end().await;
        assert_eq!((code, rest), (exit::OK, Vec::new()));
    });
}

#[test]
fn listening_host_can_end_and_gets_start_errors() {
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
