//! The history of queries in the metadata database, written behind them.
//!
//! ```text
//! offer --> waiting, the latest of each query --every interval--> one transaction --> skep_queries
//! ```
//!
//! # Invariants
//! - Offering never waits and never fails: what does not fit makes the oldest be forgotten.
//! - A coordinator changes its own rows only.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use skep_common::task::{self, Task};
use skep_common::{Error, Kind, QueryId, Result};
use skep_metadb::{MetaDb, database_error};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::state::{Query, State};

/// The table of the history.
pub const TABLE: &str = "skep_queries";

const MIGRATIONS: &[&str] = &["CREATE TABLE skep_queries (
    query_id TEXT PRIMARY KEY NOT NULL, coordinator TEXT NOT NULL, session_id TEXT NOT NULL, user_name TEXT NOT NULL,
    statement TEXT NOT NULL, state TEXT NOT NULL, resource_group TEXT, lane TEXT, attempts INTEGER,
    created_us INTEGER NOT NULL, started_us INTEGER, ended_us INTEGER,
    row_count INTEGER, byte_count INTEGER, memory_bytes INTEGER, error_kind TEXT, error TEXT)"];

const COLUMNS: [&str; 17] = [
    "query_id",
    "coordinator",
    "session_id",
    "user_name",
    "statement",
    "state",
    "resource_group",
    "lane",
    "attempts",
    "created_us",
    "started_us",
    "ended_us",
    "row_count",
    "byte_count",
    "memory_bytes",
    "error_kind",
    "error",
];

/// Queries that wait to be written.
const WAITING_MAX: usize = 5_000;
/// Queries in one statement: few enough for the placeholders of both databases.
const ROWS_MAX: usize = 40;
/// Queries that are written before the oldest are deleted again.
const PRUNE_EVERY: u64 = 200;
/// How long the last write may take when the coordinator stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The history, open. It is written until [`History::close`].
#[derive(Debug)]
pub(crate) struct History {
    shared: Arc<Shared>,
    closing: CancellationToken,
    writing: Mutex<Option<Task<()>>>,
}

#[derive(Debug)]
struct Shared {
    db: MetaDb,
    owner: Arc<str>,
    kept: u64,
    interval: Duration,
    waiting: Mutex<BTreeMap<QueryId, Query>>,
    wake: Notify,
    /// Queries that were forgotten because too many waited.
    dropped: AtomicU64,
    /// Queries written since the oldest were deleted.
    written: AtomicU64,
}

impl History {
    /// Opens the history of `owner`, whose queries of an earlier life have failed.
    pub(crate) async fn open(db: &MetaDb, owner: &str, config: &Config, now: DateTime<Utc>) -> Result<Self> {
        db.migrate("queries", MIGRATIONS).await?;
        let shared = Arc::new(Shared {
            db: db.clone(),
            owner: owner.into(),
            kept: config.history,
            interval: config.flush_interval,
            waiting: Mutex::default(),
            wake: Notify::new(),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        shared.left_behind(now).await?;
        let closing = CancellationToken::new();
        let writing = task::spawn("history of queries", Arc::clone(&shared).write_until(closing.clone()));
        Ok(Self { shared, closing, writing: Mutex::new(Some(writing)) })
    }

    pub(crate) fn owner(&self) -> &Arc<str> {
        &self.shared.owner
    }

    /// Takes a query as it is now. What is there of it is replaced.
    pub(crate) fn offer(&self, query: Query) {
        if self.shared.kept == 0 {
            return;
        }
        let mut waiting = self.shared.waiting.lock();
        if waiting.len() >= WAITING_MAX && !waiting.contains_key(&query.id) {
            waiting.pop_first();
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        waiting.insert(query.id, query);
        drop(waiting);
        self.shared.wake.notify_one();
    }

    /// What is not written yet.
    pub(crate) fn waiting(&self) -> Vec<Query> {
        self.shared.waiting.lock().values().cloned().collect()
    }

    /// The queries of all coordinators, the latest as far as they are kept.
    pub(crate) async fn list(&self) -> Result<Vec<Query>> {
        let shared = &self.shared;
        let sql = format!("SELECT {} FROM {TABLE} ORDER BY query_id DESC LIMIT ?", COLUMNS.join(", "));
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(number(shared.kept.saturating_add(WAITING_MAX as u64)))
            .fetch_all(shared.db.reader())
            .await
            .map_err(|e| database_error("cannot read the history of queries", e))?;
        rows.iter().map(query).collect()
    }

    /// One query of any coordinator.
    pub(crate) async fn one(&self, id: QueryId) -> Result<Option<Query>> {
        let sql = format!("SELECT {} FROM {TABLE} WHERE query_id = ?", COLUMNS.join(", "));
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(id.to_string())
            .fetch_optional(self.shared.db.reader())
            .await
            .map_err(|e| database_error("cannot read the history of queries", e))?;
        row.as_ref().map(query).transpose()
    }

    /// Writes what waits, and no more after it.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        let writing = self.writing.lock().take();
        if let Some(writing) = writing
            && tokio::time::timeout(CLOSE_TIMEOUT, writing.join()).await.is_err()
        {
            tracing::warn!("the last queries are missing in the history: the database took too long");
        }
    }
}

impl Shared {
    async fn write_until(self: Arc<Self>, closing: CancellationToken) {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = closing.cancelled() => break,
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                () = closing.cancelled() => break,
            }
            self.flush().await;
        }
        self.flush().await;
    }

