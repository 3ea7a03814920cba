//! When deployed projects run.
//!
//! ```text
//! spec      [[schedule]] and [[notify]] of pipeline.toml
//! cron      nominal times, over the wall clock of a time zone
//! core      pure: schedules, what is known of them, the time -> steps
//! store     the tables            ticks   reads what is known, writes steps down
//! service   the loop, under a lease
//! ```
//!
//! # Not here
//! Versions (`crate::deploy`), what a run does (`crate::run`), telling people (`crate::notify`).

mod core;
mod cron;
mod service;
mod spec;
mod store;
mod tables;
mod ticks;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_common::task::{self, Task};
use skep_common::{Error, Result};

pub(crate) use self::core::{Key, shown};
pub(crate) use cron::Times;
pub(crate) use service::{Parts, Scheduler};
pub(crate) use spec::{Notify, On, RawNotify, RawSchedule, Spec, Target};
pub(crate) use store::{prepare, replace};
pub(crate) use tables::all as tables;
pub(crate) use ticks::{Begin, Ticks};

/// Pipelines of a coordinator. Table `[pipelines]` of its config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Scheduled runs that go on at a time. 1 to 64. Others wait.
    pub runs_max: u16,
    /// Whether notifications of projects may run programs on this machine, as the user that the coordinator runs as. Whoever may
    /// deploy then runs any program.
    pub commands: bool,
    /// What runs told is kept of this many runs of a pipeline in an environment. 1 to 100000.
    pub logs_kept: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { runs_max: 4, commands: false, logs_kept: 100 }
    }
}

impl Config {
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for values out of range.
    pub fn validate(&self) -> Result<()> {
        let out = |key: &str, range: &str| {
            Err(Error::invalid(format!("[pipelines] {key} is out of range")).hint(format!("from {range}")))
        };
        match self {
            Self { runs_max, .. } if !(1..=64).contains(runs_max) => out("runs_max", "1 to 64"),
            Self { logs_kept, .. } if !(1..=100_000).contains(logs_kept) => out("logs_kept", "1 to 100000"),
            _ => Ok(()),
        }
    }
}

/// Schedules that are run. Dropping it stops them.
pub struct Scheduling {
    scheduler: Arc<Scheduler>,
    turning: Task<()>,
}

impl Scheduling {
    pub(crate) fn start(scheduler: Arc<Scheduler>) -> Self {
        let turning = task::spawn("schedules", Arc::clone(&scheduler).run());
        Self { scheduler, turning }
    }

    /// Ends the runs that go on, and lets another coordinator take over at once.
    pub async fn stop(self) {
        self.turning.abort();
        self.scheduler.stop().await;
    }
}
