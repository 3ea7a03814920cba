//! Writes files: cuts bytes into blocks, sends each down a chain of nodes, lets the file appear.
//!
//! ```text
//! put_part -> Queue -> task: begin_write -> [block -> chain -> report]* -> commit_write
//! ```
//!
//! Memory: the parts whose futures are not done (the caller's bound), a few messages per chain, and, while the first
//! node of a chain is another one, the bytes of the block so far, to send them again if that node fails.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use object_store::{MultipartUpload, PutPayload, PutResult, UploadPart};
use parking_lot::Mutex;
use skep_common::task::{self, Task};
use skep_common::{Error, Kind, NodeId, Result};
use tokio::sync::{Notify, oneshot};

use super::{Parts, SkepStore, object_error, put_result};
use crate::block::WriteId;
use crate::nodes::Peer;
use crate::pipe::{self, NotSent, pipe};
use crate::remote::{FileMeta, Placement, WriteHeader, WriteMode, WriteReport, WrittenBlock};

/// Chains tried for one block.
const ATTEMPTS_MAX: usize = 4;
/// Times an unanswered commit is repeated.
const COMMITS_MAX: u32 = 4;
/// Between two tries to begin a write for which too few nodes are alive.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Turns when a part is on its way to the nodes.
pub(super) type Progress = oneshot::Receiver<()>;

/// One file being written. Dropped before `complete`, its write is given up.
#[derive(Debug)]
pub(super) struct Upload {
    store: SkepStore,
    path: String,
    mode: WriteMode,
    write: WriteId,
    queue: Arc<Queue>,
    task: Option<Task<Result<FileMeta>>>,
    over: bool,
}

/// Parts in the order of `put_part`, however their futures are polled.
#[derive(Debug)]
struct Queue {
    /// Nothing once nobody takes parts any more.
    parts: Mutex<Option<VecDeque<Part>>>,
    changed: Notify,
    failure: Mutex<Option<Error>>,
}

#[derive(Debug)]
enum Part {
    Bytes(Bytes, oneshot::Sender<()>),
    End,
}

impl Queue {
    fn new() -> Self {
        Self { parts: Mutex::new(Some(VecDeque::new())), changed: Notify::new(), failure: Mutex::new(None) }
    }

    /// A part that nobody will take is dropped, and so whoever waits for it learns of it.
    fn push(&self, part: Part) {
        if let Some(parts) = &mut *self.parts.lock() {
            parts.push_back(part);
        }
        self.changed.notify_one();
    }

    async fn next(&self) -> Part {
        loop {
            match self.parts.lock().as_mut().map(VecDeque::pop_front) {
                Some(Some(part)) => return part,
                Some(None) => {}
                None => return Part::End,
            }
            self.changed.notified().await;
        }
    }
}

/// Closes the queue when the task that takes from it ends, however it ends.
struct Closes(Arc<Queue>);

impl Drop for Closes {
    fn drop(&mut self) {
        *self.0.parts.lock() = None;
    }
}

impl Upload {
    pub(super) fn new(store: SkepStore, path: String, mode: WriteMode) -> Self {
        let (write, queue) = (WriteId::generate(), Arc::new(Queue::new()));
        Self { store, path, mode, write, queue, task: None, over: false }
    }

    pub(super) fn push(&mut self, bytes: Bytes) -> Progress {
        let (done, progress) = oneshot::channel();
        self.start();
        self.queue.push(Part::Bytes(bytes, done));
        progress
    }

