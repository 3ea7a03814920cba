//! The latest statement of one session, in one look: for a client that shows what it waits for.
//!
//! # Not here
//! All queries of everybody: `system.queries` and `system.stages`, which say the same.

use chrono::{DateTime, Utc};
use serde::Serialize;
use skep_common::SessionId;

use super::Queries;
use super::stages::stages_of;
use super::state::{Entry, State};
use crate::lanes::Lane;

/// Stages that a status lists at most.
const STAGES_MAX: usize = 32;

/// What a statement does, or did. Sizes are bytes; what nobody knows is absent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Its id.
    pub query: String,
    /// As `system.queries` has it.
    pub state: &'static str,
    /// The lane of its latest plan.
    pub lane: Option<String>,
    /// Since it came, up to its end.
    pub elapsed_ms: i64,
    /// The share of the work that is done, 0 to 1.
    pub progress: Option<f64>,
    /// What it still needs if it goes on as it did.
    pub remaining_ms: Option<i64>,
    /// Rows returned or written.
    pub rows: Option<u64>,
    /// Of the rows returned, as they are in memory.
    pub bytes: Option<u64>,
    /// Of the files that it scanned so far.
    pub scan_bytes: Option<u64>,
    /// The share of what workers scan that lies where it is scanned.
    pub local: Option<f64>,
    /// Workers that its latest plan has tasks on.
    pub workers: usize,
    /// The stages of its latest plan on workers, inputs first, the first few of many.
    pub stages: Vec<Stage>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its number in the plan.
    pub stage: u64,
    /// As `system.stages` has it.
    pub state: &'static str,
    /// How many tasks.
    pub tasks: u64,
    /// Parts of its output, and those of them that are there.
    pub done: Option<(u64, u64)>,
    /// Rows of its output.
    pub rows: Option<u64>,
}

impl Queries {
    /// The statement that `session` began last, while it is in memory.
    pub(crate) fn latest(&self, session: SessionId) -> Option<Status> {
        let entry = self.registry.lock().latest(&session.to_string())?;
        Some(status(&entry, self.catalog.now()))
    }
}

fn status(entry: &Entry, now: DateTime<Utc>) -> Status {
    let query = entry.seen();
    let plans = entry.meter.plans();
    let mut stages = Vec::new();
    let (mut near, mut of) = (0.0, 0.0);
    for line in stages_of(entry) {
        if let Some((held, all)) = line.held() {
            (near, of) = (near + held, of + all);
        }
        let latest = plans.last().is_some_and(|plan| plan.number as u64 == line.plan);
        if latest && line.stage > 0 && stages.len() < STAGES_MAX {
            stages.push(line);
        }
    }
    let measured = plans.last().map(|plan| plan.ran.measured()).unwrap_or_default();
    let stages = stages.into_iter().map(|line| Stage {
        stage: line.stage,
        state: line.state,
        tasks: line.tasks,
        done: measured
            .iter()
            .find(|figures| figures.stage as u64 == line.stage && figures.parts > 0)
            .map(|figures| (figures.done as u64, figures.parts as u64)),
        rows: line.rows,
    });
    Status {
        query: query.id.to_string(),
        state: query.state.name(),
        lane: query.lane.clone(),
        elapsed_ms: (query.ended.unwrap_or(now) - query.created).num_milliseconds().max(0),
        progress: query.progress,
        remaining_ms: query.remaining_ms(now),
        rows: query.rows,
        bytes: query.bytes,
        scan_bytes: scanned(entry, query.state),
        local: (of > 0.0).then(|| near / of),
        workers: plans.last().map_or(0, |plan| plan.ran.tasks().len()),
        stages: stages.collect(),
    }
}

/// Bytes of files that were scanned: where it ran over workers what they said, and all when it is done.
fn scanned(entry: &Entry, state: State) -> Option<u64> {
    let mut all = 0;
    let mut over_workers = 0;
    for plan in entry.meter.plans() {
        match plan.ran.lane() {
            Some(Lane::Local) => all += plan.sight.read() as u64,
            Some(_) => over_workers += plan.sight.bytes(),
            None => {}
        }
    }
    all += if state == State::Finished { over_workers } else { entry.meter.worked().min(over_workers) };
    (all > 0).then_some(all)
}
