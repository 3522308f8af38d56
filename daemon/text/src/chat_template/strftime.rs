//! Dates in templates: C's `strftime` in the C locale, in UTC.
//!
//! Owns the supported directives; the crate `time` does the calendar. Does not read a clock.

use time::{OffsetDateTime, PrimitiveDateTime};

/// Replaces the directives in `format`; unknown directives stay unchanged.
///
/// The directives are those that Python's `strftime` has on every platform, apart from week numbers.
pub(super) fn strftime(format: &str, unix_time_s: i64) -> String {
    let now = OffsetDateTime::from_unix_timestamp(unix_time_s).unwrap_or_else(|_| {
        // The time is outside the years -9999 to 9999: the nearest of them is used.
        let nearest = if unix_time_s < 0 { PrimitiveDateTime::MIN } else { PrimitiveDateTime::MAX };
        nearest.assume_utc()
    });
    let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
    let (hour, minute, second) = now.to_hms();
    let (weekday, month_name) = (now.weekday().to_string(), now.month().to_string());
    let hour_12 = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let field = match characters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year.rem_euclid(100)),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.clone(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('j') => format!("{:03}", now.ordinal()),
            Some('A') => weekday.clone(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{hour_12:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        };
        out.push_str(&field);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_give_c_dates() {
        let format = "%d %b %Y %H:%M:%S %A %j %I%p %y %e %F|%%|%q|%";
        assert_eq!(
            strftime(format, 951_782_400 + 3661),
            "29 Feb 2000 01:01:01 Tuesday 060 01AM 00 29 2000-02-29|%|%q|%"
        );
        assert_eq!(strftime("%F %a", -86_400), "1969-12-31 Wed");
        assert_eq!(strftime("%B %d, %Y", 1_795_219_200), "November 21, 2026");
        assert_eq!(strftime("%T %Z %z %h %m", 0), "00:00:00 UTC +0000 Jan 01");
    }

    #[test]
    fn times_beyond_the_calendar_become_the_nearest() {
        assert_eq!(strftime("%F", i64::MAX), "9999-12-31");
        assert_eq!(strftime("%F", i64::MIN), "-9999-01-01");
    }
}
