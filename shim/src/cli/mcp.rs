//! Commands and options of `ingle mcp`, other than running the server.
//!
//! Owns names, options and help. Does not know the files of hosts.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::value::duration;
use crate::install::hosts::{Host, Scope};

/// The commands of `ingle mcp`.
#[derive(Debug, Subcommand)]
pub(crate) enum McpCommand {
    /// Add ingle to a host's configuration
    #[command(after_help = "\
Examples:
  ingle mcp install --host claude-desktop
  ingle mcp install --host claude-code --scope project
  ingle mcp install --host zed --host-timeout 300
  ingle mcp install --host vscode --print      show the entry and change nothing

Only the entry is added: other servers, comments, order and layout stay unchanged, and the old file
is kept as `...ingle-backup-1` in the same folder. Running it again changes nothing.

In Claude Code and Zed the tool timeout is set to that of a workflow (see `ingle timeouts`; Zed: 600
s at most). It is not configurable in Claude Desktop, Cursor and VS Code: there a call that takes
longer than a minute continues as a job. --host-timeout sets another time.")]
    Install(InstallOptions),
    /// Remove ingle from a host's configuration
    #[command(after_help = "\
Examples:
  ingle mcp uninstall --host claude-desktop
  ingle mcp uninstall --host cursor --scope project

Removes this one entry. If nothing else has changed since it was added, the file is byte for byte
what it was before.")]
    Uninstall(UninstallOptions),
    /// List the hosts, whether they are on this machine, and whether they have ingle
    #[command(after_help = "\
Examples:
  ingle mcp hosts
  ingle mcp hosts --json | jq -r '.hosts[] | select(.found and .installed == null) | .host'")]
    Hosts,
}

/// The host and its file.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostOptions {
    /// The host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Host,
    /// Only for you, or for all users of this folder
    #[arg(long, value_name = "SCOPE", default_value = "user")]
    pub(crate) scope: Scope,
    /// Name of this server in the host
    #[arg(long, value_name = "NAME", default_value = "ingle", value_parser = server_name)]
    pub(crate) name: String,
    /// Change an entry of that name even if it starts another program
    #[arg(long)]
    pub(crate) force: bool,
}

/// Options of `ingle mcp install`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstallOptions {
    #[command(flatten)]
    pub(crate) host: HostOptions,
    /// The host's timeout for a tool; set in its file where possible
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) host_timeout: Option<Duration>,
    /// Only print the entry for the host's configuration
    #[arg(long)]
    pub(crate) print: bool,
}

/// Options of `ingle mcp uninstall`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UninstallOptions {
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// Reads the name of a server. Hosts build tool names from it: letters, digits, `_` and `-`.
fn server_name(text: &str) -> Result<String, String> {
    let is_fine = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    is_fine
        .then(|| text.to_owned())
        .ok_or_else(|| "only letters, digits, - and _ are allowed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(words: &[&str]) -> Option<(Option<Duration>, Option<McpCommand>)> {
        let words = ["ingle", "mcp"].iter().chain(words);
        match Cli::try_parse_from(words).ok()?.command {
            Command::Mcp { host_timeout, command } => Some((host_timeout, command)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_command_mcp_is_the_proxy() {
        assert!(matches!(parse(&[]), Some((None, None))));
        let half = parse(&["--host-timeout", "0.5"]);
        assert!(matches!(half, Some((Some(timeout), None)) if timeout.as_millis() == 500));
        let install = parse(&["install", "--host", "claude-code", "--host-timeout", "9", "--json"]);
        let Some((_, Some(McpCommand::Install(options)))) = install else { panic!("{install:?}") };
        assert_eq!(options.host_timeout, Some(Duration::from_secs(9)));
        assert_eq!((options.host.host, options.host.name.as_str()), (Host::ClaudeCode, "ingle"));
        for words in [&["hosts"][..], &["--json", "hosts"], &["hosts", "--json"]] {
            assert!(matches!(parse(words), Some((None, Some(McpCommand::Hosts)))), "{words:?}");
        }
        for words in [
            &["install"][..],
            &["install", "--host", "emacs"],
            &["install", "--host", "zed", "--name", "a b"],
            &["help"],
        ] {
            assert!(parse(words).is_none(), "{words:?}");
        }
    }
}
