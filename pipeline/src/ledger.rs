//! What was run: runs, models and tests as they went, and the intervals and versions that stand.
//!
//! # Invariants
//! - Intervals and versions are written by the commit that publishes their tables, and by nothing else.
//! - A run that was taken for lost cannot publish: its line says so, and the commit looks at it.
//! - One run of a project in an environment goes on at a time.
//!
//! # Not here
//! Deciding what is run (`run::decide`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use skep_catalog::SideEffect;
use skep_common::{Error, Kind, Result};
use skep_metadb::{Conn, MetaDb, database_error};
use uuid::Uuid;

use crate::event::State;
use crate::interval;
use crate::schedule::Begin;

const MIGRATIONS: &[&str] = &["
    CREATE TABLE skep_pipeline_run (
        run_id BIGINT PRIMARY KEY NOT NULL, pipeline TEXT NOT NULL, environment TEXT NOT NULL, version TEXT NOT NULL,
        key TEXT NOT NULL, owner TEXT NOT NULL, author TEXT NOT NULL, state TEXT NOT NULL, began_us BIGINT NOT NULL, heard_us BIGINT NOT NULL,
        ended_us BIGINT, snapshot_id BIGINT, error TEXT);
    CREATE TABLE skep_pipeline_model (
        run_id BIGINT NOT NULL, model TEXT NOT NULL, position BIGINT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
        row_count BIGINT, took_ms BIGINT, note TEXT, outcome TEXT, PRIMARY KEY (run_id, model));
    CREATE TABLE skep_pipeline_test (
        run_id BIGINT NOT NULL, model TEXT NOT NULL, test TEXT NOT NULL, state TEXT NOT NULL, failures BIGINT NOT NULL,
        note TEXT, PRIMARY KEY (run_id, model, test));
    CREATE TABLE skep_pipeline_interval (
        pipeline TEXT NOT NULL, environment TEXT NOT NULL, model TEXT NOT NULL, start_at TEXT NOT NULL, end_at TEXT NOT NULL,
        run_id BIGINT NOT NULL, fingerprint TEXT NOT NULL, snapshot_id BIGINT NOT NULL,
        PRIMARY KEY (pipeline, environment, model, start_at));
    CREATE TABLE skep_pipeline_seen (
        pipeline TEXT NOT NULL, environment TEXT NOT NULL, model TEXT NOT NULL, fingerprint TEXT NOT NULL,
        run_id BIGINT NOT NULL, base_id BIGINT NOT NULL, snapshot_id BIGINT NOT NULL,
        PRIMARY KEY (pipeline, environment, model));
"];

/// Silence after which a run counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// What a project is called, and which of its environments is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Of {
    pub(crate) pipeline: String,
    pub(crate) environment: String,
}

/// A run, as its line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunLine {
    pub(crate) run: i64,
    pub(crate) of: Of,
    pub(crate) version: String,
    pub(crate) key: Uuid,
    pub(crate) author: String,
    pub(crate) state: String,
    pub(crate) began: DateTime<Utc>,
    pub(crate) ended: Option<DateTime<Utc>>,
    pub(crate) snapshot: Option<i64>,
    pub(crate) error: Option<String>,
}

/// A model of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelLine {
    pub(crate) run: i64,
    pub(crate) model: String,
    pub(crate) position: i64,
    pub(crate) kind: String,
    pub(crate) state: State,
    pub(crate) rows: Option<u64>,
    pub(crate) took: Option<Duration>,
    pub(crate) note: Option<String>,
    /// What a run that goes on with this one has to know of it.
    pub(crate) outcome: Option<String>,
}

/// A test of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestLine {
    pub(crate) run: i64,
    pub(crate) model: String,
    pub(crate) test: String,
    pub(crate) state: State,
    pub(crate) failures: u64,
    pub(crate) note: Option<String>,
}

