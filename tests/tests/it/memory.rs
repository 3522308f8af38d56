//! The memory budget: which models are evicted or kept, and which requests wait or are refused.

use ingle_client::client::{Call, Client};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::generate::{Generate, GenerateParams, GenerateResult};
use ingle_protocol::wire::models::{LoadModel, LoadParams, LoadedModel, ModelParams, UnloadModel};
use ingle_protocol::wire::status::{Phase, Status, StatusReply};
use ingle_tests::{Home, status_when};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A home with a budget and one sim model for each configuration; the first is the default.
fn home(budget_mib: u64, models: &[(&str, Value)]) -> Home {
    let home = Home::new();
    let default = models[0].0;
    home.write(
        "config.toml",
        &format!("default_model = \"{default}\"\n[memory]\nbudget = \"{budget_mib} MiB\"\n"),
    );
    for (name, config) in models {
        home.add_sim(name, config.clone());
    }
    home
}

fn weights(mib: u64) -> Value {
    json!({ "weight_bytes": mib * MIB })
}

fn ask(model: &str) -> GenerateParams {
    GenerateParams {
        model: Some(model.to_owned()),
        prompt: Some("hello there".to_owned()),
        max_tokens: Some(16),
        ..GenerateParams::default()
    }
}

async fn generate(client: &Client, params: &GenerateParams) -> Result<GenerateResult, ErrorBody> {
    client.start::<Generate>(params, Class::Completions).unwrap().reply().await
}

async fn load(client: &Client, params: LoadParams) -> Result<LoadedModel, ErrorBody> {
    client.call::<LoadModel>(&params).await
}

fn named(model: &str) -> LoadParams {
    LoadParams { model: Some(model.to_owned()), ..LoadParams::default() }
}

fn names(status: &StatusReply) -> Vec<&str> {
    status.models.iter().map(|model| model.name.as_str()).collect()
}

/// A generation that runs until it is cancelled.
async fn endless(client: &Client, model: &str) -> Call<Generate> {
    let params = GenerateParams { max_tokens: Some(100_000), ..ask(model) };
    let call = client.start::<Generate>(&params, Class::Completions).unwrap();
    status_when(client, |status| status.active == 1).await;
    call
}

fn talkative(mib: u64) -> Value {
    json!({
        "weight_bytes": mib * MIB, "reply": "x".repeat(100_000), "token_delay_ms": 2,
        "context_tokens": 200_000,
    })
}

#[tokio::test]
async fn lru_idle_model_is_evicted_and_oversize_refused() {
    let models = [("a", weights(4)), ("b", weights(4)), ("c", weights(4)), ("big", weights(20))];
    let home = home(10, &models);
    let _daemon = home.daemon();
    let client = home.client().await;
    load(&client, named("a")).await.unwrap();
    load(&client, named("b")).await.unwrap();
    generate(&client, &ask("a")).await.unwrap();
    generate(&client, &ask("c")).await.unwrap();
    let status = client.call::<Status>(&NoParams {}).await.unwrap();
    assert_eq!(names(&status), ["a", "c"]);
    assert!(status.used_bytes >= 8 * MIB && status.budget_bytes == 10 * MIB, "{status:?}");
    let refused = generate(&client, &ask("big")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InsufficientMemory);
    assert!(refused.retryable && refused.message.contains("`big` needs 21 MB"), "{refused:?}");
    assert_eq!(refused.details["budget_bytes"], 10 * MIB);
    assert_eq!(refused.details["holders"][0]["model"], "a");
    // A refusal evicts no model.
    assert_eq!(names(&client.call::<Status>(&NoParams {}).await.unwrap()), ["a", "c"]);
}

#[tokio::test]
async fn estimate_names_evictions_and_loads_nothing() {
    let home = home(10, &[("a", weights(4)), ("b", weights(4)), ("c", weights(4))]);
    let _daemon = home.daemon();
    home.ingle(["load", "a"]).ok();
    home.ingle(["load", "b"]).ok();
    let estimate = home.ingle(["load", "--estimate", "c", "--json"]).ok().json();
    assert_eq!(estimate["fit"], "after_evictions");
    assert_eq!(estimate["weight_bytes"], 4 * MIB);
    assert_eq!(estimate["evictions"], json!([{ "model": "a", "unloads": true, "bytes": 4 * MIB }]));
    let text = home.ingle(["load", "--estimate", "b"]).ok().stdout;
    assert!(text.contains("it is already loaded"), "{text}");
    let client = home.client().await;
    assert_eq!(names(&client.call::<Status>(&NoParams {}).await.unwrap()), ["a", "b"]);
}

#[tokio::test]
async fn busy_model_is_kept_and_load_waits_for_memory() {
    let home = home(10, &[("a", talkative(6)), ("b", weights(6))]);
    let _daemon = home.daemon();
    let client = home.client().await;
    let in_use = endless(&client, "a").await;
    let other = home.client().await;
    let waiting = other.start::<Generate>(&ask("b"), Class::Completions).unwrap();
    let loading = home.client().await;
    let load = loading.start::<LoadModel>(&named("b"), Class::Workflow).unwrap();
    let status = status_when(&client, |status| status.queued == 1).await;
    assert_eq!((names(&status), status.active), (vec!["a"], 1));
    drop(in_use);
    assert_eq!(waiting.reply().await.unwrap().model, "b");
    load.reply().await.unwrap();
    assert_eq!(names(&client.call::<Status>(&NoParams {}).await.unwrap()), ["b"]);
}

