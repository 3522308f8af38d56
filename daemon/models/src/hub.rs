//! Hugging Face: the hub's address, the token and the downloads.
//!
//! Owns the settings of the hub. The modules below use HTTP; builds without the feature `hf-hub` leave
//! them out. Does not know callers.

#[cfg(feature = "hf-hub")]
mod client;
#[cfg(feature = "hf-hub")]
pub(super) mod download;
mod error;
#[cfg(feature = "hf-hub")]
pub(super) mod partial;
#[cfg(feature = "hf-hub")]
mod select;
#[cfg(test)]
#[cfg(feature = "hf-hub")]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use crate::limits;
use serde::Deserialize;

pub use error::HubError;

/// Hugging Face's public address.
const PUBLIC: &str = "https://huggingface.co";

/// A string that no output contains.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Settings of the hub.
#[derive(Debug, Clone)]
pub struct HubSetup {
    /// Its address, without a `/` at the end.
    pub endpoint: String,
    /// The access token, if the configuration or environment holds one.
    pub token: Option<Secret>,
    /// The file that holds the token after the user has logged in with Hugging Face's own program.
    pub token_file: Option<PathBuf>,
    /// Timeout for a connection, and the silence after which a connection counts as lost.
    pub stall: Duration,
    /// Pause before the first new attempt; each later pause is twice as long.
    pub retry: Duration,
}

impl Default for HubSetup {
    fn default() -> Self {
        Self {
            endpoint: PUBLIC.to_owned(),
            token: None,
            token_file: None,
            stall: Duration::from_millis(limits::HUB_STALL_MS),
            retry: Duration::from_millis(limits::HUB_RETRY_MS),
        }
    }
}
