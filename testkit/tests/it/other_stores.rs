//! Tables on S3 and HDFS, through the whole program: every lane reads and writes them, and they are cleaned up.
//!
//! The names of these tests say which service they need; `cargo xtask services` has them.

use std::path::Path;
use std::time::Duration;

use skep_common::{Kind, clock, task};
use skep_testkit::benchmark::{LANES, Options};
use skep_testkit::client::Client;
use skep_testkit::hdfs::Hdfs;
use skep_testkit::process::Cluster;
use skep_testkit::s3::{S3, careless, settings};
use skep_testkit::skip;
use skep_testkit::tpch::{QUERIES, TPCH};

/// What every test of a store does with it.
struct Place {
    url: String,
    settings: String,
}

fn bucket(service: &S3, name: &str) -> Place {
    service.create_bucket(name);
    Place { url: format!("s3://{name}/lake/"), settings: service.settings() }
}

fn start(folder: &Path, workers: usize, place: &Place) -> Cluster {
    Cluster::start_at(folder, workers, &place.url, &place.settings)
        .unwrap_or_else(|output| panic!("the coordinator did not start: {output:?}"))
}

async fn one(client: &mut Client, sql: &str) -> String {
    let rows = client.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", e.report()));
    rows.iter().map(|row| row.join(",")).collect::<Vec<_>>().join(";")
}

/// A table's life in every lane, with workers that know of the store by its URL alone.
async fn tables(place: &Place) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 2, place);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    for lane in LANES {
        client.update(&format!("SET skep.execution = '{lane}'")).await.unwrap();
        let table = format!("t_{lane}");
        let rows = "SELECT value AS n, value % 10 AS k, repeat('x', 100) || value AS s FROM range(100000)";
        client.update(&format!("CREATE TABLE {table} (n BIGINT, k BIGINT, s VARCHAR)")).await.unwrap();
        assert_eq!(client.update(&format!("INSERT INTO {table} {rows}")).await.unwrap(), 100_000);
        let sums = format!("SELECT count(*), sum(n), count(DISTINCT s) FROM {table}");
        assert_eq!(one(&mut client, &sums).await, "100000,4999950000,100000", "{lane}");
        client.update(&format!("DELETE FROM {table} WHERE k < 5")).await.unwrap();
        client.update(&format!("UPDATE {table} SET n = 0 WHERE k = 5")).await.unwrap();
        let sums = format!("SELECT k, count(*), sum(n) > 0 FROM {table} GROUP BY k ORDER BY k LIMIT 2");
        assert_eq!(one(&mut client, &sums).await, "5,10000,false;6,10000,true", "{lane}");
    }
    // The same files, found by their URL.
    let files = format!("{}main/t_local/*.parquet", place.url);
    client.update(&format!("CREATE EXTERNAL TABLE seen STORED AS parquet LOCATION '{files}'")).await.unwrap();
    assert_ne!(one(&mut client, "SELECT count(*) FROM seen").await, "0");
    client.update(&format!("COPY (SELECT 7 AS x) TO '{}out/x.csv'", place.url)).await.unwrap();
    assert_eq!(one(&mut client, &format!("SELECT x FROM '{}out/x.csv'", place.url)).await, "7");

    cluster.restart_coordinator();
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    assert_eq!(one(&mut client, "SELECT count(*) FROM t_durable").await, "50000");
    for lane in LANES {
        client.update(&format!("DROP TABLE t_{lane}")).await.unwrap();
    }
    client.update("EXPIRE SNAPSHOTS OLDER THAN now() RETAIN LAST 1").await.unwrap();
    assert!(client.update("VACUUM RETAIN 0 HOURS").await.unwrap() > 0);
    let left = client.rows(&format!("SELECT count(*) FROM '{files}'")).await.unwrap_err();
    assert_eq!(left.kind(), Kind::NotFound, "{}", left.report());
}

