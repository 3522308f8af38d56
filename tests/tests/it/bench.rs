//! `ingle bench` on the sim engine: checks what it measures, not how fast the result is.

use ingle_client::exit;
use ingle_tests::Home;
use ingle_tests::raw::Raw;
use serde_json::json;

#[test]
fn bench_requests_have_set_length_and_new_prompts() {
    // Without the benchmark's settings the completion would end after a few words.
    let home = Home::with_sim(json!({ "words": 1 }));
    let words = ["bench", "--json", "--prompt-tokens", "50", "--gen-tokens", "90", "--rounds", "2"];
    let report = home.ingle(words).ok().json();
    assert_eq!((&report["model"], &report["engine"]), (&json!("sim"), &json!("sim")));
    assert_eq!((&report["load"]["cold"], &report["other_generations"]), (&json!(false), &json!(0)));
    let results = report["results"].as_array().unwrap();
    let at_once: Vec<_> = results.iter().map(|figures| figures["concurrency"].as_u64()).collect();
    assert_eq!(at_once, [Some(1), Some(2)]);
    for figures in results {
        assert_eq!(figures["prompt_tokens"], 50);
        assert_eq!(figures["completion_tokens"], 90);
        assert_eq!(figures["cached_tokens"], 0);
        for rate in ["prompt", "decode", "all_prompt", "all_output"] {
            let spread = &figures[format!("{rate}_tokens_per_s")];
            let (median, best) = (spread["median"].as_f64(), spread["best"].as_f64());
            assert!(best >= median && median > Some(0.0), "{rate}: {spread}");
        }
        assert!(figures["ttft_ms"]["best"].as_f64() <= figures["ttft_ms"]["median"].as_f64());
    }
    // Warm-up rounds included: 1 + 2 of one, 1 + 2 of two.
    assert_eq!(home.ingle(["status", "--json"]).ok().json()["generations"], 9);
}

#[test]
fn cold_start_is_measured_and_columns_named() {
    let home = Home::with_sim(json!({ "load_delay_ms": 50 }));
    home.ingle(["load"]).ok();
    let words = ["bench", "sim", "--cold", "--rounds", "1", "--concurrency", "6"];
    let finished = home.ingle(words).ok();
    let mut lines = finished.stdout.lines();
    let heading = lines.next().unwrap();
    assert!(heading.starts_with("sim on sim (sim, 0 B), loaded in "), "{heading}");
    let columns = lines.nth(1).unwrap();
    assert!(columns.contains("FIRST TOKEN") && columns.contains("DECODE tok/s"), "{columns}");
    assert!(lines.next().unwrap().trim().starts_with("6  512 + 128"), "{finished:?}");
    assert!(finished.stderr.contains("the daemon runs 5 generations at once"), "{finished:?}");
    assert_eq!(home.ingle(["ps", "--json"]).ok().json()["models"][0]["name"], "sim");
}

#[test]
fn impossible_measurement_is_refused_at_start() {
    let home = Home::with_sim(json!({
        "context_tokens": 300, "reply": "x".repeat(10_000), "token_delay_ms": 50,
    }));
    let finished = home.ingle(["bench"]);
    assert_eq!(finished.code(), i32::from(exit::USAGE), "{finished:?}");
    assert!(finished.stderr.contains("512 prompt and 128 generated tokens"), "{finished:?}");
    assert_eq!(home.ingle(["bench", "--concurrency", "0"]).code(), i32::from(exit::USAGE));
    assert_eq!(home.ingle(["bench", "nothing"]).code(), i32::from(exit::FAILED));
    // A model in use is not unloaded.
    let raw = Raw::connect(&home);
    raw.request(1, "generate", &json!({ "prompt": "hi", "max_tokens": 290 }));
    home.wait_active(1);
    let finished = home.ingle(["bench", "--cold", "--json"]);
    assert_eq!(finished.code(), i32::from(exit::FAILED));
    assert_eq!(finished.json()["error"]["code"], "CONFLICT");
    assert!(finished.stderr.contains("warning: other generations (running: 1"), "{finished:?}");
}
