//! Generation for the commands that generate: parameters, streaming to the terminal, statistics.
//!
//! Owns reading a prompt from arguments and standard input. Does not know conversations.

use std::io::{self, Read};

use ingle_client::client::Client;
use ingle_client::exit;
use ingle_protocol::deadline::Budget;
use ingle_protocol::limits;
use ingle_protocol::wire::generate::{
    FinishReason, Generate, GenerateEvent, GenerateParams, GenerateResult, Message,
};
use serde_json::Value;

use super::models::pull_if_missing;
use crate::cli::GenerateOptions;
use crate::context::{Context, model_argument};
use crate::output::{self, Failure, Outcome, Output};
use crate::progress::Progress;

/// The variable of chat templates that switches reasoning on and off.
const ENABLE_THINKING: &str = "enable_thinking";

/// Generates once and prints the answer; offers to fetch a model that is missing.
pub(super) async fn answer_once(
    context: &mut Context,
    params: GenerateParams,
    options: &GenerateOptions,
) -> Outcome {
    let client = context.connect().await?;
    let mut text = String::new();
    let mut result = generate(&mut context.output, &client, &params, &mut text).await;
    if let Err(failure) = result {
        end_line(&mut context.output, &text)?;
        pull_if_missing(context, &client, failure, params.model.as_deref(), options.yes).await?;
        text.clear();
        result = generate(&mut context.output, &client, &params, &mut text).await;
        if result.is_err() {
            end_line(&mut context.output, &text)?;
        }
    }
    let result = result?;
    if context.output.json {
        context.output.json(&result)?;
    } else if result.choices.len() > 1 {
        choices(&mut context.output, &result)?;
    } else {
        end_answer(&mut context.output, &result, &text)?;
    }
    if options.stats {
        context.output.note(&stats(&result));
    }
    Ok(exit::OK)
}

/// Ends an incomplete line of an answer, before other output.
pub(crate) fn end_line(output: &mut Output, text: &str) -> Result<(), Failure> {
    let is_half = !output.json && !text.is_empty() && !text.ends_with('\n');
    if is_half { output.line("") } else { Ok(()) }
}

/// Generates, prints the text as it comes, and also appends it to `text`. Prints nothing with
/// `--json`, nor for several choices, which would come interleaved.
pub(crate) async fn generate(
    output: &mut Output,
    client: &Client,
    params: &GenerateParams,
    text: &mut String,
) -> Result<GenerateResult, Failure> {
    // Events are for a person; a script that reads one object needs none.
    let is_shown = !output.json && params.choices() == 1;
    let params = GenerateParams { stream: is_shown || output.is_watched(), ..params.clone() };
    let mut call = client.start::<Generate>(&params, params.class())?;
    let mut progress = Progress::new();
    let mut pieces = 0;
    // Reasoning is shown on a terminal only, and is not part of the answer.
    let mut reasoning = String::new();
    while let Some(event) = call.event::<GenerateEvent>().await {
        match event {
            GenerateEvent::Queued { position: 0 } => progress.say("queued", "next"),
            GenerateEvent::Queued { position } => {
                progress.say("queued", &format!("behind {position}"));
            }
            GenerateEvent::Loading { fraction } => progress.share("loading", fraction),
            GenerateEvent::Prefill { done_tokens, total_tokens } => {
                progress.tokens("prefill", done_tokens, total_tokens);
            }
            GenerateEvent::Reasoning { text, .. } if is_shown && output.is_watched() => {
                progress.clear();
                reasoning.push_str(&text);
                output.aside(&text);
            }
            GenerateEvent::Delta { text: delta, .. } if is_shown => {
                progress.clear();
                end_reasoning(output, &mut reasoning);
                text.push_str(&delta);
                output.text(&delta)?;
            }
            GenerateEvent::Reasoning { .. } => progress.say("reasoning", ""),
            GenerateEvent::ToolCall { .. } | GenerateEvent::Delta { .. } => {
                pieces += 1;
                progress.say("generating", &format!("{pieces} pieces"));
            }
        }
    }
    progress.clear();
    end_reasoning(output, &mut reasoning);
    Ok(call.reply().await?)
}

