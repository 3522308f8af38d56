//! The engine fails, panics or aborts, or the daemon is shut down. Every client gets an error.

use std::collections::HashSet;

use ingle_client::client::{Call, Client};
use ingle_client::exit;
use ingle_protocol::error::ErrorCode;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::embed::{Embed, EmbedParams};
use ingle_protocol::wire::generate::{Generate, GenerateParams};
use ingle_protocol::wire::models::{
    EstimateModel, LoadModel, LoadParams, ModelParams, PullModel, PullParams, UnloadModel,
};
use ingle_protocol::wire::status::{Health, HealthState, Phase, Shutdown, ShutdownParams};
use ingle_tests::{Home, status_when};
use rustix::process::Signal;
use serde_json::json;

fn prompt(text: &str) -> GenerateParams {
    GenerateParams { prompt: Some(text.to_owned()), ..GenerateParams::default() }
}

async fn error_code(client: &Client, params: &GenerateParams) -> ErrorCode {
    let call = client.start::<Generate>(params, Class::Completions).unwrap();
    call.reply().await.unwrap_err().code
}

async fn wait_active(client: &Client, active: usize) {
    status_when(client, |status| status.active == active).await;
}

/// Starts a generation that would run for minutes, and returns once it runs.
async fn long_call(client: &Client) -> Call<Generate> {
    let long = GenerateParams { max_tokens: Some(100_000), ..prompt("hi") };
    let call = client.start::<Generate>(&long, Class::Completions).unwrap();
    wait_active(client, 1).await;
    call
}

#[tokio::test]
async fn engine_error_fails_one_request_only() {
    let home = Home::with_sim(json!({}));
    home.add_sim("failing", json!({ "fail_at": 3 }));
    home.add_sim("unloadable", json!({ "fail_load": true }));
    let _daemon = home.daemon();
    let client = home.client().await;
    for model in ["failing", "unloadable"] {
        let params = GenerateParams { model: Some(model.to_owned()), ..prompt("hi") };
        assert_eq!(error_code(&client, &params).await, ErrorCode::EngineFailed);
    }
    let call = client.start::<Generate>(&prompt("hi"), Class::Completions).unwrap();
    assert!(!call.reply().await.unwrap().first().text.is_empty());
}

#[tokio::test]
async fn panic_fails_requests_and_ends_daemon() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    home.add_sim("panicking", json!({ "panic_at": 2 }));
    let daemon = home.daemon();
    let (bystander, culprit) = (home.client().await, home.client().await);
    let in_flight = long_call(&bystander).await;
    let params = GenerateParams { model: Some("panicking".to_owned()), ..prompt("hi") };
    assert_eq!(error_code(&culprit, &params).await, ErrorCode::EngineFailed);
    assert_eq!(in_flight.reply().await.unwrap_err().code, ErrorCode::EngineFailed);
    assert_eq!(daemon.wait().code(), Some(i32::from(exit::INTERNAL)));
    // The next daemon starts with no state of the last.
    let _daemon = home.daemon();
    home.client().await.call::<Health>(&NoParams {}).await.unwrap();
}

#[tokio::test]
async fn stalled_engine_is_reported_and_ends_daemon() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    home.add_sim("hanging", json!({ "hang_at": 3 }));
    home.write("config.toml", "default_model = \"sim\"\n[engine]\nstall_s = 1\n");
    for attempt in 0..2 {
        let daemon = home.daemon();
        let (bystander, culprit) = (home.client().await, home.client().await);
        let in_flight = long_call(&bystander).await;
        let params = GenerateParams { model: Some("hanging".to_owned()), ..prompt("hi") };
        let call = culprit.start::<Generate>(&params, Class::Completions).unwrap();
        let health = status_when(&bystander, |status| status.health.state == HealthState::Degraded);
        assert_eq!(health.await.health.phase, Phase::Decode { model: "hanging".to_owned() });
        let stalled = call.reply().await.unwrap_err();
        assert_eq!(stalled.code, ErrorCode::EngineStalled, "{attempt}: {stalled:?}");
        assert!(stalled.message.contains("generating with `hanging`"), "{stalled:?}");
        assert_eq!(in_flight.reply().await.unwrap_err().code, ErrorCode::EngineStalled);
        assert_eq!(daemon.wait().code(), Some(i32::from(exit::ENGINE_STALLED)));
    }
    let _daemon = home.daemon();
    let params = GenerateParams { model: Some("hanging".to_owned()), ..prompt("hi") };
    assert_eq!(error_code(&home.client().await, &params).await, ErrorCode::ModelCrashed);
}

#[tokio::test]
async fn stalled_load_is_abandoned_without_harm() {
    let home = Home::with_sim(json!({ "reply": "ok" }));
    home.add_sim("stuck", json!({ "load_delay_ms": 3_600_000 }));
    home.write("config.toml", "default_model = \"sim\"\n[engine]\nstall_s = 0.5\n");
    let _daemon = home.daemon();
    let client = home.client().await;
    let params = GenerateParams { model: Some("stuck".to_owned()), ..prompt("hi") };
    let call = client.start::<Generate>(&params, Class::Completions).unwrap();
    let error = call.reply().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineFailed, "{error:?}");
    assert!(error.message.contains("made no progress"), "{error:?}");
    let call = client.start::<Generate>(&prompt("hi"), Class::Completions).unwrap();
    assert_eq!(call.reply().await.unwrap().first().text, "ok");
}