/// What was published of a model last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) fingerprint: String,
    /// What it read was as in this snapshot, and as its own run left it.
    pub(crate) base: i64,
    /// The snapshot of that run.
    pub(crate) snapshot: i64,
}

impl Seen {
    /// The snapshots, each range with its ends, that it has not seen up to `latest`.
    pub(crate) fn unseen(&self, latest: i64) -> Vec<(i64, i64)> {
        let ranges = [(self.base + 1, self.snapshot - 1), (self.snapshot + 1, latest)];
        ranges.into_iter().filter(|(first, last)| first <= last).collect()
    }
}

/// Which run has what a run staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keeper {
    pub(crate) key: Uuid,
    pub(crate) state: String,
    pub(crate) snapshot: Option<i64>,
    /// The run, or the last that went on with it.
    pub(crate) latest: i64,
}

/// The tables. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    db: MetaDb,
    /// The coordinator whose runs it writes down.
    owner: Arc<str>,
    /// Runs of a pipeline whose lines are kept.
    pub(crate) logs_kept: u32,
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn failed(error: sqlx::Error) -> Error {
    database_error("cannot write down what a pipeline does", error)
}

impl Ledger {
    /// Makes the tables, or brings them up to date.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn prepare(db: &MetaDb) -> Result<()> {
        db.migrate("pipeline", MIGRATIONS).await
    }

    /// # Errors
    /// Those of the database.
    pub(crate) async fn open(db: MetaDb, owner: &str, logs_kept: u32, now: DateTime<Utc>) -> Result<Self> {
        Self::prepare(&db).await?;
        let mut tx = db.begin().await?;
        sqlx::query(
            "UPDATE skep_pipeline_run SET state = 'lost', ended_us = ?, error = 'its coordinator ended' \
             WHERE state = 'running' AND owner = ?",
        )
        .bind(now.timestamp_micros())
        .bind(owner)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await?;
        Ok(Self { db, owner: owner.into(), logs_kept })
    }

    /// The database that it is in.
    pub(crate) fn db(&self) -> &MetaDb {
        &self.db
    }

    /// Begins a run under a number of its own, and the tick that it is of. Runs that were silent for a minute are lost from
    /// here on.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if another one goes on, or the tick is another's; those of the database.
    pub(crate) async fn begin(
        &self,
        of: &Of,
        version: &str,
        key: Uuid,
        author: &str,
        tick: Option<&Begin>,
        now: DateTime<Utc>,
    ) -> Result<i64> {
        let mut tx = self.db.begin().await?;
        let dropped: Option<(i64,)> =
            sqlx::query_as("SELECT run_id FROM skep_pipeline_run WHERE key = ? AND state = 'dropped'")
                .bind(key.to_string())
                .fetch_optional(tx.conn())
                .await
                .map_err(failed)?;
        if let Some((run,)) = dropped {
            return Err(Error::conflict(format!("what run {run} staged was dropped"))
                .hint("begin a new run: skep pipeline run"));
        }
        let limit = now.timestamp_micros() - i64::try_from(LOST_AFTER.as_micros()).unwrap_or(i64::MAX);
        sqlx::query(
            "UPDATE skep_pipeline_run SET state = 'lost', ended_us = ?, error = 'its process ended' \
             WHERE state = 'running' AND heard_us < ?",
        )
        .bind(now.timestamp_micros())
        .bind(limit)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        let other: Option<(i64, String)> = sqlx::query_as(
            "SELECT run_id, author FROM skep_pipeline_run WHERE pipeline = ? AND environment = ? AND state = 'running'",
        )
        .bind(&of.pipeline)
        .bind(&of.environment)
        .fetch_optional(tx.conn())
        .await
        .map_err(failed)?;
        if let Some((run, author)) = other {
            return Err(Error::new(
                Kind::Conflict,
                format!("run {run} of '{}' goes on, begun by '{author}'", of.pipeline),
            )
            .hint(
                "wait for its end; if its process is gone it counts as lost a minute after its last sign",
            ));
        }
        let last: (Option<i64>,) = sqlx::query_as("SELECT max(run_id) FROM skep_pipeline_run")
            .fetch_one(tx.conn())
            .await
            .map_err(failed)?;
        let run = last.0.unwrap_or(0) + 1;
        sqlx::query(
            "INSERT INTO skep_pipeline_run (run_id, pipeline, environment, version, key, owner, author, state, began_us, \
             heard_us) VALUES (?, ?, ?, ?, ?, ?, ?, 'running', ?, ?)",
        )
        .bind(run)
        .bind(&of.pipeline)
        .bind(&of.environment)
        .bind(version)
        .bind(key.to_string())
        .bind(&*self.owner)
        .bind(author)
        .bind(now.timestamp_micros())
        .bind(now.timestamp_micros())
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        if let Some(tick) = tick {
            tick.with(&mut tx, run, now).await?;
        }
        tx.commit().await?;
        Ok(run)
    }

    /// What a run staged is to be given up: nobody goes on with it from here on.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such run; [`Kind::Invalid`] if it did not fail; [`Kind::Conflict`] while a run of the
    /// project goes on, which may be one that goes on with it; those of the database.
    pub(crate) async fn drop_staged(&self, run: i64) -> Result<Uuid> {
        let mut tx = self.db.begin().await?;
        let line: Option<(String, String, String, String)> = sqlx::query_as(
            "SELECT key, state, pipeline, environment FROM skep_pipeline_run WHERE run_id = ?",
        )
        .bind(run)
        .fetch_optional(tx.conn())
        .await
        .map_err(failed)?;
        let (key, state, pipeline, environment) = line.ok_or_else(|| no_run(run))?;
        if !["failed", "lost"].contains(&state.as_str()) {
            return Err(Error::invalid(format!(
                "run {run} keeps nothing that could be dropped: it is {state}"
            )));
        }
        let going: Option<(i64,)> = sqlx::query_as(
            "SELECT run_id FROM skep_pipeline_run WHERE pipeline = ? AND environment = ? AND state = 'running'",
        )
        .bind(&pipeline)
        .bind(&environment)
        .fetch_optional(tx.conn())
        .await
        .map_err(failed)?;
        if let Some((other,)) = going {
            return Err(
                Error::conflict(format!("run {other} of '{pipeline}' goes on")).hint("wait for its end")
            );
        }
        sqlx::query(
            "UPDATE skep_pipeline_run SET state = 'dropped' WHERE key = ? AND state IN ('failed', 'lost')",
        )
        .bind(&key)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await?;
        Ok(Uuid::parse_str(&key).unwrap_or_default())
    }

    /// A run: its key, state and snapshot, and the latest run that has the same key, with its state.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none; those of the database.
    pub(crate) async fn keeper(&self, run: i64) -> Result<Keeper> {
        type Row = (String, String, Option<i64>);
        let row: Option<Row> =
            sqlx::query_as("SELECT key, state, snapshot_id FROM skep_pipeline_run WHERE run_id = ?")
                .bind(run)
                .fetch_optional(self.db.reader())
                .await
                .map_err(|e| database_error("cannot look for a run", e))?;
        let (key, state, snapshot) = row.ok_or_else(|| no_run(run))?;
        let later: (Option<i64>,) = sqlx::query_as("SELECT max(run_id) FROM skep_pipeline_run WHERE key = ?")
            .bind(&key)
            .fetch_one(self.db.reader())
            .await
            .map_err(|e| database_error("cannot look for a run", e))?;
        let key = Uuid::parse_str(&key).unwrap_or_default();
        Ok(Keeper { key, state, snapshot, latest: later.0.unwrap_or(run) })
    }

    /// Keys of runs that ended without publishing, of those in `keys`.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn ended(&self, of: &Of, keys: &[Uuid]) -> Result<Vec<Uuid>> {
        let mut found = Vec::new();
        for key in keys {
            let states: Vec<(String,)> = sqlx::query_as(
                "SELECT state FROM skep_pipeline_run WHERE key = ? AND pipeline = ? AND environment = ?",
            )
            .bind(key.to_string())
            .bind(&of.pipeline)
            .bind(&of.environment)
            .fetch_all(self.db.reader())
            .await
            .map_err(|e| database_error("cannot look for runs that failed", e))?;
            if !states.is_empty() && states.iter().all(|(state,)| state != "running") {
                found.push(*key);
            }
        }
        Ok(found)
    }

    /// A run goes on.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it was taken for lost; those of the database.
    pub(crate) async fn beat(&self, run: i64, now: DateTime<Utc>) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let done =
            sqlx::query("UPDATE skep_pipeline_run SET heard_us = ? WHERE run_id = ? AND state = 'running'")
                .bind(now.timestamp_micros())
                .bind(run)
                .execute(tx.conn())
                .await
                .map_err(failed)?;
        if done.rows_affected() == 0 {
            return Err(lost(run));
        }
        tx.commit().await
    }

    /// A run ended without publishing anything.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn end(
        &self,
        run: i64,
        state: State,
        error: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "UPDATE skep_pipeline_run SET state = ?, ended_us = ?, error = ? WHERE run_id = ? AND state = 'running'",
        )
        .bind(state.name())
        .bind(now.timestamp_micros())
        .bind(error)
        .bind(run)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await
    }

    /// # Errors
    /// Those of the database.
    pub(crate) async fn model(&self, line: &ModelLine) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "INSERT INTO skep_pipeline_model (run_id, model, position, kind, state, row_count, took_ms, note, outcome) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, model) DO UPDATE SET state = excluded.state, \
             row_count = excluded.row_count, took_ms = excluded.took_ms, note = excluded.note, outcome = excluded.outcome",
        )
        .bind(line.run)
        .bind(&line.model)
        .bind(line.position)
        .bind(&line.kind)
        .bind(line.state.name())
        .bind(line.rows.map(number))
        .bind(line.took.map(|took| i64::try_from(took.as_millis()).unwrap_or(i64::MAX)))
        .bind(&line.note)
        .bind(&line.outcome)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await
    }

    /// # Errors
    /// Those of the database.
    pub(crate) async fn test(&self, line: &TestLine) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "INSERT INTO skep_pipeline_test (run_id, model, test, state, failures, note) VALUES (?, ?, ?, ?, ?, ?) \
             ON CONFLICT (run_id, model, test) DO UPDATE SET state = excluded.state, failures = excluded.failures, \
             note = excluded.note",
        )
        .bind(line.run)
        .bind(&line.model)
        .bind(&line.test)
        .bind(line.state.name())
        .bind(number(line.failures))
        .bind(&line.note)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await
    }

    /// The intervals that stand, by model.
    ///
    /// # Errors
    /// Those of the database; [`Kind::Corrupt`] for a time that does not read.
    pub(crate) async fn intervals(&self, of: &Of) -> Result<BTreeMap<String, BTreeSet<NaiveDateTime>>> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT model, start_at FROM skep_pipeline_interval WHERE pipeline = ? AND environment = ?",
        )
        .bind(&of.pipeline)
        .bind(&of.environment)
        .fetch_all(self.db.reader())
        .await
        .map_err(|e| database_error("cannot read the intervals of a pipeline", e))?;
        let mut all: BTreeMap<String, BTreeSet<NaiveDateTime>> = BTreeMap::new();
        for (model, start) in rows {
            let start = interval::parse(&start).map_err(|e| {
                Error::corrupt(format!("the ledger has the interval '{start}' of '{model}'")).source(e)
            })?;
            all.entry(model).or_default().insert(start);
        }
        Ok(all)
    }

    /// What was published last, by model.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn seen(&self, of: &Of) -> Result<BTreeMap<String, Seen>> {
        let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
            "SELECT model, fingerprint, base_id, snapshot_id FROM skep_pipeline_seen WHERE pipeline = ? AND environment = ?",
        )
        .bind(&of.pipeline)
        .bind(&of.environment)
        .fetch_all(self.db.reader())
        .await
        .map_err(|e| database_error("cannot read what a pipeline published", e))?;
        let seen = |(model, fingerprint, base, snapshot)| (model, Seen { fingerprint, base, snapshot });
        Ok(rows.into_iter().map(seen).collect())
    }

    /// The latest runs, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn runs(&self, limit: i64) -> Result<Vec<RunLine>> {
        self.lines(0, i64::MAX, limit).await
    }

    /// The run of that number.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn run(&self, run: i64) -> Result<Option<RunLine>> {
        Ok(self.lines(run, run, 1).await?.pop())
    }

    async fn lines(&self, first: i64, last: i64, limit: i64) -> Result<Vec<RunLine>> {
        type Row = (
            i64,
            String,
            String,
            String,
            String,
            String,
            String,
            i64,
            Option<i64>,
            Option<i64>,
            Option<String>,
        );
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT run_id, pipeline, environment, version, key, author, state, began_us, ended_us, snapshot_id, error \
             FROM skep_pipeline_run WHERE run_id BETWEEN ? AND ? ORDER BY run_id DESC LIMIT ?",
        )
        .bind(first)
        .bind(last)
        .bind(limit)
        .fetch_all(self.db.reader())
        .await
        .map_err(|e| database_error("cannot read the runs of pipelines", e))?;
        let time = |micros: i64| DateTime::from_timestamp_micros(micros).unwrap_or_default();
        let line = |(
            run,
            pipeline,
            environment,
            version,
            key,
            author,
            state,
            began,
            ended,
            snapshot,
            error,
        ): Row| RunLine {
            run,
            of: Of { pipeline, environment },
            version,
            key: Uuid::parse_str(&key).unwrap_or_default(),
            author,
            state,
            began: time(began),
            ended: ended.map(time),
            snapshot,
            error,
        };
        Ok(rows.into_iter().map(line).collect())
    }

    /// The models of runs, of one or of all.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn models(&self, run: Option<i64>) -> Result<Vec<ModelLine>> {
        type Row =
            (i64, String, i64, String, String, Option<i64>, Option<i64>, Option<String>, Option<String>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT run_id, model, position, kind, state, row_count, took_ms, note, outcome FROM skep_pipeline_model \
             WHERE run_id = ?1 OR ?1 IS NULL ORDER BY run_id, position",
        )
        .bind(run)
        .fetch_all(self.db.reader())
        .await
        .map_err(|e| database_error("cannot read the models of a run", e))?;
        let line = |(run, model, position, kind, state, rows, took, note, outcome): Row| ModelLine {
            run,
            model,
            position,
            kind,
            state: state_of(&state),
            rows: rows.and_then(|rows| u64::try_from(rows).ok()),
            took: took.and_then(|took| u64::try_from(took).ok()).map(Duration::from_millis),
            note,
            outcome,
        };
        Ok(rows.into_iter().map(line).collect())
    }

    /// The tests of all runs.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn tests(&self) -> Result<Vec<TestLine>> {
        let rows: Vec<(i64, String, String, String, i64, Option<String>)> = sqlx::query_as(
            "SELECT run_id, model, test, state, failures, note FROM skep_pipeline_test ORDER BY run_id, model, test",
        )
        .fetch_all(self.db.reader())
        .await
        .map_err(|e| database_error("cannot read the tests of runs", e))?;
        let line = |(run, model, test, state, failures, note): (_, _, _, String, i64, _)| TestLine {
            run,
            model,
            test,
            state: state_of(&state),
            failures: u64::try_from(failures).unwrap_or(0),
            note,
        };
        Ok(rows.into_iter().map(line).collect())
    }

    /// All intervals: pipeline, environment, model, start, end, run, snapshot.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn all_intervals(
        &self,
    ) -> Result<Vec<(String, String, String, String, String, i64, i64)>> {
        sqlx::query_as(
            "SELECT pipeline, environment, model, start_at, end_at, run_id, snapshot_id FROM skep_pipeline_interval \
             ORDER BY pipeline, environment, model, start_at",
        )
        .fetch_all(self.db.reader())
        .await
        .map_err(|e| database_error("cannot read the intervals of pipelines", e))
    }
}

