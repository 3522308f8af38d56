//! The hosts: where each keeps its servers, in what form, and how long it waits for a tool.
//!
//! Owns what is known of other programs' settings. Pure: environment and working folder are given.
//! Must not know how a file is changed.
//!
//! How long a host waits for one `tools/call`, and where that is set (looked up in autumn 2026):
//!
//! - Claude Desktop: 60 s in some versions, about 240 s in others; no setting (`timeout` in the file
//!   is ignored).
//! - Claude Code: `timeout` of the server in milliseconds, a limit of the wall clock that progress
//!   does not extend, and below which it never gives up for silence; values under 1000 are ignored.
//!   Without it `MCP_TOOL_TIMEOUT` holds, about 28 hours if unset.
//! - Cursor: undocumented, about 60 s; no setting.
//! - Zed: `timeout` of the server in seconds, 600 at most; 60 without it.
//! - VS Code: none documented (five minutes in some versions of 2025); no setting.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::edit::Form;

/// How long the proxy takes a host to wait when it is not told.
pub(crate) const DEFAULT_HOST_TIMEOUT: Duration = Duration::from_secs(60);

/// A program that spawns MCP servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Host {
    /// Claude Desktop
    ClaudeDesktop,
    /// Claude Code
    ClaudeCode,
    /// Cursor
    Cursor,
    /// Zed
    Zed,
    /// Visual Studio Code
    Vscode,
}

/// For whom a host learns of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    /// For you, in every project
    #[default]
    User,
    /// For who works in this folder
    Project,
}

/// Whether a host can be told how long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It cannot.
    Fixed,
    /// In milliseconds, from the first number on.
    Milliseconds(u64),
    /// In whole seconds, up to the number.
    Seconds(u64),
}

/// What decides where files lie.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// The user's home folder.
    pub(crate) home: PathBuf,
    /// The folder the command was started in.
    pub(crate) here: PathBuf,
    /// `XDG_CONFIG_HOME`, where it is an absolute path.
    pub(crate) xdg_config_home: Option<PathBuf>,
    /// `CLAUDE_CONFIG_DIR`, where it is an absolute path.
    pub(crate) claude_config_dir: Option<PathBuf>,
    /// Whether this is macOS.
    pub(crate) is_mac: bool,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_process() -> Option<Self> {
        let absolute = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        Some(Self {
            home: std::env::home_dir().filter(|home| home.is_absolute())?,
            here: std::env::current_dir().ok()?,
            xdg_config_home: absolute("XDG_CONFIG_HOME"),
            claude_config_dir: absolute("CLAUDE_CONFIG_DIR"),
            is_mac: cfg!(target_os = "macos"),
        })
    }

    fn config(&self) -> PathBuf {
        self.xdg_config_home.clone().unwrap_or_else(|| self.home.join(".config"))
    }

    /// Where programs with a window keep their settings.
    fn application_support(&self) -> PathBuf {
        if self.is_mac { self.home.join("Library/Application Support") } else { self.config() }
    }
}

impl Host {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::ClaudeDesktop, Self::ClaudeCode, Self::Cursor, Self::Zed, Self::Vscode];

    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "claude-desktop",
            Self::ClaudeCode => "claude-code",
            Self::Cursor => "cursor",
            Self::Zed => "zed",
            Self::Vscode => "vscode",
        }
    }

    /// As it calls itself.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "Claude Desktop",
            Self::ClaudeCode => "Claude Code",
            Self::Cursor => "Cursor",
            Self::Zed => "Zed",
            Self::Vscode => "VS Code",
        }
    }

    /// What it calls its map of servers.
    pub(crate) fn servers(self) -> &'static str {
        match self {
            Self::ClaudeDesktop | Self::ClaudeCode | Self::Cursor => "mcpServers",
            Self::Zed => "context_servers",
            Self::Vscode => "servers",
        }
    }

    /// Whether it can be told how long to wait for a tool.
    pub(crate) fn patience(self) -> Patience {
        match self {
            Self::ClaudeCode => Patience::Milliseconds(1_000),
            Self::Zed => Patience::Seconds(600),
            Self::ClaudeDesktop | Self::Cursor | Self::Vscode => Patience::Fixed,
        }
    }

    /// The file that holds its servers. `None` where it has none of that scope.
    pub(crate) fn file(self, scope: Scope, around: &Surroundings) -> Option<PathBuf> {
        let project = |path: &str| around.here.join(path);
        Some(match (self, scope) {
            (Self::ClaudeDesktop, Scope::User) => {
                around.application_support().join("Claude/claude_desktop_config.json")
            }
            (Self::ClaudeDesktop, Scope::Project) => return None,
            (Self::ClaudeCode, Scope::User) => {
                around.claude_config_dir.as_ref().unwrap_or(&around.home).join(".claude.json")
            }
            (Self::ClaudeCode, Scope::Project) => project(".mcp.json"),
            (Self::Cursor, Scope::User) => around.home.join(".cursor/mcp.json"),
            (Self::Cursor, Scope::Project) => project(".cursor/mcp.json"),
            (Self::Zed, Scope::User) if around.is_mac => {
                around.home.join(".config/zed/settings.json")
            }
            (Self::Zed, Scope::User) => around.config().join("zed/settings.json"),
            (Self::Zed, Scope::Project) => project(".zed/settings.json"),
            (Self::Vscode, Scope::User) => around.application_support().join("Code/User/mcp.json"),
            (Self::Vscode, Scope::Project) => project(".vscode/mcp.json"),
        })
    }

    /// Files and folders of which one is there once the host has run.
    pub(crate) fn traces(self, around: &Surroundings) -> Vec<PathBuf> {
        let Some(file) = self.file(Scope::User, around) else { return Vec::new() };
        match self {
            // Its file lies among everybody's; its folder is its own.
            Self::ClaudeCode => vec![file, around.home.join(".claude")],
            _ => file.parent().map(Path::to_owned).into_iter().collect(),
        }
    }

    /// How long it will wait for a tool, of what is wanted: `None` stands for nothing in
    /// particular, where `longest` is as much as a tool can use.
    ///
    /// # Errors
    /// What is wrong with `wanted`.
    pub(crate) fn timeout(
        self,
        wanted: Option<Duration>,
        longest: Duration,
    ) -> Result<Duration, String> {
        match (self.patience(), wanted) {
            (Patience::Fixed, wanted) => Ok(wanted.unwrap_or(DEFAULT_HOST_TIMEOUT)),
            (Patience::Milliseconds(least), wanted) => {
                let wanted = wanted.unwrap_or(longest);
                let is_fine = wanted >= Duration::from_millis(least);
                let complaint = || format!("{} ignores less than {least} ms", self.title());
                is_fine.then_some(wanted).ok_or_else(complaint)
            }
            (Patience::Seconds(most), None) => {
                Ok(Duration::from_secs(longest.as_secs().clamp(1, most)))
            }
            (Patience::Seconds(most), Some(wanted)) => {
                let is_fine = wanted.subsec_nanos() == 0 && (1..=most).contains(&wanted.as_secs());
                let complaint = || format!("{} takes whole seconds from 1 to {most}", self.title());
                is_fine.then_some(wanted).ok_or_else(complaint)
            }
        }
    }
}

