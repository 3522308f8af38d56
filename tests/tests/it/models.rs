//! Models that other programs downloaded to this machine, and pulls from a hub.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ingle_client::exit;
use ingle_protocol::wire::Method;
use ingle_protocol::wire::models::{ProgressEvent, PullModel, PullParams};
use ingle_tests::Home;
use rustix::process::Signal;
use serde_json::json;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn external_models_are_used_in_place() {
    let home = Home::with_sim(json!({ "reply": "own" }));
    let hub = home.folder().join(".cache/huggingface/hub/models--org--Tiny");
    let snapshot = hub.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(hub.join("blobs")).unwrap();
    fs::create_dir_all(hub.join("refs")).unwrap();
    fs::write(hub.join("refs/main"), COMMIT).unwrap();
    let config = json!({ "model_type": "sim", "reply": "theirs" }).to_string();
    fs::write(hub.join("blobs/config"), config).unwrap();
    symlink("../../blobs/config", snapshot.join("config.json")).unwrap();
    let studio = home.folder().join(".lmstudio/models/org/Other-GGUF");
    fs::create_dir_all(&studio).unwrap();
    for name in ["Other-Q4_0.gguf", "Other-Q8_0.gguf", "mmproj-Other.gguf"] {
        fs::write(studio.join(name), "GGUF").unwrap();
    }

    let list = home.ingle(["models", "--json"]);
    assert_eq!(list.ok().json()["running"], false);
    let _daemon = home.daemon();
    let list = home.ingle(["models", "--json"]).ok().json();
    let line = |name: &str| {
        let models = list["models"].as_array().unwrap();
        models.iter().find(|model| model["name"] == name).unwrap_or_else(|| panic!("{list}"))
    };
    assert_eq!(line("org/Tiny")["source"], "huggingface");
    assert_eq!(line("org/Tiny")["path"], snapshot.to_str().unwrap());
    assert_eq!(line("org/Other-GGUF:Q8_0")["source"], "lm_studio");
    assert_eq!(line("sim")["source"], "ingle");
    assert!(home.ingle(["models"]).ok().stdout.contains("Hugging Face"));

    for name in ["org/Tiny", "ORG/tiny", "tiny", "hf:org/Tiny"] {
        let answer = home.ingle(["complete", "-m", name, "x"]).ok();
        assert_eq!(answer.stdout.trim(), "theirs", "{name}");
    }
    assert_eq!(home.ingle(["ps", "--json"]).ok().json()["models"].as_array().unwrap().len(), 1);
    let pulled = home.ingle(["pull", "org/Tiny", "--json"]).ok().json();
    assert_eq!((&pulled["model"], &pulled["already_here"]), (&json!("org/Tiny"), &json!(true)));
    let several = home.ingle(["complete", "-m", "org/Other-GGUF", "x"]);
    assert_eq!(several.code(), i32::from(exit::FAILED));
    assert!(several.stderr.contains("`:Q4_0`, `:Q8_0`"), "{several:?}");
    assert_eq!(fs::read_dir(home.paths().models_dir()).unwrap().count(), 1, "nothing was copied");
}

#[test]
fn libraries_can_be_moved_and_excluded() {
    let home = Home::with_sim(json!({ "reply": "own" }));
    for folder in [".cache/huggingface/hub/models--a--b/snapshots/c", "more/d"] {
        let folder = home.folder().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), r#"{"model_type":"sim"}"#).unwrap();
    }
    let more = home.folder().join("more");
    let config = format!(
        "default_model = \"sim\"\n[library]\nhuggingface = false\nfolders = [{:?}]\n",
        more.to_str().unwrap()
    );
    home.write("config.toml", &config);
    let _daemon = home.daemon();
    let list = home.ingle(["models", "--json"]).ok().json();
    let names: Vec<_> = list["models"].as_array().unwrap().iter().map(|m| &m["name"]).collect();
    assert_eq!(names, ["d", "minilm", "sim", "smollm2"]);
}

/// The part of a GGUF file that is read before a load.
fn weights() -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.resize(400_000, 7);
    bytes
}

/// SHA-256 of [`weights`]: a hub gives it for large files, and a pull resumes only with it.
const WEIGHTS_SHA256: &str = "f5c46a1a84ba8ce049ed583fc900acabeb1f4e7040ec9735f1a0ed5e741ad8c2";

/// A hub with one repository, whose file stops in the middle on the first request.
///
/// It reports the range of every request for the file.
fn hub() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, ranges) = sync_channel(16);
    // The thread ends with this process; no test waits for it.
    std::thread::spawn(move || {
        let mut is_first = true;
        for stream in listener.incoming().flatten() {
            serve(stream, &mut is_first, &sender);
        }
    });
    (address, ranges)
}

