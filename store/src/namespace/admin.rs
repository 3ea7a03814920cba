//! What an operator does to nodes and sees of them.
//!
//! # Not here
//! What follows for blocks (`crate::keep`); how an operator asks (`skep store`, SYSTEM statements).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use skep_common::{Error, NodeId, Result};
use skep_metadb::MetaDb;
use sqlx::{AssertSqlSafe, Row};
use url::Url;

use super::health::{TALLY, bind_statuses};
use super::{Known, Namespace, db_error, time};
use crate::keep::{Activity, NodeState, Orders, Status};

/// A node as an operator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    /// The node.
    pub id: NodeId,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Where it listens, or was last heard of since the coordinator started.
    pub url: Option<Url>,
    /// How the keeper counts it.
    pub status: Status,
    /// How long ago it was heard of, or how long the coordinator has waited to.
    pub silent: Duration,
    /// The operator wants it empty.
    pub draining: bool,
    /// It is being emptied, and no block needs it any more: it can be taken away.
    pub drained: bool,
    /// Blocks that still need it while it is being emptied.
    pub to_drain: u64,
    /// It may be away until then.
    pub maintenance: Option<DateTime<Utc>>,
    /// Bytes of its good replicas.
    pub used: u64,
    /// Bytes free for blocks; 0 while it does not answer.
    pub free: u64,
    /// Its good replicas.
    pub blocks: u64,
    /// Its replicas that are known to be damaged or gone.
    pub bad: u64,
}

/// What is on record of nodes.
pub(super) async fn known(db: &MetaDb) -> Result<BTreeMap<NodeId, Known>> {
    let rows = sqlx::query("SELECT id, draining_us, maintenance_us, zone FROM skep_node")
        .fetch_all(db.reader())
        .await
        .map_err(db_error)?;
    let known = rows.iter().map(|row| {
        let known = Known {
            draining: row.get::<Option<i64>, _>(1).is_some(),
            maintenance_us: row.get(2),
            zone: row.get(3),
        };
        Ok((NodeId::new(row.get::<String, _>(0))?, known))
    });
    known.collect()
}

impl Namespace {
    /// Has every block of `node` copied elsewhere; from now on the node gets none. What it holds stays there, so that
    /// [`Namespace::undrain`] costs nothing. Outlives a restart. It is done when [`NodeReport::drained`] says so.
    ///
    /// # Errors
    /// `NotFound` for a node that never reported; `Invalid` if too few nodes would be left for `min_replicas`.
    pub async fn drain(&self, node: &NodeId) -> Result<()> {
        {
            let known = self.0.known.read();
            let this = known.get(node).ok_or_else(|| unknown(node, &known))?;
            let left = known.values().filter(|other| !other.draining).count();
            let left = if this.draining { left } else { left.saturating_sub(1) };
            if left < self.0.config.min_replicas as usize {
                return Err(Error::invalid(format!(
                    "node '{node}' cannot be drained: {left} other nodes take blocks, and a block needs {}",
                    self.0.config.min_replicas
                ))
                .hint("add a node first, or lower [store] min_replicas"));
            }
        }
        self.order(node, "UPDATE skep_node SET draining_us = ? WHERE id = ?", Some(self.now_us())).await?;
        self.0.known.write().entry(node.clone()).or_default().draining = true;
        tracing::info!(%node, "draining");
        Ok(())
    }

    /// `node` is to stay: it takes blocks again, and what it holds counts again.
    ///
    /// # Errors
    /// `NotFound` for a node that never reported.
    pub async fn undrain(&self, node: &NodeId) -> Result<()> {
        self.order(node, "UPDATE skep_node SET draining_us = ? WHERE id = ?", None).await?;
        self.0.known.write().entry(node.clone()).or_default().draining = false;
        tracing::info!(%node, "no longer draining");
        Ok(())
    }

    /// `node` may be away until `until` without its blocks being copied elsewhere, and gets no blocks; `None`: it may not
    /// any more. Outlives a restart.
    ///
    /// # Errors
    /// `NotFound` for a node that never reported; `Invalid` for a time that is over.
    pub async fn maintenance(&self, node: &NodeId, until: Option<DateTime<Utc>>) -> Result<()> {
        let until_us = until.map(|until| until.timestamp_micros());
        if until_us.is_some_and(|until| until <= self.now_us()) {
            return Err(Error::invalid(format!("the maintenance of node '{node}' would be over already")));
        }
        self.order(node, "UPDATE skep_node SET maintenance_us = ? WHERE id = ?", until_us).await?;
        self.0.known.write().entry(node.clone()).or_default().maintenance_us = until_us;
        tracing::info!(%node, ?until, "maintenance");
        Ok(())
    }

