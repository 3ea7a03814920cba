//! The nodes of this process and of this machine without a network, the others through another way.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use skep_common::Result;

use crate::block::BlockId;
use crate::local::InProcess;
use crate::nodes::Peer;
use crate::remote::{BlockStream, Peers, WriteHeader, WriteReport};

/// Reads blocks of nodes of this process straight from their disks. Everything else goes through the other way, so that
/// a chain of writers is the same wherever it runs.
#[derive(Debug, Clone)]
pub struct Near {
    here: InProcess,
    beyond: Arc<dyn Peers>,
}

impl Near {
    /// The nodes in `here`, which may join later, and `beyond` for all others.
    pub fn new(here: InProcess, beyond: Arc<dyn Peers>) -> Self {
        Self { here, beyond }
    }
}

#[async_trait]
impl Peers for Near {
    async fn write(&self, to: &Peer, header: WriteHeader, data: BlockStream) -> Result<WriteReport> {
        self.beyond.write(to, header, data).await
    }

    async fn read(&self, from: &Peer, block: BlockId, range: Range<u64>) -> Result<BlockStream> {
        if self.here.holds(&from.id) {
            match self.here.read(from, block, range.clone()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    tracing::debug!(node = %from.id, %block, error = error.report(), "not read here")
                }
            }
        }
        self.beyond.read(from, block, range).await
    }

    async fn delete(&self, at: &Peer, blocks: &[BlockId]) -> Result<()> {
        self.beyond.delete(at, blocks).await
    }

    async fn replicate(&self, at: &Peer, block: BlockId, targets: &[Peer]) -> Result<WriteReport> {
        self.beyond.replicate(at, block, targets).await
    }
}
