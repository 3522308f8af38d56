//! MiniLM on both engines against reference vectors (`reference/minilm_dev.json`).

use ingle_client::client::Client;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::Method;
use ingle_protocol::wire::embed::{Embed, EmbedInput, EmbedParams, EmbedResult};
use ingle_protocol::wire::models::{
    EstimateModel, LoadModel, LoadParams, ModelParams, UnloadModel,
};
use ingle_protocol::wire::tokens::{Tokenize, TokenizeParams};
use ingle_tests::{Home, fixture};
use serde_json::Value;

/// The least cosine between a vector and the reference's.
const LEAST_COSINE: f32 = 0.999_9;
/// The least cosine between an input's vectors in a batch and alone.
const BATCH_COSINE: f32 = 0.999_999;
/// The number of tokens of an input that the model reads.
const CONTEXT: usize = 256;

struct Case {
    text: String,
    token_ids: Vec<u32>,
    embedding: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(fixture("reference/minilm_dev.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 6);
    let numbers = |value: &Value| value.as_array().unwrap().clone().into_iter();
    let case = |case: &Value| Case {
        text: case["text"].as_str().unwrap().to_owned(),
        token_ids: numbers(&case["token_ids"]).map(|id| id.as_u64().unwrap() as u32).collect(),
        embedding: numbers(&case["embedding"]).map(|x| x.as_f64().unwrap() as f32).collect(),
    };
    cases.iter().map(case).collect()
}

fn cosine(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

async fn embed(
    client: &Client,
    model: &str,
    input: Vec<EmbedInput>,
    change: impl FnOnce(&mut EmbedParams),
) -> Result<EmbedResult, ErrorBody> {
    let mut params = EmbedParams { model: Some(model.into()), input, ..EmbedParams::default() };
    change(&mut params);
    client.start::<Embed>(&params, Embed::CLASS).unwrap().reply().await
}

/// Asserts the reference's token ids, vectors within `least` of it, and the same in a batch.
async fn check_against_the_reference(client: &Client, model: &str, least: f32) {
    let cases = cases();
    for case in &cases {
        let params = TokenizeParams {
            model: Some(model.into()),
            text: Some(case.text.clone()),
            ..TokenizeParams::default()
        };
        let tokens = client.call::<Tokenize>(&params).await.unwrap().tokens;
        assert_eq!(tokens, case.token_ids, "{}", case.text);
    }
    let texts = || cases.iter().map(|case| case.text.as_str().into()).collect();
    let together = embed(client, model, texts(), |_| {}).await.unwrap();
    let tokens: usize = cases.iter().map(|case| case.token_ids.len()).sum();
    assert_eq!((together.dimensions, together.usage.prompt_tokens), (384, tokens));
    let (mut worst, mut worst_alone) = (1.0_f32, 1.0_f32);
    for (case, vector) in cases.iter().zip(&together.embeddings) {
        worst = worst.min(cosine(vector, &case.embedding));
        let as_tokens = EmbedInput::Tokens(case.token_ids.clone());
        for input in [case.text.as_str().into(), as_tokens] {
            let alone = embed(client, model, vec![input], |_| {}).await.unwrap();
            worst_alone = worst_alone.min(cosine(vector, &alone.embeddings[0]));
        }
    }
    println!("{model}: the least cosine is {worst:.7}, to itself alone {worst_alone:.7}");
    assert!(worst >= least && worst_alone >= BATCH_COSINE, "{worst}, {worst_alone}");
}

#[tokio::test]
async fn minilm_on_mlx_agrees_with_the_reference() {
    let home = Home::new();
    home.add_minilm();
    let _daemon = home.daemon();
    let client = home.client().await;
    check_against_the_reference(&client, "minilm", LEAST_COSINE).await;

    // The largest request, in mixed order: the longest and the shortest input share no pass.
    let words = |count: usize| "sea ".repeat(count).into();
    let lengths = [0, 254, 3, 100, 1, 254, 40, 7, 0, 253];
    let texts: Vec<EmbedInput> = lengths.iter().map(|&count| words(count)).collect();
    let together = embed(&client, "minilm", texts.clone(), |_| {}).await.unwrap();
    for (text, vector) in texts.into_iter().zip(&together.embeddings) {
        let alone = embed(&client, "minilm", vec![text], |_| {}).await.unwrap();
        assert!(cosine(vector, &alone.embeddings[0]) >= BATCH_COSINE);
    }

    // An input that is too long is refused, or truncated if the caller asks for that.
    let error = embed(&client, "minilm", vec![words(255)], |_| {}).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ContextTooLong, "{error:?}");
    let cut = vec![words(3), words(600)];
    let cut = embed(&client, "minilm", cut, |params| params.truncate = true).await.unwrap();
    assert_eq!((cut.truncated, cut.usage.prompt_tokens), (vec![1], 5 + CONTEXT));
    assert!(cosine(&cut.embeddings[1], &together.embeddings[1]) >= BATCH_COSINE);

    // Only the model's own number of dimensions and its own tokens are accepted.
    let own = |params: &mut EmbedParams| params.dimensions = Some(384);
    assert_eq!(embed(&client, "minilm", vec![words(1)], own).await.unwrap().dimensions, 384);
    let fewer = |params: &mut EmbedParams| params.dimensions = Some(256);
    let error = embed(&client, "minilm", vec![words(1)], fewer).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParams);
    assert_eq!(error.details["field"], "dimensions");
    let foreign = vec![EmbedInput::Tokens(vec![101, 30_522, 102])];
    let error = embed(&client, "minilm", foreign, |_| {}).await.unwrap_err();
    assert!(error.message.contains("token 30522 in text 0"), "{}", error.message);
}

/// The same weights in a GGUF file on llama.cpp, with its own tokenizer and arithmetic.
#[tokio::test]
async fn minilm_on_llama_cpp_agrees_with_the_reference() {
    let home = Home::new();
    home.add_minilm();
    let file = home.paths().models_dir().join("minilm-f32.gguf");
    let converted = std::process::Command::new("python3")
        .arg(fixture("goldens/bert_to_gguf.py"))
        .args([&home.paths().models_dir().join("minilm"), &file])
        .output()
        .unwrap();
    assert!(converted.status.success(), "{converted:?}");
    let _daemon = home.daemon();
    let client = home.client().await;
    let model = file.to_str().unwrap();
    check_against_the_reference(&client, model, LEAST_COSINE).await;
}

#[tokio::test]
async fn minilm_is_estimated_loaded_and_unloaded() {
    let home = Home::new();
    home.add_minilm();
    let _daemon = home.daemon();
    let client = home.client().await;
    let params = LoadParams { model: Some("minilm".to_owned()), ..LoadParams::default() };
    let estimate = || async { client.call::<EstimateModel>(&params).await.unwrap() };
    let before = estimate().await;
    let loaded = client.call::<LoadModel>(&params).await.unwrap();
    assert_eq!((loaded.engine.as_str(), loaded.context_tokens), ("mlx", CONTEXT));
    // The file's weights without those that no vector needs.
    assert_eq!((before.weight_bytes, before.used_bytes), (90_261_504, 0));
    assert_eq!(loaded.weight_bytes, before.weight_bytes);
    let used_bytes = estimate().await.used_bytes;
    assert_eq!(used_bytes, before.weight_bytes + before.overhead_bytes);
    let unload = ModelParams { model: Some("minilm".to_owned()), stream: false };
    assert!(client.call::<UnloadModel>(&unload).await.unwrap().was_loaded);
    assert_eq!(estimate().await.used_bytes, 0);
}
