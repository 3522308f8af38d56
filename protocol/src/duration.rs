//! Durations as people write them: `90s`, `1.5m`, `1h30m`, or a number of seconds.
//!
//! Owns this syntax, for keep-alives and for the time limits of the command line. Does not know
//! what a duration is for, nor which are allowed.

use std::time::Duration;

/// The longest that can be written: a thousand years. What a duration is for bounds it further.
const MAX: Duration = Duration::from_secs(1_000 * 365 * 24 * 60 * 60);

/// Units and their seconds.
const UNITS: [(&str, f64); 6] =
    [("ms", 0.001), ("s", 1.0), ("min", 60.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];

/// Reads a duration: numbers with units one after the other, or one number of seconds.
///
/// A number may have a decimal point. `None` for everything else, signs and spaces included.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let (first, rest) = number(text)?;
    if rest.is_empty() {
        return seconds(first, 1.0);
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let (count, after) = number(rest)?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (name, next) = after.split_at(end);
        let (_, scale) = UNITS.iter().find(|(unit, _)| *unit == name)?;
        total = total.checked_add(seconds(count, *scale)?)?;
        rest = next;
    }
    (total <= MAX).then_some(total)
}

/// The number at the beginning of `text`, and what follows it.
fn number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

fn seconds(count: f64, scale: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(count * scale).ok().filter(|duration| *duration <= MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_units_are_read() {
        for (text, ms) in [
            ("0", 0),
            ("45", 45_000),
            ("0.5", 500),
            ("10ms", 10),
            ("90s", 90_000),
            ("1.5m", 90_000),
            ("2min", 120_000),
            ("1h30m", 5_400_000),
            ("1m500ms", 60_500),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "m", "s", "-1", "+1s", "10 m", "10x", "10m5", "1y", ".", "1.2.3s", "1e3", "nan"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&format!("{}d", u64::MAX)), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9.a-z]{0,12}|.{0,8}") {
            let _ = parse(&text);
        }
    }
}
