//! The block store with workers as processes that are killed, paused, cut off, filled and damaged while it is read and written:
//! readers see no error, what was acknowledged stays, and the number of replicas comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes_of::content;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use skep_common::task::{self, Task};
use skep_common::{ByteSize, Kind, clock};
use skep_store::keep::Status;
use skep_store::skep::skep_error;
use skep_store::{Config, Disk, SkepStore};
use skep_testkit::blocks::{Blocks, hasty};
use skep_testkit::links::{Cut, Node};
use skep_testkit::slow;

/// Longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

mod bytes_of {
    /// Of a file, by its number: one to three blocks.
    pub(super) fn content(file: usize) -> Vec<u8> {
        let length = 20_000 + file * 7919 % 150_000;
        (0..length).map(|i| (i / 251 + i * 7 + file) as u8).collect()
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) -> Duration {
    let clock = clock::system();
    let start = clock.instant();
    while !done().await {
        assert!(clock.instant() - start < DEADLINE, "it never came to be that {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = clock.instant() - start;
    eprintln!("{what}: {took:.1?}");
    took
}

/// Readers and writers that go on until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    /// Files 0 to this are there.
    written: Arc<AtomicUsize>,
    reads: Arc<AtomicUsize>,
    tasks: Vec<Task<Result<(), String>>>,
    writers: Vec<Task<Vec<usize>>>,
}

fn path(file: usize) -> Path {
    Path::from(format!("load/{file}"))
}

async fn write(store: &SkepStore, file: usize) -> object_store::Result<()> {
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&path(file), content(file).into(), create).await.map(drop)
}

async fn read(store: &SkepStore, file: usize) -> Result<(), String> {
    let got = async { store.get(&path(file)).await?.bytes().await }.await;
    let got =
        got.map_err(|e| format!("file {file}: {}", skep_error(&e).map_or(e.to_string(), |e| e.report())))?;
    if got != content(file) { Err(format!("file {file} has other bytes")) } else { Ok(()) }
}

impl Load {
    /// `files` are there before it begins.
    async fn start(blocks: &Blocks, files: usize, readers: usize, writers: usize) -> Self {
        let store = blocks.store();
        for page in (0..files).collect::<Vec<_>>().chunks(8) {
            let writes = page.iter().map(|file| write(&store, *file));
            join_all(writes).await.into_iter().for_each(|written| written.unwrap());
        }
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(files)));
        let mut load = Self { stop, written, reads: Arc::default(), tasks: Vec::new(), writers: Vec::new() };
        for number in 0..readers {
            let (store, stop, reads) = (blocks.store(), Arc::clone(&load.stop), Arc::clone(&load.reads));
            load.tasks.push(task::spawn("reader", async move {
                let mut file = number * 31;
                while !stop.load(Ordering::Acquire) {
                    file = (file + 17) % files;
                    read(&store, file).await?;
                    reads.fetch_add(1, Ordering::Relaxed);
                    // Load, and not a measure of the machine.
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                Ok(())
            }));
        }
        for _ in 0..writers {
            let (store, stop, written) = (blocks.store(), Arc::clone(&load.stop), Arc::clone(&load.written));
            load.writers.push(task::spawn("writer", async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let file = written.fetch_add(1, Ordering::AcqRel);
                    if write(&store, file).await.is_ok() {
                        acknowledged.push(file);
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                acknowledged
            }));
        }
        load
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// Waits for so many reads more: all of what was done is seen by readers.
    async fn goes_on(&self) {
        let before = self.reads();
        until("readers go on", async || self.reads() > before + 2 * self.tasks.len()).await;
    }

    /// Ends it: no reader had an error. Returns the files whose writes were acknowledged.
    async fn end(self) -> Vec<usize> {
        self.stop.store(true, Ordering::Release);
        for reader in self.tasks {
            reader.join().await.unwrap().unwrap_or_else(|wrong| panic!("a reader had an error: {wrong}"));
        }
        let mut acknowledged = Vec::new();
        for writer in self.writers {
            acknowledged.extend(writer.join().await.unwrap());
        }
        acknowledged
    }
}

async fn all_read(blocks: &Blocks, files: impl IntoIterator<Item = usize>) {
    let store = blocks.store();
    for file in files {
        read(&store, file).await.unwrap_or_else(|wrong| panic!("acknowledged, and lost: {wrong}"));
    }
}

async fn whole(blocks: &Blocks) -> bool {
    let report = blocks.namespace.replication_report().await.unwrap();
    let short = report.under_replicated + report.missing + report.corrupt + report.corrupt_replicas;
    short == 0 && report.activity.copying.is_empty()
}

async fn status(blocks: &Blocks, number: usize) -> Option<Status> {
    let (nodes, name) = (blocks.namespace.nodes().await.unwrap(), blocks.name(number));
    nodes.into_iter().find(|node| node.id == name).map(|node| node.status)
}

fn size(few: usize, many: usize) -> usize {
    if slow() { many } else { few }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_are_lost_with_their_disks_are_not_noticed() {
    let mut blocks = Blocks::start(hasty(), &["x", "y", "z", "x", "y"]).await;
    let files = size(60, 600);
    let load = Load::start(&blocks, files, 50, 10).await;
    // One, then two at a time in different zones: three are left.
    let before = blocks.namespace.replication_report().await.unwrap();
    assert_eq!((before.under_replicated, before.wanted), (0, 3));
    blocks.kill(0);
    std::fs::remove_dir_all(blocks.folder(0)).unwrap();
    load.goes_on().await;
    until("it is counted dead", async || status(&blocks, 0).await == Some(Status::Dead)).await;
    let time = until("every block has its replicas again", async || whole(&blocks).await).await;
    let activity = blocks.namespace.activity();
    eprintln!(
        "{} replicas, {} made anew in {time:?} after it was counted dead",
        activity.copied,
        ByteSize(activity.copied_bytes)
    );
    assert!(activity.copied > 0);

    blocks.add("z").await;
    blocks.kill(1);
    blocks.kill(5);
    for number in [1, 5] {
        std::fs::remove_dir_all(blocks.folder(number)).unwrap();
    }
    load.goes_on().await;
    for number in [1, 5] {
        until("it is counted dead", async || status(&blocks, number).await == Some(Status::Dead)).await;
    }
    until("every block has its replicas again", async || whole(&blocks).await).await;
    load.goes_on().await;
    let acknowledged = load.end().await;
    assert!(acknowledged.len() > 10, "writers went on: {}", acknowledged.len());
    all_read(&blocks, (0..files).chain(acknowledged)).await;
    // What is lost for good is taken off the list.
    let gone = blocks.name(0);
    blocks.namespace.remove(&gone).await.unwrap();
    assert_eq!(status(&blocks, 0).await, None);
}

/// The block files of a worker.
fn block_files(blocks: &Blocks, number: usize) -> Vec<std::path::PathBuf> {
    let shards = std::fs::read_dir(blocks.folder(number).join("blocks")).unwrap();
    let mut files: Vec<_> = shards
        .flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "block"))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn flipped_bits_are_found_and_made_good() {
    let config = Config { scrub_interval: Duration::from_secs(1), ..hasty() };
    let blocks = Blocks::start(config, &["x", "y", "z", "x"]).await;
    let files = size(30, 300);
    let load = Load::start(&blocks, files, 20, 0).await;
    let mut damaged = Vec::new();
    for number in 0..4 {
        // Another bit of other blocks on each, so that no block loses all.
        for file in block_files(&blocks, number).into_iter().skip(number).step_by(size(7, 100)) {
            if damaged
                .iter()
                .any(|(_, other): &(usize, std::path::PathBuf)| other.file_name() == file.file_name())
            {
                continue;
            }
            let mut bytes = std::fs::read(&file).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1 << number;
            std::fs::write(&file, bytes).unwrap();
            damaged.push((number, file));
        }
    }
    assert!(damaged.len() >= 4, "{damaged:?}");
    // Each is put aside where it was, and replaced, there or elsewhere.
    for (number, file) in &damaged {
        let aside = blocks.folder(*number).join("quarantine").join(file.file_name().unwrap());
        until("the damage is found", async || aside.is_file()).await;
    }
    until("every block has its replicas again", async || whole(&blocks).await).await;
    load.goes_on().await;
    load.end().await;
    let sound = async || {
        let files = blocks.namespace.fsck("", None, 1000).await.unwrap();
        let replicas = files.iter().flat_map(|file| &file.blocks).flat_map(|block| {
            block.replicas.iter().map(move |replica| (replica.node.clone(), block.id, block.length))
        });
        for (node, block, length) in replicas {
            let number = (0..4).find(|number| blocks.name(*number) == node).unwrap();
            let disk = Disk::open_beside(&blocks.folder(number), &node).unwrap();
            if disk.read(block, 0..length).is_err() {
                return false;
            }
        }
        true
    };
    until("each replica is what was written", sound).await;
    all_read(&blocks, 0..files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn full_disks_are_written_around_and_all_full_is_an_error() {
    let blocks = Blocks::start(hasty(), &["x", "y", "z", "x"]).await;
    let load = Load::start(&blocks, 10, 5, 2).await;
    blocks.fill_disk(0, true);
    let store = blocks.store();
    for file in 1000..1010 {
        write(&store, file).await.unwrap();
    }
    (1..4).for_each(|number| blocks.fill_disk(number, true));
    let error = write(&store, 2000).await.unwrap_err();
    let error = skep_error(&error).unwrap();
    assert!(matches!(error.kind(), Kind::NoSpace | Kind::Unavailable), "{error:?}");
    assert!(error.report().contains("cannot write"), "{}", error.report());
    assert!(store.head(&path(2000)).await.is_err(), "half a file appeared");
    (0..4).for_each(|number| blocks.fill_disk(number, false));
    write(&store, 2000).await.unwrap();
    until("every block has its replicas again", async || whole(&blocks).await).await;
    let acknowledged = load.end().await;
    all_read(&blocks, (0..10).chain(1000..1010).chain([2000]).chain(acknowledged)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_paused_node_is_raced_and_counts_again_when_it_goes_on() {
    // Silence is found late, and nothing is copied for a while.
    let config = Config {
        read_timeout: Duration::from_secs(30),
        hedge_delay: Duration::from_millis(200),
        repair_delay: Duration::from_secs(120),
        ..hasty()
    };
    let blocks = Blocks::start(config, &["x", "y", "z"]).await;
    let files = 20;
    Load::start(&blocks, files, 0, 0).await.end().await;
    blocks.signal(1, "STOP");
    let (clock, store) = (clock::system(), blocks.store());
    let mut slowest = Duration::ZERO;
    for file in 0..files {
        let start = clock.instant();
        read(&store, file).await.unwrap();
        slowest = slowest.max(clock.instant() - start);
    }
    eprintln!("slowest read beside a paused node: {slowest:?}, {} were hedged", store.reader().hedged());
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    write(&store, 100).await.unwrap();
    until("it is counted away", async || status(&blocks, 1).await == Some(Status::Away)).await;
    blocks.signal(1, "CONT");
    until("it counts again", async || status(&blocks, 1).await == Some(Status::Live)).await;
    until("every block has its replicas", async || whole(&blocks).await).await;
    // At most the file that was written meanwhile was copied to it.
    assert!(blocks.namespace.activity().copied <= 3, "{:?}", blocks.namespace.activity());
    all_read(&blocks, (0..files).chain([100])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_that_do_not_reach_each_other_are_written_around() {
    let blocks = Blocks::start(hasty(), &["x", "y", "z", "x"]).await;
    let load = Load::start(&blocks, 20, 10, 4).await;
    for how in [Cut::Broken, Cut::Silent] {
        blocks.links.cut(Node::Worker(0), Node::Worker(1), how);
        load.goes_on().await;
        let store = blocks.store();
        let base = 1000 + 100 * (how as usize);
        let start: Instant = clock::system().instant();
        for file in base..base + 2 {
            write(&store, file).await.unwrap_or_else(|e| panic!("{how:?}: {e}"));
        }
        eprintln!("{how:?}: 2 writes took {:?}", clock::system().instant() - start);
        blocks.links.heal();
    }
    until("every block has its replicas again", async || whole(&blocks).await).await;
    let acknowledged = load.end().await;
    let written = (1000..1002).chain(1100..1102);
    all_read(&blocks, (0..20).chain(written).chain(acknowledged)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_is_drained_and_one_that_joins_is_filled() {
    let config = Config { capacity: Some(ByteSize::mib(16)), balance_percent: 4, ..hasty() };
    let mut blocks = Blocks::start(config, &["x", "y", "z"]).await;
    let files = 60;
    let load = Load::start(&blocks, files, 5, 0).await;
    blocks.add("x").await;
    // Those in one zone share what the zone holds.
    let fullness = async || -> Vec<f64> {
        let mut nodes = blocks.namespace.nodes().await.unwrap();
        nodes.sort_by(|a, b| a.zone.cmp(&b.zone));
        nodes.iter().map(|node| node.used as f64 / (node.used + node.free).max(1) as f64).collect()
    };
    let before = fullness().await;
    let even = async || {
        let now = fullness().await;
        (now[0] - now[1]).abs() < 0.05 && whole(&blocks).await
    };
    let time = until("the node that joined has its share", even).await;
    eprintln!("fullness before {before:.2?}, after {:.2?}, in {time:?}", fullness().await);

    let node = blocks.name(0);
    blocks.namespace.drain(&node).await.unwrap();
    let drained = async || {
        let nodes = blocks.namespace.nodes().await.unwrap();
        nodes.iter().find(|report| report.id == node).unwrap().drained
    };
    until("it is drained", drained).await;
    blocks.kill(0);
    std::fs::remove_dir_all(blocks.folder(0)).unwrap();
    load.goes_on().await;
    let report = blocks.namespace.replication_report().await.unwrap();
    assert_eq!((report.missing, report.corrupt), (0, 0), "{report:?}");
    load.end().await;
    all_read(&blocks, 0..files).await;
}
