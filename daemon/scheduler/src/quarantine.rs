//! Which models have ended the daemon, and which are refused for it.
//!
//! Owns the count of deaths in a row and the rule: two on one version of a model put it in
//! quarantine, a finished generation clears it, changed files are another model. Pure policy and
//! the shape of its file: no clock, no I/O.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Deaths in a row that put a model in quarantine.
const LIMIT: u32 = 2;
/// Models with deaths to their name that are remembered.
const MAX_MODELS: usize = 64;

/// How the daemon ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// When, in seconds since 1970.
    pub at_unix_s: u64,
    /// By what, such as `SIGABRT`.
    pub cause: String,
    /// What was being done: `loading`, `reading a prompt` or `generating`.
    pub phase: String,
    /// The requests it was done for.
    pub requests: Vec<String>,
}

/// A model's deaths in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deaths {
    /// Which state of the model's files.
    pub version: String,
    /// How many.
    pub count: u32,
    /// The last one.
    pub last: Death,
}

/// A short name for a version: versions hold paths, of any length.
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

/// The models that have ended the daemon, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quarantine {
    models: BTreeMap<String, Deaths>,
}

impl Quarantine {
    /// Adds a death to a model.
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

    /// A model's deaths, if it is refused for them.
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

    /// A generation has come to its end: the row is broken. Whether that changes anything.
    pub fn succeeded(&mut self, model: &str) -> bool {
        self.models.remove(model).is_some()
    }

    /// Gives a model one more chance: the next death in the row is its last. Whether that changes
    /// anything.
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
    fn two_deaths_in_a_row_of_one_version_are_too_many() {
        let mut quarantine = Quarantine::default();
        let is_refused =
            |quarantine: &Quarantine, version| quarantine.refused("a", version).is_some();
        quarantine.add("a", "1", death(1));
        assert!(!is_refused(&quarantine, "1"));
        quarantine.add("b", "1", death(2));
        quarantine.add("a", "1", death(3));
        assert!(is_refused(&quarantine, "1") && !is_refused(&quarantine, "2"));
        assert_eq!(quarantine.all().map(|(name, _)| name).collect::<Vec<_>>(), ["a"]);
        // Other files: the row begins anew.
        quarantine.add("a", "2", death(4));
        assert!(!is_refused(&quarantine, "1") && !is_refused(&quarantine, "2"));
    }

    #[test]
    fn success_breaks_the_row_and_a_pardon_shortens_it_to_one() {
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
    fn it_forgets_the_oldest_rather_than_grow() {
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
