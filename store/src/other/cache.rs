//! What was read from other stores, kept in memory and on the disk of the process that read it.
//!
//! ```text
//! ranges --> blocks of a file: in memory? on disk? --no--> runs of missing blocks, one request each --> kept
//! ```
//!
//! Files whose names are made by our writers are written once and never again under the same name, so a block of one is good for
//! ever, and needs no question to the store whether it still is. What other files hold may change: they pass by.
//!
//! # Invariants
//! - A read never fails, and never differs, because of what the cache's disk does: what cannot be had there is read from the store.
//! - Memory and disk are bounded by settings; the disk's part is one folder, which may be deleted while nobody uses it.
//!
//! # Not here
//! Telling others how much was found: [`Cache::stats`] is for whoever asks.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    PsyncIoEngineConfig,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_common::clock::Clock;
use tokio::sync::OnceCell;

use super::config;

/// Bytes that are asked of the store in one request at most.
const REQUEST_MAX: u64 = 16 << 20;
/// Requests of one read at the same time.
const REQUESTS: usize = 8;
/// How often the log says how much was found.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The unit in which the disk's part forgets, each a file that stays open: at least so large. A block is at most half of it.
const DISK_UNIT: u64 = 16 << 20;
/// How many there are at most.
const DISK_UNITS: u64 = 256;

/// What was found, since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks that were there.
    pub hits: u64,
    /// Blocks that had to be read from the store.
    pub misses: u64,
    /// Bytes of those that were there.
    pub hit_bytes: u64,
    /// Bytes that had to be read.
    pub miss_bytes: u64,
    /// Times that the disk failed.
    pub failures: u64,
}

impl CacheStats {
    /// The share of blocks that were there; `None` before any was read.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
    miss_bytes: AtomicU64,
    failures: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// The cache of a process. Cheap to clone; opened when something is read for the first time.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: config::Cache,
    folder: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    kept: OnceCell<Kept>,
    counters: Counters,
    /// When the log last said something, and what was known then.
    logged: Mutex<Option<(Instant, CacheStats)>>,
}

type Kept = HybridCache<String, Bytes>;

impl Cache {
    /// A cache that keeps its disk's part in `folder`, unless the settings name another; without any, it is in memory alone.
    pub fn new(config: config::Cache, folder: Option<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        let folder = config.folder.clone().or(folder).filter(|_| config.disk.bytes() > 0);
        let (kept, counters) = (OnceCell::new(), Counters::default());
        Self(Arc::new(Shared { config, folder, clock, kept, counters, logged: Mutex::default() }))
    }

    /// What was found.
    pub fn stats(&self) -> CacheStats {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: read(&counters.hits),
            misses: read(&counters.misses),
            hit_bytes: read(&counters.hit_bytes),
            miss_bytes: read(&counters.miss_bytes),
            failures: read(&counters.failures),
        }
    }

    /// `store`, read through the cache under a name that no other store has.
    pub(super) fn over(&self, name: &str, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        if !self.0.config.enabled {
            return store;
        }
        Arc::new(Cached { inner: store, name: name.into(), cache: self.clone() })
    }

    async fn kept(&self) -> &Kept {
        self.0.kept.get_or_init(|| self.open()).await
    }

    async fn open(&self) -> Kept {
        if let Some(folder) = &self.0.folder {
            match self.on_disk(folder.clone()).await {
                Ok(kept) => return kept,
                Err(error) => {
                    count(&self.0.counters.failures, 1);
                    let folder = folder.display();
                    tracing::warn!(%folder, %error, "the cache has no disk, and stays in memory");
                }
            }
        }
        let built = memory(&self.0.config).storage().build().await;
        // Without a disk nothing is done that could fail.
        built.unwrap_or_else(|error| panic!("a cache in memory can always be made: {error}"))
    }

    async fn on_disk(&self, folder: PathBuf) -> foyer::Result<Kept> {
        // The builder below panics where it cannot.
        tokio::fs::create_dir_all(&folder).await.map_err(foyer::Error::io_error)?;
        let (disk, size) =
            (self.0.config.disk.bytes(), |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX));
        let unit = DISK_UNIT.max(disk.div_ceil(DISK_UNITS).next_multiple_of(1 << 20));
        let device = FsDeviceBuilder::new(folder).with_capacity(size(disk)).build()?;
        let engine = BlockEngineConfig::new(device).with_block_size(size(unit));
        memory(&self.0.config)
            .storage()
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(engine)
            .build()
            .await
    }

    /// What is kept under `key`, or nothing.
    async fn get(&self, key: &String) -> Option<Bytes> {
        match self.kept().await.get(key).await {
            Ok(entry) => entry.map(|entry| entry.value().clone()),
            Err(error) => {
                count(&self.0.counters.failures, 1);
                tracing::debug!(%error, "the disk of the cache failed");
                None
            }
        }
    }

    fn log(&self) {
        let now = self.0.clock.instant();
        let mut logged = self.0.logged.lock();
        let (since, before) = *logged.get_or_insert((now, CacheStats::default()));
        if now.saturating_duration_since(since) < LOG_INTERVAL {
            return;
        }
        let stats = self.stats();
        if stats != before {
            let rate = stats.hit_rate().unwrap_or_default();
            let (hits, misses, failures) = (stats.hits, stats.misses, stats.failures);
            tracing::info!(hit_rate = format!("{rate:.3}"), hits, misses, failures, "cache of other stores");
        }
        *logged = Some((now, stats));
    }
}

