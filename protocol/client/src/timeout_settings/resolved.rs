//! The result of resolving the settings: each value with its origin.
//!
//! Owns these types. Pure.

use std::fmt;

use ingle_protocol::timeouts::WorkTimeouts;

use super::names::Setting;
use super::origin::Origin;

/// The ladder and where each of its numbers is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What holds.
    pub timeouts: WorkTimeouts,
    /// What was set, of those in [`Setting::ALL`] that were.
    pub given: Vec<Given>,
    /// Variables with our prefix that are no setting: misspelt, most likely.
    pub unknown: Vec<Named>,
}

impl Resolved {
    /// Where a setting's value is from.
    #[must_use]
    pub fn given(&self, setting: Setting) -> Option<&Given> {
        self.given.iter().find(|given| given.setting == setting)
    }
}

/// A name as somebody wrote it, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The variable, or `timeouts.` and the key.
    pub name: String,
    /// Where it stands.
    pub origin: Origin,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.name, self.origin)
    }
}

/// A setting that somebody has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Which.
    pub setting: Setting,
    /// In milliseconds.
    pub ms: u64,
    /// Under which name, and where.
    pub named: Named,
}
