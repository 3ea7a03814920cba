//! Reads files: finds the blocks of a range, reads each from the nearest replica, and goes on with the next when one
//! fails in the middle. A replica that is slow, at the first byte or later, is raced with the next one (a hedged read).
//!
//! # Source
//! Dean and Barroso, "The Tail at Scale", Communications of the ACM 2013.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use moka::sync::Cache;
use parking_lot::Mutex;
use skep_common::task::{self, Task};
use skep_common::{Error, Kind, NodeId, Result};
use tokio::sync::mpsc;

use super::Parts;
use crate::block::BlockId;
use crate::nodes::Peer;
use crate::placement;
use crate::remote::{BlockMap, BlockStream, Fault, FileMap, NamespaceClient};
use crate::server::fault_of;

/// Faults that wait to be reported; more are dropped, since the next reader finds them again.
const FAULTS_MAX: usize = 256;
/// Reads at a time that have two replicas race.
const HEDGES_MAX: usize = 32;
/// Replicas that one read has race.
const RACERS_MAX: usize = 3;
/// First bytes whose times are remembered.
const LATENCIES: usize = 128;
/// Between two rounds over replicas that cannot be reached.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Reads files of the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    files: Option<Cache<String, Arc<FileMap>>>,
    /// Counts invalidations, so that an answer from before one is not kept after it.
    changes: AtomicU64,
    suspects: Mutex<HashMap<NodeId, Instant>>,
    faults: Mutex<Option<Reporter>>,
    /// Differs between readers, so that they do not all ask the same replica.
    salt: u64,
    read: Counters,
    latencies: Mutex<Latencies>,
    hedging: AtomicUsize,
    hedged: AtomicU64,
}

#[derive(Debug)]
struct Reporter {
    queue: mpsc::Sender<(BlockId, NodeId, Fault)>,
    _task: Task<()>,
}

#[derive(Debug, Default)]
struct Counters {
    own: AtomicU64,
    remote: AtomicU64,
}

/// Bytes read since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BytesRead {
    /// From the own disk.
    pub own: u64,
    /// From other nodes.
    pub remote: u64,
}

impl Reader {
    pub(super) fn new(parts: Parts) -> Self {
        let ttl = parts.config.metadata_ttl;
        let files = (ttl > Duration::ZERO)
            .then(|| Cache::builder().max_capacity(parts.config.metadata_entries).time_to_live(ttl).build());
        Self(Arc::new(Inner {
            parts,
            files,
            changes: AtomicU64::new(0),
            suspects: Mutex::default(),
            faults: Mutex::new(None),
            salt: rand::random(),
            read: Counters::default(),
            latencies: Mutex::default(),
            hedging: AtomicUsize::new(0),
            hedged: AtomicU64::new(0),
        }))
    }

    /// What was read from where.
    pub fn bytes_read(&self) -> BytesRead {
        BytesRead {
            own: self.0.read.own.load(Ordering::Relaxed),
            remote: self.0.read.remote.load(Ordering::Relaxed),
        }
    }

    /// Reads in which a slow replica was raced with another one.
    pub fn hedged(&self) -> u64 {
        self.0.hedged.load(Ordering::Relaxed)
    }

    /// How long a replica is waited for before another one is asked as well: `hedge_delay`, or three times what is usual.
    fn patience(&self) -> Duration {
        let usual = self.0.latencies.lock().usual.saturating_mul(3);
        let config = &self.0.parts.config;
        config.hedge_delay.max(usual).min(config.read_timeout)
    }

    /// The file at `path`, as the namespace said it is at most `metadata_ttl` ago.
    ///
    /// # Errors
    /// `NotFound`; those of the namespace.
    pub async fn file(&self, path: &str) -> Result<Arc<FileMap>> {
        match self.0.files.as_ref().and_then(|files| files.get(path)) {
            Some(file) => Ok(file),
            None => self.file_now(path).await,
        }
    }

