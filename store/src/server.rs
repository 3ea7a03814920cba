//! One node's part in the store: takes blocks and forwards them, serves them, copies them.
//!
//! ```text
//! writer --bytes--> node 1 --bytes--> node 2 --bytes--> node 3
//!        <-report--        <-report--        <-report--          durable on each before it reports
//! ```
//!
//! # Failure
//! - The disk of a node fails: it goes on forwarding and reports itself as failed.
//! - The next node fails: it is dropped; when this node's replica is durable, it is sent to the nodes after the failed
//!   one.
//! - The writer fails: nothing remains; the namespace has the block on record and collects what others finished.
//!
//! Waiting is bounded at every step: by `write_timeout` for each message, longer for each node further down, so that
//! the node next to a silent one is the first to notice.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use skep_common::task::{self, Task};
use skep_common::{Error, NodeId, Result};

use crate::block::BlockId;
use crate::config::Config;
use crate::disk::{BlockWriter, Disk};
use crate::nodes::Peer;
use crate::pipe::{self, NotSent, pipe};
use crate::remote::{
    BlockReport, BlockStream, Fault, NamespaceClient, Peers, ReportAnswer, WriteHeader, WriteReport,
};

/// No block is longer, whatever the settings of its writer.
const BLOCK_BYTES_MAX: u64 = 4 << 30;
/// Pieces of a block read from the disk before they are asked for.
const READ_AHEAD: usize = 2;

/// Serves the blocks of one folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlockServer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Disk,
    peers: Arc<dyn Peers>,
    config: Config,
}

impl BlockServer {
    /// Over a folder; `peers` reaches the nodes that blocks are forwarded to.
    pub fn new(disk: Disk, peers: Arc<dyn Peers>, config: Config) -> Self {
        Self(Arc::new(Inner { disk, peers, config }))
    }

    /// The node's id.
    pub fn node(&self) -> &NodeId {
        self.0.disk.node()
    }

    /// The folder.
    pub fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Takes a block, forwards it, and returns when it is durable here and down the chain, as far as that succeeds.
    ///
    /// # Errors
    /// If the bytes stop before their end. What failed on a disk or further down is in the report.
    pub async fn write(&self, header: WriteHeader, data: BlockStream) -> Result<WriteReport> {
        let mut forward = Forward::start(self, &header);
        let (local, length) = match self.receive(&header, data, &mut forward).await {
            Ok(received) => received,
            Err(error) => {
                forward.fail().await;
                return Err(error);
            }
        };
        let mut report = WriteReport { length, ..WriteReport::default() };
        let down = forward.finish();
        let stored = match local {
            Ok(writer) => blocking(move || writer.finish()).await,
            Err(error) => Err(error),
        };
        let down = down.await;
        match stored {
            Ok(_) => {
                report.durable.push(self.node().clone());
                Ok(self.complete(header, report, down).await)
            }
            Err(error) => {
                tracing::warn!(block = %header.block, error = %error.report(), "block not stored here");
                report.failed.push((self.node().clone(), error));
                report.absorb(down);
                Ok(report)
            }
        }
    }

    /// Adds what became of the nodes further down, and sends the block again to those a failed node cut off.
    async fn complete(&self, header: WriteHeader, mut report: WriteReport, down: WriteReport) -> WriteReport {
        report.absorb(down);
        let reached = |peer: &&Peer| {
            report.durable.contains(&peer.id) || report.failed.iter().any(|(node, _)| *node == peer.id)
        };
        let cut_off: Vec<Peer> = header.rest.iter().filter(|peer| !reached(peer)).cloned().collect();
        if !cut_off.is_empty() {
            match self.replicate(header.block, &cut_off).await {
                Ok(more) => report.absorb(more),
                Err(error) => report.failed.extend(cut_off.into_iter().map(|peer| (peer.id, error.clone()))),
            }
        }
        report
    }

    /// Passes bytes to the disk and to the next node until they end.
    async fn receive(
        &self,
        header: &WriteHeader,
        mut data: BlockStream,
        forward: &mut Forward,
    ) -> Result<(Result<BlockWriter>, u64)> {
        let disk = self.0.disk.clone();
        let block = header.block;
        let mut local = blocking(move || disk.create(block)).await;
        let mut length = 0;
        // The sender notices a silent node of ours first; this is only for a sender that vanished.
        let patience = self.patience(header.rest.len() + 1);
        loop {
            let next = tokio::time::timeout(patience, data.next()).await;
            let Some(bytes) = next.map_err(|_| self.silent("the writer", block, patience))? else { break };
            let bytes = bytes?;
            length += bytes.len() as u64;
            if length > BLOCK_BYTES_MAX {
                let max = skep_common::ByteSize(BLOCK_BYTES_MAX);
                return Err(Error::invalid(format!("block {block} is longer than {max}")));
            }
            forward.send(bytes.clone()).await;
            if bytes.is_empty() {
                continue;
            }
            local = match local {
                Ok(mut writer) => {
                    blocking(move || {
                        writer.write(&bytes)?;
                        Ok(writer)
                    })
                    .await
                }
                failed => failed,
            };
            if local.is_err() && !forward.is_open() {
                return Err(match local {
                    Err(error) => error,
                    Ok(_) => Error::internal("a failed disk has no error"),
                });
            }
        }
        Ok((local, length))
    }

