//! Tests of names, paths and the list over folders as users and programs leave them.

use super::*;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use std::os::unix::fs::symlink;

struct Room {
    dir: tempfile::TempDir,
    store: ModelStore,
}

fn room() -> Room {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path().join("models"));
    fs::create_dir(store.models_dir()).unwrap();
    Room { dir, store }
}

impl Room {
    fn put(&self, path: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::canonicalize(path).unwrap()
    }
}

#[test]
fn name_and_path_spellings_are_one_model() {
    let room = room();
    let file = room.put("models/tiny/a.gguf", "GGUF1234");
    let by_name = room.store.resolve(Some("Tiny")).unwrap();
    assert_eq!((by_name.name.as_str(), by_name.size_bytes), ("tiny", 8));
    for path in [file.clone(), file.parent().unwrap().join("../tiny/.")] {
        assert_eq!(room.store.resolve(path.to_str()).unwrap().name, "tiny");
    }
    let folder = room.put("elsewhere/b.gguf", "GGUF");
    let named = [folder.to_str(), folder.parent().unwrap().to_str()]
        .map(|path| room.store.resolve(path).unwrap().name);
    assert_eq!(named, [folder.to_str().unwrap(), folder.to_str().unwrap()]);
}

#[test]
fn links_are_followed_dangling_ones_named() {
    let room = room();
    let file = room.put("elsewhere/b.gguf", "GGUF");
    symlink(file.parent().unwrap(), room.store.models_dir().join("linked")).unwrap();
    assert_eq!(room.store.resolve(Some("linked")).unwrap().name, "linked");
    fs::create_dir(room.store.models_dir().join("lost")).unwrap();
    symlink("/nowhere/c.gguf", room.store.models_dir().join("lost/c.gguf")).unwrap();
    let error = room.store.resolve(Some("lost")).unwrap_err();
    assert!(error.to_string().ends_with("c.gguf` is a link to a missing file"), "{error}");
}

