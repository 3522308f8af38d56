//! `http`: address and token of the daemon's HTTP API.

use std::fs;

use ingle_client::exit;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::status::Status;
use serde_json::json;

use crate::context::Context;
use crate::output::{Failure, Outcome};

/// Prints the address of the HTTP API. Starts the daemon, because HTTP clients need it.
pub(crate) async fn run(context: &mut Context, show_token: bool) -> Outcome {
    let client = context.connect().await?;
    let http = client.call::<Status>(&NoParams {}).await?.http;
    let token = match &http.token_file {
        Some(file) if show_token => Some(read(file)?),
        _ => None,
    };
    if context.output.json {
        let mut value = json!(http);
        if let Some(token) = token {
            value["token"] = json!(token);
        }
        context.output.json(&value)?;
        return Ok(exit::OK);
    }
    let hint = http.problem.unwrap_or_else(|| {
        format!(
            "Put `listen = \"127.0.0.1:11711\"` under [http] in {}, then run `ingle restart`.",
            context.paths.config_file().display()
        )
    });
    if show_token {
        let Some(url) = &http.url else {
            // A shell evaluates the output, so there is none on failure.
            let message = "there is no token: TCP is off, and the socket needs none";
            let error = ErrorBody::new(ErrorCode::DaemonUnavailable, message);
            return Err(error.with_remediation(hint).into());
        };
        // For a shell's `eval`. OpenAI's SDKs refuse to start without a key, even where none is
        // wanted.
        context.output.line(&format!("export OPENAI_BASE_URL={}", quoted(url)))?;
        let token = token.as_deref().unwrap_or("none");
        context.output.line(&format!("export OPENAI_API_KEY={}", quoted(token)))?;
        return Ok(exit::OK);
    }
    if let Some(socket) = &http.socket {
        context.output.line(&format!("{:<8} {socket}", "socket"))?;
    }
    match &http.url {
        Some(url) => {
            context.output.line(&format!("{:<8} {url}", "url"))?;
            let token = http.token_file.as_deref().unwrap_or("none is needed");
            context.output.line(&format!("{:<8} {token}", "token"))?;
        }
        None => {
            context.output.line(&format!("{:<8} off", "tcp"))?;
            context.output.note(&format!("hint: {hint}"));
        }
    }
    Ok(exit::OK)
}

/// Quotes a value as one word of a shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn read(file: &str) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(|error| {
        let message = format!("cannot read `{file}`: {error}");
        ErrorBody::new(ErrorCode::PermissionDenied, message)
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_one_shell_word() {
        assert_eq!(quoted("http://127.0.0.1:1/v1"), "'http://127.0.0.1:1/v1'");
        assert_eq!(quoted("a'; $(b)"), r"'a'\''; $(b)'");
    }
}
