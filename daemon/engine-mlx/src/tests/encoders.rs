//! Models that embed, read from folders, against plain loops.
//!
//! The folders and vectors come from `tests/goldens/make_bert.py`.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::goldens::{goldens, load_all};
use super::*;
use ingle_engine::backend::Embedder;
use ingle_formats::hf::ModelFolder;

/// Tokens of a text that the golden models can read.
const CONTEXT: usize = 40;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<Vec<u32>>,
    vectors: Vec<Vec<f64>>,
}

fn load(
    folder: &Arc<ModelFolder>,
    precision: WeightPrecision,
) -> Result<Box<dyn Embedder>, EngineError> {
    let mut builder = folder_embedder(folder)?;
    for tensor in load_all(folder, precision)? {
        builder.adopt(tensor)?;
        while !builder.advance(false)? {}
    }
    while !builder.advance(true)? {}
    builder.finish()
}

/// A golden model; one whose weights are to keep their type must be computed in that type.
fn embedder(case: &str, precision: WeightPrecision) -> Box<dyn Embedder> {
    let folder = ModelFolder::open(&goldens().join(case)).unwrap();
    load(&Arc::new(folder), precision).unwrap()
}

fn likeness(one: &[f32], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| f64::from(*one) * other).sum()
}

#[test]
fn vectors_are_those_of_plain_loops_alone_and_in_a_batch() {
    for case in ["bert-mean", "bert-cls", "bert-max", "roberta-mean"] {
        let golden = fs::read_to_string(goldens().join(case).join("golden.json")).unwrap();
        let golden: Golden = serde_json::from_str(&golden).unwrap();
        for (precision, least) in
            [(WeightPrecision::Float32, 0.999_999), (WeightPrecision::AsStored, 0.999)]
        {
            let mut embedder = embedder(case, precision);
            assert_eq!((embedder.dimensions(), embedder.context_tokens()), (16, CONTEXT));
            assert_eq!(embedder.info().architecture, case.split_once('-').unwrap().0);
            // Each length in a pass of its own, and several lengths padded to one.
            let indices = (0..golden.texts.len()).chain([0, 1, 2, 1, 0, 2]);
            let (texts, expected): (Vec<&[u32]>, Vec<&[f64]>) = indices
                .map(|index| (golden.texts[index].as_slice(), golden.vectors[index].as_slice()))
                .unzip();
            let together = embedder.embed(&texts).unwrap();
            for ((text, vector), expected) in texts.iter().zip(&together).zip(expected) {
                let alone = embedder.embed(&[text]).unwrap().remove(0);
                for vector in [vector, &alone] {
                    let found = likeness(vector, expected);
                    assert!(found > least, "{case}, {} tokens: {found}", text.len());
                }
            }
        }
    }
}

#[test]
fn texts_that_cannot_be_embedded_are_refused() {
    let mut embedder = embedder("bert-mean", WeightPrecision::Float32);
    for (text, named) in [
        (vec![], "a text of 0 tokens, expected 1 to 40"),
        (vec![2; CONTEXT + 1], "a text of 41 tokens"),
        (vec![2, 99_999, 3], "token 99999 is outside the vocabulary"),
    ] {
        let error = embedder.embed(&[&[2, 3], &text]).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    assert!(embedder.embed(&[]).unwrap().is_empty());
}

/// A copy of a golden folder, changed by `change`.
fn changed(change: impl FnOnce(&Path)) -> Result<Box<dyn Embedder>, String> {
    let copy = tempfile::tempdir().unwrap();
    let golden = goldens().join("bert-mean");
    fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    for name in ["config.json", "modules.json", "model.safetensors", "1_Pooling/config.json"] {
        fs::copy(golden.join(name), copy.path().join(name)).unwrap();
    }
    change(copy.path());
    let path = copy.path().display().to_string();
    let folder = ModelFolder::open(copy.path()).map_err(|error| error.to_string());
    let embedder = folder.and_then(|folder| {
        load(&Arc::new(folder), WeightPrecision::Float32).map_err(|error| error.to_string())
    });
    embedder.map_err(|error| error.replace(&path, "m"))
}

fn with_key(key: &'static str, value: Value) -> String {
    let refusal = changed(|folder| {
        let path = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
    });
    refusal.err().expect("it is refused")
}

#[test]
fn a_folder_that_contradicts_itself_is_refused_by_file_and_name() {
    for (key, value, expected) in [
        ("num_attention_heads", json!(3), "m/config.json: a `hidden_size` of 16 cannot be shared"),
        ("hidden_size", json!(32), "m/1_Pooling/config.json: `word_embedding_dimension` is 16"),
        ("intermediate_size", json!(25), "intermediate.dense.weight` has shape [24, 16], expected"),
        (
            "vocab_size",
            json!(67),
            "m/model.safetensors: tensor `embeddings.word_embeddings.weight`",
        ),
        ("max_position_embeddings", json!(41), "position_embeddings.weight` has shape [40, 16]"),
        (
            "num_hidden_layers",
            json!(3),
            "`encoder.layer.2.attention.output.LayerNorm.bias` is missing",
        ),
        ("num_hidden_layers", json!(1), "` is not part"),
        ("num_hidden_layers", json!(9_999), "9999 layers, more than the 1024 allowed"),
        ("layer_norm_eps", json!(-1), "`layer_norm_eps` is -1"),
        ("hidden_act", json!("silu"), "`hidden_act` is `silu`; supported: `gelu`"),
        ("position_embedding_type", json!("relative_key"), "`position_embedding_type` is"),
        ("is_decoder", json!(true), "`is_decoder` is true; supported: false"),
        ("model_type", json!("mpnet"), "m/config.json: `model_type` is `mpnet`; supported: `bert`"),
        ("model_type", json!("qwen3"), "`model_type` is `qwen3`; supported"),
    ] {
        let message = with_key(key, value.clone());
        assert!(message.contains(expected), "{key} = {value}: {message}");
    }
    let without_modules = changed(|folder| fs::remove_file(folder.join("modules.json")).unwrap());
    let message = without_modules.err().unwrap();
    assert!(message.starts_with("m: the folder has no modules.json"), "{message}");
    let without_pooling =
        changed(|folder| fs::remove_file(folder.join("1_Pooling/config.json")).unwrap());
    let message = without_pooling.err().unwrap();
    assert!(message.starts_with("m/1_Pooling/config.json: cannot read the file"), "{message}");
    let not_a_number = changed(|folder| {
        let path = folder.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(path, bytes).unwrap();
    });
    assert!(problem_of(not_a_number).contains("tensor `"), "a NaN is named");
}

fn problem_of(result: Result<Box<dyn Embedder>, String>) -> String {
    result.err().expect("it is refused")
}
