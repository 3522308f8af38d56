//! Each MCP tool through `ingle mcp`: its results, its limits, and its errors for wrong calls.

use ingle_tests::Home;
use serde_json::{Value, json};

use crate::mcp::Host;

/// The text of a tool's result.
fn text(reply: &Value) -> &str {
    reply["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{reply}"))
}

/// The structured content of a successful result.
fn content(reply: &Value) -> &Value {
    assert_eq!(reply["result"]["isError"], false, "{reply}");
    &reply["result"]["structuredContent"]
}

/// Asserts that a call failed with a result that a model can act on, and returns its text.
fn failure(reply: &Value) -> &str {
    assert_eq!(reply["result"]["isError"], true, "{reply}");
    assert!(reply["result"]["structuredContent"]["error"]["remediation"].is_string(), "{reply}");
    text(reply)
}

#[test]
fn models_are_listed_loaded_and_unloaded() {
    let home = Home::with_sim(json!({ "reply": "crackle", "load_delay_ms": 20 }));
    let mut host = Host::open(&home);
    let reply = host.call("list_models", &json!({}));
    assert_eq!(content(&reply)["default"], "sim");
    let counted = host.call("count_tokens", &json!({ "text": "héllo" }));
    assert_eq!(content(&counted)["characters"], 5, "{counted}");
    assert!(content(&counted)["tokens"].as_u64().unwrap() > 0);
    let status = host.call("server_status", &json!({}));
    assert_eq!(content(&status)["loaded_models"], json!([]), "{status}");
    let loaded = host.call("load_model", &json!({ "model": "sim", "keep_alive": "10m" }));
    assert_eq!(
        (&content(&loaded)["status"], &content(&loaded)["engine"]),
        (&json!("loaded"), &json!("sim"))
    );
    let status = host.call("server_status", &json!({}));
    assert_eq!(content(&status)["loaded_models"], json!(["sim"]), "{status}");
    let unloaded = host.call("unload_model", &json!({ "model": "sim" }));
    assert_eq!(content(&unloaded), &json!({ "model": "sim", "was_loaded": true }));
    let again = host.call("unload_model", &json!({ "model": "sim" }));
    assert_eq!(content(&again)["was_loaded"], false);
    host.end();
}

#[test]
fn conversation_is_answered_and_code_completed() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    let mut host = Host::open(&home);
    let messages = json!([
        { "role": "user", "content": "snap?" },
        { "role": "assistant", "content": "crackle" },
        { "role": "user", "content": "pop?" },
    ]);
    let reply = host.call("chat", &json!({ "messages": messages, "system": "be brief" }));
    assert_eq!((text(&reply), &content(&reply)["status"]), ("crackle", &json!("done")));
    assert!(content(&reply)["usage"]["prompt_tokens"].as_u64().unwrap() > 0, "{reply}");
    let reply = host.call("complete_code", &json!({ "prefix": "fn main() {", "max_tokens": 3 }));
    assert_eq!((text(&reply), &content(&reply)["finish_reason"]), ("cra", &json!("length")));
    // A host may show only text.
    let note = reply["result"]["content"][1]["text"].as_str().unwrap();
    assert!(note.contains("Cut off after 3 tokens") && note.contains("max_tokens"), "{note}");
    host.end();
}

#[test]
fn wrong_calls_give_results_naming_the_fix() {
    let home = Home::with_sim(json!({}));
    let mut host = Host::open(&home);
    for (tool, arguments, named) in [
        ("chat", json!({ "promt": "x" }), "`promt`"),
        ("chat", json!({}), "`prompt`"),
        ("chat", json!({ "prompt": "x", "max_tokens": "ten" }), "`max_tokens`"),
        ("chat", json!({ "prompt": "x", "temperature": -1 }), "`temperature`"),
        ("chat", json!({ "prompt": "x", "model": "nobody" }), "MODEL_NOT_FOUND"),
        ("chat", json!({ "prompt": "x", "model": "nobody" }), "list_models"),
        ("generate", json!({ "prompt": ["x"] }), "a string"),
        ("embed", json!({ "texts": [] }), "`texts`"),
        ("embed", json!({ "texts": ["x"] }), "MODEL_UNSUPPORTED"),
        ("load_model", json!({ "keep_alive": "soon" }), "keep_alive"),
        ("unload_model", json!({}), "`model`"),
        ("server_status", json!({ "verbose": true }), "no arguments"),
        ("job_get", json!({ "job_id": "j-nobody" }), "job_list"),
        ("job_list", json!({ "status": "sleeping" }), "`status`"),
        ("job_list", json!({ "limit": 0 }), "`limit`"),
    ] {
        let reply = host.call(tool, &arguments);
        assert!(failure(&reply).contains(named), "{tool} {arguments}: {reply}");
    }
    let reply = host.call("no_such_tool", &json!({}));
    assert!(reply["error"]["message"].as_str().unwrap().contains("list_models"), "{reply}");
    let params = json!({ "name": "chat", "arguments": ["x"] });
    assert_eq!(host.request("tools/call", &params)["error"]["code"], -32602);
    assert_eq!(host.request("tools/call", &json!({}))["error"]["code"], -32602);
    host.end();
}

