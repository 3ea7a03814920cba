//! Tables with a location of their own: every statement works on them as on others, and only what may be there is.

use std::path::Path;

use skep_common::Kind;
use skep_testkit::benchmark::LANES;
use skep_testkit::client::Client;
use skep_testkit::duckdb::DuckDb;
use skep_testkit::process::{Cluster, Server};
use skep_testkit::{rows, skip};

fn files(folder: &Path) -> usize {
    let Ok(all) = std::fs::read_dir(folder) else { return 0 };
    all.map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { files(&path) } else { usize::from(path.extension().is_some()) })
        .sum()
}

async fn one(client: &mut Client, sql: &str) -> String {
    let rows = client.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", e.report()));
    rows.iter().map(|row| row.join(",")).collect::<Vec<_>>().join(";")
}

#[tokio::test]
async fn a_table_lives_in_its_own_folder_in_every_lane() {
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    let cluster = Cluster::start_sharing(&folder.path().join("cluster"), 2, &shared);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    for lane in LANES {
        client.update(&format!("SET skep.execution = '{lane}'")).await.unwrap();
        let (place, table) = (shared.join(lane), format!("t_{lane}"));
        let located = format!("LOCATION '{}'", place.display());
        client
            .update(&format!("CREATE TABLE {table} (n BIGINT, k BIGINT) PARTITIONED BY (k) {located}"))
            .await
            .unwrap();
        let source = "SELECT value AS n, value % 4 AS k FROM range(10000)";
        assert_eq!(client.update(&format!("INSERT INTO {table} {source}")).await.unwrap(), 10_000);
        assert!(files(&place) >= 4, "{lane}: {}", files(&place));
        client.update(&format!("DELETE FROM {table} WHERE n < 100")).await.unwrap();
        client.update(&format!("UPDATE {table} SET n = -1 WHERE k = 3")).await.unwrap();
        client.update(&format!("OPTIMIZE {table}")).await.unwrap();
        let sums = format!("SELECT k, count(*), min(n) FROM {table} GROUP BY k ORDER BY k");
        let expected = "0,2475,100;1,2475,101;2,2475,102;3,2475,-1";
        assert_eq!(one(&mut client, &sums).await, expected, "{lane}");
        let sql = one(&mut client, &format!("SHOW CREATE TABLE {table}")).await;
        assert!(sql.contains(&format!("LOCATION '{}/'", place.display())), "{sql}");

        // A transaction that is given up leaves nothing, and its place is free again.
        let other = shared.join(format!("{lane}-copy"));
        client.update("BEGIN").await.unwrap();
        let copy = format!("CREATE TABLE copy LOCATION '{}' AS SELECT * FROM {table}", other.display());
        client.update(&copy).await.unwrap();
        assert_eq!(one(&mut client, "SELECT count(*) FROM copy").await, "9900", "{lane}");
        assert!(files(&other) > 0);
        client.update("ROLLBACK").await.unwrap();
        assert_eq!(files(&other), 0, "{lane}");
        client.update(&copy).await.unwrap();
        client.update(&copy.replace("CREATE", "CREATE OR REPLACE")).await.unwrap();
        assert_eq!(one(&mut client, "SELECT count(*) FROM copy").await, "9900", "{lane}");
        client.update("ALTER TABLE copy RENAME TO moved").await.unwrap();
        client.update("INSERT INTO moved VALUES (1, 1)").await.unwrap();
        client.update("DROP TABLE moved").await.unwrap();
        client.update("EXPIRE SNAPSHOTS OLDER THAN now() RETAIN LAST 1").await.unwrap();
        client.update("VACUUM RETAIN 0 HOURS").await.unwrap();
        assert_eq!(files(&other), 0, "{lane}");
        assert_eq!(one(&mut client, &sums).await, expected, "{lane}");
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_a_tables_own_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    let cluster = Cluster::start_sharing(&folder.path().join("cluster"), 1, &shared);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    let at = |name: &str| shared.join(name).display().to_string();
    client.update(&format!("CREATE TABLE a (n INT) LOCATION '{}/'", at("a"))).await.unwrap();
    client.update("INSERT INTO a VALUES (1)").await.unwrap();
    let foreign = shared.join("foreign");
    std::fs::create_dir_all(&foreign).unwrap();
    let own = std::fs::read_dir(shared.join("a")).unwrap().next().unwrap().unwrap().path();
    let name = own.file_name().unwrap().to_str().unwrap();
    std::fs::copy(&own, foreign.join(name.replacen("skep-0", "skep-1", 1))).unwrap();
    for (place, kind, says) in [
        (at("a"), Kind::AlreadyExists, "table 'main.a' is at"),
        (at("a/b"), Kind::AlreadyExists, "table 'main.a' is at"),
        (at("x*"), Kind::Invalid, "wildcard"),
        (String::new(), Kind::Invalid, "empty"),
        ("/somewhere/else".to_owned(), Kind::Invalid, "not every node sees"),
        ("skep://blocks/main/t".to_owned(), Kind::Invalid, "in the folder of the warehouse"),
        ("gs://bucket/t".to_owned(), Kind::Invalid, "no store is known"),
        (at("foreign"), Kind::Invalid, "files of another warehouse"),
    ] {
        for sql in ["(n INT) LOCATION '{}'", "LOCATION '{}' AS SELECT 1 AS n"] {
            let sql = format!("CREATE TABLE t {}", sql.replace("{}", &place));
            let error = client.update(&sql).await.unwrap_err();
            assert!(error.kind() == kind && error.report().contains(says), "{sql}: {}", error.report());
        }
    }
    assert_eq!(one(&mut client, "SELECT * FROM a").await, "1");
}

#[tokio::test]
async fn duckdb_reads_and_writes_a_table_in_its_own_folder() {
    let Some(duckdb) = DuckDb::find() else {
        return skip("locations::duckdb_reads_and_writes_a_table_in_its_own_folder", "DuckDB");
    };
    let folder = tempfile::tempdir().unwrap();
    let (data, place) = (folder.path().join("data"), folder.path().join("place"));
    let more = ["--store", "file", "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let mut arguments = vec!["up", "--data", data.to_str().unwrap()];
    arguments.extend(more);
    let server = Server::start(&arguments).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    client
        .update(&format!(
            "CREATE TABLE t LOCATION '{}' AS SELECT value AS n FROM range(1000)",
            place.display()
        ))
        .await
        .unwrap();
    let attach = duckdb.attach(&data.join("catalog.sqlite"), false);
    let sums = "SELECT count(*), sum(n) FROM skep.main.t";
    let theirs = duckdb.run(&format!("{attach}{sums};")).unwrap();
    assert_eq!(theirs, [["1000", "499500"]]);
    let before = files(&place);
    duckdb.run(&format!("{attach}INSERT INTO skep.main.t VALUES (-1), (-2);")).unwrap();
    duckdb.run(&format!("{attach}DELETE FROM skep.main.t WHERE n = 7;")).unwrap();
    assert!(files(&place) > before, "DuckDB writes there too");
    let theirs = duckdb.run(&format!("{attach}{sums};")).unwrap();
    assert_eq!(rows::difference(&client.rows(sums).await.unwrap(), &theirs, 0.0), None);
    client.update("UPDATE t SET n = 0 WHERE n < 0").await.unwrap();
    assert_eq!(one(&mut client, sums).await, "1001,499493");
    assert_eq!(duckdb.run(&format!("{attach}{sums};")).unwrap(), [["1001", "499493"]]);
    client.update("DROP TABLE t").await.unwrap();
    client.update("EXPIRE SNAPSHOTS OLDER THAN now() RETAIN LAST 1").await.unwrap();
    client.update("VACUUM RETAIN 0 HOURS").await.unwrap();
    assert_eq!(files(&place), 0, "files of both engines are gone");
}
