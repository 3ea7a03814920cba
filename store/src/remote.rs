//! The two things a store reaches over the network: the namespace, and the other nodes' blocks.
//!
//! [`Namespace`](crate::Namespace) and [`InProcess`](crate::local::InProcess) implement them without a network,
//! `skep_cluster::blocks` over gRPC.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use skep_common::{Error, NodeId, Result};

use crate::block::{BlockId, WriteId};
use crate::nodes::Peer;

/// The bytes of a block on their way. An error item ends it; a stream that just ends is complete, so that a transport
/// must turn a broken connection into an error item.
pub type BlockStream = BoxStream<'static, Result<Bytes>>;

/// When a file may appear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteMode {
    /// In any case; a file at the path is replaced.
    Overwrite,
    /// If nothing is at the path.
    Create,
    /// If the file at the path has this version.
    Update(String),
}

/// What a reader needs to know of a file's existence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// Its path.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Changes whenever the bytes may have changed.
    pub version: String,
    /// When it appeared.
    pub created: DateTime<Utc>,
}

/// A file and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMap {
    /// The file.
    pub meta: FileMeta,
    /// Its blocks in order; their lengths add up to the size.
    pub blocks: Vec<BlockMap>,
}

/// A block and the nodes that hold good replicas of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMap {
    /// The block.
    pub id: BlockId,
    /// Its bytes, at least 1.
    pub length: u64,
    /// Live nodes with a replica that nobody found wanting.
    pub replicas: Vec<Peer>,
    /// Nodes with such a replica that were not heard of for a while: worth a try when the others failed.
    pub silent: Vec<Peer>,
    /// Nodes whose replica is bad or missing, or that were never heard of: for messages to people.
    pub lost: Vec<NodeId>,
}

/// A place for a block that is about to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The block.
    pub block: BlockId,
    /// The chain: the first takes the bytes from the writer, each forwards to the next.
    pub targets: Vec<Peer>,
    /// Durable replicas the namespace will insist on.
    pub min_replicas: u32,
}

/// A block that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenBlock {
    /// The block.
    pub id: BlockId,
    /// Its bytes.
    pub length: u64,
    /// The nodes where it is durable.
    pub replicas: Vec<NodeId>,
}

/// One page of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Files directly in it.
    pub files: Vec<FileMeta>,
    /// Folders directly in it, full paths without a slash at the end.
    pub folders: Vec<String>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
}

/// What is wrong with a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Its bytes are not what was written.
    Corrupt,
    /// The node does not have it.
    Missing,
}

/// One block on a node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockOnDisk {
    /// The block.
    pub id: BlockId,
    /// Its bytes.
    pub length: u64,
}

/// Everything a node holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockReport {
    /// The node.
    pub node: NodeId,
    /// The store whose blocks the folder holds, once it took part in one.
    pub store: Option<String>,
    /// Every whole block in the folder.
    pub blocks: Vec<BlockOnDisk>,
    /// Blocks in the folder that failed their checks.
    pub bad: Vec<BlockId>,
}

/// What the namespace makes of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// The store this namespace keeps; the folder remembers it.
    pub store: String,
    /// Blocks the namespace knows and counts on this node.
    pub known: u64,
    /// Blocks it does not know. They are kept: a namespace restored from an old copy must not destroy data.
    pub unknown: u64,
    /// Replicas it counts on this node and that the report does not name. The node looks again, because a block may
    /// have been finished meanwhile, and reports a [`Fault::Missing`] for each that is not there.
    pub missing: Vec<BlockId>,
}

/// Reaches the namespace.
///
/// Every call may be repeated after [`Unavailable`](skep_common::Kind::Unavailable): repeating has the effect of
/// calling once, except that a repeated `delete` or `rename` may find its work done.
#[async_trait]
pub trait NamespaceClient: std::fmt::Debug + Send + Sync {
    /// Registers a write of `path` under `write` and places its first block.
    ///
    /// # Errors
    /// `AlreadyExists` or `Conflict` at once where `mode` cannot succeed; `Exhausted` if too few nodes have space,
    /// `Unavailable` if too few are alive.
    async fn begin_write(
        &self,
        write: WriteId,
        path: &str,
        mode: &WriteMode,
        writer: Option<&NodeId>,
    ) -> Result<Placement>;

    /// Places another block of a write, not on the nodes in `exclude`.
    ///
    /// # Errors
    /// As `begin_write`; `Conflict` if the write was given up.
    async fn add_block(
        &self,
        write: WriteId,
        writer: Option<&NodeId>,
        exclude: &[NodeId],
    ) -> Result<Placement>;

    /// More nodes for a block of a write, besides those in `have` and `exclude`.
    ///
    /// # Errors
    /// As `add_block`.
    async fn more_targets(
        &self,
        write: WriteId,
        block: BlockId,
        have: &[NodeId],
        exclude: &[NodeId],
    ) -> Result<Vec<Peer>>;