/// A server as it stands in a host's file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// What the host calls it.
    pub(crate) name: String,
    /// Its members, in order.
    pub(crate) members: Vec<(String, Value)>,
}

impl Entry {
    /// The entry that starts `program` as the proxy of a host that waits for `timeout`, with these
    /// variables in its environment.
    pub(crate) fn new(
        host: Host,
        name: &str,
        program: &str,
        timeout: Duration,
        env: &[(String, String)],
    ) -> Self {
        let mut args = vec!["mcp".to_owned()];
        if timeout != DEFAULT_HOST_TIMEOUT {
            args.extend(["--host-timeout".to_owned(), timeout.as_secs_f64().to_string()]);
        }
        let mut members: Vec<(&str, Value)> = Vec::new();
        if matches!(host, Host::ClaudeCode | Host::Vscode) {
            members.push(("type", json!("stdio")));
        }
        members.extend([("command", json!(program)), ("args", json!(args))]);
        if !env.is_empty() {
            let env = env.iter().map(|(name, value)| (name.clone(), json!(value)));
            members.push(("env", Value::Object(env.collect())));
        }
        match host.patience() {
            Patience::Fixed => {}
            Patience::Milliseconds(_) => {
                let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                members.push(("timeout", json!(ms)));
            }
            Patience::Seconds(_) => members.push(("timeout", json!(timeout.as_secs()))),
        }
        let members = members.into_iter().map(|(key, value)| (key.to_owned(), value));
        Self { name: name.to_owned(), members: members.collect() }
    }

    /// As it is written.
    pub(crate) fn form(&self) -> Form {
        let members = self.members.iter();
        Form::Object(members.map(|(key, value)| (key.clone(), Form::Flat(value.clone()))).collect())
    }

    /// As a value.
    pub(crate) fn value(&self) -> Value {
        Value::Object(self.members.iter().cloned().collect::<Map<_, _>>())
    }
}

/// The variables that `ingle` itself reads, which an entry sets or leaves out.
pub(crate) const OUR_VARIABLES: [&str; 2] = ["INGLE_HOME", "INGLE_SOCKET"];

/// Variables that stood in an entry, with ours as they are now.
pub(super) fn merge_env(old: &Value, new: &Value) -> Value {
    let Value::Object(old) = old else { return new.clone() };
    let mut merged = old.clone();
    merged.retain(|name, _| !OUR_VARIABLES.contains(&name.as_str()));
    if let Value::Object(new) = new {
        merged.extend(new.clone());
    }
    Value::Object(merged)
}

/// What an entry starts.
pub(crate) fn command_of(entry: &Value) -> String {
    let command = entry["command"].as_str().or_else(|| entry["url"].as_str());
    command.unwrap_or("nothing that is named").to_owned()
}

/// Whether an entry starts some `ingle mcp`.
pub(crate) fn is_ours(entry: &Value) -> bool {
    let command = entry["command"].as_str().map(|command| Path::new(command).file_name());
    command.flatten() == Some(OsStr::new("ingle")) && entry["args"][0] == "mcp"
}