    /// The file at `path`, as the namespace says it is.
    ///
    /// # Errors
    /// As [`Reader::file`].
    pub async fn file_now(&self, path: &str) -> Result<Arc<FileMap>> {
        let changes = self.0.changes.load(Ordering::Acquire);
        let found = self.0.parts.namespace.lookup(&[path.to_owned()]).await?.into_iter().next().flatten();
        let file = Arc::new(found.ok_or_else(|| Error::not_found(format!("no file '{path}' in the store")))?);
        let blocks: u64 = file.blocks.iter().map(|block| block.length).sum();
        if blocks != file.meta.size {
            return Err(Error::corrupt(format!(
                "the namespace counts {} bytes for '{path}' and {blocks} in its blocks",
                file.meta.size
            )));
        }
        if let Some(files) = &self.0.files
            && self.0.changes.load(Ordering::Acquire) == changes
        {
            files.insert(path.to_owned(), Arc::clone(&file));
        }
        Ok(file)
    }

    /// What was known of `path` may be wrong from here on.
    pub(super) async fn forget(&self, path: &str) {
        self.0.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(files) = &self.0.files {
            files.invalidate(path);
        }
    }

    /// Bytes `range` of a file, which lie inside it, as they arrive.
    pub fn stream(&self, file: Arc<FileMap>, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        let reader = self.clone();
        let parts: Vec<_> = segments(&file, range).collect();
        stream::iter(parts)
            .flat_map(move |(index, range)| reader.segment(Arc::clone(&file), index, range, Vec::new()))
            .boxed()
    }

    /// Bytes `range` of a file at once; what lies after its end is left out.
    ///
    /// # Errors
    /// `Invalid` if it starts after the end; else as the items of [`Reader::stream`].
    pub async fn range(&self, file: Arc<FileMap>, range: Range<u64>) -> Result<Bytes> {
        let size = file.meta.size;
        if range.start >= size && !range.is_empty() {
            return Err(Error::invalid(format!(
                "bytes {}..{} start after the end of '{}' of {size} bytes",
                range.start, range.end, file.meta.path
            )));
        }
        let range = range.start..range.end.min(size);
        let mut parts = segments(&file, range.clone());
        let first = parts.next();
        if let (Some((index, inside)), None) = (first, parts.next()) {
            return self.one_block(&file, index, inside).await;
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let mut pieces = self.stream(Arc::clone(&file), range);
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.freeze())
    }

    async fn one_block(&self, file: &Arc<FileMap>, index: usize, range: Range<u64>) -> Result<Bytes> {
        let mut tried = Vec::new();
        let block = &file.blocks[index];
        if let Some(own) = &self.0.parts.own
            && block.replicas.iter().chain(&block.silent).any(|peer| peer.id == *own.node())
        {
            match own.read_whole(block.id, range.clone()).await {
                Ok(bytes) => {
                    self.0.read.own.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return Ok(bytes);
                }
                Err(error) => {
                    self.failed(block.id, own.node(), &error);
                    tried.push((own.node().clone(), error));
                }
            }
        }
        let mut pieces = self.segment(Arc::clone(file), index, range.clone(), tried);
        let Some(first) = pieces.next().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() as u64 == range.end - range.start {
            return Ok(first);
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        bytes.extend_from_slice(&first);
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.freeze())
    }

