//! What backfills there are, and which of their chunks are made: in the catalog's database.
//!
//! # Invariants
//! - A chunk is done when the commit of its run stands: both are one database transaction.
//!
//! # Not here
//! Making chunks (`backfill`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use skep_catalog::SideEffect;
use skep_common::{Error, Kind, Result};
use skep_metadb::{Conn, MetaDb, database_error};

use crate::interval::{self, Span};
use crate::ledger::Of;

const MIGRATIONS: &[&str] = &["
    CREATE TABLE skep_pipeline_backfill (
        backfill_id BIGINT PRIMARY KEY NOT NULL, pipeline TEXT NOT NULL, environment TEXT NOT NULL, request TEXT NOT NULL,
        start_at TEXT NOT NULL, end_at TEXT NOT NULL, state TEXT NOT NULL, owner TEXT NOT NULL, author TEXT NOT NULL,
        began_us BIGINT NOT NULL, heard_us BIGINT NOT NULL, ended_us BIGINT, error TEXT);
    CREATE TABLE skep_pipeline_backfill_chunk (
        backfill_id BIGINT NOT NULL, position BIGINT NOT NULL, start_at TEXT NOT NULL, end_at TEXT NOT NULL,
        run_id BIGINT, done_us BIGINT, PRIMARY KEY (backfill_id, position));
"];

/// Silence after which a backfill counts as interrupted.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// A chunk of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) backfill: i64,
    pub(crate) position: i64,
    pub(crate) span: Span,
}

/// A backfill, as its line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) backfill: i64,
    pub(crate) of: Of,
    pub(crate) start: String,
    pub(crate) end: String,
    pub(crate) state: String,
    pub(crate) author: String,
    pub(crate) began: DateTime<Utc>,
    pub(crate) ended: Option<DateTime<Utc>>,
    pub(crate) error: Option<String>,
    pub(crate) chunks: i64,
    pub(crate) done: i64,
}

/// The tables. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Backfills {
    db: MetaDb,
    owner: Arc<str>,
}

fn failed(error: sqlx::Error) -> Error {
    database_error("cannot write down what a backfill does", error)
}

fn unread(error: sqlx::Error) -> Error {
    database_error("cannot read what a backfill did", error)
}

impl Backfills {
    /// # Errors
    /// Those of the database.
    pub(crate) async fn prepare(db: &MetaDb) -> Result<()> {
        db.migrate("pipeline_backfill", MIGRATIONS).await
    }

