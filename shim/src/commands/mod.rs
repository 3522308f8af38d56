//! The commands, one file per family.
//!
//! Owns the dispatch. A command takes the [`App`] and gives an exit code or a [`Failure`].
//!
//! [`Failure`]: crate::output::Failure

mod bench;
mod daemon;
mod embed;
mod generate;
mod http;
mod jobs;
mod logs;
mod mcp;
mod models;
mod pump;
mod session;
#[cfg(test)]
mod tests;
mod timeouts;

use ingle_protocol::wire::hello::Role;

use crate::app::App;
use crate::cli::{Command, GenerateOptions};
use crate::output::Outcome;

/// Runs one command.
pub(crate) async fn run(mut app: App, command: Command) -> Outcome {
    match command {
        Command::Mcp { host_timeout, command: None } => {
            pump::run(app, Role::Mcp, Some(host_timeout)).await
        }
        Command::Mcp { command: Some(command), .. } => mcp::run(&mut app, &command),
        Command::Rpc => pump::run(app, Role::Rpc, None).await,
        Command::Chat { prompt, system, thinking, options } => {
            let options = GenerateOptions { thinks: thinking.wish(), ..options };
            generate::chat(app, &prompt, system, options).await
        }
        Command::Complete { prompt, gap, options } => {
            generate::complete(&mut app, prompt.as_deref(), gap, &options).await
        }
        Command::Pull { model, name } => models::pull(&mut app, &model, name).await,
        Command::Models => models::list(&mut app).await,
        Command::Ps => models::ps(&mut app).await,
        Command::Embed { texts, model, engine, truncate } => {
            embed::embed(&mut app, texts, model.as_deref(), engine, truncate).await
        }
        Command::Load(options) => models::load(&mut app, &options).await,
        Command::Unload { model } => models::unload(&mut app, model.as_deref()).await,
        Command::Bench(options) => bench::run(&mut app, &options).await,
        Command::Jobs { command } => jobs::run(&mut app, command).await,
        Command::Status => daemon::status(&mut app).await,
        Command::Http { show_token } => http::run(&mut app, show_token).await,
        Command::Metrics => daemon::metrics(&mut app).await,
        Command::Stop { now } => daemon::stop(&mut app, now).await,
        Command::Restart { now } => daemon::restart(&mut app, now).await,
        Command::Timeouts { class } => timeouts::run(&mut app, class).await,
        Command::Logs { lines, follow } => logs::run(&mut app, lines, follow).await,
    }
}
