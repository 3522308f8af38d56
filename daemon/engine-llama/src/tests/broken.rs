//! Tests of invalid files: each is an error of ours or of llama.cpp, and none aborts.

use super::models::{ModelFile, llama_header, tensors_of};
use ingle_formats::gguf::GgmlType;
use ingle_formats::gguf::testing::GgufWriter;

/// The plain llama with a header of its own.
fn with_header(writer: GgufWriter) -> ModelFile {
    ModelFile { writer }.with(&tensors_of(true))
}

#[test]
fn impossible_hyperparameters_are_named() {
    // A key that is there twice is refused by the reader, so each case replaces one.
    let replaced = |key: &str, value: u32| {
        let keys = [
            ("block_count", 2),
            ("embedding_length", 64),
            ("feed_forward_length", 43),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 10),
            ("attention.value_length", 10),
            ("rope.dimension_count", 10),
            ("vocab_size", 53),
            ("context_length", 700),
        ];
        let mut writer = GgufWriter::new()
            .string("general.architecture", "llama")
            .string("tokenizer.ggml.model", "no_vocab")
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        for (name, sound) in keys {
            // Without a length of their own the heads share the width.
            if key == "attention.head_count" && name.ends_with("_length") && sound == 10 {
                continue;
            }
            let value = if name == key { value } else { sound };
            writer = writer.u32(&format!("llama.{name}"), value);
        }
        with_header(writer)
    };
    for (key, value, expected) in [
        ("block_count", 0, "`llama.block_count`"),
        ("block_count", 513, "`llama.block_count`"),
        ("embedding_length", 0, "`llama.embedding_length`"),
        ("embedding_length", u32::MAX, "`llama.embedding_length`"),
        ("context_length", 0, "`llama.context_length`"),
        ("attention.head_count", 5, "does not divide the width"),
        ("attention.head_count_kv", 3, "does not divide the 4 heads"),
        // What is left to llama.cpp: tensors that do not have the shapes that follow.
        ("embedding_length", 128, "has wrong shape"),
        ("attention.key_length", 0, "`llama.attention.key_length`"),
        ("rope.dimension_count", 8, "invalid n_rot"),
        ("block_count", 3, "blk.2"),
        ("vocab_size", 60, "token_embd"),
        ("feed_forward_length", 44, "ffn_"),
    ] {
        let message = replaced(key, value).problem();
        assert!(message.contains(expected), "{key} = {value}: {message}");
    }
    let ModelFile { writer } = replaced("", 0);
    let message = ModelFile { writer: writer.f32("llama.rope.freq_base", 0.0) }.problem();
    assert!(message.contains("`llama.rope.freq_base`: 0, expected a positive"), "{message}");
}

#[test]
fn unusable_key_values_are_named() {
    for (writer, expected) in [
        (llama_header().u32("llama.expert_count", 4_000), "`llama.expert_count`"),
        (llama_header().u32("llama.expert_used_count", 2), "2 of 0 experts"),
        (llama_header().string("llama.rope.scaling.type", "spiral"), "`spiral`"),
        (llama_header().f32("llama.rope.scaling.factor", -1.0), "rope.scaling.factor"),
        (llama_header().f32("llama.rope.scale_linear", -1.0), "rope.scale_linear"),
        (llama_header().string("llama.attention.sliding_window", "x"), "sliding_window"),
        (llama_header().u32("split.no", 2), "split over several files"),
    ] {
        let message = match (ModelFile { writer }).with(&tensors_of(true)).load() {
            // Keys that llama.cpp does not read for this architecture do no harm.
            Ok(_) if expected == "sliding_window" => continue,
            Ok(_) => panic!("{expected}: the model was accepted"),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn mismatched_tensors_are_named() {
    let change = |change: &dyn Fn(&mut Vec<super::models::Tensor>)| {
        let mut tensors = tensors_of(true);
        change(&mut tensors);
        ModelFile::llama_of(&tensors).problem()
    };
    let message = change(&|tensors| drop(tensors.remove(1)));
    assert!(message.contains("output_norm.weight"), "{message}");
    let message = change(&|tensors| tensors[0].0.1 = vec![64, 53]);
    assert!(message.contains("token_embd.weight"), "{message}");
    let message = change(&|tensors| tensors[0].0.0 = "something.else".to_owned());
    assert!(message.contains("token_embd.weight"), "{message}");
    let message = ModelFile { writer: llama_header() }.problem();
    assert!(message.contains("no tensors"), "{message}");
}

#[test]
fn non_weight_types_are_named() {
    let ((name, shape), values) = tensors_of(true).remove(0);
    let bytes = vec![0; values.len() * 8];
    let file = ModelFile {
        writer: llama_header().tensor(&name, &shape, GgmlType::from_id(28).unwrap(), &bytes),
    };
    let message = file.with(&tensors_of(true)[1..]).problem();
    assert!(message.contains("stored as F64"), "{message}");
}

#[test]
fn non_generating_architectures_are_refused() {
    for (architecture, expected) in [
        ("bert", "embedding model"),
        ("t5", "encoder"),
        ("clip", "part of other models"),
        ("spaceship", "unknown model architecture"),
    ] {
        let mut writer = GgufWriter::new().string("general.architecture", architecture);
        for key in ["block_count", "embedding_length", "context_length"] {
            writer = writer.u32(&format!("{architecture}.{key}"), 8);
        }
        let file = with_header(writer.string("tokenizer.ggml.model", "no_vocab"));
        let message = file.problem();
        assert!(message.contains(expected), "{message}");
    }
}

/// An assertion inside llama.cpp that no check of ours foresees ends the load, not the process.
#[test]
fn failed_assertion_in_load_is_an_error() {
    // A vocabulary whose two tokens for one text leave its two tables with different sizes, or
    // whose sizes contradict each other: whatever llama.cpp makes of it, this process goes on.
    let tokens: Vec<String> = (0..53).map(|_| "same".to_owned()).collect();
    let header = || {
        GgufWriter::new()
            .string("general.architecture", "llama")
            .u32("llama.block_count", 2)
            .u32("llama.embedding_length", 64)
            .u32("llama.feed_forward_length", 43)
            .u32("llama.attention.head_count", 4)
            .u32("llama.attention.head_count_kv", 2)
            .u32("llama.context_length", 700)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    };
    let no_newline = header()
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .strings("tokenizer.ggml.merges", &["a b".to_owned()]);
    let odd_heads = header().string("tokenizer.ggml.model", "no_vocab").u32("llama.vocab_size", 53);
    for writer in [no_newline, odd_heads] {
        let outcome = ModelFile { writer }.with(&tensors_of(true)).load();
        assert!(outcome.is_err());
    }
}