    /// The writer lives and is not done.
    ///
    /// # Errors
    /// `Conflict` if the write was given up.
    async fn renew_write(&self, write: WriteId) -> Result<()>;

    /// Makes the file appear with these blocks, atomically; blocks placed for the write and not named are collected.
    ///
    /// # Errors
    /// `AlreadyExists` or `Conflict` if `mode` is not met: the write is then over and its blocks are collected.
    /// `Unavailable` if a block has fewer than `min_replicas` replicas.
    async fn commit_write(&self, write: WriteId, blocks: &[WrittenBlock]) -> Result<FileMeta>;

    /// Gives a write up and collects its blocks. An unknown write is fine.
    ///
    /// # Errors
    /// Those of the database or the network.
    async fn abort_write(&self, write: WriteId) -> Result<()>;

    /// The files at `paths`, in order; `None` where there is none.
    ///
    /// # Errors
    /// Those of the database or the network.
    async fn lookup(&self, paths: &[String]) -> Result<Vec<Option<FileMap>>>;

    /// Up to `limit` files under the folder `prefix` (`""`: all) with paths after `after`, sorted by path.
    ///
    /// # Errors
    /// Those of the database or the network.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<FileMeta>>;

    /// Up to about `limit` entries directly in the folder `prefix`, from the place `from` of an earlier page.
    ///
    /// # Errors
    /// Those of the database or the network.
    async fn list_directory(&self, prefix: &str, from: Option<&str>, limit: u32) -> Result<Directory>;

    /// Deletes files; says of each whether it was there.
    ///
    /// # Errors
    /// Those of the database or the network.
    async fn delete(&self, paths: &[String]) -> Result<Vec<bool>>;

    /// Makes `to` a file with the bytes of `from`. No byte is copied: they share blocks.
    ///
    /// # Errors
    /// `NotFound` without `from`; `AlreadyExists` if `create` and `to` exists.
    async fn copy(&self, from: &str, to: &str, create: bool) -> Result<()>;

    /// Gives the file at `from` the path `to`, atomically.
    ///
    /// # Errors
    /// As `copy`.
    async fn rename(&self, from: &str, to: &str, create: bool) -> Result<()>;

    /// A reader found a replica wanting. It is not offered again.
    ///
    /// # Errors
    /// Those of the database or the network.
    async fn report_fault(&self, block: BlockId, node: &NodeId, fault: Fault) -> Result<()>;

    /// A node says what it holds: when it starts, and when the namespace asks.
    ///
    /// # Errors
    /// `Invalid` if the folder belongs to another store.
    async fn report_blocks(&self, report: BlockReport) -> Result<ReportAnswer>;
}

/// What a block write is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteHeader {
    /// The block.
    pub block: BlockId,
    /// The nodes after the receiver, in order.
    pub rest: Vec<Peer>,
}

/// How a chain of writers fared.
#[derive(Debug, Clone, Default)]
pub struct WriteReport {
    /// Bytes of the block.
    pub length: u64,
    /// Where the block is durable.
    pub durable: Vec<NodeId>,
    /// Who failed, and how.
    pub failed: Vec<(NodeId, Error)>,
}

impl WriteReport {
    /// Adds what another part of the chain reports.
    pub fn absorb(&mut self, other: WriteReport) {
        self.durable.extend(other.durable);
        self.failed.extend(other.failed);
    }
}

/// Reaches the blocks of other nodes.
#[async_trait]
pub trait Peers: std::fmt::Debug + Send + Sync {
    /// Sends a block to `to`, which forwards it to `header.rest`, and waits until it is durable.
    ///
    /// # Errors
    /// Those of the first node; failures further down are in the report.
    async fn write(&self, to: &Peer, header: WriteHeader, data: BlockStream) -> Result<WriteReport>;

    /// Bytes `range` of a block, checked against their checksums, in pieces of bounded size.
    ///
    /// # Errors
    /// `NotFound` if the node does not have the block, `Corrupt` if it fails its checks, `Unavailable` if the node
    /// cannot be reached; also as an item of the stream.
    async fn read(&self, from: &Peer, block: BlockId, range: Range<u64>) -> Result<BlockStream>;

    /// Deletes blocks. One that is not there is fine.
    ///
    /// # Errors
    /// Those of the node's disk or the network.
    async fn delete(&self, at: &Peer, blocks: &[BlockId]) -> Result<()>;

    /// Has `at` send its replica of a block to the chain `targets`.
    ///
    /// # Errors
    /// As `read`, for the replica at `at`.
    async fn replicate(&self, at: &Peer, block: BlockId, targets: &[Peer]) -> Result<WriteReport>;
}

/// Shared handles on both.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The namespace.
    pub namespace: Arc<dyn NamespaceClient>,
    /// The other nodes.
    pub peers: Arc<dyn Peers>,
}