    fn start(&mut self) {
        if self.task.is_some() || self.over {
            return;
        }
        let queue = Arc::clone(&self.queue);
        let file = FileWriter {
            parts: self.store.0.writer.parts.clone(),
            path: self.path.clone(),
            mode: self.mode.clone(),
            write: self.write,
            exclude: Vec::new(),
            touched: self.store.0.writer.parts.clock.instant(),
        };
        let closes = Closes(Arc::clone(&queue));
        self.task = Some(task::spawn("write-file", async move {
            let result = file.run(&queue).await;
            if let Err(error) = &result {
                *queue.failure.lock() = Some(error.clone());
            }
            drop(closes);
            result
        }));
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let progress: Vec<Progress> = data.into_iter().map(|bytes| self.push(bytes)).collect();
        let (queue, path) = (Arc::clone(&self.queue), self.path.clone());
        async move {
            for part in progress {
                if part.await.is_err() {
                    let error = queue.failure.lock().clone();
                    let error = error.unwrap_or_else(|| Error::cancelled("the upload was aborted"));
                    return Err(object_error(error, &path));
                }
            }
            Ok(())
        }
        .boxed()
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.start();
        self.queue.push(Part::End);
        self.over = true;
        let result = match &mut self.task {
            Some(task) => task.await.and_then(|result| result),
            None => Err(Error::invalid(format!("the upload of '{}' is over", self.path))),
        };
        // Not earlier: whoever stops waiting for the end gives the write up.
        self.task = None;
        self.store.0.reader.forget(&self.path).await;
        result.map(|meta| put_result(&meta)).map_err(|error| object_error(error, &self.path))
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.over = true;
        self.task = None;
        *self.queue.parts.lock() = None;
        let aborted = self.store.namespace().abort_write(self.write).await;
        aborted.map_err(|error| object_error(error, &self.path))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The namespace may not know the write yet; then, and outside a runtime, its lease ends it.
        if self.task.take().is_some() && tokio::runtime::Handle::try_current().is_ok() {
            let (namespace, write) = (Arc::clone(self.store.namespace()), self.write);
            let abort = async move {
                if let Err(error) = namespace.abort_write(write).await {
                    tracing::debug!(error = %error.report(), "left for the lease to end");
                }
            };
            task::spawn("abort-write", abort).detach();
        }
    }
}

/// What every write needs.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) parts: Parts,
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts }
    }
}

/// Writes one file.
struct FileWriter {
    parts: Parts,
    path: String,
    mode: WriteMode,
    write: WriteId,
    /// Nodes that failed this write.
    exclude: Vec<NodeId>,
    /// When the namespace last heard of the write.
    touched: Instant,
}

/// A block on its way down a chain.
struct OpenBlock {
    placement: Placement,
    head: NodeId,
    bytes: pipe::Sender,
    report: Task<Result<WriteReport>>,
    length: u64,
    /// The block so far, if it may have to be sent again.
    replay: Option<Vec<Bytes>>,
    attempts: usize,
}

impl FileWriter {
    async fn run(mut self, queue: &Queue) -> Result<FileMeta> {
        let result = self.write(queue).await;
        if result.is_err()
            && let Err(error) = self.parts.namespace.abort_write(self.write).await
        {
            tracing::debug!(path = self.path, error = %error.report(), "left for the lease to end");
        }
        result.map_err(|error| {
            let path = &self.path;
            if error.kind() == Kind::AlreadyExists {
                error
            } else {
                error.context(format!("cannot write '{path}'"))
            }
        })
    }

    async fn write(&mut self, queue: &Queue) -> Result<FileMeta> {
        let first = self.begin().await?;
        let mut next = Some(first);
        let mut open: Option<OpenBlock> = None;
        let mut written = Vec::new();
        loop {
            let part = tokio::time::timeout(self.parts.config.write_heartbeat, queue.next()).await;
            self.renew().await?;
            let Ok(part) = part else {
                if let Some(block) = open.take() {
                    open = Some(self.send(block, Bytes::new()).await?);
                }
                continue;
            };
            let Part::Bytes(mut bytes, done) = part else { break };
            while !bytes.is_empty() {
                let mut block = match open.take() {
                    Some(block) => block,
                    None => {
                        let placement = match next.take() {
                            Some(placement) => placement,
                            None => self.place().await?,
                        };
                        self.open(placement, 0)?
                    }
                };
                let room = self.parts.config.block_size.0.max(1) - block.length;
                let take = room.min(self.parts.config.message.0.max(1)).min(bytes.len() as u64);
                let piece = bytes.split_to(usize::try_from(take).unwrap_or(usize::MAX).min(bytes.len()));
                block = self.send(block, piece).await?;
                if block.length >= self.parts.config.block_size.0 {
                    written.push(self.close(block).await?);
                } else {
                    open = Some(block);
                }
            }
            let _ = done.send(());
        }
        if let Some(block) = open.take() {
            written.push(self.close(block).await?);
        }
        self.commit(&written).await
    }

    fn own(&self) -> Option<NodeId> {
        self.parts.own.as_ref().map(|own| own.node().clone())
    }

    /// Waits for nodes that are away, as after a restart of the coordinator.
    async fn begin(&self) -> Result<Placement> {
        let (own, start) = (self.own(), self.parts.clock.instant());
        loop {
            let begun =
                self.parts.namespace.begin_write(self.write, &self.path, &self.mode, own.as_ref()).await;
            let waited = self.parts.clock.instant().saturating_duration_since(start);
            match begun {
                Err(error) if error.kind() == Kind::Unavailable && waited < self.parts.config.node_wait => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                begun => return begun,
            }
        }
    }

