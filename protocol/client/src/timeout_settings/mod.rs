//! Settings of the timeout ladder: the environment, then `.env` in the Ingle folder, then the table
//! `[timeouts]` of `config.toml`, then the defaults.
//!
//! Owns this order, the names, the ranges, and their errors. All is in seconds here and in
//! milliseconds behind it. Pure but for [`Sources::read`]. Both binaries use it: the
//! daemon, whose ladder applies, and `ingle timeouts`, which shows the ladder of this shell.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::Deserialize;
use toml::{Spanned, Value};

mod error;
mod names;
mod origin;
mod resolved;
mod sources;
#[cfg(test)]
mod tests;

pub use error::{Seconds, SettingError};
pub use names::{DerivedLimit, Setting};
pub use origin::Origin;
pub use resolved::{ConfiguredSetting, ResolvedTimeouts, SettingName};
pub use sources::{Sources, TextFile};

use crate::env_file;
use ingle_protocol::timeouts::{MAX_WORK_MS, MIN_WORK_MS, WorkTimeouts};

/// One value of one source.
struct SourceEntry {
    named: SettingName,
    kind: NameKind,
    value: WrittenValue,
}

enum NameKind {
    Setting(Setting),
    Derived(DerivedLimit),
    Unknown,
}

enum WrittenValue {
    /// A number in a file of typed values.
    Number(f64),
    /// The text of a variable.
    Text(String),
    /// A description of a value that is not a number.
    Other(String),
}

/// Resolves the ladder.
///
/// # Errors
/// When a source is malformed, a value is out of range or derived, two names of one setting
/// disagree within one source, or the numbers do not fit together.
pub fn resolve(sources: &Sources) -> Result<ResolvedTimeouts, SettingError> {
    // Each source is checked whole, even where a stronger one overrides it: otherwise an error
    // would appear on the day the stronger one is removed.
    let sources = [
        config_entries(&sources.config)?,
        env_file_entries(&sources.env_file)?,
        environment_entries(&sources.environment),
    ];
    let mut given: Vec<ConfiguredSetting> = Vec::new();
    let mut unknown = Vec::new();
    for entries in sources {
        let found = check(entries, &mut unknown)?;
        given.retain(|weaker| found.iter().all(|given| given.setting != weaker.setting));
        given.extend(found);
    }
    let mut timeouts = WorkTimeouts::default();
    for ConfiguredSetting { setting, ms, .. } in &given {
        *setting.slot(&mut timeouts) = *ms;
    }
    if given.iter().all(|given| given.setting != Setting::Http) {
        // The HTTP limit is not set, so it follows the workflow timeout, which may be.
        timeouts.http_ms = timeouts.http_ms.max(timeouts.workflow_ms);
    }
    let order = timeouts.check_order();
    let resolved = ResolvedTimeouts { timeouts, given, unknown };
    match order {
        Ok(()) => Ok(resolved),
        Err(disorder) => Err(SettingError::Order { disorder, resolved: Box::new(resolved) }),
    }
}

/// The settings of one source, each once.
fn check(
    entries: Vec<SourceEntry>,
    unknown: &mut Vec<SettingName>,
) -> Result<Vec<ConfiguredSetting>, SettingError> {
    let mut found: Vec<ConfiguredSetting> = Vec::new();
    for SourceEntry { named, kind, value } in entries {
        // In an environment an empty variable counts as absent.
        if matches!(&value, WrittenValue::Text(text) if text.trim().is_empty()) {
            continue;
        }
        let setting = match kind {
            NameKind::Setting(setting) => setting,
            NameKind::Derived(derived) => return Err(SettingError::Derived { named, derived }),
            NameKind::Unknown => {
                unknown.push(named);
                continue;
            }
        };
        let ms = match value {
            WrittenValue::Number(seconds) => whole_ms(seconds).ok_or_else(|| shown(&seconds)),
            WrittenValue::Text(text) => {
                text.trim().parse().ok().and_then(whole_ms).ok_or_else(|| shown(&text.trim()))
            }
            WrittenValue::Other(found) => Err(found),
        };
        let ms = match ms {
            Ok(ms) => ms,
            Err(found) => return Err(SettingError::Value { named, found }),
        };
        let given = ConfiguredSetting { setting, ms, named };
        match found.iter().find(|other| other.setting == setting) {
            Some(other) if other.ms != ms => {
                return Err(SettingError::Twice(Box::new(other.clone()), Box::new(given)));
            }
            Some(_) => {}
            None => found.push(given),
        }
    }
    Ok(found)
}

