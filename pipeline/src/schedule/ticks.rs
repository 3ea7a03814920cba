//! Reads what is known of schedules, and writes what becomes of their ticks.
//!
//! # Not here
//! What the next step is (`core`), and taking it (`service`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use skep_common::{Error, Result};
use skep_metadb::{Lease, MetaDb, WriteTx, database_error};

use super::core::{Key, Next, Schedule, Step, Tick, shown};
use super::cron::Times;
use super::spec::{Notify, On};
use super::store::{failed, of_json};
use crate::ledger::Of;
use crate::notify::{self, Facts};

/// Everything that is known.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) schedules: Vec<Schedule>,
    /// Ticks that run for schedules that are no longer deployed.
    pub(crate) orphans: Vec<(Key, Tick)>,
    /// Who is told of what.
    pub(crate) notify: BTreeMap<Of, Vec<Notify>>,
}

/// A tick whose attempt begins with a run.
#[derive(Debug, Clone)]
pub(crate) struct Begin {
    pub(crate) lease: Lease,
    pub(crate) key: Key,
    pub(crate) nominal: DateTime<Utc>,
    /// The version that is run.
    pub(crate) number: i64,
}

/// How an attempt ended, as it is written down.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) key: Key,
    /// As it was when it ended, with that attempt counted.
    pub(crate) tick: Tick,
    pub(crate) next: Next,
    /// It was lost with its coordinator.
    pub(crate) lost: bool,
    pub(crate) note: String,
}

/// How a run of a tick stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunState {
    pub(crate) state: String,
    pub(crate) error: Option<String>,
    pub(crate) heard: DateTime<Utc>,
}

/// The tables. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ticks {
    db: MetaDb,
}

fn reading(error: sqlx::Error) -> Error {
    database_error("cannot read what is known of schedules", error)
}

fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

impl Begin {
    /// Writes down, with the run, that the tick runs.
    ///
    /// # Errors
    /// [`Kind::Conflict`](skep_common::Kind::Conflict) if the lease is another's, or the tick no longer waits; those of the database.
    pub(crate) async fn with(&self, tx: &mut WriteTx, run: i64, now: DateTime<Utc>) -> Result<()> {
        tx.fence(&self.lease).await?;
        let done = sqlx::query(
            "UPDATE skep_pipeline_tick SET state = 'running', attempt = attempt + 1, run_id = ?, began_us = ?, number = ?, \
             ended_us = NULL WHERE pipeline = ? AND environment = ? AND schedule = ? AND nominal_us = ? AND state = 'waiting'",
        )
        .bind(run)
        .bind(now.timestamp_micros())
        .bind(self.number)
        .bind(&self.key.of.pipeline)
        .bind(&self.key.of.environment)
        .bind(&self.key.schedule)
        .bind(self.nominal.timestamp_micros())
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Error::conflict(format!("{} no longer waits", shown(self.nominal)))),
        }
    }
}

impl Ticks {
    pub(crate) fn new(db: MetaDb) -> Self {
        Self { db }
    }

