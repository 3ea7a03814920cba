//! What a scheduler does next: from schedules, what is known of them, and the time.
//!
//! ```text
//! nominal times since the cursor --catch_up, overlap--> ticks --free?--> attempts --ended--> done, again, or failed
//! ```
//!
//! A *tick* is a nominal time that was looked at. A schedule has one that waits or runs at a time, but for `catch_up = "all"`,
//! whose missed times wait behind each other.
//!
//! # Invariants
//! - Pure: the same schedules at the same time, the same steps.
//! - The cursor never goes back: no nominal time is looked at twice.
//! - One tick of a pipeline in an environment is begun at a time.
//!
//! # Not here
//! Writing steps down (`store`), running ticks (`service`).

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::cron::Times;
use super::spec::{CatchUp, Overlap, Spec};
use crate::ledger::Of;

/// Missed times that are caught up one by one; earlier ones are left out.
pub(super) const ALL_MAX: usize = 1000;
/// How often a run that was lost with its coordinator is begun again, whatever `retries` says.
const LOST_MAX: u32 = 3;
/// The longest that an attempt waits for, unless `retry_delay` is longer.
const DELAY_MAX: Duration = Duration::from_secs(60 * 60);

/// A schedule of a pipeline in an environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) of: Of,
    pub(crate) schedule: String,
}

/// What is known of a schedule.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) key: Key,
    pub(crate) spec: Spec,
    pub(crate) times: Times,
    pub(crate) paused: bool,
    /// Nominal times up to here were looked at.
    pub(crate) cursor: DateTime<Utc>,
    /// Its last tick that ended did not end well.
    pub(crate) failing: bool,
    /// Ticks that wait or run, by their nominal times.
    pub(crate) open: Vec<Tick>,
}

/// A nominal time that waits or runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) nominal: DateTime<Utc>,
    /// Attempts that were begun.
    pub(crate) attempt: u32,
    /// Those of them that were lost with their coordinator.
    pub(crate) lost: u32,
    /// No attempt is begun before.
    pub(crate) due: DateTime<Utc>,
    /// Its lateness was told.
    pub(crate) late: bool,
    /// The latest attempt.
    pub(crate) run: Option<i64>,
    /// When the attempt that goes on began; none: it waits.
    pub(crate) began: Option<DateTime<Utc>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A nominal time is a tick from here on, and the cursor stands on it.
    Wait { key: Key, nominal: DateTime<Utc>, missed: u64, note: Option<String> },
    /// A nominal time is left out, and the cursor stands on it.
    Skip { key: Key, nominal: DateTime<Utc>, note: String },
    /// An attempt is begun.
    Begin { key: Key, nominal: DateTime<Utc> },
    /// An attempt takes too long.
    Stop { key: Key, nominal: DateTime<Utc>, after: Duration },
    /// A tick should have ended by now.
    Late { key: Key, nominal: DateTime<Utc>, after: Duration },
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Failed,
    /// With its coordinator.
    Lost,
}

/// What becomes of its tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is done.
    Done { recovered: bool },
    /// There is another attempt.
    Again { due: DateTime<Utc> },
    /// It failed for good.
    Failed,
}

