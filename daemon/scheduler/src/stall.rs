//! An engine thread that has stopped responding, and the alarm that reports it.
//!
//! Owns the alarm's state. Does not detect a stall: the watchdog does.

use std::sync::{Arc, OnceLock};

use ingle_protocol::wire::status::Phase;
use tokio_util::sync::CancellationToken;

use crate::error::EngineFailure;

/// An engine thread that stands still.
#[derive(Debug, Clone, PartialEq)]
pub struct Stall {
    /// What it was doing.
    pub phase: Phase,
    /// How long it has said nothing, in milliseconds.
    pub silent_ms: u64,
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { phase, silent_ms } = self;
        write!(f, "the engine has stood still for {silent_ms} ms while {phase}")
    }
}

/// The news that the engine thread stands still, for everybody who waits for it.
#[derive(Debug, Clone, Default)]
pub struct StallAlarm {
    rung: CancellationToken,
    stall: Arc<OnceLock<Stall>>,
}

impl StallAlarm {
    /// Tells everybody, now and later.
    pub fn ring(&self, stall: Stall) {
        // Only the first one counts.
        let _ = self.stall.set(stall);
        self.rung.cancel();
    }

    /// Waits for a stall.
    pub async fn stalled(&self) -> EngineFailure {
        self.rung.cancelled().await;
        self.failure().unwrap_or(EngineFailure::ThreadEnded)
    }

    pub(crate) fn failure(&self) -> Option<EngineFailure> {
        self.stall.get().cloned().map(EngineFailure::Stalled)
    }
}