    /// Bytes `left` of one block, from replica after replica.
    fn segment(
        &self,
        file: Arc<FileMap>,
        index: usize,
        left: Range<u64>,
        tried: Vec<(NodeId, Error)>,
    ) -> BoxStream<'static, Result<Bytes>> {
        let block = file.blocks[index].clone();
        let mut segment = Segment {
            reader: self.clone(),
            file,
            block,
            left,
            tried: Vec::new(),
            errors: BTreeMap::new(),
            source: None,
            waiting: None,
        };
        for (node, error) in tried {
            segment.tried.push(node.clone());
            segment.errors.insert(node, error);
        }
        stream::try_unfold(segment, |mut segment| async move {
            Ok(segment.next().await?.map(|bytes| (bytes, segment)))
        })
        .boxed()
    }

    /// Remembers a failure: the node is tried last for a while, and a bad replica is reported.
    fn failed(&self, block: BlockId, node: &NodeId, error: &Error) {
        tracing::warn!(%block, %node, error = %error.report(), "replica failed a read");
        match fault_of(error) {
            Some(fault) => self.report(block, node.clone(), fault),
            None => self.suspect(node),
        }
    }

    /// `node` is tried last for a while.
    fn suspect(&self, node: &NodeId) {
        let mut suspects = self.0.suspects.lock();
        let now = self.0.parts.clock.instant();
        suspects.retain(|_, since| now.saturating_duration_since(*since) < self.0.parts.config.suspect);
        suspects.insert(node.clone(), now);
    }

    fn suspected(&self, node: &NodeId) -> bool {
        let now = self.0.parts.clock.instant();
        let since = self.0.suspects.lock().get(node).copied();
        since.is_some_and(|since| now.saturating_duration_since(since) < self.0.parts.config.suspect)
    }

    fn report(&self, block: BlockId, node: NodeId, fault: Fault) {
        let mut faults = self.0.faults.lock();
        let reporter = faults.get_or_insert_with(|| Reporter::start(Arc::clone(&self.0.parts.namespace)));
        if reporter.queue.try_send((block, node, fault)).is_err() {
            tracing::debug!(%block, "too many faults to report this one");
        }
    }

    /// Replicas in the order to try them: the own disk, the own zone, the others; then suspected nodes, then silent
    /// ones.
    fn order(&self, block: &BlockMap, tried: &[NodeId]) -> Vec<Peer> {
        let parts = &self.0.parts;
        let own = parts.own.as_ref().map(|own| own.node());
        let distance = |peer: &Peer| {
            if Some(&peer.id) == own {
                0
            } else if peer.zone.is_some() && peer.zone == parts.zone {
                1
            } else {
                2
            }
        };
        let live = block.replicas.iter().map(|peer| (false, peer));
        let silent = block.silent.iter().map(|peer| (true, peer));
        let mut peers: Vec<(bool, Peer)> = live
            .chain(silent)
            .filter(|(_, peer)| !tried.contains(&peer.id))
            .map(|(silent, peer)| (silent, peer.clone()))
            .collect();
        peers.sort_by_cached_key(|(silent, peer)| {
            let distance = distance(peer);
            let doubt = if distance == 0 { (false, false) } else { (*silent, self.suspected(&peer.id)) };
            (doubt, distance, placement::affinity(block.id, &peer.id) ^ self.0.salt)
        });
        peers.into_iter().map(|(_, peer)| peer).collect()
    }
}

impl Reporter {
    fn start(namespace: Arc<dyn NamespaceClient>) -> Self {
        let (queue, mut faults) = mpsc::channel::<(BlockId, NodeId, Fault)>(FAULTS_MAX);
        let task = task::spawn("report-faults", async move {
            while let Some((block, node, fault)) = faults.recv().await {
                if let Err(error) = namespace.report_fault(block, &node, fault).await {
                    tracing::warn!(%block, %node, error = %error.report(), "could not report a bad replica");
                }
            }
        });
        Self { queue, _task: task }
    }
}

/// A replica that was asked, and its first bytes when they came.
type Racer = BoxFuture<'static, (Peer, Result<(Bytes, BlockStream)>)>;

/// What a replica sent, if it fits what is left to read.
fn checked(peer: &Peer, item: Option<Result<Bytes>>, left: &Range<u64>) -> Result<Bytes> {
    match item {
        Some(Ok(bytes)) if bytes.len() as u64 <= left.end - left.start => Ok(bytes),
        Some(Ok(_)) => Err(Error::unavailable(format!("node {} sent more than was asked for", peer.id))),
        Some(Err(error)) => Err(error),
        None => Err(Error::unavailable(format!("node {} ended a block early", peer.id))),
    }
}

/// A read that has two replicas race. There are few at a time, so that a store that is slow as a whole is not asked twice.
struct Hedge(Reader);

