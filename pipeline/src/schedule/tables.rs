//! The tables of schema `system` about schedules.
//!
//! # Not here
//! What the lines mean (`store`, `ticks`).

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use skep_common::Result;
use skep_common::clock::Clock;
use skep_coordinator::extension::SystemTable;
use skep_metadb::{MetaDb, database_error};

use super::Ticks;
use super::core::Schedule;
use super::spec::{CatchUp, Overlap, Target};
use crate::ledger::Of;
use crate::tables::{number, numbers, schema, table, text, texts, time, times};

/// Ticks and notifications that are shown at most, the latest.
const LINES_MAX: i64 = 100_000;

/// What is known of schedules.
pub(crate) fn all(db: &MetaDb, clock: &Arc<dyn Clock>) -> Vec<SystemTable> {
    vec![schedules(db, clock), ticks(db), notifications(db)]
}

fn micros(time: Option<i64>) -> Option<DateTime<Utc>> {
    time.and_then(DateTime::from_timestamp_micros)
}

/// What a schedule does, in a word.
fn state(schedule: &Schedule) -> &'static str {
    let runs = schedule.open.iter().any(|tick| tick.began.is_some());
    match schedule {
        _ if runs => "running",
        Schedule { paused: true, .. } => "paused",
        Schedule { open, .. } if open.first().is_some_and(|tick| tick.attempt > 0) => "retrying",
        Schedule { open, .. } if !open.is_empty() => "waiting",
        Schedule { failing: true, .. } => "failing",
        _ => "on",
    }
}

async fn last(db: &MetaDb) -> Result<Vec<(String, String, String, i64, String)>> {
    sqlx::query_as(
        "SELECT t.pipeline, t.environment, t.schedule, t.nominal_us, t.state FROM skep_pipeline_tick AS t JOIN \
         (SELECT pipeline, environment, schedule, max(nominal_us) AS nominal_us FROM skep_pipeline_tick \
          WHERE state <> 'waiting' GROUP BY pipeline, environment, schedule) AS l \
         ON t.pipeline = l.pipeline AND t.environment = l.environment AND t.schedule = l.schedule AND t.nominal_us = l.nominal_us",
    )
    .fetch_all(db.reader())
    .await
    .map_err(|e| database_error("cannot read what is known of schedules", e))
}

/// The versions that are run.
async fn current(db: &MetaDb) -> Result<BTreeMap<Of, i64>> {
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT pipeline, environment, number FROM skep_pipeline_current")
            .fetch_all(db.reader())
            .await
            .map_err(|e| database_error("cannot read what is deployed", e))?;
    let of = |(pipeline, environment, number)| (Of { pipeline, environment }, number);
    Ok(rows.into_iter().map(of).collect())
}

fn schedules(db: &MetaDb, clock: &Arc<dyn Clock>) -> SystemTable {
    let schema = schema(vec![
        text("pipeline", false),
        text("environment", false),
        text("schedule", false),
        number("version", true),
        text("state", false),
        text("cron", false),
        text("time_zone", false),
        text("catch_up", false),
        text("overlap", false),
        time("last_at", true),
        text("last_state", true),
        time("next_at", true),
    ]);
    let of = (db.clone(), Arc::clone(clock));
    table(&of, "pipeline_schedules", schema, |(db, clock)| {
        async move {
            let all = Ticks::new(db.clone()).known().await?.schedules;
            let (last, current, now) = (last(&db).await?, current(&db).await?, clock.now());
            let version = |line: &Schedule| current.get(&line.key.of).copied();
            let last = |schedule: &Schedule| {
                let of = &schedule.key.of;
                let same = |line: &&(String, String, String, i64, String)| {
                    (&line.0, &line.1, &line.2) == (&of.pipeline, &of.environment, &schedule.key.schedule)
                };
                last.iter().find(same)
            };
            let next = |schedule: &Schedule| match schedule.paused {
                true => None,
                false => schedule.times.after(schedule.cursor.max(now)),
            };
            Ok(vec![
                texts(all.iter().map(|line| Some(line.key.of.pipeline.as_str()))),
                texts(all.iter().map(|line| Some(line.key.of.environment.as_str()))),
                texts(all.iter().map(|line| Some(line.key.schedule.as_str()))),
                numbers(all.iter().map(version)),
                texts(all.iter().map(|line| Some(state(line)))),
                texts(all.iter().map(|line| Some(line.spec.cron.as_str()))),
                texts(all.iter().map(|line| Some(line.spec.time_zone.as_str()))),
                texts(all.iter().map(|line| Some(line.spec.catch_up.name()))),
                texts(all.iter().map(|line| Some(line.spec.overlap.name()))),
                times(all.iter().map(|line| last(line).and_then(|last| micros(Some(last.3))))),
                texts(all.iter().map(|line| last(line).map(|last| last.4.as_str()))),
                times(all.iter().map(next)),
            ])
        }
        .boxed()
    })
}

