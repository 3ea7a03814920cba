//! What is well and what is not: of files, of blocks, of the store as a whole.
//!
//! # Cost
//! `fsck` and `files` follow the files they are asked for; `replication_report` is one pass over the index of replicas.
//!
//! # Not here
//! Making it well (`crate::keep`).

use std::collections::BTreeMap;
use std::fmt;

use skep_common::{NodeId, Result};
use sqlx::{AssertSqlSafe, Row};

use super::{Namespace, Replica, db_error, json, read};
use crate::block::BlockId;
use crate::keep::{Activity, Status};
use crate::remote::FileMeta;

/// How it is with a block, or with a file, which is as its worst block. Better ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// As many good replicas as it should have, those on nodes that are waited for included.
    Healthy,
    /// Some good replicas, fewer than it should have. The keeper makes more.
    UnderReplicated,
    /// Every good replica is on a node that does not answer: it can be read when one comes back.
    Missing,
    /// No good replica is left anywhere: the bytes are lost, or damaged in every place.
    Corrupt,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::UnderReplicated => "under-replicated",
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
        })
    }
}

/// One replica of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaHealth {
    /// Where.
    pub node: NodeId,
    /// What is known of its bytes.
    pub state: Replica,
    /// How the node counts.
    pub status: Status,
}

/// One block of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHealth {
    /// The block.
    pub id: BlockId,
    /// Its bytes.
    pub length: u64,
    /// How it is with it.
    pub health: Health,
    /// Its replicas, by node.
    pub replicas: Vec<ReplicaHealth>,
}

/// One file and its blocks in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHealth {
    /// The file.
    pub meta: FileMeta,
    /// How it is with it: as with its worst block.
    pub health: Health,
    /// Its blocks.
    pub blocks: Vec<BlockHealth>,
}

/// How many replicas of a block are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Good, on live nodes.
    pub live: usize,
    /// Good, on nodes in maintenance that do not answer.
    pub maintenance: usize,
    /// Good, on nodes that were silent for a short while.
    pub away: usize,
    /// Good, on nodes that are being emptied and answer.
    pub leaving: usize,
    /// Good, on whatever node.
    pub good: usize,
    /// Known to be damaged or gone.
    pub bad: usize,
}

impl Replicas {
    /// Counts.
    pub fn count<'a>(replicas: impl IntoIterator<Item = (Status, &'a Replica)>) -> Self {
        let mut counted = Self::default();
        for (status, state) in replicas {
            if *state != Replica::Good {
                counted.bad += 1;
                continue;
            }
            counted.good += 1;
            match status {
                Status::Live => counted.live += 1,
                Status::Maintenance => counted.maintenance += 1,
                Status::Away => counted.away += 1,
                Status::Draining { alive: true } => counted.leaving += 1,
                Status::Draining { alive: false } | Status::Dead => {}
            }
        }
        counted
    }

    /// Copies to make. Nodes that are waited for count, but while one is just silent, `required` replicas must be elsewhere:
    /// nobody knows yet whether it comes back.
    pub fn short(&self, wanted: usize, required: usize) -> usize {
        let waited = self.live + self.maintenance;
        let (all, sure) = (wanted.saturating_sub(waited + self.away), required.saturating_sub(waited));
        all.max(if self.away > 0 { sure } else { 0 })
    }

    /// How it is with the block.
    pub fn health(&self, wanted: usize, required: usize) -> Health {
        if self.good == 0 {
            Health::Corrupt
        } else if self.live + self.leaving == 0 {
            Health::Missing
        } else if self.short(wanted, required) > 0 {
            Health::UnderReplicated
        } else {
            Health::Healthy
        }
    }
}

/// The store as a whole. Blocks are those of files that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replication {
    /// Files.
    pub files: u64,
    /// Their blocks; a block that several files share counts once.
    pub blocks: u64,
    /// The bytes of these blocks, each counted once.
    pub bytes: u64,
    /// Replicas a block should have.
    pub wanted: u32,
    /// Blocks with too few replicas and at least one that can be copied.
    pub under_replicated: u64,
    /// Of those, blocks with a single replica that can be read.
    pub one_left: u64,
    /// Blocks with more replicas on live nodes than they should have.
    pub over_replicated: u64,
    /// Blocks whose every good replica is on a node that does not answer.
    pub missing: u64,
    /// Blocks without a good replica anywhere.
    pub corrupt: u64,
    /// Replicas that are known to be damaged.
    pub corrupt_replicas: u64,
    /// Blocks that nodes are still to delete, counted on each node.
    pub garbage: u64,
    /// What the keeper is doing and has done.
    pub activity: Activity,
}

