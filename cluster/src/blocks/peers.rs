//! Other nodes' blocks over gRPC.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use skep_common::{Error, NodeId, Result};
use skep_store::remote::{BlockStream, WriteHeader, WriteReport};
use skep_store::{BlockId, Config, Peer, Peers};
use tonic::Status;
use url::Url;

use super::BLOCK_MESSAGE_MAX;
use super::convert::{id_out, peers_out, piece_in, report_in, write_messages};
use crate::proto::blocks as wire;
use crate::proto::blocks::blocks_client::BlocksClient;
use crate::{AuthChannel, ChannelConfig, Secret, connect};

/// Reaches nodes by their addresses, over one connection each. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RemotePeers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    secret: Secret,
    channel: ChannelConfig,
    config: Config,
    /// By node, so that a node that moved leaves nothing behind.
    open: Mutex<HashMap<NodeId, (Url, BlocksClient<AuthChannel>)>>,
}

impl RemotePeers {
    /// Connects when first used.
    pub fn new(secret: Secret, channel: ChannelConfig, config: Config) -> Self {
        Self(Arc::new(Inner { secret, channel, config, open: Mutex::default() }))
    }

    fn client(&self, peer: &Peer) -> Result<BlocksClient<AuthChannel>> {
        let mut open = self.0.open.lock();
        if let Some((url, client)) = open.get(&peer.id)
            && *url == peer.url
        {
            return Ok(client.clone());
        }
        let client = BlocksClient::new(connect(&peer.url, &self.0.secret, &self.0.channel)?)
            .max_decoding_message_size(BLOCK_MESSAGE_MAX)
            .max_encoding_message_size(BLOCK_MESSAGE_MAX);
        open.insert(peer.id.clone(), (peer.url.clone(), client.clone()));
        Ok(client)
    }
}

/// Waits for an answer, and says which node gave an error.
async fn call<T>(
    peer: &Peer,
    wait: Duration,
    call: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(wait, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(named(peer, &status)),
        Err(_) => Err(Error::unavailable(format!("node {} did not answer in {wait:?}", peer.id))),
    }
}

fn named(peer: &Peer, status: &Status) -> Error {
    Error::from_status(status).context(format!("node {} at {}", peer.id, peer.url))
}

#[async_trait]
impl Peers for RemotePeers {
    async fn write(&self, to: &Peer, header: WriteHeader, data: BlockStream) -> Result<WriteReport> {
        let start = wire::WriteStart { block: id_out(header.block), rest: peers_out(&header.rest) };
        let mut client = self.client(to)?;
        // The callers bound each message and the wait for the report; the whole may take as long as its bytes do.
        let answer = client.write(write_messages(start, data)).await;
        report_in(answer.map_err(|status| named(to, &status))?.into_inner())
    }

    async fn read(&self, from: &Peer, block: BlockId, range: Range<u64>) -> Result<BlockStream> {
        let request = wire::ReadRequest { block: id_out(block), start: range.start, end: range.end };
        let mut client = self.client(from)?;
        let pieces = call(from, self.0.config.read_timeout, client.read(request)).await?;
        let peer = from.clone();
        let bytes = pieces.map(move |piece| match piece {
            Ok(piece) => piece_in(piece),
            Err(status) => Err(named(&peer, &status)),
        });
        Ok(bytes.boxed())
    }

    async fn delete(&self, at: &Peer, blocks: &[BlockId]) -> Result<()> {
        let request = wire::DeleteBlocksRequest { blocks: blocks.iter().map(|id| id_out(*id)).collect() };
        let mut client = self.client(at)?;
        call(at, self.0.config.namespace_timeout, client.delete(request)).await.map(drop)
    }

    async fn replicate(&self, at: &Peer, block: BlockId, targets: &[Peer]) -> Result<WriteReport> {
        let request = wire::ReplicateRequest { block: id_out(block), targets: peers_out(targets) };
        let mut client = self.client(at)?;
        let nodes = u32::try_from(targets.len() + 1).unwrap_or(u32::MAX);
        let wait = (self.0.config.sync_timeout + self.0.config.write_timeout).saturating_mul(nodes);
        report_in(call(at, wait, client.replicate(request)).await?)
    }
}