/// Prints an empty line between reasoning and further output.
fn end_reasoning(output: &mut Output, reasoning: &mut String) {
    if !std::mem::take(reasoning).is_empty() {
        output.aside("\n\n");
    }
}

/// Prints several choices, each under a heading.
fn choices(output: &mut Output, result: &GenerateResult) -> Result<(), Failure> {
    let all = &result.choices;
    for (index, choice) in all.iter().enumerate() {
        output.line(&format!("--- {} of {}, seed {} ---", index + 1, all.len(), choice.seed))?;
        output.line(choice.text.trim_end_matches('\n'))?;
    }
    Ok(())
}

/// Ends the line of an answer, and notes when it was cut off.
pub(crate) fn end_answer(
    output: &mut Output,
    result: &GenerateResult,
    text: &str,
) -> Result<(), Failure> {
    if !text.ends_with('\n') {
        output.line("")?;
    }
    if result.first().finish_reason == FinishReason::Length && output.is_watched() {
        output.note(&format!(
            "note: cut off after {} tokens; raise --max-tokens for more",
            result.usage.completion_tokens
        ));
    }
    Ok(())
}

/// Timings in one line.
pub(crate) fn stats(result: &GenerateResult) -> String {
    let (usage, timings) = (&result.usage, &result.timings);
    format!(
        "{}: {} + {} tokens in {}; queue {}, load {}, first token {}; prompt {:.1} tok/s, decode \
         {:.1} tok/s; seed {}",
        result.model,
        usage.prompt_tokens,
        usage.completion_tokens,
        output::milliseconds(timings.total_ms),
        output::milliseconds(timings.queue_ms),
        output::milliseconds(timings.load_ms),
        output::milliseconds(timings.ttft_ms),
        timings.prefill_tokens_per_s,
        timings.decode_tokens_per_s,
        result.first().seed
    )
}

/// The parameters for the options.
pub(crate) fn params(options: &GenerateOptions) -> GenerateParams {
    let work_ms = |timeout: std::time::Duration| timeout.as_millis().try_into().unwrap_or(u64::MAX);
    GenerateParams {
        model: options.model.as_deref().map(model_argument),
        engine: options.engine,
        max_tokens: options.max_tokens,
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
        repetition_penalty: options.repetition_penalty,
        repetition_window: options.repetition_window,
        frequency_penalty: options.frequency_penalty,
        presence_penalty: options.presence_penalty,
        logit_bias: options.logit_bias.iter().copied().collect(),
        n: options.choices,
        seed: options.seed,
        logprobs: options.logprobs,
        top_logprobs: options.top_logprobs,
        stop: options.stop.clone(),
        format: options.format.response_format(),
        template_options: options
            .thinks
            .map(|thinks| (ENABLE_THINKING.to_owned(), Value::Bool(thinks)))
            .into_iter()
            .collect(),
        budget: options
            .timeout
            .map(|timeout| Budget { work_ms: Some(work_ms(timeout)), remaining_ms: None }),
        ..GenerateParams::default()
    }
}

/// One message of a conversation.
pub(crate) fn message(role: &str, content: String) -> Message {
    Message::new(role, content)
}

/// Joins the words of a question, with standard input in place of a lone `-`.
pub(crate) fn fill_in(words: &[String]) -> Result<String, Failure> {
    let mut filled = Vec::with_capacity(words.len());
    for word in words {
        filled.push(if word == "-" { read_stdin()? } else { word.clone() });
    }
    Ok(filled.join(" "))
}

/// Reads standard input as text, up to the frame limit.
pub(crate) fn read_stdin() -> Result<String, Failure> {
    let limit = limits::FRAME_BYTES as u64;
    let mut bytes = Vec::new();
    io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == limit {
        let message = format!("standard input is over {limit} bytes");
        return Err(Failure::usage(message, "Give less text."));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage("standard input is not UTF-8 text", "Give the prompt as UTF-8 text.")
    })
}

/// The failure of a command that was given no prompt.
pub(super) fn no_prompt() -> Failure {
    Failure::usage(
        "no prompt was given",
        "Give it as an argument, or on standard input; `ingle chat` on a terminal is a conversation.",
    )
}
