//! Replicas come back to their number, and disks are rid of what nobody needs.

use object_store::ObjectStoreExt;
use std::time::Duration;

use object_store::path::Path;
use skep_store::NamespaceClient;

use crate::cluster::{Cluster, Fault, bytes, config, flip, until};

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
