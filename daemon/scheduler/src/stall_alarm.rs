//! The stall alarm: reports a stalled engine thread to every request that waits for it.
//!
//! Owns the alarm's state. Does not detect a stall: the watchdog does.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::error::EngineFailure;
use crate::stall::Stall;

/// Reports a stall to all present and future waiters. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StallAlarm {
    triggered: CancellationToken,
    stall: Arc<OnceLock<Stall>>,
}

impl StallAlarm {
    /// Reports the stall to all waiters, now and later.
    pub fn trigger(&self, stall: Stall) {
        // Only the first stall counts.
        let _ = self.stall.set(stall);
        self.triggered.cancel();
    }

    /// Waits for a stall.
    pub async fn stalled(&self) -> EngineFailure {
        self.triggered.cancelled().await;
        self.failure().unwrap_or(EngineFailure::ThreadEnded)
    }

    pub(crate) fn failure(&self) -> Option<EngineFailure> {
        self.stall.get().cloned().map(EngineFailure::Stalled)
    }
}
