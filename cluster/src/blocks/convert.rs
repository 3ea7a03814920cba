//! Between the messages of `blocks.proto` and the types of `skep_store::remote`.

use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{self, Stream, StreamExt};
use skep_common::{Error, NodeId, Result};
use skep_store::remote::{
    BlockMap, BlockStream, FileMap, FileMeta, Placement, WriteMode, WriteReport, WrittenBlock,
};
use skep_store::{BlockId, Peer, WriteId};
use tonic::Status;

use crate::proto::blocks as wire;

pub(super) fn id_out(block: BlockId) -> Bytes {
    Bytes::copy_from_slice(block.as_bytes())
}

pub(super) fn write_out(write: WriteId) -> Bytes {
    Bytes::copy_from_slice(write.as_bytes())
}

pub(super) fn ids_in(ids: &[Bytes]) -> Result<Vec<BlockId>> {
    ids.iter().map(|id| BlockId::from_slice(id)).collect()
}

pub(super) fn nodes_out(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

pub(super) fn nodes_in(nodes: Vec<String>) -> Result<Vec<NodeId>> {
    nodes.into_iter().map(NodeId::new).collect()
}

impl From<&Peer> for wire::Peer {
    fn from(peer: &Peer) -> Self {
        Self { node: peer.id.to_string(), zone: peer.zone.clone(), url: peer.url.to_string() }
    }
}

impl TryFrom<wire::Peer> for Peer {
    type Error = Error;
    fn try_from(peer: wire::Peer) -> Result<Self> {
        let url = peer.url.parse().map_err(|e| {
            Error::invalid(format!("node '{}' has the address '{}'", peer.node, peer.url)).source(e)
        })?;
        Ok(Self { id: NodeId::new(peer.node)?, zone: peer.zone, url })
    }
}

pub(super) fn peers_out(peers: &[Peer]) -> Vec<wire::Peer> {
    peers.iter().map(Into::into).collect()
}

pub(super) fn peers_in(peers: Vec<wire::Peer>) -> Result<Vec<Peer>> {
    peers.into_iter().map(TryInto::try_into).collect()
}

impl wire::WriteStart {
    /// The header of the block.
    ///
    /// # Errors
    /// `Invalid` for ids or addresses that are none.
    pub fn header(self) -> Result<skep_store::remote::WriteHeader> {
        Ok(skep_store::remote::WriteHeader {
            block: BlockId::from_slice(&self.block)?,
            rest: peers_in(self.rest)?,
        })
    }
}

impl wire::DeleteBlocksRequest {
    /// The blocks to delete.
    ///
    /// # Errors
    /// `Invalid` for ids that are none.
    pub fn ids(&self) -> Result<Vec<BlockId>> {
        ids_in(&self.blocks)
    }
}

impl wire::ReadRequest {
    /// The block to read.
    ///
    /// # Errors
    /// `Invalid` for an id that is none.
    pub fn id(&self) -> Result<BlockId> {
        BlockId::from_slice(&self.block)
    }
}

impl wire::ReplicateRequest {
    /// The block and where to send it.
    ///
    /// # Errors
    /// `Invalid` for ids or addresses that are none.
    pub fn parts(self) -> Result<(BlockId, Vec<Peer>)> {
        Ok((BlockId::from_slice(&self.block)?, peers_in(self.targets)?))
    }
}

/// Bytes as a message.
fn piece_out(data: Bytes) -> wire::Piece {
    wire::Piece { sum: crc32c::crc32c(&data), data }
}

/// The bytes of a message, if they arrived as they were sent.
pub(super) fn piece_in(piece: wire::Piece) -> Result<Bytes> {
    if crc32c::crc32c(&piece.data) != piece.sum {
        // Not `Corrupt`: the block itself may be whole.
        return Err(Error::unavailable("bytes of a block were damaged on their way between nodes"));
    }
    Ok(piece.data)
}

/// What a node answers to a read.
pub fn pieces_out(data: BlockStream) -> impl Stream<Item = Result<wire::Piece, Status>> + Send + 'static {
    data.map(|item| item.map(piece_out).map_err(|e| e.to_status()))
}

