//! Crash journal: records what the engine thread does, to blame a model for a crash.
//!
//! Owns two files of the Ingle folder: the journal, a line that is overwritten before each load and
//! each pass, and the quarantine, which the next start derives from it. A fatal signal or a panic
//! leaves a mark behind the line. A killed process or a power failure leaves no mark, and no model
//! is blamed. Does not know engines. Errors here never stop the daemon: a file that cannot be read
//! or written costs a warning.

mod signals;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::quarantine::{Death, Deaths, Quarantine, version_hash};
use ingle_engine::model::EngineModel;

/// Offset of the mark in the journal, and so the maximum length of the line, in bytes.
const MARK_OFFSET: u64 = 8 * 1024;
/// The journal's length in bytes.
const JOURNAL_BYTES: u64 = MARK_OFFSET + 64;
/// Maximum bytes read of a quarantine file.
const QUARANTINE_BYTES: u64 = 1 << 20;
/// Maximum number of requests that a line names.
const MAX_REQUESTS: usize = 8;

/// The kind of work on a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Its weights are loaded.
    Load,
    /// A prompt is read.
    Prefill,
    /// Tokens are sampled.
    Decode,
}

impl Work {
    fn in_words(self) -> &'static str {
        match self {
            Self::Load => "loading",
            Self::Prefill => "reading a prompt",
            Self::Decode => "generating",
        }
    }
}

/// A model that may be to blame. Its version is a hash, because versions hold long paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    model: String,
    version: String,
}

impl Suspect {
    fn new(model: &EngineModel) -> Self {
        Self { model: model.name.clone(), version: version_hash(&model.version) }
    }
}

/// The present work of the engine thread itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct JournalStep {
    work: Work,
    suspect: Suspect,
    requests: Vec<String>,
}

/// The journal's line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct JournalLine {
    /// Models whose weights loader threads read.
    loading: Vec<Suspect>,
    step: Option<JournalStep>,
}

impl JournalLine {
    /// The models to blame for a crash.
    ///
    /// A crash on a loader thread is blamed on the models being loaded. Any other crash is blamed
    /// on the engine thread's work, because native code computes on threads of its own. Without
    /// such work, the crashed thread can only be one that a loader started.
    fn blame(self, on_loader: bool) -> Vec<(Suspect, Work, Vec<String>)> {
        match self.step {
            Some(step) if !on_loader => vec![(step.suspect, step.work, step.requests)],
            _ => {
                let loading = self.loading.into_iter();
                loading.map(|suspect| (suspect, Work::Load, Vec::new())).collect()
            }
        }
    }
}

/// The journal, and the quarantine derived from earlier journals.
#[derive(Debug)]
pub struct CrashJournal {
    /// `None` when the journal cannot be written.
    file: Option<File>,
    line: JournalLine,
    /// The unhashed version of the step's model, so that an unchanged step costs no hash.
    step_version: String,
    quarantine: Quarantine,
    quarantine_path: PathBuf,
}

impl CrashJournal {
    /// Opens the journal at `path`, and starts a new one.
    ///
    /// The crash that the last journal shows, if any, is added to the quarantine at
    /// `quarantine_path` first. The caller holds the daemon's lock.
    #[must_use]
    pub fn open(path: &Path, quarantine_path: &Path) -> Self {
        let mut quarantine = read_quarantine(quarantine_path);
        let deaths = last_deaths(path);
        for (suspect, death) in &deaths {
            tracing::warn!(
                model = suspect.model,
                cause = death.cause,
                phase = death.phase,
                requests = ?death.requests,
                "the last daemon crashed while it used this model"
            );
            quarantine.add(&suspect.model, &suspect.version, death.clone());
        }
        let mut journal = Self {
            file: None,
            line: JournalLine::default(),
            step_version: String::new(),
            quarantine,
            quarantine_path: quarantine_path.to_owned(),
        };
        if !deaths.is_empty() {
            journal.save();
        }
        // Only now: the new journal is empty, and only the last one held the crash.
        journal.file = begin(path)
            .inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error, "the crash journal cannot be created");
            })
            .ok();
        journal
    }

    /// The writer of the mark for a stall, which ends the process.
    #[must_use]
    pub fn stall_mark(&self) -> StallMark {
        StallMark(self.file.as_ref().and_then(|file| file.try_clone().ok()))
    }

    /// Installs the signal handlers that write the mark, for the life of the process.
    pub fn watch_signals(&self) {
        let watched = self.file.as_ref().map_or(Ok(()), |file| signals::watch(file, MARK_OFFSET));
        if let Err(error) = watched {
            tracing::warn!(%error, "crashes in native code cannot be detected");
        }
    }

    /// Records that the loader threads begin to read a model.
    pub fn load_begins(&mut self, model: &EngineModel) {
        let suspect = Suspect::new(model);
        if !self.line.loading.contains(&suspect) {
            self.line.loading.push(suspect);
            self.write();
        }
    }

    /// Records that all loads but these have ended.
    pub fn retain_loads(&mut self, names: &[String]) {
        let before = self.line.loading.len();
        self.line.loading.retain(|suspect| names.contains(&suspect.model));
        if self.line.loading.len() != before {
            self.write();
        }
    }

    /// Records that the engine thread adopts tensors, and does nothing else.
    pub fn adopts(&mut self) {
        if self.line.step.take().is_some() {
            self.write();
        }
    }

    /// Records the next work of the engine thread. A change costs one small write.
    pub fn step<'a>(
        &mut self,
        work: Work,
        model: &EngineModel,
        requests: impl Iterator<Item = &'a str> + Clone,
    ) {
        let requests = requests.take(MAX_REQUESTS);
        let is_same = self.line.step.as_ref().is_some_and(|step| {
            step.work == work
                && step.suspect.model == model.name
                && self.step_version == model.version
                && step.requests.iter().map(String::as_str).eq(requests.clone())
        });
        if is_same {
            return;
        }
        self.step_version.clone_from(&model.version);
        let requests = requests.map(str::to_owned).collect();
        self.line.step = Some(JournalStep { work, suspect: Suspect::new(model), requests });
        self.write();
    }

    /// Records that there is no work.
    pub fn idle(&mut self) {
        if self.line.step.is_some() || !self.line.loading.is_empty() {
            self.line.step = None;
            self.line.loading.clear();
            self.write();
        }
    }

    /// The crashes for which a model is refused, if it is.
    #[must_use]
    pub fn refused(&self, model: &EngineModel) -> Option<&Deaths> {
        self.quarantine.refused(&model.name, &version_hash(&model.version))
    }

    /// All models that are refused.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(String, Deaths)> {
        let all = self.quarantine.all();
        all.map(|(name, deaths)| (name.to_owned(), deaths.clone())).collect()
    }

    /// Records a completed generation, which clears the model's count.
    pub fn succeeded(&mut self, model: &str) {
        if self.quarantine.succeeded(model) {
            self.save();
        }
    }

    /// Allows a model in quarantine one more try.
    pub fn forgive(&mut self, model: &str) {
        if self.quarantine.forgive(model) {
            self.save();
        }
    }

    /// Overwrites the line. Bytes after its newline are left over from longer lines.
    fn write(&mut self) {
        let Some(file) = &self.file else { return };
        let mut text = serde_json::to_vec(&self.line).unwrap_or_default();
        if text.len() as u64 >= MARK_OFFSET {
            // Names this long are paths of models. No line is better than half a line.
            text.clear();
        }
        text.push(b'\n');
        if let Err(error) = file.write_all_at(&text, 0) {
            tracing::warn!(%error, "the crash journal cannot be written and is closed");
            self.file = None;
        }
    }

    fn save(&self) {
        let path = &self.quarantine_path;
        let saved = serde_json::to_vec_pretty(&self.quarantine)
            .map_err(io::Error::other)
            .and_then(|text| replace(path, &text));
        if let Err(error) = saved {
            let path = path.display();
            tracing::warn!(%path, %error, "the quarantine could not be saved");
        }
    }
}

