//! Measures the store: `store_bench [--mib N] [--scans]`. Run it by `cargo xtask bench store`.
//!
//! Four worker processes on this machine. Files of 128 MiB written with one, two and three replicas, read from the disk of the
//! reader's own node and over the network; the same bytes as plain files, and on HDFS with as many replicas if `SKEP_HADOOP`
//! names its jars. With two replicas: how long it takes until every block of a killed worker has its replicas again, and how full
//! the nodes are before and after one joins. Then SQL: scans of a table in blocks, as a share of the same scans over plain files.
//! All of it shares one disk and two cores or so: ratios say something, figures say little.
//!
//! # Not here
//! Whole queries (`benchmark`).

use std::path::Path as Folder;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use skep_cluster::blocks::{RemoteNamespace, RemotePeers};
use skep_cluster::{ChannelConfig, Secret};
use skep_common::{Error, NodeId, Result, clock};
use skep_store::{BlockServer, Config, Disk, DurableFiles, Peers, SkepStore, Stores, skep};
use skep_testkit::client::Client;
use skep_testkit::hdfs::Hdfs;
use skep_testkit::process::Cluster;

const WORKERS: usize = 4;
const MIB: usize = 1 << 20;
/// Bytes of a file, and of a block.
const FILE: usize = 128 * MIB;
/// Bytes that are given to a store at a time.
const PART: usize = 8 * MIB;
/// Parts on their way.
const AT_ONCE: usize = 4;
/// Nodes are found dead and repaired as soon as settings let them.
const HASTY: &str = "
[cluster.membership]
heartbeat = \"300ms\"
dead_after = \"2s\"

[store]
repair_delay = \"0ms\"
keep_interval = \"200ms\"
delete_grace = \"0ms\"
";
/// How long nothing must have moved for the nodes to be as full as they will be.
const SETTLED: Duration = Duration::from_secs(3);
/// Scans of each table.
const SCANS: usize = 7;
/// How long a repair may take.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut files, mut scans) = (16, false);
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        match argument.as_str() {
            "--mib" => {
                files = left.next().and_then(|value| value.parse::<usize>().ok()).unwrap_or(0) * MIB / FILE;
            }
            "--scans" => scans = true,
            _ => files = 0,
        }
    }
    if files == 0 {
        eprintln!("usage: store_bench [--mib N] [--scans], N at least 128; --scans: of tables alone");
        return ExitCode::from(2);
    }
    match measure(files, scans).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn measure(files: usize, scans: bool) -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::internal("no folder for the data").source(e))?;
    if scans {
        return scan(&folder.path().join("scan"), files).await;
    }
    println!("{files} files of 128 MiB, {WORKERS} worker processes on this machine, MB/s");
    println!("{:<22} {:>9} {:>9} {:>9}", "", "write", "local", "remote");
    let plain = DurableFiles::new(LocalFileSystem::new_with_prefix(folder.path()).map_err(failed)?);
    let plain: Arc<dyn ObjectStore> = Arc::new(plain);
    let written = write(&plain, files).await?;
    let local = read(&plain, files).await?;
    line("plain files", written, Some(local), None);
    delete(&plain, files).await?;

    for replicas in 1..=3 {
        // So small that a node which joins is much emptier than the others.
        let capacity = 2 * files * FILE / MIB;
        let settings = format!(
            "{HASTY}replication = {replicas}\nmin_replicas = {replicas}\ncapacity = \"{capacity}MiB\"\n"
        );
        let at = folder.path().join(format!("rf-{replicas}"));
        let mut cluster = Cluster::start_with_settings(&at, WORKERS, &settings);
        let config = Config { replication: replicas, min_replicas: replicas, ..Config::default() };
        let outside = client(&cluster, &config, None)?;
        let store: Arc<dyn ObjectStore> = Arc::new(outside.clone());
        let written = write(&store, files).await?;
        let remote = read(&store, files).await?;
        let local = read_local(&cluster, &config, &outside, files).await?;
        line(&format!("skep, {replicas} replicas"), written, local, Some(remote));
        if replicas == 2 {
            repair(&mut cluster, &outside, files).await?;
            join(&mut cluster).await?;
        }
        drop(cluster);
        std::fs::remove_dir_all(&at).map_err(|e| Error::internal("cannot clean up").source(e))?;
    }
    scan(&folder.path().join("scan"), files).await?;
    let Some(hdfs) = Hdfs::start() else {
        println!("HDFS was not there: run 'cargo xtask services stores' once to install it");
        return Ok(());
    };
    for replicas in 1..=3 {
        let mut config = Config::default();
        config.cache.enabled = false;
        config.hdfs.options.insert("dfs.replication".to_owned(), replicas.to_string());
        let root = hdfs.url().parse().map_err(|e| Error::internal("a cluster has a URL").source(e))?;
        let store = Stores::with_config(config, None).store(&root)?;
        let (written, remote) = (write(&store, files).await?, read(&store, files).await?);
        line(&format!("HDFS, {replicas} replicas"), written, None, Some(remote));
        delete(&store, files).await?;
    }
    Ok(())
}