    /// `node` never comes back: it is no longer listed, and its replicas are forgotten. A worker of that name that joins
    /// later is a node like any other, and blocks it still holds are counted again.
    ///
    /// # Errors
    /// `NotFound` for a node that never reported; `Invalid` while it answers, or while a block has no good replica elsewhere
    /// (drain it first).
    pub async fn remove(&self, node: &NodeId) -> Result<()> {
        let report = self.nodes().await?.into_iter().find(|report| report.id == *node);
        let report = report.ok_or_else(|| unknown(node, &self.0.known.read()))?;
        if report.status.gives() || report.status == Status::Away {
            return Err(Error::invalid(format!("node '{node}' is {} and cannot be removed", report.status))
                .hint("drain it, and stop it"));
        }
        let mut tx = self.begin().await?;
        let only: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM skep_replica r JOIN skep_block b ON b.id = r.block
             WHERE r.node = ?1 AND r.state = 'good' AND b.write IS NULL AND NOT EXISTS
               (SELECT 1 FROM skep_replica o WHERE o.block = r.block AND o.node <> ?1 AND o.state = 'good')",
        )
        .bind(node.as_str())
        .fetch_one(tx.conn())
        .await
        .map_err(db_error)?;
        if only > 0 {
            return Err(Error::invalid(format!(
                "node '{node}' cannot be removed: it has the only good replica of {only} blocks"
            ))
            .hint("start it again and drain it, or delete the files (`fsck` names them)"));
        }
        for statement in [
            "DELETE FROM skep_replica WHERE node = ?",
            "DELETE FROM skep_garbage WHERE node = ?",
            "DELETE FROM skep_node WHERE id = ?",
        ] {
            sqlx::query(statement).bind(node.as_str()).execute(tx.conn()).await.map_err(db_error)?;
        }
        tx.commit().await?;
        self.0.known.write().remove(node);
        self.0.watch.lock().forget(node);
        tracing::info!(%node, "removed");
        Ok(())
    }

    async fn order(&self, node: &NodeId, statement: &'static str, value: Option<i64>) -> Result<()> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(statement)
            .bind(value)
            .bind(node.as_str())
            .execute(tx.conn())
            .await
            .map_err(db_error)?;
        if done.rows_affected() == 0 {
            return Err(unknown(node, &self.0.known.read()));
        }
        tx.commit().await
    }

    /// Every node that ever reported, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn nodes(&self) -> Result<Vec<NodeReport>> {
        let states = self.node_states().await?;
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let rows = sqlx::query(
            "SELECT r.node, count(CASE WHEN r.state = 'good' THEN 1 END), count(CASE WHEN r.state <> 'good' THEN 1 END)
             FROM skep_replica r JOIN skep_block b ON b.id = r.block WHERE b.write IS NULL GROUP BY r.node",
        )
        .fetch_all(self.0.db.reader())
        .await
        .map_err(db_error)?;
        for row in &rows {
            counts.insert(row.get(0), (row.get::<i64, _>(1) as u64, row.get::<i64, _>(2) as u64));
        }
        let draining = states.iter().any(|node| matches!(node.status, Status::Draining { .. }));
        let to_drain = if draining { self.to_drain(&states).await? } else { BTreeMap::new() };
        let (known, now_us, now) = (self.0.known.read().clone(), self.now_us(), self.instant());
        let reports = states.into_iter().map(|state| {
            let on_record = known.get(&state.id).cloned().unwrap_or_default();
            let (blocks, bad) = counts.get(state.id.as_str()).copied().unwrap_or_default();
            let to_drain = to_drain.get(state.id.as_str()).copied().unwrap_or(0);
            NodeReport {
                url: self.last_address(&state.id).map(|peer| peer.url),
                silent: self.0.watch.lock().silence(&state.id, now).unwrap_or_default(),
                draining: on_record.draining,
                drained: on_record.draining && to_drain == 0,
                to_drain,
                maintenance: on_record.maintenance_us.filter(|until| *until > now_us).map(time),
                id: state.id,
                zone: state.zone,
                status: state.status,
                used: state.used,
                free: state.free,
                blocks,
                bad,
            }
        });
        Ok(reports.collect())
    }

    /// Blocks of draining nodes that have too few replicas elsewhere, and blocks that are being written there.
    async fn to_drain(&self, nodes: &[NodeState]) -> Result<BTreeMap<String, u64>> {
        let (wanted, _) = self.targets();
        let draining = nodes.iter().filter(|node| matches!(node.status, Status::Draining { .. }));
        let draining = super::json(draining.map(|node| node.id.clone()));
        let sql = format!(
            "WITH tally AS ({TALLY})
             SELECT r.node, count(*) FROM skep_replica r JOIN skep_block b ON b.id = r.block
             LEFT JOIN tally t ON t.id = r.block
             WHERE r.node IN (SELECT value FROM json_each(?5))
               AND (b.write IS NOT NULL OR (r.state = 'good' AND t.live + t.maintenance + t.away < ?6))
             GROUP BY r.node"
        );
        let rows =
            bind_statuses(sqlx::query(AssertSqlSafe(sql)), nodes.iter().map(|node| (&node.id, node.status)))
                .bind(draining)
                .bind(wanted as i64)
                .fetch_all(self.0.db.reader())
                .await
                .map_err(db_error)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get::<i64, _>(1) as u64)).collect())
    }

    /// How each node counts at this moment.
    pub(super) fn statuses(&self) -> BTreeMap<NodeId, Status> {
        let live: BTreeSet<NodeId> = self.0.nodes.live().into_iter().map(|node| node.id).collect();
        let (now, now_us) = (self.instant(), self.now_us());
        let known = self.0.known.read().clone();
        let mut watch = self.0.watch.lock();
        watch.observe(&live, now);
        known.iter().map(|(id, known)| (id.clone(), watch.status(id, known.orders(now_us), now))).collect()
    }

    /// What the keeper plans with, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn node_states(&self) -> Result<Vec<NodeState>> {
        let rows = sqlx::query(
            "SELECT r.node, CAST(sum(b.length) AS BIGINT) FROM skep_replica r JOIN skep_block b ON b.id = r.block
             WHERE r.state = 'good' AND b.write IS NULL GROUP BY r.node",
        )
        .fetch_all(self.0.db.reader())
        .await
        .map_err(db_error)?;
        let used: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let live: BTreeMap<NodeId, _> =
            self.0.nodes.live().into_iter().map(|node| (node.id.clone(), node)).collect();
        self.live_peers();
        let statuses = self.statuses();
        let (known, now_us) = (self.0.known.read().clone(), self.now_us());
        let states = statuses.into_iter().map(|(id, status)| {
            let on_record = known.get(&id).cloned().unwrap_or_default();
            let info = live.get(&id);
            NodeState {
                zone: info.and_then(|info| info.zone.clone()).or_else(|| on_record.zone.clone()),
                status,
                closed: on_record.orders(now_us) != Orders::default(),
                free: info.map_or(0, |info| info.free),
                used: used.get(id.as_str()).copied().unwrap_or(0) as u64,
                id,
            }
        });
        Ok(states.collect())
    }

    /// From now on, until the coordinator ends, blocks are moved until no node is more than `percent` of its room fuller
    /// than another, where zones allow it; `None`: as `[store] balance_percent` says.
    ///
    /// # Errors
    /// `Invalid` unless `percent` is 1 to 100.
    pub fn balance(&self, percent: Option<u32>) -> Result<()> {
        if percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return Err(Error::invalid("nodes are balanced to 1 to 100 percent"));
        }
        *self.0.balance.write() = percent;
        Ok(())
    }

    /// How much fuller than another a node may be, 0 to 1, if that matters.
    pub(crate) fn spread(&self) -> Option<f64> {
        let percent = self.0.balance.read().unwrap_or(self.0.config.balance_percent);
        (percent < 100).then(|| f64::from(percent) / 100.0)
    }

    /// What the keeper is doing and has done since the coordinator started.
    pub fn activity(&self) -> Activity {
        self.0.activity.read().clone()
    }

    pub(crate) fn set_activity(&self, change: impl FnOnce(&mut Activity)) {
        change(&mut self.0.activity.write());
    }
}

fn unknown(node: &NodeId, known: &BTreeMap<NodeId, Known>) -> Error {
    let names: Vec<&str> = known.keys().map(NodeId::as_str).collect();
    Error::not_found(format!("no node '{node}' has blocks of this store"))
        .hint(format!("nodes are {}", names.join(", ")))
}
