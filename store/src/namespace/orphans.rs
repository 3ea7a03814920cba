//! Blocks on a disk that the namespace does not know: which of them may go.
//!
//! ```text
//! lives of this database      |=========A=========|        |====B====...
//! time in the id of a block          x: over           y: kept
//! ```
//!
//! A block is put on record before its id is handed out, and its id says when that was. An id from a time in which this database
//! recorded every one (a *life*) and that it no longer knows was forgotten on purpose: the block is over. Such blocks are left
//! by a delete that a power cut undid, or by a writer that was given up and went on. They are collected after `orphan_grace`.
//!
//! An id from any other time comes from a life that this database does not remember, since it was restored from a copy: the
//! block may be all that is left of a file. It is kept, and counted as unknown.
//!
//! # Invariants
//! - A life ends, as far as the database knows, with the last block it recorded: what is lost with the database is never
//!   within a life.
//! - `x` above is collected only if it is also older than `orphan_grace`.

use skep_common::{NodeId, Result};
use skep_metadb::{Conn, MetaDb};
use sqlx::Row;

use super::{Namespace, db_error, json};
use crate::block::BlockId;

/// How far the clocks of two coordinators may be apart.
const SKEW_US: i64 = 60_000_000;

/// From `now_us` on this database records every block. Returns what names its life.
pub(super) async fn begin_life(db: &MetaDb, now_us: i64) -> Result<i64> {
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO skep_life (start_us, end_us) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(now_us)
        .bind(now_us)
        .execute(tx.conn())
        .await
        .map_err(db_error)?;
    // Lives in which nothing happened say nothing.
    sqlx::query("DELETE FROM skep_life WHERE start_us = end_us AND start_us <> ?")
        .bind(now_us)
        .execute(tx.conn())
        .await
        .map_err(db_error)?;
    tx.commit().await?;
    Ok(now_us)
}

/// In a write transaction, and so under the writer's lock: every id until now is on record.
pub(super) async fn live_on(namespace: &Namespace, conn: &mut Conn) -> Result<()> {
    sqlx::query("UPDATE skep_life SET end_us = ? WHERE start_us = ?")
        .bind(namespace.now_us())
        .bind(namespace.0.life_us)
        .execute(conn)
        .await
        .map_err(db_error)?;
    Ok(())
}

/// Turns those of `unknown`, which `node` holds, into garbage that are over and older than the grace time.
pub(super) async fn collect(
    namespace: &Namespace,
    conn: &mut Conn,
    node: &NodeId,
    unknown: &[BlockId],
) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    live_on(namespace, conn).await?;
    let rows = sqlx::query("SELECT start_us, end_us FROM skep_life")
        .fetch_all(&mut *conn)
        .await
        .map_err(db_error)?;
    let lives: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let grace = i64::try_from(namespace.0.config.orphan_grace.as_micros()).unwrap_or(i64::MAX);
    let before = namespace.now_us().saturating_sub(grace);
    let over: Vec<String> = unknown
        .iter()
        .filter(|block| block.made_us().is_some_and(|made| made < before && within(&lives, made)))
        .map(ToString::to_string)
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let made = sqlx::query(
        "INSERT INTO skep_garbage (node, block, since_us) SELECT ?1, value, 0 FROM json_each(?2)
         WHERE value NOT IN (SELECT id FROM skep_block) ON CONFLICT DO NOTHING",
    )
    .bind(node.as_str())
    .bind(json(&over))
    .execute(conn)
    .await
    .map_err(db_error)?;
    if made.rows_affected() > 0 {
        tracing::warn!(%node, blocks = made.rows_affected(), "orphan blocks are collected");
    }
    Ok(())
}

fn within(lives: &[(i64, i64)], at: i64) -> bool {
    lives.iter().any(|(start, end)| *start + SKEW_US < at && at < *end - SKEW_US)
}
