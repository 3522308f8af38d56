//! Embedding models, on a BERT of one layer.

use llama_guard::{LoadOptions, Model};

use super::models::{ModelFile, seeded};
use super::plain;
use crate::load::{self, embedder_of};
use ingle_engine::backend::Embedder;
use ingle_engine::error::EngineError;
use ingle_formats::gguf::testing::GgufWriter;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const WIDTH: usize = 16;
const INNER: usize = 24;
const HEADS: usize = 2;
const CONTEXT: usize = 40;
const EPS: f32 = 1e-6;

type Weights = Vec<(&'static str, Vec<u64>, Vec<f32>)>;

fn weights() -> Weights {
    let (width, inner) = (WIDTH as u64, INNER as u64);
    let mut values = seeded(11);
    let mut tensor =
        |name, shape: &[u64], scale, offset| (name, shape.to_vec(), values(shape, scale, offset));
    vec![
        tensor("token_embd.weight", &[plain::VOCAB as u64, width], 1.0, 0.0),
        tensor("token_types.weight", &[2, width], 0.5, 0.0),
        tensor("position_embd.weight", &[CONTEXT as u64, width], 0.5, 0.0),
        tensor("token_embd_norm.weight", &[width], 0.2, 1.0),
        tensor("token_embd_norm.bias", &[width], 0.2, 0.0),
        tensor("blk.0.attn_q.weight", &[width, width], 0.5, 0.0),
        tensor("blk.0.attn_q.bias", &[width], 0.1, 0.0),
        tensor("blk.0.attn_k.weight", &[width, width], 0.5, 0.0),
        tensor("blk.0.attn_k.bias", &[width], 0.1, 0.0),
        tensor("blk.0.attn_v.weight", &[width, width], 0.5, 0.0),
        tensor("blk.0.attn_v.bias", &[width], 0.1, 0.0),
        tensor("blk.0.attn_output.weight", &[width, width], 0.5, 0.0),
        tensor("blk.0.attn_output.bias", &[width], 0.1, 0.0),
        tensor("blk.0.attn_output_norm.weight", &[width], 0.2, 1.0),
        tensor("blk.0.attn_output_norm.bias", &[width], 0.2, 0.0),
        tensor("blk.0.ffn_up.weight", &[inner, width], 0.5, 0.0),
        tensor("blk.0.ffn_up.bias", &[inner], 0.1, 0.0),
        tensor("blk.0.ffn_down.weight", &[width, inner], 0.5, 0.0),
        tensor("blk.0.ffn_down.bias", &[width], 0.1, 0.0),
        tensor("blk.0.layer_output_norm.weight", &[width], 0.2, 1.0),
        tensor("blk.0.layer_output_norm.bias", &[width], 0.2, 0.0),
    ]
}

/// A BERT that pools as `llama_pooling_type` says.
fn bert(pooling: Option<u32>) -> ModelFile {
    let mut writer = GgufWriter::new()
        .string("general.architecture", "bert")
        .u32("bert.block_count", 1)
        .u32("bert.embedding_length", WIDTH as u32)
        .u32("bert.feed_forward_length", INNER as u32)
        .u32("bert.attention.head_count", HEADS as u32)
        .u32("bert.context_length", CONTEXT as u32)
        .u32("bert.vocab_size", plain::VOCAB as u32)
        .f32("bert.attention.layer_norm_epsilon", EPS)
        .bool("bert.attention.causal", false)
        .u32("tokenizer.ggml.token_type_count", 2)
        .string("tokenizer.ggml.model", "no_vocab");
    if let Some(pooling) = pooling {
        writer = writer.u32("bert.pooling_type", pooling);
    }
    for (name, shape, values) in weights() {
        writer = writer.f32_tensor(name, &shape, &values);
    }
    ModelFile { writer }
}

fn embedder(file: &ModelFile) -> Result<Box<dyn Embedder>, EngineError> {
    let (_file, gguf) = file.write();
    let model = Model::load(gguf.path(), &LoadOptions::default(), &mut |_| true).unwrap();
    let embedder = embedder_of(&gguf, Arc::new(model), &ModelFile::settings(8_192))?;
    Ok(Box::new(embedder))
}

fn texts() -> Vec<Vec<u32>> {
    [3, 1, 40, 17, 2, 40, 9, 40, 40, 5, 1, 8, 40, 13, 2, 4, 40, 6, 40, 40]
        .iter()
        .enumerate()
        .map(|(index, &length)| (0..length).map(|at| ((at * at + 7 * index) % 53) as u32).collect())
        .collect()
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 5e-3, "{found}, expected {expected}");
    }
}