    /// Those that `owner` left behind when it ended are interrupted.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn open(db: MetaDb, owner: &str, now: DateTime<Utc>) -> Result<Self> {
        Self::prepare(&db).await?;
        let mut tx = db.begin().await?;
        sqlx::query(
            "UPDATE skep_pipeline_backfill SET state = 'interrupted', ended_us = ?, error = 'its coordinator ended' \
             WHERE state = 'running' AND owner = ?",
        )
        .bind(now.timestamp_micros())
        .bind(owner)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await?;
        Ok(Self { db, owner: owner.into() })
    }

    /// Writes a new one down, with its chunks in the order in which they are made.
    ///
    /// # Errors
    /// [`Kind::Conflict`] while another of the project goes on in the environment; those of the database.
    pub(crate) async fn begin(
        &self,
        of: &Of,
        request: &str,
        range: Span,
        chunks: &[Span],
        author: &str,
        now: DateTime<Utc>,
    ) -> Result<i64> {
        let mut tx = self.db.begin().await?;
        alone(tx.conn(), of, now).await?;
        let last: (Option<i64>,) = sqlx::query_as("SELECT max(backfill_id) FROM skep_pipeline_backfill")
            .fetch_one(tx.conn())
            .await
            .map_err(failed)?;
        let backfill = last.0.unwrap_or(0) + 1;
        sqlx::query(
            "INSERT INTO skep_pipeline_backfill (backfill_id, pipeline, environment, request, start_at, end_at, state, owner, \
             author, began_us, heard_us) VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?, ?, ?)",
        )
        .bind(backfill)
        .bind(&of.pipeline)
        .bind(&of.environment)
        .bind(request)
        .bind(interval::text(range.start))
        .bind(interval::text(range.end))
        .bind(&*self.owner)
        .bind(author)
        .bind(now.timestamp_micros())
        .bind(now.timestamp_micros())
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        for (position, span) in (1_i64..).zip(chunks) {
            sqlx::query(
                "INSERT INTO skep_pipeline_backfill_chunk (backfill_id, position, start_at, end_at) VALUES (?, ?, ?, ?)",
            )
            .bind(backfill)
            .bind(position)
            .bind(interval::text(span.start))
            .bind(interval::text(span.end))
            .execute(tx.conn())
            .await
            .map_err(failed)?;
        }
        tx.commit().await?;
        Ok(backfill)
    }

    /// Goes on with one that did not end, the latest for 0. Its number and its request.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none; [`Kind::Invalid`] for one that is done; [`Kind::Conflict`] while it, or another of
    /// the project, goes on; those of the database.
    pub(crate) async fn take_up(&self, wanted: i64, now: DateTime<Utc>) -> Result<(i64, String)> {
        type Row = (i64, String, String, String, String);
        let mut tx = self.db.begin().await?;
        let row: Option<Row> = sqlx::query_as(
            "SELECT backfill_id, pipeline, environment, state, request FROM skep_pipeline_backfill \
             WHERE backfill_id = ?1 OR (?1 = 0 AND state <> 'done') ORDER BY backfill_id DESC LIMIT 1",
        )
        .bind(wanted)
        .fetch_optional(tx.conn())
        .await
        .map_err(failed)?;
        let Some((backfill, pipeline, environment, state, request)) = row else {
            let what = if wanted == 0 {
                "no backfill is unfinished".to_owned()
            } else {
                format!("there is no backfill {wanted}")
            };
            return Err(Error::not_found(what).hint("SELECT * FROM system.pipeline_backfills lists them"));
        };
        if state == "done" {
            return Err(Error::invalid(format!("backfill {backfill} is done")));
        }
        alone(tx.conn(), &Of { pipeline, environment }, now).await?;
        sqlx::query(
            "UPDATE skep_pipeline_backfill SET state = 'running', owner = ?, heard_us = ?, ended_us = NULL, error = NULL \
             WHERE backfill_id = ?",
        )
        .bind(&*self.owner)
        .bind(now.timestamp_micros())
        .bind(backfill)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await?;
        Ok((backfill, request))
    }

    /// The next chunk that is to be made, and how many there are, and how many of them are made.
    ///
    /// # Errors
    /// Those of the database; [`Kind::Corrupt`] for a time that does not read.
    pub(crate) async fn next(&self, backfill: i64) -> Result<(Option<Chunk>, i64, i64)> {
        let rows: Vec<(i64, String, String, Option<i64>)> = sqlx::query_as(
            "SELECT position, start_at, end_at, done_us FROM skep_pipeline_backfill_chunk WHERE backfill_id = ? ORDER BY position",
        )
        .bind(backfill)
        .fetch_all(self.db.reader())
        .await
        .map_err(unread)?;
        let done = rows.iter().filter(|row| row.3.is_some()).count();
        let all = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let next = rows.into_iter().find(|row| row.3.is_none()).map(|(position, start, end, _)| {
            Ok::<_, Error>(Chunk {
                backfill,
                position,
                span: Span { start: time(&start)?, end: time(&end)? },
            })
        });
        Ok((next.transpose()?, all, i64::try_from(done).unwrap_or(i64::MAX)))
    }

    /// A chunk is made whose run had nothing to publish.
    ///
    /// # Errors
    /// As [`Made::apply`](SideEffect::apply).
    pub(crate) async fn made(&self, made: &Made) -> Result<()> {
        let mut tx = self.db.begin().await?;
        made.apply(tx.conn(), 0).await?;
        tx.commit().await
    }

    /// One goes on.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn beat(&self, backfill: i64, now: DateTime<Utc>) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "UPDATE skep_pipeline_backfill SET heard_us = ? WHERE backfill_id = ? AND state = 'running'",
        )
        .bind(now.timestamp_micros())
        .bind(backfill)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await
    }

    /// One ended.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn end(
        &self,
        backfill: i64,
        state: &str,
        error: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "UPDATE skep_pipeline_backfill SET state = ?, ended_us = ?, error = ? WHERE backfill_id = ? AND state = 'running'",
        )
        .bind(state)
        .bind(now.timestamp_micros())
        .bind(error)
        .bind(backfill)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await
    }

    /// All of them, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn all(&self) -> Result<Vec<Line>> {
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
            Option<String>,
            i64,
            Option<i64>,
        );
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT b.backfill_id, b.pipeline, b.environment, b.start_at, b.end_at, b.state, b.author, b.began_us, b.ended_us, \
             b.error, count(c.position), CAST(sum(CASE WHEN c.done_us IS NULL THEN 0 ELSE 1 END) AS BIGINT) \
             FROM skep_pipeline_backfill AS b LEFT JOIN skep_pipeline_backfill_chunk AS c ON c.backfill_id = b.backfill_id \
             GROUP BY b.backfill_id, b.pipeline, b.environment, b.start_at, b.end_at, b.state, b.author, b.began_us, b.ended_us, \
             b.error ORDER BY b.backfill_id DESC",
        )
        .fetch_all(self.db.reader())
        .await
        .map_err(unread)?;
        let at = |micros: i64| DateTime::from_timestamp_micros(micros).unwrap_or_default();
        let line = |(
            backfill,
            pipeline,
            environment,
            start,
            end,
            state,
            author,
            began,
            ended,
            error,
            chunks,
            done,
        ): Row| Line {
            backfill,
            of: Of { pipeline, environment },
            start,
            end,
            state,
            author,
            began: at(began),
            ended: ended.map(at),
            error,
            chunks,
            done: done.unwrap_or(0),
        };
        Ok(rows.into_iter().map(line).collect())
    }
}