fn memory(
    config: &config::Cache,
) -> foyer::HybridCacheBuilderPhaseMemory<String, Bytes, foyer::DefaultHasher> {
    HybridCacheBuilder::new()
        .with_name("skep")
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .with_flush_on_close(false)
        .memory(usize::try_from(config.memory.bytes()).unwrap_or(usize::MAX))
        .with_weighter(|key: &String, block: &Bytes| key.len() + block.len())
}

/// What is kept of a file beside its blocks.
#[derive(Serialize, Deserialize)]
struct Head {
    size: u64,
    modified_ms: i64,
    e_tag: Option<String>,
}

/// A store read through the cache.
#[derive(Debug, Clone)]
struct Cached {
    inner: Arc<dyn ObjectStore>,
    name: Arc<str>,
    cache: Cache,
}

/// Whether a file of this name has the same bytes for ever.
fn immutable(path: &Path) -> bool {
    let id = path.filename().and_then(|name| name.strip_prefix("skep-")?.strip_suffix(".parquet"));
    id.is_some_and(|id| uuid::Uuid::parse_str(id).is_ok())
}

impl Cached {
    fn block(&self) -> u64 {
        self.cache.0.config.block.bytes()
    }

    fn key(&self, path: &Path, block: u64) -> String {
        format!("{}|{path}|{}|{block}", self.name, self.block())
    }

    /// Several ranges of one file, from the cache as far as it goes.
    async fn read(&self, path: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        let size = self.block();
        let mut wanted: Vec<u64> = ranges
            .iter()
            .filter(|range| range.start < range.end)
            .flat_map(|r| r.start / size..r.end.div_ceil(size))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let looked = wanted
            .into_iter()
            .map(|block| async move { (block, self.cache.get(&self.key(path, block)).await) });
        let looked: Vec<(u64, Option<Bytes>)> = stream::iter(looked).buffered(REQUESTS).collect().await;
        let counters = &self.cache.0.counters;
        let mut blocks = std::collections::BTreeMap::new();
        let mut missing = Vec::new();
        for (block, found) in looked {
            match found {
                Some(bytes) => {
                    count(&counters.hits, 1);
                    count(&counters.hit_bytes, bytes.len() as u64);
                    blocks.insert(block, bytes);
                }
                None => missing.push(block),
            }
        }
        if !missing.is_empty() && !blocks.is_empty() {
            // Blocks beyond the end are never there, and asking for them alone is an error.
            let end = self.head(path).await?.size;
            missing.retain(|block| block * size < end);
        }
        let requests =
            runs(&missing, (REQUEST_MAX / size).max(1)).into_iter().map(|run| self.fetch(path, run));
        let fetched: Vec<Vec<(u64, Bytes)>> =
            stream::iter(requests).buffer_unordered(REQUESTS).try_collect().await?;
        for (block, bytes) in fetched.into_iter().flatten() {
            count(&counters.misses, 1);
            count(&counters.miss_bytes, bytes.len() as u64);
            blocks.insert(block, bytes);
        }
        self.cache.log();
        ranges.iter().map(|range| assemble(&blocks, range, size).ok_or_else(|| beyond(path, range))).collect()
    }

