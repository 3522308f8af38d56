//! SmolLM2 on both engines against reference outputs of mlx-lm (`reference/smollm2_dev.json`).

use ingle_client::client::Client;
use ingle_protocol::error::ErrorCode;
use ingle_protocol::wire::generate::{
    Generate, GenerateEvent, GenerateParams, GenerateResult, Message,
};
use ingle_protocol::wire::models::{EngineKind, LoadModel, LoadParams};
use ingle_protocol::wire::tokens::{Tokenize, TokenizeParams};
use ingle_tests::{Home, fixture};
use serde_json::{Value, json};

/// The number of greedy tokens to compare.
const COMPARED_TOKENS: usize = 16;
/// The largest error of an MLX log-probability; MLX computes with the reference's floats.
const LOGPROB_TOLERANCE: f64 = 0.05;
/// The largest mean divergence, in nats, of llama.cpp's distributions from the reference.
///
/// llama.cpp computes with four-bit weights that it never expands.
const MEAN_DIVERGENCE: f64 = 0.02;

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

struct Case {
    value: Value,
}

impl Case {
    fn messages(&self) -> Option<Vec<Message>> {
        let content = self.value["prompt"].as_str().unwrap().to_owned();
        let chat = self.value["chat"].as_bool().unwrap();
        chat.then(|| vec![Message::new("user", content)])
    }

    fn prompt(&self) -> Option<String> {
        let chat = self.value["chat"].as_bool().unwrap();
        (!chat).then(|| self.value["prompt"].as_str().unwrap().to_owned())
    }

    async fn check_tokens(&self, client: &Client, engine: EngineKind) {
        let params = TokenizeParams {
            engine: Some(engine),
            text: self.prompt(),
            messages: self.messages(),
            ..TokenizeParams::default()
        };
        let tokens = client.call::<Tokenize>(&params).await.unwrap().tokens;
        assert_eq!(tokens, ids(&self.value["prompt_tokens"]), "{}", self.value["prompt"]);
    }

