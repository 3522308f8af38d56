//! Errors of Hugging Face downloads.
//!
//! Owns the errors of the hub and their only mapping to the protocol's error codes. No message contains
//! a token, or an address with a signature in it.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::json;

use crate::error::listed;

/// Reason why a request to the hub failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// This build has no HTTP client.
    #[error("this build of ingled cannot download from Hugging Face")]
    Disabled,
    /// The configured address is invalid.
    #[error("`{endpoint}` is not the address of a Hugging Face hub")]
    Endpoint {
        /// The configured address.
        endpoint: String,
    },
    /// The hub requires a token, or denies access to the token's owner.
    #[error("Hugging Face denies access to `{repo}` {} (HTTP {status})", with_token(*has_token))]
    Denied {
        /// The repository.
        repo: String,
        /// The repository's web page.
        page: String,
        /// 401 or 403.
        status: u16,
        /// Whether the request had a token.
        has_token: bool,
    },
    /// The repository, revision or file does not exist.
    #[error("Hugging Face has no {what}")]
    NotFound {
        /// The requested object.
        what: String,
    },
    /// The repository holds no model that Ingle can run.
    #[error("`{repo}` {reason}")]
    NoModel {
        /// The repository.
        repo: String,
        /// The problem, as the end of the sentence.
        reason: String,
    },
    /// The repository holds several GGUF models, and the request did not name exactly one.
    #[error("`{repo}` has {} GGUF models{}", choices.len(), no_match(choice.as_deref()))]
    Choose {
        /// The repository.
        repo: String,
        /// The requested choice.
        choice: Option<String>,
        /// The choices of its models.
        choices: Vec<String>,
    },
    /// The connection failed or was lost.
    #[error("cannot download from {host}: {reason}")]
    Unreachable {
        /// The server.
        host: String,
        /// The reason.
        reason: String,
    },
    /// The server returned an error status.
    #[error("{host} returned HTTP {status}")]
    Status {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// The response is invalid.
    #[error("{host} returned {reason}")]
    InvalidResponse {
        /// The server.
        host: String,
        /// The problem, as the end of the sentence.
        reason: String,
    },
}

fn with_token(has_token: bool) -> &'static str {
    if has_token { "to the owner of your token" } else { "without a token" }
}

fn no_match(choice: Option<&str>) -> String {
    choice.map(|choice| format!(", and `:{choice}` is not one of them")).unwrap_or_default()
}

impl HubError {
    /// Whether another attempt can succeed.
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
                "Use a build with the feature `hf-hub`, or download the files yourself and run \
                 `ingle pull` with their path.",
            ),
            HubError::Endpoint { .. } => failed().with_remediation(
                "Correct HF_ENDPOINT, or `huggingface_endpoint` under [library] in config.toml.",
            ),
            HubError::Denied { page, has_token, .. } => {
                let next = if *has_token {
                    format!(
                        "Check the name's spelling. If the model is gated, request access at \
                         {page} with the account of your token. If it is private, use a token \
                         that may read it."
                    )
                } else {
                    format!(
                        "Check the name's spelling. If the model is gated, request access at \
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
                "Use a repository of the model that has safetensors or GGUF files.",
            ),
            HubError::Choose { repo, choices, .. } => body(ErrorCode::InvalidParams)
                .with_details(json!({ "choices": choices }))
                .with_remediation(format!("Add one of these to `{repo}`: {}.", listed(choices))),
            HubError::Unreachable { .. } | HubError::Status { .. } => failed().with_remediation(
                "Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT, then run `ingle pull` \
                 again: it resumes the download.",
            ),
            HubError::InvalidResponse { .. } => failed().with_remediation(
                "Check that HF_ENDPOINT names a Hugging Face hub and that no proxy changes its \
                 responses, then run `ingle pull` again.",
            ),
        }
    }
}
