//! Tests of model folders, valid and broken.

use std::fs;

use super::*;
use crate::safetensors::testing::SafetensorsWriter;

const QUANTIZED: &str = r#"{"quantization":{"group_size":32,"bits":4,"mode":"affine"}}"#;

/// A quantized matrix of 2 rows of 32, and a norm.
fn quantized() -> SafetensorsWriter {
    SafetensorsWriter::new()
        .tensor("a.weight", "U32", &[2, 4], &[0; 32])
        .tensor("a.scales", "F16", &[2, 1], &[0; 4])
        .tensor("a.biases", "F16", &[2, 1], &[0; 4])
        .f32_tensor("norm.weight", &[32], &[1.0; 32])
}

fn open(config: &str, weights: &SafetensorsWriter) -> Result<ModelFolder, FolderError> {
    ModelFolder::from_bytes(Path::new("m"), config.as_bytes(), weights.bytes())
}

fn problem(config: &str, weights: &SafetensorsWriter) -> String {
    open(config, weights).expect_err("the folder is broken").to_string()
}

#[test]
fn quantized_matrix_is_one_tensor() {
    let folder = open(QUANTIZED, &quantized()).unwrap();
    let [matrix, norm] = folder.tensors() else { panic!("two tensors") };
    assert_eq!((matrix.name.as_str(), matrix.shape.as_slice()), ("a.weight", &[2, 32][..]));
    let Storage::Quantized { affine, scales, .. } = &matrix.storage else { panic!("quantised") };
    assert_eq!(*affine, Affine { bits: 4, group_size: 32 });
    assert_eq!(scales.info.name, "a.scales");
    assert_eq!(matrix.stored_bytes(), 40);
    assert!(matches!(&norm.storage, Storage::Plain(_)));
    let mut bytes = [0; 4];
    folder.read(norm.main_part(), 4, &mut bytes).unwrap();
    assert_eq!(f32::from_le_bytes(bytes), 1.0);

    // The same bytes as another kind of matrix, by module path.
    let config = r#"{"quantization":{"group_size":64,"bits":8,"a":{"group_size":32,"bits":4}}}"#;
    assert_eq!(open(config, &quantized()).unwrap().tensors()[0].shape, [2, 32]);
    let left_out = SafetensorsWriter::new()
        .f32_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", &[1], &[1.0])
        .f32_tensor("lm_head.weight", &[1], &[1.0]);
    assert!(open(r#"{"tie_word_embeddings":true}"#, &left_out).unwrap().tensors().is_empty());
    assert_eq!(open("{}", &left_out).unwrap().tensors().len(), 1);
}

#[test]
fn errors_name_wrong_quantization() {
    let scales_of = |shape: &[usize]| {
        SafetensorsWriter::new()
            .tensor("a.weight", "U32", &[2, 4], &[0; 32])
            .tensor("a.scales", "F16", shape, &vec![0; shape.iter().product::<usize>() * 2])
            .tensor("a.biases", "F16", shape, &vec![0; shape.iter().product::<usize>() * 2])
    };
    let of = |entry: &str| format!(r#"{{"quantization":{{"group_size":32,"bits":4,{entry}}}}}"#);
    let packed = SafetensorsWriter::new().tensor("a.weight", "U32", &[2, 4], &[0; 32]);
    let cases = [
        (problem("{}", &quantized()), "`a.scales` exists, but config.json has no `quantization`"),
        (problem(&of(r#""a":false"#), &quantized()), "config.json does not quantize `a`"),
        (problem(QUANTIZED, &scales_of(&[2, 2])), "4 bits in groups of 32"),
        (problem(QUANTIZED, &scales_of(&[1, 1])), "shape [2, 4] with scales of shape [1, 1]"),
        (problem(QUANTIZED, &scales_of(&[2])), "expected matrices"),
        (problem(QUANTIZED, &packed), "`a.weight` is stored as U32; packed values need scales"),
        (
            problem(QUANTIZED, &packed.clone().tensor("a.scales", "F16", &[2, 1], &[0; 4])),
            "tensor `a.biases` is missing",
        ),
        (
            problem(
                QUANTIZED,
                &packed.clone().tensor("a.scales", "U8", &[2, 1], &[0; 2]).tensor(
                    "a.biases",
                    "U8",
                    &[2, 1],
                    &[0; 2],
                ),
            ),
            "with scales as U8",
        ),
        (
            problem("{}", &SafetensorsWriter::new().tensor("w", "I8", &[4], &[0; 4])),
            "tensor `w` is stored as I8; this engine reads F32, F16, BF16",
        ),
        (
            problem(&of(r#""mode":"mxfp4""#), &quantized()),
            "`quantization.mode` is `mxfp4`; supported",
        ),
        (
            problem(&of(r#""a":{"group_size":32,"bits":6}"#), &quantized()),
            "`quantization.a.bits` is 6; supported: 4, 8",
        ),
        (
            problem(r#"{"quantization":{"group_size":16,"bits":4}}"#, &quantized()),
            "`quantization.group_size` is 16; supported: 32, 64, 128",
        ),
        (
            problem(r#"{"quantization":{"bits":4}}"#, &quantized()),
            "`quantization.group_size` is missing",
        ),
        (problem(r#"{"quantization":4}"#, &quantized()), "`quantization` is 4, expected an object"),
        (
            problem(r#"{"quantization_config":{"quant_method":"awq","bits":4}}"#, &quantized()),
            "`quantization_config.quant_method` is `awq`",
        ),
    ];
    for (message, expected) in cases {
        assert!(message.starts_with("m/"), "{message}");
        assert!(message.contains(expected), "{message}: expected {expected}");
    }
}

/// The result of opening a folder with these files.
fn verdict(files: &[(&str, Vec<u8>)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let path = folder.path().display().to_string();
    match ModelFolder::open(folder.path()) {
        Ok(folder) => format!("{} tensors", folder.tensors().len()),
        Err(error) => error.to_string().replace(&path, "m"),
    }
}

#[test]
fn index_gives_shards_or_an_error() {
    let tensor = |name: &str| SafetensorsWriter::new().f32_tensor(name, &[1], &[1.0]).bytes();
    let map = |text: &str| format!(r#"{{"weight_map":{{{text}}}}}"#).into_bytes();
    let index = "model.safetensors.index.json";
    let config = ("config.json", b"{}".to_vec());
    let (a, b) = (("a.safetensors", tensor("x")), ("b.safetensors", tensor("y")));
    let cut = ("b.safetensors", tensor("y")[..40].to_vec());
    let both = map(r#""x":"a.safetensors","y":"b.safetensors""#);
    let cases = [
        (vec![config.clone(), ("model.safetensors", tensor("x"))], "1 tensors"),
        (vec![config.clone(), a.clone(), b.clone(), (index, both.clone())], "2 tensors"),
        (vec![config.clone()], "m: it holds neither model.safetensors nor"),
        (vec![("model.safetensors", tensor("x"))], "m/config.json: cannot read the file"),
        (
            vec![config.clone(), a.clone(), (index, both.clone())],
            "m/b.safetensors: cannot read the file",
        ),
        (vec![config.clone(), a.clone(), cut, (index, both.clone())], "m/b.safetensors: truncated"),
        (
            vec![config.clone(), a.clone(), (index, map(r#""z":"a.safetensors""#))],
            "tensor `z` should be in a.safetensors, but it is in none",
        ),
        (
            vec![
                config.clone(),
                a.clone(),
                b.clone(),
                (index, map(r#""x":"b.safetensors","y":"a.safetensors""#)),
            ],
            "tensor `x` should be in b.safetensors, but it is in a.safetensors",
        ),
        (
            vec![config.clone(), a.clone(), ("b.safetensors", tensor("x")), (index, both.clone())],
            "m/b.safetensors: tensor `x` is in a.safetensors too",
        ),
        (
            vec![
                config.clone(),
                a.clone(),
                (index, map(r#""x":"a.safetensors","x":"a.safetensors""#)),
            ],
            "`weight_map` names tensor `x` twice",
        ),
        (
            vec![config.clone(), (index, map(r#""x":"../a.safetensors""#))],
            "the file `../a.safetensors`",
        ),
        (vec![config.clone(), (index, map(r#""x":"/a.safetensors""#))], "of the same folder"),
        (vec![config.clone(), (index, map(r#""x":"..""#))], "of the same folder"),
        (
            vec![config.clone(), (index, map(r#""x":"config.json""#))],
            "expected a .safetensors file",
        ),
        (vec![config.clone(), (index, map(""))], "`weight_map` is empty"),
        (vec![config.clone(), (index, b"[]".to_vec())], "not an index of tensors"),
        (vec![("config.json", b"[1]".to_vec())], "m/config.json: it is not a JSON object"),
    ];
    for (files, expected) in cases {
        let verdict = verdict(&files);
        assert!(verdict.contains(expected), "{verdict}: expected {expected}");
    }
}

#[test]
fn config_getters_check_their_values() {
    let path = Path::new("config.json");
    let text = r#"{"a":3,"b":-1,"c":"x","d":null,"e":{"f":2.5,"g":[1]},"h":true,"i":["x"]}"#;
    let config = Config::parse(path, text.as_bytes()).unwrap();
    assert_eq!(config.size("a").unwrap(), 3);
    assert_eq!(config.size_opt("d").unwrap(), None);
    assert_eq!(config.number("b").unwrap(), -1.0);
    assert!(config.flag("h").unwrap());
    assert_eq!(config.strings("i").unwrap(), ["x"]);
    let section = config.section_opt("e").unwrap().unwrap();
    assert_eq!(section.number("f").unwrap(), 2.5);
    for (message, expected) in [
        (config.size("b").unwrap_err(), "`b` is -1, expected a whole number from 1 to 16777215"),
        (config.size("zz").unwrap_err(), "`zz` is missing, expected a whole number"),
        (config.flag("c").unwrap_err(), "`c` is `x`, expected true or false"),
        (section.strings("g").unwrap_err(), "`e.g` is an array, expected an array of strings"),
        (section.size("f").unwrap_err(), "`e.f` is 2.5, expected a whole number"),
        (config.section_opt("i").unwrap_err(), "`i` is an array, expected an object"),
    ] {
        let message = message.to_string();
        assert!(message.starts_with("config.json: ") && message.contains(expected), "{message}");
    }
}

#[test]
fn sliding_window_limits_the_context() {
    let context = |text: &str| {
        let config = format!(r#"{{"max_position_embeddings":100,{text}}}"#);
        open(&config, &SafetensorsWriter::new())
            .unwrap()
            .context_tokens()
            .map_err(|e| e.to_string())
    };
    for (config, expected) in [
        (r#""sliding_window":null"#, 100),
        (r#""sliding_window":30"#, 30),
        (r#""sliding_window":300"#, 100),
        (r#""sliding_window":30,"use_sliding_window":false"#, 100),
        (r#""sliding_window":30,"layer_types":["full_attention"]"#, 100),
        (r#""sliding_window":30,"layer_types":["full_attention","sliding_attention"]"#, 30),
    ] {
        assert_eq!(context(config), Ok(expected), "{config}");
    }
    let message = context(r#""layer_types":["linear_attention"]"#).unwrap_err();
    assert!(
        message.contains("`layer_types` is an array; supported: `full_attention`"),
        "{message}"
    );
}
