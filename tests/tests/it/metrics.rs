//! Metrics after work with known counts.

use ingle_client::client::Client;
use ingle_client::exit;
use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::generate::{Generate, GenerateParams, GenerateResult};
use ingle_protocol::wire::jobs::{CreateJob, JobParams, JobWork, WaitJob, WaitParams};
use ingle_protocol::wire::metrics::{Metrics, MetricsFormat, MetricsParams};
use ingle_protocol::wire::models::{LoadModel, LoadParams, ModelParams, UnloadModel};
use ingle_protocol::wire::status::{Status, StatusReply};
use ingle_tests::Home;
use ingle_tests::exposition::Exposition;
use ingle_tests::http::Http;
use serde_json::json;

use crate::mcp::Host;

const MIB: u64 = 1 << 20;
/// A caller's text that must not appear as a label.
const MARK: &str = "nobody-knows-this";

async fn read(client: &Client) -> Exposition {
    let params = MetricsParams::default();
    let text = client.call::<Metrics>(&params).await.unwrap().text.unwrap();
    assert!(!text.contains(MARK), "{text}");
    Exposition::read(&text)
}

fn ask(model: &str) -> GenerateParams {
    GenerateParams {
        model: Some(model.to_owned()),
        prompt: Some(format!("a prompt of some length, {MARK}")),
        max_tokens: Some(16),
        ..GenerateParams::default()
    }
}

async fn generate(client: &Client, params: &GenerateParams) -> Result<GenerateResult, ErrorBody> {
    client.start::<Generate>(params, Class::Completions).unwrap().reply().await
}

fn home() -> Home {
    let home = Home::new();
    home.write("config.toml", "default_model = \"a\"\n[memory]\nbudget = \"10 MiB\"\n");
    home.add_sim("a", json!({ "weight_bytes": 4 * MIB, "token_delay_ms": 1 }));
    home.add_sim("b", json!({ "weight_bytes": 4 * MIB }));
    home.add_sim("c", json!({ "weight_bytes": 4 * MIB }));
    home.add_sim("broken", json!({ "fail_load": true }));
    home.add_sim("slow", json!({ "reply": "x".repeat(100_000), "token_delay_ms": 2 }));
    home
}

