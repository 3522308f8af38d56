//! The MCP tools: class of each, whether it changes state, and the next step after an error.
//!
//! Owns this table and the wording of errors for a model, which has tools and no terminal: daemon
//! and shim must agree on both. Knows no arguments or results; the daemon's `mcp` does.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::error::{ErrorBody, ErrorCode};
use crate::timeouts::{Class, Layer};

/// An entry of the table of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolKind {
    /// Its name.
    pub name: &'static str,
    /// The class whose ladder bounds a call.
    pub class: Class,
    /// Whether a call changes state, so that repeating it may do harm.
    pub changes_state: bool,
}

const fn reads(name: &'static str, class: Class) -> ToolKind {
    ToolKind { name, class, changes_state: false }
}

const fn changes(name: &'static str, class: Class) -> ToolKind {
    ToolKind { name, class, changes_state: true }
}

/// Every tool of this build.
pub const TOOLS: &[ToolKind] = &[
    reads("chat", Class::Workflow),
    reads("generate", Class::Workflow),
    reads("complete_code", Class::Workflow),
    reads("embed", Class::Workflow),
    reads("count_tokens", Class::Simple),
    reads("list_models", Class::Simple),
    changes("load_model", Class::Workflow),
    changes("unload_model", Class::Simple),
    reads("server_status", Class::Simple),
    reads("job_wait", Class::Workflow),
    reads("job_get", Class::Simple),
    reads("job_list", Class::Simple),
    changes("job_cancel", Class::Simple),
];

/// The tool of that name. An unknown one has the default class and counts as changing state.
#[must_use]
pub fn tool(name: &str) -> ToolKind {
    let known = TOOLS.iter().copied().find(|tool| tool.name == name);
    known.unwrap_or(ToolKind { name: "", class: Class::Workflow, changes_state: true })
}

/// The class of a call of `embed` with this number of texts: a single one is quick.
#[must_use]
pub const fn embed_class(texts: usize) -> Class {
    if texts == 1 { Class::Simple } else { Class::Workflow }
}

/// The error object of the JSON-RPC reply to a tool call. Many hosts show a model the message only,
/// so it includes the next step; `data` is the same as for other clients.
#[must_use]
pub fn rpc_error(error: &ErrorBody) -> Value {
    let mut reply = error.to_rpc();
    reply["message"] = json!(sentence(&error.message, &next_step(error)));
    reply
}

/// Problem and next step in one text, for hosts that show only the message.
#[must_use]
pub fn sentence(message: &str, next: &str) -> String {
    format!("{}. {next}", message.trim_end_matches('.'))
}

/// The next step after an error, in terms of tools. A remediation that is not the default stays
/// unchanged.
#[must_use]
pub fn next_step(error: &ErrorBody) -> Cow<'_, str> {
    use ErrorCode as Code;
    let details = &error.details;
    if error.code == Code::ModelNotFound {
        // The default text, and the one for a name that was nearly right, name commands.
        if let Some(near) = details["suggestion"].as_str().filter(|_| details["can_pull"] != true) {
            let next = format!("Did you mean `{near}`? Call list_models to see what is here.");
            return next.into();
        }
        if let (Some(name), true) = (details["model"].as_str(), details["can_pull"] == true) {
            let next = format!(
                "Call list_models to see what is here, or ask the user to run `ingle pull {name}`."
            );
            return next.into();
        }
    }
    if let Some(next) = error.own_remediation() {
        return next.into();
    }
    let layer = &details["layer"];
    let is_layer = |known: Layer| *layer == known.as_str();
    let next = match error.code {
        Code::Timeout if is_layer(Layer::Daemon) => {
            "The engine was busy with other work or did not answer. Call server_status to see what \
             it does, then call the tool again."
        }
        Code::Timeout if is_layer(Layer::Shim) => {
            "The model server did not answer in time. Call server_status to see what it does, then \
             call the tool again; if nothing answers, ask the user to look at Ingle."
        }
        Code::Timeout => {
            "Ask for fewer tokens or use a smaller model; the user can raise the timeout \
             (`ingle timeouts` shows it)."
        }
        Code::Overloaded => match details["retry_after_ms"].as_u64() {
            Some(ms) => return format!("Wait {ms} ms, then call the tool again.").into(),
            None => "Wait a little, then call the tool again.",
        },
        Code::Cancelled | Code::Interrupted => {
            "Call the tool again with the same arguments if the result is still wanted."
        }
        Code::ModelNotFound => {
            "Call list_models to see what is here. The user can fetch a model with `ingle pull`."
        }
        Code::ModelCrashed => "Use another model; list_models shows which there are.",
        Code::JobNotFound => "Call job_list to see the jobs there are; old ones are cleaned up.",
        Code::InsufficientMemory => {
            "Unload a model with unload_model, use a smaller one, or ask for fewer tokens; the user \
             can raise `memory.budget` in Ingle's config.toml."
        }
        Code::FrameTooLarge => "Call the tool again with less.",
        Code::EngineFailed => "Call the tool again; if it fails again, use another model.",
        Code::EngineStalled | Code::DaemonLost | Code::ShuttingDown => {
            "Call the tool again: the model server is started when it is needed."
        }
        Code::DaemonUnavailable => {
            "Ask the user to run `ingle status`, then `ingle logs`, to see why the model server \
             does not run."
        }
        Code::VersionSkew => {
            "Ask the user to run `ingle stop`; the next call starts the server that fits."
        }
        Code::Internal => {
            "Call the tool again; if it fails again, ask the user to look at `ingle logs`."
        }
        _ => return error.remediation().into(),
    };
    next.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_steps_name_no_command_for_the_model() {
        let plain = ErrorCode::ALL.iter().map(|code| ErrorBody::new(*code, "it failed"));
        let layers = [Layer::Work, Layer::Daemon, Layer::Shim];
        let timeouts = layers.map(|layer| ErrorBody::timeout("it", layer, 1, 2));
        for error in plain.chain(timeouts) {
            let next = next_step(&error);
            // Only the user can run commands in a terminal.
            let is_for_user = !next.contains("`ingle ") || next.to_lowercase().contains("user");
            // No tool pulls models, or changes files and settings.
            let is_foreign = matches!(
                error.code,
                ErrorCode::Unauthorized | ErrorCode::PullFailed | ErrorCode::PermissionDenied
            );
            assert!(is_for_user || is_foreign, "{}: {next}", error.code.as_str());
            assert!(next.ends_with('.') && !next.contains("--now"), "{next}");
            let reply = rpc_error(&error);
            assert_eq!(reply["message"], format!("{}. {next}", error.message));
            assert_eq!(reply["data"], error.rpc_data());
        }
    }

    #[test]
    fn precise_remediations_are_kept() {
        let full = ErrorBody::overloaded("full");
        assert!(next_step(&full).contains(&format!("{} ms", full.details["retry_after_ms"])));
        let own = ErrorBody::new(ErrorCode::Cancelled, "no").with_remediation("Do this.");
        assert_eq!(next_step(&own), "Do this.");
        let missing = |details| {
            let error = ErrorBody::new(ErrorCode::ModelNotFound, "no").with_details(details);
            next_step(&error.with_remediation("Run `ingle pull smol`.")).into_owned()
        };
        let pull = json!({ "model": "smol", "suggestion": null, "can_pull": true });
        assert!(missing(pull).contains("user to run `ingle pull smol`"));
        let near = json!({ "model": "smo", "suggestion": "smol", "can_pull": false });
        assert!(missing(near).starts_with("Did you mean `smol`? Call list_models"));
    }
}