/// A wrong value, short enough for a message, and without control characters.
fn shown(value: &impl ToString) -> String {
    const CHARS: usize = 40;
    let text = value.to_string();
    let mut short: String = text.chars().take(CHARS).flat_map(char::escape_debug).collect();
    if text.chars().count() > CHARS {
        short.push_str("...");
    }
    format!("`{short}`")
}

/// Seconds as whole milliseconds, rounded up; `None` where the range does not allow them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range has been checked, and ten days of nanoseconds fit a float exactly"
)]
fn whole_ms(seconds: f64) -> Option<u64> {
    // A float cannot hold most decimals. It is rounded to the nanosecond first and up to the
    // millisecond then, so that 0.003 does not become four milliseconds.
    let ns = (seconds * 1e9).round();
    let is_fine = ns >= MIN_WORK_MS as f64 * 1e6 && ns <= MAX_WORK_MS as f64 * 1e6;
    is_fine.then(|| (ns as u64).div_ceil(1_000_000))
}

/// The table `[timeouts]` of `config.toml`.
#[derive(Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    timeouts: BTreeMap<Spanned<String>, Spanned<Value>>,
}

fn config_entries(file: &TextFile) -> Result<Vec<SourceEntry>, SettingError> {
    let parsed: ConfigFile = toml::from_str(file.text()?).map_err(|error| SettingError::File {
        path: file.path.clone(),
        problem: error.to_string().trim_end().to_owned(),
    })?;
    let mut entries = Vec::new();
    for (key, value) in parsed.timeouts {
        let line = file.line_at(key.span().start);
        let named =
            SettingName { name: format!("timeouts.{}", key.get_ref()), origin: file.origin(line) };
        let kind = match (Setting::of_key(key.get_ref()), DerivedLimit::of_key(key.get_ref())) {
            (Some(setting), _) => NameKind::Setting(setting),
            (None, Some(derived)) => NameKind::Derived(derived),
            (None, None) => return Err(SettingError::UnknownKey { named }),
        };
        let value = match value.into_inner() {
            #[expect(clippy::cast_precision_loss, reason = "a number that large is out of range")]
            Value::Integer(seconds) => WrittenValue::Number(seconds as f64),
            Value::Float(seconds) => WrittenValue::Number(seconds),
            other => WrittenValue::Other(format!("of type {}", other.type_str())),
        };
        entries.push(SourceEntry { named, kind, value });
    }
    Ok(entries)
}

fn env_file_entries(file: &TextFile) -> Result<Vec<SourceEntry>, SettingError> {
    let assignments = env_file::parse(&file.bytes).map_err(|bad| SettingError::Line {
        origin: file.origin(bad.line),
        problem: bad.problem,
    })?;
    let entries = assignments.into_iter().filter_map(|assignment| {
        let kind = variable_kind(&assignment.name)?;
        let named = SettingName { name: assignment.name, origin: file.origin(assignment.line) };
        Some(SourceEntry { named, kind, value: WrittenValue::Text(assignment.value) })
    });
    Ok(entries.collect())
}

fn environment_entries(environment: &[(OsString, OsString)]) -> Vec<SourceEntry> {
    let entries = environment.iter().filter_map(|(name, value)| {
        let name = name.to_str()?;
        let kind = variable_kind(name)?;
        let named = SettingName { name: name.to_owned(), origin: Origin::Environment };
        let value = value.to_str().map_or_else(
            || WrittenValue::Other("not UTF-8".to_owned()),
            |text| WrittenValue::Text(text.to_owned()),
        );
        Some(SourceEntry { named, kind, value })
    });
    entries.collect()
}

/// The kind of a variable; `None` for variables of other programs.
fn variable_kind(name: &str) -> Option<NameKind> {
    if let Some(setting) = Setting::of_variable(name) {
        return Some(NameKind::Setting(setting));
    }
    if let Some(derived) = DerivedLimit::of_variable(name) {
        return Some(NameKind::Derived(derived));
    }
    name.starts_with(names::VARIABLE_PREFIX).then_some(NameKind::Unknown)
}