fn state_of(name: &str) -> State {
    [State::Running, State::Done, State::Unchanged, State::Warned, State::Skipped]
        .into_iter()
        .find(|state| state.name() == name)
        .unwrap_or(State::Failed)
}

fn no_run(run: i64) -> Error {
    Error::not_found(format!("there is no run {run}")).hint("skep pipeline status lists the runs")
}

fn lost(run: i64) -> Error {
    Error::conflict(format!("run {run} was taken for lost"))
        .hint("another run may go on by now; nothing of this one was published")
}

/// The lines that a run adds to the ledger with its commit.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) run: i64,
    pub(crate) of: Of,
    /// Models whose tables are as their text and their sources say: model, fingerprint, the snapshot that its sources were
    /// read in.
    pub(crate) seen: Vec<(String, String, i64)>,
    /// Intervals that were made: model, fingerprint, start, end.
    pub(crate) intervals: Vec<(String, String, NaiveDateTime, NaiveDateTime)>,
    /// Models whose earlier intervals no longer stand.
    pub(crate) reset: Vec<String>,
    pub(crate) now: DateTime<Utc>,
}

#[async_trait]
impl SideEffect for Publish {
    async fn apply(&self, connection: &mut Conn, snapshot: i64) -> Result<()> {
        let done = sqlx::query(
            "UPDATE skep_pipeline_run SET state = 'done', ended_us = ?, snapshot_id = ? \
             WHERE run_id = ? AND state = 'running'",
        )
        .bind(self.now.timestamp_micros())
        .bind(snapshot)
        .bind(self.run)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
        if done.rows_affected() == 0 {
            return Err(lost(self.run));
        }
        for model in &self.reset {
            sqlx::query(
                "DELETE FROM skep_pipeline_interval WHERE pipeline = ? AND environment = ? AND model = ?",
            )
            .bind(&self.of.pipeline)
            .bind(&self.of.environment)
            .bind(model)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        }
        for (model, fingerprint, start, end) in &self.intervals {
            sqlx::query(
                "INSERT INTO skep_pipeline_interval (pipeline, environment, model, start_at, end_at, run_id, fingerprint, \
                 snapshot_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (pipeline, environment, model, start_at) \
                 DO UPDATE SET run_id = excluded.run_id, fingerprint = excluded.fingerprint, snapshot_id = excluded.snapshot_id",
            )
            .bind(&self.of.pipeline)
            .bind(&self.of.environment)
            .bind(model)
            .bind(interval::text(*start))
            .bind(interval::text(*end))
            .bind(self.run)
            .bind(fingerprint)
            .bind(snapshot)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        }
        for (model, fingerprint, base) in &self.seen {
            sqlx::query(
                "INSERT INTO skep_pipeline_seen (pipeline, environment, model, fingerprint, run_id, base_id, snapshot_id) \
                 VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (pipeline, environment, model) DO UPDATE SET \
                 fingerprint = excluded.fingerprint, run_id = excluded.run_id, base_id = excluded.base_id, snapshot_id = excluded.snapshot_id",
            )
            .bind(&self.of.pipeline)
            .bind(&self.of.environment)
            .bind(model)
            .bind(fingerprint)
            .bind(self.run)
            .bind(base)
            .bind(snapshot)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        }
        Ok(())
    }
}