#[test]
fn vectors_match_plain_loops_in_any_batch() {
    let weights = weights();
    let texts = texts();
    for (pooling, pool) in [(1, Pool::Mean), (2, Pool::First), (3, Pool::Last)] {
        let mut embedder = embedder(&bert(Some(pooling))).unwrap();
        assert_eq!((embedder.dimensions(), embedder.context_tokens()), (WIDTH, CONTEXT));
        let slices: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let together = embedder.embed(&slices).unwrap();
        assert_eq!(together.len(), texts.len());
        for (text, vector) in texts.iter().zip(&together) {
            assert_close(vector, &plain_bert(&weights, text, pool));
        }
        let reversed: Vec<&[u32]> = slices.iter().rev().copied().collect();
        let mut again = embedder.embed(&reversed).unwrap();
        again.reverse();
        for (one, other) in together.iter().zip(&again) {
            let length: f32 = one.iter().map(|value| value * value).sum();
            assert!((length - 1.0).abs() < 1e-5);
            let likeness: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
            assert!(likeness > 0.999_9, "{likeness}");
        }
    }
}

#[test]
fn unusable_texts_are_refused() {
    let mut embedder = embedder(&bert(Some(1))).unwrap();
    let long = vec![1; CONTEXT + 1];
    for (text, expected) in
        [(&[][..], "0 tokens"), (&long, "41 tokens"), (&[53], "outside the vocabulary")]
    {
        let message = embedder.embed(&[&[1], text]).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn models_without_pooling_are_refused() {
    for (pooling, expected) in [(None, "`bert.pooling_type`"), (Some(4), "reranker")] {
        let message = embedder(&bert(pooling)).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
    // And a model that generates is no embedding model.
    let (_file, gguf) = super::llama(true).write();
    let cancel = Arc::new(AtomicBool::new(false));
    let refused = load::load_embedder(&gguf, &ModelFile::settings(700), cancel);
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("not an embedding model"), "{message}");
}

#[derive(Clone, Copy)]
enum Pool {
    Mean,
    First,
    Last,
}

/// The same in plain loops and 64-bit floats.
fn plain_bert(weights: &Weights, text: &[u32], pool: Pool) -> Vec<f64> {
    let get = |name: &str| {
        let (_, _, values) = weights.iter().find(|(found, _, _)| *found == name).unwrap();
        values.as_slice()
    };
    let layer = |part: &str| get(&format!("blk.0.{part}"));
    let linear = |part: &str, x: &[f64]| -> Vec<f64> {
        let rows = layer(&format!("{part}.weight")).chunks_exact(x.len());
        rows.zip(layer(&format!("{part}.bias")))
            .map(|(row, &bias)| {
                f64::from(bias) + row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>()
            })
            .collect()
    };
    let norm = |name: &str, x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
        let (weight, bias) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let scaled = x.iter().map(|v| (v - mean) * scale);
        scaled.zip(weight).zip(bias).map(|((v, &w), &b)| v * f64::from(w) + f64::from(b)).collect()
    };
    let sum = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
    let row = |name: &str, index: usize| -> Vec<f64> {
        get(name)[index * WIDTH..][..WIDTH].iter().map(|&value| f64::from(value)).collect()
    };
    let inputs: Vec<Vec<f64>> = text
        .iter()
        .enumerate()
        .map(|(position, &token)| {
            let embedded =
                sum(&row("token_embd.weight", token as usize), &row("token_types.weight", 0));
            norm("token_embd_norm", &sum(&embedded, &row("position_embd.weight", position)))
        })
        .collect();
    let all = |part: &str| -> Vec<Vec<f64>> { inputs.iter().map(|x| linear(part, x)).collect() };
    let (queries, keys, values) = (all("attn_q"), all("attn_k"), all("attn_v"));
    let head_dim = WIDTH / HEADS;
    let outputs: Vec<Vec<f64>> = inputs
        .iter()
        .zip(&queries)
        .map(|(input, query)| {
            let mut attended = Vec::new();
            for head in 0..HEADS {
                let part = head * head_dim..(head + 1) * head_dim;
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|key| {
                        let pairs = key[part.clone()].iter().zip(&query[part.clone()]);
                        let dot: f64 = pairs.map(|(k, q)| k * q).sum();
                        (dot / (head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = scores.iter().sum();
                attended.extend(part.map(|index| {
                    let weighted = scores.iter().zip(&values).map(|(s, v)| s / total * v[index]);
                    weighted.sum::<f64>()
                }));
            }
            let x = norm("blk.0.attn_output_norm", &sum(&linear("attn_output", &attended), input));
            let inner: Vec<f64> = linear("ffn_up", &x).into_iter().map(gelu).collect();
            norm("blk.0.layer_output_norm", &sum(&linear("ffn_down", &inner), &x))
        })
        .collect();
    let pooled = match pool {
        Pool::First => outputs[0].clone(),
        Pool::Last => outputs[outputs.len() - 1].clone(),
        Pool::Mean => (0..WIDTH)
            .map(|index| outputs.iter().map(|x| x[index]).sum::<f64>() / outputs.len() as f64)
            .collect(),
    };
    let length = pooled.iter().map(|value| value * value).sum::<f64>().sqrt();
    pooled.into_iter().map(|value| value / length).collect()
}

/// llama.cpp's approximation of GELU.
fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * x * (1.0 + 0.044_715 * x * x);
    0.5 * x * (1.0 + inner.tanh())
}
