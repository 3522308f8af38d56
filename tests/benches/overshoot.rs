//! Measures how late each layer answers after its limit: W, 1.5 W, 2 W and 2.5 W, on sim models.
//!
//! Usage: `cargo bench -p ingle-tests --bench overshoot` on an idle machine, after
//! `cargo build --release --bins --features ingled/sim`. At W one decode step of the model is
//! added, because the work ends between two steps.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot run says so by ending"
)]

use std::time::Instant;

use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::generate::{Generate, GenerateParams};
use ingle_tests::Home;
use ingle_tests::shim::{Carrier, Shim};
use rustix::process::Signal;
use serde_json::json;

/// W of raw generations, in milliseconds.
const WORK_MS: u64 = 200;
/// Milliseconds of one decode step.
const STEP_MS: u64 = 5;
/// The number of requests at each layer.
const REQUESTS: usize = 60;
/// The number of concurrent requests, as many as the daemon runs at once.
const AT_ONCE: usize = 5;

fn home() -> Home {
    let home = Home::with_sim(json!({ "reply": "ok" }));
    let long = "x".repeat(100_000);
    home.add_sim("slow", json!({ "reply": long, "token_delay_ms": STEP_MS }));
    home.add_sim("hanging", json!({ "reply": long, "hang_at": 1 }));
    home.write("config.toml", "default_model = \"sim\"\n[timeouts]\ncompletions = 0.2\n");
    home
}

/// Milliseconds by which `REQUESTS` answers arrived after `limit_ms`, through a shim.
fn through_shim(home: &Home, model: &str, layer: &str, limit_ms: u64) -> Vec<f64> {
    let mut shim = Shim::spawn(home);
    let ready = shim.request("health", &json!({}));
    shim.answer(ready);
    let mut late = Vec::new();
    while late.len() < REQUESTS {
        let params = json!({ "model": model, "prompt": "hi", "max_tokens": 100_000 });
        let asked: Vec<(i64, Instant)> = (0..AT_ONCE)
            .map(|_| {
                let begin = Instant::now();
                (shim.request("generate", &params), begin)
            })
            .collect();
        for (id, begin) in asked {
            let answer = shim.answer(id);
            assert_eq!((answer.code(), answer.layer()), ("TIMEOUT", layer), "{answer:?}");
            late.push((answer.at - begin).as_secs_f64() * 1e3 - limit_ms as f64);
        }
    }
    late
}

/// The same measurement in a client library behind a stopped shim.
async fn in_client(home: &Home, limit_ms: u64) -> Vec<f64> {
    let (shim, client) = Carrier::spawn(home).await;
    shim.signal(Signal::STOP);
    let params = GenerateParams {
        model: Some("slow".to_owned()),
        prompt: Some("hi".to_owned()),
        ..GenerateParams::default()
    };
    let mut late = Vec::new();
    while late.len() < REQUESTS {
        let calls: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let begin = Instant::now();
                (client.start::<Generate>(&params, Class::Completions).unwrap(), begin)
            })
            .collect();
        for (call, begin) in calls {
            let error = call.reply().await.unwrap_err();
            late.push(begin.elapsed().as_secs_f64() * 1e3 - limit_ms as f64);
            assert_eq!(error.details["layer"], "client", "{error:?}");
        }
    }
    late
}

fn report(layer: &str, limit_ms: u64, mut late: Vec<f64>) {
    late.sort_by(f64::total_cmp);
    println!(
        "{layer:<8} {limit_ms:>5} ms  {:>4} requests  overshoot median {:>6.1}  p99 {:>6.1}  worst {:>6.1} ms",
        late.len(),
        late[late.len() / 2],
        late[late.len() * 99 / 100],
        late[late.len() - 1],
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    {
        let home = home();
        let _daemon = home.daemon();
        report("work", WORK_MS, through_shim(&home, "slow", "work", WORK_MS));
        report("client", WORK_MS * 5 / 2, runtime.block_on(in_client(&home, WORK_MS * 5 / 2)));
    }
    {
        let home = home();
        let _daemon = home.daemon();
        report(
            "daemon",
            WORK_MS * 3 / 2,
            through_shim(&home, "hanging", "daemon", WORK_MS * 3 / 2),
        );
    }
    let home = home();
    let daemon = home.daemon();
    let mut shim = Shim::spawn(&home);
    let ready = shim.request("health", &json!({}));
    shim.answer(ready);
    daemon.signal(Signal::STOP);
    let mut late = Vec::new();
    while late.len() < REQUESTS {
        let params = json!({ "prompt": "hi" });
        let begin = Instant::now();
        let asked: Vec<i64> = (0..AT_ONCE).map(|_| shim.request("generate", &params)).collect();
        for id in asked {
            let answer = shim.answer(id);
            assert_eq!((answer.code(), answer.layer()), ("TIMEOUT", "shim"), "{answer:?}");
            late.push((answer.at - begin).as_secs_f64() * 1e3 - WORK_MS as f64 * 2.0);
        }
    }
    daemon.signal(Signal::CONT);
    report("shim", WORK_MS * 2, late);
}