#[tokio::test]
async fn counts_match_the_work_done() {
    let home = home();
    let _daemon = home.daemon();
    let client = home.client().await;
    // The same prompt three times, for cache hits, and two completions for one prompt.
    let mut results = Vec::new();
    for choices in [None, None, None, Some(2)] {
        let params = GenerateParams { n: choices, ..ask("a") };
        results.push(generate(&client, &params).await.unwrap());
    }
    let slow = GenerateParams {
        max_tokens: Some(100_000),
        budget: Some(Budget { work_ms: Some(100), remaining_ms: None }),
        ..ask("slow")
    };
    for (params, code) in [
        (ask(MARK), ErrorCode::ModelNotFound),
        (ask("broken"), ErrorCode::EngineFailed),
        (GenerateParams { top_p: Some(7.0), ..ask("a") }, ErrorCode::InvalidParams),
        (slow, ErrorCode::Timeout),
    ] {
        assert_eq!(generate(&client, &params).await.unwrap_err().code, code);
    }
    let mut raw = ingle_tests::raw::Raw::connect(&home);
    raw.request(1, MARK, &json!({}));
    let _ = raw.reply();
    raw.send(b"{nonsense\n");
    let _ = raw.reply();

    let seen = read(&client).await;
    let requests = |method, outcome| {
        let labels = [("edge", "rpc"), ("method", method), ("outcome", outcome)];
        seen.sum("ingle_requests_total", &labels)
    };
    assert_eq!([requests("generate", "ok"), requests("generate", "error")], [4.0, 3.0]);
    assert_eq!([requests("generate", "timeout"), requests("unknown", "error")], [1.0, 2.0]);
    for code in
        ["MODEL_NOT_FOUND", "ENGINE_FAILED", "INVALID_PARAMS", "TIMEOUT", "METHOD_NOT_FOUND"]
    {
        assert_eq!(seen.sum("ingle_errors_total", &[("code", code)]), 1.0, "{code}");
    }
    let timeouts = [("class", "completions"), ("layer", "work")];
    assert_eq!(seen.sum("ingle_timeouts_total", &timeouts), 1.0);
    assert_eq!(seen.sum("ingle_timeouts_total", &[]), 1.0);

    let of_a = [("model", "a"), ("engine", "sim")];
    let tokens = |count: fn(&GenerateResult) -> usize| results.iter().map(count).sum::<usize>();
    let generated = tokens(|result| result.usage.completion_tokens);
    let sources = ["read", "cached"]
        .map(|source| seen.sum("ingle_prompt_tokens_total", &[("model", "a"), ("source", source)]));
    assert_eq!(seen.sum("ingle_generated_tokens_total", &of_a), generated as f64);
    assert_eq!(sources[1], tokens(|result| result.usage.cached_tokens) as f64);
    assert_eq!(sources[0] + sources[1], tokens(|result| result.usage.prompt_tokens) as f64);
    // One first token per request, and the time between tokens for each of the five completions.
    assert_eq!(seen.sum("ingle_time_to_first_token_seconds_count", &of_a), 4.0);
    assert_eq!(seen.sum("ingle_inter_token_seconds_count", &of_a), generated as f64 - 5.0);
    let between = seen.sum("ingle_inter_token_seconds_sum", &of_a);
    assert!(between >= 0.001 * (generated as f64 - 5.0), "a token takes a millisecond: {between}");
    assert_eq!(seen.sum("ingle_queue_wait_seconds_count", &[]), 5.0);
    assert_eq!(seen.sum("ingle_model_loads_total", &[("outcome", "ok")]), 2.0);
    assert_eq!(seen.sum("ingle_model_loads_total", &[("outcome", "error")]), 1.0);
    assert_eq!(seen.sum("ingle_model_load_duration_seconds_count", &[]), 2.0);
    // The request for the metrics itself.
    assert_eq!(seen.sum("ingle_requests_in_flight", &[("edge", "rpc")]), 1.0);
    assert_eq!(seen.sum("ingle_connections", &[("edge", "rpc")]), 2.0);

    let status = client.call::<Status>(&NoParams {}).await.unwrap();
    let ttft = status.ttft.unwrap();
    assert_eq!(ttft.count, 5, "with the one that ran out of time");
    assert!(ttft.p50_ms > 0.0 && ttft.p50_ms <= ttft.p95_ms, "{ttft:?}");
}

#[tokio::test]
async fn memory_matches_status_and_unloads_have_reasons() {
    let home = home();
    let _daemon = home.daemon();
    let client = home.client().await;
    for model in ["a", "b"] {
        generate(&client, &ask(model)).await.unwrap();
    }
    let named = |model: &str| LoadParams { model: Some(model.to_owned()), ..LoadParams::default() };
    client.call::<LoadModel>(&named("c")).await.unwrap();
    let unload = ModelParams { model: Some("c".to_owned()), ..ModelParams::default() };
    client.call::<UnloadModel>(&unload).await.unwrap();

    let status: StatusReply = client.call::<Status>(&NoParams {}).await.unwrap();
    let seen = read(&client).await;
    let model = &status.models[0];
    assert_eq!((model.name.as_str(), status.models.len()), ("b", 1));
    let bytes = |kind| {
        seen.sum("ingle_model_memory_bytes", &[("model", "b"), ("engine", "sim"), ("kind", kind)])
    };
    assert_eq!(bytes("weights"), model.weight_bytes as f64);
    assert_eq!(bytes("prompt_cache"), model.prompt_cache_bytes as f64);
    assert_eq!(bytes("kv") + bytes("prompt_cache"), model.kv_bytes as f64);
    assert!(model.prompt_cache_bytes > 0, "{model:?}");
    assert_eq!(seen.series("ingle_model_memory_bytes").count(), 3);
    assert_eq!(seen.sum("ingle_memory_budget_bytes", &[]), status.budget_bytes as f64);
    assert_eq!(seen.sum("ingle_memory_used_bytes", &[]), status.used_bytes as f64);
    assert!(seen.sum("ingle_memory_resident_peak_bytes", &[]) > 0.0);
    assert_eq!(seen.sum("ingle_model_loaded", &[]), 1.0);
    for (reason, count) in [("memory", 1.0), ("asked", 1.0), ("idle", 0.0), ("replaced", 0.0)] {
        let departures = seen.sum("ingle_model_unloads_total", &[("reason", reason)]);
        assert_eq!(departures, count, "{reason}");
    }
    assert_eq!(seen.sum("ingle_engine_phase", &[]), 1.0);
    assert_eq!(seen.sum("ingle_health", &[("state", "ok")]), 1.0);
}

