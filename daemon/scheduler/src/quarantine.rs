//! Quarantine: models that crashed the daemon, and the refusal of those that did so twice.
//!
//! Owns the count of crashes in a row and the rule: two on one version of a model put it in
//! quarantine, a completed generation clears the count, and changed files count as another model.
//! Pure policy and the schema of its file: no clock, no I/O.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Crashes in a row that put a model in quarantine.
const LIMIT: u32 = 2;
/// Maximum number of models with crashes that are remembered.
const MAX_MODELS: usize = 64;

/// One crash of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Unix time, in seconds.
    pub at_unix_s: u64,
    /// The cause, such as `SIGABRT`.
    pub cause: String,
    /// The activity: `loading`, `reading a prompt` or `generating`.
    pub phase: String,
    /// The requests that the activity served.
    pub requests: Vec<String>,
}

/// The crashes of a model in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deaths {
    /// Hash of the model's version.
    pub version: String,
    /// Number of crashes.
    pub count: u32,
    /// The last crash.
    pub last: Death,
}

/// Short hash of a version, because versions hold paths of any length.
#[must_use]
pub fn version_hash(version: &str) -> String {
    let hash = Sha256::digest(version.as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Deaths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Death { cause, phase, requests, .. } = &self.last;
        write!(formatter, "ended the daemon {} times in a row, last by {cause}", self.count)?;
        write!(formatter, " while {phase}")?;
        match requests.as_slice() {
            [] => Ok(()),
            requests => write!(formatter, " (request {})", requests.join(", ")),
        }
    }
}

/// The models that crashed the daemon, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quarantine {
    models: BTreeMap<String, Deaths>,
}

impl Quarantine {
    /// Adds a crash to a model.
    pub fn add(&mut self, model: &str, version: &str, death: Death) {
        let before = self.models.remove(model).filter(|deaths| deaths.version == version);
        let count = before.map_or(0, |deaths| deaths.count).saturating_add(1);
        let deaths = Deaths { version: version.to_owned(), count, last: death };
        self.models.insert(model.to_owned(), deaths);
        while self.models.len() > MAX_MODELS {
            let oldest = self.models.iter().min_by_key(|(_, deaths)| deaths.last.at_unix_s);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            self.models.remove(&oldest);
        }
    }

    /// The crashes of a model, if it is refused for them.
    #[must_use]
    pub fn refused(&self, model: &str, version: &str) -> Option<&Deaths> {
        let deaths = self.models.get(model)?;
        (deaths.version == version && deaths.count >= LIMIT).then_some(deaths)
    }

    /// All models in quarantine.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Deaths)> {
        let refused = self.models.iter().filter(|(_, deaths)| deaths.count >= LIMIT);
        refused.map(|(name, deaths)| (name.as_str(), deaths))
    }

    /// Clears the count after a completed generation. Returns whether it changed.
    pub fn succeeded(&mut self, model: &str) -> bool {
        self.models.remove(model).is_some()
    }

    /// Allows a model in quarantine one more try: the next crash refuses it again.
    ///
    /// Returns whether the count changed.
    pub fn forgive(&mut self, model: &str) -> bool {
        match self.models.get_mut(model) {
            Some(deaths) if deaths.count >= LIMIT => {
                deaths.count = LIMIT - 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(at_unix_s: u64) -> Death {
        let (cause, phase) = ("SIGABRT".to_owned(), "loading".to_owned());
        Death { at_unix_s, cause, phase, requests: vec![] }
    }

    #[test]
    fn two_crashes_of_one_version_refuse_it() {
        let mut quarantine = Quarantine::default();
        let is_refused =
            |quarantine: &Quarantine, version| quarantine.refused("a", version).is_some();
        quarantine.add("a", "1", death(1));
        assert!(!is_refused(&quarantine, "1"));
        quarantine.add("b", "1", death(2));
        quarantine.add("a", "1", death(3));
        assert!(is_refused(&quarantine, "1") && !is_refused(&quarantine, "2"));
        assert_eq!(quarantine.all().map(|(name, _)| name).collect::<Vec<_>>(), ["a"]);
        // Other files: the count starts again.
        quarantine.add("a", "2", death(4));
        assert!(!is_refused(&quarantine, "1") && !is_refused(&quarantine, "2"));
    }

    #[test]
    fn success_clears_count_and_forgive_lowers_it() {
        let mut quarantine = Quarantine::default();
        quarantine.add("a", "1", death(1));
        assert!(quarantine.succeeded("a") && !quarantine.succeeded("a"));
        quarantine.add("a", "1", death(2));
        assert!(!quarantine.forgive("a"));
        quarantine.add("a", "1", death(3));
        assert!(quarantine.forgive("a") && quarantine.refused("a", "1").is_none());
        quarantine.add("a", "1", death(4));
        assert!(quarantine.refused("a", "1").is_some());
    }

    #[test]
    fn oldest_model_is_forgotten_at_the_limit() {
        let mut quarantine = Quarantine::default();
        for number in 0..100_u64 {
            for _ in 0..2 {
                quarantine.add(&format!("{number:03}"), "1", death(number));
            }
        }
        assert_eq!(quarantine.all().count(), MAX_MODELS);
        assert!(quarantine.refused("099", "1").is_some());
    }
}
