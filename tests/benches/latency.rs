//! Measures what Ingle adds: RPC against a raw echo on the same kind of socket, and the time of
//! `ingle mcp` from spawn to first reply. Prints ratios and medians of one run; asserts nothing.
//!
//! Usage: `cargo bench -p ingle-tests --bench latency`, after
//! `cargo build --release --bins --features ingled/sim`.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot run says so by ending"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ingle_tests::{Home, binary};
use serde_json::json;

const PING: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"health\"}\n";
/// Each block is a new connection: the core that a peer wakes up on has the largest effect, and
/// the scheduler chooses it again for each connection.
const BLOCKS: usize = 400;
const ROUNDS_A_BLOCK: usize = 100;
const WARM_UP_ROUNDS: usize = 20;
const SPAWNS: usize = 50;

/// Sends a line to the peer and reads a line back.
struct Line {
    reader: BufReader<UnixStream>,
    reply: String,
}

impl Line {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        Self { reader: BufReader::new(stream), reply: String::new() }
    }

    fn round_trip(&mut self) -> Duration {
        let started = Instant::now();
        self.reader.get_mut().write_all(PING).unwrap();
        self.reply.clear();
        self.reader.read_line(&mut self.reply).unwrap();
        started.elapsed()
    }
}

fn echo(listener: &UnixListener) {
    while let Ok((stream, _)) = listener.accept() {
        std::thread::spawn(move || echo_lines(stream));
    }
}

fn echo_lines(stream: UnixStream) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 0 {
        reader.get_mut().write_all(line.as_bytes()).unwrap();
        line.clear();
    }
}

fn percentile(durations: &mut [Duration], percent: usize) -> f64 {
    durations.sort_unstable();
    durations[(durations.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

/// Milliseconds from spawning `ingle mcp` to its reply to `initialize`, and its resident KiB.
fn mcp_start(home: &Home) -> (Duration, u64) {
    let initialize = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "bench", "version": "1" },
        },
    });
    let mut command = home.command("ingle");
    command.arg("mcp").stdin(Stdio::piped()).stdout(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{initialize}\n").as_bytes()).unwrap();
    let mut reply = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut reply).unwrap();
    let elapsed = started.elapsed();
    assert!(reply.contains("serverInfo"), "{reply}");
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let resident = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    drop(stdin);
    child.wait().unwrap();
    (elapsed, resident)
}

fn main() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();

    let echo_path = home.folder().join("echo.sock");
    let listener = UnixListener::bind(&echo_path).unwrap();
    std::thread::spawn(move || echo(&listener));
    let (mut raw_times, mut rpc_times) = (Vec::new(), Vec::new());
    // The two alternate, so that both see the same noise.
    for _ in 0..BLOCKS {
        for (path, times) in
            [(echo_path.as_path(), &mut raw_times), (home.paths().socket(), &mut rpc_times)]
        {
            let mut line = Line::connect(path);
            for _ in 0..WARM_UP_ROUNDS {
                line.round_trip();
            }
            times.extend((0..ROUNDS_A_BLOCK).map(|_| line.round_trip()));
        }
    }
    let (raw_p50, raw_p99) = (percentile(&mut raw_times, 50), percentile(&mut raw_times, 99));
    let (rpc_p50, rpc_p99) = (percentile(&mut rpc_times, 50), percentile(&mut rpc_times, 99));
    println!("raw echo          p50 {raw_p50:6.1} us   p99 {raw_p99:6.1} us");
    println!("RPC health        p50 {rpc_p50:6.1} us   p99 {rpc_p99:6.1} us");
    println!("ratio             p50 {:6.2}", rpc_p50 / raw_p50);

    let (mut starts, mut resident): (Vec<_>, Vec<_>) =
        (0..SPAWNS).map(|_| mcp_start(&home)).unzip();
    resident.sort_unstable();
    println!(
        "ingle mcp         spawn to first reply, median of {SPAWNS}: {:.2} ms; resident {:.1} MiB",
        percentile(&mut starts, 50) / 1e3,
        resident[SPAWNS / 2] as f64 / 1024.0
    );
    for name in ["ingle", "ingled"] {
        let bytes = std::fs::metadata(binary(name)).unwrap().len();
        println!("{name:<17} {:.1} MiB", bytes as f64 / (1024.0 * 1024.0));
    }
}