/// A time as notes write it.
pub(crate) fn shown(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Everything that is to be done at `now`, in order. `busy` are pipelines that run, `free` is how many more runs may begin.
pub(crate) fn decide(
    schedules: &[Schedule],
    busy: &BTreeSet<Of>,
    free: usize,
    now: DateTime<Utc>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut ready = Vec::new();
    for schedule in schedules {
        let mut open = schedule.open.clone();
        if !schedule.paused {
            let come = schedule.come(now);
            open.extend(come.iter().filter_map(|step| match step {
                Step::Wait { nominal, .. } => Some(Tick::new(*nominal)),
                _ => None,
            }));
            steps.extend(come);
        }
        for tick in &open {
            steps.extend(schedule.overdue(tick, now));
        }
        // Each after those before it, also while they wait for another attempt.
        if let Some(first) = open.first()
            && !schedule.paused
            && first.began.is_none()
            && first.due <= now
        {
            ready.push((first.nominal, &schedule.key));
        }
    }
    ready.sort();
    let mut busy = busy.clone();
    let begun = ready.into_iter().filter(|(_, key)| busy.insert(key.of.clone())).take(free);
    steps.extend(begun.map(|(nominal, key)| Step::Begin { key: key.clone(), nominal }));
    steps
}

/// When something is to be done again, if nothing else happens before.
pub(crate) fn wake(schedules: &[Schedule], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let of_one = |schedule: &Schedule| {
        let next = (!schedule.paused).then(|| schedule.times.after(schedule.cursor.max(now))).flatten();
        let mut all: Vec<DateTime<Utc>> = next.into_iter().collect();
        for tick in &schedule.open {
            let since = |from: DateTime<Utc>, time: Option<Duration>| time.map(|time| from + time);
            all.push(tick.due);
            all.extend(since(tick.nominal, schedule.spec.late_after));
            all.extend(tick.began.and_then(|began| since(began, schedule.spec.timeout)));
        }
        all.into_iter().filter(|time| *time > now).min()
    };
    schedules.iter().filter_map(of_one).min()
}

impl Tick {
    /// One that was not attempted yet.
    pub(crate) fn new(nominal: DateTime<Utc>) -> Self {
        Self { nominal, attempt: 0, lost: 0, due: nominal, late: false, run: None, began: None }
    }
}

impl Schedule {
    /// What becomes of the nominal times that came since the cursor.
    fn come(&self, now: DateTime<Utc>) -> Vec<Step> {
        let key = || self.key.clone();
        if let Some(first) = self.open.first() {
            if self.spec.overlap == Overlap::Queue {
                return Vec::new();
            }
            let note = match first.began {
                Some(_) => format!("the run of {} went on", shown(first.nominal)),
                None => format!("{} still waited", shown(first.nominal)),
            };
            let (_, times) = self.times.between(self.cursor, now, ALL_MAX);
            let skip = |nominal| Step::Skip { key: key(), nominal, note: note.clone() };
            return times.into_iter().map(skip).collect();
        }
        let kept = if self.spec.catch_up == CatchUp::All { ALL_MAX } else { 1 };
        let (count, times) = self.times.between(self.cursor, now, kept);
        let missed = count.saturating_sub(times.len() as u64);
        let note = match (self.spec.catch_up, missed) {
            (_, 0) => None,
            (CatchUp::All, _) => Some(format!("{missed} earlier times were left out: they are too many")),
            (CatchUp::Latest, _) => Some(format!("{missed} earlier times were missed")),
            (CatchUp::Collapse, _) => Some(format!("for {missed} earlier times as well")),
        };
        let first = times.first().copied();
        let wait = |nominal: DateTime<Utc>| {
            let of_first = Some(nominal) == first;
            let (missed, note) = if of_first { (missed, note.clone()) } else { (0, None) };
            Step::Wait { key: key(), nominal, missed, note }
        };
        times.into_iter().map(wait).collect()
    }

    fn overdue(&self, tick: &Tick, now: DateTime<Utc>) -> Vec<Step> {
        let mut steps = Vec::new();
        let (key, nominal) = (&self.key, tick.nominal);
        if let (Some(began), Some(after)) = (tick.began, self.spec.timeout)
            && began + after <= now
        {
            steps.push(Step::Stop { key: key.clone(), nominal, after });
        }
        if let Some(after) = self.spec.late_after
            && !tick.late
            && !self.paused
            && nominal + after <= now
        {
            steps.push(Step::Late { key: key.clone(), nominal, after });
        }
        steps
    }

    /// What becomes of a tick whose attempt ended.
    pub(crate) fn next(&self, tick: &Tick, ended: Ended, now: DateTime<Utc>) -> Next {
        let failures = tick.attempt.saturating_sub(tick.lost);
        match ended {
            Ended::Well => Next::Done { recovered: self.failing },
            Ended::Lost if tick.lost < LOST_MAX => Next::Again { due: now },
            Ended::Failed if failures <= self.spec.retries => {
                let longest = DELAY_MAX.max(self.spec.retry_delay);
                let times = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
                Next::Again { due: now + self.spec.retry_delay.saturating_mul(times).min(longest) }
            }
            Ended::Lost | Ended::Failed => Next::Failed,
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
