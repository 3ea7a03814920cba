//! Spans of time that models are run for: hours, days, weeks and months, without gap and overlap.
//!
//! Pure: no clock. Times are wall-clock times of the data, without a zone.
//!
//! # Not here
//! Which intervals stand (`ledger`), and which have late rows (`run::late`).

use std::collections::BTreeSet;
use std::fmt;

use chrono::{Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};
use serde::{Deserialize, Serialize};
use skep_common::{Error, Result};

/// How long an interval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Grain {
    /// An hour of the clock.
    Hour,
    /// A day of the calendar.
    Day,
    /// A week that begins on Monday.
    Week,
    /// A month of the calendar.
    Month,
}

/// Intervals of one model.
const INTERVALS_MAX: usize = 100_000;

/// A span of time: from `start`, up to `end`, which is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) start: NaiveDateTime,
    pub(crate) end: NaiveDateTime,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", short(self.start), short(self.end))
    }
}

/// `2024-02-29`, or with the time where it is not midnight.
pub(crate) fn short(time: NaiveDateTime) -> String {
    if time.time() == NaiveTime::MIN { time.date().to_string() } else { text(time) }
}

/// As the ledger and SQL write a time.
pub(crate) fn text(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Reads a date, or a date and a time.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for anything else.
pub(crate) fn parse(written: &str) -> Result<NaiveDateTime> {
    let written = written.trim();
    let formats = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
    let time = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(written, format).ok());
    time.or_else(|| {
        NaiveDate::parse_from_str(written, "%Y-%m-%d").ok().map(|date| date.and_time(NaiveTime::MIN))
    })
    .ok_or_else(|| {
        Error::invalid(format!("'{written}' is no time")).hint("write 2024-02-29, or 2024-02-29 13:00:00")
    })
}

impl Grain {
    /// As `date_trunc` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The start of the interval that `time` is in.
    pub(crate) fn floor(self, time: NaiveDateTime) -> NaiveDateTime {
        let date = time.date();
        match self {
            Self::Hour => date.and_time(NaiveTime::from_hms_opt(time.hour(), 0, 0).unwrap_or_default()),
            Self::Day => date.and_time(NaiveTime::MIN),
            Self::Week => {
                let since = u64::from(date.weekday().num_days_from_monday());
                date.checked_sub_days(Days::new(since)).unwrap_or(date).and_time(NaiveTime::MIN)
            }
            Self::Month => date.with_day(1).unwrap_or(date).and_time(NaiveTime::MIN),
        }
    }

    /// The start of the interval `count` after the one that starts at `start`; before it, for counts below zero.
    pub(crate) fn step(self, start: NaiveDateTime, count: i32) -> NaiveDateTime {
        let stepped = match self {
            Self::Hour => start.checked_add_signed(TimeDelta::hours(count.into())),
            Self::Day => start.checked_add_signed(TimeDelta::days(count.into())),
            Self::Week => start.checked_add_signed(TimeDelta::weeks(count.into())),
            Self::Month if count >= 0 => start.checked_add_months(Months::new(count.unsigned_abs())),
            Self::Month => start.checked_sub_months(Months::new(count.unsigned_abs())),
        };
        stepped.unwrap_or(start)
    }

    /// The starts of the intervals from the one that `from` is in, to the last that ends at `until` or before.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for more than a hundred thousand.
    pub(crate) fn starts(self, from: NaiveDateTime, until: NaiveDateTime) -> Result<Vec<NaiveDateTime>> {
        let mut starts = Vec::new();
        let mut at = self.floor(from);
        while self.step(at, 1) <= until {
            starts.push(at);
            let next = self.step(at, 1);
            if next <= at || starts.len() > INTERVALS_MAX {
                return Err(Error::invalid(format!(
                    "there are more than {INTERVALS_MAX} intervals of a {} from {} to {}",
                    self.name(),
                    short(from),
                    short(until)
                ))
                .hint("give the model a later start, or a coarser grain"));
            }
            at = next;
        }
        Ok(starts)
    }

    /// Intervals that follow each other, as one span each.
    pub(crate) fn spans(self, starts: &BTreeSet<NaiveDateTime>) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for &start in starts {
            let end = self.step(start, 1);
            match spans.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => spans.push(Span { start, end }),
            }
        }
        spans
    }
}

/// Which intervals a run has to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Those that the ledger does not have, from the start of the model.
    pub(crate) missing: BTreeSet<NaiveDateTime>,
    /// Those that it has, and that are made again: asked for, looked back to, or with rows that came late.
    pub(crate) again: BTreeSet<NaiveDateTime>,
}

