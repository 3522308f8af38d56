//! Memory settings: the budget, and the keep-alive and pin of each model.
//!
//! Owns the settings and the rule by which an idle model expires. Reads no clock: time is an
//! argument. Does not know the configuration file or engines.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use ingle_protocol::keep_alive::KeepAlive;

/// Memory budget of all models together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Budget {
    /// Three quarters of the machine's memory, or Metal's recommended working set where there is
    /// one.
    #[default]
    Default,
    /// A percentage of the machine's memory, or of Metal's recommended working set.
    Percent(u8),
    /// A number of bytes.
    Bytes(u64),
}

/// The share of memory that [`Budget::Default`] stands for, in percent.
const DEFAULT_PERCENT: u64 = 75;

impl Budget {
    /// The budget in bytes on a machine with `memory_bytes`.
    ///
    /// `working_set_bytes` is the maximum that the GPU driver recommends, if it gives one.
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

/// Memory settings of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelOptions {
    /// How long it stays in memory after its last use.
    pub keep_alive: Option<KeepAlive>,
    /// Whether it is never evicted and never expires.
    pub pin: Option<bool>,
}

/// Memory settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryOptions {
    /// Memory budget of all models together.
    pub budget: Budget,
    /// Memory of the machine, or the limit of its container, in bytes.
    pub memory_bytes: u64,
    /// How long a model stays in memory after its last use.
    pub keep_alive: KeepAlive,
    /// Settings of single models, by the [`key`] of their names.
    pub models: BTreeMap<String, ModelOptions>,
}

impl MemoryOptions {
    /// Retention of the model `name` when it is loaded at `now`.
    ///
    /// The options of the load take precedence over the configuration.
    #[must_use]
    pub fn retention(&self, name: &str, asked: ModelOptions, now: Instant) -> Retention {
        let configured = self.models.get(&*key(name)).copied().unwrap_or_default();
        let keep_alive = asked.keep_alive.or(configured.keep_alive).unwrap_or(self.keep_alive);
        let pinned = asked.pin.or(configured.pin).unwrap_or(false);
        Retention { pinned, keep_alive, last_used: now }
    }
}

/// Look-up key of a model name: lower case, except for a path.
#[must_use]
pub fn key(name: &str) -> Cow<'_, str> {
    if name.starts_with('/') { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) }
}

/// How long a loaded model stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Whether it is never evicted and never expires.
    pub pinned: bool,
    /// How long it stays after its last use.
    pub keep_alive: KeepAlive,
    /// When it was last used.
    pub last_used: Instant,
}

impl Retention {
    /// When the unused model expires; `None` when it never does.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        match self.keep_alive {
            KeepAlive::For(duration) if !self.pinned => self.last_used.checked_add(duration),
            _ => None,
        }
    }

    /// Applies the options of a later load.
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
    fn budget_is_share_of_memory_or_bytes() {
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
    fn load_options_precede_config_and_pin_wins() {
        let now = Instant::now();
        let minutes = |minutes: u64| KeepAlive::For(Duration::from_secs(minutes * 60));
        let configured = ModelOptions { keep_alive: Some(minutes(5)), pin: Some(true) };
        let options = MemoryOptions {
            keep_alive: minutes(1),
            models: BTreeMap::from([("a".to_owned(), configured)]),
            ..MemoryOptions::default()
        };
        let none = ModelOptions::default();
        assert_eq!(
            options.retention("b", none, now).expires_at(),
            Some(now + Duration::from_secs(60))
        );
        let mut retention = options.retention("A", none, now);
        assert_eq!((retention.expires_at(), retention.keep_alive), (None, minutes(5)));
        retention.change(ModelOptions { keep_alive: None, pin: Some(false) });
        assert_eq!(retention.expires_at(), Some(now + Duration::from_secs(300)));
        retention.change(ModelOptions { keep_alive: Some(KeepAlive::Forever), pin: None });
        assert_eq!(retention.expires_at(), None);
    }
}
