//! What runs told, line by line, in the catalog's database.
//!
//! Lines are kept of the latest runs of each pipeline in each environment; a run that begins removes what is older.
//!
//! # Not here
//! Who listens while a run goes on: its events.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use skep_common::task::{self, Task};
use skep_common::{Error, Result};
use skep_metadb::{MetaDb, database_error};
use tokio::sync::mpsc;

use crate::event::Event;
use crate::ledger::Of;

/// Lines that wait to be written; a run waits for a database that is slower.
const LINES: usize = 256;
/// Lines that are written at once.
const BATCH: usize = 64;
/// How often whoever follows a run looks for more.
const LOOK: Duration = Duration::from_millis(200);

/// Which lines are wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Logs {
    /// The run; absent: the latest.
    pub run: Option<i64>,
    /// Go on until the run is over.
    pub follow: bool,
}

/// A line of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When it was told.
    pub time: DateTime<Utc>,
    /// What was told.
    #[serde(flatten)]
    pub event: Event,
}

fn failed(error: sqlx::Error) -> Error {
    database_error("cannot write down what a run told", error)
}

/// Writes the lines of one run in the background.
pub(crate) struct Log {
    lines: mpsc::Sender<Line>,
    writing: Task<()>,
}

impl Log {
    /// Begins the lines of a run. Those of all but the latest `kept` runs of the pipeline go.
    pub(crate) fn begin(db: &MetaDb, of: &Of, run: i64, kept: u32) -> Self {
        let (lines, waiting) = mpsc::channel(LINES);
        let writing = task::spawn("pipeline log", write(db.clone(), of.clone(), run, kept, waiting));
        Self { lines, writing }
    }

    pub(crate) async fn line(&self, time: DateTime<Utc>, event: &Event) {
        // It warned already if it could not go on.
        let _ = self.lines.send(Line { time, event: event.clone() }).await;
    }

    /// Waits until all lines are written.
    pub(crate) async fn finish(self) {
        drop(self.lines);
        if let Err(error) = self.writing.join().await {
            tracing::warn!(error = error.report(), "the last lines of a run were not written down");
        }
    }
}

async fn write(db: MetaDb, of: Of, run: i64, kept: u32, mut waiting: mpsc::Receiver<Line>) {
    let warn =
        |error: &Error| tracing::warn!(run, error = error.report(), "lines of a run were not written down");
    if let Err(error) = forget(&db, &of, kept).await {
        warn(&error);
    }
    let (mut batch, mut position) = (Vec::new(), 0_i64);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        if let Err(error) = store(&db, run, position, &batch).await {
            warn(&error);
        }
        position += i64::try_from(batch.len()).unwrap_or(0);
        batch.clear();
    }
}

async fn forget(db: &MetaDb, of: &Of, kept: u32) -> Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query(
        "DELETE FROM skep_pipeline_log WHERE run_id IN (SELECT run_id FROM skep_pipeline_run WHERE pipeline = ?1 AND \
         environment = ?2 AND run_id < (SELECT min(run_id) FROM (SELECT run_id FROM skep_pipeline_run WHERE pipeline = ?1 AND \
         environment = ?2 ORDER BY run_id DESC LIMIT ?3) AS latest))",
    )
    .bind(&of.pipeline)
    .bind(&of.environment)
    .bind(i64::from(kept))
    .execute(tx.conn())
    .await
    .map_err(failed)?;
    tx.commit().await
}

async fn store(db: &MetaDb, run: i64, first: i64, lines: &[Line]) -> Result<()> {
    let mut tx = db.begin().await?;
    for (position, line) in (first..).zip(lines) {
        let event = serde_json::to_string(&line.event)
            .map_err(|e| Error::internal("an event does not serialise").source(e))?;
        sqlx::query("INSERT INTO skep_pipeline_log (run_id, position, at_us, event) VALUES (?, ?, ?, ?)")
            .bind(run)
            .bind(position)
            .bind(line.time.timestamp_micros())
            .bind(event)
            .execute(tx.conn())
            .await
            .map_err(failed)?;
    }
    tx.commit().await
}

/// The lines of a run from a position on.
async fn read(db: &MetaDb, run: i64, from: i64) -> Result<Vec<Line>> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT at_us, event FROM skep_pipeline_log WHERE run_id = ? AND position >= ? ORDER BY position",
    )
    .bind(run)
    .bind(from)
    .fetch_all(db.reader())
    .await
    .map_err(|e| database_error("cannot read what a run told", e))?;
    let line = |(at, event): (i64, String)| {
        let event = serde_json::from_str(&event)
            .map_err(|e| Error::corrupt(format!("a line of run {run} does not read")).source(e))?;
        Ok(Line { time: DateTime::from_timestamp_micros(at).unwrap_or_default(), event })
    };
    rows.into_iter().map(line).collect()
}

/// The run that is meant and its state.
async fn state(db: &MetaDb, run: Option<i64>) -> Result<Option<(i64, String)>> {
    sqlx::query_as(
        "SELECT run_id, state FROM skep_pipeline_run WHERE run_id = coalesce(?, (SELECT max(run_id) FROM skep_pipeline_run))",
    )
    .bind(run)
    .fetch_optional(db.reader())
    .await
    .map_err(|e| database_error("cannot read the runs of pipelines", e))
}

/// Sends the lines of a run, and waits for more if that is asked for and the run goes on.
pub(crate) async fn send(db: MetaDb, wanted: Logs, to: mpsc::Sender<Result<Line>>) {
    let sent = send_all(&db, &wanted, &to).await;
    if let Err(error) = sent {
        // Whoever asked may be gone.
        let _ = to.send(Err(error)).await;
    }
}

async fn send_all(db: &MetaDb, wanted: &Logs, to: &mpsc::Sender<Result<Line>>) -> Result<()> {
    let Some((run, _)) = state(db, wanted.run).await? else {
        let what =
            wanted.run.map_or("there is no run yet".to_owned(), |run| format!("there is no run {run}"));
        return Err(Error::not_found(what).hint("skep pipeline status lists the runs"));
    };
    let (mut position, mut over) = (0, false);
    loop {
        // Asked before the lines: what is over by now has told all of them, or never will.
        let ended = state(db, Some(run)).await?.is_none_or(|(_, state)| state != "running");
        let lines = read(db, run, position).await?;
        let more = !lines.is_empty();
        position += i64::try_from(lines.len()).unwrap_or(0);
        for line in lines {
            over |= matches!(line.event, Event::Over { .. });
            if to.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        if position == 0 && ended {
            return Err(Error::not_found(format!("what run {run} told is no longer there"))
                .hint("lines are kept of the latest runs: [pipelines] logs_kept"));
        }
        if over || !wanted.follow || (ended && !more) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}
