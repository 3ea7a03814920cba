//! The map of paths to blocks and of blocks to nodes, in a database of its own.
//!
//! ```text
//! begin_write -> placement -> (bytes go to the nodes) -> commit_write: the file appears
//!      \-- add_block, more_targets, renew_write            \-- or abort_write, or the lease runs out
//! ```
//!
//! # Guarantees
//! - A file appears, is replaced, renamed and deleted in one transaction each; of many that create one path, one wins.
//! - Every block id is recorded before it is handed out, so that whatever a failed write leaves can be collected.
//! - A replica that was reported bad is never offered to readers again.
//!
//! # Not here
//! Moving bytes (`server`), deciding repairs (`keep`), carrying calls over the network (`skep_cluster::blocks`).

mod admin;
mod health;
mod housekeeping;
mod orphans;
mod read;
mod report;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use parking_lot::{Mutex, RwLock};
use skep_common::clock::Clock;
use skep_common::{Error, NodeId, Result};
use skep_metadb::{Conn, Lease, Location, MetaDb, WriteTx};

use crate::block::{BlockId, WriteId};
use crate::config::Config;
use crate::keep::{Activity, Orders, Watch};
use crate::nodes::{NodeInfo, Nodes, Peer};
use crate::remote::{
    BlockReport, Directory, Fault, FileMap, FileMeta, NamespaceClient, Placement, ReportAnswer, WriteMode,
    WrittenBlock,
};

pub use admin::NodeReport;
pub use health::{
    BlockHealth, FileHealth, Health, ReplicaHealth, Replicas, Replication as ReplicationReport,
};
pub use housekeeping::{Garbage, Replica};

/// The namespace. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: MetaDb,
    store: String,
    config: Config,
    nodes: Arc<dyn Nodes>,
    /// Nodes that ever reported: those that blocks are placed on when they are alive.
    known: RwLock<BTreeMap<NodeId, Known>>,
    /// When they were heard of.
    watch: Mutex<Watch>,
    /// What the keeper is doing.
    activity: RwLock<Activity>,
    /// Percent, where the operator said it.
    balance: RwLock<Option<u32>>,
    /// The start of this life of the database, see `orphans`.
    life_us: i64,
    /// Where each node was last heard of.
    addresses: RwLock<BTreeMap<NodeId, Peer>>,
    clock: Arc<dyn Clock>,
    /// What every write checks first, where several coordinators could write.
    lease: OnceLock<Lease>,
}

/// What is on record of a node.
#[derive(Debug, Clone, Default)]
struct Known {
    draining: bool,
    /// End of its maintenance.
    maintenance_us: Option<i64>,
    zone: Option<String>,
}

impl Known {
    fn orders(&self, now_us: i64) -> Orders {
        Orders { drain: self.draining, maintenance: self.maintenance_us.is_some_and(|until| until > now_us) }
    }
}

impl Namespace {
    /// Opens the namespace in a database, creating its tables if they are not there.
    ///
    /// # Errors
    /// Those of [`MetaDb::open`]; `Invalid` for settings out of range or a file of a newer version.
    pub async fn open(
        location: impl Into<Location>,
        config: Config,
        nodes: Arc<dyn Nodes>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        config.validate()?;
        let db = MetaDb::open(location, skep_metadb::Options::default()).await?;
        Self::prepare(&db).await?;
        let mut tx = db.begin().await?;
        sqlx::query("INSERT INTO skep_store (key, value) VALUES ('store', ?) ON CONFLICT DO NOTHING")
            .bind(BlockId::generate().to_string())
            .execute(tx.conn())
            .await
            .map_err(db_error)?;
        tx.commit().await?;
        let store: String = sqlx::query_scalar("SELECT value FROM skep_store WHERE key = 'store'")
            .fetch_one(db.reader())
            .await
            .map_err(db_error)?;
        let known = admin::known(&db).await?;
        let life_us = orphans::begin_life(&db, clock.now().timestamp_micros()).await?;
        let watch = Watch::new(known.keys().cloned(), config.repair_delay, clock.instant());
        Ok(Self(Arc::new(Inner {
            db,
            store,
            config,
            nodes,
            known: RwLock::new(known),
            watch: Mutex::new(watch),
            activity: RwLock::default(),
            balance: RwLock::default(),
            life_us,
            addresses: RwLock::default(),
            clock,
            lease: OnceLock::new(),
        })))
    }

