//! SmolLM2 on MLX against reference outputs of mlx-lm (`reference/smollm2_dev.json`).

use ingle_protocol::client::Client;
use ingle_protocol::wire::generate::{Generate, GenerateParams, Message};
use ingle_protocol::wire::models::EngineKind;
use ingle_protocol::wire::tokens::{Tokenize, TokenizeParams};
use ingle_tests::{Home, fixture};
use serde_json::Value;

/// Tokens of greedy text that are compared.
const COMPARED_TOKENS: usize = 16;
/// How far a log-probability may be from the reference.
const LOGPROB_TOLERANCE: f64 = 0.05;

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
        chat.then(|| vec![Message { role: "user".to_owned(), content }])
    }

    fn prompt(&self) -> Option<String> {
        let chat = self.value["chat"].as_bool().unwrap();
        (!chat).then(|| self.value["prompt"].as_str().unwrap().to_owned())
    }

    async fn check_tokens(&self, client: &Client) {
        let params = TokenizeParams {
            text: self.prompt(),
            messages: self.messages(),
            ..TokenizeParams::default()
        };
        let tokens = client.call::<Tokenize>(&params).await.unwrap().tokens;
        assert_eq!(tokens, ids(&self.value["prompt_tokens"]), "{}", self.value["prompt"]);
    }

    /// Checks the first token's distribution; returns whether the greedy text is the same.
    async fn check_text(&self, client: &Client) -> bool {
        let params = GenerateParams {
            messages: self.messages(),
            prompt: self.prompt(),
            max_tokens: Some(u32::try_from(COMPARED_TOKENS).unwrap()),
            top_logprobs: 5,
            ..GenerateParams::default()
        };
        let call = client.start::<Generate>(&params, params.class()).unwrap();
        let result = call.reply().await.unwrap();
        let first = &result.logprobs[0];
        let mut wanted: Vec<(u32, f64)> = self.value["first_token_top5_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (ids(&Value::from(vec![pair[0].clone()]))[0], pair[1].as_f64().unwrap()))
            .collect();
        for (token, logprob) in &first.top {
            let index = wanted.iter().position(|(wanted, _)| wanted == token);
            let (_, reference) = wanted.remove(index.expect("the same five tokens"));
            assert!((f64::from(*logprob) - reference).abs() < LOGPROB_TOLERANCE);
        }
        assert!(wanted.is_empty());
        let tokens: Vec<u32> = result.logprobs.iter().map(|logprob| logprob.token).collect();
        let reference = ids(&self.value["greedy_tokens"]);
        let compared = reference.len().min(COMPARED_TOKENS);
        tokens == reference[..compared]
    }
}

#[tokio::test]
async fn smollm2_agrees_with_mlx_lm() {
    let home = Home::new();
    home.add_smollm2();
    let _daemon = home.daemon();
    let client = home.client().await;
    let text = std::fs::read_to_string(fixture("reference/smollm2_dev.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 6);
    // The second time every prompt goes on from the KV cache of the first.
    for round in 0..2 {
        let mut same = 0;
        for value in &cases {
            let case = Case { value: value.clone() };
            case.check_tokens(&client).await;
            same += usize::from(case.check_text(&client).await);
        }
        assert!(same >= 5, "{same} of 6 greedy texts are the same in round {round}");
    }
}

/// What one sequence gives does not depend on which others share its passes.
#[tokio::test]
async fn a_batch_gives_what_each_gives_alone() {
    let home = Home::new();
    home.add_smollm2();
    let _daemon = home.daemon();
    let client = home.client().await;
    let params: Vec<GenerateParams> = ["The sea is", "Once upon a time", "2 + 2 ="]
        .into_iter()
        .map(|prompt| GenerateParams {
            prompt: Some(prompt.to_owned()),
            max_tokens: Some(12),
            ..GenerateParams::default()
        })
        .collect();
    let mut alone = Vec::new();
    for params in &params {
        let call = client.start::<Generate>(params, params.class()).unwrap();
        alone.push(call.reply().await.unwrap().text);
    }
    let calls: Vec<_> = params
        .iter()
        .map(|params| client.start::<Generate>(params, params.class()).unwrap())
        .collect();
    for (call, alone) in calls.into_iter().zip(alone) {
        assert_eq!(call.reply().await.unwrap().text, alone);
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
        let tokens: Vec<u32> = result.logprobs.iter().map(|logprob| logprob.token).collect();
        assert_eq!(tokens, expected, "{params:?}");
    }
}

/// The further texts go on from a fork of the first one's KV cache, in one batch with it.
#[tokio::test]
async fn each_of_several_texts_is_what_its_seed_gives_alone() {
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
    let others = result.alternatives.into_iter().map(|choice| (choice.text, choice.seed));
    for (text, seed) in std::iter::once((result.text, result.seed)).chain(others) {
        let alone = GenerateParams { seed: Some(seed), ..one.clone() };
        let call = client.start::<Generate>(&alone, alone.class()).unwrap();
        assert_eq!(call.reply().await.unwrap().text, text, "{engine}");
    }
}
