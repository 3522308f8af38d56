//! The timeout ladder: where it is set, which layer applies it, and how it is shown.

use std::process::Output;

use ingle_client::exit;
use ingle_client::launch::StartReport;
use ingle_protocol::error::ErrorCode;
use ingle_tests::Home;
use serde_json::{Value, json};

/// Runs `ingle timeouts` with these variables.
fn timeouts(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = home.command("ingle");
    command.arg("timeouts").args(arguments).envs(variables.iter().copied());
    command.output().unwrap()
}

fn ladder(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> (Value, String) {
    let output = timeouts(home, &[arguments, &["--json"]].concat(), variables);
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap(), stderr)
}

#[test]
fn ladder_is_shown_without_starting_daemon() {
    let home = Home::new();
    let (shown, stderr) = ladder(&home, &[], &[]);
    assert_eq!(stderr, "");
    assert_eq!(
        shown["tool_timeouts"],
        json!({
            "simple": 60, "workflow": 300, "expert_analysis": 180, "chat": 900,
            "completions": 600, "embeddings": 120, "job": 120,
        })
    );
    assert_eq!(
        shown["infrastructure_timeouts"],
        json!({
            "daemon": 450, "shim": 600, "client": 750, "http": 300, "upstream": 30,
            "upstream_glm": 90, "upstream_kimi": 120, "upstream_kimi_web_search": 150,
        })
    );
    assert_eq!(shown["ratios"], json!({ "daemon": 1.5, "shim": 2.0, "client": 2.5 }));
    assert_eq!(shown["daemon"], Value::Null);
    let (chat, _) = ladder(&home, &["--class", "chat"], &[]);
    assert_eq!(chat["tool_timeouts"], json!({ "chat": 900 }));
    assert_eq!(chat["infrastructure_timeouts"]["client"], 2250);
    assert_eq!(chat["infrastructure_timeouts"]["http"], 900);
    let table = home.ingle(["timeouts", "--class", "expert-analysis"]).ok().stdout;
    let row = "expert_analysis   180     270   360     450   300  default\n";
    assert!(table.contains(row), "{table}");
    assert_eq!(home.ingle(["timeouts", "--class", "all"]).code(), i32::from(exit::USAGE));
    assert!(home.daemon_pid().is_none());
}

