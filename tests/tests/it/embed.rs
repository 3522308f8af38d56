//! Embeddings through the daemon and the command line, on a small BERT.

use ingle_protocol::error::ErrorCode;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::embed::{Embed, EmbedParams};
use ingle_tests::{Home, fixture};
use serde_json::json;

/// A home with two small BERTs of the same weights: a GGUF file, and a folder for MLX.
fn home() -> Home {
    let home = Home::with_sim(json!({}));
    for model in ["bert", "bert-mean"] {
        let target = home.paths().models_dir().join(model);
        std::os::unix::fs::symlink(fixture(&format!("goldens/{model}")), target).unwrap();
    }
    home
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn inputs_alone_and_batched_give_same_vectors() {
    let home = home();
    let _daemon = home.daemon();
    let client = home.client().await;
    let embed_with = |model: &str, input: &[&str]| {
        let input = input.iter().map(|&text| text.into()).collect();
        let params = EmbedParams { model: Some(model.into()), input, ..EmbedParams::default() };
        let call = client.start::<Embed>(&params, Class::Embeddings).unwrap();
        async { call.reply().await }
    };
    let embed = |input: &[&str]| embed_with("bert", input);
    let texts = ["the sea", "a ship", "winter stories of a house", "the sea"];
    let batch = embed(&texts).await.unwrap();
    assert_eq!((batch.dimensions, batch.embeddings.len()), (16, 4));
    // [CLS] the sea [SEP], and so on; "stories" is a word and two letters.
    assert!(batch.usage.prompt_tokens > 4 * 4, "{:?}", batch.usage);
    for (text, vector) in texts.iter().zip(&batch.embeddings) {
        assert!((dot(vector, vector) - 1.0).abs() < 1e-5);
        let alone = embed(&[text]).await.unwrap();
        assert!(dot(vector, &alone.embeddings[0]) > 0.999_9, "{text}");
    }
    assert!(dot(&batch.embeddings[0], &batch.embeddings[1]) < 0.999);
    assert!(dot(&batch.embeddings[0], &batch.embeddings[3]) > 0.999_9);
    // The other engine and tokenizer give the same vectors; llama.cpp computes in 16 bits.
    let on_mlx = embed_with("bert-mean", &texts).await.unwrap();
    assert_eq!(on_mlx.usage, batch.usage);
    for (one, other) in batch.embeddings.iter().zip(&on_mlx.embeddings) {
        assert!(dot(one, other) > 0.999_5, "{}", dot(one, other));
    }
    let long = "sea ".repeat(100);
    for model in ["bert", "bert-mean"] {
        let refused = embed_with(model, &["the sea", &long]).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::ContextTooLong, "{refused:?}");
    }
    assert_eq!(embed(&[]).await.unwrap_err().code, ErrorCode::InvalidParams);
}

#[test]
fn cli_embeds_and_refuses_other_models() {
    let home = home();
    let _daemon = home.daemon();
    let printed = home.ingle(["embed", "-m", "bert", "the sea", "a ship"]).ok();
    let vectors: Vec<Vec<f32>> =
        printed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(vectors.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16]);
    let json = home.ingle(["embed", "-m", "bert", "--json", "the sea"]).ok().json();
    assert_eq!((&json["model"], &json["dimensions"]), (&json!("bert"), &json!(16)));
    for (arguments, named) in [
        (["embed", "-m", "sim", "--json", "x"], "sim"),
        (["complete", "-m", "bert", "--json", "x"], "embed"),
    ] {
        let refused = home.ingle(arguments);
        assert_eq!(refused.code(), 1);
        let error = refused.json()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains(named), "{error}");
        assert!(!error["remediation"].as_str().unwrap().is_empty(), "{error}");
    }
}
