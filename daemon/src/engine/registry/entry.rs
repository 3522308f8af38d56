//! One model in the registry, and what it holds.
//!
//! Owns the account of one model's memory. Knows nothing of other models.

use super::{Estimate, Slot};
use crate::engine::ledger::Holding;
use crate::engine::memory::Stay;

/// A model in memory, or on its way there.
pub(super) struct Entry {
    pub(super) version: String,
    pub(super) stay: Stay,
    pub(super) estimate: Estimate,
    pub(super) slot: Slot,
}

impl Entry {
    /// What the model holds, what runs on it left out.
    pub(super) fn holding(&self, name: &str) -> Holding {
        let (weights, kept, loading) = match &self.slot {
            // What is reserved covers the load's height.
            Slot::Loading(_) => (self.estimate.load_bytes(), Vec::new(), true),
            Slot::Resident(resident) => {
                let generator = &resident.generator;
                let weights = generator.info().weight_bytes + generator.overhead_bytes();
                // An engine whose sequences do not grow gets nothing back by closing them.
                let grows = generator.kv_bytes_per_token() > 0;
                let kept = if grows { resident.prompt_cache.kept_bytes() } else { Vec::new() };
                (weights, kept, false)
            }
        };
        Holding {
            model: name.to_owned(),
            weights,
            running: 0,
            kept,
            active: 0,
            loading,
            pinned: self.stay.pinned,
            last_used: self.stay.last_used,
        }
    }
}
