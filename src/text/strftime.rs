//! Dates for chat templates that tell the model what day it is (`strftime_now`), in UTC.

use crate::calendar::civil_from_days;

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
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Formats a time, given in seconds since 1970, by the conversions of C's `strftime` that templates use. A conversion
/// outside that set is left as it is written.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let Some(letter) = after.chars().next() else {
            rest = "%";
            break;
        };
        match conversion(letter, seconds) {
            Some(text) => out.push_str(&text),
            None => out.extend(['%', letter]),
        }
        rest = &after[letter.len_utf8()..];
    }
    out + rest
}

fn conversion(letter: char, seconds: u64) -> Option<String> {
    let days = seconds / 86_400;
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(days as usize + 4) % 7]; // 1970-01-01 was a Thursday
    Some(match letter {
        'Y' => year.to_string(),
        'y' => format!("{:02}", year % 100),
        'm' => format!("{month:02}"),
        'd' => format!("{day:02}"),
        'e' => format!("{day:2}"),
        'B' => month_name.into(),
        'b' | 'h' => month_name[..3].into(),
        'A' => day_name.into(),
        'a' => day_name[..3].into(),
        'H' => format!("{hour:02}"),
        'I' => format!("{:02}", (hour + 11) % 12 + 1),
        'M' => format!("{minute:02}"),
        'S' => format!("{second:02}"),
        'p' => if hour < 12 { "AM" } else { "PM" }.into(),
        'F' => format!("{year}-{month:02}-{day:02}"),
        'T' => format!("{hour:02}:{minute:02}:{second:02}"),
        'Z' => "UTC".into(),
        'z' => "+0000".into(),
        '%' => "%".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As Python's datetime.fromtimestamp(…, timezone.utc).strftime gives them.
        let cases = [
            (0, "Thursday 1 January 1970 12:00:00 AM"),
            (951_782_400, "Tuesday 29 February 2000 12:00:00 AM"),
            (1_709_251_199, "Thursday 29 February 2024 11:59:59 PM"),
            (1_795_321_020, "Sunday 22 November 2026 04:17:00 AM"),
            (4_107_542_400, "Monday 1 March 2100 12:00:00 AM"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(strftime("%A %e %B %Y %I:%M:%S %p", seconds).replace("  ", " "), expected);
        }
        assert_eq!(
            strftime("%d %b %Y, %F %T %y%m %a %H %% %Q %", 0),
            "01 Jan 1970, 1970-01-01 00:00:00 7001 Thu 00 % %Q %"
        );
    }
}