    /// Whether there is anything for a scheduler to do, now or later.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn any(&self) -> Result<bool> {
        let (count,): (i64,) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM skep_pipeline_schedule) \
             + (SELECT count(*) FROM skep_pipeline_tick WHERE state = 'running') \
             + (SELECT count(*) FROM skep_pipeline_notification WHERE state = 'waiting')",
        )
        .fetch_one(self.db.reader())
        .await
        .map_err(reading)?;
        Ok(count > 0)
    }

    /// # Errors
    /// Those of the database. A schedule that does not read is warned of and left out.
    pub(crate) async fn known(&self) -> Result<Known> {
        let rows: Vec<(String, String, String, String, i64, i64, i64)> = sqlx::query_as(
            "SELECT pipeline, environment, schedule, spec, paused, cursor_us, failing FROM skep_pipeline_schedule \
             ORDER BY pipeline, environment, schedule",
        )
        .fetch_all(self.db.reader())
        .await
        .map_err(reading)?;
        let mut known = Known::default();
        for (pipeline, environment, schedule, spec, paused, cursor, failing) in rows {
            let key = Key { of: Of { pipeline, environment }, schedule };
            let read = of_json(&key.of, &key.schedule, &spec)
                .and_then(|spec| Ok((Times::new(&spec.cron, &spec.time_zone)?, spec)));
            match read {
                Ok((times, spec)) => known.schedules.push(Schedule {
                    key,
                    spec,
                    times,
                    paused: paused != 0,
                    cursor: time(cursor),
                    failing: failing != 0,
                    open: Vec::new(),
                }),
                Err(error) => tracing::error!(error = error.report(), "a schedule is left out"),
            }
        }
        for (key, tick) in self.open().await? {
            match known.schedules.iter_mut().find(|schedule| schedule.key == key) {
                Some(schedule) => schedule.open.push(tick),
                None => known.orphans.push((key, tick)),
            }
        }
        let rows: Vec<(String, String, String)> =
            sqlx::query_as("SELECT pipeline, environment, notify FROM skep_pipeline_current")
                .fetch_all(self.db.reader())
                .await
                .map_err(reading)?;
        for (pipeline, environment, text) in rows {
            match serde_json::from_str(&text) {
                Ok(notify) => {
                    known.notify.insert(Of { pipeline, environment }, notify);
                }
                Err(error) => tracing::error!(%error, pipeline, "who is told of it does not read"),
            }
        }
        Ok(known)
    }

    async fn open(&self) -> Result<Vec<(Key, Tick)>> {
        type Row = (String, String, String, i64, String, i64, i64, i64, i64, Option<i64>, Option<i64>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT pipeline, environment, schedule, nominal_us, state, attempt, lost, due_us, late, run_id, began_us \
             FROM skep_pipeline_tick WHERE state IN ('waiting', 'running') ORDER BY nominal_us",
        )
        .fetch_all(self.db.reader())
        .await
        .map_err(reading)?;
        let open =
            |(pipeline, environment, schedule, nominal, state, attempt, lost, due, late, run, began): Row| {
                let tick = Tick {
                    nominal: time(nominal),
                    attempt: count(attempt),
                    lost: count(lost),
                    due: time(due),
                    late: late != 0,
                    run,
                    began: began.filter(|_| state == "running").map(time),
                };
                (Key { of: Of { pipeline, environment }, schedule }, tick)
            };
        Ok(rows.into_iter().map(open).collect())
    }

    /// Writes down what was decided, but for what begins and stops.
    ///
    /// # Errors
    /// [`Kind::Conflict`](skep_common::Kind::Conflict) if the lease is another's; those of the database.
    pub(crate) async fn write(
        &self,
        lease: &Lease,
        steps: &[Step],
        known: &Known,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let written = |step: &Step| !matches!(step, Step::Begin { .. } | Step::Stop { .. });
        if !steps.iter().any(written) {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        tx.fence(lease).await?;
        for step in steps {
            match step {
                Step::Wait { key, nominal, missed, note } => {
                    add(&mut tx, key, *nominal, "waiting", *missed, note.as_deref(), None).await?;
                }
                Step::Skip { key, nominal, note } => {
                    add(&mut tx, key, *nominal, "skipped", 0, Some(note), Some(now)).await?;
                }
                Step::Late { key, nominal, after } => {
                    late(&mut tx, key, *nominal, *after, known, now).await?;
                }
                Step::Begin { .. } | Step::Stop { .. } => {}
            }
        }
        tx.commit().await
    }

    /// Writes down how an attempt ended, and who is to be told.
    ///
    /// # Errors
    /// [`Kind::Conflict`](skep_common::Kind::Conflict) if the lease is another's; those of the database.
    pub(crate) async fn end(
        &self,
        lease: &Lease,
        end: &End,
        notify: &[Notify],
        now: DateTime<Utc>,
    ) -> Result<()> {
        let End { key, tick, next, lost, note } = end;
        let (state, due, ended) = match next {
            Next::Again { due } => ("waiting", *due, None),
            Next::Done { .. } => ("done", tick.due, Some(now)),
            Next::Failed => ("failed", tick.due, Some(now)),
        };
        let mut tx = self.db.begin().await?;
        tx.fence(lease).await?;
        let done = sqlx::query(
            "UPDATE skep_pipeline_tick SET state = ?, attempt = ?, lost = ?, due_us = ?, ended_us = ?, note = ? \
             WHERE pipeline = ? AND environment = ? AND schedule = ? AND nominal_us = ? AND state IN ('waiting', 'running')",
        )
        .bind(state)
        .bind(i64::from(tick.attempt))
        .bind(i64::from(tick.lost + u32::from(*lost)))
        .bind(due.timestamp_micros())
        .bind(ended.map(|ended| ended.timestamp_micros()))
        .bind(note)
        .bind(&key.of.pipeline)
        .bind(&key.of.environment)
        .bind(&key.schedule)
        .bind(tick.nominal.timestamp_micros())
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        let on = match next {
            Next::Again { .. } => None,
            Next::Failed => Some(On::Failure),
            Next::Done { recovered } => recovered.then_some(On::Recovery),
        };
        if !matches!(next, Next::Again { .. }) {
            sqlx::query(
                "UPDATE skep_pipeline_schedule SET failing = ? WHERE pipeline = ? AND environment = ? AND schedule = ?",
            )
            .bind(i64::from(*next == Next::Failed))
            .bind(&key.of.pipeline)
            .bind(&key.of.environment)
            .bind(&key.schedule)
            .execute(tx.conn())
            .await
            .map_err(failed)?;
        }
        if let Some(on) = on {
            let facts =
                Facts { on, key, nominal: tick.nominal, run: tick.run, attempt: tick.attempt, error: note };
            notify::add(&mut tx, &facts, notify, now).await?;
        }
        tx.commit().await
    }

    /// Pipelines that run, whoever began them. Runs that were silent since `limit` are none.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn busy(&self, limit: DateTime<Utc>) -> Result<BTreeSet<Of>> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT pipeline, environment FROM skep_pipeline_run WHERE state = 'running' AND heard_us >= ?",
        )
        .bind(limit.timestamp_micros())
        .fetch_all(self.db.reader())
        .await
        .map_err(reading)?;
        Ok(rows.into_iter().map(|(pipeline, environment)| Of { pipeline, environment }).collect())
    }

    /// # Errors
    /// Those of the database.
    pub(crate) async fn run(&self, run: i64) -> Result<Option<RunState>> {
        let row: Option<(String, Option<String>, i64)> =
            sqlx::query_as("SELECT state, error, heard_us FROM skep_pipeline_run WHERE run_id = ?")
                .bind(run)
                .fetch_optional(self.db.reader())
                .await
                .map_err(reading)?;
        Ok(row.map(|(state, error, heard)| RunState { state, error, heard: time(heard) }))
    }

    /// A run that was silent for too long is lost: it cannot publish from here on.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn lose(&self, run: i64, silent_since: DateTime<Utc>, now: DateTime<Utc>) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "UPDATE skep_pipeline_run SET state = 'lost', ended_us = ?, error = 'its coordinator fell silent' \
             WHERE run_id = ? AND state = 'running' AND heard_us <= ?",
        )
        .bind(now.timestamp_micros())
        .bind(run)
        .bind(silent_since.timestamp_micros())
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await
    }

    /// Runs of ticks that `owner` leaves behind are lost, so that whoever comes next does not wait for them.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn leave(&self, owner: &str, now: DateTime<Utc>) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "UPDATE skep_pipeline_run SET state = 'lost', ended_us = ?, error = 'its coordinator ended' \
             WHERE state = 'running' AND owner = ? \
             AND run_id IN (SELECT run_id FROM skep_pipeline_tick WHERE state = 'running')",
        )
        .bind(now.timestamp_micros())
        .bind(owner)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await
    }

    /// Pauses or resumes schedules of a pipeline; returns those that were changed, and how many there are.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn pause(
        &self,
        of: &Of,
        schedule: Option<&str>,
        paused: bool,
    ) -> Result<(Vec<String>, usize)> {
        let mut tx = self.db.begin().await?;
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT schedule, paused FROM skep_pipeline_schedule WHERE pipeline = ? AND environment = ? ORDER BY schedule",
        )
        .bind(&of.pipeline)
        .bind(&of.environment)
        .fetch_all(tx.conn())
        .await
        .map_err(failed)?;
        let meant: Vec<&(String, i64)> =
            rows.iter().filter(|(name, _)| schedule.is_none_or(|wanted| wanted == name)).collect();
        let mut changed = Vec::new();
        for (name, was) in &meant {
            if (*was != 0) == paused {
                continue;
            }
            sqlx::query(
                "UPDATE skep_pipeline_schedule SET paused = ? WHERE pipeline = ? AND environment = ? AND schedule = ?",
            )
            .bind(i64::from(paused))
            .bind(&of.pipeline)
            .bind(&of.environment)
            .bind(name)
            .execute(tx.conn())
            .await
            .map_err(failed)?;
            changed.push(name.clone());
        }
        let found = meant.len();
        tx.commit().await?;
        Ok((changed, found))
    }
}

