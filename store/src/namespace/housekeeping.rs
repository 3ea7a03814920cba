//! What the keeper asks and records.

use std::fmt;

use skep_common::{NodeId, Result};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::health::{TALLY, bind_statuses};
use super::{Namespace, db_error, json, write};
use crate::block::{BlockId, WriteId};
use crate::keep::{BlockState, NodeState};

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

impl Replica {
    /// From what the database calls it.
    pub(super) fn read(text: &str) -> Self {
        match text {
            "good" => Self::Good,
            "corrupt" => Self::Corrupt,
            _ => Self::Missing,
        }
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Corrupt => "corrupt",
            Self::Missing => "missing",
        })
    }
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

    /// Up to `limit` blocks that nodes which answer should delete, past their grace time. One of a block that has fewer than
    /// the required replicas elsewhere is not among them, whatever was decided when there were more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn garbage(&self, nodes: &[NodeState], limit: u32) -> Result<Vec<Garbage>> {
        let grace = i64::try_from(self.0.config.delete_grace.as_micros()).unwrap_or(i64::MAX);
        // A node that answers and has not reported has nothing to be counted on, and may delete.
        let answering = self.0.nodes.live().into_iter().map(|node| node.id);
        let rows = sqlx::query(
            "SELECT g.node, g.block FROM skep_garbage g
             WHERE g.asked <> 1 AND g.since_us <= ?1 AND g.node IN (SELECT value FROM json_each(?2))
               AND NOT EXISTS (SELECT 1 FROM skep_block b WHERE b.id = g.block AND b.write IS NULL AND ?3 >
                 (SELECT count(*) FROM skep_replica r WHERE r.block = g.block AND r.state = 'good'
                    AND r.node <> g.node AND r.node IN (SELECT value FROM json_each(?4))))
             ORDER BY g.node LIMIT ?5",
        )
        .bind(self.now_us().saturating_sub(grace))
        .bind(json(answering))
        .bind(i64::from(self.replication().required))
        .bind(giving(nodes))
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

    /// Counts replicas again that were too many and are not any more, because others were lost before the nodes were asked
    /// to delete them. Returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reclaim(&self, nodes: &[NodeState]) -> Result<usize> {
        const WORTH_HAVING: &str = "FROM skep_garbage g WHERE g.asked = 0 AND g.bad = 0
            AND g.node IN (SELECT value FROM json_each(?2))
            AND EXISTS (SELECT 1 FROM skep_block b WHERE b.id = g.block AND b.write IS NULL) AND ?1 >
              (SELECT count(*) FROM skep_replica r WHERE r.block = g.block AND r.state = 'good'
                 AND r.node IN (SELECT value FROM json_each(?2)))";
        let required = i64::from(self.replication().required);
        let select = |what: &str| AssertSqlSafe(format!("SELECT {what} {WORTH_HAVING}"));
        let count: i64 = sqlx::query_scalar(select("count(*)"))
            .bind(required)
            .bind(giving(nodes))
            .fetch_one(self.0.db.reader())
            .await
            .map_err(db_error)?;
        if count == 0 {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let rows = sqlx::query(select("g.node, g.block"))
            .bind(required)
            .bind(giving(nodes))
            .fetch_all(tx.conn())
            .await
            .map_err(db_error)?;
        for row in &rows {
            let (node, block): (String, String) = (row.get(0), row.get(1));
            for statement in [
                "DELETE FROM skep_garbage WHERE node = ? AND block = ?",
                "INSERT INTO skep_replica (node, block, state) VALUES (?, ?, 'good')
                 ON CONFLICT (block, node) DO UPDATE SET state = 'good'",
            ] {
                sqlx::query(statement).bind(&node).bind(&block).execute(tx.conn()).await.map_err(db_error)?;
            }
        }
        tx.commit().await?;
        tracing::warn!(replicas = rows.len(), "discarded replicas are counted again, since others were lost");
        Ok(rows.len())
    }

    /// The node is about to be told to delete these: from here on they may be gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn garbage_asking(&self, node: &NodeId, blocks: &[BlockId]) -> Result<()> {
        self.garbage_state(node, blocks, 2).await
    }

    /// The node was told to delete these. They are forgotten when its next report does not name them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn garbage_asked(&self, node: &NodeId, blocks: &[BlockId]) -> Result<()> {
        self.garbage_state(node, blocks, 1).await
    }

    async fn garbage_state(&self, node: &NodeId, blocks: &[BlockId], asked: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE skep_garbage SET asked = ? WHERE node = ? AND block IN (SELECT value FROM json_each(?))",
        )
        .bind(asked)
        .bind(node.as_str())
        .bind(json(blocks))
        .execute(tx.conn())
        .await
        .map_err(db_error)?;
        tx.commit().await
    }

    /// What the keeper may have to do something about: up to `limit` blocks with too few replicas, those with the fewest
    /// first, and up to `limit` with surplus or bad ones.
    ///
    /// # Cost
    /// One pass over the index of replicas.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn attention(&self, nodes: &[NodeState], limit: u32) -> Result<Vec<BlockState>> {
        let (wanted, required) = self.targets();
        // As `Replicas::short` says, which decides.
        let sql = format!(
            "WITH tally AS ({TALLY}), short AS (
               SELECT id, length, live + leaving AS found FROM tally WHERE live + leaving > 0 AND
                 (live + maintenance + away < ?5 OR (away > 0 AND live + maintenance < ?6))
               ORDER BY live + leaving, id LIMIT ?7
             ), surplus AS (
               SELECT id, length, live + leaving AS found FROM tally
               WHERE live > ?5 OR (bad > 0 AND live >= ?5) ORDER BY id LIMIT ?7
             )
             SELECT t.id, t.length, r.node, r.state
             FROM (SELECT * FROM short UNION SELECT * FROM surplus) t
             LEFT JOIN skep_replica r ON r.block = t.id ORDER BY t.found, t.id, r.node"
        );
        let query =
            bind_statuses(sqlx::query(AssertSqlSafe(sql)), nodes.iter().map(|node| (&node.id, node.status)));
        let rows = query
            .bind(wanted as i64)
            .bind(required as i64)
            .bind(i64::from(limit))
            .fetch_all(self.0.db.reader())
            .await
            .map_err(db_error)?;
        states(&rows)
    }

    /// Up to `limit` blocks of files with ids after `after`, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn page_of_blocks(&self, after: Option<BlockId>, limit: u32) -> Result<Vec<BlockState>> {
        let rows = sqlx::query(
            "SELECT t.id, t.length, r.node, r.state
             FROM (SELECT id, length FROM skep_block WHERE write IS NULL AND id > ? ORDER BY id LIMIT ?) t
             LEFT JOIN skep_replica r ON r.block = t.id ORDER BY t.id, r.node",
        )
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(self.0.db.reader())
        .await
        .map_err(db_error)?;
        states(&rows)
    }

    /// A copy of a block is about to be made on these nodes. Until [`Namespace::copied`] it counts as missing there, so that
    /// whatever becomes of it is accounted for. False if the block is gone meanwhile, and nothing is to be copied.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn copy_started(&self, block: BlockId, nodes: &[NodeId]) -> Result<bool> {
        let mut tx = self.begin().await?;
        let exists: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM skep_block WHERE id = ? AND write IS NULL")
                .bind(block.to_string())
                .fetch_optional(tx.conn())
                .await
                .map_err(db_error)?;
        if exists.is_none() {
            return Ok(false);
        }
        for statement in [
            "DELETE FROM skep_garbage WHERE block = ? AND node IN (SELECT value FROM json_each(?))",
            "INSERT INTO skep_replica (block, node, state) SELECT ?, value, 'missing' FROM json_each(?) WHERE true
             ON CONFLICT DO NOTHING",
        ] {
            sqlx::query(statement)
                .bind(block.to_string())
                .bind(json(nodes))
                .execute(tx.conn())
                .await
                .map_err(db_error)?;
        }
        tx.commit().await?;
        Ok(true)
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

    /// Replicas are no longer wanted on these nodes: readers are not offered them, and the nodes are told to delete them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn discard(&self, replicas: &[(BlockId, NodeId)]) -> Result<()> {
        if replicas.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        for (block, node) in replicas {
            let state: Option<String> =
                sqlx::query_scalar("DELETE FROM skep_replica WHERE block = ? AND node = ? RETURNING state")
                    .bind(block.to_string())
                    .bind(node.as_str())
                    .fetch_optional(tx.conn())
                    .await
                    .map_err(db_error)?;
            // The block went meanwhile, and its replicas with it.
            let Some(state) = state else { continue };
            sqlx::query(
                "INSERT INTO skep_garbage (block, node, since_us, bad) VALUES (?, ?, 0, ?) ON CONFLICT DO NOTHING",
            )
            .bind(block.to_string())
            .bind(node.as_str())
            .bind(i64::from(state != "good"))
            .execute(tx.conn())
            .await
            .map_err(db_error)?;
        }
        tx.commit().await
    }
}

/// The nodes whose replicas can be read, as a JSON array.
fn giving(nodes: &[NodeState]) -> String {
    json(nodes.iter().filter(|node| node.status.gives()).map(|node| node.id.clone()))
}

/// From rows of block, length, node and state, sorted so that those of a block are together.
fn states(rows: &[AnyRow]) -> Result<Vec<BlockState>> {
    let mut blocks: Vec<BlockState> = Vec::new();
    for row in rows {
        let id: BlockId = row.get::<&str, _>(0).parse()?;
        if blocks.last().is_none_or(|block| block.id != id) {
            let length = row.get::<Option<i64>, _>(1).unwrap_or(0) as u64;
            blocks.push(BlockState { id, length, replicas: Vec::new() });
        }
        if let (Some(node), Some(block)) = (row.get::<Option<String>, _>(2), blocks.last_mut()) {
            block.replicas.push((NodeId::new(node)?, Replica::read(row.get(3))));
        }
    }
    Ok(blocks)
}
