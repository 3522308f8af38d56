//! Samples resident memory every few seconds and says when it grows beyond what models explain.
//!
//! Owns the last sample and the rule for a spike. Runs beside the engine thread and never asks it:
//! what models hold comes from the engine's cached status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::system_memory::{self, Resident};
use ingle_scheduler::handle::EngineHandle;

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(2);
/// Growth that is never a spike, in bytes: buffers of a pass, the allocator's spare pages.
const TOLERATED_BYTES: u64 = 256 << 20;
/// Growth that is never a spike, in percent of what models hold.
const TOLERATED_PERCENT: u64 = 10;

/// The last sample, for whoever wants to know.
#[derive(Debug, Clone, Default)]
pub struct MemoryWatch(Arc<Sample>);

#[derive(Debug, Default)]
struct Sample {
    resident_bytes: AtomicU64,
    peak_bytes: AtomicU64,
}

impl MemoryWatch {
    /// The last sample; zeros where the system does not tell.
    #[must_use]
    pub fn last(&self) -> Resident {
        Resident {
            bytes: self.0.resident_bytes.load(Ordering::Relaxed),
            peak_bytes: self.0.peak_bytes.load(Ordering::Relaxed),
        }
    }

    /// Takes a sample now.
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
        // A machine that slept owes no samples.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let resident = self.sample();
            let used_bytes = engine.status().used_bytes;
            if let Some(excess_bytes) = spikes.see(resident.bytes, used_bytes) {
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

/// Finds spikes in a row of samples.
#[derive(Debug, Default)]
struct Spikes {
    /// Bytes beyond what the models hold that have been seen at the start or reported since.
    known_excess: Option<u64>,
}

impl Spikes {
    /// Takes a sample of resident memory and of what the models hold or have reserved by the
    /// engine's account. Returns what is resident beyond that when it has grown by more than is
    /// tolerated since the last report: a leak is reported step by step, and a load that fills its
    /// reservation is none.
    fn see(&mut self, resident_bytes: u64, used_bytes: u64) -> Option<u64> {
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
    fn only_growth_that_nothing_explains_is_a_spike_and_it_is_one_once() {
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
            let spike = spikes.see(resident * MIB, used * MIB);
            let excess = is_spike.then(|| (resident - used) * MIB);
            assert_eq!(spike, excess, "{resident} {used}");
        }
    }
}
