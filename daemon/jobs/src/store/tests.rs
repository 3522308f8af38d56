//! Tests of the job store on real files: durability, refused files, a full disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::generate::{GenerateParams, Timings, Usage};
use ingle_protocol::wire::jobs::{JobParams, JobResult, JobWork};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::record::Outcome;

const RETENTION: Retention = Retention { ms: 1_000, count: 1_000 };

fn job(id: &str) -> JobRecord {
    let prompt = Some("hi".to_owned());
    let work = JobWork::Generate(GenerateParams { prompt, ..GenerateParams::default() });
    let params = JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None };
    JobRecord::new(id.to_owned(), params.into(), Class::Job, Some(100), 0)
}

fn running(id: &str, text: &str) -> JobRecord {
    let mut job = job(id);
    job.status = JobStatus::Running;
    job.attempts = 1;
    job.partial.push(0, text);
    job
}

fn ended(id: &str) -> JobRecord {
    let mut job = job(id);
    job.end(JobStatus::Done, Outcome::Result(result(id)), 7);
    job
}

fn result(text: &str) -> JobResult {
    let choice = json!({ "text": text, "finish_reason": "stop", "seed": 1 });
    let result = json!({
        "request_id": "1-1", "model": "m", "choices": [choice], "usage": Usage::default(),
        "timings": Timings::default(),
    });
    JobResult::Generate(serde_json::from_value(result).unwrap())
}

#[tokio::test]
async fn results_of_earlier_versions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.sqlite3");
    let mut thread = thread(&path);
    thread.open().unwrap();
    let connection = &thread.open.as_ref().unwrap().connection;
    rows::end(connection, &ended("old"), 1).unwrap();
    let read = |stored: Value| {
        let stored = json!({ "result": stored }).to_string();
        connection.execute("UPDATE jobs SET outcome = ?1", [stored]).unwrap();
        let Some(Outcome::Result(result)) = rows::get(connection, "old").unwrap().unwrap().outcome
        else {
            panic!("no result")
        };
        result
    };
    let flat = json!({
        "request_id": "1-1", "model": "m", "text": "first", "finish_reason": "stop", "seed": 1,
        "usage": Usage::default(), "timings": Timings::default(),
        "alternatives": [{ "text": "second", "finish_reason": "length", "seed": 2 }],
    });
    let JobResult::Generate(result) = read(flat) else { panic!("not a completion") };
    let texts: Vec<_> = result.choices.iter().map(|choice| &*choice.text).collect();
    assert_eq!(texts, ["first", "second"]);
    let other = json!({ "pixels": [1, 2] });
    assert_eq!(read(other.clone()), JobResult::Unknown(other));
}

fn open(path: &Path) -> OpenStore {
    OpenStore::new(path).unwrap()
}

fn thread(path: &Path) -> StoreThread {
    StoreThread { path: path.to_owned(), retention: RETENTION, open: None }
}

#[tokio::test]
async fn stored_jobs_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs").join("jobs.sqlite3");
    let store = Store::spawn(path.clone(), RETENTION).unwrap();
    assert_eq!(store.open().await.unwrap(), Recovery::default());
    for id in ["waits", "runs", "ends"] {
        store.insert(job(id)).await.unwrap();
    }
    store.started(running("runs", "")).await;
    store.progress(running("runs", "so far"));
    store.end(ended("ends")).await.unwrap();
    // Late progress does not undo a stored end.
    store.progress(running("ends", "late"));
    assert_eq!(store.get("ends".to_owned()).await.unwrap(), Some(ended("ends")));
    // A kill leaves the files as they are, without the end of the connection.
    let copy = folder.path().join("copy.sqlite3");
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", path.display());
        fs::copy(from, format!("{}{suffix}", copy.display())).unwrap();
    }
    let (file, parent) =
        (fs::metadata(&path).unwrap(), fs::metadata(path.parent().unwrap()).unwrap());
    assert_eq!((file.mode() & 0o777, parent.mode() & 0o777), (0o600, 0o700));

    let store = Store::spawn(copy, RETENTION).unwrap();
    let recovered = store.open().await.unwrap();
    assert_eq!((recovered.queued, recovered.interrupted), (vec![job("waits")], 1));
    let found = store.get("runs".to_owned()).await.unwrap().unwrap();
    assert_eq!(found.status, JobStatus::Interrupted);
    let Some(Outcome::Error(error)) = found.outcome else { panic!("no error") };
    assert_eq!(error.details["partial_result"]["text"], "so far");
    let list = store.list(None, 2).await.unwrap();
    assert_eq!(list.iter().map(|job| &job.id[..]).collect::<Vec<_>>(), ["ends", "runs"]);
    assert_eq!(store.list(Some(JobStatus::Queued), 9).await.unwrap().len(), 1);
    // Opening an open store recovers nothing; only ended jobs are deleted.
    assert_eq!(store.open().await.unwrap(), Recovery::default());
    assert_eq!(store.delete("waits".to_owned()).await.unwrap(), 0);
    assert_eq!(store.delete_ended().await.unwrap(), 2);
}

