//! The commands, one file per family.
//!
//! Owns the dispatch. A command takes the [`Context`] and returns an exit code or a [`Failure`].
//!
//! [`Failure`]: crate::output::Failure

mod bench;
mod chat;
mod complete;
mod conversation;
mod daemon;
mod embed;
mod generate;
mod http;
mod jobs;
mod logs;
mod mcp;
mod models;
mod proxy;
#[cfg(test)]
mod tests;
mod timeouts;

use ingle_protocol::wire::hello::Role;

use crate::cli::{Command, GenerateOptions};
use crate::context::Context;
use crate::install::hosts::DEFAULT_HOST_TIMEOUT;
use crate::output::{Failure, Outcome};

/// Runs one command.
pub(crate) async fn run(mut context: Context, command: Command) -> Outcome {
    match command {
        Command::Mcp { host_timeout, command: None } => {
            let host_timeout = host_timeout.unwrap_or(DEFAULT_HOST_TIMEOUT);
            proxy::run(context, Role::Mcp, Some(host_timeout)).await
        }
        Command::Mcp { host_timeout: Some(_), command: Some(_) } => Err(Failure::usage(
            "--host-timeout before a command applies to the server only",
            "Write it after `install`.",
        )),
        Command::Mcp { command: Some(command), .. } => mcp::run(&mut context, &command),
        Command::Rpc => proxy::run(context, Role::Rpc, None).await,
        Command::Chat { prompt, system, thinking, options } => {
            let options = GenerateOptions { thinks: thinking.wish(), ..options };
            chat::chat(context, &prompt, system, options).await
        }
        Command::Complete { prompt, gap, options } => {
            complete::complete(&mut context, prompt.as_deref(), gap, &options).await
        }
        Command::Pull { model, name } => models::pull(&mut context, &model, name).await,
        Command::Models => models::list(&mut context).await,
        Command::Ps => models::ps(&mut context).await,
        Command::Embed { texts, model, engine, truncate } => {
            embed::embed(&mut context, texts, model.as_deref(), engine, truncate).await
        }
        Command::Load(options) => models::load(&mut context, &options).await,
        Command::Unload { model } => models::unload(&mut context, model.as_deref()).await,
        Command::Bench(options) => bench::run(&mut context, &options).await,
        Command::Jobs { command } => jobs::run(&mut context, command).await,
        Command::Status => daemon::status(&mut context).await,
        Command::Http { show_token } => http::run(&mut context, show_token).await,
        Command::Metrics => daemon::metrics(&mut context).await,
        Command::Stop { now } => daemon::stop(&mut context, now).await,
        Command::Restart { now } => daemon::restart(&mut context, now).await,
        Command::Timeouts { class } => timeouts::run(&mut context, class).await,
        Command::Logs { lines, follow } => logs::run(&mut context, lines, follow).await,
    }
}
