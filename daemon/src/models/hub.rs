//! Hugging Face: where it is, what it is shown, and fetching from it.
//!
//! Owns the settings of the hub and the places its programs use. What speaks HTTP is in the modules
//! below, which are left out of builds without the feature `hf-hub`. Knows nothing of callers.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use ingle_protocol::limits;
use serde::Deserialize;

/// Hugging Face's public address.
const PUBLIC: &str = "https://huggingface.co";
/// Bytes of a token.
const TOKEN_BYTES: u64 = 4_096;

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

impl HubSetup {
    /// The token to show now. Blocks: it may read a file. Hugging Face's own login writes that
    /// file, so a login after the daemon's start counts.
    fn token(&self) -> Option<Secret> {
        if self.token.is_some() {
            return self.token.clone();
        }
        let path = self.token_file.as_ref()?;
        std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        let mut token = String::new();
        File::open(path).ok()?.take(TOKEN_BYTES).read_to_string(&mut token).ok()?;
        let token = token.trim();
        (!token.is_empty()).then(|| Secret(token.to_owned()))
    }
}
