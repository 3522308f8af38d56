//! Hosts that go without a word: nothing of theirs stays behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use ingle_tests::shim::Shim;
use ingle_tests::{Home, binary};
use rustix::process::{Pid, Signal, kill_process};
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

/// The host is killed, and something else keeps both ends of the shim's pipes open: here the test
/// holds its input, and another child of the host has inherited the rest.
#[test]
fn a_shim_ends_with_its_host_though_its_input_stays_open() {
    let home = slow_home();
    let script = r#"exec 3<&0; "$0" mcp <&3 & sleep 600 <&3 >/dev/null & echo $!; wait"#;
    let mut host = std::process::Command::new("sh");
    host.args(["-c", script]).arg(binary("ingle")).env_clear().env("HOME", home.folder());
    host.env("PATH", std::env::var_os("PATH").unwrap());
    let mut host = host.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = host.stdin.take().unwrap();
    let mut output = BufReader::new(host.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let sleeper = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    for (id, method, params) in [(1, "initialize", handshake()), (2, "tools/call", long_call())] {
        let frame = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        input.write_all(format!("{frame}\n").as_bytes()).unwrap();
    }
    home.wait_active(1);
    host.kill().unwrap();
    assert_eq!(host.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    // The shim held the last other end of its output.
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    kill_process(sleeper, Signal::KILL).expect("it is still there, with the shim's input open");
    drop(input);
    // What the host had asked for is given up, and the daemon is there for the others.
    home.wait_active(0);
}

#[test]
fn signals_end_a_shim_and_what_it_asked_for() {
    let home = slow_home();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut shim = Shim::spawn_as(&home, &["mcp"]);
        let id = shim.request("initialize", &handshake());
        shim.answer(id);
        shim.notify("notifications/initialized");
        shim.request("tools/call", &long_call());
        home.wait_active(1);
        shim.signal(signal);
        let (status, _) = shim.finish();
        assert_eq!(status.signal(), Some(signal.as_raw()));
        home.wait_active(0);
    }
}
