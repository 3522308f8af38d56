//! Tests of the memory estimate of a GGUF model.

use ingle_engine::engines::Engine;
use ingle_engine::estimate::Estimate;
use ingle_engine::model::{EngineModel, Weights};
use ingle_engine::role::Role;
use ingle_engine::settings::EngineSettings;
use ingle_formats::gguf::testing::GgufWriter;
use ingle_protocol::wire::models::EngineKind;

use crate::LlamaEngine;

/// A model of 4 layers, 64 wide, with 8 heads.
fn model(architecture: &str, role: Role, keys: impl Fn(GgufWriter) -> GgufWriter) -> Estimate {
    let key = |name| format!("{architecture}.{name}");
    let writer = GgufWriter::new()
        .string("general.architecture", architecture)
        .u32(&key("block_count"), 4)
        .u32(&key("embedding_length"), 64)
        .u32(&key("context_length"), 1_000)
        .strings("tokenizer.ggml.tokens", &vec!["a"; 500]);
    let model = EngineModel {
        name: "a".to_owned(),
        version: String::new(),
        engine: EngineKind::Gguf,
        role,
        weights: Weights::Gguf(keys(writer).open().unwrap().into()),
    };
    LlamaEngine.estimate(&model, &EngineSettings::default())
}

#[test]
fn heads_can_be_given_per_layer() {
    let kv_per_token = |keys: &dyn Fn(GgufWriter) -> GgufWriter| {
        model("llama", Role::Generates, keys).kv_per_token
    };
    let heads = |writer: GgufWriter| writer.u32("llama.attention.head_count", 8);
    // Keys and values of 8 elements a head, of 2 bytes each.
    assert_eq!(kv_per_token(&heads), 4 * 8 * (8 + 8) * 2);
    let shared = |writer| heads(writer).u32("llama.attention.head_count_kv", 2);
    assert_eq!(kv_per_token(&shared), 4 * 2 * (8 + 8) * 2);
    let by_layer = |writer| heads(writer).i32_array("llama.attention.head_count_kv", &[2, 0, 4, 0]);
    assert_eq!(kv_per_token(&by_layer), 6 * (8 + 8) * 2);
    let all_by_layer = |writer: GgufWriter| {
        writer.i32_array("llama.attention.head_count", &[8, 0, 8, 8]).u32("llama.vocab_size", 9)
    };
    assert_eq!(kv_per_token(&all_by_layer), 24 * (8 + 8) * 2);
}

#[test]
fn embedder_computes_whole_texts_at_once() {
    let overhead = |architecture: &str| {
        let heads = format!("{architecture}.attention.head_count");
        let estimate = model(architecture, Role::Embeds, |writer| writer.u32(&heads, 8));
        assert_eq!(estimate.growth(100), 0);
        estimate.overhead
    };
    let (hidden, logits, kv) = (1_000 * 64 * 16 * 4, 1_000 * 500 * 4, 1_000 * 4 * 8 * (8 + 8) * 2);
    assert_eq!(overhead("bert"), hidden + logits);
    assert_eq!(overhead("qwen3"), hidden + 2 * logits + kv);
}