fn failed(error: object_store::Error) -> Error {
    Error::unavailable("the store failed").source(error)
}

fn line(name: &str, write: f64, local: Option<f64>, remote: Option<f64>) {
    let shown = |speed: Option<f64>| speed.map_or_else(|| "-".to_owned(), |speed| format!("{speed:.0}"));
    println!("{name:<22} {write:>9.0} {:>9} {:>9}", shown(local), shown(remote));
}

fn path(file: usize) -> Path {
    Path::from(format!("bench/{file}"))
}

fn speed(files: usize, start: Instant) -> f64 {
    let seconds = clock::system().instant().duration_since(start).as_secs_f64();
    (files * FILE) as f64 / 1e6 / seconds
}

async fn write(store: &Arc<dyn ObjectStore>, files: usize) -> Result<f64> {
    // Bytes that nothing can make fewer.
    let mut state = 1_u64;
    let part: Vec<u8> = (0..PART / 8)
        .flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()
        })
        .collect();
    let part = Bytes::from(part);
    let start = clock::system().instant();
    for file in 0..files {
        let upload = store.put_multipart(&path(file)).await.map_err(failed)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
        for _ in 0..FILE / PART {
            writer.wait_for_capacity(AT_ONCE).await.map_err(failed)?;
            writer.put(part.clone());
        }
        writer.finish().await.map_err(failed)?;
    }
    Ok(speed(files, start))
}

async fn read(store: &Arc<dyn ObjectStore>, files: usize) -> Result<f64> {
    let start = clock::system().instant();
    for file in 0..files {
        whole(store.as_ref(), file).await?;
    }
    Ok(speed(files, start))
}

/// Reads a file as scans do: a few large ranges at a time.
async fn whole(store: &dyn ObjectStore, file: usize) -> Result<()> {
    let path = path(file);
    let ranges = (0..FILE as u64).step_by(PART).map(|start| start..start + PART as u64);
    let pieces = ranges.map(|range| store.get_range(&path, range));
    let bytes =
        stream::iter(pieces).buffered(2).try_fold(0, |sum, piece| std::future::ready(Ok(sum + piece.len())));
    match bytes.await.map_err(failed)? {
        FILE => Ok(()),
        bytes => Err(Error::corrupt(format!("a file of {FILE} bytes came back with {bytes}"))),
    }
}

async fn delete(store: &Arc<dyn ObjectStore>, files: usize) -> Result<()> {
    for file in 0..files {
        store.delete(&path(file)).await.map_err(failed)?;
    }
    Ok(())
}

/// A store over the cluster's processes; with the blocks of one worker as if it ran there.
fn client(cluster: &Cluster, config: &Config, own: Option<(&Folder, &NodeId)>) -> Result<SkepStore> {
    let channel = ChannelConfig::default();
    let coordinator = cluster.coordinator.address("listen").parse();
    let coordinator = coordinator.map_err(|e| Error::internal("a coordinator has a URL").source(e))?;
    let peers: Arc<dyn Peers> = Arc::new(RemotePeers::new(Secret::none(), channel.clone(), config.clone()));
    let namespace = RemoteNamespace::new(&coordinator, &Secret::none(), &channel, config.namespace_timeout)?;
    let own = match own {
        Some((folder, node)) => {
            Some(BlockServer::new(Disk::open_beside(folder, node)?, Arc::clone(&peers), config.clone()))
        }
        None => None,
    };
    SkepStore::new(skep::Parts {
        namespace: Arc::new(namespace),
        peers,
        own,
        zone: None,
        config: config.clone(),
        clock: clock::system(),
    })
}

/// Reads each file as the first worker that holds it would.
async fn read_local(
    cluster: &Cluster,
    config: &Config,
    store: &SkepStore,
    files: usize,
) -> Result<Option<f64>> {
    let paths: Vec<Path> = (0..files).map(path).collect();
    let holders = store.locations(&paths).await?;
    let mut beside = Vec::new();
    for number in 0..WORKERS {
        let node = NodeId::new(cluster.workers[number].address("worker"))?;
        let store = client(cluster, config, Some((&cluster.worker_folder(number), &node)))?;
        beside.push((node, store));
    }
    let mut seconds = 0.0;
    for (file, holders) in holders.iter().enumerate() {
        let found = beside.iter().find(|(node, _)| holders.contains(node));
        let Some((_, store)) = found else { return Ok(None) };
        let start = clock::system().instant();
        whole(store, file).await?;
        seconds += clock::system().instant().duration_since(start).as_secs_f64();
    }
    Ok(Some((files * FILE) as f64 / 1e6 / seconds))
}

