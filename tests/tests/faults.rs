//! The table of faults: the fault, the layer that answered, the time taken, the caller's result.
//!
//! Usage: `cargo test -p ingle-tests --test faults`. Every row breaks the real binaries in one way,
//! through a shim as a host would, while another client works. Exits with 1 when a request was not
//! answered exactly once by the expected layer, or another client was affected. A late answer is
//! shown in the table and is not a failure.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test harness of its own: it prints a table, and ends where it cannot go on"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::generate::{Generate, GenerateParams};
use ingle_tests::raw::Raw;
use ingle_tests::shim::{Answer, Carrier, Shim};
use ingle_tests::{Home, status_when};
use rustix::process::Signal;
use serde_json::{Value, json};

/// W of a raw generation here, in milliseconds.
const WORK_MS: u64 = 400;

/// One row.
struct Row {
    fault: &'static str,
    /// The layer that should answer, and the code.
    expected: (&'static str, &'static str),
    answered: (String, String),
    after_ms: u64,
    /// The layer's limit; `None` where the answer should be immediate.
    limit_ms: Option<u64>,
    answers: usize,
    others: &'static str,
}

impl Row {
    fn holds(&self) -> bool {
        let (layer, code) = self.expected;
        // On a busy machine a limit may take effect late, but never early.
        let early = self.limit_ms.is_some_and(|limit_ms| self.after_ms < limit_ms);
        self.answered.0 == layer && self.answered.1 == code && self.answers == 1 && !early
    }
}

/// A home with models that each have one fault, and one slow model without a fault.
fn home(stall_s: f64) -> Home {
    let home = Home::with_sim(json!({ "reply": "ok" }));
    let slow = "x".repeat(100_000);
    home.add_sim("slow", json!({ "reply": slow, "token_delay_ms": 5 }));
    home.add_sim("hanging", json!({ "reply": slow, "hang_at": 3 }));
    home.add_sim("panicking", json!({ "reply": slow, "panic_at": 3 }));
    home.add_sim("aborting", json!({ "reply": slow, "abort_at": 3 }));
    let seconds = WORK_MS as f64 / 1_000.0;
    home.write(
        "config.toml",
        &format!(
            "default_model = \"sim\"\n[timeouts]\ncompletions = {seconds}\n\
             [engine]\nstall_s = {stall_s}\n"
        ),
    );
    home
}

fn ask(model: &str) -> Value {
    json!({ "model": model, "prompt": "hi", "max_tokens": 100_000, "stream": true })
}

/// The layer that an answer comes from. Only limits name one; other errors show it by their code.
fn who(answer: &Answer) -> (String, String) {
    let code = if answer.code().is_empty() { "result" } else { answer.code() };
    let layer = match (answer.layer(), code) {
        ("", "DAEMON_LOST" | "DAEMON_UNAVAILABLE") => "shim",
        ("", _) => "daemon",
        (layer, _) => layer,
    };
    (layer.to_owned(), code.to_owned())
}

/// Whether another client is served now.
///
/// Checked with a generation, or with a request that needs no engine where the engine has ended.
fn others_go_on(home: &Home, engine_works: bool) -> &'static str {
    if engine_works {
        // A class that has time to wait for a slot.
        let served = home.ingle(["chat", "hi"]).ok().stdout;
        assert_eq!(served.trim(), "ok");
        "generate"
    } else {
        home.ingle(["status"]).ok();
        home.ingle(["models"]).ok();
        "status, models"
    }
}

/// A fault that a model causes by itself.
fn by_model(
    fault: &'static str,
    model: &str,
    expected: (&'static str, &'static str),
    limit_ms: Option<u64>,
    stall_s: f64,
) -> Row {
    let home = home(stall_s);
    let daemon = home.daemon();
    let mut shim = Shim::spawn(&home);
    let ready = shim.request("health", &json!({}));
    shim.answer(ready);
    let begin = Instant::now();
    let id = shim.request("generate", &ask(model));
    let answer = shim.answer(id);
    let daemon_lives = answer.code() == "TIMEOUT";
    let engine_works = !(daemon_lives && model == "hanging");
    // A daemon that is shutting down still closes connections; the next daemon serves.
    let _living = if daemon_lives {
        Some(daemon)
    } else {
        let _ = daemon.wait();
        None
    };
    let others = others_go_on(&home, engine_works);
    row(fault, expected, limit_ms, begin, shim, id, &answer, others)
}

