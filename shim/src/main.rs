//! The `ingle` binary: the command line, and the shim that tool hosts and editors spawn.
//!
//! Holds no model code, no HTTP and no RPC server: all work is the daemon's. Starting in
//! milliseconds and staying within a few MiB is a feature, so what a pump does not need must not be
//! touched on its way.

mod app;
mod cli;
mod commands;
mod envelope;
#[cfg(test)]
mod fake;
mod history;
mod host;
mod install;
mod link;
mod output;
mod pending;
mod progress;
mod pump;
mod session;
mod stdio;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(app::main())
}
