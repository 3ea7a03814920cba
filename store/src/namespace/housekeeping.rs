//! What the keeper asks and records.

use skep_common::{NodeId, Result};
use sqlx::Row;

use super::{Namespace, db_error, json, write};
use crate::block::{BlockId, WriteId};
use crate::keep::BlockState;

/// A replica as the namespace counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Replica {
    /// Readers are offered it.
    Good,
    /// Readers are not offered it; its bytes failed a check.
    Corrupt,
    /// Readers are not offered it; the node does not have it.
    Missing,
}

/// A block that a node should delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// The node.
    pub node: NodeId,
    /// The block.
    pub block: BlockId,
}

impl Namespace {
    /// Gives up writes whose writers were silent for longer than their lease. Returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn expire_writes(&self) -> Result<usize> {
        let lease = i64::try_from(self.0.config.write_lease.as_micros()).unwrap_or(i64::MAX);
        let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM skep_write WHERE touched_us < ?")
            .bind(self.now_us().saturating_sub(lease))
            .fetch_all(self.0.db.reader())
            .await
            .map_err(db_error)?;
        let mut expired = 0;
        for id in ids {
            let id: WriteId = id.parse()?;
            let mut tx = self.begin().await?;
            // Asked again under the writer's lock: it may have come back.
            let touched: Option<i64> = sqlx::query_scalar("SELECT touched_us FROM skep_write WHERE id = ?")
                .bind(id.to_string())
                .fetch_optional(tx.conn())
                .await
                .map_err(db_error)?;
            if touched.is_some_and(|at| at < self.now_us().saturating_sub(lease)) {
                write::give_up(self, tx.conn(), id).await?;
                expired += 1;
            }
            tx.commit().await?;
        }
        Ok(expired)
    }

    /// Up to `limit` blocks that nodes should delete, past their grace time, for nodes in `nodes`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn garbage(&self, nodes: &[NodeId], limit: u32) -> Result<Vec<Garbage>> {
        let grace = i64::try_from(self.0.config.delete_grace.as_micros()).unwrap_or(i64::MAX);
        let rows = sqlx::query(
            "SELECT node, block FROM skep_garbage
             WHERE asked = 0 AND since_us <= ? AND node IN (SELECT value FROM json_each(?)) ORDER BY node LIMIT ?",
        )
        .bind(self.now_us().saturating_sub(grace))
        .bind(json(nodes))
        .bind(i64::from(limit))
        .fetch_all(self.0.db.reader())
        .await
        .map_err(db_error)?;
        rows.iter()
            .map(|row| {
                Ok(Garbage {
                    node: NodeId::new(row.get::<String, _>(0))?,
                    block: row.get::<&str, _>(1).parse()?,
                })
            })
            .collect()
    }

    /// The node was told to delete these. They are forgotten when its next report does not name them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn garbage_asked(&self, node: &NodeId, blocks: &[BlockId]) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE skep_garbage SET asked = 1 WHERE node = ? AND block IN (SELECT value FROM json_each(?))",
        )
        .bind(node.as_str())
        .bind(json(blocks))
        .execute(tx.conn())
        .await
        .map_err(db_error)?;
        tx.commit().await
    }

    /// Up to `limit` blocks that do not have exactly `wanted` good replicas on the nodes `live`, or have a bad one;
    /// those with the fewest good replicas first.
    ///
    /// # Cost
    /// One pass over the index of replicas.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn imbalanced(&self, live: &[NodeId], wanted: u32, limit: u32) -> Result<Vec<BlockState>> {
        let rows = sqlx::query(
            "WITH tally AS (
               SELECT b.id, b.length,
                 count(CASE WHEN r.state = 'good' AND r.node IN (SELECT value FROM json_each(?1)) THEN 1 END) AS good,
                 count(CASE WHEN r.state = 'corrupt' OR r.state = 'missing' THEN 1 END) AS bad
               FROM skep_block b LEFT JOIN skep_replica r ON r.block = b.id
               WHERE b.write IS NULL GROUP BY b.id
             )
             SELECT t.id, t.length, r.node, r.state
             FROM (SELECT * FROM tally WHERE good <> ?2 OR bad > 0 ORDER BY good, id LIMIT ?3) t
             LEFT JOIN skep_replica r ON r.block = t.id
             ORDER BY t.good, t.id, r.node",
        )
        .bind(json(live))
        .bind(i64::from(wanted))
        .bind(i64::from(limit))
        .fetch_all(self.0.db.reader())
        .await
        .map_err(db_error)?;
        let mut blocks: Vec<BlockState> = Vec::new();
        for row in &rows {
            let id: BlockId = row.get::<&str, _>(0).parse()?;
            if blocks.last().is_none_or(|block| block.id != id) {
                let length = row.get::<Option<i64>, _>(1).unwrap_or(0) as u64;
                blocks.push(BlockState { id, length, replicas: Vec::new() });
            }
            let (Some(node), Some(block)) = (row.get::<Option<String>, _>(2), blocks.last_mut()) else {
                continue;
            };
            let state = match row.get::<&str, _>(3) {
                "good" => Replica::Good,
                "corrupt" => Replica::Corrupt,
                _ => Replica::Missing,
            };
            block.replicas.push((NodeId::new(node)?, state));
        }
        Ok(blocks)
    }

    /// A copy of a block is about to be made on these nodes: whatever they held of it no longer counts.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn copy_started(&self, block: BlockId, nodes: &[NodeId]) -> Result<()> {
        let mut tx = self.begin().await?;
        for node in nodes {
            sqlx::query("DELETE FROM skep_garbage WHERE node = ? AND block = ?")
                .bind(node.as_str())
                .bind(block.to_string())
                .execute(tx.conn())
                .await
                .map_err(db_error)?;
        }
        tx.commit().await
    }

    /// A copy of a block became durable on these nodes. Nothing happens if the block is gone meanwhile, except that
    /// the copies are garbage.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn copied(&self, block: BlockId, nodes: &[NodeId]) -> Result<()> {
        let mut tx = self.begin().await?;
        let exists: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM skep_block WHERE id = ? AND write IS NULL")
                .bind(block.to_string())
                .fetch_optional(tx.conn())
                .await
                .map_err(db_error)?;
        let statement = match exists {
            Some(_) => {
                "INSERT INTO skep_replica (block, node, state) SELECT ?, value, 'good' FROM json_each(?) WHERE true
                 ON CONFLICT (block, node) DO UPDATE SET state = 'good'"
            }
            None => {
                "INSERT INTO skep_garbage (block, node, since_us) SELECT ?, value, 0 FROM json_each(?) WHERE true
                 ON CONFLICT DO NOTHING"
            }
        };
        sqlx::query(statement)
            .bind(block.to_string())
            .bind(json(nodes))
            .execute(tx.conn())
            .await
            .map_err(db_error)?;
        tx.commit().await
    }

    /// A replica is no longer wanted on this node: readers are not offered it and the node is told to delete it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn discard(&self, block: BlockId, node: &NodeId) -> Result<()> {
        let mut tx = self.begin().await?;
        for statement in [
            "DELETE FROM skep_replica WHERE block = ? AND node = ?",
            "INSERT INTO skep_garbage (block, node, since_us) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
        ] {
            sqlx::query(statement)
                .bind(block.to_string())
                .bind(node.as_str())
                .execute(tx.conn())
                .await
                .map_err(db_error)?;
        }
        tx.commit().await
    }
}
