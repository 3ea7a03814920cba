//! Nodes of one process: a cluster in one process without a network between its disks, and tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use skep_common::{Error, NodeId, Result};

use crate::block::BlockId;
use crate::nodes::Peer;
use crate::remote::{BlockStream, Peers, WriteHeader, WriteReport};
use crate::server::BlockServer;

/// Reaches block servers of this process by their ids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InProcess(Arc<RwLock<BTreeMap<NodeId, BlockServer>>>);

impl InProcess {
    /// Reaches nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// From here on `server` is reached.
    pub fn insert(&self, server: BlockServer) {
        self.0.write().insert(server.node().clone(), server);
    }

    /// From here on `node` is not reached.
    pub fn remove(&self, node: &NodeId) -> Option<BlockServer> {
        self.0.write().remove(node)
    }

    /// Whether `node` is reached.
    pub fn holds(&self, node: &NodeId) -> bool {
        self.0.read().contains_key(node)
    }

    fn get(&self, peer: &Peer) -> Result<BlockServer> {
        let server = self.0.read().get(&peer.id).cloned();
        server.ok_or_else(|| Error::unavailable(format!("node {} cannot be reached", peer.id)))
    }
}

#[async_trait]
impl Peers for InProcess {
    async fn write(&self, to: &Peer, header: WriteHeader, data: BlockStream) -> Result<WriteReport> {
        self.get(to)?.write(header, data).await
    }

    async fn read(&self, from: &Peer, block: BlockId, range: Range<u64>) -> Result<BlockStream> {
        self.get(from)?.read(block, range).await
    }

    async fn delete(&self, at: &Peer, blocks: &[BlockId]) -> Result<()> {
        self.get(at)?.delete(blocks.to_vec()).await
    }

    async fn replicate(&self, at: &Peer, block: BlockId, targets: &[Peer]) -> Result<WriteReport> {
        self.get(at)?.replicate(block, targets).await
    }
}