    /// Brings the tables of the namespace into a database.
    ///
    /// # Errors
    /// Those of [`MetaDb::migrate`].
    pub async fn prepare(db: &MetaDb) -> Result<()> {
        db.migrate("blocks", schema::STEPS).await
    }

    /// The names of its tables.
    pub fn tables() -> impl Iterator<Item = &'static str> {
        let after = |text: &'static str| text.split(' ').next();
        schema::STEPS.iter().flat_map(|step| step.split("CREATE TABLE ").skip(1)).filter_map(after)
    }

    /// From here on nothing is written unless `lease` is still the latest of its name. The first call counts.
    pub fn fence(&self, lease: Lease) {
        let _ = self.0.lease.set(lease);
    }

    async fn begin(&self) -> Result<WriteTx> {
        let mut tx = self.0.db.begin().await?;
        if let Some(lease) = self.0.lease.get() {
            tx.fence(lease).await?;
        }
        Ok(tx)
    }

    /// The id of the store; the nodes' folders remember it.
    pub fn store(&self) -> &str {
        &self.0.store
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Replicas a block should have, and must have for its file to appear. Nodes that are being emptied do not count.
    pub fn replication(&self) -> Replication {
        let staying = self.0.known.read().values().filter(|node| !node.draining).count();
        let staying = u32::try_from(staying).unwrap_or(u32::MAX).max(1);
        Replication {
            wanted: self.0.config.replication.min(staying),
            required: self.0.config.min_replicas.min(staying),
        }
    }

    /// Nodes that are alive and have reported.
    pub fn live(&self) -> Vec<NodeInfo> {
        let known = self.0.known.read();
        self.0.nodes.live().into_iter().filter(|node| known.contains_key(&node.id)).collect()
    }

    /// Of those, the ones that may be given blocks: neither being emptied nor in maintenance.
    pub fn takers(&self) -> Vec<NodeInfo> {
        let (known, now) = (self.0.known.read(), self.now_us());
        let takes =
            |node: &NodeInfo| known.get(&node.id).is_some_and(|known| known.orders(now) == Orders::default());
        self.0.nodes.live().into_iter().filter(takes).collect()
    }

    /// Nodes that ever reported, alive or not.
    pub fn known(&self) -> Vec<NodeId> {
        self.0.known.read().keys().cloned().collect()
    }

    fn live_peers(&self) -> BTreeMap<NodeId, Peer> {
        let live: BTreeMap<NodeId, Peer> =
            self.0.nodes.live().into_iter().map(|node| (node.id.clone(), node.peer())).collect();
        let known = |peer: &Peer| self.0.addresses.read().get(&peer.id) == Some(peer);
        if !live.values().all(known) {
            self.0.addresses.write().extend(live.clone());
        }
        live
    }

    fn last_address(&self, node: &NodeId) -> Option<Peer> {
        self.0.addresses.read().get(node).cloned()
    }

    fn now_us(&self) -> i64 {
        self.0.clock.now().timestamp_micros()
    }

    fn instant(&self) -> Instant {
        self.0.clock.instant()
    }
}

/// How many replicas, given the nodes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replication {
    /// What the keeper works towards.
    pub wanted: u32,
    /// What a file needs to appear.
    pub required: u32,
}

#[async_trait]
impl NamespaceClient for Namespace {
    async fn begin_write(
        &self,
        write: WriteId,
        path: &str,
        mode: &WriteMode,
        writer: Option<&NodeId>,
    ) -> Result<Placement> {
        write::begin(self, write, path, mode, writer).await
    }

