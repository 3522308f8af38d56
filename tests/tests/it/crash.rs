//! Crashes in native code: which model is blamed and refused, and what lifts the refusal.

use std::os::unix::process::ExitStatusExt;

use ingle_client::client::Client;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::generate::{Generate, GenerateParams, GenerateResult};
use ingle_protocol::wire::status::Status;
use ingle_tests::{Home, status_when};
use rustix::process::Signal;
use serde_json::json;

fn ask(model: &str) -> GenerateParams {
    GenerateParams {
        model: Some(model.to_owned()),
        prompt: Some("hi".to_owned()),
        ..GenerateParams::default()
    }
}

async fn generate(client: &Client, model: &str) -> Result<GenerateResult, ErrorBody> {
    client.start::<Generate>(&ask(model), Class::Completions).unwrap().reply().await
}

/// A daemon that dies while it generates with `model`.
async fn die(home: &Home, model: &str) {
    let daemon = home.daemon();
    let client = home.client().await;
    let error = generate(&client, model).await.unwrap_err();
    assert!(matches!(error.code, ErrorCode::DaemonLost | ErrorCode::EngineFailed), "{error:?}");
    assert!(!daemon.wait().success());
}

/// A daemon that is sent `signal` while it generates with the sim model.
async fn be_sent(home: &Home, signal: Signal) {
    let daemon = home.daemon();
    let client = home.client().await;
    let _call = client.start::<Generate>(&ask("sim"), Class::Completions).unwrap();
    status_when(&client, |status| status.active == 1).await;
    daemon.signal(signal);
    assert_eq!(daemon.wait().signal(), Some(signal.as_raw()));
}

#[tokio::test]
async fn model_crashing_daemon_twice_is_refused() {
    let home = Home::with_sim(json!({}));
    home.add_sim("bad", json!({ "abort_at": 2 }));
    die(&home, "bad").await;
    die(&home, "bad").await;
    let _daemon = home.daemon();
    let client = home.client().await;
    let refused = generate(&client, "bad").await.unwrap_err();
    assert_eq!((refused.code, refused.retryable), (ErrorCode::ModelCrashed, false), "{refused:?}");
    assert_eq!(refused.details["cause"], "SIGABRT");
    assert_eq!(refused.details["phase"], "generating");
    assert!(refused.remediation().contains("ingle load --force bad"), "{refused:?}");
    generate(&client, "sim").await.unwrap();
    let status = client.call::<Status>(&NoParams {}).await.unwrap();
    assert_eq!(status.quarantined[0].name, "bad");
    let models = home.ingle(["models", "--json"]).ok().json();
    assert_eq!(models["models"][0]["state"], "quarantined", "{models}");
    assert!(home.ingle(["status"]).ok().stdout.contains("bad: ended the daemon 2 times in a row"));
    let load = home.ingle(["load", "bad", "--json"]);
    assert_eq!(load.json()["error"]["code"], "MODEL_CRASHED");
    // A model with other files is another model.
    home.add_sim("bad", json!({ "reply": "mended" }));
    assert_eq!(generate(&client, "bad").await.unwrap().first().text, "mended");
    status_when(&client, |status| status.quarantined.is_empty()).await;
}

#[tokio::test]
async fn force_allows_one_more_load_and_panic_counts() {
    let home = Home::with_sim(json!({}));
    home.add_sim("bad", json!({ "panic_at": 2 }));
    die(&home, "bad").await;
    die(&home, "bad").await;
    let daemon = home.daemon();
    let client = home.client().await;
    let refused = generate(&client, "bad").await.unwrap_err();
    assert_eq!(
        (refused.code, &refused.details["cause"]),
        (ErrorCode::ModelCrashed, &json!("a panic"))
    );
    home.ingle(["load", "--force", "bad"]).ok();
    assert_eq!(generate(&client, "bad").await.unwrap_err().code, ErrorCode::EngineFailed);
    assert!(!daemon.wait().success());
    let _daemon = home.daemon();
    let refused = generate(&home.client().await, "bad").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ModelCrashed);
}

#[tokio::test]
async fn kill_does_not_blame_model_and_fault_does() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    for _ in 0..3 {
        be_sent(&home, Signal::KILL).await;
    }
    be_sent(&home, Signal::SEGV).await;
    {
        let _daemon = home.daemon();
        let client = home.client().await;
        let short = GenerateParams { max_tokens: Some(1), ..ask("sim") };
        let call = client.start::<Generate>(&short, Class::Completions).unwrap();
        // A finished generation resets the count of crashes.
        call.reply().await.unwrap();
    }
    be_sent(&home, Signal::SEGV).await;
    be_sent(&home, Signal::ILL).await;
    let _daemon = home.daemon();
    let refused = generate(&home.client().await, "sim").await.unwrap_err();
    assert_eq!(
        (refused.code, &refused.details["cause"]),
        (ErrorCode::ModelCrashed, &json!("SIGILL"))
    );
}

#[tokio::test]
async fn broken_crash_files_do_not_stop_daemon() {
    let home = Home::with_sim(json!({}));
    home.write("quarantine.json", "{ not json");
    // A folder has the journal's name, so that the journal cannot be written.
    std::fs::create_dir(home.paths().crash_journal()).unwrap();
    let _daemon = home.daemon();
    generate(&home.client().await, "sim").await.unwrap();
}