/// Writes the mark of a stall: the only write to the journal from another thread.
#[derive(Debug)]
pub struct StallMark(Option<File>);

impl StallMark {
    /// Blames what the engine thread is doing for the end of the process.
    pub fn write(&self) {
        if let Some(file) = &self.0
            && let Err(error) = file.write_all_at(b"stall\n", MARK_OFFSET)
        {
            tracing::warn!(%error, "the crash journal cannot be marked");
        }
    }
}

impl Drop for CrashJournal {
    /// An orderly end clears the line. A panic of the engine thread leaves it, with a mark.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.idle();
        } else if let Some(file) = &self.file {
            // The process is about to end, so a failure cannot be reported.
            let _ = file.write_all_at(b"panic\n", MARK_OFFSET);
        }
    }
}

/// Replaces a file as a whole.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text)?;
    file.persist(path)?;
    Ok(())
}

/// Creates an empty journal. Its blocks are allocated now, so that a full disk shows now.
fn begin(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&vec![0; usize::try_from(JOURNAL_BYTES).unwrap_or(0)], 0)?;
    file.write_all_at(b"\n", 0)?;
    Ok(file)
}

fn read_quarantine(path: &Path) -> Quarantine {
    let text = match read_bounded(path, QUARANTINE_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Quarantine::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the quarantine cannot be read");
            return Quarantine::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the quarantine is invalid and starts empty");
        Quarantine::default()
    })
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut text)?;
    Ok(text)
}

/// The crash of the last daemon per blamed model; empty when it did not crash.
fn last_deaths(path: &Path) -> Vec<(Suspect, Death)> {
    let Ok(text) = read_bounded(path, JOURNAL_BYTES) else { return Vec::new() };
    let mark_from = usize::try_from(MARK_OFFSET).unwrap_or(usize::MAX).min(text.len());
    let (line, mark) = text.split_at(mark_from);
    let Some((cause, on_loader)) = read_mark(mark) else { return Vec::new() };
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line: JournalLine = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(_) if line.is_empty() => JournalLine::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the crash journal is invalid");
            return Vec::new();
        }
    };
    // The mark was the last write, so the file's time is that of the crash.
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    let at = modified.unwrap_or_else(|_| SystemTime::now());
    let at_unix_s = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let blame = line.blame(on_loader);
    if blame.is_empty() {
        tracing::warn!(cause, "the last daemon crashed, and used no model");
    }
    let deaths = blame.into_iter().map(|(suspect, work, requests)| {
        let (cause, phase) = (cause.clone(), work.in_words().to_owned());
        (suspect, Death { at_unix_s, cause, phase, requests })
    });
    deaths.collect()
}

/// Cause of a mark, and whether it was left on a loader thread.
fn read_mark(mark: &[u8]) -> Option<(String, bool)> {
    let text = std::str::from_utf8(mark.split(|&byte| byte == b'\n').next()?).ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        ["panic"] => Some(("a panic".to_owned(), false)),
        ["stall"] => Some(("a stall".to_owned(), false)),
        ["signal", signal, on @ ..] => {
            let number = signal.parse().ok()?;
            let name = signal_hook::low_level::signal_name(number);
            let cause = name.map_or_else(|| format!("signal {number}"), str::to_owned);
            match on {
                [] => Some((cause, false)),
                ["loader"] => Some((cause, true)),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
