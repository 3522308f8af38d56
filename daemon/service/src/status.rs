//! Health and status, always from cached state.
//!
//! Owns the two replies. Never asks the engine thread.

use std::sync::Arc;
use std::time::Instant;

use ingle_protocol::wire::status::{
    HealthReply, HealthState, JobCounts, Latency, Phase, QuarantinedModel, StatusReply,
};

use crate::service::Service;
use ingle_engine::counters::ModelCounters;
use ingle_engine::histogram::Histogram;
use ingle_scheduler::error::ago;
use ingle_scheduler::quarantine::Deaths;
use ingle_scheduler::time::millis;

impl Service {
    /// The daemon's health.
    #[must_use]
    pub fn health(&self) -> HealthReply {
        let status = self.engine.status();
        let age = Instant::now().saturating_duration_since(status.beat_at);
        let state = if self.draining.is_cancelled() {
            HealthState::Draining
        } else if self.watchdog.is_degraded() || status.phase == Phase::Stopped {
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

    /// The daemon's status. The counts of jobs are left to the edge that knows jobs.
    #[must_use]
    pub fn status(&self) -> StatusReply {
        let engine = self.engine.status();
        let memory = self.memory.last();
        let counted = self.engine.counters().models();
        let now = Instant::now();
        let mut models = engine.models;
        for (name, at) in engine.expires {
            if let Some(model) = models.iter_mut().find(|model| model.name == name) {
                model.expires_in_s = Some(at.saturating_duration_since(now).as_secs());
            }
        }
        StatusReply {
            build: ingle_protocol::BUILD.to_owned(),
            pid: std::process::id(),
            uptime_s: self.started_at.elapsed().as_secs(),
            socket: self.paths.socket().display().to_string(),
            health: self.health(),
            connections: self.metrics.connections(),
            active: engine.active,
            queued: engine.queued,
            generations: engine.accepted,
            loads: engine.loads,
            resident_bytes: memory.bytes,
            peak_resident_bytes: memory.peak_bytes,
            budget_bytes: engine.budget_bytes,
            used_bytes: engine.used_bytes,
            models,
            timeouts: self.timeout_counters.counts(),
            ttft: latency(&counted, |model| &model.ttft),
            inter_token: latency(&counted, |model| &model.inter_token),
            jobs: JobCounts::default(),
            quarantined: engine.quarantined.iter().map(quarantined).collect(),
            http: self.http.clone(),
        }
    }
}

/// The latency over all models, from the same histogram of each.
fn latency(
    models: &[Arc<ModelCounters>],
    histogram: impl Fn(&ModelCounters) -> &Histogram,
) -> Option<Latency> {
    let mut readings = models.iter().map(|model| histogram(model).read());
    let mut all = readings.next()?;
    for reading in readings {
        all.add(&reading);
    }
    let (p50, p95) = (all.quantile(0.5)?, all.quantile(0.95)?);
    Some(Latency { count: all.count(), p50_ms: millis(p50), p95_ms: millis(p95) })
}

fn quarantined((name, deaths): &(String, Deaths)) -> QuarantinedModel {
    let reason = format!("{deaths}, {}", ago(deaths.last.at_unix_s));
    QuarantinedModel { name: name.clone(), reason }
}
