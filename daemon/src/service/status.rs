//! Health and status, always from cached state.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ingle_protocol::limits;
use ingle_protocol::wire::status::{HealthReply, HealthState, Phase, StatusReply};

use super::Service;

impl Service {
    /// Whether the daemon is well. Never asks the engine thread.
    #[must_use]
    pub fn health(&self) -> HealthReply {
        let status = self.engine.status();
        let age = Instant::now().saturating_duration_since(status.beat_at);
        // An idle thread waits for commands and has nothing to say.
        let stalled =
            status.phase != Phase::Idle && age > Duration::from_millis(limits::ENGINE_STALL_MS);
        let state = if self.draining.is_cancelled() {
            HealthState::Draining
        } else if stalled || status.phase == Phase::Stopped {
            HealthState::Degraded
        } else {
            HealthState::Ok
        };
        HealthReply {
            state,
            phase: status.phase,
            heartbeat_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Everything worth knowing at a glance.
    #[must_use]
    pub fn status(&self) -> StatusReply {
        let engine = self.engine.status();
        StatusReply {
            build: ingle_protocol::BUILD.to_owned(),
            pid: std::process::id(),
            uptime_s: self.started_at.elapsed().as_secs(),
            socket: self.paths.socket().display().to_string(),
            health: self.health(),
            connections: self.connections.load(Ordering::Relaxed),
            active: engine.active,
            queued: engine.queued,
            generations: engine.accepted,
            resident_bytes: resident_bytes(),
            models: engine.models,
        }
    }
}

/// Resident memory of this process in bytes; 0 where the system does not tell it in a file.
fn resident_bytes() -> u64 {
    let kib = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}