#[tokio::test]
async fn each_edge_and_job_end_is_counted() {
    let home = home();
    let _daemon = home.daemon();
    let client = home.client().await;
    let mut host = Host::spawn(&home);
    host.initialize();
    let arguments = json!({ "prompt": "hi", "max_tokens": 4 });
    assert_eq!(host.call("chat", &arguments)["result"]["isError"], false);
    let unknown = json!({ "prompt": "hi", "model": MARK });
    assert_eq!(host.call("chat", &unknown)["result"]["isError"], true);
    host.call(MARK, &json!({}));
    let mut http = Http::socket(&home);
    let chat = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 4 });
    let _ = http.post("/v1/chat/completions", &chat).expect(200);
    let streamed = json!({ "prompt": "hi", "max_tokens": 4, "stream": true });
    let _ = http.post("/v1/completions", &streamed).expect(200);
    let _ = http.post("/v1/completions", &json!({ "prompt": "hi", "model": MARK })).expect(404);
    let _ = http.get(&format!("/{MARK}")).expect(404);
    let work = JobWork::Generate(ask("a"));
    let params = JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None };
    let job = client.call::<CreateJob>(&params).await.unwrap().job.id;
    client.call::<WaitJob>(&WaitParams { id: job, ..WaitParams::default() }).await.unwrap();

    let seen = read(&client).await;
    for (edge, method, outcome) in [
        ("mcp", "chat", "ok"),
        ("mcp", "chat", "error"),
        ("mcp", "unknown", "error"),
        ("http", "/v1/chat/completions", "ok"),
        ("http", "/v1/completions", "ok"),
        ("http", "/v1/completions", "error"),
        ("http", "unknown", "error"),
    ] {
        let labels = [("edge", edge), ("method", method), ("outcome", outcome)];
        assert_eq!(seen.sum("ingle_requests_total", &labels), 1.0, "{labels:?}");
    }
    for edge in ["mcp", "http"] {
        assert_eq!(seen.sum("ingle_requests_in_flight", &[("edge", edge)]), 0.0);
    }
    assert_eq!(seen.sum("ingle_connections", &[("edge", "http")]), 1.0);
    assert_eq!(seen.sum("ingle_connections", &[("edge", "mcp")]), 1.0);
    assert_eq!(seen.sum("ingle_jobs_ended_total", &[("status", "done")]), 1.0);
    assert_eq!(seen.sum("ingle_jobs_ended_total", &[]), 1.0);
    assert_eq!(seen.sum("ingle_jobs", &[("status", "running")]), 0.0);
    host.end();
}

#[tokio::test]
async fn command_prints_metrics_and_starts_no_daemon() {
    let home = home();
    assert_eq!(home.ingle(["metrics"]).code(), i32::from(exit::UNAVAILABLE));
    assert!(home.daemon_pid().is_none());
    let _daemon = home.daemon();
    let client = home.client().await;
    generate(&client, &ask("b")).await.unwrap();
    let printed = Exposition::read(&home.ingle(["metrics"]).ok().stdout);
    let parts = home.ingle(["metrics", "--json"]).ok().json();
    let families = parts["families"].as_array().unwrap();
    assert_eq!(families.len(), printed.kinds.len());
    for family in families {
        assert_eq!(family["kind"], json!(printed.kinds[family["name"].as_str().unwrap()]));
    }
    let params = MetricsParams { format: MetricsFormat::Families };
    let reply = client.call::<Metrics>(&params).await.unwrap();
    assert!(reply.text.is_none() && reply.families.unwrap().len() == families.len());
}
