//! `logs`: the daemon's log files, read without the daemon.
//!
//! Knows that they are the files of the logs folder whose names begin with `ingled`, of which the
//! one written last is the present one.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ingle_protocol::exit;
use serde_json::json;

use crate::app::App;
use crate::output::{Failure, Outcome};

/// Between two looks at a log that is being followed.
const FOLLOW_CHECK: Duration = Duration::from_millis(250);
/// Bytes of each file's end that are searched for lines.
const TAIL_BYTES: u64 = 4 * 1024 * 1024;

/// Prints the last lines, and goes on with new ones if they are to be followed.
pub(crate) async fn run(app: &mut App, lines: usize, follow: bool) -> Outcome {
    let folder = app.paths.logs_dir();
    let files = log_files(&folder)?;
    // Where reading goes on comes before the lines, so that none falls in between twice or never.
    let mut place = files.last().map(|file| (file.clone(), 0)).unwrap_or_default();
    let mut tail: Vec<String> = Vec::new();
    for file in files.iter().rev() {
        let (text, end) = read_tail(file)?;
        if *file == place.0 {
            place.1 = end;
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
        print(app, line)?;
    }
    if files.is_empty() {
        app.output.note(&format!("no log yet in {}", folder.display()));
    }
    if !follow {
        return Ok(exit::OK);
    }
    loop {
        tokio::time::sleep(FOLLOW_CHECK).await;
        let Some(newest) = log_files(&folder)?.pop() else { continue };
        let (file, from) = if newest == place.0 { place } else { (newest, 0) };
        let (text, end) = read_from(&file, from)?;
        for line in text.lines() {
            print(app, line)?;
        }
        place = (file, end);
    }
}

fn print(app: &mut App, line: &str) -> Result<(), Failure> {
    if app.output.json { app.output.json(&json!({ "line": line })) } else { app.output.line(line) }
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

/// Whole lines at the end of a file, and where they end.
fn read_tail(file: &Path) -> io::Result<(String, u64)> {
    let length = fs::metadata(file)?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    let (text, end) = read_from(file, from)?;
    // The first line of a part of a file is a part of a line.
    let whole = if from == 0 { 0 } else { text.find('\n').map_or(text.len(), |place| place + 1) };
    Ok((text[whole..].to_owned(), end))
}

/// Whole lines from `from` on, and where they end. A file that has become shorter is read anew.
fn read_from(file: &Path, from: u64) -> io::Result<(String, u64)> {
    let mut reader = File::open(file)?;
    let from = if reader.metadata()?.len() < from { 0 } else { from };
    reader.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    reader.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |place| place + 1));
    let end = from + bytes.len() as u64;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[tokio::test]
    async fn the_last_lines_are_taken_across_files() {
        let (mut app, _home, out, _) = fake::app(false);
        let logs = app.paths.logs_dir();
        fs::create_dir_all(&logs).unwrap();
        fs::write(logs.join("ingled.stderr"), "panic\n").unwrap();
        for (name, text, age_s) in [("ingled.1", "a\nb\n", 60), ("ingled.2", "c\nd\nhalf", 0)] {
            fs::write(logs.join(name), text).unwrap();
            let file = File::options().write(true).open(logs.join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        }
        run(&mut app, 3, false).await.unwrap();
        assert_eq!(out.text(), "b\nc\nd\n");
    }

    #[tokio::test]
    async fn no_log_is_no_failure() {
        let (mut app, _home, out, err) = fake::app(false);
        assert_eq!(run(&mut app, 3, false).await.unwrap(), exit::OK);
        assert_eq!(out.text(), "");
        assert!(err.text().starts_with("no log yet"));
    }
}
