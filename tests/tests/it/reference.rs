//! SmolLM2 on MLX against reference outputs of mlx-lm (`reference/smollm2_dev.json`).

use ingle_protocol::client::Client;
use ingle_protocol::wire::generate::{Generate, GenerateParams, Message};
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
