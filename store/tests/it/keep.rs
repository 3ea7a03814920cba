//! Replicas come back to their number, and disks are rid of what nobody needs.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::path::Path;
use skep_common::{ByteSize, Kind, clock};
use skep_store::keep::Status;
use skep_store::namespace::{Health, NodeReport};
use skep_store::{Config, NamespaceClient, Scrubber};

use crate::cluster::{Cluster, Fault, bytes, config, flip, until};

async fn report(cluster: &Cluster, i: usize) -> NodeReport {
    let (nodes, id) = (cluster.namespace.nodes().await.unwrap(), cluster.node(i));
    nodes.into_iter().find(|node| node.id == id).unwrap()
}

/// Rounds until one does nothing.
async fn settle(cluster: &Cluster) -> usize {
    let (mut keeper, mut copied) = (cluster.keeper(), 0);
    loop {
        let round = keeper.round().await.unwrap();
        assert_eq!(round.failed, 0);
        if round == Default::default() {
            return copied;
        }
        copied += round.copied;
    }
}

async fn good(cluster: &Cluster, path: &Path) -> Vec<usize> {
    let map = cluster.namespace.lookup(&[path.to_string()]).await.unwrap().remove(0).unwrap();
    map.blocks.iter().map(|block| block.replicas.len()).collect()
}

#[tokio::test]
async fn lost_replicas_are_made_again_and_surplus_ones_go() {
    let cluster = Cluster::start(4).await;
    let (path, data) = (Path::from("x"), bytes(700_000));
    cluster.store(Some(0)).put(&path, data.clone().into()).await.unwrap();
    assert_eq!(good(&cluster, &path).await, [3, 3, 3]);
    assert_eq!(cluster.keeper().round().await.unwrap(), Default::default());

    cluster.kill(0);
    assert_eq!(good(&cluster, &path).await, [2, 2, 2]);
    assert_eq!(cluster.keeper().round().await.unwrap().copied, 3);
    assert_eq!(good(&cluster, &path).await, [3, 3, 3]);
    let store = cluster.store(Some(1));
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), data);

    // It comes back with its replicas: one of four is too many.
    let mut cluster = cluster;
    let node = cluster.node(0);
    cluster.network.set(&node, None);
    cluster.revive(0).await;
    assert_eq!(good(&cluster, &path).await, [4, 4, 4]);
    assert_eq!(cluster.keeper().round().await.unwrap().discarded, 3);
    assert_eq!(good(&cluster, &path).await, [3, 3, 3]);
    cluster.keeper().round().await.unwrap();
    let held: usize = (0..4).map(|i| cluster.blocks(i).len()).sum();
    assert_eq!(held, 9);
    cluster.join("n4").await;
    assert_eq!(cluster.keeper().round().await.unwrap(), Default::default());
}

#[tokio::test]
async fn a_corrupt_replica_is_replaced_in_place_when_there_is_no_other_node() {
    let cluster = Cluster::start(3).await;
    let (path, data) = (Path::from("x"), bytes(1000));
    cluster.store(None).put(&path, data.clone().into()).await.unwrap();
    flip(&cluster.blocks(1)[0].1, 3);
    let store = cluster.store(Some(1));
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), data);
    until("the replica is reported", async || good(&cluster, &path).await == [2]).await;
    assert_eq!(cluster.keeper().round().await.unwrap().copied, 1);
    assert_eq!(good(&cluster, &path).await, [3]);
    assert_eq!(cluster.servers[1].disk().read(cluster.blocks(1)[0].0, 0..1000).unwrap(), data);
}

#[tokio::test]
async fn deleted_and_aborted_files_leave_no_blocks() {
    let cluster = Cluster::start(3).await;
    let store = cluster.store(Some(0));
    store.put(&Path::from("x"), bytes(300_000).into()).await.unwrap();
    let mut upload = store.put_multipart(&Path::from("y")).await.unwrap();
    upload.put_part(bytes(600_000).into()).await.unwrap();
    upload.abort().await.unwrap();
    store.delete(&Path::from("x")).await.unwrap();
    // A node that is away is told later.
    cluster.network.set(&cluster.node(2), Some(Fault::Down));
    assert!(cluster.keeper().round().await.unwrap().failed > 0);
    cluster.network.set(&cluster.node(2), None);
    cluster.keeper().round().await.unwrap();
    for i in 0..3 {
        assert_eq!(cluster.blocks(i), [], "node {i}");
    }
}

#[tokio::test]
async fn nodes_that_are_away_for_a_moment_are_waited_for() {
    let config = skep_store::Config { repair_delay: Duration::from_secs(3600), ..config() };
    let mut cluster = Cluster::at(tempfile::tempdir().unwrap(), 4, config).await;
    let path = Path::from("x");
    cluster.store(Some(0)).put(&path, bytes(1000).into()).await.unwrap();
    let mut before = cluster.keeper();
    cluster.kill(0);
    // Also by a coordinator that started when it was away.
    assert_eq!(before.round().await.unwrap(), Default::default());
    assert_eq!(cluster.keeper().round().await.unwrap(), Default::default());
    let node = cluster.node(0);
    cluster.network.set(&node, None);
    cluster.revive(0).await;
    assert_eq!(good(&cluster, &path).await, [3]);
}

