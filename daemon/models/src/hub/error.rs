//! What can go wrong between here and Hugging Face, and what to do about it.
//!
//! Owns the errors of the hub and their one mapping to the protocol's list. None of them quotes a
//! token, or an address with a signature in it.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::json;

use crate::error::listed;

/// Why nothing came from the hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// This build has no HTTP client.
    #[error("this build of ingled does not fetch from Hugging Face")]
    Disabled,
    /// The address is none.
    #[error("`{endpoint}` is not the address of a Hugging Face hub")]
    Endpoint {
        /// What is set.
        endpoint: String,
    },
    /// The hub wants to know who asks, or does not let them.
    #[error("Hugging Face does not give `{repo}` to {} (HTTP {status})", who(*has_token))]
    Denied {
        /// The repository.
        repo: String,
        /// Where it can be looked at.
        page: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was shown.
        has_token: bool,
    },
    /// There is no such repository, revision or file.
    #[error("Hugging Face has no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The repository holds nothing that can be run here.
    #[error("`{repo}` {reason}")]
    NoModel {
        /// The repository.
        repo: String,
        /// What is wrong with it, as the sentence's end.
        reason: String,
    },
    /// The repository holds several GGUF models, and none or no single one was named.
    #[error("`{repo}` has {} GGUF models{}", choices.len(), which(choice.as_deref()))]
    Choose {
        /// The repository.
        repo: String,
        /// What was asked for.
        choice: Option<String>,
        /// What tells them apart.
        choices: Vec<String>,
    },
    /// No connection, or a lost one.
    #[error("cannot fetch from {host}: {reason}")]
    Unreachable {
        /// Whom.
        host: String,
        /// Why.
        reason: String,
    },
    /// The server answers with an error of its own.
    #[error("{host} answers with HTTP {status}")]
    Status {
        /// Who.
        host: String,
        /// The status.
        status: u16,
    },
    /// The answer is not what it should be.
    #[error("{host} sends {reason}")]
    Answer {
        /// Who.
        host: String,
        /// What is wrong, as the sentence's end.
        reason: String,
    },
}

fn who(has_token: bool) -> &'static str {
    if has_token { "the owner of your token" } else { "somebody without a token" }
}

fn which(choice: Option<&str>) -> String {
    choice.map(|choice| format!(", and `:{choice}` is not one of them")).unwrap_or_default()
}

impl HubError {
    /// Whether asking again can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => matches!(*status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}

impl From<&HubError> for ErrorBody {
    fn from(error: &HubError) -> Self {
        let body = |code| Self::new(code, error.to_string());
        let failed = || body(ErrorCode::PullFailed).with_retryable(error.is_transient());
        match error {
            HubError::Disabled => failed().with_remediation(
                "Use a build with the feature `hf-hub`, or fetch the files yourself and run \
                 `ingle pull` with their path.",
            ),
            HubError::Endpoint { .. } => failed().with_remediation(
                "Correct HF_ENDPOINT, or `huggingface_endpoint` under [library] in config.toml.",
            ),
            HubError::Denied { page, has_token, .. } => {
                let next = if *has_token {
                    format!(
                        "Check the name's spelling. If the model is gated, ask for access at \
                         {page} with the account of your token; if it is private, use a token \
                         that may read it."
                    )
                } else {
                    format!(
                        "Check the name's spelling. If the model is gated, ask for access at \
                         {page}. Then log in with `hf auth login`, or put a token into \
                         `huggingface_token` under [library] in config.toml, or into HF_TOKEN \
                         before the daemon starts."
                    )
                };
                failed().with_details(json!({ "page": page })).with_remediation(next)
            }
            HubError::NotFound { .. } => body(ErrorCode::ModelNotFound)
                .with_remediation("Check the spelling: `ingle pull ORG/NAME[:CHOICE][@REVISION]`."),
            HubError::NoModel { .. } => body(ErrorCode::ModelUnsupported).with_remediation(
                "Look for a repository of the model with safetensors or GGUF files.",
            ),
            HubError::Choose { repo, choices, .. } => body(ErrorCode::InvalidParams)
                .with_details(json!({ "choices": choices }))
                .with_remediation(format!("Add one of these to `{repo}`: {}.", listed(choices))),
            HubError::Unreachable { .. } | HubError::Status { .. } => failed().with_remediation(
                "Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT, then run `ingle pull` \
                 again: it goes on where this one ended.",
            ),
            HubError::Answer { .. } => failed().with_remediation(
                "Check that HF_ENDPOINT names a Hugging Face hub and that no proxy changes its \
                 answers, then run `ingle pull` again.",
            ),
        }
    }
}
