//! Resources, prompts and completions through `ingle mcp`, and the notifications of changes.

use ingle_tests::Home;
use serde_json::{Value, json};

use crate::mcp::Host;

/// The JSON at a URI.
fn read(host: &mut Host, uri: &str) -> Value {
    let reply = host.request("resources/read", &json!({ "uri": uri }));
    let content = &reply["result"]["contents"][0];
    assert_eq!((&content["uri"], &content["mimeType"]), (&json!(uri), &json!("application/json")));
    serde_json::from_str(content["text"].as_str().unwrap()).unwrap()
}

fn uris(reply: &Value) -> Vec<&str> {
    let resources = reply["result"]["resources"].as_array().unwrap_or_else(|| panic!("{reply}"));
    resources.iter().map(|resource| resource["uri"].as_str().unwrap()).collect()
}

#[test]
fn models_and_jobs_are_readable() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut host = Host::open_with(&home, &["--host-timeout", "0.3"]);
    let call = host.call("chat", &json!({ "prompt": "hi", "max_tokens": 100_000 }));
    let job = call["result"]["structuredContent"]["job_id"].as_str().unwrap().to_owned();
    let job_uri = format!("ingle://jobs/{job}");
    let listed = host.request("resources/list", &json!({}));
    let expected = ["ingle://models", "ingle://jobs", "ingle://models/sim", job_uri.as_str()];
    assert_eq!(uris(&listed), expected);
    let templates = host.request("resources/templates/list", &json!({}));
    let templates = templates["result"]["resourceTemplates"].as_array().unwrap();
    let templates: Vec<_> = templates.iter().map(|template| &template["uriTemplate"]).collect();
    assert_eq!(templates, ["ingle://models/{name}", "ingle://jobs/{id}"]);
    assert_eq!(read(&mut host, "ingle://models")["default"], "sim");
    let model = read(&mut host, "ingle://models/sim");
    assert_eq!(
        (&model["model"]["state"], &model["loaded"]["engine"]),
        (&json!("loaded"), &json!("sim"))
    );
    assert_eq!(read(&mut host, "ingle://jobs")["jobs"][0]["id"], json!(job));
    assert_eq!(read(&mut host, &job_uri)["status"], "pending");
    for missing in ["ingle://models/nobody", "ingle://jobs/j-nobody", "file:///etc/passwd", ""] {
        let reply = host.request("resources/read", &json!({ "uri": missing }));
        assert_eq!(reply["error"]["code"], -32002, "{reply}");
        assert_eq!(reply["error"]["data"]["uri"], json!(missing));
        let reply = host.request("resources/subscribe", &json!({ "uri": missing }));
        assert_eq!(reply["error"]["code"], -32002, "{reply}");
    }
    let reply = host.request("resources/list", &json!({ "cursor": "elsewhere" }));
    assert_eq!(reply["error"]["code"], -32602, "{reply}");
    host.end();
}

#[test]
fn many_models_are_paged() {
    let home = Home::with_sim(json!({}));
    (0..150).for_each(|number| home.add_sim(&format!("m{number:03}"), json!({})));
    let mut host = Host::open(&home);
    let first = host.request("resources/list", &json!({}));
    let cursor = first["result"]["nextCursor"].clone();
    let second = host.request("resources/list", &json!({ "cursor": cursor }));
    assert_eq!((uris(&first).len(), uris(&second).len()), (100, 53));
    assert!(second["result"]["nextCursor"].is_null(), "{second}");
    let complete = |host: &mut Host, reference: Value, name: &str, value: &str| {
        let argument = json!({ "name": name, "value": value });
        host.request("completion/complete", &json!({ "ref": reference, "argument": argument }))
    };
    let template = json!({ "type": "ref/resource", "uri": "ingle://models/{name}" });
    let reply = complete(&mut host, template.clone(), "name", "M14");
    assert_eq!(reply["result"]["completion"]["values"].as_array().unwrap().len(), 10, "{reply}");
    let reply = complete(&mut host, template.clone(), "name", "");
    let completion = &reply["result"]["completion"];
    assert_eq!(
        (completion["values"].as_array().unwrap().len(), &completion["hasMore"]),
        (100, &json!(true))
    );
    let prompt = json!({ "type": "ref/prompt", "name": "review" });
    let reply = complete(&mut host, prompt.clone(), "focus", "sec");
    assert_eq!(reply["result"]["completion"]["values"], json!(["security"]));
    for (reference, argument) in [(template, "id"), (prompt, "mood")] {
        assert_eq!(complete(&mut host, reference, argument, "")["error"]["code"], -32602);
    }
    host.end();
}

#[test]
fn prompts_are_listed_and_filled_in() {
    let home = Home::with_sim(json!({}));
    let mut host = Host::open(&home);
    let listed = host.request("prompts/list", &json!({}));
    let prompts = listed["result"]["prompts"].as_array().unwrap();
    let names: Vec<_> = prompts.iter().map(|prompt| &prompt["name"]).collect();
    assert_eq!(names, ["review", "explain", "commit_message"]);
    for prompt in prompts {
        for argument in prompt["arguments"].as_array().unwrap() {
            assert!(argument["description"].is_string() && argument["required"].is_boolean());
        }
    }
    let params = json!({ "name": "review", "arguments": { "code": "let x;", "focus": "tests" } });
    let got = host.request("prompts/get", &params);
    let message = &got["result"]["messages"][0];
    let text = message["content"]["text"].as_str().unwrap();
    assert!(
        message["role"] == "user" && text.contains("let x;") && text.contains("tests"),
        "{got}"
    );
    for (name, arguments) in [("review", json!({})), ("nobody", json!({}))] {
        let reply = host.request("prompts/get", &json!({ "name": name, "arguments": arguments }));
        assert_eq!(reply["error"]["code"], -32602, "{reply}");
    }
    host.end();
}

#[test]
fn host_is_notified_of_model_and_job_changes() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let mut host = Host::open_with(&home, &["--host-timeout", "0.3"]);
    home.ingle(["load", "sim"]).ok();
    let note = host.receive();
    assert_eq!(note["method"], "notifications/resources/list_changed", "{note}");
    let call = host.call("chat", &json!({ "prompt": "hi", "max_tokens": 100_000 }));
    let job = call["result"]["structuredContent"]["job_id"].as_str().unwrap().to_owned();
    let uri = format!("ingle://jobs/{job}");
    let reply = host.request("resources/subscribe", &json!({ "uri": uri }));
    assert!(reply["result"].is_object(), "{reply}");
    home.ingle(["jobs", "cancel", &job]).ok();
    // Progress may come first; the last notification is the job's end.
    loop {
        let note = host.wait_for("notifications/resources/updated");
        assert_eq!(note["params"]["uri"], json!(uri));
        if read(&mut host, &uri)["job"]["status"] == "cancelled" {
            break;
        }
    }
    assert!(host.request("resources/unsubscribe", &json!({ "uri": uri }))["result"].is_object());
    host.end();
}