    /// Writes what waits. What cannot be written waits on.
    async fn flush(&self) {
        let batch: Vec<Query> = std::mem::take(&mut *self.waiting.lock()).into_values().collect();
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.store(&batch).await {
            tracing::warn!(error = error.report(), queries = batch.len(), "the history of queries waits");
            let mut waiting = self.waiting.lock();
            for query in batch {
                waiting.entry(query.id).or_insert(query);
            }
            while waiting.len() > WAITING_MAX {
                waiting.pop_first();
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            drop(waiting);
            self.wake.notify_one();
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "queries are missing in the history: too many waited to be written");
        }
    }

    async fn store(&self, batch: &[Query]) -> Result<()> {
        let doing = "cannot write the history of queries";
        let mut tx = self.db.begin().await?;
        for rows in batch.chunks(ROWS_MAX) {
            let sql = upsert(rows.len());
            let mut statement = sqlx::query(AssertSqlSafe(sql));
            for query in rows {
                let (kind, error) = query.error.clone().unzip();
                statement = statement
                    .bind(query.id.to_string())
                    .bind(self.owner.to_string())
                    .bind(query.session.clone())
                    .bind(query.user.clone())
                    .bind(query.text.clone())
                    .bind(query.state.name())
                    .bind(query.group.clone())
                    .bind(query.lane.clone())
                    .bind(query.attempts.map(number))
                    .bind(query.created.timestamp_micros())
                    .bind(query.started.map(|time| time.timestamp_micros()))
                    .bind(query.ended.map(|time| time.timestamp_micros()))
                    .bind(query.rows.map(number))
                    .bind(query.bytes.map(number))
                    .bind(query.memory.map(number))
                    .bind(kind)
                    .bind(error);
            }
            statement.execute(tx.conn()).await.map_err(|e| database_error(doing, e))?;
        }
        let written = self.written.fetch_add(batch.len() as u64, Ordering::Relaxed) + batch.len() as u64;
        if written >= PRUNE_EVERY.min(self.kept) {
            self.written.store(0, Ordering::Relaxed);
            // Ids sort by time.
            let oldest: Option<(String,)> = sqlx::query_as(
                "SELECT query_id FROM skep_queries WHERE ended_us IS NOT NULL ORDER BY query_id DESC LIMIT 1 OFFSET ?",
            )
            .bind(number(self.kept))
            .fetch_optional(tx.conn())
            .await
            .map_err(|e| database_error(doing, e))?;
            if let Some((oldest,)) = oldest {
                sqlx::query("DELETE FROM skep_queries WHERE query_id <= ? AND ended_us IS NOT NULL")
                    .bind(oldest)
                    .execute(tx.conn())
                    .await
                    .map_err(|e| database_error(doing, e))?;
            }
        }
        tx.commit().await
    }

    /// What an earlier life of this coordinator left running has failed.
    async fn left_behind(&self, now: DateTime<Utc>) -> Result<()> {
        let doing = "cannot bring the history of queries in order";
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "UPDATE skep_queries SET state = ?, ended_us = ?, error_kind = ?, error = ? \
             WHERE coordinator = ? AND ended_us IS NULL",
        )
        .bind(State::Failed.name())
        .bind(now.timestamp_micros())
        .bind(Kind::Unavailable.name())
        .bind("the coordinator stopped while the query ran")
        .bind(self.owner.to_string())
        .execute(tx.conn())
        .await
        .map_err(|e| database_error(doing, e))?;
        tx.commit().await
    }
}

fn upsert(rows: usize) -> String {
    let places = format!("({})", vec!["?"; COLUMNS.len()].join(", "));
    let mut sql = format!("INSERT INTO {TABLE} ({}) VALUES {places}", COLUMNS.join(", "));
    for _ in 1..rows {
        // Writing to a string cannot fail.
        let _ = write!(sql, ", {places}");
    }
    sql.push_str(" ON CONFLICT (query_id) DO UPDATE SET ");
    let set: Vec<String> =
        COLUMNS[1..].iter().map(|column| format!("{column} = excluded.{column}")).collect();
    sql + &set.join(", ")
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A row of the table, whose columns are [`COLUMNS`].
fn query(row: &AnyRow) -> Result<Query> {
    let doing = "cannot read the history of queries";
    let failed = |e: sqlx::Error| database_error(doing, e);
    let text = |at: usize| row.try_get::<String, _>(at).map_err(failed);
    let some_text = |at: usize| row.try_get::<Option<String>, _>(at).map_err(failed);
    let some = |at: usize| row.try_get::<Option<i64>, _>(at).map_err(failed);
    let count = |at: usize| some(at).map(|value| value.map(|value| u64::try_from(value).unwrap_or(0)));
    let wrong = |what: &str| {
        Error::corrupt(format!("the history of queries has {what}"))
            .hint(format!("the table {TABLE} of the metadata database can be emptied: nothing else needs it"))
    };
    let time = |micros: i64| DateTime::from_timestamp_micros(micros).ok_or_else(|| wrong("a wrong time"));
    let state = text(5)?;
    Ok(Query {
        id: QueryId::from_str(&text(0)?)?,
        coordinator: Some(text(1)?.into()),
        session: text(2)?,
        user: text(3)?,
        text: text(4)?,
        state: State::named(&state).ok_or_else(|| wrong(&format!("the state '{state}'")))?,
        group: some_text(6)?,
        lane: some_text(7)?,
        attempts: count(8)?,
        created: time(row.try_get::<i64, _>(9).map_err(failed)?)?,
        started: some(10)?.map(time).transpose()?,
        ended: some(11)?.map(time).transpose()?,
        rows: count(12)?,
        bytes: count(13)?,
        memory: count(14)?,
        progress: (state == State::Finished.name()).then_some(1.0),
        error: some_text(15)?.zip(some_text(16)?),
    })
}
