//! Losing nodes, disks and bytes changes where data is read from and written to, never what it is.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use skep_common::{Kind, NodeId};
use skep_store::NamespaceClient;
use skep_store::remote::FileMap;
use skep_store::skep::skep_error;

use crate::cluster::{Cluster, Fault, bytes, config, flip, until};

const LENGTH: usize = 700_000;

async fn read(store: &impl ObjectStore, path: &Path) -> object_store::Result<Bytes> {
    store.get(path).await?.bytes().await
}

async fn map(cluster: &Cluster, path: &Path) -> FileMap {
    cluster.namespace.lookup(&[path.to_string()]).await.unwrap().remove(0).unwrap()
}

#[tokio::test]
async fn a_flipped_bit_is_read_around_and_reported() {
    let cluster = Cluster::start(3).await;
    let (path, data) = (Path::from("x"), bytes(LENGTH));
    cluster.store(None).put(&path, data.clone().into()).await.unwrap();
    for (_, file) in cluster.blocks(0) {
        flip(&file, 5000);
    }
    let store = cluster.store(Some(0));
    assert_eq!(read(&store, &path).await.unwrap(), data);
    until("the replica is reported", async || map(&cluster, &path).await.blocks[0].lost == [cluster.node(0)])
        .await;
    // Chunks that are whole are still read from the own disk.
    assert_eq!(store.get_range(&path, 600_000..600_010).await.unwrap(), data.slice(600_000..600_010));
}

#[tokio::test]
async fn a_missing_file_is_read_around_and_reported() {
    let cluster = Cluster::start(3).await;
    let (path, data) = (Path::from("x"), bytes(1000));
    cluster.store(None).put(&path, data.clone().into()).await.unwrap();
    std::fs::remove_file(&cluster.blocks(2)[0].1).unwrap();
    let store = cluster.store(Some(2));
    assert_eq!(store.get_ranges(&path, &[10..20, 900..1000]).await.unwrap()[1], data.slice(900..));
    until("the replica is reported", async || map(&cluster, &path).await.blocks[0].lost.len() == 1).await;
}

#[tokio::test]
async fn a_node_that_fails_in_the_middle_of_a_read_goes_unnoticed() {
    for fault in [Fault::BreaksAfter(100_000), Fault::Hangs, Fault::Down] {
        let cluster = Cluster::start(3).await;
        let (path, data) = (Path::from("x"), bytes(LENGTH));
        cluster.store(None).put(&path, data.clone().into()).await.unwrap();
        for i in [0, 1] {
            cluster.network.set(&cluster.node(i), Some(fault));
        }
        assert_eq!(read(&cluster.store(None), &path).await.unwrap(), data, "{fault:?}");
    }
}