    /// Nodes that failed this write are left out, unless no others are enough.
    async fn place(&mut self) -> Result<Placement> {
        let (own, namespace) = (self.own(), Arc::clone(&self.parts.namespace));
        let placed = match namespace.add_block(self.write, own.as_ref(), &self.exclude).await {
            Err(error) if !self.exclude.is_empty() && error.kind() != Kind::Conflict => {
                self.exclude.clear();
                namespace.add_block(self.write, own.as_ref(), &self.exclude).await
            }
            placed => placed,
        };
        self.touched = self.parts.clock.instant();
        placed
    }

    async fn renew(&mut self) -> Result<()> {
        let now = self.parts.clock.instant();
        if now.saturating_duration_since(self.touched) > self.parts.config.write_lease / 3 {
            self.parts.namespace.renew_write(self.write).await?;
            self.touched = now;
        }
        Ok(())
    }

    fn open(&self, placement: Placement, attempts: usize) -> Result<OpenBlock> {
        let [first, rest @ ..] = placement.targets.as_slice() else {
            return Err(Error::internal("a block was placed on no node"));
        };
        let header = WriteHeader { block: placement.block, rest: rest.to_vec() };
        let (bytes, data) = pipe();
        let (head, to) = (first.id.clone(), first.clone());
        let own = self.parts.own.clone().filter(|own| *own.node() == head);
        let replay = if own.is_some() { None } else { Some(Vec::new()) };
        let peers = Arc::clone(&self.parts.peers);
        let report = task::spawn("write-block", async move {
            match own {
                Some(own) => own.write(header, data).await,
                None => peers.write(&to, header, data).await,
            }
        });
        Ok(OpenBlock { placement, head, bytes, report, length: 0, replay, attempts })
    }

    /// Longest wait for the chain to take a message: longer than any node in it waits for the next one.
    fn patience(&self, block: &OpenBlock) -> Duration {
        let nodes = u32::try_from(block.placement.targets.len() + 1).unwrap_or(u32::MAX);
        self.parts.config.write_timeout.saturating_mul(nodes)
    }

    /// Sends a piece; when the chain is broken, sends the block so far down another one.
    async fn send(&mut self, mut block: OpenBlock, piece: Bytes) -> Result<OpenBlock> {
        if let Some(replay) = &mut block.replay
            && !piece.is_empty()
        {
            replay.push(piece.clone());
        }
        block.length += piece.len() as u64;
        let patience = self.patience(&block);
        match block.bytes.send(piece, patience).await {
            Ok(()) => Ok(block),
            Err(why) => {
                let error = self.chain_error(&block.head, why, block.report, patience).await;
                self.again(block.head, block.replay, block.attempts, error).await
            }
        }
    }

    async fn chain_error(
        &self,
        head: &NodeId,
        why: NotSent,
        report: Task<Result<WriteReport>>,
        patience: Duration,
    ) -> Error {
        if why == NotSent::Silent {
            return Error::unavailable(format!("node {head} took no bytes for {patience:?}"));
        }
        match tokio::time::timeout(patience, report.join()).await {
            Ok(Ok(Err(error)) | Err(error)) => error,
            _ => Error::unavailable(format!("node {head} stopped taking bytes")),
        }
    }