    fn patience(&self, nodes: usize) -> Duration {
        self.0.config.write_timeout.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX))
    }

    fn silent(&self, who: &str, block: BlockId, patience: Duration) -> Error {
        Error::unavailable(format!(
            "node {}: {who} was silent for {patience:?} in the middle of block {block}",
            self.node()
        ))
    }

    /// Bytes `range` of a block, in checked pieces of at most the message size.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Invalid` range; later pieces carry theirs.
    pub async fn read(&self, block: BlockId, range: Range<u64>) -> Result<BlockStream> {
        let disk = self.0.disk.clone();
        let open = blocking(move || disk.open_for_read(block)).await;
        let open = Arc::new(open.inspect_err(|error| self.damaged(block, error))?);
        if range.start > range.end || range.end > open.length() {
            return Err(Error::invalid(format!(
                "bytes {}..{} are outside block {block} of {} bytes",
                range.start,
                range.end,
                open.length()
            )));
        }
        // Cut at multiples, so that no chunk is read and checked twice.
        let message = self.0.config.message.0.max(1);
        let cuts = range.start / message..range.end.div_ceil(message).max(range.start / message);
        let pieces = cuts.map(move |i| (i * message).max(range.start)..((i + 1) * message).min(range.end));
        let read = move |piece: Range<u64>| {
            let open = Arc::clone(&open);
            blocking(move || open.read(piece))
        };
        let server = self.clone();
        let pieces = stream::iter(pieces.filter(|piece| !piece.is_empty())).map(read).buffered(READ_AHEAD);
        let watched = pieces.inspect(move |piece| {
            if let Err(error) = piece {
                server.damaged(block, error);
            }
        });
        Ok(watched.boxed())
    }

    /// Keeps a damaged block for people to look at.
    pub(crate) fn damaged(&self, block: BlockId, error: &Error) {
        if fault_of(error) != Some(Fault::Corrupt) {
            return;
        }
        let (disk, max) = (self.0.disk.clone(), self.0.config.quarantine_max.0);
        let keep = blocking(move || disk.quarantine(block, max));
        task::spawn("quarantine", async move {
            if let Err(error) = keep.await {
                tracing::warn!(%block, error = %error.report(), "a damaged block is not kept aside");
            }
        })
        .detach();
    }

    /// Bytes `range` of a block at once: the reader's own disk.
    ///
    /// # Errors
    /// As [`BlockServer::read`].
    pub async fn read_whole(&self, block: BlockId, range: Range<u64>) -> Result<Bytes> {
        let disk = self.0.disk.clone();
        let read = blocking(move || disk.read(block, range)).await;
        read.inspect_err(|error| self.damaged(block, error))
    }

    /// Deletes blocks. One that is not there is fine.
    ///
    /// # Errors
    /// Those of the file system, after every block was tried.
    pub async fn delete(&self, blocks: Vec<BlockId>) -> Result<()> {
        let disk = self.0.disk.clone();
        blocking(move || {
            let results: Vec<Result<()>> = blocks.into_iter().map(|block| disk.delete(block)).collect();
            results.into_iter().collect()
        })
        .await
    }

    /// Sends the replica here to a chain of nodes. A first node that cannot be reached is passed over.
    ///
    /// # Errors
    /// If the replica here cannot be read. What failed on the targets is in the report.
    pub async fn replicate(&self, block: BlockId, targets: &[Peer]) -> Result<WriteReport> {
        let disk = self.0.disk.clone();
        let length = blocking(move || disk.length(block)).await?;
        let mut report = WriteReport { length, ..WriteReport::default() };
        let mut left = targets;
        while let [first, rest @ ..] = left {
            let data = self.read(block, 0..length).await?;
            // The peer cannot tell a broken reader here from a broken connection: remember the reader's error.
            let (data, failure) = watched(data);
            match self.0.peers.write(first, WriteHeader { block, rest: rest.to_vec() }, data).await {
                Ok(more) => {
                    let tried = |peer: &Peer| {
                        more.durable.contains(&peer.id)
                            || more.failed.iter().any(|(node, _)| *node == peer.id)
                    };
                    let cut = rest.iter().position(|peer| !tried(peer)).unwrap_or(rest.len());
                    left = &rest[cut..];
                    report.absorb(more);
                }
                Err(error) => {
                    if let Some(error) = failure.lock().take() {
                        return Err(error);
                    }
                    report.failed.push((first.id.clone(), error));
                    left = rest;
                }
            }
        }
        Ok(report)
    }

    /// Tells the namespace everything that is here, and binds the folder to its store.
    ///
    /// # Errors
    /// `Invalid` if the folder belongs to another store; those of the disk or the network.
    pub async fn report(&self, namespace: &dyn NamespaceClient) -> Result<ReportAnswer> {
        let disk = self.0.disk.clone();
        let inventory = blocking(move || disk.inventory()).await?;
        let report = BlockReport {
            node: self.node().clone(),
            store: self.0.disk.store(),
            blocks: inventory.blocks,
            bad: inventory.bad,
        };
        let answer = namespace.report_blocks(report).await?;
        self.0.disk.join_store(&answer.store)?;
        for block in &answer.missing {
            let (disk, id) = (self.0.disk.clone(), *block);
            if let Err(error) = blocking(move || disk.length(id)).await
                && let Some(fault) = fault_of(&error)
            {
                namespace.report_fault(*block, self.node(), fault).await?;
            }
        }
        if answer.unknown > 0 {
            tracing::warn!(node = %self.node(), unknown = answer.unknown, "blocks here that the namespace does not know");
        }
        Ok(answer)
    }
}