    /// Reads a run of blocks and keeps them.
    async fn fetch(&self, path: &Path, run: Range<u64>) -> object_store::Result<Vec<(u64, Bytes)>> {
        let size = self.block();
        let options = GetOptions::new().with_range(Some(run.start * size..run.end * size));
        let result = self.inner.get_opts(path, options).await?;
        self.remember(path, &result.meta).await;
        let bytes = result.bytes().await?;
        let kept = self.cache.kept().await;
        let mut blocks = Vec::new();
        for (block, start) in run.zip((0..).step_by(usize::try_from(size).unwrap_or(usize::MAX))) {
            if start >= bytes.len() {
                break;
            }
            let end = bytes.len().min(start + usize::try_from(size).unwrap_or(usize::MAX));
            // A copy: a piece of a larger buffer would keep all of it.
            let piece = Bytes::copy_from_slice(&bytes[start..end]);
            kept.insert(self.key(path, block), piece.clone());
            blocks.push((block, piece));
        }
        Ok(blocks)
    }

    fn head_key(&self, path: &Path) -> String {
        format!("{}|{path}|head", self.name)
    }

    async fn remember(&self, path: &Path, meta: &ObjectMeta) {
        let head = Head {
            size: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
            e_tag: meta.e_tag.clone(),
        };
        if let Ok(text) = serde_json::to_vec(&head) {
            self.cache.kept().await.insert(self.head_key(path), text.into());
        }
    }

    /// What the store says of a file, which does not change.
    async fn head(&self, path: &Path) -> object_store::Result<ObjectMeta> {
        let known = self.cache.get(&self.head_key(path)).await;
        if let Some(head) = known.and_then(|text| serde_json::from_slice::<Head>(&text).ok())
            && let Some(last_modified) = DateTime::from_timestamp_millis(head.modified_ms)
        {
            return Ok(ObjectMeta {
                location: path.clone(),
                last_modified,
                size: head.size,
                e_tag: head.e_tag,
                version: None,
            });
        }
        let meta = self.inner.head(path).await?;
        self.remember(path, &meta).await;
        Ok(meta)
    }
}

