//! The result of resolving the settings: each value with its origin.
//!
//! Owns these types. Pure.

use std::fmt;

use ingle_protocol::timeouts::WorkTimeouts;

use super::names::Setting;
use super::origin::Origin;

/// The ladder, with the origin of each number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTimeouts {
    /// The ladder.
    pub timeouts: WorkTimeouts,
    /// The settings that are set, of [`Setting::ALL`].
    pub given: Vec<ConfiguredSetting>,
    /// Variables with our prefix that are not settings: probably misspelt.
    pub unknown: Vec<SettingName>,
}

impl ResolvedTimeouts {
    /// The source of a setting's value; `None` for a default.
    #[must_use]
    pub fn given(&self, setting: Setting) -> Option<&ConfiguredSetting> {
        self.given.iter().find(|given| given.setting == setting)
    }
}

/// A name as it is written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingName {
    /// The variable, or `timeouts.` and the key.
    pub name: String,
    /// Its origin.
    pub origin: Origin,
}

impl fmt::Display for SettingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.name, self.origin)
    }
}

/// A setting that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredSetting {
    /// The setting.
    pub setting: Setting,
    /// The value in milliseconds.
    pub ms: u64,
    /// The name and the origin.
    pub named: SettingName,
}
