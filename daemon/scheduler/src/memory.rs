//! The engine's memory settings, and how long a model stays.
//!
//! Owns the settings as the engine takes them, and the rule by which an idle model expires. Reads
//! no clock: time is an argument. Knows nothing of files or engines.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use ingle_protocol::keep_alive::KeepAlive;

/// How much memory models may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Budget {
    /// Three quarters of the machine's memory, or Metal's recommended working set where there is
    /// one.
    #[default]
    Default,
    /// So many percent of the machine's memory, or of Metal's recommended working set.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

/// The share of memory that [`Budget::Default`] stands for, in percent.
const DEFAULT_PERCENT: u64 = 75;

impl Budget {
    /// The budget in bytes on a machine with `memory_bytes`, of which the GPU's driver recommends
    /// to use `working_set_bytes` at most, if it says so.
    #[must_use]
    pub fn bytes(self, memory_bytes: u64, working_set_bytes: Option<u64>) -> u64 {
        let share = |bytes: u64, percent: u64| bytes / 100 * percent;
        match (self, working_set_bytes) {
            (Self::Bytes(bytes), _) => bytes,
            (Self::Default, Some(bytes)) => bytes,
            (Self::Default, None) => share(memory_bytes, DEFAULT_PERCENT),
            (Self::Percent(percent), bytes) => {
                share(bytes.unwrap_or(memory_bytes), u64::from(percent))
            }
        }
    }
}

/// What the configuration says of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelOptions {
    /// How long it stays after its last use.
    pub keep_alive: Option<KeepAlive>,
    /// Whether it is never evicted and never expires.
    pub pin: Option<bool>,
}

/// Memory settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryOptions {
    /// How much models may take together.
    pub budget: Budget,
    /// Memory of the machine, or what a container allows, in bytes.
    pub memory_bytes: u64,
    /// How long a model stays after its last use.
    pub keep_alive: KeepAlive,
    /// What is different for single models, by the [`key`] of their names.
    pub models: BTreeMap<String, ModelOptions>,
}

impl MemoryOptions {
    /// How the model `name` stays when it is loaded at `now`. What the load asks for goes before
    /// what the configuration says.
    #[must_use]
    pub fn stay(&self, name: &str, asked: ModelOptions, now: Instant) -> Stay {
        let configured = self.models.get(&*key(name)).copied().unwrap_or_default();
        let keep_alive = asked.keep_alive.or(configured.keep_alive).unwrap_or(self.keep_alive);
        let pinned = asked.pin.or(configured.pin).unwrap_or(false);
        Stay { pinned, keep_alive, last_used: now }
    }
}

/// What a model's name is looked up by: its capitals do not count, but in a path they do.
#[must_use]
pub fn key(name: &str) -> Cow<'_, str> {
    if name.starts_with('/') { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) }
}

/// How long a loaded model stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// It is never evicted and never expires.
    pub pinned: bool,
    /// How long it stays after its last use.
    pub keep_alive: KeepAlive,
    /// When it was used last.
    pub last_used: Instant,
}

impl Stay {
    /// When the model expires if nothing uses it; `None` when it does not.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        match self.keep_alive {
            KeepAlive::For(duration) if !self.pinned => self.last_used.checked_add(duration),
            _ => None,
        }
    }

    /// Changes what a later load asks for.
    pub fn change(&mut self, asked: ModelOptions) {
        self.pinned = asked.pin.unwrap_or(self.pinned);
        self.keep_alive = asked.keep_alive.unwrap_or(self.keep_alive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_budget_is_a_share_of_what_there_is_or_a_number() {
        let working_set = Some(6 * GIB);
        for (budget, working_set, bytes) in [
            (Budget::Default, None, 8 * GIB / 100 * 75),
            (Budget::Default, working_set, 6 * GIB),
            (Budget::Percent(50), None, 8 * GIB / 100 * 50),
            (Budget::Percent(50), working_set, 6 * GIB / 100 * 50),
            (Budget::Bytes(123), working_set, 123),
        ] {
            assert_eq!(budget.bytes(8 * GIB, working_set), bytes, "{budget:?}");
        }
    }

    #[test]
    fn what_a_load_asks_for_goes_before_what_is_configured_and_a_pin_before_both() {
        let now = Instant::now();
        let minutes = |minutes: u64| KeepAlive::For(Duration::from_secs(minutes * 60));
        let configured = ModelOptions { keep_alive: Some(minutes(5)), pin: Some(true) };
        let options = MemoryOptions {
            keep_alive: minutes(1),
            models: BTreeMap::from([("a".to_owned(), configured)]),
            ..MemoryOptions::default()
        };
        let none = ModelOptions::default();
        assert_eq!(options.stay("b", none, now).expires_at(), Some(now + Duration::from_secs(60)));
        let mut stay = options.stay("A", none, now);
        assert_eq!((stay.expires_at(), stay.keep_alive), (None, minutes(5)));
        stay.change(ModelOptions { keep_alive: None, pin: Some(false) });
        assert_eq!(stay.expires_at(), Some(now + Duration::from_secs(300)));
        stay.change(ModelOptions { keep_alive: Some(KeepAlive::Forever), pin: None });
        assert_eq!(stay.expires_at(), None);
    }
}
