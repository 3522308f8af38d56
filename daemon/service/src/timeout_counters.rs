//! Counts of reached time limits, by class and layer.
//!
//! Owns the counts since the daemon's start. Shim and client answer a timeout on their own; the
//! cancel that they send then names their layer, and is counted if the request is still in flight.

use std::sync::atomic::{AtomicU64, Ordering};

use ingle_protocol::timeouts::{Class, Layer};
use ingle_protocol::wire::status::TimeoutCount;

/// The layers, innermost first.
const LAYERS: [Layer; 4] = [Layer::Work, Layer::Daemon, Layer::Shim, Layer::Client];

/// Timeouts since the daemon started.
#[derive(Debug, Default)]
pub struct TimeoutCounters([[AtomicU64; LAYERS.len()]; Class::ALL.len()]);

impl TimeoutCounters {
    /// Counts one timeout.
    pub fn count(&self, class: Class, layer: Layer) {
        let class = Class::ALL.iter().position(|&known| known == class);
        let layer = LAYERS.iter().position(|&known| known == layer);
        if let (Some(class), Some(layer)) = (class, layer) {
            self.0[class][layer].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts above zero, in the order of the classes.
    #[must_use]
    pub fn counts(&self) -> Vec<TimeoutCount> {
        self.all().filter(|count| count.count > 0).collect()
    }

    /// All counts, in the order of the classes.
    pub fn all(&self) -> impl Iterator<Item = TimeoutCount> {
        Class::ALL.iter().zip(&self.0).flat_map(|(&class, layers)| {
            LAYERS.iter().zip(layers).map(move |(&layer, count)| TimeoutCount {
                class,
                layer,
                count: count.load(Ordering::Relaxed),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_counted_by_class_and_layer() {
        let counters = TimeoutCounters::default();
        counters.count(Class::Job, Layer::Work);
        counters.count(Class::Job, Layer::Work);
        counters.count(Class::Chat, Layer::Daemon);
        counters.count(Class::Chat, Layer::Client);
        let count = |class, layer, count| TimeoutCount { class, layer, count };
        let expected = [
            count(Class::Chat, Layer::Daemon, 1),
            count(Class::Chat, Layer::Client, 1),
            count(Class::Job, Layer::Work, 2),
        ];
        assert_eq!(counters.counts(), expected);
    }
}
