//! Hosts that end abruptly: no process or request of theirs is left.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use ingle_tests::shim::Shim;
use ingle_tests::{Home, binary};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

fn slow_home() -> Home {
    Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }))
}

fn handshake() -> Value {
    let info = json!({ "name": "test host", "version": "1" });
    json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info })
}

fn long_call() -> Value {
    json!({ "name": "chat", "arguments": { "prompt": "hi", "max_tokens": 100_000 } })
}

/// A shell script as the host, and its other child.
struct Host {
    shell: Child,
    sleeper: Option<Pid>,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if let Some(sleeper) = self.sleeper {
            let _ = kill_process(sleeper, Signal::KILL);
        }
    }
}

/// The host is killed, and something else keeps both ends of the shim's input open: the test holds
/// one, and another child of the host has inherited the other.
#[test]
fn host_killed_with_input_open_ends_shim() {
    let home = slow_home();
    let script = r#"exec 3<&0; "$0" mcp <&3 & sleep 600 <&3 >/dev/null & echo $!; wait"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary("ingle")).env_clear().env("HOME", home.folder());
    command.env("PATH", std::env::var_os("PATH").unwrap()).stderr(Stdio::null());
    let shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut host = Host { shell, sleeper: None };
    let mut input = host.shell.stdin.take().unwrap();
    let mut lines = BufReader::new(host.shell.stdout.take().unwrap()).lines().map(Result::unwrap);
    let sleeper = Pid::from_raw(lines.next().unwrap().parse().unwrap()).unwrap();
    host.sleeper = Some(sleeper);
    let mut ask = |id: u64, method: &str, params: Value| {
        let frame = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        input.write_all(format!("{frame}\n").as_bytes()).unwrap();
    };
    ask(1, "initialize", handshake());
    assert!(lines.next().unwrap().contains("serverInfo"));
    ask(2, "tools/call", long_call());
    home.wait_active(1);
    host.shell.kill().unwrap();
    assert_eq!(host.shell.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    // Only the shim still held its output, so the output ends with the shim.
    assert_eq!(lines.next(), None);
    test_kill_process(sleeper).expect("it is still there, with the shim's input open");
    drop(input);
    // The host's request is cancelled, and the daemon still serves other clients.
    home.wait_active(0);
}

#[test]
fn signal_to_shim_ends_shim_and_its_requests() {
    let home = slow_home();
    let signals = [Signal::TERM, Signal::INT, Signal::HUP];
    for signal in signals.into_iter().filter(|signal| !is_ignored(*signal)) {
        let mut shim = Shim::spawn_as(&home, &["mcp"]);
        let id = shim.request("initialize", &handshake());
        shim.answer(id);
        shim.notify("notifications/initialized");
        shim.request("tools/call", &long_call());
        home.wait_active(1);
        shim.signal(signal);
        assert_eq!(shim.ended().signal(), Some(signal.as_raw()));
        home.wait_active(0);
    }
}

/// Whether this process was started with a signal ignored.
///
/// So it is in the background or under `nohup`, and child processes then ignore the signal too.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}
