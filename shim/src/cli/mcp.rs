//! The command line of `ingle mcp`, beside being the proxy.
//!
//! Owns names, options and help. Must not know what a host's file looks like.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::value::duration;
use crate::install::hosts::{Host, Scope};

/// What to do with the hosts of this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum McpCommand {
    /// Add ingle to a host's configuration
    #[command(after_help = "\
Examples:
  ingle mcp install --host claude-desktop
  ingle mcp install --host claude-code --scope project
  ingle mcp install --host zed --host-timeout 300
  ingle mcp install --host vscode --print      show the entry and change nothing

Only the entry is put in: other servers, comments, order and layout stay as they are, and the old
file is kept beside the new one as `...ingle-backup-1`. Doing it again changes nothing.

Claude Code and Zed are told to wait for a tool as long as a workflow may take (see `ingle timeouts`;
Zed for 600 s at most). Claude Desktop, Cursor and VS Code cannot be told: with them, what takes
longer than a minute goes on as a job. --host-timeout says otherwise.")]
    Install(InstallOptions),
    /// Take ingle out of a host's configuration
    #[command(after_help = "\
Examples:
  ingle mcp uninstall --host claude-desktop
  ingle mcp uninstall --host cursor --scope project

Takes out the one entry. If nothing else has changed since it was put in, the file is again what it
was, to the byte.")]
    Uninstall(UninstallOptions),
    /// List the hosts, which are on this machine, and which know ingle
    #[command(after_help = "\
Examples:
  ingle mcp hosts
  ingle mcp hosts --json | jq -r '.hosts[] | select(.found and .installed == null) | .host'")]
    Hosts,
}

/// Which file of which host.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostOptions {
    /// The host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Host,
    /// For you alone, or for who works in this folder
    #[arg(long, value_name = "SCOPE", default_value = "user")]
    pub(crate) scope: Scope,
    /// What the host calls this server
    #[arg(long, value_name = "NAME", default_value = "ingle", value_parser = server_name)]
    pub(crate) name: String,
    /// Work on an entry of that name even if it starts another program
    #[arg(long)]
    pub(crate) force: bool,
}

/// What to add.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstallOptions {
    #[command(flatten)]
    pub(crate) host: HostOptions,
    /// How long the host waits for a tool; it is told too, where it can be
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) host_timeout: Option<Duration>,
    /// Only print what to put into the host's configuration
    #[arg(long)]
    pub(crate) print: bool,
}

/// What to take out.
#[derive(Debug, Clone, Args)]
pub(crate) struct UninstallOptions {
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// Hosts make names of tools from it, and those are of letters, digits, `_` and `-`.
fn server_name(text: &str) -> Result<String, String> {
    let is_fine = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    is_fine.then(|| text.to_owned()).ok_or_else(|| "must be of letters, digits, - and _".to_owned())
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
    fn without_a_command_it_is_the_pump() {
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
