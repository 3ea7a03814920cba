//! Dates and times as text, over the whole range of the integers that hold them.
//!
//! `chrono` covers a part of that range, and a bound that cannot be written would have to be dropped.
//!
//! # Source
//! The day arithmetic is Howard Hinnant's, "chrono-Compatible Low-Level Date Algorithms",
//! <https://howardhinnant.github.io/date_algorithms.html>. The text forms are those DuckDB reads and writes: years
//! before 1 are followed by `(BC)`, and the greatest integers stand for infinity.

const DAY_SECONDS: i64 = 86_400;

/// Days since 1970-01-01 as `YYYY-MM-DD`.
pub(crate) fn date_text(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        d if d == -i32::MAX => "-infinity".to_owned(),
        _ => {
            let (date, bc) = date_parts(i64::from(days));
            date + bc
        }
    }
}

/// The reverse of [`date_text`].
pub(crate) fn parse_date(text: &str) -> Option<i32> {
    match text {
        "infinity" => return Some(i32::MAX),
        "-infinity" => return Some(-i32::MAX),
        _ => {}
    }
    let (text, bc) = strip_bc(text);
    i32::try_from(parse_days(text, bc)?).ok()
}

/// A time of day in units of `10^-digits` seconds as `HH:MM:SS[.fraction]`.
pub(crate) fn time_text(value: i64, digits: u32) -> String {
    let unit = 10i64.pow(digits);
    clock_text(value.div_euclid(unit), value.rem_euclid(unit), digits)
}

/// The reverse of [`time_text`].
pub(crate) fn parse_time(text: &str, digits: u32) -> Option<i64> {
    let value = parse_clock(text, digits)?;
    i64::try_from(value).ok()
}

/// A timestamp in units of `10^-digits` seconds since the epoch as `YYYY-MM-DD HH:MM:SS[.fraction][+00]`.
pub(crate) fn timestamp_text(value: i64, digits: u32, zone: bool) -> String {
    match value {
        i64::MAX => return "infinity".to_owned(),
        v if v == -i64::MAX => return "-infinity".to_owned(),
        _ => {}
    }
    let unit = 10i64.pow(digits);
    let (seconds, fraction) = (value.div_euclid(unit), value.rem_euclid(unit));
    let (date, bc) = date_parts(seconds.div_euclid(DAY_SECONDS));
    let clock = clock_text(seconds.rem_euclid(DAY_SECONDS), fraction, digits);
    // DuckDB puts the era before the zone.
    format!("{date}{bc} {clock}{}", if zone { "+00" } else { "" })
}

/// The reverse of [`timestamp_text`]; a zone other than UTC is taken into account.
pub(crate) fn parse_timestamp(text: &str, digits: u32) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(-i64::MAX),
        _ => {}
    }
    let (text, bc) = match text.find(" (BC)") {
        Some(at) => (format!("{}{}", &text[..at], &text[at + 5..]), true),
        None => (text.to_owned(), false),
    };
    let (date, rest) = text.split_once([' ', 'T']).unwrap_or((text.as_str(), "00:00:00"));
    let days = parse_days(date, bc)?;
    let zone_at = rest.find(['+', '-', 'Z']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let unit = 10i128.pow(digits);
    let seconds = i128::from(days) * i128::from(DAY_SECONDS) - i128::from(parse_zone(zone)?);
    i64::try_from(seconds * unit + parse_clock(clock, digits)?).ok()
}

fn date_parts(days: i64) -> (String, &'static str) {
    let (year, month, day) = civil(days);
    let (year, bc) = if year > 0 { (year, "") } else { (1 - year, " (BC)") };
    (format!("{year:04}-{month:02}-{day:02}"), bc)
}

fn clock_text(seconds: i64, fraction: i64, digits: u32) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = format!("{h:02}:{m:02}:{s:02}");
    if fraction != 0 {
        let width = usize::try_from(digits).unwrap_or(0);
        let padded = format!("{fraction:0width$}");
        text.push('.');
        text.push_str(padded.trim_end_matches('0'));
    }
    text
}

