//! The `ingle` binary: the command line, and the shim that tool hosts and editors spawn.
//!
//! Has no model code, no HTTP and no RPC server: all work is the daemon's. Starting in
//! milliseconds and staying within a few MiB is a feature, so what a proxy does not need must not
//! be touched on its way.

mod app;
mod cli;
mod commands;
mod context;
#[cfg(test)]
mod fake_daemon;
mod history;
mod install;
mod limits;
mod output;
mod progress;
mod proxy;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(app::main())
}
