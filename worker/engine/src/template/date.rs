/// A moment, in seconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixSeconds(pub i64);

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
/// 1970-01-01 was a Thursday.
const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `strftime` in UTC and the C locale. Error: the first conversion that is not supported.
pub(super) fn format(moment: UnixSeconds, format: &str) -> Result<String, char> {
    let days = moment.0.div_euclid(86_400);
    let second_of_day = moment.0.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    let day_of_year = days - first_day_of(year) + 1;
    let [hour, minute, second] =
        [second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60];
    let month_name = MONTHS[(month - 1) as usize];
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let weekday_from_sunday = (days + 4).rem_euclid(7);

    let mut out = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let bare = characters.next_if_eq(&'-').is_some();
        let conversion = characters.next().unwrap_or('%');
        let number = |value: i64, digits: usize| match bare {
            true => value.to_string(),
            false => format!("{value:0digits$}"),
        };
        out.push_str(&match conversion {
            'Y' => year.to_string(),
            'y' => number(year.rem_euclid(100), 2),
            'm' => number(month, 2),
            'd' => number(day, 2),
            'e' => format!("{day:>2}"),
            'j' => number(day_of_year, 3),
            'H' => number(hour, 2),
            'I' => number((hour + 11) % 12 + 1, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => month_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'w' => weekday_from_sunday.to_string(),
            'u' => ((weekday_from_sunday + 6) % 7 + 1).to_string(),
            's' => moment.0.to_string(),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            unknown => return Err(unknown),
        });
    }
    Ok(out)
}

/// Year, month and day of the proleptic Gregorian calendar, `days` after 1970-01-01. Counted from
/// March, so that a leap day ends a year. Source: Howard Hinnant, "chrono-compatible low-level date
/// algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    // Days and years since 0000-03-01; 400 years are 146097 days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March have 31, 30, 31, 30, 31 days over and over: 153 in five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// 1 January of `year`, in days after 1970-01-01.
fn first_day_of(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400)
        - 477
}

#[cfg(test)]
mod tests {
    use super::{UnixSeconds, format};

    fn check(seconds: i64, pattern: &str, shown: &str) {
        assert_eq!(format(UnixSeconds(seconds), pattern).as_deref(), Ok(shown), "{seconds}");
    }

    #[test]
    fn moments_are_shown_as_strftime_shows_them() {
        check(0, "%Y-%m-%d %H:%M:%S %A %j", "1970-01-01 00:00:00 Thursday 001");
        check(-1, "%F %T %a %j", "1969-12-31 23:59:59 Wed 365");
        check(951_782_400, "%d %b %Y %j", "29 Feb 2000 060");
        check(1_772_323_199, "%d %B %Y %j %u %w", "28 February 2026 059 6 6");
        check(1_795_366_432, "%-d %-m %y %I:%M %p %e|%Z %z %%", "22 11 26 04:53 PM 22|UTC +0000 %");
        check(4_102_444_800, "%F %A %j", "2100-01-01 Friday 001");
        check(1_735_603_200, "%F %j", "2024-12-31 366");
        check(1_735_689_600, "%-I%p", "12AM");
        check(0, "date%", "date%");
        assert_eq!(format(UnixSeconds(0), "%Q"), Err('Q'));
    }
}
