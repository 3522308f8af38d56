//! Folders whose config and tensors contradict each other or ask for what is not computed here.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use tokio::sync::{mpsc, oneshot};

use super::goldens::{self, goldens, load_all};
use super::*;
use ingle_protocol::wire::models::EngineKind;

use ingle_engine::engines::Engines;
use ingle_engine::model::{EngineModel, Weights};
use ingle_engine::role::Role;
use ingle_engine::settings::EngineSettings;
use ingle_formats::hf::{ModelFolder, Storage};
use ingle_scheduler::command::Command;
use ingle_scheduler::command::EngineExit;
use ingle_scheduler::crash_journal::CrashJournal;
use ingle_scheduler::handle::EngineHandle;
use ingle_scheduler::memory::{Budget, MemoryOptions, ModelOptions};

/// A golden's config, to be changed, and its weights.
fn parts(case: &str) -> (Value, Vec<u8>) {
    let path = goldens().join(case);
    let config = fs::read(path.join("config.json")).unwrap();
    let weights = fs::read(path.join("model.safetensors")).unwrap();
    (serde_json::from_slice(&config).unwrap(), weights)
}

/// What the builder says of a golden whose config has one key changed; `null` removes it.
fn refusal(case: &str, key: &str, value: Value) -> String {
    let (mut config, weights) = parts(case);
    config[key] = value;
    let config = serde_json::to_vec(&config).unwrap();
    let folder = match ModelFolder::from_bytes(Path::new("m"), &config, weights) {
        Ok(folder) => folder,
        Err(error) => return error.to_string(),
    };
    problem(folder_builder(&folder).map_err(EngineError::from).and_then(|builder| builder.finish()))
}

#[test]
fn configs_that_the_tensors_contradict_are_refused_before_the_load() {
    for (case, key, value, expected) in [
        ("llama", "num_attention_heads", json!(3), "3 query heads cannot share 2 key heads evenly"),
        (
            "llama",
            "head_dim",
            json!(32),
            "m/model.safetensors: tensor `model.layers.1.self_attn.k_proj.weight` has shape [32, 64], expected [64, 64]",
        ),
        ("llama", "hidden_size", json!(32), "k_proj.weight` has shape [32, 64], expected [16, 32]"),
        ("llama-q4", "vocab_size", json!(97), "`model.embed_tokens.weight` has shape [96, 64]"),
        (
            "llama",
            "num_hidden_layers",
            json!(3),
            "`model.layers.2.input_layernorm.weight` is missing",
        ),
        ("llama", "num_hidden_layers", json!(1), "` is not part"),
        ("llama", "num_hidden_layers", json!(99_999), "99999 layers, more than the 4096 allowed"),
        ("llama", "tie_word_embeddings", json!(false), "`lm_head.weight` is missing"),
        (
            "llama",
            "attention_bias",
            json!(true),
            "`model.layers.0.self_attn.k_proj.bias` is missing",
        ),
        ("llama-bias", "mlp_bias", json!(false), "_proj.bias` is not part"),
        ("qwen2", "model_type", json!("llama"), "_proj.bias` is not part"),
        ("llama", "hidden_size", json!(0), "`hidden_size` is 0, expected a whole number from 1"),
        ("llama", "hidden_size", json!(u64::MAX), "`hidden_size` is 18446744073709551615"),
        ("llama", "head_dim", json!(15), "heads have 15 elements"),
        ("llama", "rms_norm_eps", json!(-1), "`rms_norm_eps` is -1"),
        (
            "llama",
            "rms_norm_eps",
            Value::Null,
            "`rms_norm_eps` is missing, expected a finite number",
        ),
        ("qwen2", "rope_theta", Value::Null, "`rope_theta` is missing"),
        ("llama", "rope_theta", json!(0), "`rope_theta` is 0"),
    ] {
        let message = refusal(case, key, value.clone());
        assert!(message.contains(expected), "{key} = {value}: {message}");
    }
}