impl Hedge {
    fn begin(reader: &Reader) -> Option<Self> {
        let begun = reader
            .0
            .hedging
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < HEDGES_MAX).then_some(now + 1));
        begun.ok()?;
        reader.0.hedged.fetch_add(1, Ordering::Relaxed);
        Some(Self(reader.clone()))
    }
}

impl Drop for Hedge {
    fn drop(&mut self) {
        self.0.0.hedging.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How long the first bytes of replicas took lately.
#[derive(Debug, Default)]
struct Latencies {
    latest: VecDeque<Duration>,
    /// What 19 of 20 did not exceed.
    usual: Duration,
    since: usize,
}

impl Latencies {
    fn add(&mut self, time: Duration) {
        if self.latest.len() >= LATENCIES {
            self.latest.pop_front();
        }
        self.latest.push_back(time);
        self.since += 1;
        if self.since >= LATENCIES / 8 {
            self.since = 0;
            let mut sorted: Vec<Duration> = self.latest.iter().copied().collect();
            sorted.sort_unstable();
            self.usual = sorted[(sorted.len() * 19 / 20).min(sorted.len() - 1)];
        }
    }
}

/// Part of one block, being read.
struct Segment {
    reader: Reader,
    file: Arc<FileMap>,
    block: BlockMap,
    left: Range<u64>,
    /// Nodes not to ask again.
    tried: Vec<NodeId>,
    /// The last error of each node.
    errors: BTreeMap<NodeId, Error>,
    source: Option<(Peer, BlockStream)>,
    /// Since when no replica could be read.
    waiting: Option<Instant>,
}

impl Segment {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            let Some((peer, mut pieces)) = self.source.take() else {
                if let Some(bytes) = self.race(None).await? {
                    return Ok(Some(bytes));
                }
                continue;
            };
            let patience = self.reader.patience();
            match tokio::time::timeout(patience, pieces.next()).await {
                Ok(item) => match checked(&peer, item, &self.left) {
                    Ok(bytes) if bytes.is_empty() => self.source = Some((peer, pieces)),
                    Ok(bytes) => return Ok(Some(self.take(peer, bytes, pieces))),
                    Err(error) => self.fail(peer.id, error),
                },
                // It has a little longer, and company.
                Err(_) => {
                    if let Some(bytes) = self.race(Some((peer, pieces))).await? {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
        Ok(None)
    }

    fn take(&mut self, peer: Peer, bytes: Bytes, pieces: BlockStream) -> Bytes {
        self.left.start += bytes.len() as u64;
        self.waiting = None;
        self.count(&peer, bytes.len());
        self.source = Some((peer, pieces));
        bytes
    }

    /// The first bytes of whichever replica has them first: one is asked, and when it is slow the next one too. `slow` is
    /// one that has kept us waiting already. Nothing if all failed and there may be others.
    async fn race(&mut self, slow: Option<(Peer, BlockStream)>) -> Result<Option<Bytes>> {
        let reader = self.reader.clone();
        let mut racing: Vec<NodeId> = Vec::new();
        let mut racers = FuturesUnordered::new();
        let start = reader.0.parts.clock.instant();
        let mut hedge = None;
        match slow {
            Some((peer, pieces)) => {
                racing.push(peer.id.clone());
                racers.push(self.racer(peer, Some(pieces)));
                // Its time is up: the next one starts at once.
                self.join(&mut racing, &mut racers, &mut hedge);
            }
            None => match self.candidate(&racing) {
                Some(peer) => {
                    racing.push(peer.id.clone());
                    racers.push(self.racer(peer, None));
                }
                None => {
                    self.refresh().await?;
                    return Ok(None);
                }
            },
        }
        loop {
            let patience = reader.patience();
            tokio::select! {
                Some((peer, first)) = racers.next() => match first {
                    Ok((bytes, pieces)) => {
                        // Whoever was asked before it is slow.
                        for node in racing.iter().take_while(|node| **node != peer.id) {
                            reader.suspect(node);
                        }
                        if hedge.is_none() {
                            let now = reader.0.parts.clock.instant();
                            reader.0.latencies.lock().add(now.saturating_duration_since(start));
                        }
                        return Ok(Some(self.take(peer, bytes, pieces)));
                    }
                    Err(error) => {
                        racing.retain(|node| *node != peer.id);
                        self.fail(peer.id, error);
                        if racers.is_empty() {
                            return Ok(None);
                        }
                    }
                },
                () = tokio::time::sleep(patience), if racers.len() < RACERS_MAX => {
                    self.join(&mut racing, &mut racers, &mut hedge);
                }
            }
        }
    }

    /// Has one more replica race, if there is one and not too many reads have two.
    fn join(
        &self,
        racing: &mut Vec<NodeId>,
        racers: &mut FuturesUnordered<Racer>,
        hedge: &mut Option<Hedge>,
    ) {
        let Some(peer) = self.candidate(racing) else { return };
        if hedge.is_none() {
            *hedge = Hedge::begin(&self.reader);
        }
        if hedge.is_some() {
            tracing::debug!(block = %self.block.id, slow = ?racing, beside = %peer.id, "a slow replica is raced");
            racing.push(peer.id.clone());
            racers.push(self.racer(peer, None));
        }
    }

    fn candidate(&self, racing: &[NodeId]) -> Option<Peer> {
        let not: Vec<NodeId> = self.tried.iter().chain(racing).cloned().collect();
        self.reader.order(&self.block, &not).into_iter().next()
    }

    /// Opens a replica, unless that is done, and waits for its first bytes.
    fn racer(&self, peer: Peer, open: Option<BlockStream>) -> Racer {
        let (reader, block, left) = (self.reader.clone(), self.block.id, self.left.clone());
        Box::pin(async move {
            let parts = &reader.0.parts;
            let wait = parts.config.read_timeout;
            let silent = || Error::unavailable(format!("node {} was silent for {wait:?}", peer.id));
            let opened = match (open, &parts.own) {
                (Some(pieces), _) => Ok(pieces),
                (None, Some(own)) if *own.node() == peer.id => own.read(block, left.clone()).await,
                (None, _) => {
                    let read = parts.peers.read(&peer, block, left.clone());
                    tokio::time::timeout(wait, read).await.unwrap_or_else(|_| Err(silent()))
                }
            };
            let mut pieces = match opened {
                Ok(pieces) => pieces,
                Err(error) => return (peer, Err(error)),
            };
            loop {
                let item = tokio::time::timeout(wait, pieces.next()).await;
                let first = item.map_or_else(|_| Err(silent()), |item| checked(&peer, item, &left));
                match first {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return (peer, Ok((bytes, pieces))),
                    Err(error) => return (peer, Err(error)),
                }
            }
        })
    }

    fn count(&self, peer: &Peer, bytes: usize) {
        let read = &self.reader.0.read;
        let own = self.reader.0.parts.own.as_ref().is_some_and(|own| *own.node() == peer.id);
        let counter = if own { &read.own } else { &read.remote };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn fail(&mut self, node: NodeId, error: Error) {
        self.reader.failed(self.block.id, &node, &error);
        self.tried.push(node.clone());
        self.errors.insert(node, error);
    }

    /// Every replica failed: asks where there are others by now, and lets those be tried again that may come back.
    async fn refresh(&mut self) -> Result<()> {
        let parts = &self.reader.0.parts;
        let now = parts.clock.instant();
        match self.waiting {
            None => self.waiting = Some(now),
            Some(since) if now.saturating_duration_since(since) >= parts.config.node_wait => {
                return Err(self.lost());
            }
            Some(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
        let path = &self.file.meta.path;
        let fresh = self.reader.file_now(path).await?;
        if fresh.meta.version != self.file.meta.version {
            return Err(Error::conflict(format!("the file '{path}' was replaced while it was read"))
                .hint("read it again"));
        }
        if let Some(block) = fresh.blocks.iter().find(|block| block.id == self.block.id) {
            self.block = block.clone();
        }
        if self.hopeless() {
            return Err(self.lost());
        }
        let errors = &self.errors;
        self.tried.retain(|node| errors.get(node).is_some_and(|error| fault_of(error).is_some()));
        Ok(())
    }

    /// Whether no node that is away could have a good replica.
    fn hopeless(&self) -> bool {
        let bad = |node: &NodeId| self.errors.get(node).is_some_and(|error| fault_of(error).is_some());
        self.block.replicas.iter().chain(&self.block.silent).all(|peer| bad(&peer.id))
            && self.block.lost.iter().all(bad)
    }

    fn lost(&self) -> Error {
        let (path, block) = (&self.file.meta.path, self.block.id);
        let mut causes: Vec<String> =
            self.errors.iter().map(|(node, error)| format!("{node}: {}", error.report())).collect();
        let away = self.block.lost.iter().filter(|node| !self.errors.contains_key(node));
        causes.extend(away.map(|node| format!("{node}: away, or its replica is bad")));
        let kind = if self.hopeless() { Kind::Corrupt } else { Kind::Unavailable };
        let what = format!("no replica of block {block} of '{path}' can be read ({})", causes.join("; "));
        Error::new(kind, what).hint("start the workers that held it again, or restore the file")
    }
}

/// The parts of `range` in each block: its index and the range inside it.
fn segments(file: &FileMap, range: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
    let mut at = 0;
    let blocks = file.blocks.iter().enumerate().map(move |(index, block)| {
        let start = at;
        at += block.length;
        (index, range.start.max(start).saturating_sub(start)..range.end.min(at).saturating_sub(start))
    });
    blocks.filter(|(_, part)| !part.is_empty()).collect::<Vec<_>>().into_iter()
}

/// The nodes that hold the whole file, or else the most of it.
pub(super) fn holders(file: &FileMap) -> Vec<NodeId> {
    let mut bytes: BTreeMap<&NodeId, u64> = BTreeMap::new();
    for block in &file.blocks {
        for peer in &block.replicas {
            *bytes.entry(&peer.id).or_default() += block.length;
        }
    }
    let most = bytes.values().copied().max().unwrap_or(0);
    bytes.into_iter().filter(|(_, held)| *held == most).map(|(node, _)| node.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::FileMeta;

    fn file(blocks: &[(u64, &str)]) -> FileMap {
        let blocks: Vec<BlockMap> = blocks
            .iter()
            .map(|(length, nodes)| BlockMap {
                id: BlockId::generate(),
                length: *length,
                replicas: nodes
                    .split_whitespace()
                    .map(|node| Peer {
                        id: NodeId::new(node).unwrap(),
                        zone: None,
                        url: "http://127.0.0.1:1".parse().unwrap(),
                    })
                    .collect(),
                silent: Vec::new(),
                lost: Vec::new(),
            })
            .collect();
        let size = blocks.iter().map(|block| block.length).sum();
        let meta = FileMeta { path: "x".into(), size, version: "v".into(), created: Default::default() };
        FileMap { meta, blocks }
    }

    #[test]
    fn segments_cover_a_range_once() {
        let file = file(&[(10, ""), (5, ""), (10, "")]);
        let parts = |range| segments(&file, range).collect::<Vec<_>>();
        assert_eq!(parts(0..25), [(0, 0..10), (1, 0..5), (2, 0..10)]);
        assert_eq!(parts(9..16), [(0, 9..10), (1, 0..5), (2, 0..1)]);
        assert_eq!(parts(11..13), [(1, 1..3)]);
        assert_eq!(parts(7..7), []);
    }

    #[test]
    fn holders_hold_all_or_the_most() {
        let names = |file: &FileMap| holders(file).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&file(&[(10, "a b c"), (1, "c b d")])), ["b", "c"]);
        assert_eq!(names(&file(&[(10, "a"), (1, "b")])), ["a"]);
        assert!(names(&file(&[])).is_empty());
    }
}