/// Tables at the place, beside others in the blocks of the cluster: LOCATION chooses for each.
async fn located(place: &Place) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with_settings(folder.path(), 2, &place.settings);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    client
        .update("CREATE TABLE names AS SELECT value AS k, 'k' || value AS name FROM range(10)")
        .await
        .unwrap();
    for lane in LANES {
        client.update(&format!("SET skep.execution = '{lane}'")).await.unwrap();
        let (table, at) = (format!("far_{lane}"), format!("{}far/{lane}", place.url));
        let rows = "SELECT value AS n, value % 10 AS k FROM range(100000)";
        client.update(&format!("CREATE TABLE {table} LOCATION '{at}' AS {rows}")).await.unwrap();
        client.update(&format!("INSERT INTO {table} VALUES (-1, 3)")).await.unwrap();
        client
            .update(&format!(
                "MERGE INTO {table} t USING names s ON t.k = s.k AND s.name = 'k4' WHEN MATCHED THEN DELETE"
            ))
            .await
            .unwrap();
        let joined = format!(
            "SELECT name, count(*), min(n) FROM {table} JOIN names USING (k) GROUP BY name ORDER BY name LIMIT 2 OFFSET 3"
        );
        assert_eq!(one(&mut client, &joined).await, "k3,10001,-1;k5,10000,5", "{lane}");
        let seen = format!("SELECT count(*) > 0 FROM '{at}/*.parquet'");
        assert_eq!(one(&mut client, &seen).await, "true", "{lane}");
        let again = format!("SELECT sum(n) FROM {table}");
        assert_eq!(one(&mut client, &again).await, one(&mut client, &again).await);
        client.update(&format!("DROP TABLE {table}")).await.unwrap();
    }
    // What a worker's cache did is told with its heartbeat.
    let found =
        "SELECT count(*) FROM system.caches WHERE node <> 'coordinator' AND hits > 0 AND hit_rate > 0";
    until("a worker's cache was used", async || one(&mut client, found).await != "0").await;
    client.update("EXPIRE SNAPSHOTS OLDER THAN now() RETAIN LAST 1").await.unwrap();
    assert!(client.update("VACUUM RETAIN 0 HOURS").await.unwrap() > 0);
    let left = client.rows(&format!("SELECT count(*) FROM '{}far/*/*.parquet'", place.url)).await;
    assert_eq!(left.unwrap_err().kind(), Kind::NotFound);
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let clock = clock::system();
    let start = clock.instant();
    while !done().await {
        assert!(clock.instant() - start < Duration::from_secs(30), "it never came to be that {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The disks of the caches are full: reads go on, and nobody hears of it.
#[tokio::test]
async fn s3_moto_cache_disks_fill_up() {
    let Some(service) = S3::moto() else {
        return skip("other_stores::s3_moto_cache_disks_fill_up", "moto");
    };
    let place = bucket(&service, "full");
    let folder = tempfile::tempdir().unwrap();
    // So little memory that most of what is kept must go to the disk.
    let settings = format!("{}\n[store.cache]\nmemory = \"1MiB\"\n", place.settings);
    let cluster = Cluster::start_linked_with_settings(folder.path(), 2, &settings);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    client.update("SET skep.execution = 'pipelined'").await.unwrap();
    let rows = "SELECT value AS n, repeat(value::VARCHAR, 20) AS s FROM range(200000)";
    client.update(&format!("CREATE TABLE far LOCATION '{}t' AS {rows}", place.url)).await.unwrap();
    let sums = "SELECT count(*), sum(n), max(s) > '9', sum(length(s)) FROM far";
    let expected = one(&mut client, sums).await;
    for full in [false, true, false] {
        (0..2).for_each(|worker| cluster.fill_disk(worker, full));
        for _ in 0..3 {
            assert_eq!(one(&mut client, sums).await, expected, "full: {full}");
        }
    }
    let reads = "SELECT count(*) FROM system.caches WHERE node <> 'coordinator' AND hits + misses > 0";
    until("both caches were asked", async || one(&mut client, reads).await == "2").await;
}

async fn tpch(place: &Place) {
    let folder = tempfile::tempdir().unwrap();
    let at = Some((place.url.as_str(), place.settings.as_str()));
    let options = Options { scale: 0.1, repeat: 1, lanes: &LANES, only: None, place: at };
    let report = TPCH.run(folder.path(), options, |_| ()).await.unwrap();
    println!("{}: {}", place.url, report.text());
    assert_eq!(report.timings.len(), QUERIES);
    assert!(report.differences.is_empty(), "{}", report.text());
}

#[tokio::test]
async fn s3_moto_tables() {
    let Some(service) = S3::moto() else { return skip("other_stores::s3_moto_tables", "moto") };
    tables(&bucket(&service, "tables")).await;
    located(&bucket(&service, "located")).await;
}

#[tokio::test]
async fn s3_moto_tpch() {
    let Some(service) = S3::moto() else { return skip("other_stores::s3_moto_tpch", "moto") };
    tpch(&bucket(&service, "tpch")).await;
}

#[tokio::test]
async fn s3_ceph_tables_and_tpch() {
    let Some(service) = S3::ceph() else { return skip("other_stores::s3_ceph_tables_and_tpch", "Ceph") };
    tables(&bucket(&service, "tables")).await;
    located(&bucket(&service, "located")).await;
    tpch(&bucket(&service, "tpch")).await;
}

#[tokio::test]
async fn hdfs_tables_and_tpch() {
    let Some(service) = Hdfs::start() else { return skip("other_stores::hdfs_tables_and_tpch", "Hadoop") };
    let place =
        |folder: &str| Place { url: format!("{}/{folder}/", service.url()), settings: service.settings() };
    tables(&place("tables")).await;
    located(&place("located")).await;
    tpch(&place("tpch")).await;
}

/// A coordinator does not start on a store that it must not use, and says why and what to do.
#[tokio::test]
async fn s3_moto_stores_that_cannot_be_used_are_refused() {
    let name = "other_stores::s3_moto_stores_that_cannot_be_used_are_refused";
    let Some(service) = S3::moto() else { return skip(name, "moto") };
    let place = bucket(&service, "lake");
    let folder = tempfile::tempdir().unwrap();
    for (at, (url, settings, said)) in [
        (place.url.as_str(), settings(&careless(&service)), ["cannot hold managed tables", "If-None-Match"]),
        ("s3://missing/", place.settings.clone(), ["bucket 'missing' does not exist", "endpoint"]),
        ("gs://bucket/", place.settings.clone(), ["no store is known for 'gs://bucket'", "s3://BUCKET/"]),
        ("hdfs://nobody/", place.settings.clone(), ["hdfs://nobody", "nameservices"]),
        ("s3://me:geheim@lake/", place.settings.clone(), ["more than a host and a path", "[store.s3]"]),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = Cluster::start_at(&folder.path().join(at.to_string()), 0, url, &settings);
        let output = refused.expect_err("it must not start");
        assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
        for what in said {
            assert!(output.stderr.contains(what), "{url}: {what} in {output:?}");
        }
        assert!(!output.stderr.contains("geheim") && !output.stderr.contains("skepsecret"), "{output:?}");
    }
}

/// The NameNode in charge dies while tables are read and written, and the other one takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hdfs_name_node_dies() {
    let Some(mut service) = Hdfs::start_available() else {
        return skip("other_stores::hdfs_name_node_dies", "Hadoop");
    };
    let place = Place { url: format!("{}/lake/", service.url()), settings: service.settings() };
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(folder.path(), 2, &place);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    client.update("SET skep.execution = 'pipelined'").await.unwrap();
    client.update("CREATE TABLE t AS SELECT value AS n FROM range(50000)").await.unwrap();
    service.kill_name_node(0);
    let mut other = Client::connect(cluster.flight()).await.unwrap();
    let writing = task::spawn("write", async move {
        other.update("INSERT INTO t SELECT value FROM range(50000, 100000)").await
    });
    tokio::task::block_in_place(|| service.activate(1));
    assert_eq!(writing.join().await.unwrap().unwrap(), 50_000);
    assert_eq!(one(&mut client, "SELECT count(*), sum(n) FROM t").await, "100000,4999950000");
    // By the settings of Hadoop, as another program would be led there.
    let conf = format!("\n[store.hdfs]\nconf = {:?}\n", service.conf());
    let place = Place { url: place.url.replace("lake", "second"), settings: conf };
    let second = start(&folder.path().join("second"), 1, &place);
    let mut client = Client::connect(second.flight()).await.unwrap();
    client.update("CREATE TABLE t AS SELECT 1 AS n").await.unwrap();
    assert_eq!(one(&mut client, "SELECT n FROM t").await, "1");
}