    /// The block again, in full, down a chain without the nodes that failed.
    async fn again(
        &mut self,
        head: NodeId,
        replay: Option<Vec<Bytes>>,
        attempts: usize,
        error: Error,
    ) -> Result<OpenBlock> {
        tracing::warn!(path = self.path, node = %head, error = %error.report(), "a chain of writers failed");
        let Some(mut replay) = replay.filter(|_| attempts + 1 < ATTEMPTS_MAX) else { return Err(error) };
        self.exclude.push(head);
        let mut attempts = attempts + 1;
        'chains: loop {
            let placement = self.place().await.map_err(|refused| refused.source(error.clone()))?;
            let mut block = self.open(placement, attempts)?;
            let patience = self.patience(&block);
            for piece in &replay {
                if let Err(why) = block.bytes.send(piece.clone(), patience).await {
                    let error = self.chain_error(&block.head, why, block.report, patience).await;
                    attempts += 1;
                    if attempts >= ATTEMPTS_MAX {
                        return Err(error);
                    }
                    self.exclude.push(block.head);
                    continue 'chains;
                }
            }
            block.length = replay.iter().map(|piece| piece.len() as u64).sum();
            block.replay = Some(std::mem::take(&mut replay));
            return Ok(block);
        }
    }

    /// Ends a block and sees to it that it has enough durable replicas.
    async fn close(&mut self, mut block: OpenBlock) -> Result<WrittenBlock> {
        loop {
            let OpenBlock { placement, head, bytes, report, length, replay, attempts } = block;
            bytes.finish();
            let nodes = u32::try_from(placement.targets.len() + 1).unwrap_or(u32::MAX);
            let wait =
                (self.parts.config.sync_timeout + self.parts.config.write_timeout).saturating_mul(nodes);
            let report = match tokio::time::timeout(wait, report.join()).await {
                Ok(Ok(report)) => report,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(Error::unavailable(format!("node {head} did not finish a block in {wait:?}"))),
            };
            let failure = match report {
                Ok(report) if report.length != length => {
                    Error::corrupt(format!("node {head} took {} of {length} bytes of a block", report.length))
                }
                Ok(report) if report.durable.is_empty() => no_replica(&report),
                Ok(report) => return self.settle(&placement, length, report).await,
                Err(error) => error,
            };
            block = self.again(head, replay, attempts, failure).await?;
        }
    }

    /// Has one holder copy the block to more nodes while it has too few replicas.
    async fn settle(
        &mut self,
        placement: &Placement,
        length: u64,
        mut report: WriteReport,
    ) -> Result<WrittenBlock> {
        let required = placement.min_replicas as usize;
        let mut attempts = 0;
        self.exclude.extend(report.failed.iter().map(|(node, _)| node.clone()));
        while report.durable.len() < required {
            attempts += 1;
            let more = if attempts < ATTEMPTS_MAX {
                let have = &report.durable;
                self.parts.namespace.more_targets(self.write, placement.block, have, &self.exclude).await?
            } else {
                Vec::new()
            };
            if more.is_empty() {
                let (have, failed) = (report.durable.len(), describe(&report));
                let full = |(_, error): &(NodeId, Error)| error.kind() == Kind::NoSpace;
                return Err(if !report.failed.is_empty() && report.failed.iter().all(full) {
                    Error::no_space(format!(
                        "no space: a block is durable on {have} of {required} required nodes ({failed})"
                    ))
                    .hint("free space on the nodes, or add one")
                } else {
                    Error::unavailable(format!(
                        "too few nodes: a block is durable on {have} of {required} required nodes ({failed})"
                    ))
                    .hint("start more workers, or lower [store] min_replicas")
                });
            }
            let copied = self.replicate(placement, &report.durable, &more).await;
            match copied {
                Ok(copied) => {
                    self.exclude.extend(copied.failed.iter().map(|(node, _)| node.clone()));
                    report.absorb(copied);
                }
                Err(error) => report.failed.extend(more.into_iter().map(|peer| (peer.id, error.clone()))),
            }
        }
        for (node, error) in &report.failed {
            tracing::warn!(path = self.path, %node, error = %error.report(), "a replica was not written");
        }
        Ok(WrittenBlock { id: placement.block, length, replicas: report.durable })
    }

    async fn replicate(
        &self,
        placement: &Placement,
        holders: &[NodeId],
        more: &[Peer],
    ) -> Result<WriteReport> {
        if let Some(own) = self.parts.own.as_ref().filter(|own| holders.contains(own.node())) {
            return own.replicate(placement.block, more).await;
        }
        let holder = placement.targets.iter().find(|peer| holders.contains(&peer.id));
        let holder = holder.ok_or_else(|| Error::unavailable("no holder of the block can be reached"))?;
        self.parts.peers.replicate(holder, placement.block, more).await
    }

    async fn commit(&self, written: &[WrittenBlock]) -> Result<FileMeta> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.parts.namespace.commit_write(self.write, written).await {
                // Repeating finds the file if only the answer was lost.
                Err(error) if error.kind() == Kind::Unavailable && attempt < COMMITS_MAX => {
                    tokio::time::sleep(Duration::from_millis(100) * attempt).await;
                }
                result => return result,
            }
        }
    }
}

fn no_replica(report: &WriteReport) -> Error {
    let kind = report.failed.first().map_or(Kind::Unavailable, |(_, error)| error.kind());
    Error::new(kind, format!("a block was stored on no node ({})", describe(report)))
}

fn describe(report: &WriteReport) -> String {
    let failures: Vec<String> =
        report.failed.iter().map(|(node, error)| format!("{node}: {}", error.report())).collect();
    failures.join("; ")
}