/// Requests for the loaded model keep arriving, each while another runs. The request for the
/// other model must still get its turn.
#[tokio::test]
async fn long_wait_for_memory_precedes_later_requests() {
    let busy = json!({
        "weight_bytes": 6 * MIB, "reply": "x".repeat(400), "token_delay_ms": 2,
    });
    let home = home(10, &[("a", busy), ("b", weights(6))]);
    let _daemon = home.daemon();
    let socket = home.paths().socket().to_owned();
    let rivals: Vec<_> = (0..3)
        .map(|number| {
            let socket = socket.clone();
            tokio::spawn(async move {
                let client = Client::connect(&socket).await.unwrap();
                let params = GenerateParams { max_tokens: Some(300 + number), ..ask("a") };
                for _ in 0..40 {
                    generate(&client, &params).await.unwrap();
                }
            })
        })
        .collect();
    let client = home.client().await;
    status_when(&client, |status| status.active == 3).await;
    assert_eq!(generate(&client, &ask("b")).await.unwrap().model, "b");
    assert!(rivals.iter().any(|rival| !rival.is_finished()), "nobody competed");
    for rival in rivals {
        rival.abort();
    }
}

#[tokio::test]
async fn pinned_model_stays_until_unloaded_by_name() {
    let home = home(10, &[("a", weights(6)), ("b", weights(6))]);
    let _daemon = home.daemon();
    home.ingle(["load", "a", "--pin"]).ok();
    let client = home.client().await;
    let refused = generate(&client, &ask("b")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InsufficientMemory);
    assert_eq!(refused.details["holders"][0]["state"], "pinned");
    assert!(home.ingle(["ps"]).ok().stdout.contains("pinned"));
    home.ingle(["load", "a", "--no-pin"]).ok();
    generate(&client, &ask("b")).await.unwrap();
    home.ingle(["load", "b", "--pin"]).ok();
    let b = ModelParams { model: Some("b".to_owned()), stream: false };
    assert!(client.call::<UnloadModel>(&b).await.unwrap().was_loaded);
    generate(&client, &ask("a")).await.unwrap();
}

#[tokio::test]
async fn idle_model_is_unloaded_after_keep_alive() {
    let home = Home::new();
    home.add_sim("brief", json!({}));
    home.add_sim("gone", json!({}));
    home.add_sim("lasting", json!({}));
    home.write("config.toml", "[memory]\nkeep_alive = \"1h\"\n[models.\"gone\"]\nkeep_alive = 0\n");
    let _daemon = home.daemon();
    let client = home.client().await;
    let brief = LoadParams { keep_alive: Some("1s".parse().unwrap()), ..named("brief") };
    load(&client, brief).await.unwrap();
    load(&client, named("lasting")).await.unwrap();
    generate(&client, &ask("gone")).await.unwrap();
    let status = status_when(&client, |status| names(status) == ["brief", "lasting"]).await;
    assert!(status.models[1].expires_in_s > Some(3_500), "{status:?}");
    status_when(&client, |status| names(status) == ["lasting"]).await;
}

#[tokio::test]
async fn caches_go_before_models_and_requests_reserve() {
    let kib =
        json!({ "weight_bytes": MIB, "kv_bytes_per_token": 16 * 1024, "context_tokens": 400 });
    let home = home(4, &[("a", kib), ("b", weights(2))]);
    let _daemon = home.daemon();
    let client = home.client().await;
    // 11 tokens and up to 16 more are kept.
    generate(&client, &ask("a")).await.unwrap();
    let status = client.call::<Status>(&NoParams {}).await.unwrap();
    assert!(status.models[0].prompt_cache_bytes >= 11 * 16 * 1024, "{status:?}");
    // The budget allows it 3 MiB at its end, and no more.
    let long = GenerateParams { max_tokens: Some(180), ..ask("a") };
    generate(&client, &long).await.unwrap();
    let longer = GenerateParams { max_tokens: Some(300), ..ask("a") };
    let refused = generate(&client, &longer).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InsufficientMemory, "{refused:?}");
    // The caches of `a` are evicted for `b`; `a` itself stays.
    load(&client, named("b")).await.unwrap();
    load(&client, named("a")).await.unwrap();
    let status = client.call::<Status>(&NoParams {}).await.unwrap();
    assert_eq!((names(&status), status.loads), (vec!["a", "b"], 2));
}

#[tokio::test]
async fn sixteen_first_requests_reserve_one_load() {
    let home = home(100, &[("a", json!({ "weight_bytes": MIB, "load_delay_ms": 300 }))]);
    let _daemon = home.daemon();
    let calls: Vec<_> = (0..16)
        .map(|number| {
            let socket = home.paths().socket().to_owned();
            tokio::spawn(async move {
                let client = Client::connect(&socket).await.unwrap();
                let prompt = Some(format!("request number {number}"));
                generate(&client, &GenerateParams { prompt, ..ask("a") }).await.unwrap();
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let client = home.client().await;
    let status = client.call::<Status>(&NoParams {}).await.unwrap();
    assert_eq!((status.loads, status.generations), (1, 16));
}

#[tokio::test]
async fn load_without_waiting_requests_is_cancelled() {
    let home = home(100, &[("slow", json!({ "load_delay_ms": 60_000 }))]);
    let _daemon = home.daemon();
    let watcher = home.client().await;
    let is_loading = |status: &StatusReply| matches!(status.health.phase, Phase::Loading { .. });
    let (first, second) = (home.client().await, home.client().await);
    let request = first.start::<Generate>(&ask("slow"), Class::Completions).unwrap();
    let load = second.start::<LoadModel>(&named("slow"), Class::Workflow).unwrap();
    status_when(&watcher, |status| is_loading(status) && status.queued == 1).await;
    drop(request);
    let status = status_when(&watcher, |status| status.queued == 0).await;
    assert!(is_loading(&status), "somebody still waits for it");
    drop(load);
    status_when(&watcher, |status| status.health.phase == Phase::Idle).await;
}