fn serve(stream: TcpStream, is_first: &mut bool, ranges: &SyncSender<String>) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let headers: HashMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        })
        .collect();
    let mut stream = &stream;
    let mut send = |head: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    if first.contains("/api/models/org/tiny/revision/main") {
        let body = json!({ "sha": COMMIT, "siblings": [
            { "rfilename": "README.md", "size": 3 },
            { "rfilename": "tiny-Q8_0.gguf", "size": weights().len(),
              "lfs": { "sha256": WEIGHTS_SHA256, "size": weights().len(), "pointerSize": 131 } },
        ]})
        .to_string();
        send(&format!("200 OK\r\ncontent-length: {}", body.len()), body.as_bytes());
    } else if first.contains("/org/tiny/resolve/") {
        let range = headers.get("range").cloned().unwrap_or_default();
        let from = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        let from: usize = from.map_or(0, |from| from.parse().unwrap());
        let whole = weights();
        let rest = whole.len() - from;
        let length = format!("content-length: {rest}\r\netag: \"tiny\"");
        let last = whole.len() - 1;
        let head = match from {
            0 => format!("200 OK\r\n{length}"),
            _ => format!(
                "206 Partial\r\n{length}\r\ncontent-range: bytes {from}-{last}/{}",
                last + 1
            ),
        };
        let _ = ranges.try_send(range);
        if std::mem::take(is_first) {
            send(&head, &whole[..whole.len() / 2]);
            // Until the daemon has ended.
            let _ = stream.read(&mut [0]);
        } else {
            send(&head, &whole[from..]);
        }
    } else {
        send("401 No\r\ncontent-length: 0", b"");
    }
}

/// Whether a part of the file is on disk.
fn has_part(home: &Home) -> bool {
    let folders = fs::read_dir(home.paths().models_dir()).unwrap().flatten();
    let parts = folders.map(|folder| folder.path().join("model/tiny-Q8_0.gguf.part"));
    parts.into_iter().any(|part| fs::metadata(part).is_ok_and(|part| part.len() > 0))
}

#[tokio::test]
async fn pull_from_hub_survives_daemon_kill() {
    let (address, ranges) = hub();
    let home = Home::new();
    home.write("config.toml", &format!("[library]\nhuggingface_endpoint = \"{address}\"\n"));
    let daemon = home.daemon();
    let client = home.client().await;
    let params =
        PullParams { model: "org/tiny:Q8_0".into(), stream: true, ..PullParams::default() };
    let mut call = client.start::<PullModel>(&params, PullModel::CLASS).unwrap();
    loop {
        let ProgressEvent::Progress { done_bytes, total_bytes, .. } =
            call.event::<ProgressEvent>().await.expect("it goes on until the daemon is killed");
        assert!(total_bytes == 400_000 && done_bytes <= 200_000);
        if done_bytes > 100_000 {
            break;
        }
    }
    // Received bytes may not be on disk yet; each check decides, so no sleep time is guessed.
    let give_up_at = Instant::now() + Duration::from_secs(60);
    while !has_part(&home) {
        assert!(Instant::now() < give_up_at, "nothing reaches the disk");
    }
    daemon.signal(Signal::KILL);
    let _ = daemon.wait();

    let pulled = home.ingle(["pull", "org/tiny:Q8_0", "--json"]).ok().json();
    assert_eq!((&pulled["model"], &pulled["already_here"]), (&json!("tiny-q8_0"), &json!(false)));
    let ranges: Vec<String> = ranges.try_iter().collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    let from = ranges[1].strip_prefix("bytes=").and_then(|from| from.strip_suffix('-'));
    let from: usize = from.expect("it goes on where it was").parse().unwrap();
    assert!((1..=200_000).contains(&from), "{from}");
    let folder = home.paths().models_dir().join("tiny-q8_0");
    assert_eq!(fs::read(folder.join("tiny-Q8_0.gguf")).unwrap(), weights());
    let manifest = fs::read_to_string(folder.join("ingle.json")).unwrap();
    assert!(manifest.contains(COMMIT) && manifest.contains("hf:org/tiny"), "{manifest}");
    assert_eq!(fs::read_dir(home.paths().models_dir()).unwrap().count(), 1);

    let again = home.ingle(["pull", "org/tiny:Q8_0"]).ok();
    assert_eq!(again.stdout.trim(), "tiny-q8_0 is already on disk");
    let closed = home.ingle(["pull", "org/secret"]);
    assert_eq!(closed.code(), i32::from(exit::FAILED));
    assert!(closed.stderr.contains("hf auth login"), "{closed:?}");
    let unknown = home.ingle(["complete", "-m", "org/unknown", "x"]);
    assert!(unknown.stderr.contains("ingle pull org/unknown"), "{unknown:?}");
}
