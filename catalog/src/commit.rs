//! The commit: one database transaction from the conflict check to the last side effect, tried a bounded number of times.
//!
//! ```text
//! begin -> seen this key? -> head -> conflicts since base? -> write rows -> side effects -> commit
//!   ^                                                                                          |
//!   +------------------------ locked, or the answer was lost: wait, try again -----------------+
//! ```
//!
//! # Invariants
//! - The write lock is taken before the head is read: nobody commits in between.
//! - A retry starts from nothing, and finds the key if the lost attempt had been committed.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use skep_common::{Error, Kind, Result};
use skep_metadb::{WriteTx, database_error};

use crate::changes::{self, Token};
use crate::conflict::{self, Names};
use crate::load;
use crate::model::Snapshot;
use crate::plan::Plan;
use crate::transaction::{Committed, Parts};
use crate::write::Writer;

/// The newest row of `ducklake_snapshot`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    pub(crate) snapshot: i64,
    pub(crate) time: String,
    pub(crate) schema_version: i64,
    pub(crate) next_catalog_id: i64,
    pub(crate) next_file_id: i64,
}

/// Waits between attempts: 100 ms, growing by half, ten times. The specification's own writer does the same.
fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_factor(1.5)
        .with_max_times(10)
        .with_jitter()
}

pub(crate) async fn run(transaction: Parts) -> Result<Committed> {
    let plan = Plan::new(&transaction.base, &transaction.target);
    (|| attempt(&transaction, &plan))
        .retry(backoff())
        .when(|error| error.kind() == Kind::Unavailable)
        .notify(|error, wait| tracing::warn!(?error, ?wait, "the catalog commit is tried again"))
        .await
}

async fn attempt(transaction: &Parts, plan: &Plan<'_>) -> Result<Committed> {
    let mut tx = transaction.catalog.db().begin().await?;
    if let Some(snapshot) = snapshot_of_key(&mut tx, transaction).await? {
        return Ok(Committed { snapshot, already: true });
    }
    tx.lock("ducklake_snapshot").await?;
    let head = head(&mut tx).await?;
    let base = &transaction.base;
    if head.snapshot != base.id {
        check_conflicts(&mut tx, base, &head, plan).await?;
    }
    if plan.is_empty() && transaction.side.is_empty() {
        return Ok(Committed { snapshot: base.id, already: false });
    }
    // A clock that was set back does not make history run backwards.
    let time = load::time_text(transaction.catalog.clock().now()).max(head.time.clone());
    let snapshot = if plan.is_empty() {
        head.snapshot
    } else {
        Writer::new(&mut tx, head, &time).write(base, &transaction.info, plan).await?
    };
    sqlx::query("INSERT INTO skep_commit (key, snapshot_id, committed_at) VALUES (?, ?, ?)")
        .bind(transaction.info.key.to_string())
        .bind(snapshot)
        .bind(time)
        .execute(tx.conn())
        .await
        .map_err(|e| database_error("cannot record the commit", e))?;
    sqlx::query("DELETE FROM skep_transaction WHERE key = ?")
        .bind(transaction.info.key.to_string())
        .execute(tx.conn())
        .await
        .map_err(|e| database_error("cannot take away what was written down of a transaction", e))?;
    for side in &transaction.side {
        side.apply(tx.conn(), snapshot).await?;
    }
    tx.commit().await?;
    Ok(Committed { snapshot, already: false })
}

async fn snapshot_of_key(tx: &mut WriteTx, transaction: &Parts) -> Result<Option<i64>> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT snapshot_id FROM skep_commit WHERE key = ?")
        .bind(transaction.info.key.to_string())
        .fetch_optional(tx.conn())
        .await
        .map_err(|e| database_error("cannot look for an earlier commit", e))?;
    Ok(row.map(|(id,)| id))
}

async fn head(tx: &mut WriteTx) -> Result<Head> {
    let row: Option<(i64, String, i64, i64, i64)> = sqlx::query_as(
        "SELECT snapshot_id, CAST(snapshot_time AS TEXT), schema_version, next_catalog_id, next_file_id \
         FROM ducklake_snapshot \
         ORDER BY snapshot_id DESC LIMIT 1",
    )
    .fetch_optional(tx.conn())
    .await
    .map_err(|e| database_error("cannot read the latest snapshot", e))?;
    let (snapshot, time, schema_version, next_catalog_id, next_file_id) = row.ok_or_else(|| {
        Error::corrupt("the catalog has no snapshot").hint("restore the latest backup of the catalog")
    })?;
    Ok(Head { snapshot, time, schema_version, next_catalog_id, next_file_id })
}

async fn check_conflicts(tx: &mut WriteTx, base: &Snapshot, head: &Head, plan: &Plan<'_>) -> Result<()> {
    let rows: Vec<(i64, Option<String>)> = sqlx::query_as(
        "SELECT snapshot_id, changes_made FROM ducklake_snapshot_changes WHERE snapshot_id > ? ORDER BY snapshot_id",
    )
    .bind(base.id)
    .fetch_all(tx.conn())
    .await
    .map_err(|e| database_error("cannot read what other commits changed", e))?;
    let expected = head.snapshot - base.id;
    if i64::try_from(rows.len()).unwrap_or(i64::MAX) != expected {
        return Err(Error::conflict(format!(
            "snapshot {} is too old to be committed on: later snapshots were expired",
            base.id
        ))
        .hint("run the statement again"));
    }
    let theirs = rows
        .into_iter()
        .map(|(id, text)| Ok((id, changes::parse(&text.unwrap_or_default())?)))
        .collect::<Result<Vec<(i64, Vec<Token>)>>>()?;
    conflict::check(plan.tokens_on_base(), &theirs, &BaseNames(base))
}

struct BaseNames<'a>(&'a Snapshot);

impl Names for BaseNames<'_> {
    fn schema(&self, id: i64) -> Option<String> {
        self.0.schemas().find(|schema| schema.id == id).map(|schema| schema.name.clone())
    }

    fn object(&self, id: i64) -> String {
        match self.0.table_by_id(id) {
            Some(table) => format!("'{}.{}'", table.schema_name, table.name),
            None => match self.0.views.values().find(|view| view.id == id) {
                Some(view) => format!("'{}.{}'", view.schema_name, view.name),
                None => id.to_string(),
            },
        }
    }
}