    async fn add_block(
        &self,
        write: WriteId,
        writer: Option<&NodeId>,
        exclude: &[NodeId],
    ) -> Result<Placement> {
        write::add_block(self, write, writer, exclude).await
    }

    async fn more_targets(
        &self,
        write: WriteId,
        block: BlockId,
        have: &[NodeId],
        exclude: &[NodeId],
    ) -> Result<Vec<Peer>> {
        write::more_targets(self, write, block, have, exclude).await
    }

    async fn renew_write(&self, write: WriteId) -> Result<()> {
        let mut tx = self.begin().await?;
        write::touch(self, tx.conn(), write).await?;
        tx.commit().await
    }

    async fn commit_write(&self, write: WriteId, blocks: &[WrittenBlock]) -> Result<FileMeta> {
        write::commit(self, write, blocks).await
    }

    async fn abort_write(&self, write: WriteId) -> Result<()> {
        let mut tx = self.begin().await?;
        write::give_up(self, tx.conn(), write).await?;
        tx.commit().await
    }

    async fn lookup(&self, paths: &[String]) -> Result<Vec<Option<FileMap>>> {
        read::lookup(self, paths).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<FileMeta>> {
        read::list(self, prefix, after, limit).await
    }

    async fn list_directory(&self, prefix: &str, from: Option<&str>, limit: u32) -> Result<Directory> {
        read::list_directory(self, prefix, from, limit).await
    }

    async fn delete(&self, paths: &[String]) -> Result<Vec<bool>> {
        write::delete(self, paths).await
    }

    async fn copy(&self, from: &str, to: &str, create: bool) -> Result<()> {
        write::copy(self, from, to, create).await
    }

    async fn rename(&self, from: &str, to: &str, create: bool) -> Result<()> {
        write::rename(self, from, to, create).await
    }

    async fn report_fault(&self, block: BlockId, node: &NodeId, fault: Fault) -> Result<()> {
        report::fault(self, block, node, fault).await
    }

    async fn report_blocks(&self, report: BlockReport) -> Result<ReportAnswer> {
        report::blocks(self, report).await
    }
}

fn db_error(error: sqlx::Error) -> Error {
    skep_metadb::database_error("the block namespace could not be read or written", error)
}

fn time(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(us).unwrap_or_default()
}

/// Ids as the JSON array that `json_each(?)` takes: one statement for any number.
fn json(ids: impl IntoIterator<Item = impl ToString>) -> String {
    serde_json::Value::from(ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>()).to_string()
}

/// Turns blocks without a file and a write into garbage on every node that may hold a part of them.
async fn collect(conn: &mut Conn, blocks: &[String], now_us: i64) -> Result<()> {
    let blocks = json(blocks);
    sqlx::query(
        "INSERT INTO skep_garbage (node, block, since_us)
         SELECT r.node, r.block, ?2 FROM skep_replica r JOIN skep_block b ON b.id = r.block
         WHERE r.block IN (SELECT value FROM json_each(?1)) AND b.write IS NULL
           AND NOT EXISTS (SELECT 1 FROM skep_file_block f WHERE f.block = r.block)
         ON CONFLICT DO NOTHING",
    )
    .bind(&blocks)
    .bind(now_us)
    .execute(&mut *conn)
    .await
    .map_err(db_error)?;
    for statement in [
        "DELETE FROM skep_block WHERE id IN (SELECT value FROM json_each(?)) AND write IS NULL
           AND NOT EXISTS (SELECT 1 FROM skep_file_block f WHERE f.block = skep_block.id)",
        "DELETE FROM skep_replica WHERE block IN (SELECT value FROM json_each(?))
           AND NOT EXISTS (SELECT 1 FROM skep_block b WHERE b.id = skep_replica.block)",
    ] {
        sqlx::query(statement).bind(&blocks).execute(&mut *conn).await.map_err(db_error)?;
    }
    Ok(())
}
