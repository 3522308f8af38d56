//! Input history of conversations, as a file.
//!
//! Owns its format (one input per line), its bound, and its mode: it has what the user asked, so
//! only the user may read it. Does not know how lines are edited.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Maximum number of inputs that are offered again.
const KEPT_LINES: usize = 1_000;

/// The history file.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
}

impl History {
    /// The history kept at `path`, which need not exist.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Loads past inputs, oldest first. A file of over twice the bound is cut.
    pub(crate) fn load(&self) -> Vec<String> {
        // An unreadable history must not prevent a conversation.
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let kept = &lines[lines.len().saturating_sub(KEPT_LINES)..];
        if lines.len() > 2 * KEPT_LINES {
            // On failure the old file stays unchanged.
            let _ = self.replace(kept);
        }
        kept.iter().map(|&line| line.to_owned()).collect()
    }

    /// Adds one input.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn add(&self, input: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        // One write, so that the lines of two conversations do not mix.
        file.write_all(format!("{}\n", input.replace('\n', " ")).as_bytes())
    }

    fn replace(&self, lines: &[&str]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(lines.join("\n").as_bytes())?;
        file.write_all(b"\n")?;
        fs::rename(new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn inputs_round_trip_in_a_private_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat_history");
        let history = History::new(path.clone());
        assert!(history.load().is_empty());
        history.add("one").unwrap();
        history.add("two\nlines").unwrap();
        assert_eq!(history.load(), ["one", "two lines"]);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn long_history_is_cut_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::new(folder.path().join("chat_history"));
        let lines: Vec<String> = (0..=2 * KEPT_LINES).map(|line| line.to_string()).collect();
        fs::write(&history.path, lines.join("\n")).unwrap();
        for _ in 0..2 {
            let kept = history.load();
            assert_eq!((kept.len(), kept.last().unwrap().as_str()), (KEPT_LINES, "2000"));
        }
    }
}
