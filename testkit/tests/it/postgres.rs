//! The catalog on a PostgreSQL server: the same answers, several coordinators, a server that goes away.
//!
//! The names of these tests contain `postgres`; `cargo xtask services` provides the server.

use std::path::Path;

use skep_common::{Kind, clock};
use skep_testkit::client::Client;
use skep_testkit::duckdb::DuckDb;
use skep_testkit::postgres::Postgres;
use skep_testkit::process::{PATIENCE, Server, skep};
use skep_testkit::{rows, skip};

use crate::slt;

fn up(data: &Path, catalog: &str, more: &[&str]) -> Server {
    let mut arguments =
        vec!["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    arguments.extend(more);
    let mut command = skep(&arguments);
    command.env("SKEP_CATALOG", catalog);
    Server::start_command(command).unwrap()
}

#[tokio::test]
async fn postgres_local() {
    let Some(server) = Postgres::start() else { return skip("postgres::postgres_local", "PostgreSQL") };
    slt::run("local", Some(&server.url())).await;
}

#[tokio::test]
async fn postgres_pipelined_on_three_workers() {
    let Some(server) = Postgres::start() else {
        return skip("postgres::postgres_pipelined_on_three_workers", "PostgreSQL");
    };
    slt::run("pipelined", Some(&server.url())).await;
}

async fn numbers(client: &mut Client, sql: &str) -> Vec<i64> {
    let rows = client.rows(sql).await.unwrap();
    rows.iter().flatten().map(|value| value.parse().unwrap_or_default()).collect()
}

/// Says a statement until it does not conflict any more, and counts how often it did.
async fn insist(client: &mut Client, sql: &str) -> usize {
    let mut conflicts = 0;
    loop {
        match client.update(sql).await {
            Ok(_) => return conflicts,
            Err(error) if error.kind() == Kind::Conflict => conflicts += 1,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn postgres_two_coordinators_commit_at_once() {
    let Some(server) = Postgres::start() else {
        return skip("postgres::postgres_two_coordinators_commit_at_once", "PostgreSQL");
    };
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let one = up(&one, &server.url(), &["--store", "file", "--workers", "1"]);
    let two = up(&two, &server.url(), &["--store", "file", "--workers", "1"]);
    let mut client = Client::connect(one.flight()).await.unwrap();
    client.update("CREATE TABLE t (who BIGINT, n BIGINT, v BIGINT)").await.unwrap();
    client.update("CREATE TABLE counter AS SELECT 0 AS n").await.unwrap();

    const EACH: i64 = 12;
    let writers = [&one, &two].into_iter().enumerate().map(|(who, server)| async move {
        let mut client = Client::connect(server.flight()).await.unwrap();
        let mut conflicts = 0;
        for n in 0..EACH {
            conflicts +=
                insist(&mut client, &format!("INSERT INTO t VALUES ({who}, {n}, 1), ({who}, {n}, 2)")).await;
            conflicts += insist(&mut client, "UPDATE counter SET n = n + 1").await;
        }
        conflicts
    });
    futures::future::join_all(writers).await;

    let mut other = Client::connect(two.flight()).await.unwrap();
    for client in [&mut client, &mut other] {
        let seen = numbers(client, "SELECT count(*), count(DISTINCT who * 1000 + n), sum(v) FROM t").await;
        assert_eq!(seen, [4 * EACH, 2 * EACH, 6 * EACH], "every INSERT once and whole");
        assert_eq!(numbers(client, "SELECT n FROM counter").await, [2 * EACH], "no UPDATE was lost");
        let twice = "SELECT count(*) FROM (SELECT snapshot_id FROM system.snapshots GROUP BY snapshot_id HAVING count(*) > 1)";
        assert_eq!(numbers(client, twice).await, [0]);
    }
}

#[tokio::test]
async fn postgres_goes_away_and_every_acknowledged_write_is_there() {
    let Some(mut server) = Postgres::start() else {
        return skip("postgres::postgres_goes_away_and_every_acknowledged_write_is_there", "PostgreSQL");
    };
    let folder = tempfile::tempdir().unwrap();
    let node = up(folder.path(), &server.url(), &["--store", "file", "--workers", "1"]);
    let mut client = Client::connect(node.flight()).await.unwrap();
    client.update("CREATE TABLE t (n BIGINT)").await.unwrap();
    let (url, clock) = (node.flight().to_owned(), clock::system());
    let (sender, mut done) = tokio::sync::mpsc::channel(1);
    let writer = skep_common::task::spawn("writer", async move {
        let mut client = Client::connect(&url).await.unwrap();
        for n in 0.. {
            let said = client.update(&format!("INSERT INTO t VALUES ({n})")).await.map(|_| ());
            if sender.send((n, said)).await.is_err() {
                return;
            }
        }
    });
    let mut acknowledged = Vec::new();
    let mut unsure = Vec::new();
    for _ in 0..3 {
        // The crash comes while the next statement is under way.
        let (n, said) = done.recv().await.unwrap();
        said.unwrap();
        acknowledged.push(n);
        server.crash();
        let error = client.rows("SELECT count(*) FROM t").await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Exhausted), "{error:?}");
        assert!(error.hint_text().is_some(), "{error:?}");
        server.resume();
        let end = clock.instant() + PATIENCE;
        loop {
            assert!(clock.instant() < end, "nothing is written after the server came back");
            match done.recv().await.unwrap() {
                (n, Ok(())) => {
                    acknowledged.push(n);
                    break;
                }
                (n, Err(error)) => {
                    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Exhausted), "{error:?}");
                    unsure.push(n);
                }
            }
        }
    }
    drop(done);
    writer.join().await.unwrap();
    let found = numbers(&mut client, "SELECT n FROM t ORDER BY n").await;
    let lost: Vec<_> = acknowledged.iter().filter(|n| !found.contains(n)).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?} of {found:?}, unsure {unsure:?}");
    let mut once = found.clone();
    once.dedup();
    assert_eq!(once, found, "no row is there twice");
}

