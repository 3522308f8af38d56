//! A llama in plain loops and 64-bit floats: slow, obvious, and independent of every engine.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support"
)]

use crate::tensor::{HostData, HostTensor};

/// Sizes of the test model. Most are no multiple of a vector's length, so that rests are tested
/// too; the hidden size holds two groups of a quantised weight.
pub const LAYERS: usize = 2;
pub const HIDDEN: usize = 64;
pub const INTERMEDIATE: usize = 43;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 10;
pub const VOCAB: usize = 53;
pub const CONTEXT: usize = 700;
pub const EPS: f32 = 1e-5;
pub const ROPE_BASE: f32 = 100.0;

/// Seeded weights of a tied or untied model, in the order of a file.
pub fn weights(tied: bool) -> Vec<HostTensor> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
    };
    let mut tensor = |name: String, shape: &[usize], scale: f32, offset: f32| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|_| offset + scale * random()).collect();
        HostTensor { name, shape: shape.to_vec(), data: HostData::F32(values) }
    };
    let mut tensors = vec![
        tensor("token_embd.weight".to_owned(), &[VOCAB, HIDDEN], 1.0, 0.0),
        tensor("output_norm.weight".to_owned(), &[HIDDEN], 0.3, 1.0),
    ];
    if !tied {
        tensors.push(tensor("output.weight".to_owned(), &[VOCAB, HIDDEN], 0.5, 0.0));
    }
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize], scale, offset| {
            tensors.push(tensor(format!("blk.{layer}.{name}.weight"), shape, scale, offset));
        };
        add("attn_norm", &[HIDDEN], 0.3, 1.0);
        add("attn_q", &[HEADS * HEAD_DIM, HIDDEN], 0.25, 0.0);
        add("attn_k", &[KV_HEADS * HEAD_DIM, HIDDEN], 0.25, 0.0);
        add("attn_v", &[KV_HEADS * HEAD_DIM, HIDDEN], 0.25, 0.0);
        add("attn_output", &[HIDDEN, HEADS * HEAD_DIM], 0.3, 0.0);
        add("ffn_norm", &[HIDDEN], 0.3, 1.0);
        add("ffn_gate", &[INTERMEDIATE, HIDDEN], 0.25, 0.0);
        add("ffn_up", &[INTERMEDIATE, HIDDEN], 0.25, 0.0);
        add("ffn_down", &[HIDDEN, INTERMEDIATE], 0.3, 0.0);
    }
    tensors
}

/// Natural-log probabilities of every token after `tokens`.
pub fn logprobs(weights: &[HostTensor], tokens: &[u32]) -> Vec<f64> {
    let find = |name: &str| match weights.iter().find(|tensor| tensor.name == name) {
        Some(HostTensor { data: HostData::F32(values), .. }) => Some(values.as_slice()),
        _ => None,
    };
    let get = |name: &str| find(name).expect("the weight is there");
    let embedding = get("token_embd.weight");
    let mut xs: Vec<Vec<f64>> =
        tokens.iter().map(|&token| row(embedding, token as usize, HIDDEN)).collect();
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let weight = |part: &str| get(&name(part));
        let normed: Vec<_> = xs.iter().map(|x| norm(x, weight("attn_norm"))).collect();
        let project = |part: &str, turn: bool| -> Vec<Vec<f64>> {
            let project = |(position, x): (usize, &Vec<f64>)| {
                let mut y = multiply(weight(part), x);
                if turn {
                    rotate(&mut y, position);
                }
                y
            };
            normed.iter().enumerate().map(project).collect()
        };
        let (queries, keys) = (project("attn_q", true), project("attn_k", true));
        let values = project("attn_v", false);
        for (position, x) in xs.iter_mut().enumerate() {
            let mut heads = Vec::new();
            for head in 0..HEADS {
                let kv = head / (HEADS / KV_HEADS);
                heads.extend(attend(&queries[position], &keys, &values, head, kv, position));
            }
            add(x, &multiply(weight("attn_output"), &heads));
            let normed = norm(x, weight("ffn_norm"));
            let gate = multiply(weight("ffn_gate"), &normed);
            let up = multiply(weight("ffn_up"), &normed);
            let inner: Vec<f64> =
                gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(x, &multiply(weight("ffn_down"), &inner));
        }
    }
    let last = norm(xs.last().expect("a token"), get("output_norm.weight"));
    let logits = multiply(find("output.weight").unwrap_or(embedding), &last);
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    logits.iter().map(|logit| logit - max - total.ln()).collect()
}

fn row(matrix: &[f32], index: usize, width: usize) -> Vec<f64> {
    matrix[index * width..(index + 1) * width].iter().map(|&value| f64::from(value)).collect()
}

fn multiply(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    let dot = |row: &[f32]| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
    matrix.chunks_exact(x.len()).map(dot).collect()
}

fn norm(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
    x.iter().zip(weight).map(|(v, &w)| v * scale * f64::from(w)).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Turns the pairs of every head, which lie side by side.
fn rotate(heads: &mut [f64], position: usize) {
    for head in heads.chunks_exact_mut(HEAD_DIM) {
        for (index, pair) in head.chunks_exact_mut(2).enumerate() {
            let frequency = f64::from(ROPE_BASE).powf(-2.0 * index as f64 / HEAD_DIM as f64);
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
        }
    }
}

fn attend(
    query: &[f64],
    keys: &[Vec<f64>],
    values: &[Vec<f64>],
    head: usize,
    kv: usize,
    position: usize,
) -> Vec<f64> {
    let part = |x: &[f64], head: usize| x[head * HEAD_DIM..(head + 1) * HEAD_DIM].to_vec();
    let query = part(query, head);
    let score = |key: &Vec<f64>| {
        let dot: f64 = part(key, kv).iter().zip(&query).map(|(k, q)| k * q).sum();
        (dot / (HEAD_DIM as f64).sqrt()).exp()
    };
    let weights: Vec<f64> = keys[..=position].iter().map(score).collect();
    let total: f64 = weights.iter().sum();
    let mut output = vec![0.0; HEAD_DIM];
    for (weight, value) in weights.iter().zip(values) {
        for (out, v) in output.iter_mut().zip(part(value, kv)) {
            *out += weight / total * v;
        }
    }
    output
}