/// Neighbours together, at most `longest` of them.
fn runs(blocks: &[u64], longest: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &block in blocks {
        match runs.last_mut() {
            Some(run) if run.end == block && run.end - run.start < longest => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

/// The bytes of `range`; less at the end of the file, `None` where it begins beyond.
fn assemble(blocks: &std::collections::BTreeMap<u64, Bytes>, range: &Range<u64>, size: u64) -> Option<Bytes> {
    if range.start >= range.end {
        return Some(Bytes::new());
    }
    let mut pieces = Vec::new();
    for block in range.start / size..range.end.div_ceil(size) {
        let Some(bytes) = blocks.get(&block) else { break };
        let base = block * size;
        let at =
            |offset: u64| usize::try_from(offset.saturating_sub(base)).unwrap_or(usize::MAX).min(bytes.len());
        pieces.push(bytes.slice(at(range.start)..at(range.end)));
    }
    match pieces.as_slice() {
        [one] => Some(one.clone()).filter(|piece| !piece.is_empty()),
        [] => None,
        all => {
            let mut whole = BytesMut::with_capacity(all.iter().map(Bytes::len).sum());
            all.iter().for_each(|piece| whole.extend_from_slice(piece));
            Some(whole.freeze())
        }
    }
}

fn beyond(path: &Path, range: &Range<u64>) -> object_store::Error {
    object_store::Error::Generic {
        store: "cache",
        source: format!("bytes {} to {} of '{path}' are beyond its end", range.start, range.end).into(),
    }
}

impl fmt::Display for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Cached {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let plain = options.if_match.is_none()
            && options.if_none_match.is_none()
            && options.if_modified_since.is_none()
            && options.if_unmodified_since.is_none()
            && options.version.is_none()
            && !options.head;
        let (Some(GetRange::Bounded(range)), true) = (&options.range, plain && immutable(location)) else {
            return self.inner.get_opts(location, options).await;
        };
        let bytes =
            self.read(location, std::slice::from_ref(range)).await?.into_iter().next().unwrap_or_default();
        let meta = self.head(location).await?;
        let range = range.start..range.start + bytes.len() as u64;
        let payload = GetResultPayload::Stream(stream::once(std::future::ready(Ok(bytes))).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        if immutable(location) {
            self.read(location, ranges).await
        } else {
            self.inner.get_ranges(location, ranges).await
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use skep_common::{ByteSize, clock};

    use super::*;

    fn name() -> Path {
        Path::from(format!("t/skep-{}.parquet", uuid::Uuid::now_v7()))
    }

    fn small(disk: u64) -> config::Cache {
        config::Cache {
            // With a disk, less than the files of the tests.
            memory: ByteSize::mib(if disk > 0 { 1 } else { 16 }),
            disk: ByteSize(disk),
            block: ByteSize(64 << 10),
            ..config::Cache::default()
        }
    }

    fn data(length: usize) -> Bytes {
        (0..length).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into()
    }

    #[test]
    fn neighbours_are_asked_for_together() {
        assert_eq!(runs(&[1, 2, 3, 5, 9, 10], 2), [1..3, 3..4, 5..6, 9..11]);
        assert_eq!(runs(&[], 2), []);
    }

    #[tokio::test]
    async fn every_range_is_the_same_with_a_cache_and_the_second_time_it_is_found() {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let cache = Cache::new(small(0), None, clock::system());
        let store = cache.over("x", Arc::clone(&inner));
        let (path, bytes) = (name(), data(300_000));
        inner.put(&path, bytes.clone().into()).await.unwrap();
        let ranges = [0..1, 65_535..65_537, 10..200_000, 299_999..300_000, 250_000..400_000, 7..7];
        for round in 0..2 {
            for range in &ranges {
                let end = range.end.min(300_000) as usize;
                let expected = bytes.slice(range.start as usize..end);
                let got = store.get_ranges(&path, std::slice::from_ref(range)).await.unwrap();
                assert_eq!(got.as_slice(), std::slice::from_ref(&expected), "{range:?}");
                if range.start < range.end {
                    let result = store
                        .get_opts(&path, GetOptions::new().with_range(Some(range.clone())))
                        .await
                        .unwrap();
                    assert_eq!((result.range.clone(), result.meta.size), (range.start..end as u64, 300_000));
                    assert_eq!(result.bytes().await.unwrap(), expected);
                }
            }
            let all: Vec<Bytes> = store.get_ranges(&path, &ranges).await.unwrap();
            assert_eq!(all[2], bytes.slice(10..200_000));
            let stats = cache.stats();
            assert_eq!(stats.misses, 5, "round {round}: {stats:?}");
        }
        assert!(store.get_range(&path, 400_000..400_001).await.is_err());
        assert!(cache.stats().hit_rate().unwrap() > 0.7, "{:?}", cache.stats());
        // Deleted below, it is still good: nothing else ever has this name.
        inner.delete(&path).await.unwrap();
        assert_eq!(store.get_range(&path, 0..10).await.unwrap(), bytes.slice(0..10));
    }

    #[tokio::test]
    async fn files_of_others_pass_by() {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let cache = Cache::new(small(0), None, clock::system());
        let store = cache.over("x", Arc::clone(&inner));
        let path = Path::from("t/part-0.parquet");
        for round in ["one", "two"] {
            inner.put(&path, round.into()).await.unwrap();
            assert_eq!(store.get_range(&path, 0..3).await.unwrap(), round);
            assert_eq!(store.get_ranges(&path, &[0..3, 1..2]).await.unwrap()[0], Bytes::from(round));
        }
        assert_eq!(cache.stats(), CacheStats::default());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_disk_holds_what_memory_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (path, bytes) = (name(), data(8 << 20));
        inner.put(&path, bytes.clone().into()).await.unwrap();
        let cache = Cache::new(small(256 << 20), Some(folder.path().join("cache")), clock::system());
        let store = cache.over("x", Arc::clone(&inner));
        let step = 512 << 10;
        for start in (0..8 << 20).step_by(step) {
            store.get_range(&path, start as u64..(start + step) as u64).await.unwrap();
            cache.kept().await.storage().wait().await;
        }
        assert_eq!((cache.stats().hits, cache.stats().misses), (0, 128));
        for start in (0..8 << 20).step_by(step) {
            let got = store.get_range(&path, start as u64..(start + step) as u64).await.unwrap();
            assert_eq!(got, bytes.slice(start..start + step));
        }
        let stats = cache.stats();
        // 8 MiB are far more than the memory of the cache; a few may be lost to a queue that was full.
        assert!(stats.hits >= 100, "{stats:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_disk_that_cannot_be_used_is_no_error_of_reads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (path, bytes) = (name(), data(100_000));
        inner.put(&path, bytes.clone().into()).await.unwrap();
        let config = config::Cache { memory: ByteSize::mib(16), ..small(64 << 20) };
        let cache = Cache::new(config, Some(file.join("cache")), clock::system());
        let store = cache.over("x", inner);
        for _ in 0..2 {
            assert_eq!(store.get_range(&path, 0..100_000).await.unwrap(), bytes);
        }
        let stats = cache.stats();
        assert_eq!((stats.failures, stats.misses, stats.hits), (1, 2, 2));
    }
}
