//! Dates for templates that ask for today's, as C's `strftime` in its own locale, in UTC.
//!
//! Owns the directives. Reads no clock.

use crate::calendar::{civil_from_days, days_from_civil};

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `format` with its directives replaced. Unknown directives stay as they are.
pub(super) fn strftime(format: &str, unix_time_s: i64) -> String {
    let (days, second) = (unix_time_s.div_euclid(86_400), unix_time_s.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // 1 January 1970 was a Thursday.
    let weekday = DAYS[(days + 4).rem_euclid(7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
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
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('j') => format!("{:03}", days - days_from_civil(year, 1, 1) + 1),
            Some('A') => weekday.to_owned(),
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
    fn dates_are_c_dates() {
        let format = "%d %b %Y %H:%M:%S %A %j %I%p %y %e %F|%%|%q|%";
        assert_eq!(
            strftime(format, 951_782_400 + 3661),
            "29 Feb 2000 01:01:01 Tuesday 060 01AM 00 29 2000-02-29|%|%q|%"
        );
        assert_eq!(strftime("%F %a", -86_400), "1969-12-31 Wed");
        assert_eq!(strftime("%B %d, %Y", 1_795_219_200), "November 21, 2026");
    }
}
