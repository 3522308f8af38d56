//! Broken models, end to end: each gets a clear error, and the daemon and its loaded models stay
//! as they were.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::status::Status;
use ingle_tests::{Home, fixture};
use serde_json::{Value, json};

/// Many half-precision floats that are NaN.
fn not_numbers(bytes: usize) -> Vec<u8> {
    [0x00, 0x7e].into_iter().cycle().take(bytes).collect()
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    let mut places = bytes.windows(wanted.len());
    places.position(|window| window == wanted).expect("the fixture holds it")
}

/// SmolLM2's file, for a test to break.
struct Gguf {
    /// The intact file.
    source: PathBuf,
    path: PathBuf,
    header: Vec<u8>,
}

impl Gguf {
    /// A copy of its own, in the home's model folder under `broken`.
    fn copy(home: &Home) -> Self {
        home.add_smollm2();
        let folder = home.paths().models_dir().join("smollm2");
        let files = fs::read_dir(folder).expect("the test model").flatten();
        let source = files
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "gguf"))
            .expect("a GGUF file");
        let path = home.paths().models_dir().join("broken/model.gguf");
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::copy(&source, &path).expect("room for a copy");
        let mut header = vec![0; 4 << 20];
        let file = fs::File::open(&path).expect("the copy");
        file.read_exact_at(&mut header, 0).expect("a header");
        Self { source, path, header }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let file = fs::File::options().write(true).open(&self.path).expect("the copy");
        file.write_all_at(bytes, at as u64).expect("room");
    }

    fn cut(&self, bytes: u64) {
        let file = fs::File::options().write(true).open(&self.path).expect("the copy");
        file.set_len(bytes).expect("a shorter file");
    }
}

/// The error code and message that the command line shows for a broken model.
fn refusal(home: &Home, engine: Option<&str>) -> (String, String) {
    let engine = engine.into_iter().flat_map(|engine| ["--engine", engine]);
    let arguments = ["chat", "-m", "broken", "--json", "hi"].into_iter().chain(engine);
    let finished = home.ingle(arguments);
    let error = finished.json()["error"].clone();
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    assert!(!text("remediation").is_empty(), "{error}");
    assert_eq!(finished.code(), 1, "{error}");
    (text("code"), text("message"))
}

/// Asserts that the same daemon runs and that its model is still loaded.
async fn assert_unharmed(home: &Home, pid: u32, case: &str) {
    home.ingle(["complete", "-m", "sim", "hi"]).ok();
    let status = home.client().await.call::<Status>(&NoParams {}).await.unwrap();
    assert_eq!((status.pid, status.loads), (pid, 1), "after {case}");
}

/// Starts a daemon with a loaded sim model and returns its process id.
async fn warm(home: &Home) -> (ingle_tests::Daemon, u32) {
    let daemon = home.daemon();
    home.ingle(["complete", "-m", "sim", "hi"]).ok();
    let status = home.client().await.call::<Status>(&NoParams {}).await.unwrap();
    (daemon, status.pid)
}

type Break = fn(&Gguf);