#[test]
fn folders_that_ask_for_something_else_are_refused_by_key() {
    let scaling = |kind: &str| json!({"rope_type": kind, "factor": 2.0});
    for (key, value, expected) in [
        ("model_type", json!("mamba"), "`model_type` is `mamba`, which is not one of"),
        ("model_type", Value::Null, "`model_type` is missing"),
        (
            "rope_scaling",
            scaling("yarn"),
            "`rope_scaling.rope_type` is `yarn`; supported: `default`",
        ),
        ("rope_scaling", scaling("dynamic"), "`rope_scaling.rope_type` is `dynamic`"),
        ("rope_scaling", json!({"type": "su"}), "`rope_scaling.type` is `su`"),
        ("rope_scaling", json!({"type": "linear"}), "`rope_scaling.factor` is missing"),
        ("rope_scaling", json!({"type": "linear", "factor": -1}), "is -1, expected more than 0"),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4}),
            "expected more than the low_freq_factor of 4",
        ),
        ("rope_scaling", json!(2), "`rope_scaling` is 2, expected an object"),
        ("hidden_act", json!("gelu"), "`hidden_act` is `gelu`; supported: `silu`"),
        ("partial_rotary_factor", json!(0.5), "`partial_rotary_factor` is 0.5; supported: 1"),
        ("layer_types", json!(["chunked_attention"]), "`layer_types` is an array; supported"),
        ("model_file", json!("model.py"), "`model_file` is `model.py`"),
    ] {
        let message = refusal("llama", key, value.clone());
        assert!(message.starts_with("m/config.json: "), "{message}");
        assert!(message.contains(expected), "{key} = {value}: {message}");
    }
}

#[test]
fn the_nested_form_of_the_rotation_is_read_too() {
    let (mut config, weights) = parts("llama");
    let expected = load_of(&config, &weights);
    config["rope_theta"] = Value::Null;
    config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 10_000.0});
    assert_eq!(load_of(&config, &weights), expected);
    config["rope_parameters"]["rope_theta"] = json!(20_000.0);
    assert_ne!(load_of(&config, &weights), expected);
}

/// The log-probabilities after a short prompt.
fn load_of(config: &Value, weights: &[u8]) -> Vec<f64> {
    let config = serde_json::to_vec(config).unwrap();
    let folder = ModelFolder::from_bytes(Path::new("m"), &config, weights.to_vec()).unwrap();
    let folder = Arc::new(folder);
    let tensors = load_all(&folder, WeightPrecision::Float32).unwrap();
    let mut builder = folder_builder(&folder).unwrap();
    for tensor in tensors {
        builder.adopt(tensor).unwrap();
    }
    let mut generator = builder.finish().unwrap();
    let seq = generator.open().unwrap();
    pass(&mut *generator, &[row(seq, &tokens(9))]).remove(0)
}

#[test]
fn a_scale_that_is_no_number_is_refused_by_name() {
    let (config, weights) = parts("llama-q4");
    let config = serde_json::to_vec(&config).unwrap();
    let open = |weights: Vec<u8>| ModelFolder::from_bytes(Path::new("m"), &config, weights);
    let name = "model.layers.1.mlp.up_proj";
    let sound = open(weights.clone()).unwrap();
    let tensor = sound.tensors().iter().find(|t| t.name == format!("{name}.weight")).unwrap();
    let Storage::Quantized { scales, biases, .. } = &tensor.storage else { panic!("quantised") };
    for (part, kind) in [(scales, "scales"), (biases, "biases")] {
        let mut broken = weights.clone();
        let at = part.info.offset as usize + 2 * 5;
        broken[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
        let folder = Arc::new(open(broken).unwrap());
        for precision in [WeightPrecision::Float32, WeightPrecision::AsStored] {
            assert_eq!(
                load_all(&folder, precision).unwrap_err().to_string(),
                format!(
                    "m/model.safetensors: tensor `{name}.{kind}`: the value of element 5 is NaN, \
                     expected a finite number"
                )
            );
        }
    }
}

#[test]
fn the_engine_thread_loads_a_folder() {
    let (_, folder) = goldens::open("llama-mixed");
    let bytes = loader::folder_loaded_bytes(&folder, weight_precision());
    let memory = MemoryOptions { budget: Budget::Bytes(u64::MAX), ..MemoryOptions::default() };
    let home = tempfile::tempdir().unwrap();
    let journal = CrashJournal::open(&home.path().join("journal"), &home.path().join("deaths"));
    let engines = Engines::new([Arc::new(MlxEngine) as Arc<dyn Engine>]);
    let (engine, exit) =
        EngineHandle::spawn(engines, EngineSettings::default(), memory, journal).unwrap();
    let model = EngineModel {
        name: "tiny".to_owned(),
        version: "1".to_owned(),
        engine: EngineKind::Mlx,
        role: Role::Generates,
        weights: Weights::Safetensors(folder),
    };
    let (progress, _events) = mpsc::channel(64);
    let (done, loaded) = oneshot::channel();
    let options = ModelOptions::default();
    let span = tracing::Span::current();
    engine.send(Command::Load { model, options, force: false, span, progress, done }).unwrap();
    let loaded = loaded.blocking_recv().unwrap().unwrap();
    assert_eq!((loaded.engine.as_str(), loaded.architecture.as_str()), ("mlx", "llama"));
    assert_eq!((loaded.context_tokens, loaded.weight_bytes), (512, bytes));
    engine.send(Command::Shutdown { now: true }).unwrap();
    assert_eq!(exit.blocking_recv(), Ok(EngineExit::Finished));
}