/// What decides them.
#[derive(Debug, Clone)]
pub(crate) struct Asked<'a> {
    pub(crate) grain: Grain,
    /// Where the model starts.
    pub(crate) start: NaiveDateTime,
    /// Where intervals end that can be complete.
    pub(crate) until: NaiveDateTime,
    /// Intervals before a new one that are made again with it.
    pub(crate) lookback: u32,
    /// What a person asked for, whatever the ledger has.
    pub(crate) range: Option<Span>,
    pub(crate) done: &'a BTreeSet<NaiveDateTime>,
    /// Intervals with rows that changed since they were made.
    pub(crate) late: &'a BTreeSet<NaiveDateTime>,
}

impl Asked<'_> {
    /// # Errors
    /// As [`Grain::starts`].
    pub(crate) fn wanted(&self) -> Result<Wanted> {
        if let Some(range) = self.range {
            let all: BTreeSet<_> = self.grain.starts(range.start, range.end)?.into_iter().collect();
            let (mut again, missing): (BTreeSet<_>, _) =
                all.into_iter().partition(|start| self.done.contains(start));
            // What the run reads counts as seen when it is published: nobody finds them later.
            again.extend(self.late.intersection(self.done));
            return Ok(Wanted { missing, again });
        }
        let all = self.grain.starts(self.start, self.until)?;
        let missing: BTreeSet<_> = all.into_iter().filter(|start| !self.done.contains(start)).collect();
        let mut again: BTreeSet<_> = self.late.intersection(self.done).copied().collect();
        for &start in &missing {
            let before = (1..=self.lookback).filter_map(|back| i32::try_from(back).ok());
            let before = before.map(|back| self.grain.step(start, -back));
            again.extend(before.filter(|start| self.done.contains(start)));
        }
        Ok(Wanted { missing, again })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        parse(text).unwrap()
    }

    fn shown(starts: &BTreeSet<NaiveDateTime>) -> String {
        starts.iter().map(|start| short(*start)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn intervals_begin_where_the_calendar_says() {
        let time = at("2024-02-29 13:14:15");
        for (grain, start, next) in [
            (Grain::Hour, "2024-02-29 13:00:00", "2024-02-29 14:00:00"),
            (Grain::Day, "2024-02-29", "2024-03-01"),
            (Grain::Week, "2024-02-26", "2024-03-04"),
            (Grain::Month, "2024-02-01", "2024-03-01"),
        ] {
            let floor = grain.floor(time);
            assert_eq!((short(floor), short(grain.step(floor, 1))), (start.to_owned(), next.to_owned()));
            assert_eq!(grain.step(grain.step(floor, 1), -1), floor);
        }
        assert!(parse("29.2.2024").unwrap_err().hint_text().is_some());
        assert!(Grain::Hour.starts(at("1900-01-01"), at("2024-01-01")).is_err());
    }

    #[test]
    fn only_complete_intervals_count() {
        let starts = Grain::Day.starts(at("2024-02-28 05:00"), at("2024-03-01 23:59")).unwrap();
        assert_eq!(shown(&starts.iter().copied().collect()), "2024-02-28 2024-02-29");
        let spans = Grain::Day.spans(&[at("2024-02-28"), at("2024-02-29"), at("2024-03-02")].into());
        let spans: Vec<String> = spans.iter().map(ToString::to_string).collect();
        assert_eq!(spans, ["2024-02-28 to 2024-03-01", "2024-03-02 to 2024-03-03"]);
    }

    #[test]
    fn what_is_missing_late_or_asked_for_is_made() {
        let done: BTreeSet<_> = ["2024-01-01", "2024-01-02", "2024-01-03"].map(at).into();
        let late: BTreeSet<_> = ["2024-01-01", "2023-12-31"].map(at).into();
        let none = BTreeSet::new();
        let asked = Asked {
            grain: Grain::Day,
            start: at("2024-01-01"),
            until: at("2024-01-06"),
            lookback: 1,
            range: None,
            done: &done,
            late: &late,
        };
        let wanted = asked.wanted().unwrap();
        assert_eq!(shown(&wanted.missing), "2024-01-04 2024-01-05");
        assert_eq!(shown(&wanted.again), "2024-01-01 2024-01-03", "late, and looked back to");
        let settled = Asked { until: at("2024-01-04"), late: &none, ..asked.clone() };
        assert_eq!(settled.wanted().unwrap(), Wanted::default(), "looks back only from what is new");
        let range = Some(Span { start: at("2024-01-03"), end: at("2024-01-05") });
        let wanted = Asked { range, ..asked }.wanted().unwrap();
        assert_eq!(
            (shown(&wanted.missing), shown(&wanted.again)),
            ("2024-01-04".into(), "2024-01-01 2024-01-03".into()),
            "what is asked for, and what is late all the same"
        );
    }
}
