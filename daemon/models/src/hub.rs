//! Hugging Face: where it is, what it is shown, and fetching from it.
//!
//! Owns the settings of the hub and the places its programs use. What speaks HTTP is in the modules
//! below, which are left out of builds without the feature `hf-hub`. Knows nothing of callers.

#[cfg(feature = "hf-hub")]
mod client;
mod error;
#[cfg(feature = "hf-hub")]
pub(super) mod fetch;
#[cfg(feature = "hf-hub")]
mod part;
#[cfg(feature = "hf-hub")]
mod partial;
#[cfg(feature = "hf-hub")]
mod select;
#[cfg(test)]
#[cfg(feature = "hf-hub")]
mod tests;
#[cfg(feature = "hf-hub")]
mod transfer;

use std::path::PathBuf;
use std::time::Duration;

use crate::limits;
use serde::Deserialize;

pub use error::HubError;

/// Hugging Face's public address.
const PUBLIC: &str = "https://huggingface.co";

/// A string that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps what must not be shown.
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

/// How to reach the hub.
#[derive(Debug, Clone)]
pub struct HubSetup {
    /// Its address, without a `/` at the end.
    pub endpoint: String,
    /// What it is shown, if that is known already.
    pub token: Option<Secret>,
    /// Where what it is shown may be, once the user has logged in.
    pub token_file: Option<PathBuf>,
    /// What a connection may take to come about, and the silence after which it counts as lost.
    pub stall: Duration,
    /// What is waited before the first new attempt; each later one waits twice as long.
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
