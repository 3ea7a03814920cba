//! What nodes and readers say of replicas.

use std::collections::HashMap;

use skep_common::{Error, NodeId, Result};
use skep_metadb::Conn;
use sqlx::Row;

use super::{Namespace, db_error, json, orphans};
use crate::block::BlockId;
use crate::remote::{BlockReport, Fault, ReportAnswer};

pub(super) async fn fault(namespace: &Namespace, block: BlockId, node: &NodeId, fault: Fault) -> Result<()> {
    tracing::warn!(%block, %node, ?fault, "replica reported");
    let mut tx = namespace.begin().await?;
    set_state(tx.conn(), node, &[block], state(fault)).await?;
    tx.commit().await
}

fn state(fault: Fault) -> &'static str {
    match fault {
        Fault::Corrupt => "corrupt",
        Fault::Missing => "missing",
    }
}

/// Compares what the node holds with what the namespace counts on.
///
/// A replica that was found corrupt stays so, although its file is there. One that was missing and came back counts
/// again. A block the namespace does not know is left alone.
pub(super) async fn blocks(namespace: &Namespace, report: BlockReport) -> Result<ReportAnswer> {
    if report.store.as_ref().is_some_and(|store| *store != namespace.0.store) {
        return Err(Error::invalid(format!("node '{}' holds blocks of another store", report.node))
            .hint("start the worker with an empty folder, or point it at the coordinator it belonged to"));
    }
    let node = &report.node;
    let mut tx = namespace.begin().await?;
    let zone = namespace.0.nodes.live().into_iter().find(|info| info.id == *node).and_then(|info| info.zone);
    sqlx::query(
        "INSERT INTO skep_node (id, reported_us, zone) VALUES (?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET reported_us = excluded.reported_us, zone = excluded.zone",
    )
    .bind(node.as_str())
    .bind(namespace.now_us())
    .bind(zone.clone())
    .execute(tx.conn())
    .await
    .map_err(db_error)?;

    let held: HashMap<BlockId, u64> = report.blocks.iter().map(|block| (block.id, block.length)).collect();
    let compared = compare(tx.conn(), node, &held, &report.bad).await?;
    set_state(tx.conn(), node, &compared.corrupt, "corrupt").await?;
    set_state(tx.conn(), node, &compared.returned, "good").await?;
    let adopted = adopt(tx.conn(), node, &held, &compared.unlisted).await?;
    orphans::collect(namespace, tx.conn(), node, &compared.unlisted).await?;
    let deleted = forget_garbage(tx.conn(), node, &report).await?;
    tx.commit().await?;
    namespace.0.known.write().entry(node.clone()).or_default().zone = zone;
    namespace.0.watch.lock().reported(node, namespace.instant());

    let unknown = compared.unlisted.len().saturating_sub(adopted + deleted) as u64;
    Ok(ReportAnswer {
        store: namespace.0.store.clone(),
        known: (compared.good + compared.returned.len() + adopted) as u64,
        unknown,
        missing: compared.missing,
    })
}

#[derive(Default)]
struct Compared {
    good: usize,
    returned: Vec<BlockId>,
    corrupt: Vec<BlockId>,
    missing: Vec<BlockId>,
    /// Held, and not among the replicas of this node.
    unlisted: Vec<BlockId>,
}

async fn compare(
    conn: &mut Conn,
    node: &NodeId,
    held: &HashMap<BlockId, u64>,
    bad: &[BlockId],
) -> Result<Compared> {
    let rows = sqlx::query(
        "SELECT r.block, r.state, b.length FROM skep_replica r JOIN skep_block b ON b.id = r.block WHERE r.node = ?",
    )
    .bind(node.as_str())
    .fetch_all(conn)
    .await
    .map_err(db_error)?;
    let bad: std::collections::HashSet<_> = bad.iter().collect();
    let mut unlisted = held.clone();
    let mut compared = Compared::default();
    for row in rows {
        let block: BlockId = row.get::<&str, _>(0).parse()?;
        let length = row.get::<Option<i64>, _>(2).map(|length| length as u64);
        unlisted.remove(&block);
        match (row.get::<&str, _>(1), held.get(&block)) {
            ("placed" | "corrupt", _) => {}
            (_, _) if bad.contains(&block) => compared.corrupt.push(block),
            (_, Some(held)) if Some(*held) != length => compared.corrupt.push(block),
            ("good", Some(_)) => compared.good += 1,
            ("missing", Some(_)) => compared.returned.push(block),
            ("good", None) => compared.missing.push(block),
            _ => {}
        }
    }
    compared.unlisted = unlisted.into_keys().collect();
    Ok(compared)
}

/// Counts replicas that the namespace had not recorded, such as a copy whose acknowledgement was lost.
async fn adopt(
    conn: &mut Conn,
    node: &NodeId,
    held: &HashMap<BlockId, u64>,
    unlisted: &[BlockId],
) -> Result<usize> {
    let rows = sqlx::query(
        "SELECT id, length FROM skep_block WHERE write IS NULL AND id IN (SELECT value FROM json_each(?))",
    )
    .bind(json(unlisted))
    .fetch_all(&mut *conn)
    .await
    .map_err(db_error)?;
    let mut adopted = Vec::new();
    for row in rows {
        let block: BlockId = row.get::<&str, _>(0).parse()?;
        if held.get(&block).copied() == row.get::<Option<i64>, _>(1).map(|length| length as u64) {
            adopted.push(block);
        }
    }
    let done = sqlx::query(
        "INSERT INTO skep_replica (block, node, state) SELECT value, ?, 'good' FROM json_each(?)
         WHERE value NOT IN (SELECT block FROM skep_garbage WHERE node = ?)
         ON CONFLICT DO NOTHING",
    )
    .bind(node.as_str())
    .bind(json(&adopted))
    .bind(node.as_str())
    .execute(conn)
    .await
    .map_err(db_error)?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(0))
}

/// Garbage that the node no longer holds is done with. Returns how much of it the node still holds.
async fn forget_garbage(conn: &mut Conn, node: &NodeId, report: &BlockReport) -> Result<usize> {
    let held = json(report.blocks.iter().map(|block| block.id).chain(report.bad.iter().copied()));
    sqlx::query(
        "DELETE FROM skep_garbage WHERE node = ? AND asked = 1 AND block NOT IN (SELECT value FROM json_each(?))",
    )
    .bind(node.as_str())
    .bind(&held)
    .execute(&mut *conn)
    .await
    .map_err(db_error)?;
    // What is left and was asked for is still there: ask again.
    sqlx::query("UPDATE skep_garbage SET asked = 0 WHERE node = ?")
        .bind(node.as_str())
        .execute(&mut *conn)
        .await
        .map_err(db_error)?;
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM skep_garbage WHERE node = ? AND block IN (SELECT value FROM json_each(?))",
    )
    .bind(node.as_str())
    .bind(&held)
    .fetch_one(conn)
    .await
    .map_err(db_error)?;
    Ok(usize::try_from(left).unwrap_or(0))
}

/// Changes replicas that readers or the keeper count on; what is being written is left alone.
pub(super) async fn set_state(conn: &mut Conn, node: &NodeId, blocks: &[BlockId], state: &str) -> Result<()> {
    if blocks.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE skep_replica SET state = ? WHERE node = ? AND state <> 'placed'
           AND block IN (SELECT value FROM json_each(?))",
    )
    .bind(state)
    .bind(node.as_str())
    .bind(json(blocks))
    .execute(conn)
    .await
    .map_err(db_error)?;
    Ok(())
}
