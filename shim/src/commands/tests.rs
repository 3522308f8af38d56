//! The commands against a fake daemon: their output and exit codes.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ingle_client::exit;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::{Value, json};

use super::{complete, daemon, jobs, models, timeouts};
use crate::cli::{Gap, GenerateOptions, JobsCommand, LoadOptions};
use crate::context::Context;
use crate::fake_daemon::{self, Answer, generated};

fn reply(value: Value) -> Answer {
    (Vec::new(), Ok(value))
}

fn not_found() -> Answer {
    let error = ErrorBody::new(ErrorCode::ModelNotFound, "the model `smollm2` is not here");
    (Vec::new(), Err(error))
}

fn list(state: &str) -> Answer {
    reply(json!({
        "default": "smollm2",
        "models": [{
            "name": "smollm2", "format": "", "size_bytes": 98_400_000, "state": state,
            "description": "a small one",
        }],
    }))
}

fn status() -> Answer {
    reply(json!({
        "build": "0.1.0", "pid": 42, "uptime_s": 61, "socket": "/s",
        "health": { "state": "ok", "phase": { "name": "idle" }, "heartbeat_age_ms": 1 },
        "connections": 1, "active": 0, "queued": 0, "generations": 9, "resident_bytes": 5_000_000,
        "models": [{
            "name": "smollm2", "engine": "mlx", "architecture": "llama",
            "weight_bytes": 538_000_000, "kv_bytes": 0, "context_tokens": 2048, "active": 0,
            "load_ms": 900.0,
        }],
    }))
}

fn printed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn question(
    context: &mut Context,
    options: &GenerateOptions,
) -> impl Future<Output = crate::output::Outcome> {
    complete::complete(context, Some("hi"), Gap::default(), options)
}

#[tokio::test]
async fn read_only_commands_start_no_daemon() {
    let (mut context, _home, out, _) = fake_daemon::context(true);
    assert_eq!(daemon::status(&mut context).await.unwrap(), exit::UNAVAILABLE);
    assert_eq!(daemon::stop(&mut context, false).await.unwrap(), exit::OK);
    assert_eq!(models::ps(&mut context).await.unwrap(), exit::OK);
    assert_eq!(models::unload(&mut context, None).await.unwrap(), exit::OK);
    assert_eq!(models::list(&mut context).await.unwrap(), exit::OK);
    for line in out.text().lines() {
        assert_eq!(printed(line)["running"], false, "{line}");
    }
    assert!(!context.paths.home().exists());
}

#[tokio::test]
async fn models_on_disk_are_listed_without_daemon() {
    let (mut context, _home, out, err) = fake_daemon::context(false);
    let models = context.paths.models_dir();
    fs::create_dir_all(models.join("tiny")).unwrap();
    fs::write(models.join("tiny").join("model.gguf"), [0; 2_000]).unwrap();
    fs::create_dir_all(models.join(".staging")).unwrap();
    models::list(&mut context).await.unwrap();
    assert_eq!(out.text(), "NAME    SIZE\ntiny  2.0 kB\n");
    assert!(err.text().contains("not running"));
}

#[tokio::test]
async fn start_failure_exits_with_its_code() {
    let (mut context, _home, _, _) = fake_daemon::context(false);
    let failure = models::load(&mut context, &LoadOptions::default()).await.unwrap_err();
    assert_eq!(failure.code(), Some(ErrorCode::DaemonUnavailable));
    assert_eq!(context.output.failure(&failure), exit::UNAVAILABLE);
}

