//! Output of the commands: text, tables and JSON on standard output, notes on standard error.
//!
//! Owns the formats, the exit code of a failure, and a silent end when the reader of our output has
//! closed it. Does not know what is printed.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, Table, presets};
use ingle_client::exit;
use ingle_client::launch::LaunchError;
use ingle_client::paths::PathError;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde::Serialize;
use serde_json::json;

/// The outcome of a command: its exit code, or a failure.
pub(crate) type Outcome = Result<u8, Failure>;

/// A failure of a command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error that is shown to the user.
    Error {
        /// The error and the next step.
        body: Box<ErrorBody>,
        /// The exit code.
        exit_code: u8,
    },
    /// The reader has closed our output (`ingle models | head -1`), which is not an error.
    OutputClosed,
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        let exit_code = match body.code {
            ErrorCode::DaemonUnavailable
            | ErrorCode::DaemonLost
            | ErrorCode::ShuttingDown
            | ErrorCode::VersionSkew => exit::UNAVAILABLE,
            ErrorCode::PermissionDenied => exit::NO_PERMISSION,
            ErrorCode::ConfigInvalid => exit::CONFIG,
            ErrorCode::Internal => exit::INTERNAL,
            _ => exit::FAILED,
        };
        Self::Error { body: Box::new(body), exit_code }
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        Self::Error { body: Box::new(error.body), exit_code: error.exit_code }
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        Self::from(LaunchError::from(error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        let body = ErrorBody::new(ErrorCode::Internal, format!("input or output failed: {error}"))
            .with_remediation("Check the disk's free space and the target of the output.");
        Self::Error { body: Box::new(body), exit_code: exit::FAILED }
    }
}

impl Failure {
    /// A command line that its parser accepts and the command does not.
    pub(crate) fn usage(message: impl Into<String>, next: impl Into<String>) -> Self {
        let body = ErrorBody::new(ErrorCode::InvalidParams, message).with_remediation(next);
        Self::Error { body: Box::new(body), exit_code: exit::USAGE }
    }

    /// The error code, where there is an error.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Error { body, .. } => Some(body.code),
            Self::OutputClosed => None,
        }
    }
}

/// The process's output, or a test's.
pub(crate) struct Output {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// Whether data is printed as JSON.
    pub(crate) json: bool,
    out_is_terminal: bool,
    err_is_terminal: bool,
}

impl Output {
    /// The output of the process.
    pub(crate) fn standard(json: bool) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let (out_is_terminal, err_is_terminal) = (out.is_terminal(), err.is_terminal());
        Self { out: Box::new(out), err: Box::new(err), json, out_is_terminal, err_is_terminal }
    }

    /// Whether standard error is a terminal: prompts, colours and progress are for a person only.
    pub(crate) fn is_watched(&self) -> bool {
        self.err_is_terminal
    }

    /// Whether standard output is a terminal.
    pub(crate) fn out_is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    /// Prints text unchanged and flushes it. A terminal gets no control characters: text from a
    /// model must not be able to move its cursor or rename its window.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(shown(text, self.out_is_terminal).as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.text(line)?;
        self.text("\n")
    }

    /// Prints one JSON value on one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let mut line = serde_json::to_string(value).map_err(io::Error::from)?;
        line.push('\n');
        self.out.write_all(line.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Prints rows under headings. Columns whose heading is in `right` are right-aligned.
    pub(crate) fn table<const N: usize>(
        &mut self,
        headings: [&str; N],
        right: &[&str],
        rows: Vec<[String; N]>,
    ) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(headings);
        for row in rows {
            table.add_row(row);
        }
        for (column, heading) in table.column_iter_mut().zip(headings) {
            column.set_padding((0, 2));
            if right.contains(&heading) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Prints a note for a person. Nothing depends on it, so it cannot fail. A note may quote a
    /// model's file or another program, so a terminal gets no control characters here either.
    pub(crate) fn note(&mut self, note: &str) {
        let _ = writeln!(self.err, "{}", shown(note, self.err_is_terminal));
    }

    /// Prints text that is not part of the answer, dimmed, on a terminal only.
    pub(crate) fn aside(&mut self, text: &str) {
        if self.err_is_terminal {
            let _ = write!(self.err, "\x1b[2m{}\x1b[22m", shown(text, true));
            let _ = self.err.flush();
        }
    }

    /// Prints a question without a line break.
    pub(crate) fn ask(&mut self, question: &str) {
        let _ = write!(self.err, "{}", shown(question, self.err_is_terminal));
        let _ = self.err.flush();
    }

    /// Prints an error for a person.
    pub(crate) fn error(&mut self, body: &ErrorBody) {
        self.note(&format!("error: {}", body.message));
        self.note(&format!("hint: {}", body.remediation()));
    }

    /// Prints a failure and returns the exit code. With `--json` the error is an object on standard
    /// output, `{"error": {...}}`, so that a script reads one stream only.
    pub(crate) fn failure(&mut self, failure: &Failure) -> u8 {
        match failure {
            Failure::OutputClosed => exit::OK,
            Failure::Error { body, exit_code } => {
                if !self.json || self.json(&json!({ "error": body })).is_err() {
                    self.error(body);
                }
                *exit_code
            }
        }
    }
}

/// Removes control characters from text for a terminal.
pub(crate) fn shown(text: &str, on_terminal: bool) -> Cow<'_, str> {
    if on_terminal && text.contains(is_unsafe) {
        Cow::Owned(text.replace(is_unsafe, ""))
    } else {
        Cow::Borrowed(text)
    }
}

