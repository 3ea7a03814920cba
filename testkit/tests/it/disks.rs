//! Workers whose disks are full: statements go on where there is room, or fail with an error that names the worker and the
//! folder; nothing stays behind, and with room everything works again.

use std::path::Path;

use skep_common::{Error, Kind};
use skep_testkit::client::Client;
use skep_testkit::process::Cluster;
use skep_testkit::workers::{DEADLINE, until};

const WORKERS: usize = 3;

/// Wide enough that each stage writes more than a buffer.
const MAKE: &str = "CREATE TABLE t AS SELECT value AS n, md5(CAST(value AS VARCHAR)) AS s FROM generate_series(1, 60000) AS s(value)";
const ASK: &str = "SELECT count(*), sum(c), min(s), max(s) FROM (SELECT s, count(*) AS c FROM t GROUP BY s)";
const WRITE: &str = "CREATE TABLE w AS SELECT s, count(*) AS c FROM t GROUP BY s";
const WRITTEN: &str = "SELECT count(*), sum(c), min(s), max(s) FROM w";

async fn started(folder: &Path, keys: &str) -> (Cluster, Client) {
    let cluster = Cluster::start_linked_with(folder, WORKERS, keys);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    client.update(MAKE).await.unwrap();
    for first in [100_001, 200_001] {
        let more = format!(
            "INSERT INTO t SELECT value, md5(CAST(value AS VARCHAR)) FROM generate_series({first}, {first} + 59999) AS s(value)"
        );
        client.update(&more).await.unwrap();
    }
    (cluster, client)
}

fn fill(cluster: &Cluster, full: bool) {
    for worker in 0..WORKERS {
        cluster.fill_disk(worker, full);
    }
}

/// How the statement ends; never later than tests wait.
async fn run(client: &mut Client, lane: &str, sql: &str) -> Result<Vec<Vec<String>>, Error> {
    client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, async {
        if sql == WRITE { client.update(sql).await.map(|_| Vec::new()) } else { client.rows(sql).await }
    });
    ended.await.unwrap_or_else(|_| panic!("{lane}, {sql}: it does not end"))
}

/// An error of a full disk, and which.
fn is_full(error: &Error, folder: &Path) {
    let text = error.report();
    assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
    assert!(text.contains("worker '"), "no worker is named: {text}");
    assert!(text.contains(&format!("'{}/worker-", folder.display())), "no folder is named: {text}");
    assert!(error.hint_text().is_some(), "{error:?}");
}

fn outputs(cluster: &Cluster) -> usize {
    let of =
        |worker| std::fs::read_dir(cluster.worker_folder(worker).join("durable")).map_or(0, Iterator::count);
    (0..WORKERS).map(of).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_statements_go_on_where_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut client) = started(folder.path(), "").await;
    let right = run(&mut client, "local", ASK).await.unwrap();
    cluster.fill_disk(1, true);
    for round in 0..3 {
        let got = run(&mut client, "durable", ASK).await;
        assert_eq!(got.unwrap_or_else(|e| panic!("{round}: {}", e.report())), right);
    }
    run(&mut client, "durable", WRITE).await.unwrap_or_else(|e| panic!("{}", e.report()));
    assert_eq!(run(&mut client, "local", WRITTEN).await.unwrap(), right);
    cluster.fill_disk(1, false);
    until("outputs are deleted", || outputs(&cluster) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_are_all_full_fail_the_statement_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut client) = started(folder.path(), "").await;
    let right = run(&mut client, "local", ASK).await.unwrap();
    fill(&cluster, true);
    is_full(&run(&mut client, "durable", ASK).await.unwrap_err(), folder.path());
    let error = run(&mut client, "durable", WRITE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
    let error = run(&mut client, "pipelined", WRITE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
    // What keeps nothing on disks goes on.
    assert_eq!(run(&mut client, "pipelined", ASK).await.unwrap(), right);
    until("outputs are deleted", || outputs(&cluster) == 0).await;
    fill(&cluster, false);
    assert_eq!(run(&mut client, "durable", ASK).await.unwrap(), right);
    run(&mut client, "durable", WRITE).await.unwrap();
    assert_eq!(run(&mut client, "local", WRITTEN).await.unwrap(), right);
    until("outputs are deleted", || outputs(&cluster) == 0).await;
}

/// Rows that do not fit in memory and not on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_spill_without_room_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut client) = started(folder.path(), "memory = \"36MiB\"").await;
    // Each sort sets ten megabytes aside: one in a worker, which holds a batch of each of its files when it merges.
    for set in ["SET skep.partitions = 1", "SET skep.batch_size = 512"] {
        client.update(set).await.unwrap();
    }
    let ask = "SELECT max(r), count(*) FROM (SELECT row_number() OVER (ORDER BY repeat(s, 20)) AS r FROM t)";
    let right = run(&mut client, "local", ask).await.unwrap();
    assert_eq!(run(&mut client, "pipelined", ask).await.unwrap(), right, "with room it spills");
    fill(&cluster, true);
    is_full(&run(&mut client, "pipelined", ask).await.unwrap_err(), folder.path());
    fill(&cluster, false);
    assert_eq!(run(&mut client, "pipelined", ask).await.unwrap(), right);
    let spills = |worker| {
        let folder = cluster.worker_folder(worker).join("spill");
        let open = std::fs::read_dir(folder).into_iter().flatten().flatten();
        open.map(|entry| std::fs::read_dir(entry.path()).map_or(1, Iterator::count)).sum::<usize>()
    };
    until("spill files are deleted", || (0..WORKERS).map(spills).sum::<usize>() == 0).await;
}