#[tokio::test]
async fn ladder_is_shown_with_any_daemon() {
    let (mut context, _home, out, err) = fake_daemon::context(true);
    fake_daemon::serve_hello(&context.paths, json!({ "protocol": 99 }), |_, _| {
        reply(json!("none"))
    });
    assert_eq!(timeouts::run(&mut context, None).await.unwrap(), exit::OK);
    assert_eq!(printed(&out.text())["infrastructure_timeouts"]["daemon"], 450);
    assert!(err.text().contains("speaks protocol 99"), "{}", err.text());

    // An older daemon with fewer limits uses the defaults of the others.
    let (mut context, _home, out, err) = fake_daemon::context(false);
    let theirs = json!({ "timeouts": { "chat_ms": 60_500 } });
    fake_daemon::serve_hello(&context.paths, theirs, |_, _| reply(json!("none")));
    assert_eq!(timeouts::run(&mut context, None).await.unwrap(), exit::OK);
    assert!(out.text().contains("\nworkflow          300     450   600     750   300  default\n"));
    let warning =
        "warning: timeouts.chat is 900 s here and 60.5 s in the running daemon (process 42)";
    assert!(err.text().starts_with(warning), "{}", err.text());
    assert_eq!(err.text().lines().count(), 2, "{}", err.text());
}

#[tokio::test]
async fn status_and_ps_show_the_reply() {
    let (mut context, _home, out, _) = fake_daemon::context(false);
    fake_daemon::serve(&context.paths, |_, _| status());
    assert_eq!(daemon::status(&mut context).await.unwrap(), exit::OK);
    models::ps(&mut context).await.unwrap();
    let text = out.text();
    assert!(text.starts_with("daemon       ingled 0.1.0, process 42\nhealth       ok\n"), "{text}");
    assert!(text.contains("up for       1 min 1 s\n") && text.contains("538 MB"), "{text}");
}

#[tokio::test]
async fn stop_returns_when_the_lock_is_free() {
    let (mut context, _home, out, _) = fake_daemon::context(true);
    context.paths.prepare().unwrap();
    let lock = File::create(context.paths.daemon_lock()).unwrap();
    lock.lock().unwrap();
    let has_ended = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&has_ended);
    let mut lock = Some(lock);
    fake_daemon::serve(&context.paths, move |method, params| {
        assert_eq!((method, &params["now"]), ("shutdown", &json!(true)));
        let (lock, ended) = (lock.take(), Arc::clone(&ended));
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            ended.store(true, Ordering::SeqCst);
            drop(lock);
        });
        reply(json!({ "pid": 42, "active": 0 }))
    });
    assert_eq!(daemon::stop(&mut context, true).await.unwrap(), exit::OK);
    assert!(has_ended.load(Ordering::SeqCst));
    let stopped = json!({ "running": false, "stopped": true, "pid": 42 });
    assert_eq!(printed(&out.text()), stopped);
}

#[tokio::test]
async fn daemon_of_another_version_can_be_stopped() {
    let (mut context, _home, _, err) = fake_daemon::context(false);
    fake_daemon::serve_hello(&context.paths, json!({ "protocol": 99 }), |_, _| {
        reply(json!("gone"))
    });
    let failure = models::ps(&mut context).await.unwrap_err();
    assert_eq!(context.output.failure(&failure), exit::UNAVAILABLE);
    assert!(err.text().contains("hint: Run `ingle stop`;"), "{}", err.text());
    assert_eq!(daemon::stop(&mut context, false).await.unwrap(), exit::OK);
}

#[tokio::test]
async fn answer_is_streamed_and_its_line_ended() {
    let (mut context, _home, out, err) = fake_daemon::context(false);
    fake_daemon::serve(&context.paths, |method, params| {
        assert_eq!((method, &params["stream"]), ("generate", &json!(true)));
        assert_eq!(params["prompt"], "hi");
        let events = vec![
            json!({ "type": "queued", "position": 1 }),
            json!({ "type": "delta", "text": "Hel" }),
            json!({ "type": "from_the_future" }),
            json!({ "type": "delta", "text": "lo" }),
        ];
        (events, Ok(generated("Hello")))
    });
    let options = GenerateOptions { stats: true, ..GenerateOptions::default() };
    assert_eq!(question(&mut context, &options).await.unwrap(), exit::OK);
    assert_eq!(out.text(), "Hello\n");
    assert!(err.text().starts_with("smollm2: 3 + 2 tokens in 3 ms;"), "{}", err.text());
}