#[test]
fn sim_model_resolves_to_its_folder() {
    let room = room();
    room.put("models/sim/config.json", r#"{"model_type":"sim"}"#);
    let source = room.store.resolve(Some("sim")).unwrap();
    assert_eq!(source.format, ModelFormat::Sim);
    assert_eq!(source.path, room.store.models_dir().join("sim"));
}

#[test]
fn missing_model_error_has_next_step() {
    let room = room();
    room.put("models/tiny/a.gguf", "GGUF");
    let body = |model| ErrorBody::from(room.store.resolve(model).unwrap_err());
    let default = body(None);
    assert_eq!(default.code, ErrorCode::ModelNotFound);
    assert_eq!(default.remediation(), "Run `ingle pull smollm2`.");
    assert!(body(Some("tinny")).remediation().contains("`tiny`"));
    assert!(body(Some("smolm")).remediation().contains("`smollm2`"));
    assert_eq!(body(Some("gpt-5")).remediation(), ErrorCode::ModelNotFound.remediation());
    assert_eq!(body(Some("/nowhere/a.gguf")).code, ErrorCode::ModelNotFound);
    for bad in ["../tiny", "tiny/a.gguf", "tiny/./a", "..", "", "a b", "~root/x"] {
        assert_eq!(body(Some(bad)).code, ErrorCode::InvalidParams, "{bad}");
    }
}

#[test]
fn list_has_present_broken_and_available_models() {
    let room = room();
    room.put("models/tiny/a.gguf", "GGUF");
    room.put("models/empty/readme.txt", "");
    room.put("models/BIG/a.gguf", "GGUF");
    room.put("models/.staging-1/a.gguf", "GGUF");
    let list: Vec<ModelEntry> =
        room.store.list().unwrap().into_iter().map(ModelEntry::from).collect();
    let states: Vec<_> = list.iter().map(|entry| (entry.name.as_str(), entry.state)).collect();
    assert_eq!(
        states,
        [
            ("BIG", ModelState::Broken),
            ("empty", ModelState::Broken),
            ("minilm", ModelState::Available),
            ("smollm2", ModelState::Available),
            ("tiny", ModelState::OnDisk),
        ]
    );
    assert!(list[0].description.contains("`big`"), "{}", list[0].description);
    assert_eq!(ModelStore::new("/nowhere".into()).list().unwrap().len(), 2);
}

/// A Hugging Face cache with a sharded model by links, a GGUF repository and a broken download; an
/// LM Studio folder; and a folder of loose files.
fn with_libraries() -> Room {
    let mut room = room();
    let tensors = "\x02\0\0\0\0\0\0\0{}";
    let qwen = "hub/models--Qwen--Qwen3-0.6B";
    room.put(&format!("{qwen}/refs/main"), "c0ffee0");
    room.put(&format!("{qwen}/refs/v1"), "0ldc0de");
    for commit in ["c0ffee0", "0ldc0de"] {
        let snapshot = format!("{qwen}/snapshots/{commit}");
        room.put(&format!("{qwen}/blobs/{commit}-config"), r#"{"model_type":"qwen3"}"#);
        room.put(&format!("{qwen}/blobs/{commit}-weights"), tensors);
        fs::create_dir_all(room.dir.path().join(&snapshot)).unwrap();
        for (name, blob) in [("config.json", "config"), ("model.safetensors", "weights")] {
            let link = room.dir.path().join(&snapshot).join(name);
            symlink(format!("../../blobs/{commit}-{blob}"), link).unwrap();
        }
    }
    let gguf = "hub/models--bartowski--Tiny-GGUF/snapshots/abc";
    room.put(&format!("{gguf}/Tiny-Q4_K_M.gguf"), "GGUF");
    room.put(&format!("{gguf}/Tiny-Q8_0.gguf"), "GGUF8");
    room.put(&format!("{gguf}/mmproj-Tiny-F16.gguf"), "GGUF");
    let half = room.dir.path().join("hub/models--org--Half/snapshots/abc");
    room.put("hub/models--org--Half/snapshots/abc/config.json", "{}");
    symlink("../../blobs/gone", half.join("model.safetensors")).unwrap();
    room.put("hub/models--org--only-a-tokenizer/snapshots/abc/tokenizer.json", "{}");
    room.put("hub/models--gpt2/refs/main", "../../../../outside");
    room.put("hub/datasets--org--data/snapshots/abc/data.gguf", "GGUF");
    room.put("studio/lmstudio-community/Tiny-GGUF/Tiny-Q4_0.gguf", "GGUF");
    room.put("studio/Qwen/qwen3-0.6b/model-Q8_0.gguf", "GGUF");
    room.put("mine/My Model.Q4_0.gguf", "GGUF");
    room.put("mine/deep/er/model/x.gguf", "GGUF");
    let library = |kind, folder: &str| Library { kind, root: room.dir.path().join(folder) };
    let libraries = vec![
        library(LibraryKind::HuggingFace, "hub"),
        library(LibraryKind::LmStudio, "studio"),
        library(LibraryKind::Folder, "mine"),
        library(LibraryKind::Folder, "not there"),
    ];
    room.store = room.store.with_libraries(libraries);
    room
}

#[test]
fn library_models_are_listed_with_source() {
    let room = with_libraries();
    let list: Vec<ModelEntry> =
        room.store.list().unwrap().into_iter().map(ModelEntry::from).collect();
    let lines: Vec<_> = list
        .iter()
        .map(|entry| (entry.name.as_str(), entry.source.as_str(), entry.format.as_str()))
        .collect();
    assert_eq!(
        lines,
        [
            ("bartowski/Tiny-GGUF:Q4_K_M", "huggingface", "gguf"),
            ("bartowski/Tiny-GGUF:Q8_0", "huggingface", "gguf"),
            ("er/model", "folder", "gguf"),
            ("lmstudio-community/Tiny-GGUF", "lm_studio", "gguf"),
            ("minilm", "", ""),
            ("My-Model.Q4_0", "folder", "gguf"),
            ("org/Half", "huggingface", ""),
            ("Qwen/Qwen3-0.6B", "huggingface", "safetensors"),
            ("smollm2", "", ""),
        ]
    );
    let half = list.iter().find(|entry| entry.name == "org/Half").unwrap();
    assert!(
        half.description.ends_with("model.safetensors` is a link to a missing file"),
        "{half:?}"
    );
    // Every name of the list is one to ask by.
    for entry in list.iter().filter(|entry| entry.state == ModelState::OnDisk) {
        let source = room.store.resolve(Some(&entry.name)).unwrap();
        assert_eq!(source.path.to_str(), entry.path.as_deref(), "{}", entry.name);
    }
}

#[test]
fn library_models_are_found_by_every_spelling() {
    let room = with_libraries();
    let name = |model: &str| match room.store.resolve(Some(model)) {
        Ok(source) => source.name,
        Err(error) => error.to_string(),
    };
    for (model, expected) in [
        ("qwen/QWEN3-0.6b", "Qwen/Qwen3-0.6B"),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("hf:Qwen/Qwen3-0.6B@v1", "Qwen/Qwen3-0.6B"),
        ("bartowski/tiny-gguf:q8_0", "bartowski/Tiny-GGUF:Q8_0"),
        ("bartowski/Tiny-GGUF:Tiny-Q8_0.gguf", "bartowski/Tiny-GGUF:Q8_0"),
        ("lmstudio-community/Tiny-GGUF", "lmstudio-community/Tiny-GGUF"),
        ("my-model.q4_0", "My-Model.Q4_0"),
        ("tiny-gguf", "`tiny-gguf` can mean bartowski/Tiny-GGUF, lmstudio-community/Tiny-GGUF"),
        ("Qwen/Qwen3-0.6B@main~1", "`Qwen/Qwen3-0.6B@main~1` is not an absolute path"),
        ("Qwen/Qwen3-0.6B@v2", "the model `Qwen/Qwen3-0.6B@v2` is not here"),
        ("gpt2", "the model `gpt2` is not here"),
    ] {
        let found = name(model);
        assert!(found.starts_with(expected), "{model}: {found}");
    }
    let error = room.store.resolve(Some("bartowski/Tiny-GGUF")).unwrap_err();
    let body = ErrorBody::from(&error);
    assert!(body.remediation().contains("`:Q4_K_M`, `:Q8_0`"), "{body:?}");
    // A path into a library is another spelling of the name.
    for (path, expected) in [
        ("hub/models--Qwen--Qwen3-0.6B/snapshots/c0ffee0", "Qwen/Qwen3-0.6B"),
        (
            "hub/models--bartowski--Tiny-GGUF/snapshots/abc/Tiny-Q8_0.gguf",
            "bartowski/Tiny-GGUF:Q8_0",
        ),
        ("mine/My Model.Q4_0.gguf", "My-Model.Q4_0"),
    ] {
        assert_eq!(name(room.dir.path().join(path).to_str().unwrap()), expected);
    }
    // Ingle's own folder comes first.
    room.put("models/qwen3-0.6b/a.gguf", "GGUF");
    assert_eq!(name("Qwen3-0.6B"), "qwen3-0.6b");
}

/// Every path below `folder` with its size, time and kind.
fn tree(folder: &Path, out: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::symlink_metadata(&path).unwrap();
        out.push(format!("{} {:?} {:?}", path.display(), data.modified().unwrap(), data.len()));
        if data.is_dir() {
            tree(&path, out);
        }
    }
    out.sort();
}

#[test]
fn libraries_are_only_read() {
    let room = with_libraries();
    let snapshot = || {
        let mut all = Vec::new();
        for folder in ["hub", "studio", "mine"] {
            tree(&room.dir.path().join(folder), &mut all);
        }
        all
    };
    let before = snapshot();
    room.store.list().unwrap();
    for name in ["Qwen/Qwen3-0.6B", "tiny-gguf", "org/Half", "nothing", "bartowski/Tiny-GGUF:Q8_0"]
    {
        let _ = room.store.resolve(Some(name));
    }
    assert_eq!(snapshot(), before);
    assert!(!room.dir.path().join("not there").exists());
}
