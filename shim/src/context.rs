//! Context: the parts that every command works with.
//!
//! Owns the connection to the daemon for a command, and how a model argument is read. Does not know
//! the commands or the command line.

use std::path::{Path, PathBuf};

use ingle_client::client::Client;
use ingle_client::paths::Paths;
use ingle_client::{launch, socket};

use crate::output::{Failure, Output};

/// The context of a command.
pub(crate) struct Context {
    /// The Ingle folder.
    pub(crate) paths: Paths,
    /// The daemon's program.
    pub(crate) program: PathBuf,
    /// The output.
    pub(crate) output: Output,
}

impl Context {
    /// Connects to the daemon, and starts it when it is not running.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let stream = launch::connect_or_start(&self.paths, &self.program).await?;
        Ok(Client::over(stream).await?)
    }

    /// Connects to the daemon if it is running.
    pub(crate) async fn connect_running(&self) -> Result<Option<Client>, Failure> {
        self.paths.check_socket()?;
        match socket::connect(self.paths.socket()).await {
            Ok(stream) => Ok(Some(Client::over(stream).await?)),
            Err(_) => Ok(None),
        }
    }
}

/// A model argument for the daemon, with a path made absolute: the daemon has another working
/// folder.
///
/// An argument without a slash is a name, unless it is a GGUF file in this folder; so is one like
/// `org/name`, unless a file or folder of that name exists here.
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

/// Whether `model` looks like `org/name[:choice][@revision]`.
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
    fn paths_become_absolute_and_names_stay() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(model_argument("smollm2"), "smollm2");
        assert_eq!(model_argument("qwen2.5-0.5b.gguf"), "qwen2.5-0.5b.gguf");
        assert_eq!(model_argument("~/m.gguf"), "~/m.gguf");
        assert_eq!(model_argument("./m"), here.join("m").to_str().unwrap());
        assert_eq!(model_argument("/a/m/"), "/a/m");
        for name in ["org/name", "org/name:Q8_0", "org/name@refs/pr/1", "hf:org/name:a/b.gguf"] {
            assert_eq!(model_argument(name), name);
        }
        // A folder that exists, a file, and paths with too many parts for a repository.
        for path in ["src/commands", "models/tiny.gguf", "a/b/c", "../models", "org/"] {
            let absolute = here.join(path);
            let absolute = absolute.to_str().unwrap().trim_end_matches('/');
            assert_eq!(model_argument(path), absolute, "{path}");
        }
    }
}