#[tokio::test]
async fn json_answer_is_one_object() {
    let (mut context, _home, out, _) = fake_daemon::context(true);
    fake_daemon::serve(&context.paths, |_, params| {
        assert_eq!(params["budget"]["work_ms"], 1_500);
        reply(generated("Hello"))
    });
    let timeout = Some(std::time::Duration::from_millis(1_500));
    let options = GenerateOptions { timeout, ..GenerateOptions::default() };
    question(&mut context, &options).await.unwrap();
    assert_eq!(printed(&out.text())["choices"][0]["text"], "Hello");
}

#[tokio::test]
async fn choices_are_printed_under_headings() {
    let (mut context, _home, out, _) = fake_daemon::context(false);
    fake_daemon::serve(&context.paths, |_, params| {
        assert_eq!((&params["n"], &params["stream"]), (&json!(2), &Value::Null));
        assert_eq!(params["logit_bias"], json!({ "5": -1.5 }));
        let mut result = generated("one\n");
        let other = json!({ "text": "two", "finish_reason": "stop", "seed": 9 });
        result["choices"].as_array_mut().unwrap().push(other);
        reply(result)
    });
    let logit_bias = vec![(5, -1.5)];
    let options = GenerateOptions { choices: Some(2), logit_bias, ..GenerateOptions::default() };
    question(&mut context, &options).await.unwrap();
    assert_eq!(out.text(), "--- 1 of 2, seed 7 ---\none\n--- 2 of 2, seed 9 ---\ntwo\n");
}

#[tokio::test]
async fn missing_model_is_pulled_with_yes() {
    let (mut context, _home, out, _) = fake_daemon::context(false);
    let mut is_here = false;
    fake_daemon::serve(&context.paths, move |method, params| match method {
        "models.list" => list("available"),
        "models.pull" => {
            assert_eq!(params["model"], "smollm2");
            is_here = true;
            let event = json!({
                "type": "progress", "phase": "downloading", "done_bytes": 1, "total_bytes": 2,
            });
            let result = json!({
                "model": "smollm2", "size_bytes": 2, "sha256": "00", "already_here": false,
            });
            (vec![event], Ok(result))
        }
        _ if is_here => (vec![json!({ "type": "delta", "text": "yes" })], Ok(generated("yes"))),
        _ => not_found(),
    });
    let options = GenerateOptions { yes: true, ..GenerateOptions::default() };
    assert_eq!(question(&mut context, &options).await.unwrap(), exit::OK);
    assert_eq!(out.text(), "yes\n");
}

#[tokio::test]
async fn missing_repository_is_pulled_by_its_name() {
    let (mut context, _home, _, err) = fake_daemon::context(false);
    let mut is_here = false;
    fake_daemon::serve(&context.paths, move |method, params| match method {
        "models.list" => list("available"),
        "models.pull" => {
            assert_eq!(params["model"], "org/m:Q8_0");
            is_here = true;
            let pulled = json!({
                "model": "m-q8_0", "size_bytes": 2, "sha256": "00", "already_here": false,
            });
            reply(pulled)
        }
        _ if is_here => reply(generated("yes")),
        _ => {
            let details = json!({ "model": "org/m:Q8_0", "can_pull": true });
            let error = ErrorBody::new(ErrorCode::ModelNotFound, "it is not here");
            (Vec::new(), Err(error.with_details(details)))
        }
    });
    let model = Some("org/m:Q8_0".to_owned());
    let options = GenerateOptions { model: model.clone(), ..GenerateOptions::default() };
    let failure = question(&mut context, &options).await.unwrap_err();
    context.output.failure(&failure);
    assert!(err.text().contains("Run `ingle pull org/m:Q8_0` first"), "{}", err.text());
    let options = GenerateOptions { model, yes: true, ..GenerateOptions::default() };
    assert_eq!(question(&mut context, &options).await.unwrap(), exit::OK);
}

