//! Measures the store: `store_bench [--mib N]`. Run it by `cargo xtask bench store`.
//!
//! Four worker processes on this machine. Files of 128 MiB written with one, two and three replicas, read from the disk of the
//! reader's own node and over the network; the same bytes as plain files, and on HDFS with three replicas if `SKEP_HADOOP`
//! names its jars; how long it takes until every block of a killed worker has its replicas again.
//! All of it shares one disk and two cores or so: ratios say something, figures say little.
//!
//! # Not here
//! Scans of tables (`benchmark`).

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
/// How long a repair may take.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let files = match arguments.as_slice() {
        [] => 4,
        [name, value] if name == "--mib" => value.parse::<usize>().unwrap_or(0) * MIB / FILE,
        _ => 0,
    };
    if files == 0 {
        eprintln!("usage: store_bench [--mib N], N at least 128");
        return ExitCode::from(2);
    }
    match measure(files).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn measure(files: usize) -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::internal("no folder for the data").source(e))?;
    println!("{files} files of 128 MiB, {WORKERS} worker processes on this machine, MB/s");
    println!("{:<22} {:>9} {:>9} {:>9}", "", "write", "local", "remote");
    let plain = DurableFiles::new(LocalFileSystem::new_with_prefix(folder.path()).map_err(failed)?);
    let plain: Arc<dyn ObjectStore> = Arc::new(plain);
    let written = write(&plain, files).await?;
    let local = read(&plain, files).await?;
    line("plain files", written, Some(local), None);
    delete(&plain, files).await?;

    for replicas in 1..=3 {
        let settings = format!(
            "{HASTY}replication = {replicas}
min_replicas = {replicas}
"
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
        }
    }
    let Some(hdfs) = Hdfs::start() else {
        println!("HDFS was not there: run 'cargo xtask services stores' once to install it");
        return Ok(());
    };
    let mut config = Config::default();
    config.cache.enabled = false;
    let root = hdfs.url().parse().map_err(|e| Error::internal("a cluster has a URL").source(e))?;
    let store = Stores::with_config(config, None).store(&root)?;
    let (written, remote) = (write(&store, files).await?, read(&store, files).await?);
    line("HDFS, 3 replicas", written, None, Some(remote));
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

/// Kills the worker that holds most, and waits until all that it held is elsewhere.
async fn repair(cluster: &mut Cluster, store: &SkepStore, files: usize) -> Result<()> {
    let paths: Vec<Path> = (0..files).map(path).collect();
    let before = store.locations(&paths).await?;
    let held = |number: usize| {
        let node = cluster.workers[number].address("worker");
        before.iter().filter(|holders| holders.iter().any(|holder| holder.as_str() == node)).count()
    };
    let most = (0..WORKERS).max_by_key(|&number| held(number)).unwrap_or(0);
    let lost = held(most);
    let dead = NodeId::new(cluster.workers[most].address("worker"))?;
    drop(cluster.workers.remove(most));
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
