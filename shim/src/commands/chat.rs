//! `chat`: answers one question, or holds a conversation when there is none.

use std::io::{self, IsTerminal};

use ingle_protocol::wire::generate::GenerateParams;

use super::conversation::Conversation;
use super::generate::{answer_once, fill_in, message, no_prompt, params, read_stdin};
use crate::cli::GenerateOptions;
use crate::context::Context;
use crate::output::{Failure, Outcome};

/// Answers one question, or holds a conversation where there is none on a terminal.
pub(crate) async fn chat(
    mut context: Context,
    words: &[String],
    system: Option<String>,
    options: GenerateOptions,
) -> Outcome {
    let is_attended = io::stdin().is_terminal() && context.output.out_is_terminal();
    if words.is_empty() && is_attended && !context.output.json {
        if options.choices.is_some_and(|choices| choices > 1) {
            let message = "--choices cannot be used in a conversation";
            return Err(Failure::usage(message, "Omit --choices, or ask one question."));
        }
        return Conversation::new(context, system, options).run().await;
    }
    let question = if words.is_empty() { read_stdin()? } else { fill_in(words)? };
    if question.trim().is_empty() {
        return Err(no_prompt());
    }
    let messages = system.map(|text| message("system", text)).into_iter();
    let messages = messages.chain([message("user", question)]).collect();
    let params = GenerateParams { messages: Some(messages), ..params(&options) };
    answer_once(&mut context, params, &options).await
}
