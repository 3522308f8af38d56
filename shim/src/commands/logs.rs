//! `logs`: prints the daemon's log files, without the daemon.
//!
//! Owns which files those are: the files of the logs folder whose names begin with `ingled`. The
//! most recently written one is the present log.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ingle_client::exit;
use serde_json::json;

use crate::context::Context;
use crate::output::{Failure, Outcome};

/// Interval of checks of a log that is followed.
const FOLLOW_CHECK: Duration = Duration::from_millis(250);
/// Bytes of each file's end that are searched for lines.
const TAIL_BYTES: u64 = 4 * 1024 * 1024;

/// Prints the last lines, and new ones as they come with `follow`.
pub(crate) async fn run(context: &mut Context, lines: usize, follow: bool) -> Outcome {
    let folder = context.paths.logs_dir();
    let files = log_files(&folder)?;
    // The position to continue from is taken before the lines, so that no line is lost or repeated.
    let mut place = None;
    let mut tail: Vec<String> = Vec::new();
    for (index, file) in files.iter().enumerate().rev() {
        let mut reader = LogReader::open(file)?;
        let text = reader.tail()?;
        if index + 1 == files.len() {
            place = Some(reader);
        }
        let missing = lines - tail.len();
        let all: Vec<&str> = text.lines().collect();
        let last = all[all.len().saturating_sub(missing)..].iter().map(|&line| line.to_owned());
        tail = last.chain(tail).collect();
        if tail.len() == lines {
            break;
        }
    }
    for line in &tail {
        print(context, line)?;
    }
    if files.is_empty() {
        context.output.note(&format!("no log yet in {}", folder.display()));
    }
    if !follow {
        return Ok(exit::OK);
    }
    loop {
        tokio::time::sleep(FOLLOW_CHECK).await;
        print_new(context, &folder, &mut place)?;
    }
}

/// Prints new lines. `place` is the position in the file that was the newest at the last check.
fn print_new(
    context: &mut Context,
    folder: &Path,
    place: &mut Option<LogReader>,
) -> Result<(), Failure> {
    // The list of files first: a file has all its lines before the next one begins.
    let files = log_files(folder)?;
    let mut left = &files[..];
    if let Some(reader) = place {
        print_rest(context, reader)?;
        let newest = files.iter().rposition(|file| reader.is_of(file));
        left = &files[newest.map_or(files.len().saturating_sub(1), |index| index + 1)..];
    }
    for file in left {
        let mut reader = LogReader::open(file)?;
        print_rest(context, &mut reader)?;
        *place = Some(reader);
    }
    Ok(())
}

fn print_rest(context: &mut Context, reader: &mut LogReader) -> Result<(), Failure> {
    loop {
        let text = reader.lines()?;
        if text.is_empty() {
            return Ok(());
        }
        for line in text.lines() {
            print(context, line)?;
        }
    }
}

fn print(context: &mut Context, line: &str) -> Result<(), Failure> {
    if context.output.json {
        context.output.json(&json!({ "line": line }))
    } else {
        context.output.line(line)
    }
}

/// The log files, the most recently written one last.
fn log_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // `ingled.stderr` is the standard error of a launched daemon, not its log.
            name.starts_with("ingled") && !name.ends_with(".stderr")
        })
        .filter_map(|entry| {
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((metadata.modified().ok()?, entry.path()))
        })
        .collect();
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// LogReader of a log file as it grows, even when it is renamed.
struct LogReader {
    file: File,
    /// The end of the lines that were read.
    at: u64,
}

impl LogReader {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, at: 0 })
    }

    fn is_of(&self, path: &Path) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let own = self.file.metadata().map(id).ok();
        own.is_some() && fs::metadata(path).map(id).ok() == own
    }

    /// The last whole lines of the file.
    fn tail(&mut self) -> io::Result<String> {
        self.at = self.file.metadata()?.len().saturating_sub(TAIL_BYTES);
        let is_part = self.at > 0;
        let text = self.lines()?;
        // The first line of a part of a file may be incomplete.
        let whole = if is_part { text.find('\n').map_or(0, |place| place + 1) } else { 0 };
        Ok(text[whole..].to_owned())
    }

    /// The whole lines that have not been read; a line over [`TAIL_BYTES`] comes in pieces. A file
    /// that was truncated is read from its start.
    fn lines(&mut self) -> io::Result<String> {
        if self.file.metadata()?.len() < self.at {
            self.at = 0;
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut self.file).take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let last = bytes.iter().rposition(|&byte| byte == b'\n');
        if last.is_some() || (bytes.len() as u64) < TAIL_BYTES {
            bytes.truncate(last.map_or(0, |place| place + 1));
        }
        self.at += bytes.len() as u64;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_daemon;
    use std::io::Write;

    #[tokio::test]
    async fn last_lines_span_files() {
        let (mut context, _home, out, _) = fake_daemon::context(false);
        let logs = context.paths.logs_dir();
        fs::create_dir_all(&logs).unwrap();
        fs::write(logs.join("ingled.stderr"), "panic\n").unwrap();
        for (name, text, age_s) in [("ingled.1", "a\nb\n", 60), ("ingled.2", "c\nd\nhalf", 0)] {
            fs::write(logs.join(name), text).unwrap();
            let file = File::options().write(true).open(logs.join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        }
        run(&mut context, 3, false).await.unwrap();
        assert_eq!(out.text(), "b\nc\nd\n");
    }

    #[test]
    fn no_line_is_lost_across_files() {
        let (mut context, _home, out, _) = fake_daemon::context(false);
        let logs = context.paths.logs_dir();
        fs::create_dir_all(&logs).unwrap();
        let write = |name: &str, text: &str, age_s: u64| {
            let mut file = File::options().create(true).append(true).open(logs.join(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        };
        let mut place = None;
        write("ingled.1", "a\nha", 60);
        print_new(&mut context, &logs, &mut place).unwrap();
        // Two files were begun since the last check, and the first one got its last lines.
        write("ingled.1", "lf\nb\n", 60);
        write("ingled.2", "c\n", 40);
        write("ingled.3", "d\n", 20);
        print_new(&mut context, &logs, &mut place).unwrap();
        assert_eq!(out.text(), "a\nhalf\nb\nc\nd\n");
        let long = "x".repeat(usize::try_from(TAIL_BYTES).unwrap() + 10);
        write("ingled.3", &format!("{long}\ne\n"), 0);
        print_new(&mut context, &logs, &mut place).unwrap();
        assert!(out.text().ends_with("xxxxx\ne\n"));
    }

    #[tokio::test]
    async fn missing_log_is_no_failure() {
        let (mut context, _home, out, err) = fake_daemon::context(false);
        assert_eq!(run(&mut context, 3, false).await.unwrap(), exit::OK);
        assert_eq!(out.text(), "");
        assert!(err.text().starts_with("no log yet"));
    }
}
