//! The `ingled` binary: reads its command line and runs [`ingled::app`].

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Ingle's daemon: keeps language models loaded on one engine thread.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "You rarely need to start it: `ingle` does when it needs a daemon."
)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Serve the local socket until a signal or `ingle stop`.
    #[command(after_help = "\
Examples:
  ingled serve                           the local sockets, and HTTP as config.toml sets it
  ingled serve --http 127.0.0.1:11711    also OpenAI's API over TCP

Exit codes: 0 shut down, 2 invalid command line, 70 the engine failed, 73 a file, socket or port
cannot be opened, 75 another daemon runs, 77 the folder belongs to another user, 78 invalid
configuration, 80 the engine did not respond for `engine.stall_s`.")]
    Serve {
        /// Report readiness on standard output; the launcher holds the start lock.
        #[arg(long, hide = true)]
        launched: bool,
        /// Serve HTTP over TCP at this address, such as 127.0.0.1:11711; port 0 takes any free port.
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