#[tokio::test]
async fn a_drained_node_is_not_needed_any_more() {
    let cluster = Cluster::start(4).await;
    let path = Path::from("t/x");
    cluster.store(Some(0)).put(&path, bytes(700_000).into()).await.unwrap();
    let node = cluster.node(0);
    cluster.namespace.drain(&node).await.unwrap();
    let before = report(&cluster, 0).await;
    assert_eq!(
        (before.status, before.drained, before.to_drain),
        (Status::Draining { alive: true }, false, 3)
    );
    assert_eq!((before.blocks, before.used), (3, 700_000));
    let summary = cluster.namespace.replication_report().await.unwrap();
    assert_eq!((summary.files, summary.blocks, summary.bytes, summary.wanted), (1, 3, 700_000, 3));
    assert_eq!((summary.under_replicated, summary.one_left), (3, 0));

    assert_eq!(settle(&cluster).await, 3);
    let after = report(&cluster, 0).await;
    assert_eq!((after.drained, after.to_drain, after.blocks), (true, 0, 3), "what it holds stays");
    // New blocks go elsewhere.
    cluster.store(Some(0)).put(&Path::from("y"), bytes(1000).into()).await.unwrap();
    assert_eq!(report(&cluster, 0).await.blocks, 3);
    // The others still have enough for two replicas, and not for none.
    cluster.namespace.drain(&cluster.node(1)).await.unwrap();
    assert_eq!(cluster.namespace.drain(&cluster.node(2)).await.unwrap_err().kind(), Kind::Invalid);
    cluster.namespace.undrain(&cluster.node(1)).await.unwrap();

    // It is known after a restart.
    let folder = cluster.stop();
    let cluster = Cluster::at(folder, 4, config()).await;
    assert!(report(&cluster, 0).await.drained);
    assert_eq!(cluster.namespace.remove(&node).await.unwrap_err().kind(), Kind::Invalid, "it answers");
    cluster.kill(0);
    cluster.namespace.remove(&node).await.unwrap();
    let known = cluster.namespace.nodes().await.unwrap();
    assert!(known.len() == 3 && known.iter().all(|other| other.id != node));
    assert_eq!(cluster.namespace.drain(&node).await.unwrap_err().kind(), Kind::NotFound);
    let got = cluster.store(None).get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(got, bytes(700_000));
}

#[tokio::test]
async fn a_node_that_stays_has_its_replicas_back() {
    let cluster = Cluster::start(4).await;
    let path = Path::from("x");
    cluster.store(Some(0)).put(&path, bytes(1000).into()).await.unwrap();
    cluster.namespace.drain(&cluster.node(0)).await.unwrap();
    settle(&cluster).await;
    cluster.namespace.undrain(&cluster.node(0)).await.unwrap();
    assert_eq!(good(&cluster, &path).await, [4]);
    assert_eq!(settle(&cluster).await, 0);
    assert_eq!(good(&cluster, &path).await, [3]);
}

#[tokio::test]
async fn a_node_in_maintenance_is_waited_for() {
    let mut cluster = Cluster::start(4).await;
    let path = Path::from("x");
    cluster.store(Some(0)).put(&path, bytes(1000).into()).await.unwrap();
    let (node, now) = (cluster.node(0), clock::system().now());
    let until = now + Duration::from_secs(3600);
    assert_eq!(cluster.namespace.maintenance(&node, Some(now)).await.unwrap_err().kind(), Kind::Invalid);
    cluster.namespace.maintenance(&node, Some(until)).await.unwrap();
    cluster.store(Some(0)).put(&Path::from("y"), bytes(1000).into()).await.unwrap();
    assert_eq!(report(&cluster, 0).await.blocks, 1, "it gets no more");
    cluster.kill(0);
    assert_eq!(settle(&cluster).await, 0);
    let away = report(&cluster, 0).await;
    assert_eq!(away.status, Status::Maintenance);
    assert_eq!(away.maintenance.map(|until| until.timestamp()), Some(until.timestamp()));
    let health = cluster.namespace.fsck("", None, 10).await.unwrap();
    assert!(health.iter().all(|file| file.health == Health::Healthy), "{health:?}");
    cluster.network.set(&node, None);
    cluster.revive(0).await;
    assert_eq!((settle(&cluster).await, good(&cluster, &path).await), (0, vec![3]));
    // Without leave it is made up for.
    cluster.namespace.maintenance(&node, None).await.unwrap();
    cluster.kill(0);
    assert_eq!(settle(&cluster).await, 1);
}