#[tokio::test]
async fn error_starts_on_a_new_line() {
    let (mut context, _home, out, _) = fake_daemon::context(false);
    fake_daemon::serve(&context.paths, |_, _| {
        let error = ErrorBody::new(ErrorCode::EngineFailed, "it broke");
        (vec![json!({ "type": "delta", "text": "half" })], Err(error))
    });
    question(&mut context, &GenerateOptions::default()).await.unwrap_err();
    assert_eq!(out.text(), "half\n");
}

#[tokio::test]
async fn missing_model_gets_a_pull_hint() {
    let (mut context, _home, _, err) = fake_daemon::context(false);
    fake_daemon::serve(&context.paths, |method, _| match method {
        "models.list" => list("available"),
        _ => not_found(),
    });
    let failure = question(&mut context, &GenerateOptions::default()).await.unwrap_err();
    assert_eq!(context.output.failure(&failure), exit::FAILED);
    assert!(err.text().contains("hint: Run `ingle pull smollm2` (98 MB) first, or add `--yes`."));
}

#[tokio::test]
async fn unpullable_model_keeps_its_error() {
    let (mut context, _home, _, err) = fake_daemon::context(false);
    fake_daemon::serve(&context.paths, |method, _| match method {
        "models.list" => list("on_disk"),
        _ => not_found(),
    });
    let options = GenerateOptions { yes: true, ..GenerateOptions::default() };
    let failure = question(&mut context, &options).await.unwrap_err();
    context.output.failure(&failure);
    assert!(err.text().contains("hint: Run `ingle models`"));
}

/// The reply of `jobs.wait`, with the fields of `end`.
fn job(status: &str, job_status: &str, end: Value) -> Value {
    let mut reply = json!({
        "status": status,
        "metadata": {
            "request_id": "1-1", "timestamp": "2026-11-21T10:00:01.000Z", "duration_ms": 900,
            "api_version": "v1",
        },
        "job": {
            "id": "j-1", "status": job_status, "kind": "generate", "class": "job",
            "timeout_s": 120.0, "attempts": 1, "created_at": "2026-11-21T10:00:00.000Z",
            "duration_ms": 900, "progress": 1.0, "message": job_status,
        },
    });
    for (name, value) in end.as_object().unwrap() {
        reply[name] = value.clone();
    }
    reply
}

#[tokio::test]
async fn wait_repeats_until_the_job_has_ended() {
    let (mut context, _home, out, _) = fake_daemon::context(false);
    let mut calls = 0;
    fake_daemon::serve(&context.paths, move |method, params| {
        assert_eq!((method, &params["id"]), ("jobs.wait", &json!("j-1")));
        calls += 1;
        let event = json!({
            "type": "progress", "status": "running", "progress": 0.5, "message": "half of it",
        });
        let reply = match calls {
            1 => job("pending", "running", json!({})),
            _ => job("success", "done", json!({ "result": generated("the end\n") })),
        };
        (vec![event], Ok(reply))
    });
    let wait = JobsCommand::Wait { id: "j-1".to_owned(), timeout: None };
    assert_eq!(jobs::run(&mut context, wait).await.unwrap(), exit::OK);
    assert_eq!(out.text(), "the end\n");
}

#[tokio::test]
async fn timed_out_job_prints_its_partial_text() {
    let (mut context, _home, out, err) = fake_daemon::context(false);
    fake_daemon::serve(&context.paths, |_, _| {
        let mut error = ErrorBody::new(ErrorCode::Timeout, "the work took too long");
        error.details = json!({ "partial_result": { "text": "so far" } });
        reply(job("error", "timed_out", json!({ "error": error })))
    });
    let wait = JobsCommand::Wait { id: "j-1".to_owned(), timeout: None };
    let failure = jobs::run(&mut context, wait).await.unwrap_err();
    assert_eq!(context.output.failure(&failure), exit::FAILED);
    assert_eq!(out.text(), "so far\n");
    assert!(err.text().starts_with("error: the work took too long\nhint: "), "{}", err.text());
    jobs::run(&mut context, JobsCommand::Get { id: "j-1".to_owned() }).await.unwrap();
    assert!(out.text().contains("status       timed_out\n"), "{}", out.text());
}