#[test]
fn foreign_files_are_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.sqlite3");
    drop(open(&path));
    let sound = fs::read(&path).unwrap();
    let mut torn = sound.clone();
    // The schema's page, behind the file's header.
    torn[100..400].fill(0xaa);
    let mut newer = sound.clone();
    newer[60..64].copy_from_slice(&9_u32.to_be_bytes());
    let mut foreign = sound;
    foreign[68..72].copy_from_slice(&7_u32.to_be_bytes());
    for (bytes, named) in [
        (
            &b"this is no database, and long enough to be looked at ".repeat(40)[..],
            "not a database",
        ),
        (&torn, "damaged"),
        (&foreign, "another program"),
        (&newer, "has version 9, and this Ingle reads versions up to 1"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = thread(&path).open().unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
        assert!(error.to_string().contains("jobs.sqlite3"), "{error}");
        let body = ErrorBody::from(error);
        assert_eq!((body.code, body.retryable), (ErrorCode::JobStoreUnavailable, false));
        assert!(body.remediation().contains("move the file"), "{body:?}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // Once the file is gone, the same thread opens a new one.
    let mut thread = thread(&path);
    thread.open().unwrap_err();
    fs::remove_file(&path).unwrap();
    thread.open().unwrap();
}

#[test]
fn failed_migration_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.sqlite3");
    let first = schema::MIGRATIONS[0];
    let bad = [first, "ALTER TABLE jobs ADD COLUMN colour TEXT; SELECT nonsense"];
    schema::open(&path, &bad).unwrap_err();
    let good = [first, "ALTER TABLE jobs ADD COLUMN colour TEXT"];
    let connection = schema::open(&path, &good).unwrap();
    let sql = "SELECT count(colour) FROM jobs";
    connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    drop(connection);
    // This version refuses the store of the next one.
    assert!(matches!(OpenStore::new(&path), Err(StoreError::Newer { found: 2, known: 1, .. })));
}

/// In a store that cannot grow, a failing command fails alone, and works once there is space.
#[test]
fn full_store_reports_it_and_still_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.sqlite3");
    let mut thread = thread(&path);
    thread.open().unwrap();
    let limit = |thread: &StoreThread, pages: u32| {
        let connection = &thread.open.as_ref().unwrap().connection;
        let sql = format!("PRAGMA max_page_count = {pages}");
        connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap();
    };
    let (small, large) = (job("small"), running("large", &"x".repeat(1_000_000)));
    let send = |thread: &mut StoreThread, job: &JobRecord| {
        let (done, mut stored) = oneshot::channel();
        let (get, mut read) = oneshot::channel();
        let mut batch = vec![
            Command::Insert(Box::new(job.clone()), done),
            Command::Get("small".to_owned(), get),
        ];
        thread.execute(&mut batch);
        (stored.try_recv().unwrap(), read.try_recv().unwrap().unwrap())
    };
    send(&mut thread, &small).0.unwrap();
    limit(&thread, 20);
    let (stored, read) = send(&mut thread, &large);
    let error = stored.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(ErrorBody::from(error).retryable);
    assert_eq!(read, Some(small));
    limit(&thread, 1_000_000);
    send(&mut thread, &large).0.unwrap();
}

proptest! {
    /// The newest by count and the young by age stay; jobs that have not ended always stay.
    #[test]
    fn cleanup_deletes_old_ended_jobs_only(
        ends in proptest::collection::vec(proptest::option::of(0_u64..5_000), 0..20),
        age_ms in 0_u64..6_000,
        keep_ms in 0_u64..6_000,
        keep_count in 0_usize..20,
    ) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(schema::MIGRATIONS[0]).unwrap();
        for (number, end) in ends.iter().enumerate() {
            let id = number.to_string();
            match end {
                Some(end_ms) => rows::end(&connection, &ended(&id), *end_ms).unwrap(),
                None => rows::insert(&connection, &job(&id)).unwrap(),
            }
        }
        rows::sweep(&connection, age_ms, keep_ms, keep_count).unwrap();
        let left = rows::list(&connection, None, 100).unwrap();
        let is_young = |end_ms: u64| end_ms.saturating_add(keep_ms) >= age_ms;
        let mut expected = Vec::new();
        let mut count = 0;
        for (number, end) in ends.iter().enumerate().rev() {
            match end {
                None => expected.push(number.to_string()),
                Some(end_ms) if is_young(*end_ms) => {
                    count += 1;
                    if count <= keep_count {
                        expected.push(number.to_string());
                    }
                }
                Some(_) => {}
            }
        }
        let left: Vec<_> = left.into_iter().map(|job| job.id).collect();
        prop_assert_eq!(left, expected);
    }
}
