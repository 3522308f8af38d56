//! Tests of the crash journal: which model a crashed daemon's journal blames.

use ingle_protocol::wire::models::EngineKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use ingle_engine::model::Weights;
use ingle_engine::role::Role;

struct JournalFolder {
    folder: tempfile::TempDir,
}

impl JournalFolder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn quarantine(&self) -> PathBuf {
        self.folder.path().join("quarantine.json")
    }

    fn open(&self) -> CrashJournal {
        CrashJournal::open(&self.journal(), &self.quarantine())
    }

    /// Writes the mark as the signal handler would; the journal is not dropped, as after a crash.
    fn die(&self, journal: CrashJournal, mark: &str) {
        let file = File::options().write(true).open(self.journal()).unwrap();
        std::mem::forget(journal);
        if !mark.is_empty() {
            file.write_all_at(format!("{mark}\n").as_bytes(), MARK_OFFSET).unwrap();
        }
    }
}

fn model(name: &str) -> EngineModel {
    let sim = serde_json::from_str(r#"{"model_type": "sim"}"#).unwrap();
    EngineModel {
        role: Role::Generates,
        name: name.to_owned(),
        version: format!("/models/{name} 1"),
        engine: EngineKind::Sim,
        weights: Weights::Sim(sim),
    }
}

const ABORT: &str = "signal 006";

#[test]
fn two_marked_crashes_refuse_a_model() {
    let folder = JournalFolder::new();
    for (mark, refused) in [(ABORT, false), ("", false), ("", false), (ABORT, true)] {
        let mut journal = folder.open();
        journal.step(Work::Prefill, &model("a"), ["r-1"].into_iter());
        folder.die(journal, mark);
        let journal = folder.open();
        assert_eq!(journal.refused(&model("a")).is_some(), refused, "{mark}");
    }
    let journal = folder.open();
    let deaths = journal.refused(&model("a")).unwrap();
    let Death { cause, phase, requests, at_unix_s } = &deaths.last;
    assert_eq!((cause.as_str(), phase.as_str()), ("SIGABRT", "reading a prompt"));
    assert!(requests == &["r-1"] && *at_unix_s > 1_600_000_000);
    assert!(journal.refused(&model("b")).is_none());
    let changed = EngineModel { version: "/models/a 2".to_owned(), ..model("a") };
    assert!(journal.refused(&changed).is_none());
}

#[test]
fn panic_counts_as_crash_and_clean_exit_not() {
    let folder = JournalFolder::new();
    for _ in 0..2 {
        let mut journal = folder.open();
        journal.step(Work::Decode, &model("a"), ["r-1"].into_iter());
        let outcome = catch_unwind(AssertUnwindSafe(move || {
            let _journal = journal;
            panic!("injected");
        }));
        assert!(outcome.is_err());
    }
    let mut journal = folder.open();
    assert_eq!(journal.refused(&model("a")).unwrap().last.cause, "a panic");
    journal.step(Work::Decode, &model("b"), ["r-1"].into_iter());
    drop(journal);
    let file = File::options().write(true).open(folder.journal()).unwrap();
    file.write_all_at(format!("{ABORT}\n").as_bytes(), MARK_OFFSET).unwrap();
    assert!(last_deaths(&folder.journal()).is_empty());
}

#[test]
fn crashed_thread_decides_which_model_is_blamed() {
    let folder = JournalFolder::new();
    let blamed = |mark: &str, computes: bool| {
        let mut journal = folder.open();
        journal.load_begins(&model("loading"));
        if computes {
            journal.step(Work::Decode, &model("running"), ["r-1"].into_iter());
        }
        folder.die(journal, mark);
        let deaths = last_deaths(&folder.journal()).into_iter();
        deaths.map(|(suspect, _)| suspect.model).collect::<Vec<_>>()
    };
    assert_eq!(blamed("signal 011 loader", true), ["loading"]);
    // The engine thread, or a thread that it computes on.
    assert_eq!(blamed("signal 011", true), ["running"]);
    assert_eq!(blamed("signal 011", false), ["loading"]);
}

#[test]
fn success_and_forgiveness_are_saved() {
    let folder = JournalFolder::new();
    for _ in 0..2 {
        let mut journal = folder.open();
        journal.step(Work::Load, &model("a"), std::iter::empty());
        folder.die(journal, ABORT);
    }
    let mut journal = folder.open();
    assert_eq!(journal.quarantined().len(), 1);
    journal.forgive("a");
    drop(journal);
    let mut journal = folder.open();
    assert!(journal.refused(&model("a")).is_none());
    journal.succeeded("a");
    drop(journal);
    assert_eq!(read_quarantine(&folder.quarantine()), Quarantine::default());
}

#[test]
fn invalid_files_cost_a_warning_only() {
    let folder = JournalFolder::new();
    let marked = |line: &str| {
        let mut text = vec![0; usize::try_from(MARK_OFFSET).unwrap()];
        text[..line.len()].copy_from_slice(line.as_bytes());
        text.extend_from_slice(ABORT.as_bytes());
        text
    };
    for journal in [b"\xff\xfe".to_vec(), Vec::new(), marked("{\"step\": 3}\n"), marked("{")] {
        fs::write(folder.journal(), journal).unwrap();
        fs::write(folder.quarantine(), b"{\"models\": [").unwrap();
        assert!(folder.open().quarantined().is_empty());
    }
    // A folder in place of the journal, and no folder for the quarantine.
    let journal = CrashJournal::open(folder.folder.path(), Path::new("/nowhere/quarantine.json"));
    assert!(journal.file.is_none());
    journal.save();
    // A line that is too long is left out.
    let mut journal = folder.open();
    journal.step(Work::Load, &model(&"x".repeat(10_000)), std::iter::empty());
    folder.die(journal, ABORT);
    assert!(last_deaths(&folder.journal()).is_empty());
}
