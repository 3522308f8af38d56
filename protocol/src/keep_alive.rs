//! Keep-alive: the time that an idle model stays in memory.
//!
//! Owns the spelling: a duration (see [`duration`]), `0` or `forever`. Knows nothing of models or
//! clocks.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::duration;

/// Longest keep-alive that is not `forever`: a year.
const MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The time that an idle model stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepAlive {
    /// This time after its last use; zero unloads it as soon as it is idle.
    For(Duration),
    /// Until it is unloaded, or evicted for its memory.
    Forever,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::For(Duration::from_secs(30 * 60))
    }
}

/// A keep-alive that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a keep-alive; use a value such as `10m`, `1h30m`, `90s`, `0` or `forever`")]
pub struct BadKeepAlive(String);

impl FromStr for KeepAlive {
    type Err = BadKeepAlive;

    fn from_str(text: &str) -> Result<Self, BadKeepAlive> {
        let bad = || BadKeepAlive(text.to_owned());
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("forever") {
            return Ok(Self::Forever);
        }
        duration::parse(trimmed).and_then(Self::of).ok_or_else(bad)
    }
}

impl KeepAlive {
    /// A number of seconds; `None` for more than a year.
    #[must_use]
    pub fn from_seconds(seconds: u64) -> Option<Self> {
        Self::of(Duration::from_secs(seconds))
    }

    /// A duration, cut to whole milliseconds; `None` for more than a year.
    fn of(duration: Duration) -> Option<Self> {
        let ms = u64::try_from(duration.as_millis()).ok()?;
        (duration <= MAX).then_some(Self::For(Duration::from_millis(ms)))
    }
}

impl fmt::Display for KeepAlive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::For(duration) = self else { return formatter.write_str("forever") };
        let mut left = duration.as_millis();
        if left == 0 {
            return formatter.write_str("0");
        }
        for (unit, ms) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if left >= ms {
                write!(formatter, "{}{unit}", left / ms)?;
                left %= ms;
            }
        }
        Ok(())
    }
}

impl Serialize for KeepAlive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a keep-alive such as \"10m\", \"forever\" or 0")]
        enum Written {
            Seconds(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Seconds(seconds) => seconds.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for KeepAlive {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KeepAlive".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "integer"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_round_trips() {
        for (text, seconds, shown) in [
            ("10m", 600, "10m"),
            ("1h30m", 5_400, "1h30m"),
            ("90s", 90, "1m30s"),
            ("2d", 172_800, "48h"),
            ("1.5h", 5_400, "1h30m"),
            ("45", 45, "45s"),
            (" 0 ", 0, "0"),
        ] {
            let keep: KeepAlive = text.parse().unwrap();
            assert_eq!(keep, KeepAlive::For(Duration::from_secs(seconds)), "{text}");
            assert_eq!(keep.to_string(), shown);
            assert_eq!(shown.parse(), Ok(keep));
        }
        assert_eq!("Forever".parse(), Ok(KeepAlive::Forever));
        let short: KeepAlive = "1500ms".parse().unwrap();
        assert_eq!(
            (short, short.to_string().parse()),
            (KeepAlive::For(Duration::from_millis(1_500)), Ok(short))
        );
        for bad in ["", "m", "10", "-1", "10 m", "10x", "10m5", "4000d"] {
            let parsed = bad.parse::<KeepAlive>();
            assert_eq!(parsed.is_ok(), bad == "10", "{bad}: {parsed:?}");
        }
    }

    #[test]
    fn json_takes_seconds_and_text() {
        let read = |json: &str| serde_json::from_str::<KeepAlive>(json);
        assert_eq!(read("0").unwrap(), KeepAlive::For(Duration::ZERO));
        assert_eq!(read("\"5m\"").unwrap(), KeepAlive::For(Duration::from_secs(300)));
        assert!(read("\"soon\"").unwrap_err().to_string().contains("`soon`"));
        assert!(read("-1").is_err());
    }
}