fn is_unsafe(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// Formats bytes for a person, in powers of 1000.
#[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Formats milliseconds for a person.
pub(crate) fn milliseconds(ms: f64) -> String {
    if ms < 1_000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) }
}

/// Formats seconds for a person.
pub(crate) fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// The captured output of a test's commands.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn captured(json: bool) -> (Output, Captured, Captured) {
        let (out, err) = (Captured::default(), Captured::default());
        let output = Output {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            json,
            out_is_terminal: false,
            err_is_terminal: false,
        };
        (output, out, err)
    }

    #[test]
    fn error_prints_the_next_step_on_stderr() {
        let (mut output, out, err) = captured(false);
        let failure = Failure::from(ErrorBody::new(ErrorCode::DaemonUnavailable, "no daemon"));
        assert_eq!(output.failure(&failure), exit::UNAVAILABLE);
        assert_eq!(out.text(), "");
        assert!(err.text().starts_with("error: no daemon\nhint: Run `ingle status`"));
    }

    #[test]
    fn json_error_is_an_object_on_stdout() {
        let (mut output, out, err) = captured(true);
        output.failure(&ErrorBody::new(ErrorCode::ModelNotFound, "no model").into());
        let printed: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!(printed["error"]["code"], "MODEL_NOT_FOUND");
        assert_eq!(err.text(), "");
    }

    #[test]
    fn closed_output_is_no_failure() {
        let (mut output, _, err) = captured(false);
        output.out = Box::new(Closed);
        let failure = output.line("x").unwrap_err();
        assert_eq!(output.failure(&failure), exit::OK);
        assert_eq!(err.text(), "");
    }

    #[test]
    fn terminal_gets_no_control_characters() {
        let (mut output, out, err) = captured(false);
        output.note("\x1b[2J");
        assert_eq!(err.text(), "\x1b[2J\n");
        (output.out_is_terminal, output.err_is_terminal) = (true, true);
        output.text("a\x1b]0;b\x07\tc\n").unwrap();
        assert_eq!(out.text(), "a]0;b\tc\n");
        output.error(&ErrorBody::new(ErrorCode::ModelInvalid, "the key \x1b]0;x\x07 is bad"));
        assert!(err.text().contains("error: the key ]0;x is bad\n"), "{}", err.text());
    }

    #[test]
    fn every_error_code_exits_with_failure() {
        for &code in ErrorCode::ALL {
            let (mut output, _, _) = captured(false);
            assert_ne!(output.failure(&ErrorBody::new(code, "x").into()), exit::OK);
        }
    }

    #[test]
    fn values_are_formatted_briefly() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(98_400_000), "98 MB");
        assert_eq!(bytes(1_234_000_000), "1.2 GB");
        assert_eq!(milliseconds(35.4), "35 ms");
        assert_eq!(milliseconds(1_250.0), "1.2 s");
        assert_eq!(seconds(3_725), "1 h 2 min");
    }

    #[test]
    fn table_columns_are_aligned() {
        let (mut output, out, _) = captured(false);
        let rows = vec![["a".to_owned(), "10 MB".to_owned()], ["bcd".to_owned(), "1 B".to_owned()]];
        output.table(["NAME", "SIZE"], &["SIZE"], rows).unwrap();
        assert_eq!(out.text(), "NAME   SIZE\na     10 MB\nbcd     1 B\n");
    }
}