#[tokio::test]
async fn fsck_tells_what_is_wrong_with_which_file() {
    let cluster = Cluster::start(3).await;
    let store = cluster.store(None);
    for name in ["a/fine", "a/short", "b/rotten"] {
        store.put(&Path::from(name), bytes(1000).into()).await.unwrap();
    }
    let blocks = |name: &str| {
        let (namespace, paths) = (cluster.namespace.clone(), [name.to_owned(), "none".to_owned()]);
        async move { namespace.files(&paths).await.unwrap() }
    };
    let short = blocks("a/short").await;
    assert!(short[1].is_none());
    let short = short[0].clone().unwrap().blocks[0].id;
    let rotten = blocks("b/rotten").await[0].clone().unwrap().blocks[0].id;
    let fault = skep_store::remote::Fault::Corrupt;
    cluster.namespace.report_fault(short, &cluster.node(0), fault).await.unwrap();
    for i in 0..3 {
        cluster.namespace.report_fault(rotten, &cluster.node(i), fault).await.unwrap();
    }
    let found = cluster.namespace.fsck("", None, 10).await.unwrap();
    let found: Vec<_> = found.iter().map(|file| (file.meta.path.as_str(), file.health)).collect();
    let expected =
        [("a/fine", Health::Healthy), ("a/short", Health::UnderReplicated), ("b/rotten", Health::Corrupt)];
    assert_eq!(found, expected);
    assert_eq!(cluster.namespace.fsck("a", Some("a/fine"), 10).await.unwrap().len(), 1);
    let summary = cluster.namespace.replication_report().await.unwrap();
    let counts = (summary.blocks, summary.under_replicated, summary.corrupt, summary.corrupt_replicas);
    assert_eq!(counts, (3, 1, 1, 4));
    (0..3).for_each(|i| cluster.kill(i));
    let summary = cluster.namespace.replication_report().await.unwrap();
    assert_eq!((summary.missing, summary.corrupt), (2, 1));
}

#[tokio::test]
async fn scrubbing_finds_damage_that_nobody_reads() {
    let config = Config { scrub_interval: Duration::from_secs(1), ..config() };
    let cluster = Cluster::at(tempfile::tempdir().unwrap(), 4, config).await;
    let (path, data) = (Path::from("x"), bytes(700_000));
    cluster.store(Some(0)).put(&path, data.clone().into()).await.unwrap();
    let (namespace, disk) = (Arc::new(cluster.namespace.clone()), cluster.servers[0].disk().clone());
    let scrubber = Scrubber::new(cluster.servers[0].clone(), namespace, clock::system());
    assert_eq!(scrubber.pass().await.unwrap(), Default::default(), "what was just written is not due");

    let blocks = cluster.blocks(0);
    let (bad, file) = blocks[1].clone();
    flip(&file, 5000);
    let old = std::time::SystemTime::UNIX_EPOCH;
    for (block, _) in &blocks {
        disk.checked(*block, old).unwrap();
    }
    let found = scrubber.pass().await.unwrap();
    assert_eq!((found.good, found.bad), (2, 1), "{found:?}");
    assert_eq!(scrubber.pass().await.unwrap(), Default::default());
    assert_eq!(cluster.namespace.replication_report().await.unwrap().corrupt_replicas, 1);
    // It is made anew elsewhere; what it was like is kept.
    assert_eq!(settle(&cluster).await, 1);
    assert_eq!(good(&cluster, &path).await, [3, 3, 3]);
    assert!(disk.length(bad).is_err());
    let aside = disk.folder().join("quarantine").join(file.file_name().unwrap());
    assert!(aside.is_file());
    // As much as fits.
    for (block, _) in blocks.iter().filter(|(block, _)| *block != bad) {
        disk.quarantine(*block, 300_000).unwrap();
    }
    let kept = std::fs::read_dir(aside.parent().unwrap()).unwrap();
    let bytes: u64 = kept.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 300_000, "{bytes}");
}

#[tokio::test]
async fn a_node_takes_no_more_than_its_capacity() {
    let cluster = Cluster::start(3).await;
    let disk = cluster.servers[0].disk();
    disk.set_capacity(Some(ByteSize::mib(2).bytes()));
    assert_eq!((disk.used(), disk.free().unwrap()), (0, 2 << 20));
    let store = cluster.store(Some(0));
    store.put(&Path::from("x"), bytes(700_000).into()).await.unwrap();
    assert_eq!((disk.used(), disk.free().unwrap()), (700_000, (2 << 20) - 700_000));
    let again = skep_store::Disk::open_beside(disk.folder(), &cluster.node(0)).unwrap();
    assert_eq!(again.inventory().unwrap().blocks.len(), 3);
    store.delete(&Path::from("x")).await.unwrap();
    cluster.keeper().round().await.unwrap();
    assert_eq!(disk.used(), 0);
}
