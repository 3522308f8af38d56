//! `embed`: computes embeddings of texts.

use std::io::{self, IsTerminal};

use ingle_client::exit;
use ingle_protocol::wire::Method;
use ingle_protocol::wire::embed::{Embed, EmbedParams};
use ingle_protocol::wire::models::EngineKind;

use super::generate::read_stdin;
use crate::context::{Context, model_argument};
use crate::output::{Failure, Outcome};

/// Prints the embedding of each text, or of each line of standard input.
pub(crate) async fn embed(
    context: &mut Context,
    texts: Vec<String>,
    model: Option<&str>,
    engine: Option<EngineKind>,
    truncate: bool,
) -> Outcome {
    let input = if texts.is_empty() { lines_of_stdin()? } else { texts };
    let params = EmbedParams {
        model: model.map(model_argument),
        engine,
        input: input.into_iter().map(Into::into).collect(),
        truncate,
        ..EmbedParams::default()
    };
    let client = context.connect().await?;
    let result = client.start::<Embed>(&params, Embed::CLASS)?.reply().await?;
    if context.output.json {
        context.output.json(&result)?;
        return Ok(exit::OK);
    }
    for vector in &result.embeddings {
        let numbers: Vec<String> = vector.iter().map(ToString::to_string).collect();
        context.output.line(&format!("[{}]", numbers.join(",")))?;
    }
    for text in &result.truncated {
        context
            .output
            .note(&format!("note: text {} was truncated to the model's context", text + 1));
    }
    Ok(exit::OK)
}

fn lines_of_stdin() -> Result<Vec<String>, Failure> {
    let none = || {
        Failure::usage(
            "no text was given",
            "Give texts as arguments, or as lines of standard input.",
        )
    };
    if io::stdin().is_terminal() {
        return Err(none());
    }
    let text = read_stdin()?;
    let lines: Vec<String> =
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(none()) } else { Ok(lines) }
}
