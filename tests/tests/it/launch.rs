//! Starting: races, stale sockets, folders of other users, bare environments.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::{Child, Stdio};

use ingle_client::exit;
use ingle_client::launch::StartReport;
use ingle_client::paths::SOCKET_PATH_BYTES;
use ingle_tests::{Home, binary};
use rustix::process::{Signal, geteuid, kill_process};
use serde_json::{Value, json};

/// Starts a shim that asks for the daemon's status and ends.
fn shim(home: &Home) -> Child {
    let mut command = home.command("ingle");
    command.arg("rpc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n").unwrap();
    child
}

/// The daemon's process id in the shim's answer.
fn answered_pid(child: Child) -> i32 {
    let output = child.wait_with_output().unwrap();
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    i32::try_from(reply["result"]["pid"].as_i64().expect("a status")).unwrap()
}

/// Each round also starts over the stale socket of the daemon killed in the round before.
#[test]
fn two_shims_at_once_start_one_daemon() {
    const ROUNDS: usize = 100;
    let home = Home::new();
    for round in 0..ROUNDS {
        let (first, second) = (shim(&home), shim(&home));
        let (first, second) = (answered_pid(first), answered_pid(second));
        assert_eq!(first, second, "round {round}");
        let pid = home.daemon_pid().expect("the daemon holds its lock");
        assert_eq!(pid.as_raw_nonzero().get(), first);
        kill_process(pid, Signal::KILL).unwrap();
        // The lock is released when the process has ended.
        let lock = ingle_client::launch::open_lock(&home.paths().daemon_lock()).unwrap();
        lock.lock().unwrap();
        assert!(home.paths().socket().exists(), "a killed daemon leaves its socket");
    }
    let logs = std::fs::read_dir(home.paths().logs_dir()).unwrap();
    let logs: String = logs
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default())
        .collect();
    // A separate thread writes the lines; a kill may lose the last line but never add one.
    assert!(logs.matches("the daemon is ready").count() <= ROUNDS);
}

#[test]
fn second_daemon_reports_first_and_exits() {
    let home = Home::with_sim(json!({}));
    let daemon = home.daemon();
    let (mut second, report) = home.try_daemon();
    assert_eq!(second.wait().unwrap().code(), Some(i32::from(exit::ALREADY_RUNNING)));
    let pid = u32::try_from(daemon.pid().as_raw_nonzero().get()).unwrap();
    assert_eq!(report, Some(StartReport::AlreadyRunning { pid: Some(pid) }));
    assert_eq!(home.ingle(["status", "--json"]).ok().json()["pid"], pid);
}

#[test]
fn folder_of_another_user_is_refused() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can give a folder away");
        return;
    }
    let home = Home::new();
    chown(home.paths().home(), Some(12_345), None).unwrap();
    let finished = home.ingle(["load"]);
    assert_eq!(finished.code(), i32::from(exit::NO_PERMISSION), "{finished:?}");
    assert!(finished.stderr.contains("12345") && finished.stderr.contains("hint:"), "{finished:?}");
    let (mut daemon, report) = home.try_daemon();
    assert_eq!(daemon.wait().unwrap().code(), Some(i32::from(exit::NO_PERMISSION)));
    assert!(matches!(report, Some(StartReport::Failed { .. })), "{report:?}");
    let uid = std::fs::metadata(home.paths().home()).unwrap().uid();
    assert_eq!(uid, 12_345, "the folder is left as it was");
    chown(home.paths().home(), Some(0), None).unwrap();
}

#[test]
fn long_socket_path_is_refused_with_advice() {
    let home = Home::new();
    let long = home.folder().join("x".repeat(SOCKET_PATH_BYTES));
    for (program, argument) in [("ingle", "status"), ("ingle", "load"), ("ingled", "serve")] {
        let mut command = home.command(program);
        let output = command.arg(argument).env("INGLE_HOME", &long).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(exit::CONFIG)), "{stderr}");
        assert!(stderr.contains("INGLE_SOCKET"), "{stderr}");
    }
}

#[test]
fn wrong_setting_stops_start_and_is_named() {
    let home = Home::new();
    home.write("config.toml", "[timeouts]\ndaemon = 3\n");
    let finished = home.ingle(["load"]);
    assert_eq!(finished.code(), i32::from(exit::CONFIG), "{finished:?}");
    assert!(finished.stderr.contains("daemon"), "{finished:?}");
}

/// `Home::command` gives HOME and PATH and nothing else.
#[test]
fn bare_environment_is_enough() {
    let home = Home::with_sim(json!({ "reply": "warm" }));
    let finished = home.ingle(["complete", "hi"]).ok();
    assert_eq!(finished.stdout.trim(), "warm");
    // The daemon outlives the shim that started it, in a session of its own.
    let pid = home.daemon_pid().expect("the daemon still runs");
    assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid);
    home.ingle(["stop"]).ok();
    assert!(home.daemon_pid().is_none());
    assert!(!home.paths().socket().exists());
}

/// A host that leaks descriptors into the shim must not find them open in the daemon.
#[test]
fn daemon_inherits_no_descriptor() {
    let home = Home::with_sim(json!({}));
    let leaked = home.folder().join("leaked");
    let script = format!("exec 7>'{}'; exec \"$0\" load", leaked.display());
    let mut shell = std::process::Command::new("/bin/sh");
    shell.env_clear().env("HOME", home.folder()).args(["-c", &script]).arg(binary("ingle"));
    assert!(shell.output().unwrap().status.success());
    let pid = home.daemon_pid().expect("the daemon runs");
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else {
        return; // This system does not list descriptors.
    };
    for descriptor in descriptors {
        let target = std::fs::read_link(descriptor.unwrap().path()).unwrap_or_default();
        assert_ne!(target, leaked);
    }
}
