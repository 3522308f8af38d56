//! Samples resident memory and logs growth that the models do not explain.
//!
//! Owns the last sample and the rule for a spike. Never asks the engine thread: what models hold
//! comes from the engine's cached status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::system_memory::{self, Resident};
use ingle_scheduler::handle::EngineHandle;

/// The time between two samples.
const INTERVAL: Duration = Duration::from_secs(2);
/// Growth that is never a spike, in bytes: buffers of a pass, the allocator's spare pages.
const TOLERATED_BYTES: u64 = 256 << 20;
/// Growth that is never a spike, in percent of what models hold.
const TOLERATED_PERCENT: u64 = 10;

/// The last sample of resident memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryWatch(Arc<Sample>);

#[derive(Debug, Default)]
struct Sample {
    resident_bytes: AtomicU64,
    peak_bytes: AtomicU64,
}

impl MemoryWatch {
    /// The last sample; zeros where the system does not report it.
    #[must_use]
    pub fn last(&self) -> Resident {
        Resident {
            bytes: self.0.resident_bytes.load(Ordering::Relaxed),
            peak_bytes: self.0.peak_bytes.load(Ordering::Relaxed),
        }
    }

    /// Takes a sample.
    pub fn sample(&self) -> Resident {
        let resident = system_memory::resident().unwrap_or_default();
        self.0.resident_bytes.store(resident.bytes, Ordering::Relaxed);
        self.0.peak_bytes.fetch_max(resident.peak_bytes, Ordering::Relaxed);
        self.last()
    }

    /// Samples until it is dropped.
    pub async fn run(self, engine: EngineHandle) {
        let mut spikes = Spikes::default();
        let mut ticks = tokio::time::interval(INTERVAL);
        // No samples are made up for after the machine has slept.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let resident = self.sample();
            let used_bytes = engine.status().used_bytes;
            if let Some(excess_bytes) = spikes.add(resident.bytes, used_bytes) {
                tracing::warn!(
                    resident_bytes = resident.bytes,
                    models_bytes = used_bytes,
                    excess_bytes,
                    peak_bytes = resident.peak_bytes,
                    "resident memory has grown by more than the models explain"
                );
            }
        }
    }
}

/// Finds spikes in a series of samples.
#[derive(Debug, Default)]
struct Spikes {
    /// Excess bytes over the models at the first sample, or at the last report.
    known_excess: Option<u64>,
}

impl Spikes {
    /// Adds a sample and returns the excess bytes if it is a spike.
    ///
    /// `used_bytes` are what the models hold or have reserved, by the engine's account. The excess
    /// is a spike when it has grown by more than the tolerance since the last report: a leak is
    /// reported step by step, and a load that fills its reservation is no spike.
    fn add(&mut self, resident_bytes: u64, used_bytes: u64) -> Option<u64> {
        let excess = resident_bytes.saturating_sub(used_bytes);
        let known = *self.known_excess.get_or_insert(excess);
        let tolerated = TOLERATED_BYTES.max(used_bytes / 100 * TOLERATED_PERCENT);
        if excess <= known.saturating_add(tolerated) {
            return None;
        }
        self.known_excess = Some(excess);
        Some(excess)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn unexplained_growth_is_reported_once() {
        let mut spikes = Spikes::default();
        for (resident, used, is_spike) in [
            (50, 0, false),
            (60, 2_000, false),
            (1_500, 2_000, false),
            (2_040, 2_000, false),
            (2_300, 2_000, false),
            (2_310, 2_000, true),
            (2_560, 2_000, false),
            (2_570, 2_000, true),
            (300, 0, false),
        ] {
            let spike = spikes.add(resident * MIB, used * MIB);
            let excess = is_spike.then(|| (resident - used) * MIB);
            assert_eq!(spike, excess, "{resident} {used}");
        }
    }
}
