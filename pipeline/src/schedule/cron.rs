//! The nominal times of a schedule: a cron pattern over the wall clock of a time zone.
//!
//! Pure.
//!
//! # Guarantees
//! - Each time of the wall clock is one nominal time. Where clocks are set back and show it twice, it is the first.
//! - What clocks leave out when they are set forward is at the moment right after; several such are one.
//!
//! # Not here
//! Which of the times run (`core`).

use std::collections::VecDeque;

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use skep_common::{Error, Result};

/// How far clocks are set at once at most: a day was left out in Samoa.
const SHIFT_MINUTES: i64 = 2 * 24 * 60;

/// When a schedule comes.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    cron: Cron,
    zone: Tz,
}

/// Reads five fields, or a name such as `@daily`.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for anything else.
pub(super) fn pattern(text: &str) -> Result<Cron> {
    let hint = "five fields: minute hour day-of-month month day-of-week, as in \"30 6 * * MON-FRI\"";
    let fields = text.split_whitespace().count();
    if !text.trim_start().starts_with('@') && fields != 5 {
        return Err(Error::invalid(format!("'{text}' is no cron pattern: it has {fields} fields")).hint(hint));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).map_err(|e| Error::invalid(format!("'{text}' is no cron pattern: {e}")).hint(hint))
}

/// Reads the name of a time zone.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for one that is not known.
pub(super) fn zone(name: &str) -> Result<Tz> {
    name.parse().map_err(|_| {
        let error = Error::invalid(format!("'{name}' is no time zone"));
        let names: Vec<&str> = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
        match skep_engine::names::nearest(name, names) {
            Some(other) => error.hint(format!("did you mean '{other}'?")),
            None => error.hint("a name of the IANA database, such as \"Europe/Berlin\" or \"UTC\""),
        }
    })
}

impl Times {
    /// # Errors
    /// As [`pattern`] and [`zone`]; a pattern that never comes.
    pub(crate) fn new(cron: &str, zone_name: &str) -> Result<Self> {
        Ok(Self { cron: pattern(cron)?, zone: zone(zone_name)? })
    }

    /// The first after `time`; none for patterns that never come again, as the 30th of February.
    pub(crate) fn after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut local = self.zone.from_utc_datetime(&time.naive_utc()).naive_local();
        // While the clock shows a stretch for the second time, what the pattern gives is over.
        for _ in 0..SHIFT_MINUTES {
            local = self.cron.find_next_occurrence(&local.and_utc(), false).ok()?.naive_utc();
            match self.moment(local)? {
                moment if moment > time => return Some(moment),
                _ => {}
            }
        }
        None
    }

    /// When the wall clock shows `local`.
    fn moment(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(time) | MappedLocalTime::Ambiguous(time, _) => Some(time.to_utc()),
            MappedLocalTime::None => (1..=SHIFT_MINUTES).find_map(|minutes| {
                let later = local.checked_add_signed(TimeDelta::minutes(minutes))?;
                self.zone.from_local_datetime(&later).earliest().map(|time| time.to_utc())
            }),
        }
    }

    /// How many there are after `after`, up to `until`, and the last `kept` of them.
    pub(crate) fn between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
        kept: usize,
    ) -> (u64, Vec<DateTime<Utc>>) {
        let (mut count, mut last) = (0, VecDeque::new());
        let mut at = after;
        while let Some(next) = self.after(at).filter(|next| *next <= until) {
            count += 1;
            last.push_back(next);
            if last.len() > kept {
                last.pop_front();
            }
            at = next;
        }
        (count, last.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn shown(cron: &str, zone: &str, after: &str, until: &str) -> String {
        let times = Times::new(cron, zone).unwrap();
        let (count, all) = times.between(at(after), at(until), 1000);
        assert_eq!(count, all.len() as u64);
        all.iter().map(|time| time.format("%d %H:%M").to_string()).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn clocks_set_forward_bring_what_they_leave_out_right_after() {
        let (after, until) = ("2026-03-28T22:00:00Z", "2026-03-30T02:00:00Z");
        // Berlin: 02:00 becomes 03:00 on the 29th, at 01:00 UTC.
        assert_eq!(shown("30 2 * * *", "Europe/Berlin", after, until), "29 01:00, 30 00:30");
        assert_eq!(shown("0 3 * * *", "Europe/Berlin", after, until), "29 01:00, 30 01:00");
        assert_eq!(
            shown("*/30 1-3 * * *", "Europe/Berlin", after, "2026-03-29T02:00:00Z"),
            "29 00:00, 29 00:30, 29 01:00, 29 01:30",
            "02:00 and 02:30 are the 03:00 that comes anyway"
        );
        let day = shown("0 * * * *", "Europe/Berlin", "2026-03-28T22:59:00Z", "2026-03-29T21:59:00Z");
        assert_eq!(day.split(", ").count(), 23, "a day of 23 hours: {day}");
    }

    #[test]
    fn clocks_set_back_bring_nothing_twice() {
        // New York: 02:00 becomes 01:00 on the first, at 06:00 UTC.
        let (after, until) = ("2026-11-01T03:59:00Z", "2026-11-02T05:00:00Z");
        assert_eq!(shown("30 1 * * *", "America/New_York", after, until), "01 05:30");
        assert_eq!(
            shown("*/30 0-2 * * *", "America/New_York", after, "2026-11-01T08:00:00Z"),
            "01 04:00, 01 04:30, 01 05:00, 01 05:30, 01 07:00, 01 07:30"
        );
        let day = shown("0 * * * *", "America/New_York", after, until);
        assert_eq!(day.split(", ").count(), 25, "24 hours of the clock in 25, and midnight: {day}");
        // Asked within the second of the two hours.
        let times = Times::new("* * * * *", "America/New_York").unwrap();
        assert_eq!(times.after(at("2026-11-01T06:20:30Z")), Some(at("2026-11-01T07:00:00Z")));
        // A day that was left out.
        assert_eq!(
            shown("0 12 * * *", "Pacific/Apia", "2011-12-29T20:00:00Z", "2012-01-01T00:00:00Z"),
            "29 22:00, 30 10:00, 30 22:00, 31 22:00"
        );
    }

    #[test]
    fn what_is_no_pattern_or_zone_is_refused() {
        for text in ["", "* * * *", "0 0 * * * *", "61 * * * *", "x * * * *", "*/0 * * * *"] {
            assert!(pattern(text).unwrap_err().message().contains("no cron pattern"), "{text}");
        }
        assert!(pattern("@daily").is_ok());
        assert_eq!(Times::new("0 0 30 2 *", "UTC").unwrap().after(at("2026-01-01T00:00:00Z")), None);
        assert!(zone("Europe/Berln").unwrap_err().hint_text().unwrap().contains("Europe/Berlin"));
    }
}