fn ticks(db: &MetaDb) -> SystemTable {
    type Row = (
        String,
        String,
        String,
        i64,
        String,
        i64,
        i64,
        Option<i64>,
        Option<i64>,
        i64,
        Option<i64>,
        Option<i64>,
        Option<String>,
    );
    let schema = schema(vec![
        text("pipeline", false),
        text("environment", false),
        text("schedule", false),
        time("nominal_time", false),
        text("state", false),
        number("missed", false),
        number("attempt", false),
        number("version", true),
        number("run_id", true),
        time("due_at", false),
        time("began_at", true),
        time("ended_at", true),
        text("note", true),
    ]);
    table(db, "pipeline_ticks", schema, |db| {
        async move {
            let all: Vec<Row> = sqlx::query_as(
                "SELECT pipeline, environment, schedule, nominal_us, state, missed, attempt, number, run_id, due_us, began_us, \
                 ended_us, note FROM skep_pipeline_tick ORDER BY nominal_us DESC LIMIT ?",
            )
            .bind(LINES_MAX)
            .fetch_all(db.reader())
            .await
            .map_err(|e| database_error("cannot read the ticks of schedules", e))?;
            Ok(vec![
                texts(all.iter().map(|line| Some(line.0.as_str()))),
                texts(all.iter().map(|line| Some(line.1.as_str()))),
                texts(all.iter().map(|line| Some(line.2.as_str()))),
                times(all.iter().map(|line| micros(Some(line.3)))),
                texts(all.iter().map(|line| Some(line.4.as_str()))),
                numbers(all.iter().map(|line| Some(line.5))),
                numbers(all.iter().map(|line| Some(line.6))),
                numbers(all.iter().map(|line| line.7)),
                numbers(all.iter().map(|line| line.8)),
                times(all.iter().map(|line| micros(Some(line.9)))),
                times(all.iter().map(|line| micros(line.10))),
                times(all.iter().map(|line| micros(line.11))),
                texts(all.iter().map(|line| line.12.as_deref())),
            ])
        }
        .boxed()
    })
}

fn notifications(db: &MetaDb) -> SystemTable {
    type Row = (
        i64,
        String,
        String,
        String,
        i64,
        Option<i64>,
        String,
        String,
        String,
        i64,
        i64,
        Option<i64>,
        Option<String>,
    );
    let schema = schema(vec![
        number("notification_id", false),
        text("pipeline", false),
        text("environment", false),
        text("schedule", false),
        time("nominal_time", false),
        number("run_id", true),
        text("event", false),
        text("target", false),
        text("state", false),
        number("attempts", false),
        time("created_at", false),
        time("ended_at", true),
        text("error", true),
    ]);
    table(db, "pipeline_notifications", schema, |db| {
        async move {
            let all: Vec<Row> = sqlx::query_as(
                "SELECT notification_id, pipeline, environment, schedule, nominal_us, run_id, event, target, state, attempts, \
                 created_us, ended_us, error FROM skep_pipeline_notification ORDER BY notification_id DESC LIMIT ?",
            )
            .bind(LINES_MAX)
            .fetch_all(db.reader())
            .await
            .map_err(|e| database_error("cannot read who was told of runs", e))?;
            let target = |line: &Row| serde_json::from_str::<Target>(&line.7).ok().map(|target| target.shown());
            let targets: Vec<String> = all.iter().map(|line| target(line).unwrap_or_default()).collect();
            Ok(vec![
                numbers(all.iter().map(|line| Some(line.0))),
                texts(all.iter().map(|line| Some(line.1.as_str()))),
                texts(all.iter().map(|line| Some(line.2.as_str()))),
                texts(all.iter().map(|line| Some(line.3.as_str()))),
                times(all.iter().map(|line| micros(Some(line.4)))),
                numbers(all.iter().map(|line| line.5)),
                texts(all.iter().map(|line| Some(line.6.as_str()))),
                texts(targets.iter().map(|target| Some(target.as_str()))),
                texts(all.iter().map(|line| Some(line.8.as_str()))),
                numbers(all.iter().map(|line| Some(line.9))),
                times(all.iter().map(|line| micros(Some(line.10)))),
                times(all.iter().map(|line| micros(line.11))),
                texts(all.iter().map(|line| line.12.as_deref())),
            ])
        }
        .boxed()
    })
}

impl CatchUp {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Latest => "latest",
            Self::Collapse => "collapse",
        }
    }
}

impl Overlap {
    fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
        }
    }
}