fn time(text: &str) -> Result<NaiveDateTime> {
    interval::parse(text)
        .map_err(|e| Error::corrupt(format!("a chunk of a backfill has the time '{text}'")).source(e))
}

/// Refuses a second one for the same tables. Those that were silent for long are interrupted from here on.
async fn alone(connection: &mut Conn, of: &Of, now: DateTime<Utc>) -> Result<()> {
    let limit = now.timestamp_micros() - i64::try_from(LOST_AFTER.as_micros()).unwrap_or(i64::MAX);
    sqlx::query(
        "UPDATE skep_pipeline_backfill SET state = 'interrupted', ended_us = ?, error = 'its process ended' \
         WHERE state = 'running' AND heard_us < ?",
    )
    .bind(now.timestamp_micros())
    .bind(limit)
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let other: Option<(i64, String)> = sqlx::query_as(
        "SELECT backfill_id, author FROM skep_pipeline_backfill WHERE pipeline = ? AND environment = ? AND state = 'running'",
    )
    .bind(&of.pipeline)
    .bind(&of.environment)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    match other {
        None => Ok(()),
        Some((other, author)) => Err(Error::new(
            Kind::Conflict,
            format!("backfill {other} of '{}' goes on, begun by '{author}'", of.pipeline),
        )
        .hint(
            "wait for its end; if its process is gone it counts as interrupted a minute after its last sign",
        )),
    }
}

/// That a chunk is made, by which run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) chunk: Chunk,
    pub(crate) run: i64,
    pub(crate) now: DateTime<Utc>,
}

#[async_trait]
impl SideEffect for Made {
    async fn apply(&self, connection: &mut Conn, _: i64) -> Result<()> {
        let done = sqlx::query(
            "UPDATE skep_pipeline_backfill_chunk SET run_id = ?, done_us = ? WHERE backfill_id = ? AND position = ? AND done_us IS NULL \
             AND EXISTS (SELECT 1 FROM skep_pipeline_backfill AS b WHERE b.backfill_id = ? AND b.state = 'running')",
        )
        .bind(self.run)
        .bind(self.now.timestamp_micros())
        .bind(self.chunk.backfill)
        .bind(self.chunk.position)
        .bind(self.chunk.backfill)
        .execute(connection)
        .await
        .map_err(failed)?;
        if done.rows_affected() == 0 {
            return Err(Error::invalid(format!(
                "backfill {} was taken up by somebody else",
                self.chunk.backfill
            )));
        }
        Ok(())
    }
}
