//! What a dead daemon's journal comes to.

use ingle_protocol::wire::models::EngineKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use ingle_engine::model::Weights;
use ingle_engine::role::Role;

struct Room {
    folder: tempfile::TempDir,
}

impl Room {
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

    /// What the signal handler would write. The journal is not dropped in order: its process died.
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
fn two_marked_deaths_refuse_a_model_and_unmarked_ones_do_not() {
    let room = Room::new();
    for (mark, refused) in [(ABORT, false), ("", false), ("", false), (ABORT, true)] {
        let mut journal = room.open();
        journal.step(Work::Prefill, &model("a"), ["r-1"].into_iter());
        room.die(journal, mark);
        let journal = room.open();
        assert_eq!(journal.refused(&model("a")).is_some(), refused, "{mark}");
    }
    let journal = room.open();
    let deaths = journal.refused(&model("a")).unwrap();
    let Death { cause, phase, requests, at_unix_s } = &deaths.last;
    assert_eq!((cause.as_str(), phase.as_str()), ("SIGABRT", "reading a prompt"));
    assert!(requests == &["r-1"] && *at_unix_s > 1_600_000_000);
    assert!(journal.refused(&model("b")).is_none());
    let changed = EngineModel { version: "/models/a 2".to_owned(), ..model("a") };
    assert!(journal.refused(&changed).is_none());
}

#[test]
fn a_panic_is_a_death_and_an_orderly_end_is_none() {
    let room = Room::new();
    for _ in 0..2 {
        let mut journal = room.open();
        journal.step(Work::Decode, &model("a"), ["r-1"].into_iter());
        let outcome = catch_unwind(AssertUnwindSafe(move || {
            let _journal = journal;
            panic!("injected");
        }));
        assert!(outcome.is_err());
    }
    let mut journal = room.open();
    assert_eq!(journal.refused(&model("a")).unwrap().last.cause, "a panic");
    journal.step(Work::Decode, &model("b"), ["r-1"].into_iter());
    drop(journal);
    let file = File::options().write(true).open(room.journal()).unwrap();
    file.write_all_at(format!("{ABORT}\n").as_bytes(), MARK_OFFSET).unwrap();
    assert!(last_deaths(&room.journal()).is_empty());
}

#[test]
fn the_thread_that_died_decides_between_a_load_and_a_pass() {
    let room = Room::new();
    let blamed = |mark: &str, computes: bool| {
        let mut journal = room.open();
        journal.load_begins(&model("loading"));
        if computes {
            journal.step(Work::Decode, &model("running"), ["r-1"].into_iter());
        }
        room.die(journal, mark);
        let deaths = last_deaths(&room.journal()).into_iter();
        deaths.map(|(suspect, _)| suspect.model).collect::<Vec<_>>()
    };
    assert_eq!(blamed("signal 011 loader", true), ["loading"]);
    // The engine thread, or one of those that it computes on.
    assert_eq!(blamed("signal 011", true), ["running"]);
    assert_eq!(blamed("signal 011", false), ["loading"]);
}

#[test]
fn success_and_a_pardon_are_remembered() {
    let room = Room::new();
    for _ in 0..2 {
        let mut journal = room.open();
        journal.step(Work::Load, &model("a"), std::iter::empty());
        room.die(journal, ABORT);
    }
    let mut journal = room.open();
    assert_eq!(journal.quarantined().len(), 1);
    journal.forgive("a");
    drop(journal);
    let mut journal = room.open();
    assert!(journal.refused(&model("a")).is_none());
    journal.succeeded("a");
    drop(journal);
    assert_eq!(read_quarantine(&room.quarantine()), Quarantine::default());
}

#[test]
fn broken_files_cost_a_warning_and_nothing_else() {
    let room = Room::new();
    let marked = |line: &str| {
        let mut text = vec![0; usize::try_from(MARK_OFFSET).unwrap()];
        text[..line.len()].copy_from_slice(line.as_bytes());
        text.extend_from_slice(ABORT.as_bytes());
        text
    };
    for journal in [b"\xff\xfe".to_vec(), Vec::new(), marked("{\"step\": 3}\n"), marked("{")] {
        fs::write(room.journal(), journal).unwrap();
        fs::write(room.quarantine(), b"{\"models\": [").unwrap();
        assert!(room.open().quarantined().is_empty());
    }
    // A folder in the journal's place, and none for the quarantine.
    let journal = CrashJournal::open(room.folder.path(), Path::new("/nowhere/quarantine.json"));
    assert!(journal.file.is_none());
    journal.save();
    // A line that is too long is left out.
    let mut journal = room.open();
    journal.step(Work::Load, &model(&"x".repeat(10_000)), std::iter::empty());
    room.die(journal, ABORT);
    assert!(last_deaths(&room.journal()).is_empty());
}
