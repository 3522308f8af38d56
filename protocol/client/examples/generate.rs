//! Streams one generation: connects to the daemon, and starts it when it is not running.
//!
//! Usage: `cargo run -p ingle-client --example generate -- "Why is the sky blue?"`
//!
//! `ingled` must be in the folder of this program, or on PATH. The default model must be on disk:
//! `ingle pull smollm2` fetches it.

use std::error::Error;
use std::io::{self, Write};

use ingle_client::client::Client;
use ingle_client::launch;
use ingle_client::paths::Paths;
use ingle_protocol::wire::generate::{Generate, GenerateEvent, GenerateParams, Message};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let question = std::env::args().nth(1).unwrap_or_else(|| "Why is the sky blue?".to_owned());

    // The folder ~/.ingle, or the one that INGLE_HOME names.
    let paths = Paths::from_env()?;
    let stream = launch::connect_or_start(&paths, &launch::daemon_program()).await?;
    let client = Client::over(stream).await?;

    let params = GenerateParams {
        messages: Some(vec![Message::new("user", question)]),
        max_tokens: Some(200),
        stream: true,
        ..GenerateParams::default()
    };
    let mut call = client.start::<Generate>(&params, params.class())?;

    // Events come before the reply. Dropping `call` before its reply cancels the generation.
    while let Some(event) = call.event::<GenerateEvent>().await {
        if let GenerateEvent::Delta { text, .. } = event {
            print!("{text}");
            io::stdout().flush()?;
        }
    }
    let result = call.reply().await?;
    println!();
    if let Some(choice) = result.choices.first() {
        eprintln!("{} tokens, {:?}", result.usage.completion_tokens, choice.finish_reason);
    }
    Ok(())
}
