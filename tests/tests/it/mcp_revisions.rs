//! Every revision of MCP, from 2024-11-05 to the one without sessions.

use ingle_tests::Home;
use serde_json::{Value, json};

use crate::mcp::Host;

/// The metadata in every request of revision 2026-07-28.
fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "test host", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

fn with_meta(mut params: Value) -> Value {
    params["_meta"] = meta();
    params
}

#[test]
fn handshake_accepts_known_revisions_only() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    for (asked, settled) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let mut host = Host::spawn(&home);
        let reply = host.initialize_as(asked);
        let result = &reply["result"];
        assert_eq!(result["protocolVersion"], settled, "{asked}: {reply}");
        assert_eq!(result["serverInfo"]["title"], "Ingle", "{reply}");
        assert!(result["instructions"].as_str().unwrap().contains("job_wait"));
        let capabilities = &result["capabilities"];
        let resources = json!({ "subscribe": true, "listChanged": true });
        assert_eq!(capabilities["resources"], resources, "{capabilities}");
        // Missing features are not announced: tools never change, and hosts get no log messages.
        assert_eq!(capabilities["tools"], json!({}), "{capabilities}");
        assert!(capabilities["logging"].is_null(), "{capabilities}");
        let set = host.request("logging/setLevel", &json!({ "level": "info" }));
        assert_eq!(set["error"]["code"], -32601, "{set}");
        let answer = host.call("chat", &json!({ "prompt": "x" }));
        assert_eq!(answer["result"]["content"][0]["text"], "crackle");
        host.end();
    }
}

#[test]
fn vectors_are_text_only_in_old_revisions() {
    let home = Home::with_sim(json!({ "embeds": true }));
    for (revision, is_text) in [("2024-11-05", true), ("2025-03-26", true), ("2025-06-18", false)] {
        let mut host = Host::spawn(&home);
        host.initialize_as(revision);
        let reply = host.call("embed", &json!({ "texts": ["snap"] }));
        let (blocks, structure) =
            (&reply["result"]["content"], &reply["result"]["structuredContent"]);
        assert_eq!(structure["embeddings"].as_array().unwrap().len(), 1, "{reply}");
        assert!(blocks[0]["text"].as_str().unwrap().starts_with("1 vector of "), "{reply}");
        let shown = blocks[1]["text"].as_str().map(|text| serde_json::from_str(text).unwrap());
        assert_eq!(shown, is_text.then(|| structure.clone()), "{revision}");
        host.end();
    }
    let mut host = Host::spawn(&home);
    let call = with_meta(json!({ "name": "embed", "arguments": { "texts": ["snap", "pop"] } }));
    let reply = host.request("tools/call", &call);
    assert_eq!(reply["result"]["content"].as_array().unwrap().len(), 1, "{reply}");
    host.end();
}

#[test]
fn sessionless_host_identifies_in_each_request() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    let mut host = Host::spawn(&home);
    let found = host.request("server/discover", &with_meta(json!({})));
    let versions = found["result"]["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!("2026-07-28")), "{found}");
    assert!(versions.contains(&json!("2024-11-05")), "{found}");
    let listed = host.request("tools/list", &with_meta(json!({})));
    assert_eq!(listed["result"]["resultType"], "complete", "{listed}");
    let call = with_meta(json!({ "name": "chat", "arguments": { "prompt": "x" } }));
    let answer = host.request("tools/call", &call);
    assert_eq!(answer["result"]["structuredContent"]["text"], "crackle", "{answer}");
    let missing = host.request("resources/read", &with_meta(json!({ "uri": "ingle://x" })));
    assert_eq!(missing["error"]["code"], -32602, "{missing}");
    // A host that does not identify itself gets an error that names the missing field.
    let bare = host.request("tools/list", &json!({}));
    assert!(bare["error"]["message"].as_str().unwrap().contains("protocolVersion"), "{bare}");
    host.end();
}

#[test]
fn change_stream_stays_open_until_cancelled() {
    let home = Home::with_sim(json!({}));
    let mut host = Host::spawn(&home);
    let notifications = json!({
        "resourcesListChanged": true,
        "toolsListChanged": true,
        "resourceSubscriptions": ["ingle://models", "file:///etc/passwd"],
    });
    let params = with_meta(json!({ "notifications": notifications }));
    let id = host.start("subscriptions/listen", &params);
    let accepted = host.wait_for("notifications/subscriptions/acknowledged");
    let accepted = &accepted["params"]["notifications"];
    assert_eq!(accepted["resourceSubscriptions"], json!(["ingle://models"]), "{accepted}");
    assert!(accepted["toolsListChanged"].is_null(), "{accepted}");
    home.ingle(["load", "sim"]).ok();
    let note = host.wait_for("notifications/resources/updated");
    assert_eq!(note["params"]["uri"], "ingle://models", "{note}");
    let cancel = json!({ "requestId": id });
    host.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel }));
    // An open stream does not prevent the end of the session either.
    host.start("subscriptions/listen", &params);
    host.wait_for("notifications/subscriptions/acknowledged");
    let begin = std::time::Instant::now();
    host.end();
    assert!(begin.elapsed().as_secs() < 4, "{:?}", begin.elapsed());
}

#[test]
fn early_messages_do_not_end_session() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    let mut host = Host::spawn(&home);
    let cancel = json!({ "requestId": 7 });
    host.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel }));
    host.send(&json!({ "jsonrpc": "2.0", "id": 3, "result": {} }));
    let wrong = host.request("initialize", &json!({ "capabilities": {} }));
    assert_eq!(wrong["error"]["code"], -32602, "{wrong}");
    assert!(wrong["error"]["message"].as_str().unwrap().contains("protocolVersion"), "{wrong}");
    assert!(host.request("ping", &json!({}))["result"].is_object());
    let early = host.request("tools/list", &json!({}));
    assert!(early["error"].is_object(), "{early}");
    host.initialize();
    assert!(host.request("tools/list", &json!({}))["result"]["tools"].is_array());
    host.end();
}
