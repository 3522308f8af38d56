//! Tests of model folders of all kinds, complete and broken.

use super::*;

/// A safetensors file without tensors.
const EMPTY: &str = "\x02\0\0\0\0\0\0\0{}";
const LLAMA: &str = r#"{"model_type":"llama"}"#;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// What `inspect` says of a folder with these files.
fn verdict(files: &[(&str, &str)], choice: Option<&str>) -> String {
    let folder = folder(files);
    match inspect(folder.path(), choice) {
        Ok(found) => {
            let name = found.file.file_name().unwrap().to_str().unwrap().to_owned();
            let label = found.label.map(|label| format!(":{label}")).unwrap_or_default();
            format!("{} {name}{label} {}", found.format.as_str(), found.size_bytes)
        }
        Err(error) => error.to_string().replace(folder.path().to_str().unwrap(), ""),
    }
}

#[test]
fn inspect_finds_model_or_gives_reason() {
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    for (files, expected) in [
        (&[("a.gguf", "GGUF...")][..], "gguf a.gguf 7"),
        (&[("A.GGUF", "GGUF"), ("config.json", "{}"), ("._b.gguf", "")], "gguf A.GGUF 4"),
        (&[("a.gguf", "GGUF"), ("mmproj-a.gguf", "GGUF")], "gguf a.gguf 4"),
        (&[("Q8_0/a.gguf", "GGUF")], "gguf a.gguf 4"),
        (&[("config.json", r#"{"model_type":"sim"}"#)], "sim config.json 20"),
        (&[("a.gguf", "GGUF"), ("b.gguf", "GGUF")], "holds 2 GGUF models"),
        (
            &[("m-00001-of-00002.gguf", "GGUF"), ("m-00002-of-00002.gguf", "GGUF...")],
            "gguf m-00001-of-00002.gguf 11",
        ),
        (
            &[("m-00002-of-00003.gguf", "GGUF")],
            "split into 3 files, and `m-00001-of-00003.gguf` is",
        ),
        (&[("a.gguf", "")], "a.gguf` is empty"),
        (&[("a.gguf", "GGML")], "does not start with the bytes"),
        (&[("a.gguf", "version https://git-lfs.github.com/spec/v1")], "git lfs pull"),
        (&[("a.gguf.part", "GGUF")], "`a.gguf.part` shows that its download is not finished"),
        (&[("config.json", "{")], "is not JSON"),
        (&[("config.json", "{}")], "has no `model_type`"),
        (&[("config.json", LLAMA)], "of type `llama` without readable weights"),
        (&[("model.safetensors", EMPTY)], "without a config.json"),
        (&[], "holds neither"),
        (
            &[("config.json", LLAMA), ("model.safetensors", EMPTY)],
            "safetensors model.safetensors 10",
        ),
        (
            &[
                ("config.json", "{}"),
                ("model.safetensors", EMPTY),
                ("a-Q4_0.gguf", ""),
                ("b.gguf", ""),
            ],
            "safetensors model.safetensors 10",
        ),
        (
            &[
                ("config.json", LLAMA),
                ("model.safetensors.index.json", index),
                ("model-1.safetensors", EMPTY),
                ("model-2.safetensors", EMPTY),
                ("consolidated.safetensors", EMPTY),
            ],
            "safetensors model.safetensors.index.json 20",
        ),
        (
            &[
                ("config.json", LLAMA),
                ("model.safetensors.index.json", index),
                ("model-1.safetensors", EMPTY),
                ("model-2.safetensors.incomplete", ""),
            ],
            "lacks `model-2.safetensors`; `model-2.safetensors.incomplete` shows",
        ),
        (
            &[("config.json", LLAMA), ("model-00001-of-00003.safetensors", EMPTY)],
            "lacks `model-00002-of-00003.safetensors`, `model-00003-of-00003.safetensors`",
        ),
        (
            &[
                ("config.json", LLAMA),
                ("model.safetensors.index.json", r#"{"weight_map":{"a":"../x.safetensors"}}"#),
            ],
            "names no file of this folder for the tensor `a`",
        ),
        (&[("config.json", LLAMA), ("model.safetensors.index.json", "{}")], "has no `weight_map`"),
        (&[("config.json", LLAMA), ("model.safetensors", "")], "model.safetensors` is empty"),
        (&[("config.json", LLAMA), ("model.safetensors", "\x09\0\0\0\0\0\0\0{}")], "is truncated"),
        (&[("config.json", LLAMA), ("model.safetensors", "PK\x03\x04567890")], "not a safetensors"),
        (
            &[("config.json", LLAMA), ("adapter_model.safetensors", EMPTY)],
            "is an adapter for another model",
        ),
    ] {
        let verdict = verdict(files, None);
        assert!(verdict.contains(expected), "{files:?}: {verdict}");
    }
}

#[test]
fn choice_selects_among_gguf_files() {
    let files = [
        ("m-Q4_K_M.gguf", "GGUF"),
        ("m-Q8_0-00001-of-00002.gguf", "GGUF"),
        ("m-Q8_0-00002-of-00002.gguf", "GGUF"),
        ("mmproj-F16.gguf", "GGUF"),
    ];
    for (choice, expected) in [
        ("q4_k_m", "gguf m-Q4_K_M.gguf:Q4_K_M 4"),
        ("m-Q4_K_M.gguf", "gguf m-Q4_K_M.gguf:Q4_K_M 4"),
        ("Q8_0", "gguf m-Q8_0-00001-of-00002.gguf:Q8_0 8"),
        ("Q5_0", "holds 2 GGUF models"),
    ] {
        let verdict = verdict(&files, Some(choice));
        assert!(verdict.contains(expected), "{choice}: {verdict}");
    }
    let folder = folder(&files);
    let choices = choices(folder.path()).unwrap();
    assert_eq!(choices, [Some("Q4_K_M".to_owned()), Some("Q8_0".to_owned())]);
    let Err(StoreError::Choose { choices, .. }) = inspect(folder.path(), None) else { panic!() };
    assert_eq!(choices, ["Q4_K_M", "Q8_0"]);
}

#[test]
fn stamp_depends_on_every_file() {
    let folder =
        folder(&[("config.json", LLAMA), ("model.safetensors", EMPTY), ("tokenizer.json", "{}")]);
    let stamp = || inspect(folder.path(), None).unwrap().stamp;
    let before = stamp();
    assert_eq!(stamp(), before);
    fs::write(folder.path().join("README.md"), "new").unwrap();
    assert_eq!(stamp(), before);
    fs::write(folder.path().join("tokenizer.json"), "{ }").unwrap();
    assert_ne!(stamp(), before);
}

#[test]
fn dangling_link_is_named() {
    let folder = folder(&[("config.json", LLAMA)]);
    std::os::unix::fs::symlink("../../blobs/gone", folder.path().join("model.safetensors"))
        .unwrap();
    let error = inspect(folder.path(), None).unwrap_err().to_string();
    assert!(error.ends_with("model.safetensors` is a link to a missing file"), "{error}");
}

#[test]
fn manifest_matches_commit_and_requested_refs() {
    let manifest = Manifest {
        source: "hf:org/m".into(),
        revision: Some("abcdef1234567890abcdef1234567890abcdef12".into()),
        refs: vec!["v1.0".into(), "refs/pr/1".into()],
        choice: None,
        file: "model.safetensors".into(),
        size_bytes: 1,
        sha256: String::new(),
        fetched_at_unix_s: 0,
    };
    for (name, expected) in [
        ("org/m", true),
        ("Org/M@v1.0", true),
        ("org/m@refs/pr/1", true),
        ("org/m@abcdef1", true),
        ("org/m@ABCDEF1", true),
        ("org/m@abcdef1234567890abcdef1234567890abcdef12", true),
        ("org/m@v1", false),
        ("org/m@V1.0", false),
        // A branch may be called what a commit begins with.
        ("org/m@a", false),
        ("org/m@abcdef2", false),
        ("org/n", false),
    ] {
        let Ok(names::ModelInput::Model(wanted)) = names::parse(name) else { panic!("{name}") };
        assert_eq!(manifest.is_from(&wanted), expected, "{name}");
    }
}

#[test]
fn short_shard_names_are_bounded() {
    // Each name is one of a set of its own, of which all others are missing.
    let names: Vec<String> = (0..2_000)
        .map(|set| format!("model-{set}-00001-of-10000.safetensors"))
        .chain((1..2_000).map(|shard| format!("model-{shard:05}-of-10000.safetensors")))
        .collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), EMPTY)).collect();
    files.push(("config.json", LLAMA));
    let verdict = verdict(&files, None);
    assert!(verdict.contains("lacks `model-0-00002-of-10000.safetensors`"), "{verdict}");
    assert!(verdict.ends_with(" more"), "{verdict}");
}

#[test]
fn pipe_as_manifest_does_not_block() {
    let folder = folder(&[("a.gguf", "GGUF")]);
    let made = std::process::Command::new("mkfifo").arg(folder.path().join(MANIFEST)).status();
    assert!(made.unwrap().success());
    assert_eq!(inspect(folder.path(), None).unwrap().size_bytes, 4);
}

#[test]
fn truncated_file_after_pull_is_broken() {
    let folder = folder(&[("a.gguf", "GGUF")]);
    let manifest = Manifest {
        source: "here".into(),
        revision: None,
        refs: Vec::new(),
        choice: None,
        file: "a.gguf".into(),
        size_bytes: 5,
        sha256: String::new(),
        fetched_at_unix_s: 0,
    };
    manifest.write(folder.path()).unwrap();
    assert_eq!(Manifest::read(folder.path()), Some(manifest));
    let error = inspect(folder.path(), None).unwrap_err();
    assert!(error.to_string().ends_with("has 4 bytes, expected 5"), "{error}");
}