#[test]
fn call_text_is_limited_by_settings() {
    let home = Home::with_sim(json!({ "reply": "crackle", "context_tokens": 100_000 }));
    let mut host = Host::open(&home);
    for (tool, arguments) in [
        ("chat", json!({ "prompt": "x".repeat(20_001) })),
        ("chat", json!({ "prompt": "x".repeat(20_000), "system": "y" })),
        ("complete_code", json!({ "prefix": "x".repeat(10_001), "suffix": "y".repeat(10_000) })),
        ("embed", json!({ "texts": ["x".repeat(10_001), "y".repeat(10_000)] })),
        ("count_tokens", json!({ "text": "x".repeat(20_001) })),
    ] {
        let reply = host.call(tool, &arguments);
        let said = failure(&reply);
        for word in ["20001", "20000", "mcp.prompt_chars"] {
            assert!(said.contains(word), "{tool}: {said}");
        }
    }
    // Characters, not bytes.
    let fits = host.call("count_tokens", &json!({ "text": "é".repeat(20_000) }));
    assert_eq!(content(&fits)["characters"], 20_000, "{fits}");
    host.end();
    home.ingle(["stop"]).ok();
    home.write("config.toml", "default_model = \"sim\"\n[mcp]\nprompt_chars = 5\n");
    let mut host = Host::open(&home);
    let reply = host.call("chat", &json!({ "prompt": "123456" }));
    assert!(failure(&reply).contains("the limit is 5"), "{reply}");
    content(&host.call("chat", &json!({ "prompt": "12345" })));
    host.end();
}

#[test]
fn load_outlasting_host_limit_continues() {
    let home = Home::with_sim(json!({ "load_delay_ms": 1_200 }));
    let mut host = Host::open_with(&home, &["--host-timeout", "0.3"]);
    let reply = host.call("load_model", &json!({}));
    assert_eq!(content(&reply)["status"], "loading", "{reply}");
    assert!(text(&reply).contains("load_model"), "{reply}");
    // The host that made the request ends, and the load continues.
    host.end();
    let mut host = Host::open_with(&home, &["--host-timeout", "0.3"]);
    let mut calls = 0;
    while content(&host.call("load_model", &json!({})))["status"] != "loaded" {
        calls += 1;
        assert!(calls < 50, "the load never ends");
    }
    let status: Value = home.ingle(["status", "--json"]).ok().json();
    assert_eq!(status["loads"], 1, "{status}");
    host.end();
}

#[test]
fn jobs_are_listed_read_and_cancelled() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut host = Host::open_with(&home, &["--host-timeout", "0.3"]);
    let reply = host.call("chat", &json!({ "prompt": "hi", "max_tokens": 100_000 }));
    let job = content(&reply)["job_id"].clone();
    let listed = host.call("job_list", &json!({ "status": "running" }));
    assert_eq!(content(&listed)["jobs"][0]["job_id"], job, "{listed}");
    let looked = host.call("job_get", &json!({ "job_id": job }));
    assert_eq!(content(&looked)["status"], "running");
    assert!(content(&looked)["partial_text"].as_str().unwrap().starts_with('x'), "{looked}");
    assert!(text(&looked).contains("so far:\nx"), "{looked}");
    let ended = host.call("job_cancel", &json!({ "job_id": job }));
    assert_eq!(content(&ended)["status"], "cancelled", "{ended}");
    let waited = host.call("job_wait", &json!({ "job_id": job }));
    let said = failure(&waited);
    for words in ["CANCELLED", "`chat`", "so far:\nx"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(
        waited["result"]["structuredContent"]["error"]["details"]["partial_result"].is_object()
    );
    assert_eq!(content(&host.call("job_list", &json!({ "status": "running" })))["jobs"], json!([]));
    host.end();
}

#[test]
fn tool_under_full_load_reports_busy() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 20 }));
    let mut host = Host::open(&home);
    let params = json!({ "name": "chat", "arguments": { "prompt": "hi", "max_tokens": 100_000 } });
    (0..70).for_each(|_| _ = host.start("tools/call", &params));
    // 64 calls are in flight; six more are refused at once.
    for _ in 0..6 {
        let reply = host.next_but_changes();
        assert!(failure(&reply).contains("OVERLOADED"), "{reply}");
    }
    host.end();
}