impl Namespace {
    /// The state of every file under the folder `prefix` (`""`: all), after the path `after`, up to `limit` of them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fsck(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<FileHealth>> {
        let files = read::list(self, prefix, after, limit).await?;
        let paths: Vec<String> = files.into_iter().map(|file| file.path).collect();
        // One that went meanwhile is left out.
        Ok(self.files(&paths).await?.into_iter().flatten().collect())
    }

    /// The files at `paths` with their blocks, in order; `None` where there is none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn files(&self, paths: &[String]) -> Result<Vec<Option<FileHealth>>> {
        let nodes = self.statuses();
        let (wanted, required) = self.targets();
        let rows = read::replicas_of(self, paths).await?;
        let mut files: BTreeMap<String, FileHealth> = BTreeMap::new();
        for row in &rows {
            let meta = read::meta(row);
            let file = files.entry(meta.path.clone()).or_insert_with(|| FileHealth {
                meta,
                health: Health::Healthy,
                blocks: Vec::new(),
            });
            let Some(id) = row.get::<Option<&str>, _>(4) else { continue };
            let id: BlockId = id.parse()?;
            if file.blocks.last().is_none_or(|last| last.id != id) {
                let length = row.get::<Option<i64>, _>(5).unwrap_or(0) as u64;
                file.blocks.push(BlockHealth { id, length, health: Health::Corrupt, replicas: Vec::new() });
            }
            let (Some(node), Some(block)) = (row.get::<Option<String>, _>(6), file.blocks.last_mut()) else {
                continue;
            };
            let node = NodeId::new(node)?;
            let status = nodes.get(&node).copied().unwrap_or(Status::Dead);
            block.replicas.push(ReplicaHealth { node, state: Replica::read(row.get(7)), status });
        }
        for file in files.values_mut() {
            for block in &mut file.blocks {
                let replicas = block.replicas.iter().map(|replica| (replica.status, &replica.state));
                block.health = Replicas::count(replicas).health(wanted, required);
            }
            file.health = file.blocks.iter().map(|block| block.health).max().unwrap_or(Health::Healthy);
        }
        Ok(paths.iter().map(|path| files.get(path).cloned()).collect())
    }

    /// How the store is as a whole.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn replication_report(&self) -> Result<Replication> {
        let nodes: Vec<(NodeId, Status)> = self.statuses().into_iter().collect();
        let (wanted, required) = self.targets();
        let rows = sqlx::query(AssertSqlSafe(format!(
            "WITH tally AS ({TALLY})
             SELECT live, maintenance, away, leaving, good, bad, corrupt, count(*), CAST(sum(length) AS BIGINT)
             FROM tally GROUP BY live, maintenance, away, leaving, good, bad, corrupt"
        )));
        let rows = bind_statuses(rows, nodes.iter().map(|(id, status)| (id, *status)))
            .fetch_all(self.0.db.reader())
            .await
            .map_err(db_error)?;
        let mut report = Replication { wanted: self.replication().wanted, ..Replication::default() };
        for row in rows {
            let number = |at: usize| usize::try_from(row.get::<i64, _>(at)).unwrap_or(0);
            let replicas = Replicas {
                live: number(0),
                maintenance: number(1),
                away: number(2),
                leaving: number(3),
                good: number(4),
                bad: number(5),
            };
            let blocks = number(7) as u64;
            report.blocks += blocks;
            report.bytes += row.get::<Option<i64>, _>(8).unwrap_or(0) as u64;
            report.corrupt_replicas += number(6) as u64 * blocks;
            match replicas.health(wanted, required) {
                Health::Healthy if replicas.live > wanted => report.over_replicated += blocks,
                Health::Healthy => {}
                Health::UnderReplicated => {
                    report.under_replicated += blocks;
                    if replicas.live + replicas.leaving == 1 {
                        report.one_left += blocks;
                    }
                }
                Health::Missing => report.missing += blocks,
                Health::Corrupt => report.corrupt += blocks,
            }
        }
        let counts: (i64, i64) =
            sqlx::query_as("SELECT (SELECT count(*) FROM skep_file), (SELECT count(*) FROM skep_garbage)")
                .fetch_one(self.0.db.reader())
                .await
                .map_err(db_error)?;
        (report.files, report.garbage) = (counts.0 as u64, counts.1 as u64);
        report.activity = self.0.activity.read().clone();
        Ok(report)
    }

    pub(super) fn targets(&self) -> (usize, usize) {
        let replication = self.replication();
        (replication.wanted as usize, replication.required as usize)
    }
}

/// Blocks of files with the replicas that [`Replicas`] counts. Takes what [`bind_statuses`] binds.
pub(super) const TALLY: &str = "
    SELECT b.id, b.length,
      count(CASE WHEN r.state = 'good' AND r.node IN (SELECT value FROM json_each(?1)) THEN 1 END) AS live,
      count(CASE WHEN r.state = 'good' AND r.node IN (SELECT value FROM json_each(?2)) THEN 1 END) AS maintenance,
      count(CASE WHEN r.state = 'good' AND r.node IN (SELECT value FROM json_each(?3)) THEN 1 END) AS away,
      count(CASE WHEN r.state = 'good' AND r.node IN (SELECT value FROM json_each(?4)) THEN 1 END) AS leaving,
      count(CASE WHEN r.state = 'good' THEN 1 END) AS good,
      count(CASE WHEN r.state IN ('corrupt', 'missing') THEN 1 END) AS bad,
      count(CASE WHEN r.state = 'corrupt' THEN 1 END) AS corrupt
    FROM skep_block b LEFT JOIN skep_replica r ON r.block = b.id
    WHERE b.write IS NULL GROUP BY b.id, b.length";

pub(super) type Query<'q> = sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments>;

/// The nodes of each status, as `?1` to `?4`.
pub(super) fn bind_statuses<'q, 'n>(
    query: Query<'q>,
    nodes: impl Iterator<Item = (&'n NodeId, Status)> + Clone,
) -> Query<'q> {
    let of = |wanted: Status| {
        json(nodes.clone().filter(|(_, status)| *status == wanted).map(|(node, _)| node.to_string()))
    };
    query
        .bind(of(Status::Live))
        .bind(of(Status::Maintenance))
        .bind(of(Status::Away))
        .bind(of(Status::Draining { alive: true }))
}