#[tokio::test]
async fn paused_daemon_is_not_reported_as_stalled() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(600), "token_delay_ms": 5 }));
    home.write("config.toml", "default_model = \"sim\"\n[engine]\nstall_s = 0.4\n");
    let daemon = home.daemon();
    let client = home.client().await;
    let call = long_call(&client).await;
    daemon.signal(Signal::STOP);
    // The test needs a pause longer than the stall limit.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    daemon.signal(Signal::CONT);
    assert_eq!(call.reply().await.unwrap().first().text.len(), 600);
}

#[tokio::test]
async fn native_abort_reaches_client_as_lost_daemon() {
    let home = Home::with_sim(json!({ "abort_at": 2 }));
    let daemon = home.daemon();
    let client = home.client().await;
    assert_eq!(error_code(&client, &prompt("hi")).await, ErrorCode::DaemonLost);
    assert_eq!(daemon.wait().code(), None);
}

#[tokio::test]
async fn drain_finishes_requests_and_refuses_new() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(200), "token_delay_ms": 2 }));
    let daemon = home.daemon();
    let client = home.client().await;
    let call = client.start::<Generate>(&prompt("hi"), Class::Completions).unwrap();
    wait_active(&client, 1).await;
    client.call::<Shutdown>(&ShutdownParams { now: false }).await.unwrap();
    assert_eq!(error_code(&client, &prompt("late")).await, ErrorCode::ShuttingDown);
    assert_eq!(call.reply().await.unwrap().first().text.len(), 200);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!home.paths().socket().exists());
}

#[tokio::test]
async fn client_during_drain_gets_next_daemon() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let daemon = home.daemon();
    let client = home.client().await;
    let call = long_call(&client).await;
    client.call::<Shutdown>(&ShutdownParams { now: false }).await.unwrap();
    // The drain takes its full 5 seconds and a little more.
    home.ingle(["load"]).ok();
    assert_eq!(call.reply().await.unwrap_err().code, ErrorCode::ShuttingDown);
    assert_ne!(home.daemon_pid(), Some(daemon.pid()));
    assert_eq!(daemon.wait().code(), Some(0));
}

#[tokio::test]
async fn changed_model_files_are_loaded_again() {
    let home = Home::with_sim(json!({ "reply": "before" }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let text = async |client: &Client| {
        let call = client.start::<Generate>(&prompt("hi"), Class::Completions).unwrap();
        call.reply().await.unwrap().first().text.clone()
    };
    assert_eq!(text(&client).await, "before");
    home.add_sim("sim", json!({ "reply": "afterwards" }));
    assert_eq!(text(&client).await, "afterwards");
    std::fs::remove_dir_all(home.paths().models_dir().join("sim")).unwrap();
    let unload = ModelParams { model: Some("sim".to_owned()), stream: false };
    assert!(client.call::<UnloadModel>(&unload).await.unwrap().was_loaded);
}

#[tokio::test]
async fn every_error_names_its_request() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let client = home.client().await;
    let nobody = || Some("nobody".to_owned());
    let load = LoadParams { model: nobody(), ..LoadParams::default() };
    let pull = PullParams { model: "nobody".to_owned(), ..PullParams::default() };
    let unload = ModelParams { model: nobody(), stream: false };
    let embed = EmbedParams { model: nobody(), input: vec!["".into()], ..EmbedParams::default() };
    let errors = [
        client.call::<LoadModel>(&load).await.unwrap_err(),
        client.call::<EstimateModel>(&load).await.unwrap_err(),
        client.call::<PullModel>(&pull).await.unwrap_err(),
        client.call::<UnloadModel>(&unload).await.unwrap_err(),
        client.call::<Embed>(&embed).await.unwrap_err(),
    ];
    let names: HashSet<_> = errors.iter().map(|error| error.request_id.as_ref().unwrap()).collect();
    assert_eq!(names.len(), errors.len(), "{errors:?}");
}

#[tokio::test]
async fn shutdown_now_cancels_requests_in_flight() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let daemon = home.daemon();
    let client = home.client().await;
    let call = long_call(&client).await;
    client.call::<Shutdown>(&ShutdownParams { now: true }).await.unwrap();
    assert_eq!(call.reply().await.unwrap_err().code, ErrorCode::ShuttingDown);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[tokio::test]
async fn second_signal_ends_daemon_with_hung_engine() {
    let home = Home::with_sim(json!({ "hang_at": 1 }));
    let daemon = home.daemon();
    let client = home.client().await;
    let call = client.start::<Generate>(&prompt("hi"), Class::Completions).unwrap();
    wait_active(&client, 1).await;
    daemon.signal(Signal::TERM);
    // A draining daemon still answers, and its status says that it drains.
    while client.call::<Health>(&NoParams {}).await.unwrap().state != HealthState::Draining {}
    daemon.signal(Signal::TERM);
    assert_eq!(call.reply().await.unwrap_err().code, ErrorCode::DaemonLost);
    assert_eq!(daemon.wait().code(), Some(i32::from(exit::FAILED)));
}