    /// The reference's likeliest first tokens with their log-probabilities.
    fn first(&self) -> Vec<(u32, f64)> {
        let pairs = self.value["first_token_top5_logprobs"].as_array().unwrap();
        let pair = |pair: &Value| {
            let token = u32::try_from(pair[0].as_u64().unwrap()).unwrap();
            (token, pair[1].as_f64().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    async fn generate(&self, client: &Client, engine: EngineKind) -> GenerateResult {
        let params = GenerateParams {
            engine: Some(engine),
            messages: self.messages(),
            prompt: self.prompt(),
            max_tokens: Some(u32::try_from(COMPARED_TOKENS).unwrap()),
            // Enough to include the reference's five where the engines order them differently.
            top_logprobs: 20,
            ..GenerateParams::default()
        };
        let call = client.start::<Generate>(&params, params.class()).unwrap();
        call.reply().await.unwrap()
    }

    /// Whether the greedy text equals the reference's.
    fn is_same_text(&self, result: &GenerateResult) -> bool {
        let tokens: Vec<u32> =
            result.first().logprobs.iter().map(|logprob| logprob.token).collect();
        let reference = ids(&self.value["greedy_tokens"]);
        let compared = reference.len().min(COMPARED_TOKENS);
        tokens.get(..compared) == Some(&reference[..compared])
    }

    /// The Kullback-Leibler divergence of the first token's distribution, in nats.
    ///
    /// It is taken from the reference's; all but the reference's likeliest tokens count as one.
    fn divergence(&self, result: &GenerateResult) -> f64 {
        let found = &result.first().logprobs[0].top;
        let (mut divergence, mut rest_of_reference, mut rest_of_found) = (0.0, 1.0, 1.0);
        for (token, reference) in self.first() {
            let found = found.iter().find(|(found, _)| *found == token);
            let (_, found) = found.expect("the likeliest tokens are among twenty");
            let (found, probability) = (f64::from(*found), reference.exp());
            divergence += probability * (reference - found);
            rest_of_reference -= probability;
            rest_of_found -= found.exp();
        }
        divergence + rest_of_reference * (rest_of_reference / rest_of_found).ln()
    }
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(fixture("reference/smollm2_dev.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 6);
    cases.into_iter().map(|value| Case { value }).collect()
}

#[tokio::test]
async fn smollm2_on_mlx_agrees_with_mlx_lm() {
    let home = Home::new();
    home.add_smollm2();
    let _daemon = home.daemon();
    let client = home.client().await;
    // The second time every prompt continues from the KV cache of the first.
    for round in 0..2 {
        let mut same = 0;
        for case in cases() {
            case.check_tokens(&client, EngineKind::Mlx).await;
            let result = case.generate(&client, EngineKind::Mlx).await;
            let five = &result.first().logprobs[0].top[..5];
            for (token, reference) in case.first() {
                let found = five.iter().find(|(found, _)| *found == token);
                let (_, logprob) = found.expect("the same five tokens");
                assert!((f64::from(*logprob) - reference).abs() < LOGPROB_TOLERANCE);
            }
            same += usize::from(case.is_same_text(&result));
        }
        assert!(same >= 5, "{same} of 6 greedy texts are the same in round {round}");
    }
}

#[tokio::test]
async fn smollm2_on_llama_cpp_agrees_with_mlx_lm() {
    let home = Home::new();
    home.add_smollm2();
    let _daemon = home.daemon();
    let client = home.client().await;
    for round in 0..2 {
        let (mut same, mut divergences) = (0, Vec::new());
        for case in cases() {
            case.check_tokens(&client, EngineKind::Gguf).await;
            let result = case.generate(&client, EngineKind::Gguf).await;
            divergences.push(case.divergence(&result));
            same += usize::from(case.is_same_text(&result));
        }
        let mean = divergences.iter().sum::<f64>() / divergences.len() as f64;
        println!("round {round}: {same} of 6 texts the same, mean divergence {mean:.5} nats");
        println!("  {divergences:.5?}");
        assert!(mean < MEAN_DIVERGENCE, "{divergences:?}");
    }
}

/// A model runs on its format's engine unless the caller names another, and then stays there.
#[tokio::test]
async fn engine_is_chosen_by_caller() {
    let home = Home::new();
    home.add_smollm2();
    home.add_sim("sim", json!({}));
    let _daemon = home.daemon();
    let client = home.client().await;
    let load = |engine| LoadParams { engine, ..LoadParams::default() };
    let engine = |params: LoadParams| {
        let client = &client;
        async move { client.call::<LoadModel>(&params).await.unwrap().engine }
    };
    assert_eq!(engine(load(None)).await, "gguf");
    assert_eq!(engine(load(Some(EngineKind::Mlx))).await, "mlx");
    // A request without an engine gets the loaded copy.
    assert_eq!(engine(load(None)).await, "mlx");
    assert_eq!(engine(load(Some(EngineKind::Gguf))).await, "gguf");

    // A busy model is not moved to another engine.
    let long = GenerateParams {
        prompt: Some("Once upon a time".to_owned()),
        max_tokens: Some(4_000),
        ignore_eos: true,
        stream: true,
        ..GenerateParams::default()
    };
    let mut call = client.start::<Generate>(&long, long.class()).unwrap();
    while !matches!(call.event::<GenerateEvent>().await, Some(GenerateEvent::Delta { .. })) {}
    let error = client.call::<LoadModel>(&load(Some(EngineKind::Mlx))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    drop(call);

    let sim = LoadParams { model: Some("sim".to_owned()), ..load(Some(EngineKind::Gguf)) };
    let error = client.call::<LoadModel>(&sim).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ModelUnsupported);
    assert!(error.message.contains("cannot run the format sim"), "{}", error.message);
}

/// A sequence's output does not depend on the sequences that share its passes.
#[tokio::test]
async fn batched_sequences_match_each_alone() {
    let home = Home::new();
    home.add_smollm2();
    let _daemon = home.daemon();
    let client = home.client().await;
    for engine in [EngineKind::Gguf, EngineKind::Mlx] {
        let params: Vec<GenerateParams> = ["The sea is", "Once upon a time", "2 + 2 ="]
            .into_iter()
            .map(|prompt| GenerateParams {
                engine: Some(engine),
                prompt: Some(prompt.to_owned()),
                max_tokens: Some(12),
                ..GenerateParams::default()
            })
            .collect();
        let mut alone = Vec::new();
        for params in &params {
            let call = client.start::<Generate>(params, params.class()).unwrap();
            alone.push(call.reply().await.unwrap().first().text.clone());
        }
        let calls: Vec<_> = params
            .iter()
            .map(|params| client.start::<Generate>(params, params.class()).unwrap())
            .collect();
        for (call, alone) in calls.into_iter().zip(alone) {
            assert_eq!(call.reply().await.unwrap().first().text, alone);
        }
    }
}

/// Greedy tokens under penalties, computed with mlx-lm 0.32.2's `make_logits_processors` on the
/// same weights in 32-bit floats: the repetition penalty over the last 16 tokens of prompt and
/// text, the other two over the text. No two logits that decided were closer than 0.01.
#[tokio::test]
async fn penalised_smollm2_agrees_with_mlx_lm() {
    let home = Home::new();
    home.add_smollm2();
    let _daemon = home.daemon();
    let client = home.client().await;
    let repetition = GenerateParams {
        engine: Some(EngineKind::Mlx),
        repetition_penalty: Some(1.3),
        repetition_window: Some(16),
        ..GenerateParams::default()
    };
    let counted = GenerateParams {
        engine: Some(EngineKind::Mlx),
        frequency_penalty: Some(0.4),
        presence_penalty: Some(0.6),
        ..GenerateParams::default()
    };
    let (colors, code) = ("The three primary colors are", "def fibonacci(n):\n");
    for (prompt, params, expected) in [
        (
            colors,
            &repetition,
            [260, 768, 1273, 284, 4889, 804, 281, 984, 28, 2092, 1456, 1835, 30, 198, 504, 1296],
        ),
        (
            colors,
            &counted,
            [260, 3003, 4683, 282, 260, 35526, 2380, 1743, 42, 2382, 28, 4461, 28, 284, 2654, 30],
        ),
        (
            code,
            &repetition,
            [3725, 5367, 35, 30, 33, 32, 86, 42, 37, 39, 38, 216, 907, 24105, 42, 637],
        ),
        (
            code,
            &counted,
            [198, 1604, 3987, 46477, 24, 94, 727, 472, 585, 304, 10204, 216, 33, 42, 448, 1003],
        ),
    ] {
        let params = GenerateParams {
            prompt: Some(prompt.to_owned()),
            max_tokens: Some(16),
            logprobs: true,
            ..params.clone()
        };
        let call = client.start::<Generate>(&params, params.class()).unwrap();
        let result = call.reply().await.unwrap();
        let tokens: Vec<u32> =
            result.first().logprobs.iter().map(|logprob| logprob.token).collect();
        assert_eq!(tokens, expected, "{params:?}");
    }
}

/// Further completions continue from a fork of the first one's KV cache, in one batch with it.
#[tokio::test]
async fn several_completions_match_each_seed_alone() {
    for engine in [EngineKind::Mlx, EngineKind::Gguf] {
        check_several_texts(engine).await;
    }
}

async fn check_several_texts(engine: EngineKind) {
    let home = Home::new();
    home.add_smollm2();
    let _daemon = home.daemon();
    let client = home.client().await;
    let one = GenerateParams {
        engine: Some(engine),
        prompt: Some("Once upon a time".to_owned()),
        max_tokens: Some(12),
        temperature: Some(0.8),
        top_p: Some(0.95),
        seed: Some(42),
        ..GenerateParams::default()
    };
    let three = GenerateParams { n: Some(3), ..one.clone() };
    let result = client.start::<Generate>(&three, three.class()).unwrap().reply().await.unwrap();
    assert_eq!(result.choices.len(), 3);
    for choice in &result.choices {
        let alone = GenerateParams { seed: Some(choice.seed), ..one.clone() };
        let call = client.start::<Generate>(&alone, alone.class()).unwrap();
        assert_eq!(call.reply().await.unwrap().first().text, choice.text, "{engine}");
    }
}
