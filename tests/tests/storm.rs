//! Kills the daemon at random moments under load from eight shims.
//!
//! Usage: `cargo test -p ingle-tests --test storm [-- --kills N] [--seed N]`. Exits with 1 when
//! a request was not answered exactly once, a stored job is lost, or a process or socket is left.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test harness of its own: it prints what it counted, and ends where it cannot go on"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ingle_tests::Home;
use ingle_tests::shim::Shim;
use rustix::process::{Signal, kill_process};
use serde_json::json;

const SHIMS: u64 = 8;
/// The number of kills without `--kills`, enough for a smoke test.
const KILLS: u64 = 12;
/// The longest a daemon lives after it is ready, in milliseconds.
const LIFE_MS: u64 = 120;

/// A linear congruential generator, so that a seed gives the same moments again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// The results that one shim observed.
#[derive(Default)]
struct Seen {
    /// Answers by their code; `result` for those without an error.
    codes: BTreeMap<String, usize>,
    requests: usize,
    not_answered_once: usize,
    clean_end: bool,
    /// Jobs whose creation was confirmed.
    jobs: Vec<String>,
}

/// Sends one request after the other until the stop flag is set.
fn ask_on(home: &Home, seed: u64, stop: &AtomicBool) -> Seen {
    let (mut random, mut shim) = (Random(seed), Shim::spawn(home));
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let several = 1 + random.below(4);
        let ids: Vec<i64> = (0..several)
            .map(|_| match random.below(6) {
                0 => shim.request("status", &json!({})),
                1 => shim.request("models.load", &json!({ "model": "sim" })),
                2 => shim.request("tokenize", &json!({ "text": "a few words" })),
                3 => {
                    let work = json!({ "generate": { "prompt": "hi", "max_tokens": 30 } });
                    shim.request("jobs.create", &json!({ "work": work }))
                }
                _ => {
                    let max_tokens = 1 + random.below(60);
                    let stream = random.below(2) == 0;
                    let params =
                        json!({ "prompt": "hi", "max_tokens": max_tokens, "stream": stream });
                    shim.request("generate", &params)
                }
            })
            .collect();
        for id in ids {
            let answer = shim.answer(id);
            if let Some(job) = answer.frame["result"]["job"]["id"].as_str() {
                seen.jobs.push(job.to_owned());
            }
            let code = if answer.code().is_empty() { "result" } else { answer.code() };
            *seen.codes.entry(code.to_owned()).or_default() += 1;
            seen.requests += 1;
        }
    }
    let (status, answers) = shim.finish();
    // A session whose last attempt to reach a daemon failed says so.
    seen.clean_end = matches!(status.code(), Some(0 | 69));
    seen.not_answered_once = answers.values().filter(|answers| answers.len() != 1).count();
    seen.not_answered_once += seen.requests.abs_diff(answers.len());
    seen
}

/// The processes that run in this home, found by their environment.
fn processes(home: &Home) -> usize {
    let wanted = format!("HOME={}", home.folder().display());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|process| {
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
        })
        .count()
}

/// The number of lost jobs, and of jobs that ended neither with their text nor interrupted.
///
/// Waits for the jobs that still run.
fn check_jobs(home: &Home, jobs: &[&String]) -> (usize, usize) {
    let (mut lost, mut wrong) = (0, 0);
    let mut shim = Shim::spawn(home);
    for job in jobs {
        let status = loop {
            let id = shim.request("jobs.wait", &json!({ "id": job }));
            let answer = shim.answer(id);
            let reply = &answer.frame["result"];
            match reply["job"]["status"].as_str() {
                Some("queued" | "running") => {}
                Some("done") if reply["result"]["choices"][0]["text"] == "x".repeat(30) => {
                    break Some(true);
                }
                Some("interrupted") => break Some(true),
                Some(_) => break Some(false),
                None => break None,
            }
        };
        lost += usize::from(status.is_none());
        wrong += usize::from(status == Some(false));
    }
    (lost, wrong)
}

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |value| value.parse().expect("a number"))
}

fn main() -> ExitCode {
    let (kills, seed) = (argument("--kills", KILLS), argument("--seed", 1));
    let home = Home::with_sim(json!({ "reply": "x".repeat(60), "token_delay_ms": 1 }));
    let stop = Arc::new(AtomicBool::new(false));
    let mut random = Random(seed);
    let mut killed = 0;
    let seen: Vec<Seen> = thread::scope(|scope| {
        let shims: Vec<_> = (0..SHIMS)
            .map(|number| {
                let (home, stop) = (&home, Arc::clone(&stop));
                scope.spawn(move || ask_on(home, seed * 1_000 + number, &stop))
            })
            .collect();
        while killed < kills && !shims.iter().any(thread::ScopedJoinHandle::is_finished) {
            // The drawn value is the daemon's lifetime; the sleep waits for nothing else.
            thread::sleep(Duration::from_millis(random.below(LIFE_MS)));
            if let Some(pid) = home.daemon_pid()
                && kill_process(pid, Signal::KILL).is_ok()
            {
                killed += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        shims.into_iter().map(|shim| shim.join().expect("a shim's thread")).collect()
    });
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for (code, count) in seen.iter().flat_map(|seen| &seen.codes) {
        *codes.entry(code.clone()).or_default() += count;
    }
    let requests: usize = seen.iter().map(|seen| seen.requests).sum();
    let not_once: usize = seen.iter().map(|seen| seen.not_answered_once).sum();
    let unclean = seen.iter().filter(|seen| !seen.clean_end).count();
    let left = processes(&home);
    // Files left by the last daemon do not prevent the start of the next.
    home.ingle(["complete", "--max-tokens", "1", "hi"]).ok();
    let made: Vec<&String> = seen.iter().flat_map(|seen| &seen.jobs).collect();
    let (lost, wrong) = check_jobs(&home, &made);
    home.ingle(["stop"]).ok();
    let after_stop = processes(&home);
    let socket = home.paths().socket().exists();
    println!("{killed} kills, {SHIMS} shims, {requests} requests, answers by code: {codes:?}");
    println!(
        "not answered exactly once: {not_once}; sessions that failed: {unclean}; processes left: \
         {left} (the daemon), {after_stop} after `ingle stop`; socket left: {socket}"
    );
    println!("{} jobs were stored: {lost} are lost, {wrong} did not end as they must", made.len());
    let sound = lost == 0
        && wrong == 0
        && not_once == 0
        && unclean == 0
        && left <= 1
        && after_stop == 0
        && !socket;
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
