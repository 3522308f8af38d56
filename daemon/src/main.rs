//! The `ingled` binary: reads its command line and hands over to [`ingled::app`].

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Ingle's daemon: keeps language models warm on one engine thread.
#[derive(Debug, Parser)]
#[command(version, after_help = "Usually nobody starts it by hand: `ingle` does when it needs it.")]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Serve the local socket until a signal or `ingle stop`.
    #[command(after_help = "\
Examples:
  ingled serve                           the local sockets; what config.toml says besides
  ingled serve --http 127.0.0.1:11711    OpenAI's API over TCP too

Exit codes: 0 ended as asked, 2 the command line was wrong, 70 the engine died, 73 a file, socket
or port could not be had, 75 another daemon runs, 77 the folder is somebody else's, 78 a setting is
wrong, 80 the engine stood still for `engine.stall_s`.")]
    Serve {
        /// Report readiness on standard output; the launcher holds the start lock.
        #[arg(long, hide = true)]
        launched: bool,
        /// Speak HTTP over TCP there, such as 127.0.0.1:11711; port 0 takes any free one.
        #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
        http: Option<SocketAddr>,
    },
}

fn address(text: &str) -> Result<SocketAddr, String> {
    ingle_http::settings::address(text)
        .ok_or_else(|| "it must be an address and a port, such as 127.0.0.1:11711".to_owned())
}

fn main() -> ExitCode {
    match Cli::parse().command {
        CliCommand::Serve { launched, http } => ingled::app::serve(launched, http),
    }
}
