//! Tests of pulls from a local hub that loses connections, sends wrong data, stalls and refuses.

mod server;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use sha2::{Digest, Sha256};

use self::server::{Reply, Request, Server, ranged, reply};
use super::*;
use crate::error::PullError;
use crate::{Library, LibraryKind, PullOutcome, PullSetup, Puller};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// A safetensors file without tensors, and as much after it as takes several reads.
const WEIGHTS: usize = 300_000;

fn weights() -> Vec<u8> {
    let mut bytes = b"\x02\0\0\0\0\0\0\0{}".to_vec();
    bytes.extend((0..WEIGHTS - bytes.len()).map(|index| (index % 251) as u8));
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The list of files of the repository `org/m`.
fn listing(commit: &str, weights: &[u8]) -> String {
    serde_json::json!({ "sha": commit, "siblings": [
        { "rfilename": "README.md", "size": 3 },
        { "rfilename": "config.json", "size": 22 },
        { "rfilename": "tokenizer.json", "size": 2 },
        { "rfilename": "model.safetensors", "size": weights.len(),
          "lfs": { "sha256": sha256(weights), "size": weights.len(), "pointerSize": 134 } },
    ]})
    .to_string()
}

/// A hub with `org/m`, whose weights are answered by `weights`.
fn hub(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Server {
    Server::new(move |request| usual(request, COMMIT, &answer))
}

fn usual(request: &Request, commit: &str, answer: &dyn Fn(&Request) -> Reply) -> Reply {
    let file = |name: &str| format!("/org/m/resolve/{commit}/{name}");
    match request.path.as_str() {
        "/api/models/org/m/revision/main?blobs=true" => reply(200, listing(commit, &weights())),
        path if path == file("config.json") => reply(200, r#"{"model_type":"llama"}"#),
        path if path == file("tokenizer.json") => reply(200, "{}"),
        path if path == file("model.safetensors") => answer(request),
        _ => Reply {
            headers: vec![("x-error-code", "RevisionNotFound".to_owned())],
            ..reply(404, "")
        },
    }
}

struct Room {
    dir: tempfile::TempDir,
    setup: PullSetup,
}

fn room(endpoint: &str) -> Room {
    let dir = tempfile::tempdir().unwrap();
    let hub = HubSetup {
        endpoint: endpoint.to_owned(),
        stall: Duration::from_secs(20),
        retry: Duration::from_millis(1),
        ..HubSetup::default()
    };
    let setup = PullSetup { hub, ..PullSetup::new(dir.path().join("models")) };
    Room { dir, setup }
}

impl Room {
    async fn pull(&self, model: &str) -> Result<PullOutcome, PullError> {
        Puller::new(self.setup.clone()).pull(model, None, &mut |_| {}).await
    }

    /// Names in the models folder, hidden ones too.
    fn models(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.setup.models_dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    fn model(&self, file: &str) -> Vec<u8> {
        fs::read(self.setup.models_dir.join("m").join(file)).unwrap()
    }

    /// The one download that was not finished.
    fn partial(&self) -> PathBuf {
        let name = self.models().into_iter().find(|name| name.starts_with(".partial-m-")).unwrap();
        self.setup.models_dir.join(name).join("model/model.safetensors.part")
    }
}

fn ranges(server: &Server) -> Vec<String> {
    let seen = server.seen().into_iter().filter(|seen| seen.path.ends_with("safetensors"));
    seen.map(|seen| seen.header("range").to_owned()).collect()
}

#[tokio::test]
async fn repository_becomes_model_at_its_commit() {
    let store = Server::new(|request| ranged(request, &weights(), "\"blob\""));
    let elsewhere = format!("{}/signed", store.address);
    let server = hub(move |_| Reply {
        headers: vec![
            ("location", elsewhere.clone()),
            ("x-linked-etag", format!("\"{}\"", sha256(&weights()))),
        ],
        ..reply(302, "")
    });
    let mut room = room(&server.address);
    room.setup.hub.token = Some(Secret::new("hf_secret".to_owned()));
    let mut last = None;
    let puller = Puller::new(room.setup.clone());
    let outcome = puller.pull("org/m", None, &mut |now| last = Some(now)).await.unwrap();
    assert_eq!(
        outcome,
        PullOutcome {
            name: "m".into(),
            size_bytes: WEIGHTS as u64,
            sha256: sha256(&weights()),
            already_here: false
        }
    );
    assert_eq!(last.unwrap().total_bytes, WEIGHTS as u64 + 24);
    assert_eq!(room.model("model.safetensors"), weights());
    assert_eq!(room.models(), ["m"]);
    let mut files: Vec<_> = fs::read_dir(room.setup.models_dir.join("m"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["config.json", "ingle.json", "model.safetensors", "tokenizer.json"]);
    let manifest: serde_json::Value = serde_json::from_slice(&room.model("ingle.json")).unwrap();
    assert_eq!((&manifest["source"], &manifest["revision"]), (&"hf:org/m".into(), &COMMIT.into()));
    // The token goes to the hub, and nowhere else.
    assert!(server.seen().iter().all(|seen| seen.header("authorization") == "Bearer hf_secret"));
    assert!(store.seen().iter().all(|seen| seen.header("authorization").is_empty()));

    // What is here is not asked for again, by whichever name.
    for name in ["org/m", "hf:ORG/M", &format!("org/m@{COMMIT}"), "org/m@0123456"] {
        assert!(room.pull(name).await.unwrap().already_here, "{name}");
    }
    assert!(server.seen().is_empty() && store.seen().is_empty());
    let store = crate::ModelStore::new(room.setup.models_dir.clone());
    assert_eq!(store.resolve(Some("Org/m")).unwrap().name, "m");

    // A branch is asked for to have its newest commit; from then on it means what is here.
    assert!(store.resolve(Some("org/m@main")).is_err());
    assert!(room.pull("org/m@main").await.unwrap().already_here);
    assert_eq!(store.resolve(Some("org/m@main")).unwrap().name, "m");
    let newer = "f".repeat(40);
    let commit = newer.clone();
    server.answers(move |request| {
        usual(request, &commit, &|request| ranged(request, &weights(), "\"new\""))
    });
    assert!(!room.pull("org/m@main").await.unwrap().already_here);
    assert!(String::from_utf8(room.model("ingle.json")).unwrap().contains(&newer));
    assert_eq!(store.resolve(Some("org/m@main")).unwrap().name, "m");
    assert_eq!(room.models(), ["m"]);
}

#[tokio::test]
async fn lost_connection_is_resumed() {
    let served = Mutex::new(0);
    let server = hub(move |request| {
        let mut served = served.lock().unwrap();
        *served += 1;
        let cut = (*served < 4).then_some(70_000);
        Reply { cut, ..ranged(request, &weights(), "\"blob\"") }
    });
    let room = room(&server.address);
    room.pull("org/m").await.unwrap();
    assert_eq!(room.model("model.safetensors"), weights());
    assert_eq!(ranges(&server), ["", "bytes=70000-", "bytes=140000-", "bytes=210000-"]);
}

#[tokio::test]
async fn killed_pull_is_resumed_by_the_next() {
    let server = hub(|request| Reply {
        cut: Some(100_000),
        stalls: true,
        ..ranged(request, &weights(), "\"blob\"")
    });
    let room = room(&server.address);
    let puller = Puller::new(room.setup.clone());
    let (seen, mut came) = tokio::sync::mpsc::channel(1);
    let mut report = |now: crate::PullProgress| {
        if now.done_bytes >= 100_024 {
            let _ = seen.try_send(());
        }
    };
    tokio::select! {
        outcome = puller.pull("org/m", None, &mut report) => panic!("{outcome:?}"),
        _ = came.recv() => {}
    }
    puller.idle().await;
    assert_eq!(fs::metadata(room.partial()).unwrap().len(), 100_000);
    server.seen();
    // An earlier pull may have failed only at its last step, the manifest written.
    fs::write(room.partial().with_file_name("ingle.json"), "{}").unwrap();

    server.answers(|request| {
        usual(request, COMMIT, &|request| ranged(request, &weights(), "\"blob\""))
    });
    room.pull("org/m").await.unwrap();
    assert_eq!(room.model("model.safetensors"), weights());
    let seen = server.seen();
    let file = seen.iter().find(|seen| seen.path.ends_with("safetensors")).unwrap();
    assert_eq!((file.header("range"), file.header("if-range")), ("bytes=100000-", "\"blob\""));
    // The small files were whole already.
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(room.models(), ["m"]);
}

#[tokio::test]
async fn bytes_of_another_file_are_never_mixed() {
    for (here, tag, expected) in [
        // The server's file is another one by now: it sends all of it.
        (weights()[..50_000].to_vec(), "\"old\"", vec!["bytes=50000-"]),
        // It says that it is the same, and what is here was damaged: from the beginning.
        (vec![7; 50_000], "\"blob\"", vec!["bytes=50000-", ""]),
        // More than the file has.
        (vec![7; WEIGHTS + 1], "\"blob\"", vec![""]),
        // All of it, and not right.
        (vec![7; WEIGHTS], "\"blob\"", vec![""]),
    ] {
        let server =
            hub(|request| Reply { cut: Some(10), ..ranged(request, &weights(), "\"blob\"") });
        let room = room(&server.address);
        server.answers(|request| usual(request, COMMIT, &|_| reply(404, "")));
        room.pull("org/m").await.unwrap_err();
        let part = room.partial();
        fs::write(&part, here).unwrap();
        let host = server.address.trim_start_matches("http://");
        fs::write(part.with_extension("tag"), format!("{host}\n{tag}\n")).unwrap();
        // Nothing proves what is left of a file without a hash, even if it has the right size.
        let small = part.with_file_name("tokenizer.json");
        fs::remove_file(&small).unwrap();
        fs::write(small.with_extension("json.part"), "[]").unwrap();
        server.seen();
        server.answers(|request| {
            usual(request, COMMIT, &|request| ranged(request, &weights(), "\"blob\""))
        });
        room.pull("org/m").await.unwrap();
        assert_eq!(room.model("model.safetensors"), weights());
        assert_eq!(room.model("tokenizer.json"), b"{}");
        assert_eq!(ranges(&server), expected);
    }
}

#[tokio::test]
async fn wrong_file_is_refused_and_deleted() {
    let mut wrong = weights();
    wrong[WEIGHTS - 1] ^= 1;
    let server = hub(move |request| ranged(request, &wrong, "\"blob\""));
    let room = room(&server.address);
    let error = room.pull("org/m").await.unwrap_err();
    assert!(error.to_string().starts_with("`model.safetensors` of `org/m` has SHA-256"), "{error}");
    assert_eq!(ErrorBody::from(error).code, ErrorCode::PullFailed);
    assert_eq!(fs::metadata(room.partial()).unwrap().len(), 0);
    assert_eq!(room.models().len(), 1, "only the download: {:?}", room.models());

    // The hub's own word on the hash is enough to fetch nothing at all.
    server.answers(|request| {
        usual(request, COMMIT, &|request| Reply {
            headers: vec![("x-linked-etag", "\"".to_owned() + &"0".repeat(64) + "\"")],
            ..ranged(request, &weights(), "\"blob\"")
        })
    });
    assert!(matches!(room.pull("org/m").await, Err(PullError::HashMismatch { .. })));
    assert_eq!(fs::metadata(room.partial()).unwrap().len(), 0);
    // A file that is longer than it should be is not taken in to its end.
    server.answers(|request| {
        usual(request, COMMIT, &|_| reply(200, [weights(), vec![0; 1_000_000]].concat()))
    });
    let error = room.pull("org/m").await.unwrap_err();
    assert!(error.to_string().ends_with("more bytes than the size of the file"), "{error}");
}

#[tokio::test]
async fn silent_server_is_retried_then_fails() {
    let served = Mutex::new(0);
    let server = hub(move |request| {
        let mut served = served.lock().unwrap();
        *served += 1;
        let is_first = *served == 1;
        let cut = is_first.then_some(1_000);
        Reply { cut, stalls: is_first, ..ranged(request, &weights(), "\"blob\"") }
    });
    let mut room = room(&server.address);
    room.setup.hub.stall = Duration::from_millis(200);
    room.pull("org/m").await.unwrap();
    assert_eq!(ranges(&server), ["", "bytes=1000-"]);

    server.answers(|_| Reply { stalls: true, cut: Some(0), ..reply(200, "x") });
    let error = room.pull("org/m@main").await.unwrap_err();
    assert!(error.to_string().ends_with("it did not respond in time"), "{error}");
    assert_eq!(server.seen().len(), limits::HUB_ATTEMPTS as usize);
}

#[tokio::test]
async fn errors_have_next_steps() {
    let coded = |status, code: &str| Reply {
        headers: vec![("x-error-code", code.to_owned())],
        ..reply(status, "")
    };
    let to =
        |place: &str| Reply { headers: vec![("location", place.to_owned())], ..reply(302, "") };
    for (answer, code, said, next) in [
        (coded(401, "GatedRepo"), ErrorCode::PullFailed, "HTTP 401", "hf auth login"),
        (coded(403, "GatedRepo"), ErrorCode::PullFailed, "HTTP 403", "request access at http"),
        (coded(404, "RepoNotFound"), ErrorCode::ModelNotFound, "no model `org/m`", "spelling"),
        (coded(404, "RevisionNotFound"), ErrorCode::ModelNotFound, "revision `main`", "spelling"),
        (reply(500, ""), ErrorCode::PullFailed, "HTTP 500", "ingle pull` again"),
        (reply(418, ""), ErrorCode::PullFailed, "HTTP 418", "network"),
        (reply(200, "<html>"), ErrorCode::PullFailed, "an invalid file list", "proxy"),
        (
            reply(200, r#"{"sha":"x","siblings":[]}"#),
            ErrorCode::PullFailed,
            "without a commit",
            "proxy",
        ),
        (
            reply(200, format!(r#"{{"sha":"{COMMIT}","siblings":[]}}"#)),
            ErrorCode::ModelUnsupported,
            "neither safetensors nor GGUF",
            "repository",
        ),
        (to("/again"), ErrorCode::PullFailed, "too many redirects", "proxy"),
        (to("file:///etc/passwd"), ErrorCode::PullFailed, "not secure", "proxy"),
        (to("http://"), ErrorCode::PullFailed, "a redirect without a valid target", "proxy"),
    ] {
        let server = Server::new(move |_| answer.clone());
        let room = room(&server.address);
        let body = ErrorBody::from(room.pull("org/m").await.unwrap_err());
        assert_eq!(body.code, code, "{body:?}");
        assert!(body.message.contains(said) && body.remediation().contains(next), "{body:?}");
        assert!(room.models().is_empty());
    }
    // With a token that does not help, getting one is no advice.
    let server = Server::new(|_| reply(403, ""));
    let mut room = room(&server.address);
    let file = room.dir.path().join("token");
    fs::write(&file, "hf_secret\n").unwrap();
    room.setup.hub.token_file = Some(file);
    let body = ErrorBody::from(room.pull("org/m").await.unwrap_err());
    assert!(body.remediation().contains("the account of your token"), "{body:?}");
    assert!(!format!("{body:?}").contains("hf_secret"));
    assert_eq!(server.seen()[0].header("authorization"), "Bearer hf_secret");
}

#[tokio::test]
async fn network_disk_and_address_errors_are_named() {
    let gone = Server::new(|_| reply(200, "")).address.clone();
    let mut room = room(&gone);
    let body = ErrorBody::from(room.pull("org/m").await.unwrap_err());
    assert!(body.message.starts_with("cannot download from 127.0.0.1:"), "{body:?}");
    assert!(body.retryable && body.remediation().contains("network"), "{body:?}");
    room.setup.hub.endpoint = "hub".to_owned();
    let body = ErrorBody::from(room.pull("org/m").await.unwrap_err());
    assert!(
        body.message.contains("`hub`") && body.remediation().contains("HF_ENDPOINT"),
        "{body:?}"
    );

    let server = hub(|_| reply(500, ""));
    room.setup.hub.endpoint = server.address.clone();
    room.setup.free_bytes = |_| Ok(1_000);
    let body = ErrorBody::from(room.pull("org/m").await.unwrap_err());
    assert_eq!((&body.details["free_bytes"], body.code), (&1_000.into(), ErrorCode::PullFailed));
    assert!(body.details["needed_bytes"].as_u64() > Some(WEIGHTS as u64), "{body:?}");
    assert_eq!(server.seen().len(), 1, "only the list was asked for");
    assert!(room.models().is_empty());
}

#[tokio::test]
async fn model_in_a_library_needs_no_download() {
    let server = Server::new(|_| reply(500, ""));
    let mut room = room(&server.address);
    let hub = room.dir.path().join("hub");
    let snapshot = hub.join("models--org--m/snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    let put = |bytes: &[u8]| fs::write(snapshot.join("model.safetensors"), bytes).unwrap();
    put(&weights());
    room.setup.libraries = vec![Library { kind: LibraryKind::HuggingFace, root: hub }];
    for name in ["org/m", "m", "hf:org/m"] {
        let outcome = room.pull(name).await.unwrap();
        assert_eq!((outcome.name.as_str(), outcome.already_here), ("org/m", true), "{name}");
    }
    assert!(server.seen().is_empty() && room.models().is_empty());
    // Under another name it is a model of our own, made of the same files.
    let puller = Puller::new(room.setup.clone());
    let outcome = puller.pull("org/m", Some("mine"), &mut |_| {}).await.unwrap();
    assert_eq!((outcome.name.as_str(), outcome.already_here), ("mine", false));
    assert!(server.seen().is_empty() && room.models() == ["mine"]);
    // Half a download is none.
    put(b"");
    room.pull("org/m").await.unwrap_err();
    assert!(!server.seen().is_empty());
}

#[test]
fn only_old_downloads_are_removed() {
    let room = room("http://127.0.0.1:1");
    let models: &Path = &room.setup.models_dir;
    let open =
        |name: &str, origin: &str| partial::PartialFolder::open(models, name, origin).unwrap();
    open("m", "hf:org/m@1");
    open("m-2", "hf:org/m-2@1");
    // Another version of the same model takes the first one's place.
    let newer = open("m", "hf:org/m@2");
    assert_eq!(room.models().len(), 2);
    fs::write(newer.model_dir().join("x.part"), "").unwrap();
    let now = std::time::SystemTime::now();
    assert_eq!(partial::remove_stale(models, now).unwrap(), 0);
    let later = now + Duration::from_secs((limits::HUB_PARTIAL_DAYS + 1) * 24 * 60 * 60);
    assert_eq!(partial::remove_stale(models, later).unwrap(), 2);
    assert!(room.models().is_empty());
}