/// Ends the session and counts.
#[allow(clippy::too_many_arguments, reason = "the columns of one row")]
fn row(
    fault: &'static str,
    expected: (&'static str, &'static str),
    limit_ms: Option<u64>,
    begin: Instant,
    mut shim: Shim,
    id: i64,
    answer: &Answer,
    others: &'static str,
) -> Row {
    // The session works after every fault.
    let next = shim.request("health", &json!({}));
    assert!(shim.answer(next).code().is_empty());
    let (_, answers) = shim.finish();
    Row {
        fault,
        expected,
        answered: who(answer),
        after_ms: millis(answer.at - begin),
        limit_ms,
        answers: answers.get(&id).map_or(0, Vec::len),
        others,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A generation in progress when the daemon gets a signal.
fn by_signal(
    fault: &'static str,
    signal: Signal,
    expected: (&'static str, &'static str),
    limit_ms: Option<u64>,
) -> Row {
    let home = home(60.0);
    let daemon = home.daemon();
    let mut shim = Shim::spawn(&home);
    let begin = Instant::now();
    let id = shim.request("generate", &ask("slow"));
    shim.event();
    let struck = Instant::now();
    daemon.signal(signal);
    let answer = shim.answer(id);
    if signal == Signal::STOP {
        daemon.signal(Signal::CONT);
    } else {
        let _ = daemon.wait();
    }
    let others = others_go_on(&home, true);
    let begin = if limit_ms.is_some() { begin } else { struck };
    row(fault, expected, limit_ms, begin, shim, id, &answer, others)
}

/// A client library behind a shim that gets a signal.
async fn behind_shim(
    fault: &'static str,
    signal: Signal,
    expected: (&'static str, &'static str),
    limit_ms: Option<u64>,
) -> Row {
    let home = home(60.0);
    let _daemon = home.daemon();
    let (shim, client) = Carrier::spawn(&home).await;
    let params = GenerateParams {
        model: Some("slow".to_owned()),
        prompt: Some("hi".to_owned()),
        max_tokens: Some(100_000),
        stream: true,
        ..GenerateParams::default()
    };
    let begin = Instant::now();
    let mut call = client.start::<Generate>(&params, Class::Completions).unwrap();
    let _: Option<Value> = call.event().await;
    let struck = Instant::now();
    shim.signal(signal);
    let error = call.reply().await.unwrap_err();
    let begin = if limit_ms.is_some() { begin } else { struck };
    let after_ms = millis(begin.elapsed());
    // Its request is cancelled.
    let other = home.client().await;
    status_when(&other, |status| status.active == 0).await;
    let others = others_go_on(&home, true);
    let layer = error.details["layer"].as_str().unwrap_or("client").to_owned();
    let answered = (layer, error.code.as_str().to_owned());
    Row { fault, expected, answered, after_ms, limit_ms, answers: 1, others }
}

/// A client that requests more than its connection can buffer and reads none of it.
async fn unread() -> Row {
    let home = home(60.0);
    home.add_sim("flood", json!({ "reply": "x".repeat(30_000), "kv_bytes_per_token": 0 }));
    let _daemon = home.daemon();
    let mut raw = Raw::connect(&home);
    let other = home.client().await;
    let begin = Instant::now();
    raw.request(1, "generate", &ask("slow"));
    // It has its slot before the other requests arrive.
    status_when(&other, |status| status.active > 0).await;
    for id in 2..40 {
        raw.request(id, "generate", &ask("flood"));
    }
    let others = others_go_on(&home, true);
    // Nothing was read, and the work has still ended within its limit.
    status_when(&other, |status| status.active == 0 && status.queued == 0).await;
    let answer = loop {
        let frame = raw.reply();
        if frame["id"] == 1 {
            break Answer { frame, at: Instant::now() };
        }
    };
    let answered = who(&answer);
    Row {
        fault: "client stops reading",
        expected: ("work", "TIMEOUT"),
        answered,
        after_ms: millis(begin.elapsed()),
        limit_ms: Some(WORK_MS),
        answers: 1,
        others,
    }
}

/// A job requested while its store is broken in one way; other requests are served.
fn broken_store(fault: &'static str, damage: impl FnOnce(&Path)) -> Row {
    let home = home(60.0);
    {
        // A daemon that creates an intact store, then ends.
        let _daemon = home.daemon();
        home.ingle(["jobs", "create", "hi"]).ok();
        home.ingle(["stop"]).ok();
    }
    damage(&home.paths().job_store());
    let _daemon = home.daemon();
    let mut shim = Shim::spawn(&home);
    let begin = Instant::now();
    let work = json!({ "generate": { "prompt": "hi" } });
    let id = shim.request("jobs.create", &json!({ "work": work }));
    let answer = shim.answer(id);
    let others = others_go_on(&home, true);
    row(fault, ("daemon", "JOB_STORE_UNAVAILABLE"), None, begin, shim, id, &answer, others)
}

/// A job requested when no file can grow any more.
#[cfg(target_os = "linux")]
fn full_store() -> Row {
    use rustix::process::{Resource, Rlimit, prlimit};
    let home = home(60.0);
    let daemon = home.daemon();
    home.ingle(["jobs", "create", "hi"]).ok();
    let bytes = |most| Rlimit { current: most, maximum: None };
    prlimit(Some(daemon.pid()), Resource::Fsize, bytes(Some(1_000))).unwrap();
    let mut shim = Shim::spawn(&home);
    let begin = Instant::now();
    let work = json!({ "generate": { "prompt": "hi" } });
    let id = shim.request("jobs.create", &json!({ "work": work }));
    let answer = shim.answer(id);
    let others = others_go_on(&home, true);
    let expected = ("daemon", "JOB_STORE_UNAVAILABLE");
    let row = row("job store full", expected, None, begin, shim, id, &answer, others);
    prlimit(Some(daemon.pid()), Resource::Fsize, bytes(None)).unwrap();
    // Once there is room again, jobs are accepted again.
    home.ingle(["jobs", "create", "hi"]).ok();
    row
}

/// A generation and a job during which the wall clock jumps, which does not affect limits.
#[cfg(target_os = "linux")]
fn clock_jump(fault: &'static str, seconds: i64) -> Row {
    let home = home(60.0);
    let (library, jump) = (home.folder().join("clock.so"), home.folder().join("jump"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &ingle_tests::fixture("src/clock_jump.c")])
        .arg("-ldl")
        .status();
    assert!(built.unwrap().success(), "a C compiler is needed");
    let mut command = home.command("ingled");
    command.args(["serve", "--launched"]).env("LD_PRELOAD", &library);
    command.env("CLOCK_JUMP_FILE", &jump).stdout(Stdio::piped());
    let mut daemon = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ready"), "{line}");
    let mut shim = Shim::spawn(&home);
    let work = json!({ "generate": { "model": "slow", "prompt": "hi", "max_tokens": 100_000 } });
    let job = shim.request("jobs.create", &json!({ "work": work, "timeout_s": 0.8 }));
    let job = shim.answer(job).frame["result"]["job"]["id"].clone();
    let begin = Instant::now();
    let id = shim.request("generate", &ask("slow"));
    shim.event();
    std::fs::write(&jump, seconds.to_string()).unwrap();
    let answer = shim.answer(id);
    let waited = shim.request("jobs.wait", &json!({ "id": job }));
    let ended = shim.answer(waited);
    let info = &ended.frame["result"]["job"];
    assert_eq!(info["status"], "timed_out", "{}", ended.frame);
    let ran_ms = info["duration_ms"].as_u64().unwrap();
    assert!((800..60_000).contains(&ran_ms), "{info}");
    let kept = shim.request("jobs.get", &json!({ "id": job }));
    assert!(shim.answer(kept).code().is_empty(), "no jump deletes a job");
    let others = others_go_on(&home, true);
    let row = row(fault, ("work", "TIMEOUT"), Some(WORK_MS), begin, shim, id, &answer, others);
    let _ = daemon.kill();
    let _ = daemon.wait();
    row
}

fn print(rows: &[Row]) {
    println!(
        "| fault | answered by | code | after ms | limit ms | answers | others went on with | |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        let limit = row.limit_ms.map_or_else(|| "at once".to_owned(), |limit| limit.to_string());
        println!(
            "| {} | {} | {} | {} | {limit} | {} | {} | {} |",
            row.fault,
            row.answered.0,
            row.answered.1,
            row.after_ms,
            row.answers,
            row.others,
            if row.holds() { "ok" } else { "WRONG" }
        );
        let _ = std::io::stdout().flush();
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = |ratio: u64| Some(WORK_MS * ratio / 2);
    let mut rows = vec![
        by_model("work takes too long", "slow", ("work", "TIMEOUT"), work(2), 60.0),
        by_model("engine hangs", "hanging", ("daemon", "TIMEOUT"), work(3), 60.0),
        by_model(
            "engine hangs past the stall",
            "hanging",
            ("daemon", "ENGINE_STALLED"),
            Some(250),
            0.25,
        ),
        by_model("engine panics", "panicking", ("daemon", "ENGINE_FAILED"), None, 60.0),
        by_model("engine aborts", "aborting", ("shim", "DAEMON_LOST"), None, 60.0),
        by_signal("daemon stopped", Signal::STOP, ("shim", "TIMEOUT"), work(4)),
        by_signal("daemon killed", Signal::KILL, ("shim", "DAEMON_LOST"), None),
        runtime.block_on(behind_shim("shim stopped", Signal::STOP, ("client", "TIMEOUT"), work(5))),
        runtime.block_on(behind_shim("shim killed", Signal::KILL, ("client", "DAEMON_LOST"), None)),
        runtime.block_on(unread()),
        broken_store("job store corrupt", |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&[0x5a; 8_192], 0).unwrap();
        }),
        broken_store("job store newer", |path| {
            // The offset of SQLite's `user_version`.
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&99_u32.to_be_bytes(), 60).unwrap();
        }),
    ];
    #[cfg(target_os = "linux")]
    rows.extend([
        full_store(),
        clock_jump("wall clock jumps a year on", 31_536_000),
        clock_jump("wall clock jumps a year back", -31_536_000),
    ]);
    print(&rows);
    if rows.iter().all(Row::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