#[tokio::test]
async fn broken_gguf_files_are_named_without_harm() {
    let home = Home::with_sim(json!({}));
    let (_daemon, pid) = warm(&home).await;
    let gguf = Gguf::copy(&home);
    let whole = fs::metadata(&gguf.path).unwrap().len();
    let middle = usize::try_from(whole / 2).unwrap() / 64 * 64;
    let mut weights = vec![0; 1 << 20];
    fs::File::open(&gguf.path).unwrap().read_exact_at(&mut weights, middle as u64).unwrap();
    // The fault, how it is made, the code, and what the message names.
    let cases: [(&str, Break, &str, &[&str]); 9] = [
        ("cut in the weights", |gguf| gguf.cut(40 << 20), "MODEL_INVALID", &["model.gguf"]),
        ("cut in the header", |gguf| gguf.cut(100_000), "MODEL_INVALID", &["model.gguf"]),
        ("an empty file", |gguf| gguf.cut(0), "MODEL_INVALID", &["model.gguf"]),
        ("another magic", |gguf| gguf.write(0, b"GGUX"), "MODEL_INVALID", &["not a GGUF file"]),
        ("a version to come", |gguf| gguf.write(4, &[99]), "MODEL_UNSUPPORTED", &["version 99"]),
        (
            "an absurd shape",
            |gguf| {
                let name = b"token_embd.weight";
                let dims = find(&gguf.header, name) + name.len() + 4;
                gguf.write(dims, &(1_u64 << 60).to_le_bytes());
            },
            "MODEL_INVALID",
            &["token_embd.weight"],
        ),
        (
            "no vocabulary",
            |gguf| {
                let key = b"tokenizer.ggml.tokens";
                gguf.write(find(&gguf.header, key), b"tokenizer.ggml.tokenz");
            },
            "MODEL_INVALID",
            &["tokenizer"],
        ),
        (
            "an endless template",
            |gguf| {
                let template = find(&gguf.header, b"{% for message in messages %}");
                let endless = "{% for a in range(99999) %}{% for b in range(99999) %}\
                               {% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}{#";
                gguf.write(template, endless.as_bytes());
                let end = find(&gguf.header[template..], b"{% endfor %}") + template;
                gguf.write(end, b"          #}");
            },
            "MODEL_INVALID",
            &["template"],
        ),
        (
            "scales that are no numbers",
            |gguf| {
                let middle = fs::metadata(&gguf.path).expect("the copy").len() / 2 / 64 * 64;
                gguf.write(usize::try_from(middle).expect("64 bits"), &not_numbers(1 << 20));
            },
            "MODEL_INVALID",
            &["tensor `", "NaN"],
        ),
    ];
    for (case, damage, code, named) in cases {
        damage(&gguf);
        for engine in ["gguf", "mlx"] {
            let (found, message) = refusal(&home, Some(engine));
            assert_eq!(found, code, "{case}, {engine}: {message}");
            for part in named {
                assert!(message.contains(part), "{case}, {engine}: {message}");
            }
        }
        assert_unharmed(&home, pid, case).await;
        let header = gguf.header.clone();
        if fs::metadata(&gguf.path).unwrap().len() < whole {
            fs::copy(&gguf.source, &gguf.path).unwrap();
        }
        gguf.write(0, &header);
        gguf.write(middle, &weights);
    }
    // Once repaired, the model works.
    home.ingle(["chat", "-m", "broken", "--max-tokens", "1", "hi"]).ok();
}

/// A model folder of two shards with a tokenizer, under `broken`.
fn folder(home: &Home) -> PathBuf {
    let target = home.paths().models_dir().join("broken");
    let _ = fs::remove_dir_all(&target);
    fs::create_dir_all(&target).unwrap();
    for source in ["goldens/llama-mixed", "goldens/tokenizers/byte_level"] {
        for file in fs::read_dir(fixture(source)).unwrap() {
            let file = file.unwrap();
            if file.file_name() != "golden.json" {
                fs::copy(file.path(), target.join(file.file_name())).unwrap();
            }
        }
    }
    target
}

fn change_config(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

const SHARD: &str = "model-00002-of-00002.safetensors";

type BreakFolder = fn(&Path);

#[tokio::test]
async fn broken_model_folders_are_named_without_harm() {
    let home = Home::with_sim(json!({}));
    let (_daemon, pid) = warm(&home).await;
    let cases: [(&str, BreakFolder, &str, &str); 8] = [
        (
            "a missing shard",
            |folder| fs::remove_file(folder.join(SHARD)).unwrap(),
            "MODEL_INVALID",
            SHARD,
        ),
        (
            "a cut shard",
            |folder| {
                let file = fs::File::options().write(true).open(folder.join(SHARD)).unwrap();
                file.set_len(2_000).unwrap();
            },
            "MODEL_INVALID",
            SHARD,
        ),
        (
            "a header of absurd length",
            |folder| {
                let file = fs::File::options().write(true).open(folder.join(SHARD)).unwrap();
                file.write_all_at(&u64::MAX.to_le_bytes(), 0).unwrap();
            },
            "MODEL_INVALID",
            SHARD,
        ),
        (
            "no tokenizer",
            |folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(),
            "MODEL_INVALID",
            "tokenizer.json",
        ),
        (
            "a broken tokenizer",
            |folder| fs::write(folder.join("tokenizer.json"), "{ not json").unwrap(),
            "MODEL_INVALID",
            "tokenizer.json",
        ),
        (
            "an absurd shape",
            |folder| change_config(folder, |config| config["hidden_size"] = json!(1_u64 << 60)),
            "MODEL_INVALID",
            "hidden_size",
        ),
        (
            "an unknown architecture",
            |folder| change_config(folder, |config| config["model_type"] = json!("mamba9")),
            "MODEL_UNSUPPORTED",
            "mamba9",
        ),
        (
            "an endless template",
            |folder| {
                let template = "{% for a in range(99999) %}{% for b in range(99999) %}\
                                {% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}";
                fs::write(folder.join("chat_template.jinja"), template).unwrap();
            },
            "MODEL_INVALID",
            "template",
        ),
    ];
    for (case, damage, code, named) in cases {
        damage(&folder(&home));
        let (found, message) = refusal(&home, None);
        assert_eq!(found, code, "{case}: {message}");
        assert!(message.contains(named), "{case}: {message}");
        assert_unharmed(&home, pid, case).await;
    }
}
