//! Tool hosts: the file, format and tool timeout of each.
//!
//! Owns the knowledge of other programs' settings. Pure: environment and working folder are
//! arguments. Does not know how a file is changed.
//!
//! The timeout of each host for one `tools/call`, and its setting (as of autumn 2026):
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

use super::edit::JsonText;

/// The host's timeout that the proxy assumes when none is given.
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

/// The scope of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    /// For you, in every project
    #[default]
    User,
    /// For all users of this folder
    Project,
}

/// How a host's tool timeout is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeoutSetting {
    /// It is not configurable.
    Fixed,
    /// In milliseconds, with a minimum.
    Milliseconds(u64),
    /// In whole seconds, with a maximum.
    Seconds(u64),
}

/// The environment that determines the paths of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// The user's home folder.
    pub(crate) home: PathBuf,
    /// The working folder.
    pub(crate) here: PathBuf,
    /// `XDG_CONFIG_HOME`, where it is an absolute path.
    pub(crate) xdg_config_home: Option<PathBuf>,
    /// `CLAUDE_CONFIG_DIR`, where it is an absolute path.
    pub(crate) claude_config_dir: Option<PathBuf>,
    /// Whether this is macOS.
    pub(crate) is_mac: bool,
}

impl Environment {
    /// The environment of this process.
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

    /// The settings folder of graphical programs.
    fn application_support(&self) -> PathBuf {
        if self.is_mac { self.home.join("Library/Application Support") } else { self.config() }
    }
}

impl Host {
    /// All hosts.
    pub(crate) const ALL: [Self; 5] =
        [Self::ClaudeDesktop, Self::ClaudeCode, Self::Cursor, Self::Zed, Self::Vscode];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "claude-desktop",
            Self::ClaudeCode => "claude-code",
            Self::Cursor => "cursor",
            Self::Zed => "zed",
            Self::Vscode => "vscode",
        }
    }

    /// The name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "Claude Desktop",
            Self::ClaudeCode => "Claude Code",
            Self::Cursor => "Cursor",
            Self::Zed => "Zed",
            Self::Vscode => "VS Code",
        }
    }

    /// The key of its map of servers.
    pub(crate) fn servers(self) -> &'static str {
        match self {
            Self::ClaudeDesktop | Self::ClaudeCode | Self::Cursor => "mcpServers",
            Self::Zed => "context_servers",
            Self::Vscode => "servers",
        }
    }

    /// How its tool timeout is set.
    pub(crate) fn timeout_setting(self) -> TimeoutSetting {
        match self {
            Self::ClaudeCode => TimeoutSetting::Milliseconds(1_000),
            Self::Zed => TimeoutSetting::Seconds(600),
            Self::ClaudeDesktop | Self::Cursor | Self::Vscode => TimeoutSetting::Fixed,
        }
    }

    /// The file with its servers. `None` where it has none of this scope.
    pub(crate) fn file(self, scope: Scope, around: &Environment) -> Option<PathBuf> {
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

    /// Files and folders of which one exists once the host has run.
    pub(crate) fn traces(self, around: &Environment) -> Vec<PathBuf> {
        let Some(file) = self.file(Scope::User, around) else { return Vec::new() };
        match self {
            // Its file is directly in the home folder; its folder is its own.
            Self::ClaudeCode => vec![file, around.home.join(".claude")],
            _ => file.parent().map(Path::to_owned).into_iter().collect(),
        }
    }

    /// The tool timeout to set, for a wanted one; without it the longest that is useful and
    /// allowed, where `longest` is the most that a tool can use.
    ///
    /// # Errors
    /// The problem with `wanted`.
    pub(crate) fn timeout(
        self,
        wanted: Option<Duration>,
        longest: Duration,
    ) -> Result<Duration, String> {
        match (self.timeout_setting(), wanted) {
            (TimeoutSetting::Fixed, wanted) => Ok(wanted.unwrap_or(DEFAULT_HOST_TIMEOUT)),
            (TimeoutSetting::Milliseconds(least), wanted) => {
                let wanted = wanted.unwrap_or(longest);
                let is_fine = wanted >= Duration::from_millis(least);
                let complaint = || format!("{} ignores less than {least} ms", self.title());
                is_fine.then_some(wanted).ok_or_else(complaint)
            }
            (TimeoutSetting::Seconds(most), None) => {
                Ok(Duration::from_secs(longest.as_secs().clamp(1, most)))
            }
            (TimeoutSetting::Seconds(most), Some(wanted)) => {
                let is_fine = wanted.subsec_nanos() == 0 && (1..=most).contains(&wanted.as_secs());
                let complaint = || format!("{} takes whole seconds from 1 to {most}", self.title());
                is_fine.then_some(wanted).ok_or_else(complaint)
            }
        }
    }
}

/// The entry of a server in a host's file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServerEntry {
    /// Its name in the host.
    pub(crate) name: String,
    /// Its fields, in order.
    pub(crate) fields: Vec<(String, Value)>,
}

impl ServerEntry {
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
        let mut fields: Vec<(&str, Value)> = Vec::new();
        if matches!(host, Host::ClaudeCode | Host::Vscode) {
            fields.push(("type", json!("stdio")));
        }
        fields.extend([("command", json!(program)), ("args", json!(args))]);
        if !env.is_empty() {
            let env = env.iter().map(|(name, value)| (name.clone(), json!(value)));
            fields.push(("env", Value::Object(env.collect())));
        }
        match host.timeout_setting() {
            TimeoutSetting::Fixed => {}
            TimeoutSetting::Milliseconds(_) => {
                let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                fields.push(("timeout", json!(ms)));
            }
            TimeoutSetting::Seconds(_) => fields.push(("timeout", json!(timeout.as_secs()))),
        }
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value));
        Self { name: name.to_owned(), fields: fields.collect() }
    }

    /// The entry as text to write.
    pub(crate) fn json_text(&self) -> JsonText {
        let fields = self.fields.iter();
        JsonText::Object(
            fields.map(|(key, value)| (key.clone(), JsonText::Flat(value.clone()))).collect(),
        )
    }

    /// The entry as a value.
    pub(crate) fn value(&self) -> Value {
        Value::Object(self.fields.iter().cloned().collect::<Map<_, _>>())
    }
}

/// The variables of `ingle` itself, which an entry sets or omits.
pub(crate) const OUR_VARIABLES: [&str; 2] = ["INGLE_HOME", "INGLE_SOCKET"];

/// Merges the present variables of an entry with our new ones.
pub(super) fn merge_env(old: &Value, new: &Value) -> Value {
    let Value::Object(old) = old else { return new.clone() };
    let mut merged = old.clone();
    merged.retain(|name, _| !OUR_VARIABLES.contains(&name.as_str()));
    if let Value::Object(new) = new {
        merged.extend(new.clone());
    }
    Value::Object(merged)
}

/// The program that an entry starts.
pub(crate) fn command_of(entry: &Value) -> String {
    let command = entry["command"].as_str().or_else(|| entry["url"].as_str());
    command.unwrap_or("nothing").to_owned()
}

/// Whether an entry starts an `ingle mcp`.
pub(crate) fn is_ours(entry: &Value) -> bool {
    let command = entry["command"].as_str().map(|command| Path::new(command).file_name());
    command.flatten() == Some(OsStr::new("ingle")) && entry["args"][0] == "mcp"
}
