//! Sampling parameters and several completions of one prompt, on the sim engine with a fixed
//! table of logits.

use std::collections::BTreeMap;

use ingle_client::client::Client;
use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::generate::{
    FinishReason, Generate, GenerateEvent, GenerateParams, GenerateResult,
};
use ingle_protocol::wire::status::Status;
use ingle_tests::{Home, status_when};
use serde_json::json;

fn prompt(text: &str) -> GenerateParams {
    GenerateParams { prompt: Some(text.to_owned()), ..GenerateParams::default() }
}

async fn generate(client: &Client, params: &GenerateParams) -> Result<GenerateResult, ErrorBody> {
    client.start::<Generate>(params, params.class())?.reply().await
}

async fn nothing_is_left(client: &Client) {
    status_when(client, |status| status.active == 0 && status.queued == 0).await;
}

#[tokio::test]
async fn penalties_and_bias_decide_text() {
    let home = Home::with_sim(json!({ "logits": { "a": 3.0, "b": 2.5, "c": 2.0 } }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let base = GenerateParams { max_tokens: Some(8), logprobs: true, ..prompt("x") };
    let bias = BTreeMap::from([(u32::from('c'), 2.0), (u32::from('a'), -100.0)]);
    for (params, expected) in [
        (base.clone(), "aaaaaaaa"),
        (GenerateParams { presence_penalty: Some(1.0), ..base.clone() }, "abaaaaaa"),
        (GenerateParams { frequency_penalty: Some(1.0), ..base.clone() }, "abacbacb"),
        (GenerateParams { repetition_penalty: Some(2.0), ..base.clone() }, "abcaaaaa"),
        (
            GenerateParams {
                prompt: Some("a".to_owned()),
                repetition_penalty: Some(2.0),
                ..base.clone()
            },
            "bcaaaaaa",
        ),
        (
            GenerateParams {
                repetition_penalty: Some(2.0),
                repetition_window: Some(1),
                ..base.clone()
            },
            "abababab",
        ),
        (GenerateParams { logit_bias: bias, ..base.clone() }, "cccccccc"),
    ] {
        let result = generate(&client, &params).await.unwrap();
        assert_eq!(result.first().text, expected, "{params:?}");
        // Taken from the model's own distribution, before penalties and bias.
        let whole: f32 = [3.0_f32, 2.5, 2.0].into_iter().map(f32::exp).sum();
        for entry in &result.first().logprobs {
            let logit = [3.0, 2.5, 2.0][entry.token as usize - 'a' as usize];
            assert!((entry.logprob - (logit - whole.ln())).abs() < 1e-5, "{entry:?}");
            assert_eq!(entry.top, []);
        }
        assert_eq!(result.first().logprobs.len(), 8);
    }
}

/// The sim engine refuses to prefill more tokens than the prompt has, plus one for each further
/// completion, which needs its first logits.
#[tokio::test]
async fn several_completions_share_one_prefill() {
    let logits = json!({ "a": 1.0, "b": 0.5, "c": 0.0, "d": 0.5 });
    let text = "Once upon a time there was a hearth";
    let home = Home::with_sim(json!({ "logits": logits, "prompt_tokens": text.len() + 7 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let one = GenerateParams {
        max_tokens: Some(40),
        temperature: Some(1.0),
        seed: Some(7),
        top_logprobs: 2,
        ..prompt(text)
    };
    // More completions than slots.
    let many = GenerateParams { n: Some(8), stream: true, ..one.clone() };
    let mut call = client.start::<Generate>(&many, many.class()).unwrap();
    let (mut streamed, mut tokens) = (vec![String::new(); 8], [0; 8]);
    while let Some(event) = call.event().await {
        if let GenerateEvent::Delta { choice, text, logprobs } = event {
            streamed[choice].push_str(&text);
            tokens[choice] += logprobs.len();
        }
    }
    let result = call.reply().await.unwrap();
    let all: Vec<(String, u64)> =
        result.choices.iter().map(|choice| (choice.text.clone(), choice.seed)).collect();
    assert_eq!(streamed, all.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>());
    assert_eq!(tokens, [40; 8]);
    assert_eq!(result.usage.completion_tokens, 8 * 40);
    assert_eq!(result.usage.prompt_tokens, text.len());
    assert!(result.choices.iter().all(|choice| choice.finish_reason == FinishReason::Length));
    let different: std::collections::BTreeSet<_> = all.iter().map(|(text, _)| text).collect();
    assert_eq!(different.len(), 8);
    nothing_is_left(&client).await;
    // A seed gives the same text alone and with others.
    let again = Home::with_sim(json!({ "logits": logits }));
    let _again_daemon = again.daemon();
    let client = again.client().await;
    for (text, seed) in all.into_iter().step_by(3) {
        let alone = GenerateParams { seed: Some(seed), ..one.clone() };
        assert_eq!(generate(&client, &alone).await.unwrap().first().text, text);
    }
}

#[tokio::test]
async fn failed_completion_ends_only_its_request() {
    let home = Home::with_sim(json!({ "fail_at": 20 }));
    home.add_sim("sound", json!({ "reply": "x".repeat(100), "token_delay_ms": 1 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let sound = GenerateParams { model: Some("sound".to_owned()), ..prompt("hi") };
    let beside = client.start::<Generate>(&sound, sound.class()).unwrap();
    let params = GenerateParams { n: Some(8), ..prompt("hi") };
    let error = generate(&client, &params).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineFailed, "{error}");
    assert!(error.request_id.is_some());
    assert_eq!(beside.reply().await.unwrap().first().text.len(), 100);
    nothing_is_left(&client).await;
}

#[tokio::test]
async fn cancel_and_timeout_end_every_completion() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(100_000), "token_delay_ms": 5 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let params = GenerateParams { max_tokens: Some(100_000), n: Some(8), ..prompt("hi") };
    let call = client.start::<Generate>(&params, params.class()).unwrap();
    status_when(&client, |status| status.active == 5 && status.queued == 3).await;
    drop(call);
    nothing_is_left(&client).await;
    let budget = Some(Budget { work_ms: Some(200), remaining_ms: None });
    let error = generate(&client, &GenerateParams { budget, ..params }).await.unwrap_err();
    assert_eq!((error.code, error.details["layer"].as_str()), (ErrorCode::Timeout, Some("work")));
    nothing_is_left(&client).await;
}

#[tokio::test]
async fn many_completions_do_not_starve_others() {
    let home = Home::with_sim(json!({ "reply": "x".repeat(60), "token_delay_ms": 2 }));
    let _daemon = home.daemon();
    let client = home.client().await;
    let many = GenerateParams { n: Some(8), ..prompt("many") };
    let calls: Vec<_> =
        (0..3).map(|_| client.start::<Generate>(&many, many.class()).unwrap()).collect();
    status_when(&client, |status| status.queued > 0).await;
    let one = generate(&client, &prompt("one")).await.unwrap();
    assert_eq!(one.first().text.len(), 60);
    for call in calls {
        assert_eq!(call.reply().await.unwrap().choices.len(), 8);
    }
    assert_eq!(client.call::<Status>(&NoParams {}).await.unwrap().generations, 4);
}

#[tokio::test]
async fn wrong_sampling_parameters_are_named_with_range() {
    let home = Home::with_sim(json!({}));
    let _daemon = home.daemon();
    let client = home.client().await;
    let base = prompt("hi");
    let bias = |id, bias| BTreeMap::from([(id, bias)]);
    for (params, named) in [
        (
            GenerateParams { repetition_penalty: Some(0.0), ..base.clone() },
            "`repetition_penalty` must be a number from 0.01 to 100",
        ),
        (
            GenerateParams { repetition_window: Some(0), ..base.clone() },
            "`repetition_window` must be at least 1",
        ),
        (
            GenerateParams { frequency_penalty: Some(2.1), ..base.clone() },
            "`frequency_penalty` must be a number from -2 to 2, not 2.1",
        ),
        (
            GenerateParams { presence_penalty: Some(-3.0), ..base.clone() },
            "`presence_penalty` must be a number from -2 to 2, not -3",
        ),
        (
            GenerateParams { logit_bias: bias(258, 1.0), ..base.clone() },
            "`logit_bias` names token 258, and the model's ids end at 257",
        ),
        (
            GenerateParams { logit_bias: bias(5, 100.5), ..base.clone() },
            "`logit_bias` of token 5 must be a number from -100 to 100, not 100.5",
        ),
        (
            GenerateParams { logit_bias: (0..1_025).map(|id| (id, 1.0)).collect(), ..base.clone() },
            "`logit_bias` has more than 1024 entries",
        ),
        (GenerateParams { n: Some(0), ..base.clone() }, "`n` must be from 1 to 8"),
        (GenerateParams { n: Some(9), ..base.clone() }, "`n` must be from 1 to 8"),
        (GenerateParams { top_logprobs: 21, ..base }, "`top_logprobs` must be at most 20"),
    ] {
        let error = generate(&client, &params).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidParams, "{error}");
        assert!(error.message.starts_with(named), "{error}");
    }
}