fn strip_bc(text: &str) -> (&str, bool) {
    match text.strip_suffix(" (BC)") {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

fn parse_days(text: &str, bc: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (year, month, day): (i64, i64, i64) = (number(year)?, number(month)?, number(day)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days_from_civil(if bc { 1 - year } else { year }, month, day))
}

fn parse_clock(text: &str, digits: u32) -> Option<i128> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.split(':');
    let (h, m, s) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next().unwrap_or("0"))?);
    let width = usize::try_from(digits).ok()?;
    if parts.next().is_some() || h > 24 || m > 59 || s > 60 || fraction.len() > width {
        return None;
    }
    let fraction = number(&format!("{fraction:0<width$}"))?;
    Some(i128::from(h * 3600 + m * 60 + s) * 10i128.pow(digits) + i128::from(fraction))
}

fn parse_zone(text: &str) -> Option<i64> {
    let (sign, rest) = match text.chars().next() {
        None | Some('Z') => return Some(0),
        Some('+') => (1, &text[1..]),
        Some(_) => (-1, &text[1..]),
    };
    let mut parts = rest.split(':');
    let hours = number(parts.next()?)?;
    let minutes = parts.next().map_or(Some(0), number)?;
    Some(sign * (hours * 3600 + minutes * 60))
}

/// Digits only: `parse` alone would accept a sign.
fn number(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_agree_with_chrono() {
        let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        for days in (-700_000..2_900_000).step_by(997) {
            let date = epoch + chrono::TimeDelta::days(i64::from(days));
            assert_eq!(date_text(days), date.format("%Y-%m-%d").to_string());
        }
    }

    #[test]
    fn dates_round_trip_over_the_whole_range() {
        for days in [
            i32::MIN,
            -i32::MAX,
            -i32::MAX + 1,
            -719_529,
            -719_528,
            -719_163,
            -719_162,
            -1,
            0,
            1,
            2_932_897,
            i32::MAX - 1,
            i32::MAX,
        ] {
            assert_eq!(parse_date(&date_text(days)), Some(days), "{}", date_text(days));
        }
        assert_eq!(date_text(-719_163), "0001-12-31 (BC)");
        assert_eq!(date_text(2_932_897), "10000-01-01");
    }

    #[test]
    fn timestamps_round_trip_over_the_whole_range() {
        for digits in [3, 6, 9] {
            for value in [
                i64::MIN,
                -i64::MAX,
                -62_135_596_800_000_001,
                -1,
                0,
                1,
                500_000,
                1_700_000_000_000_000,
                i64::MAX - 1,
                i64::MAX,
            ] {
                for zone in [false, true] {
                    let text = timestamp_text(value, digits, zone);
                    assert_eq!(parse_timestamp(&text, digits), Some(value), "{text}");
                }
            }
        }
        assert_eq!(timestamp_text(1_500_000, 6, true), "1970-01-01 00:00:01.5+00");
        assert_eq!(timestamp_text(-1, 3, false), "1969-12-31 23:59:59.999");
    }

    #[test]
    fn times_are_trimmed() {
        assert_eq!(time_text(45_000_500_000, 6), "12:30:00.5");
        assert_eq!(parse_time("12:30:00.5", 6), Some(45_000_500_000));
        assert_eq!(time_text(0, 6), "00:00:00");
    }

    #[test]
    fn other_zones_and_short_forms_read() {
        assert_eq!(parse_timestamp("1970-01-01 02:00:00+02", 6), Some(0));
        assert_eq!(parse_timestamp("1970-01-02", 6), Some(86_400_000_000));
        for text in ["", "x", "1970", "1970-13-01", "1970-01-01 25:00:00", "1970-01-01 00:00:00.1234567"] {
            assert_eq!(parse_timestamp(text, 6), None, "{text}");
        }
    }
}