/// What an error says of a replica, if it says anything.
pub(crate) fn fault_of(error: &Error) -> Option<Fault> {
    match error.kind() {
        skep_common::Kind::Corrupt => Some(Fault::Corrupt),
        skep_common::Kind::NotFound => Some(Fault::Missing),
        _ => None,
    }
}

/// Runs disk work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::internal("disk work panicked").source(e)))
}

type Failure = Arc<parking_lot::Mutex<Option<Error>>>;

/// Keeps the error that ends a stream.
fn watched(data: BlockStream) -> (BlockStream, Failure) {
    let failure = Failure::default();
    let keep = Arc::clone(&failure);
    let data = data.inspect(move |item| {
        if let Err(error) = item {
            *keep.lock() = Some(error.clone());
        }
    });
    (data.boxed(), failure)
}

/// The connection to the next node of a chain.
struct Forward {
    state: State,
    patience: Duration,
    sync: Duration,
}

enum State {
    /// There is none.
    End,
    Open {
        next: Peer,
        bytes: pipe::Sender,
        report: Task<Result<WriteReport>>,
    },
    Failed {
        next: Peer,
        error: Error,
    },
}

impl Forward {
    fn start(server: &BlockServer, header: &WriteHeader) -> Self {
        let nodes = header.rest.len();
        let sync = server.0.config.sync_timeout + server.0.config.write_timeout;
        let mut forward = Self {
            state: State::End,
            patience: server.patience(nodes),
            sync: sync.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX).max(1)),
        };
        let [next, rest @ ..] = header.rest.as_slice() else { return forward };
        let (bytes, data) = pipe();
        let (peers, to) = (Arc::clone(&server.0.peers), next.clone());
        let header = WriteHeader { block: header.block, rest: rest.to_vec() };
        let report = task::spawn("forward-block", async move { peers.write(&to, header, data).await });
        forward.state = State::Open { next: next.clone(), bytes, report };
        forward
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Hands bytes to the next node, or drops it.
    async fn send(&mut self, data: Bytes) {
        let State::Open { bytes, .. } = &self.state else { return };
        let Err(why) = bytes.send(data, self.patience).await else { return };
        let State::Open { next, report, .. } = std::mem::replace(&mut self.state, State::End) else { return };
        let error = match why {
            NotSent::Silent => {
                Error::unavailable(format!("node {} took no bytes for {:?}", next.id, self.patience))
            }
            // It closed its end: it has an answer.
            NotSent::Closed => match tokio::time::timeout(self.patience, report.join()).await {
                Ok(Ok(Err(error)) | Err(error)) => error,
                _ => Error::unavailable(format!("node {} stopped taking bytes", next.id)),
            },
        };
        tracing::warn!(node = %next.id, error = %error.report(), "dropped from the chain");
        self.state = State::Failed { next, error };
    }

    /// Lets the nodes further down notice that the block will not be complete.
    async fn fail(self) {
        if let State::Open { bytes, report, .. } = self.state {
            drop(bytes);
            let _ = tokio::time::timeout(self.patience, report.join()).await;
        }
    }

    /// Ends the bytes at once, and waits for the report when awaited.
    fn finish(self) -> impl Future<Output = WriteReport> {
        let waiting = match self.state {
            State::Open { next, bytes, report } => {
                bytes.finish();
                Ok((next, report))
            }
            State::Failed { next, error } => Err(vec![(next.id, error)]),
            State::End => Err(Vec::new()),
        };
        let sync = self.sync;
        async move {
            let failed = match waiting {
                Err(failed) => failed,
                Ok((next, report)) => match tokio::time::timeout(sync, report.join()).await {
                    Ok(Ok(Ok(report))) => return report,
                    Ok(Ok(Err(error)) | Err(error)) => vec![(next.id, error)],
                    Err(_) => {
                        let what = format!("node {} did not finish the block in {sync:?}", next.id);
                        vec![(next.id, Error::unavailable(what))]
                    }
                },
            };
            WriteReport { failed, ..WriteReport::default() }
        }
    }
}