/// Kills a worker with its disk, and waits until all that it held is elsewhere.
async fn repair(cluster: &mut Cluster, store: &SkepStore, files: usize) -> Result<()> {
    let paths: Vec<Path> = (0..files).map(path).collect();
    let before = store.locations(&paths).await?;
    let Some(last) = cluster.workers.pop() else { return Err(Error::internal("there are workers")) };
    let dead = NodeId::new(last.address("worker"))?;
    let lost = before.iter().filter(|holders| holders.contains(&dead)).count();
    drop(last);
    std::fs::remove_dir_all(cluster.worker_folder(WORKERS - 1))
        .map_err(|e| Error::internal("cannot take a worker's folder away").source(e))?;
    let start = clock::system().instant();
    loop {
        let holders = store.locations(&paths).await?;
        if holders.iter().all(|holders| holders.iter().filter(|holder| **holder != dead).count() >= 2) {
            break;
        }
        let waited = clock::system().instant().duration_since(start);
        if waited > PATIENCE {
            return Err(Error::deadline(format!(
                "the replicas of a lost worker were not made anew in {PATIENCE:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = clock::system().instant().duration_since(start).as_secs_f64();
    println!(
        "a worker with {} MiB of replicas was killed: all were restored after {seconds:.1} s, of which 2 s are for finding it dead",
        lost * FILE / MIB
    );
    Ok(())
}

/// A worker joins the others, and is filled from them. Says how full they are before and after.
async fn join(cluster: &mut Cluster) -> Result<()> {
    let mut client = Client::connect(cluster.flight()).await?;
    let before = used(&mut client).await?;
    cluster.add_worker();
    let start = clock::system().instant();
    // Filled, and nothing under way for a while.
    let (mut after, mut still) = (before.clone(), start);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (now, known) = (clock::system().instant(), used(&mut client).await?);
        let moving = client.rows("SELECT moving + waiting FROM system.replication").await?;
        if known != after || moving != [["0"]] || after.contains(&0) {
            (after, still) = (known, now);
        }
        if now.duration_since(still) > SETTLED {
            break;
        }
        if now.duration_since(start) > PATIENCE {
            return Err(Error::deadline(format!("a worker that joined was not filled in {PATIENCE:?}")));
        }
    }
    let seconds = still.duration_since(start).as_secs_f64();
    let shown =
        |all: &[u64]| all.iter().map(|bytes| (bytes / MIB as u64).to_string()).collect::<Vec<_>>().join(", ");
    println!(
        "a worker joined: {} MiB on the nodes before, {} after {seconds:.1} s",
        shown(&before),
        shown(&after)
    );
    Ok(())
}

/// Bytes of replicas on each live node, the fullest first.
async fn used(client: &mut Client) -> Result<Vec<u64>> {
    let rows =
        client.rows("SELECT used_bytes FROM system.nodes WHERE state = 'live' ORDER BY 1 DESC").await?;
    rows.iter()
        .map(|row| row[0].parse().map_err(|e| Error::internal("system.nodes has no number").source(e)))
        .collect()
}

/// The same scans of the same rows, in blocks and in plain files, in turn.
async fn scan(folder: &Folder, files: usize) -> Result<()> {
    let cluster = Cluster::start_sharing(folder, WORKERS, &folder.join("plain"));
    let mut client = Client::connect(cluster.flight()).await?;
    // About 64 bytes a row that compression leaves alone.
    let rows = files * FILE / 4 / 64;
    client.update("SET skep.execution = 'pipelined'").await?;
    let source = format!(
        "SELECT value AS n, random() AS x, random() AS y, md5(value::VARCHAR) AS s FROM range({rows})"
    );
    client.update(&format!("CREATE TABLE blocks AS {source}")).await?;
    let place = folder.join("plain").join("t");
    let plain = format!("CREATE TABLE plain LOCATION '{}' AS SELECT * FROM blocks", place.display());
    client.update(&plain).await?;
    let bytes = client.rows("SELECT sum(bytes) FROM system.table_health WHERE table_name = 'blocks'").await?;
    println!("a table of {rows} rows, {} bytes; median seconds of {SCANS} scans:", bytes[0][0]);
    println!("{:<22} {:>9} {:>9} {:>9}", "", "blocks", "plain", "ratio");
    for lane in ["local", "pipelined"] {
        client.update(&format!("SET skep.execution = '{lane}'")).await?;
        for (name, columns) in [("one column", "sum(n)"), ("every column", "sum(n), sum(x), sum(y), max(s)")]
        {
            let mut took = [Vec::new(), Vec::new()];
            for _ in 0..SCANS {
                for (table, took) in ["blocks", "plain"].iter().zip(&mut took) {
                    let start = clock::system().instant();
                    client.rows(&format!("SELECT {columns} FROM {table}")).await?;
                    took.push(clock::system().instant().duration_since(start).as_secs_f64());
                }
            }
            let [blocks, plain] = took.map(|mut all| {
                all.sort_by(f64::total_cmp);
                all[SCANS / 2]
            });
            println!("{:<22} {blocks:>9.3} {plain:>9.3} {:>9.2}", format!("{lane}, {name}"), plain / blocks);
        }
    }
    Ok(())
}
