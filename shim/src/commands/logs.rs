//! `logs`: the daemon's log files, read without the daemon.
//!
//! Knows that they are the files of the logs folder whose names begin with `ingled`, of which the
//! one written last is the present one.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ingle_client::exit;
use serde_json::json;

use crate::context::Context;
use crate::output::{Failure, Outcome};

/// Between two looks at a log that is being followed.
const FOLLOW_CHECK: Duration = Duration::from_millis(250);
/// Bytes of each file's end that are searched for lines.
const TAIL_BYTES: u64 = 4 * 1024 * 1024;

/// Prints the last lines, and goes on with new ones if they are to be followed.
pub(crate) async fn run(context: &mut Context, lines: usize, follow: bool) -> Outcome {
    let folder = context.paths.logs_dir();
    let files = log_files(&folder)?;
    // Where reading goes on comes before the lines, so that none falls in between twice or never.
    let mut place = None;
    let mut tail: Vec<String> = Vec::new();
    for (index, file) in files.iter().enumerate().rev() {
        let mut reader = Reader::open(file)?;
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

/// Prints what has come since the last look. `place` is in the file that was the newest then.
fn print_new(
    context: &mut Context,
    folder: &Path,
    place: &mut Option<Reader>,
) -> Result<(), Failure> {
    // The list first: what is written to a file before the next one begins is in it by then.
    let files = log_files(folder)?;
    let mut left = &files[..];
    if let Some(reader) = place {
        print_rest(context, reader)?;
        let newest = files.iter().rposition(|file| reader.is_of(file));
        left = &files[newest.map_or(files.len().saturating_sub(1), |index| index + 1)..];
    }
    for file in left {
        let mut reader = Reader::open(file)?;
        print_rest(context, &mut reader)?;
        *place = Some(reader);
    }
    Ok(())
}

fn print_rest(context: &mut Context, reader: &mut Reader) -> Result<(), Failure> {
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

/// The log files, the one written last at the end.
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
            // `ingled.stderr` is what a launched daemon's panic has to say, not its log.
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

/// A log file, read as it grows, whatever it is called by then.
struct Reader {
    file: File,
    /// Where the lines that were read end.
    at: u64,
}

impl Reader {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, at: 0 })
    }

    fn is_of(&self, path: &Path) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let own = self.file.metadata().map(id).ok();
        own.is_some() && fs::metadata(path).map(id).ok() == own
    }

    /// Whole lines at the end of the file.
    fn tail(&mut self) -> io::Result<String> {
        self.at = self.file.metadata()?.len().saturating_sub(TAIL_BYTES);
        let is_part = self.at > 0;
        let text = self.lines()?;
        // The first line of a part of a file is a part of a line.
        let whole = if is_part { text.find('\n').map_or(0, |place| place + 1) } else { 0 };
        Ok(text[whole..].to_owned())
    }

    /// Whole lines that have not been read yet; a line over [`TAIL_BYTES`] comes in pieces. A file
    /// that has become shorter is read anew.
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
    async fn the_last_lines_are_taken_across_files() {
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
    fn no_line_is_lost_when_the_next_file_begins_or_a_line_is_very_long() {
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
        // Two files have begun since the last look, and the first one has got its last lines.
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
    async fn no_log_is_no_failure() {
        let (mut context, _home, out, err) = fake_daemon::context(false);
        assert_eq!(run(&mut context, 3, false).await.unwrap(), exit::OK);
        assert_eq!(out.text(), "");
        assert!(err.text().starts_with("no log yet"));
    }
}
