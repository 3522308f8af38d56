//! The process: what every command is given, and what it ends with.
//!
//! Owns the wiring. Must not know what a command does.

use std::panic;
use std::path::{Path, PathBuf};

use clap::Parser;
use ingle_client::client::Client;
use ingle_client::launch;
use ingle_client::paths::Paths;
use ingle_client::{exit, socket};
use ingle_protocol::error::{ErrorBody, ErrorCode};

use crate::cli::Cli;
use crate::commands;
use crate::output::{Failure, Outcome, Output};

/// What every command is given.
pub(crate) struct App {
    /// The Ingle folder.
    pub(crate) paths: Paths,
    /// The daemon's program.
    pub(crate) program: PathBuf,
    /// Where to print.
    pub(crate) output: Output,
}

impl App {
    /// A connection to the daemon, which is started if none runs.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let stream = launch::connect_or_start(&self.paths, &self.program).await?;
        Ok(Client::over(stream).await?)
    }

    /// A connection to the daemon if one runs.
    pub(crate) async fn connect_running(&self) -> Result<Option<Client>, Failure> {
        self.paths.check_socket()?;
        match socket::connect(self.paths.socket()).await {
            Ok(stream) => Ok(Some(Client::over(stream).await?)),
            Err(_) => Ok(None),
        }
    }
}

/// Runs the process's command line and gives the exit code.
pub(crate) fn main() -> u8 {
    // Clap prints its own complaints, and ends with the usage code, which is 2 as well.
    let cli = Cli::parse();
    let json = cli.json;
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(|| run(cli)).unwrap_or_else(|payload| Err(bug(&*payload)));
    match outcome {
        Ok(code) => code,
        Err(failure) => Output::standard(json).failure(&failure),
    }
}

fn run(cli: Cli) -> Outcome {
    let app = App {
        paths: Paths::from_env()?,
        program: launch::daemon_program(),
        output: Output::standard(cli.json),
    };
    // One thread is all that a shim needs, and a second would be most of its memory.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let outcome = runtime.block_on(commands::run(app, cli.command));
    // Nothing that still runs is waited for.
    runtime.shutdown_background();
    outcome
}

fn bug(payload: &(dyn std::any::Any + Send)) -> Failure {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = format!("a bug in ingle: {}", text.unwrap_or("no message"));
    let body = ErrorBody::new(ErrorCode::Internal, message)
        .with_remediation("Report it with the command that you ran.");
    Failure::Error { body: Box::new(body), exit_code: exit::INTERNAL }
}

/// A model as the daemon must hear of it: the daemon works in another folder, so a path is made
/// absolute. What has no slash in it is a name, unless it is a GGUF file that is here; what looks
/// like `org/name` is one too, unless a file or folder of that name is here.
pub(crate) fn model_argument(model: &str) -> String {
    let path = Path::new(model);
    let is_gguf = path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("gguf"));
    let is_path = model.contains('/') || matches!(model, "." | "..") || (is_gguf && path.is_file());
    let is_name = model.starts_with("hf:") || (is_repository(model) && !path.exists());
    if !is_path || is_name || model.starts_with('~') {
        return model.to_owned();
    }
    std::path::absolute(path).map_or_else(
        |_| model.to_owned(),
        |path| path.to_string_lossy().trim_end_matches('/').to_owned(),
    )
}

/// Whether `model` has the shape `org/name[:choice][@revision]`.
fn is_repository(model: &str) -> bool {
    let name = model.split([':', '@']).next().unwrap_or(model);
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let is_file = name.to_ascii_lowercase().ends_with(".gguf");
    !is_file && name.split('/').count() == 2 && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_and_names_are_left_alone() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(model_argument("smollm2"), "smollm2");
        assert_eq!(model_argument("qwen2.5-0.5b.gguf"), "qwen2.5-0.5b.gguf");
        assert_eq!(model_argument("~/m.gguf"), "~/m.gguf");
        assert_eq!(model_argument("./m"), here.join("m").to_str().unwrap());
        assert_eq!(model_argument("/a/m/"), "/a/m");
        for name in ["org/name", "org/name:Q8_0", "org/name@refs/pr/1", "hf:org/name:a/b.gguf"] {
            assert_eq!(model_argument(name), name);
        }
        // A folder that is here, a file, and what is too deep to be a repository.
        for path in ["src/commands", "models/tiny.gguf", "a/b/c", "../models", "org/"] {
            let absolute = here.join(path);
            let absolute = absolute.to_str().unwrap().trim_end_matches('/');
            assert_eq!(model_argument(path), absolute, "{path}");
        }
    }
}
