//! The process: reads the command line, runs one command and gives its exit code.
//!
//! Owns the runtime, the context of the command, and the report of a panic. Does not know what a
//! command does.

use std::panic;

use clap::Parser;
use ingle_client::paths::Paths;
use ingle_client::{exit, launch};
use ingle_protocol::error::{ErrorBody, ErrorCode};

use crate::cli::Cli;
use crate::commands;
use crate::context::Context;
use crate::output::{Failure, Outcome, Output};

/// Runs the command line of the process and returns the exit code.
pub(crate) fn main() -> u8 {
    // Clap prints its own errors, and exits with its usage code, which is 2 as well.
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
    let context = Context {
        paths: Paths::from_env()?,
        program: launch::daemon_program(),
        output: Output::standard(cli.json),
    };
    // A shim needs one thread only, and a second one would be most of its memory.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let outcome = runtime.block_on(commands::run(context, cli.command));
    // Tasks that still run are dropped, not awaited.
    runtime.shutdown_background();
    outcome
}

fn bug(payload: &(dyn std::any::Any + Send)) -> Failure {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = format!("a bug in ingle: {}", text.unwrap_or("no message"));
    let body = ErrorBody::new(ErrorCode::Internal, message)
        .with_remediation("Report it with the command that caused it.");
    Failure::Error { body: Box::new(body), exit_code: exit::INTERNAL }
}
