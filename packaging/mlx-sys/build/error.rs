//! The build script's one error: what went wrong and what the person building can do about it.

use std::fmt;
use std::path::Path;
use std::process::Command;

/// A failed build step.
#[derive(Debug)]
pub(crate) struct BuildError {
    what: String,
    hint: String,
}

/// Result of a build step.
pub(crate) type Result<T> = std::result::Result<T, BuildError>;

impl BuildError {
    /// An error that says `what` failed and, as a `hint`, the next step.
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }

    /// An I/O error at `path`.
    pub(crate) fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::new(
            format!("cannot {action} {}: {error}", path.display()),
            "check that the folder exists, is writable and has free space",
        )
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mlx-sys: {}\nhint: {}", self.what, self.hint)
    }
}

/// Runs `command` to its end and returns its standard output.
///
/// `hint` is shown when the program is missing or reports failure.
pub(crate) fn output_of(command: &mut Command, hint: &str) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| BuildError::new(format!("cannot run `{program}`: {error}"), hint))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    Err(BuildError::new(
        format!("`{program} {}` failed ({}):\n{}", args.join(" "), output.status, stderr.trim()),
        hint,
    ))
}