/// The bytes of a write after its start, until its end mark; anything else is an error.
pub fn pieces_in(messages: tonic::Streaming<wire::WriteRequest>) -> BlockStream {
    let bytes = stream::unfold(Some((messages, 0_u64)), |state| async move {
        let (mut messages, length) = state?;
        let item = match messages.message().await {
            Ok(Some(message)) => part_in(message, length),
            Ok(None) => Err(Error::unavailable("a connection ended in the middle of a block")),
            Err(status) => {
                Err(Error::from_status(&status).context("a connection broke in the middle of a block"))
            }
        };
        match item {
            Ok(Some(bytes)) => {
                let length = length + bytes.len() as u64;
                Some((Ok(bytes), Some((messages, length))))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    bytes.boxed()
}

fn part_in(message: wire::WriteRequest, length: u64) -> Result<Option<Bytes>> {
    match message.kind {
        Some(wire::write_request::Kind::Piece(piece)) => piece_in(piece).map(Some),
        Some(wire::write_request::Kind::End(end)) if end.length == length => Ok(None),
        Some(wire::write_request::Kind::End(end)) => {
            Err(Error::unavailable(format!("{length} of {} bytes of a block arrived", end.length)))
        }
        Some(wire::write_request::Kind::Start(_)) | None => {
            Err(Error::internal("a block started twice on one connection"))
        }
    }
}

/// A block as messages. An error item ends them without the end mark.
pub(super) fn write_messages(
    start: wire::WriteStart,
    data: BlockStream,
) -> impl Stream<Item = wire::WriteRequest> + Send + 'static {
    use wire::write_request::Kind;
    let message = |kind| wire::WriteRequest { kind: Some(kind) };
    let rest = stream::unfold(Some((data, 0_u64)), move |state| async move {
        let (mut data, length) = state?;
        match data.next().await {
            Some(Ok(bytes)) => {
                let length = length + bytes.len() as u64;
                Some((message(Kind::Piece(piece_out(bytes))), Some((data, length))))
            }
            Some(Err(_)) => None,
            None => Some((message(Kind::End(wire::WriteEnd { length })), None)),
        }
    });
    stream::once(async move { message(Kind::Start(start)) }).chain(rest)
}

/// What a node answers to a write.
pub fn report_out(report: WriteReport) -> wire::WriteReply {
    let failed = report.failed.iter();
    wire::WriteReply {
        length: report.length,
        durable: nodes_out(&report.durable),
        failed: failed
            .map(|(node, error)| wire::WriteFailure { node: node.to_string(), error: error.encode() })
            .collect(),
    }
}

pub(super) fn report_in(reply: wire::WriteReply) -> Result<WriteReport> {
    let failed = reply.failed.into_iter().map(|failure| {
        let error =
            Error::decode(&failure.error).unwrap_or_else(|| Error::unavailable(failure.error.clone()));
        Ok((NodeId::new(failure.node)?, error))
    });
    Ok(WriteReport {
        length: reply.length,
        durable: nodes_in(reply.durable)?,
        failed: failed.collect::<Result<_>>()?,
    })
}

pub(super) fn mode_out(mode: &WriteMode) -> wire::WriteMode {
    use wire::write_mode::Kind;
    let kind = match mode {
        WriteMode::Overwrite => Kind::Overwrite(wire::Done {}),
        WriteMode::Create => Kind::Create(wire::Done {}),
        WriteMode::Update(version) => Kind::Update(version.clone()),
    };
    wire::WriteMode { kind: Some(kind) }
}

pub(super) fn mode_in(mode: Option<wire::WriteMode>) -> Result<WriteMode> {
    use wire::write_mode::Kind;
    match mode.and_then(|mode| mode.kind) {
        Some(Kind::Overwrite(_)) => Ok(WriteMode::Overwrite),
        Some(Kind::Create(_)) => Ok(WriteMode::Create),
        Some(Kind::Update(version)) => Ok(WriteMode::Update(version)),
        None => Err(Error::invalid("a write without a mode")),
    }
}

pub(super) fn placement_out(placement: &Placement) -> wire::Placement {
    wire::Placement {
        block: id_out(placement.block),
        targets: peers_out(&placement.targets),
        min_replicas: placement.min_replicas,
    }
}

pub(super) fn placement_in(placement: wire::Placement) -> Result<Placement> {
    Ok(Placement {
        block: BlockId::from_slice(&placement.block)?,
        targets: peers_in(placement.targets)?,
        min_replicas: placement.min_replicas,
    })
}

pub(super) fn written_out(block: &WrittenBlock) -> wire::WrittenBlock {
    wire::WrittenBlock { block: id_out(block.id), length: block.length, replicas: nodes_out(&block.replicas) }
}

pub(super) fn written_in(block: wire::WrittenBlock) -> Result<WrittenBlock> {
    Ok(WrittenBlock {
        id: BlockId::from_slice(&block.block)?,
        length: block.length,
        replicas: nodes_in(block.replicas)?,
    })
}

pub(super) fn meta_out(meta: &FileMeta) -> wire::FileMeta {
    wire::FileMeta {
        path: meta.path.clone(),
        size: meta.size,
        version: meta.version.clone(),
        created_us: meta.created.timestamp_micros(),
    }
}

pub(super) fn meta_in(meta: wire::FileMeta) -> Result<FileMeta> {
    let created = DateTime::from_timestamp_micros(meta.created_us)
        .ok_or_else(|| Error::invalid(format!("'{}' was created at no time there is", meta.path)))?;
    Ok(FileMeta { path: meta.path, size: meta.size, version: meta.version, created })
}

pub(super) fn maps_out(maps: &[Option<FileMap>]) -> wire::LookupReply {
    let mut peers: Vec<Peer> = Vec::new();
    let mut files = Vec::with_capacity(maps.len());
    for map in maps {
        let map = map.as_ref().map(|map| wire::FileMap {
            meta: Some(meta_out(&map.meta)),
            blocks: map.blocks.iter().map(|block| block_out(block, &mut peers)).collect(),
        });
        files.push(wire::Found { map });
    }
    wire::LookupReply { files, peers: peers_out(&peers) }
}

fn block_out(block: &BlockMap, peers: &mut Vec<Peer>) -> wire::BlockMap {
    let mut index = |peer: &Peer| {
        let at = peers.iter().position(|known| known == peer).unwrap_or_else(|| {
            peers.push(peer.clone());
            peers.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    };
    wire::BlockMap {
        block: id_out(block.id),
        length: block.length,
        replicas: block.replicas.iter().map(&mut index).collect(),
        silent: block.silent.iter().map(&mut index).collect(),
        lost: nodes_out(&block.lost),
    }
}

pub(super) fn maps_in(reply: wire::LookupReply) -> Result<Vec<Option<FileMap>>> {
    let peers = peers_in(reply.peers)?;
    let map_in = |map: wire::FileMap| {
        let meta = map.meta.ok_or_else(|| Error::invalid("a file without its name"))?;
        let blocks = map.blocks.into_iter().map(|block| block_in(block, &peers)).collect::<Result<_>>()?;
        Ok(FileMap { meta: meta_in(meta)?, blocks })
    };
    reply.files.into_iter().map(|found| found.map.map(map_in).transpose()).collect()
}

fn block_in(block: wire::BlockMap, peers: &[Peer]) -> Result<BlockMap> {
    let peer = |index: &u32| {
        let peer = peers.get(*index as usize).cloned();
        peer.ok_or_else(|| Error::invalid("a replica on a node that is not named"))
    };
    Ok(BlockMap {
        id: BlockId::from_slice(&block.block)?,
        length: block.length,
        replicas: block.replicas.iter().map(peer).collect::<Result<_>>()?,
        silent: block.silent.iter().map(peer).collect::<Result<_>>()?,
        lost: nodes_in(block.lost)?,
    })
}
