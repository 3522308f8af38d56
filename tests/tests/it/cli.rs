//! The command line, used by a person and by a script.

use std::process::Stdio;

use ingle_client::exit;
use ingle_tests::Home;
use serde_json::json;

#[test]
fn one_shot_answers_as_text_and_json() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    assert_eq!(home.ingle(["chat", "hello"]).ok().stdout.trim(), "crackle");
    let result = home.ingle(["complete", "hello", "--json", "--seed", "7"]).ok().json();
    let result = &result["choices"][0];
    assert_eq!((result["text"].as_str(), result["seed"].as_u64()), (Some("crackle"), Some(7)));
    let loaded = home.ingle(["ps", "--json"]).ok().json();
    assert_eq!(loaded["models"][0]["name"], "sim");
    let models = home.ingle(["models", "--json"]).ok().json();
    assert_eq!(models["default"], "sim");
    let unloaded = home.ingle(["unload", "--json"]).ok().json();
    assert_eq!(unloaded["was_loaded"], true);
    assert_eq!(home.ingle(["status", "--json"]).ok().json()["health"]["state"], "ok");
    let logs = home.ingle(["logs"]).ok();
    assert!(logs.stdout.contains("the daemon is ready"), "{logs:?}");
}

#[test]
fn status_and_stop_work_without_daemon() {
    let home = Home::new();
    assert_eq!(home.ingle(["status"]).code(), i32::from(exit::UNAVAILABLE));
    home.ingle(["stop"]).ok();
    home.ingle(["ps"]).ok();
    assert!(home.daemon_pid().is_none(), "none of them starts a daemon");
}

#[test]
fn missing_model_is_explained() {
    let home = Home::new();
    let finished = home.ingle(["chat", "hello"]);
    assert_eq!(finished.code(), i32::from(exit::FAILED));
    assert!(finished.stderr.contains("error:"), "{finished:?}");
    assert!(finished.stderr.contains("ingle pull smollm2"), "{finished:?}");
    let error = home.ingle(["chat", "--json", "--model", "nobody", "hello"]);
    assert_eq!(error.json()["error"]["code"], "MODEL_NOT_FOUND");
}

#[test]
fn oversize_prompt_is_refused_at_once() {
    let home = Home::with_sim(json!({}));
    let prompt = home.folder().join("prompt");
    // Each newline takes two bytes in a frame.
    std::fs::write(&prompt, "y\n".repeat(3_000_000)).unwrap();
    let mut command = home.command("ingle");
    command.args(["complete", "-"]).stdin(std::fs::File::open(prompt).unwrap());
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit::FAILED)), "{stderr}");
    assert!(stderr.contains("hint: Send a smaller request."), "{stderr}");
}

#[test]
fn model_is_imported_from_folder() {
    let home = Home::new();
    let folder = home.folder().join("my-sim");
    std::fs::create_dir(&folder).unwrap();
    let config = json!({ "model_type": "sim", "reply": "mine" });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let pulled = home.ingle(["pull", folder.to_str().unwrap(), "--name", "mine", "--json"]).ok();
    assert_eq!(pulled.json()["model"], "mine");
    assert_eq!(home.ingle(["complete", "-m", "mine", "x"]).ok().stdout.trim(), "mine");
}

#[test]
fn broken_models_are_refused_and_daemon_lives() {
    let home = Home::with_sim(json!({ "reply": "alive" }));
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("garbage", b"not a gguf"),
        ("cut", b"GGUF\x03\0\0\0\xff\xff\xff\xff"),
    ] {
        let folder = home.paths().models_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("model.gguf"), bytes).unwrap();
        let finished = home.ingle(["complete", "-m", name, "x"]);
        assert_eq!(finished.code(), i32::from(exit::FAILED), "{finished:?}");
        assert!(finished.stderr.contains("model.gguf"), "{finished:?}");
    }
    assert_eq!(home.ingle(["complete", "x"]).ok().stdout.trim(), "alive");
}

#[test]
fn wrong_command_line_exits_with_two() {
    let home = Home::new();
    for arguments in [&["nonsense"][..], &["chat", "--top-p", "7", "x"], &["pull"]] {
        assert_eq!(home.ingle(arguments).code(), i32::from(exit::USAGE), "{arguments:?}");
    }
}

#[test]
fn output_into_closed_pipe_is_no_error() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let mut command = home.command("ingle");
    let mut child =
        command.arg("models").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