#[tokio::test]
async fn postgres_lets_one_coordinator_keep_the_blocks() {
    let Some(server) = Postgres::start() else {
        return skip("postgres::postgres_lets_one_coordinator_keep_the_blocks", "PostgreSQL");
    };
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let first = up(&one, &server.url(), &["--workers", "2"]);
    let mut client = Client::connect(first.flight()).await.unwrap();
    client
        .update("CREATE TABLE t AS SELECT value AS n FROM generate_series(1, 1000) AS s(value)")
        .await
        .unwrap();

    // Another coordinator waits while the first serves, and serves when it has ended.
    let (waiting, address) = {
        let (two, url) = (two.clone(), server.url());
        let waiting = std::thread::spawn(move || up(&two, &url, &["--workers", "1"]));
        (waiting, first.flight().to_owned())
    };
    let mut again = Client::connect(&address).await.unwrap();
    for n in 0..5 {
        again.update(&format!("INSERT INTO t VALUES ({n})")).await.unwrap();
        assert!(!waiting.is_finished(), "two coordinators keep the same blocks");
    }
    first.stop();
    let second = waiting.join().unwrap();
    let mut client = Client::connect(second.flight()).await.unwrap();
    let files =
        numbers(&mut client, "SELECT count(*) FROM information_schema.tables WHERE table_name = 't'").await;
    assert_eq!(files, [1], "the catalog is the same");
    drop(second);

    // The first comes back after its own kill at once: the lease is its own.
    let first = up(&one, &server.url(), &["--workers", "2"]);
    let mut client = Client::connect(first.flight()).await.unwrap();
    assert_eq!(numbers(&mut client, "SELECT count(*) FROM t").await, [1005]);
    first.kill();
    let first = up(&one, &server.url(), &["--workers", "2"]);
    let mut client = Client::connect(first.flight()).await.unwrap();
    assert_eq!(numbers(&mut client, "SELECT count(*) FROM t").await, [1005]);
}

#[tokio::test]
async fn duckdb_and_skep_race_on_postgres() {
    let (Some(server), Some(duckdb)) = (Postgres::start(), DuckDb::find()) else {
        return skip("postgres::duckdb_and_skep_race_on_postgres", "PostgreSQL and DuckDB");
    };
    let folder = tempfile::tempdir().unwrap();
    let node = up(folder.path(), &server.url(), &["--store", "file", "--workers", "1"]);
    let mut client = Client::connect(node.flight()).await.unwrap();
    client.update("CREATE TABLE t (who BIGINT, n BIGINT)").await.unwrap();
    const EACH: i64 = 10;
    let attach = duckdb.attach_postgres(&server.connection_string());
    let theirs = {
        let (duckdb, attach) = (duckdb.clone(), attach.clone());
        std::thread::spawn(move || {
            let inserts: String =
                (0..EACH).map(|n| format!("INSERT INTO skep.main.t VALUES (1, {n});\n")).collect();
            duckdb.run(&format!("{attach}{inserts}")).unwrap();
        })
    };
    for n in 0..EACH {
        insist(&mut client, &format!("INSERT INTO t VALUES (0, {n})")).await;
    }
    theirs.join().unwrap();
    let query = "SELECT who, count(*), count(DISTINCT n), sum(n) FROM skep.main.t GROUP BY who ORDER BY who";
    let ours = client.rows(query).await.unwrap();
    assert_eq!(ours, [["0", "10", "10", "45"], ["1", "10", "10", "45"]]);
    assert_eq!(rows::difference(&ours, &duckdb.run(&format!("{attach}{query};")).unwrap(), 0.0), None);
    let ids = "SELECT count(DISTINCT rowid), min(rowid), max(rowid) FROM skep.main.t";
    assert_eq!(duckdb.run(&format!("{attach}{ids};")).unwrap(), [["20", "0", "19"]]);

    // A DELETE of one against an INSERT of the other: whoever is late says so, and nothing is lost.
    insist(&mut client, "DELETE FROM t WHERE who = 0").await;
    duckdb
        .run(&format!("{attach}UPDATE skep.main.t SET n = n + 100; DELETE FROM skep.main.t WHERE n = 109;"))
        .unwrap();
    let query = "SELECT count(*), min(n), max(n) FROM skep.main.t";
    assert_eq!(duckdb.run(&format!("{attach}{query};")).unwrap(), [["9", "100", "108"]]);
}