#[tokio::test]
async fn a_node_that_fails_in_the_middle_of_a_write_is_dropped() {
    for fault in [Fault::BreaksAfter(100_000), Fault::Hangs, Fault::Down] {
        for failing in 0..3 {
            for own in [None, Some(0)] {
                let cluster = Cluster::start(3).await;
                let (path, data) = (Path::from("x"), bytes(300_000));
                let store = cluster.store(own);
                cluster.network.set(&cluster.node(failing), Some(fault));
                store.put(&path, data.clone().into()).await.unwrap();
                cluster.network.set(&cluster.node(failing), None);
                let what = format!("{fault:?} on {failing}, writer {own:?}");
                assert_eq!(read(&store, &path).await.unwrap(), data, "{what}");
                for block in map(&cluster, &path).await.blocks {
                    assert!(block.replicas.len() >= 2, "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_node_that_dies_after_some_parts_is_dropped() {
    let cluster = Cluster::start(4).await;
    let (path, data) = (Path::from("x"), bytes(200_000));
    let store = cluster.store(None);
    let mut upload = store.put_multipart(&path).await.unwrap();
    upload.put_part(PutPayload::from(data.slice(..50_000))).await.unwrap();
    for i in [1, 2] {
        cluster.kill(i);
    }
    upload.put_part(PutPayload::from(data.slice(50_000..))).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(read(&store, &path).await.unwrap(), data);
}

#[tokio::test]
async fn a_write_without_enough_nodes_fails_and_leaves_nothing() {
    let cluster = Cluster::start(3).await;
    let (store, path) = (cluster.store(Some(0)), Path::from("x"));
    for i in [1, 2] {
        cluster.network.set(&cluster.node(i), Some(Fault::Down));
    }
    let error = store.put(&path, bytes(1000).into()).await.unwrap_err();
    let error = skep_error(&error).unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.report().contains("1 of 2 required"), "{error:?}");
    assert!(store.head(&path).await.is_err());
    for i in [1, 2] {
        cluster.network.set(&cluster.node(i), None);
    }
    cluster.keeper().round().await.unwrap();
    assert_eq!(cluster.blocks(0), []);
}

#[tokio::test]
async fn when_all_replicas_are_gone_the_error_names_file_and_block() {
    let cluster = Cluster::start(3).await;
    let (path, store) = (Path::from("folder/x"), cluster.store(Some(0)));
    store.put(&path, bytes(1000).into()).await.unwrap();
    let (block, _) = cluster.blocks(0)[0];
    for i in 0..3 {
        std::fs::remove_file(&cluster.blocks(i)[0].1).unwrap();
    }
    let error = read(&store, &path).await.unwrap_err();
    let error = skep_error(&error).unwrap();
    assert_eq!(error.kind(), Kind::Corrupt);
    let text = error.report();
    assert!(text.contains("folder/x") && text.contains(&block.to_string()), "{text}");

    let cluster = Cluster::start(3).await;
    let store = cluster.store(None);
    store.put(&path, bytes(1000).into()).await.unwrap();
    (0..3).for_each(|i| cluster.kill(i));
    let error = read(&cluster.store(None), &path).await.unwrap_err();
    assert_eq!(skep_error(&error).unwrap().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_restart_finds_everything_again() {
    let cluster = Cluster::start(3).await;
    let (path, data) = (Path::from("x"), bytes(LENGTH));
    cluster.store(Some(1)).put(&path, data.clone().into()).await.unwrap();
    let mut unfinished = cluster.store(Some(1)).put_multipart(&Path::from("y")).await.unwrap();
    unfinished.put_part(data.clone().into()).await.unwrap();
    drop(unfinished);
    let before = map(&cluster, &path).await;

    let folder = cluster.stop();
    let cluster = reopened(folder).await;
    assert_eq!(map(&cluster, &path).await, before);
    assert_eq!(read(&cluster.store(Some(2)), &path).await.unwrap(), data);
    assert!(cluster.store(None).head(&Path::from("y")).await.is_err());
}

/// The folders are locked until the last task of the old cluster let go of them.
async fn reopened(folder: tempfile::TempDir) -> Cluster {
    for i in 0..3 {
        let path = folder.path().join(format!("n{i}"));
        until("the folder is free", async || skep_store::Disk::open(&path, None, 4096).is_ok()).await;
    }
    Cluster::at(folder, 3, config()).await
}

#[tokio::test]
async fn reads_stay_on_the_own_disk_and_locations_say_where_files_are() {
    let cluster = Cluster::start(4).await;
    let (path, data) = (Path::from("x"), bytes(200_000));
    cluster.store(Some(2)).put(&path, data.clone().into()).await.unwrap();
    let everyone: Vec<NodeId> = (0..4).map(|i| cluster.node(i)).collect();
    let store = cluster.store(Some(2));
    let found = store.locations(&[path.clone(), Path::from("none")]).await.unwrap();
    assert!(found[0].contains(&everyone[2]) && found[0].len() == 3 && found[1].is_empty(), "{found:?}");

    // Nobody else needs to be alive.
    [0, 1, 3].iter().for_each(|i| cluster.network.set(&everyone[*i], Some(Fault::Down)));
    assert_eq!(read(&store, &path).await.unwrap(), data);
    assert_eq!(store.get_range(&path, 5..9).await.unwrap(), data.slice(5..9));
    let counted = store.reader().bytes_read();
    assert_eq!((counted.own, counted.remote), (200_004, 0));
}

#[tokio::test]
async fn a_file_that_is_replaced_under_a_reader_is_never_mixed() {
    let cluster = Cluster::start(3).await;
    let (path, old) = (Path::from("x"), bytes(LENGTH));
    let store = cluster.store(None);
    store.put(&path, old.clone().into()).await.unwrap();
    let mut pieces = store.get(&path).await.unwrap().into_stream();
    let first = pieces.next().await.unwrap().unwrap();
    store.put(&path, Bytes::from(vec![0; LENGTH]).into()).await.unwrap();
    cluster.keeper().round().await.unwrap();
    let mut got = first.to_vec();
    let end = loop {
        match pieces.next().await {
            Some(Ok(piece)) => got.extend_from_slice(&piece),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    assert_eq!(got, old[..got.len()]);
    match end {
        None => assert_eq!(got.len(), LENGTH),
        Some(error) => assert_eq!(skep_error(&error).unwrap().kind(), Kind::Conflict),
    }
}

#[tokio::test]
async fn parts_after_a_failure_fail_and_do_not_wait() {
    let cluster = Cluster::start(3).await;
    let store = cluster.store(None);
    let mut upload = store.put_multipart(&Path::from("x")).await.unwrap();
    upload.put_part(bytes(1000).into()).await.unwrap();
    (0..3).for_each(|i| cluster.kill(i));
    until("the chain is found broken", async || upload.put_part(bytes(300_000).into()).await.is_err()).await;
    let error = upload.put_part(bytes(10).into()).await.unwrap_err();
    assert_eq!(skep_error(&error).unwrap().kind(), Kind::Unavailable);
    assert!(upload.complete().await.is_err());
}

#[tokio::test]
async fn readers_and_writers_wait_for_nodes_that_come_back() {
    let config = skep_store::Config { node_wait: std::time::Duration::from_secs(20), ..config() };
    let mut cluster = Cluster::at(tempfile::tempdir().unwrap(), 3, config).await;
    let (path, data) = (Path::from("x"), bytes(LENGTH));
    let store = cluster.store(None);
    store.put(&path, data.clone().into()).await.unwrap();
    (0..3).for_each(|i| cluster.kill(i));
    let waiting = [store.clone(), store.clone()].map(|store| {
        let path = path.clone();
        async move { read(&store, &path).await.unwrap() }
    });
    let writing = async {
        let new = Path::from("y");
        store.put(&new, "late".into()).await.unwrap();
    };
    let reviving = async {
        // They are asked for and not there before they come back.
        tokio::task::yield_now().await;
        for i in 0..3 {
            let node = cluster.node(i);
            cluster.network.set(&node, None);
            cluster.revive(i).await;
        }
    };
    let (got, (), ()) = futures::join!(futures::future::join_all(waiting), writing, reviving);
    assert!(got.iter().all(|bytes| *bytes == data));
}

#[tokio::test]
async fn a_node_that_was_not_heard_of_is_still_read() {
    let cluster = Cluster::start(3).await;
    let (path, data) = (Path::from("x"), bytes(LENGTH));
    cluster.store(None).put(&path, data.clone().into()).await.unwrap();
    map(&cluster, &path).await;
    // The coordinator counts them dead, and they are not.
    for i in 0..3 {
        cluster.kill(i);
        cluster.network.set(&cluster.node(i), None);
    }
    assert_eq!(map(&cluster, &path).await.blocks[0].replicas, []);
    assert_eq!(read(&cluster.store(None), &path).await.unwrap(), data);
    assert_eq!(read(&cluster.store(Some(1)), &path).await.unwrap(), data);
}

#[tokio::test]
async fn a_dropped_upload_leaves_nothing() {
    let cluster = Cluster::start(3).await;
    let mut upload = cluster.store(None).put_multipart(&Path::from("x")).await.unwrap();
    upload.put_part(bytes(300_000).into()).await.unwrap();
    drop(upload);
    let mut keeper = cluster.keeper();
    until("its blocks are collected", async || {
        keeper.round().await.unwrap();
        (0..3).all(|i| cluster.blocks(i).is_empty())
    })
    .await;
}

#[tokio::test]
async fn an_exclusive_upload_loses_to_a_file_that_appeared() {
    let cluster = Cluster::start(1).await;
    let (store, path) = (Arc::new(cluster.store(None)), Path::from("x"));
    let mut options = object_store::PutMultipartOptions::default();
    options.extensions.insert(skep_store::skep::CreateExclusively);
    let mut upload = store.put_multipart_opts(&path, options).await.unwrap();
    upload.put_part("late".into()).await.unwrap();
    store.put(&path, "early".into()).await.unwrap();
    assert!(matches!(upload.complete().await, Err(object_store::Error::AlreadyExists { .. })));
    assert_eq!(read(&*store, &path).await.unwrap(), &b"early"[..]);
}

#[tokio::test]
async fn a_slow_replica_is_raced() {
    use std::time::Duration;
    let config = skep_store::Config {
        read_timeout: Duration::from_secs(300),
        hedge_delay: Duration::from_millis(20),
        ..config()
    };
    let cluster = Cluster::at(tempfile::tempdir().unwrap(), 3, config).await;
    let (path, data) = (Path::from("x"), bytes(LENGTH));
    cluster.store(None).put(&path, data.clone().into()).await.unwrap();
    for i in [0, 1] {
        cluster.network.set(&cluster.node(i), Some(Fault::Hangs));
    }
    let store = cluster.store(None);
    let got = tokio::time::timeout(Duration::from_secs(20), read(&store, &path)).await;
    assert_eq!(got.expect("it waits for a silent node").unwrap(), data);
    let hedged = store.reader().hedged();
    // Who was slow is asked last from then on.
    let ranges = store.get_ranges(&path, &[0..10, 300_000..300_010, 600_000..600_010]).await.unwrap();
    assert_eq!(ranges[2], data.slice(600_000..600_010));
    assert_eq!(store.reader().hedged(), hedged);
    // In the middle of a read too.
    (0..3).for_each(|i| cluster.network.set(&cluster.node(i), None));
    let store = cluster.store(None);
    let mut pieces = store.get(&path).await.unwrap().into_stream();
    let mut got = pieces.next().await.unwrap().unwrap().to_vec();
    while let Some(piece) = pieces.next().await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(got, data);
}