#[test]
fn shell_and_daemon_values_are_shown_apart() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    home.write(
        "config.toml",
        "default_model = \"sim\"\n[timeouts]\ncompletions = 9\nsimple = 50\n",
    );
    home.write(".env", "# ours\nexport MLX_SERVER_TIMEOUT_COMPLETIONS_SECONDS='0.5'\n");
    // The file in the working directory belongs to another program and is not read.
    std::fs::write(home.folder().join(".env"), "WORKFLOW_TOOL_TIMEOUT_SECS=1\n").unwrap();
    let _daemon = home.daemon();

    // The daemon has read the file: the work stops at W, which the caller did not name.
    let mut complete = home.command("ingle");
    complete.args(["complete", "hi", "--max-tokens", "100000", "--json"]);
    let error: Value = serde_json::from_slice(&complete.output().unwrap().stdout).unwrap();
    assert_eq!(error["error"]["code"], "TIMEOUT", "{error}");
    assert_eq!(error["error"]["details"]["layer"], "work");
    assert_eq!(error["error"]["details"]["limit_ms"], 500);

    let mut command = home.command("ingle");
    command.args(["timeouts", "--json"]).current_dir(home.folder());
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "they agree: {output:?}");
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let own = |name: &str| shown["tool_timeouts"][name].clone();
    assert_eq!(
        (own("completions"), own("simple"), own("workflow")),
        (json!(0.5), json!(50), json!(300))
    );
    assert_eq!(shown["classes"]["completions"]["client"], 1.25);
    assert_eq!(shown["sources"]["simple"]["line"], 4);
    assert_eq!(shown["daemon"]["tool_timeouts"], shown["tool_timeouts"]);
    assert_eq!(shown["daemon"]["differences"], json!([]));

    let variables = [("INGLE_TIMEOUT_JOB", "7"), ("INGLE_TIMEOUT_JBO", "8")];
    let (shown, stderr) = ladder(&home, &[], &variables);
    assert_eq!(shown["tool_timeouts"]["job"], 7);
    assert_eq!(shown["sources"]["job"]["name"], "INGLE_TIMEOUT_JOB");
    assert_eq!(
        shown["daemon"]["differences"],
        json!([{ "setting": "timeouts.job", "here": 7, "daemon": 120 }])
    );
    for part in ["timeouts.job is 7 s here and 120 s in", "ingle restart", "`INGLE_TIMEOUT_JBO`"] {
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn restart_applies_or_refuses_new_settings() {
    let home = Home::with_sim(json!({}));
    let first = home.ingle(["restart", "--json"]).ok().json();
    assert_eq!(first["stopped_pid"], Value::Null);
    home.write(".env", "INGLE_TIMEOUT_CHAT=-1\n");
    let refused = home.ingle(["restart"]);
    assert_eq!(refused.code(), i32::from(exit::CONFIG), "{refused:?}");
    assert_eq!(home.ingle(["status", "--json"]).ok().json()["pid"], first["pid"]);
    home.write(".env", "INGLE_TIMEOUT_CHAT=5\n");
    let second = home.ingle(["restart", "--json"]).ok().json();
    assert_eq!(second["stopped_pid"], first["pid"]);
    assert_ne!(second["pid"], first["pid"]);
    let (shown, _) = ladder(&home, &[], &[]);
    assert_eq!(shown["daemon"]["tool_timeouts"]["chat"], 5);
    home.ingle(["stop"]).ok();
}

#[test]
fn broken_ladder_or_derived_value_stops_start() {
    for (name, text, said, next) in [
        ("config.toml", "[timeouts]\nsimple = 301\n", "timeouts.simple (301 s", "at most 300"),
        (".env", "WORKFLOW_TOOL_TIMEOUT_SECS=90\n", "timeouts.expert_analysis", "at most 90"),
        (".env", "EX_HTTP_TIMEOUT_SECONDS=200\n", "timeouts.http", "at least 300"),
        (".env", "A=1\nEXAI_WS_DAEMON_TIMEOUT=450\n", "line 2", "set timeouts.workflow instead"),
        ("config.toml", "[timeouts]\nchat_shim = 9\n", "2 x timeouts.chat", "set timeouts.chat"),
        (".env", "nonsense\n", "`, line 1 is not of the form NAME=VALUE", "NAME=VALUE"),
    ] {
        let home = Home::new();
        home.write(name, text);
        let (mut daemon, report) = home.try_daemon();
        assert_eq!(daemon.wait().unwrap().code(), Some(i32::from(exit::CONFIG)), "{text}");
        let Some(StartReport::Failed { error, exit_code }) = report else { panic!("{report:?}") };
        assert_eq!((error.code, exit_code), (ErrorCode::ConfigInvalid, exit::CONFIG));
        for arguments in [&["load"][..], &["timeouts"]] {
            let finished = home.ingle(arguments);
            assert_eq!(finished.code(), i32::from(exit::CONFIG), "{finished:?}");
            assert!(finished.stderr.contains(said), "{finished:?}");
            assert!(finished.stderr.contains(next), "{finished:?}");
        }
    }
}

/// A shim passes its own environment to the daemon that it starts.
#[test]
fn derived_value_in_environment_is_refused() {
    let home = Home::new();
    for variable in ["INGLE_DAEMON_TIMEOUT", "EXAI_WS_CLIENT_TIMEOUT_SECS"] {
        for command in ["load", "timeouts"] {
            let mut ingle = home.command("ingle");
            let output = ingle.args([command, "--json"]).env(variable, "450").output().unwrap();
            assert_eq!(output.status.code(), Some(i32::from(exit::CONFIG)), "{output:?}");
            let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(shown["error"]["code"], "CONFIG_INVALID");
            assert!(shown["error"]["message"].as_str().unwrap().contains(variable), "{shown}");
        }
    }
}
