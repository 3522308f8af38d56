//! The same weights as a GGUF file: each architecture must compute from it what it computes from a
//! folder, though names, the order of rows and the form of the rotation's scaling are others.

use serde_json::Value;

use super::goldens::{self, largest_gap, load_all};
use super::*;

/// GGUF's name of a transformers tensor.
fn gguf_name(name: &str) -> String {
    let names = [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    names.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}

/// What llama.cpp's converter does to query and key projections of llamas: within a head, row `i`
/// of the first half is followed by row `i` of the second.
fn permuted(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (width, head) = (values.len() / rows, rows / heads);
    let row = |index: usize| &values[index * width..(index + 1) * width];
    (0..rows)
        .flat_map(|to| {
            let (start, within) = (to / head * head, to % head);
            row(start + within % 2 * (head / 2) + within / 2)
        })
        .copied()
        .collect()
}

/// Writes the golden's weights and hyperparameters as a GGUF file.
fn converted(case: &str, architecture: &str, rope_factors: Option<Vec<f32>>) -> GgufFile {
    let (_, folder) = goldens::open(case);
    let keys = folder.config();
    let key = |name: &str| format!("{architecture}.{name}");
    let size = |name: &str| u32::try_from(keys.size(name).unwrap()).unwrap();
    let mut writer = GgufWriter::new()
        .string("general.architecture", architecture)
        .u32(&key("block_count"), size("num_hidden_layers"))
        .u32(&key("embedding_length"), size("hidden_size"))
        .u32(&key("feed_forward_length"), size("intermediate_size"))
        .u32(&key("attention.head_count"), size("num_attention_heads"))
        .u32(&key("attention.head_count_kv"), size("num_key_value_heads"))
        .u32(&key("context_length"), size("max_position_embeddings"))
        .f32(&key("attention.layer_norm_rms_epsilon"), keys.number("rms_norm_eps").unwrap() as f32)
        .f32(&key("rope.freq_base"), keys.number("rope_theta").unwrap() as f32);
    if let Some(head_dim) = keys.size_opt("head_dim").unwrap() {
        writer = writer.u32(&key("attention.key_length"), head_dim as u32);
    }
    if let Some(Value::String(kind)) = keys.value("rope_scaling").map(|scaling| &scaling["type"]) {
        let factor = keys.section_opt("rope_scaling").unwrap().unwrap().number("factor").unwrap();
        writer = writer
            .string(&key("rope.scaling.type"), kind)
            .f32(&key("rope.scaling.factor"), factor as f32);
    }
    for tensor in load_all(&folder, WeightPrecision::Float32).unwrap() {
        let HostData::F32(mut values) = tensor.data else { panic!("32-bit floats") };
        let heads = if tensor.name.contains("q_proj") {
            size("num_attention_heads")
        } else {
            size("num_key_value_heads")
        };
        if architecture == "llama" && ["q_proj", "k_proj"].iter().any(|p| tensor.name.contains(p)) {
            values = permuted(&values, heads as usize, tensor.shape[0]);
        }
        let shape: Vec<u64> = tensor.shape.iter().map(|&size| size as u64).collect();
        writer = writer.f32_tensor(&gguf_name(&tensor.name), &shape, &values);
    }
    if let Some(factors) = rope_factors {
        writer = writer.f32_tensor("rope_freqs.weight", &[factors.len() as u64], &factors);
    }
    writer.open().unwrap()
}

/// The factors of `llama-llama3`, as llama.cpp's converter computes them.
fn llama3_factors() -> Vec<f32> {
    let (head_dim, base, factor, low, high, context) = (16, 1e4_f64, 8.0, 1.0, 4.0, 64.0);
    (0..head_dim / 2)
        .map(|pair| {
            let wavelength =
                std::f64::consts::TAU * base.powf(2.0 * f64::from(pair) / f64::from(head_dim));
            let stretched = if wavelength < context / high {
                1.0
            } else if wavelength > context / low {
                factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            stretched as f32
        })
        .collect()
}

#[test]
fn a_gguf_of_the_same_weights_gives_the_same() {
    for (case, architecture, factors) in [
        ("llama", "llama", None),
        ("llama-bias", "llama", None),
        ("llama-linear", "llama", None),
        ("llama-llama3", "llama", Some(llama3_factors())),
        ("qwen2", "qwen2", None),
        ("qwen3", "qwen3", None),
    ] {
        let gguf = Arc::new(converted(case, architecture, factors));
        let mut builder = builder(&gguf).unwrap();
        for tensor in load_all(&gguf, WeightPrecision::Float32).unwrap() {
            builder.adopt(tensor).unwrap();
        }
        let mut generator = builder.finish().unwrap();
        let (golden, _) = goldens::open(case);
        let gap = largest_gap(&golden, &mut *generator, true);
        assert!(gap < goldens::TOLERANCE, "{case}: off by {gap}");
    }
}