async fn add(
    tx: &mut WriteTx,
    key: &Key,
    nominal: DateTime<Utc>,
    state: &str,
    missed: u64,
    note: Option<&str>,
    ended: Option<DateTime<Utc>>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO skep_pipeline_tick (pipeline, environment, schedule, nominal_us, state, missed, attempt, lost, due_us, \
         late, ended_us, note) VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, 0, ?, ?) \
         ON CONFLICT (pipeline, environment, schedule, nominal_us) DO NOTHING",
    )
    .bind(&key.of.pipeline)
    .bind(&key.of.environment)
    .bind(&key.schedule)
    .bind(nominal.timestamp_micros())
    .bind(state)
    .bind(i64::try_from(missed).unwrap_or(i64::MAX))
    .bind(nominal.timestamp_micros())
    .bind(ended.map(|ended| ended.timestamp_micros()))
    .bind(note)
    .execute(tx.conn())
    .await
    .map_err(failed)?;
    sqlx::query(
        "UPDATE skep_pipeline_schedule SET cursor_us = ? \
         WHERE pipeline = ? AND environment = ? AND schedule = ? AND cursor_us < ?",
    )
    .bind(nominal.timestamp_micros())
    .bind(&key.of.pipeline)
    .bind(&key.of.environment)
    .bind(&key.schedule)
    .bind(nominal.timestamp_micros())
    .execute(tx.conn())
    .await
    .map_err(failed)?;
    Ok(())
}

async fn late(
    tx: &mut WriteTx,
    key: &Key,
    nominal: DateTime<Utc>,
    after: Duration,
    known: &Known,
    now: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query(
        "UPDATE skep_pipeline_tick SET late = 1 WHERE pipeline = ? AND environment = ? AND schedule = ? AND nominal_us = ? \
         AND late = 0",
    )
    .bind(&key.of.pipeline)
    .bind(&key.of.environment)
    .bind(&key.schedule)
    .bind(nominal.timestamp_micros())
    .execute(tx.conn())
    .await
    .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    let ticks = known.schedules.iter().filter(|schedule| schedule.key == *key).flat_map(|s| &s.open);
    let tick = ticks.clone().find(|tick| tick.nominal == nominal);
    let why = format!("it did not end within {after:?} of its time");
    let facts = Facts {
        on: On::Late,
        key,
        nominal,
        run: tick.and_then(|tick| tick.run),
        attempt: tick.map_or(0, |tick| tick.attempt),
        error: &why,
    };
    notify::add(tx, &facts, known.notify.get(&key.of).map_or(&[], Vec::as_slice), now).await
}
