//! EXPIRE SNAPSHOTS and VACUUM: what is on the disk before and after.

use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_testkit::client::Client;
use skep_testkit::duckdb::DuckDb;
use skep_testkit::process::{Server, run};
use skep_testkit::{rows, skip};

fn parquet(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn files_that_nobody_can_read_are_deleted_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let up = ["up", "--data", data, "--store", "file", "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&up).unwrap();
    let sql = |statements: &[&str]| {
        let mut arguments = vec!["sql", "--url", server.flight(), "--format", "csv"];
        for statement in statements {
            arguments.extend(["-c", statement]);
        }
        let output = run(&arguments);
        assert_eq!(output.code, Some(0), "{output:?}");
        (output.stdout, output.stderr)
    };
    sql(&[
        "CREATE TABLE lake.t AS SELECT 1 AS x",
        "CREATE OR REPLACE TABLE lake.t AS SELECT 2 AS x",
        "CREATE TAG kept",
        "CREATE OR REPLACE TABLE lake.t AS SELECT 3 AS x",
        "CREATE OR REPLACE TABLE lake.t AS SELECT 4 AS x",
    ]);
    let files = parquet(folder.path());
    assert_eq!(files.len(), 4, "{files:?}");
    // One that a crash left years ago, one that a statement may be writing, and one of somebody else.
    let beside = files[0].parent().unwrap();
    let old = beside.join("skep-018c2510-6c00-7000-8000-000000000001.parquet");
    let of_today = files[0].file_stem().unwrap().to_str().unwrap();
    let fresh = beside.join(format!("{}0000.parquet", &of_today[..of_today.len() - 4]));
    let theirs = beside.join("of-another-program.parquet");
    for path in [&old, &fresh, &theirs] {
        std::fs::write(path, "x").unwrap();
    }

    let (_, told) = sql(&["VACUUM"]);
    assert!(told.contains("VACUUM 1"), "only the orphan: {told}");
    assert!(!old.is_file() && fresh.is_file() && theirs.is_file());
    assert_eq!(parquet(folder.path()).len(), 6);

    let (_, told) = sql(&["EXPIRE SNAPSHOTS OLDER THAN now() - INTERVAL '1 hour'"]);
    assert!(told.contains("EXPIRE SNAPSHOTS 0"), "none is that old: {told}");
    let (_, told) = sql(&["EXPIRE SNAPSHOTS OLDER THAN now() RETAIN LAST 1", "VACUUM"]);
    assert!(told.contains("EXPIRE SNAPSHOTS 3") && told.contains("VACUUM 0"), "too early: {told}");
    let (rows, told) =
        sql(&["VACUUM RETAIN 0 HOURS", "SELECT x FROM lake.t", "SELECT x FROM lake.t VERSION AS OF 'kept'"]);
    assert!(told.contains("VACUUM 2"), "{told}");
    assert_eq!(rows, "x\n4\nx\n2\n");
    assert_eq!(parquet(folder.path()).len(), 4);
}

#[test]
fn files_in_folders_with_odd_names_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let up = ["up", "--data", data, "--store", "file", "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&up).unwrap();
    let rows = "INSERT INTO lake.t VALUES (1, 'a b'), (2, 'c%20d/e'), (3, NULL), (4, 'f=g')";
    let output = run(&[
        "sql",
        "--url",
        server.flight(),
        "--format",
        "csv",
        "-c",
        "CREATE TABLE lake.t (x INT, k VARCHAR) PARTITIONED BY (k)",
        "-c",
        rows,
        "-c",
        "TRUNCATE lake.t",
        "-c",
        rows,
        "-c",
        "EXPIRE SNAPSHOTS OLDER THAN now()",
        "-c",
        "VACUUM RETAIN 0 HOURS",
        "-c",
        "SELECT x FROM lake.t ORDER BY x",
    ]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("VACUUM 4"), "{output:?}");
    assert_eq!(output.stdout, "x\n1\n2\n3\n4\n");
    assert_eq!(parquet(folder.path()).len(), 4);
}

#[tokio::test]
async fn duckdb_sees_the_same_rows_after_optimize() {
    let Some(duckdb) = DuckDb::find() else {
        return skip("care::duckdb_sees_the_same_rows_after_optimize", "DuckDB");
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let up = ["up", "--data", data, "--store", "file", "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&up).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE lake.t (id BIGINT, name VARCHAR)").await.unwrap();
    for from in [0, 10, 20] {
        let rows =
            format!("SELECT value, 'name ' || value FROM generate_series({from}, {}) AS s(value)", from + 9);
        client.update(&format!("INSERT INTO lake.t {rows}")).await.unwrap();
    }
    client.update("DELETE FROM lake.t WHERE id IN (0, 7)").await.unwrap();
    let catalog = folder.path().join("catalog.sqlite");
    let attach = duckdb.attach(&catalog, true);
    let all = "SELECT rowid, id, name FROM skep.lake.t ORDER BY id";
    let before = duckdb.run(&format!("{attach}{all};")).unwrap();
    assert_eq!(before.len(), 28);
    let snapshot = client.rows("SELECT max(snapshot_id) FROM system.snapshots").await.unwrap();
    let files =
        "SELECT count(*) FROM __ducklake_metadata_skep.ducklake_data_file WHERE end_snapshot IS NULL;";
    assert_eq!(duckdb.run(&format!("{attach}{files}")).unwrap(), [["3"]]);

    client.update("OPTIMIZE lake.t ORDER BY name").await.unwrap();
    assert_eq!(duckdb.run(&format!("{attach}{files}")).unwrap(), [["1"]]);
    for sql in [
        all.to_owned(),
        format!("SELECT rowid, id, name FROM skep.lake.t AT (VERSION => {}) ORDER BY id", snapshot[0][0]),
    ] {
        let after = duckdb.run(&format!("{attach}{sql};")).unwrap();
        assert_eq!(rows::difference(&before, &after, 0.0), None, "{sql}");
    }
    let filtered = "SELECT id FROM skep.lake.t WHERE name > 'name 5' ORDER BY name";
    let theirs = duckdb.run(&format!("{attach}{filtered};")).unwrap();
    assert_eq!(rows::difference(&client.rows(filtered).await.unwrap(), &theirs, 0.0), None);

    // DuckDB goes on from there, and Skep after it.
    let write = duckdb.attach(&catalog, false);
    duckdb.run(&format!("{write}INSERT INTO skep.lake.t VALUES (100, 'hundred');")).unwrap();
    let last = "SELECT rowid, name FROM skep.lake.t WHERE id = 100";
    let inserted = duckdb.run(&format!("{attach}{last};")).unwrap();
    let states = "SELECT DISTINCT state FROM system.column_stats WHERE table_name = 't'";
    assert_eq!(client.rows(states).await.unwrap(), [["stale"]], "nobody sketched what DuckDB wrote");
    client.update("OPTIMIZE lake.t").await.unwrap();
    client.update("UPDATE lake.t SET name = 'HUNDRED' WHERE id = 100").await.unwrap();
    let changed = duckdb.run(&format!("{attach}{last};")).unwrap();
    assert_eq!(changed, [[inserted[0][0].as_str(), "HUNDRED"]]);
    client.update("ANALYZE lake.t").await.unwrap();
    assert_eq!(client.rows(states).await.unwrap(), [["good"]]);
    let counts =
        "SELECT column_name, distinct_count FROM system.column_stats WHERE table_name = 't' ORDER BY 1";
    assert_eq!(client.rows(counts).await.unwrap(), [["id", "29"], ["name", "29"]]);
}

/// Tables are seen to while nobody is there; the disk shows it, for a question would be a statement.
#[tokio::test]
async fn tables_that_nobody_uses_are_put_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("coordinator.toml"));
    let text = format!(
        "[coordinator]\ndata = \"{}\"\nstore = \"file\"\nflight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
         listen = \"127.0.0.1:0\"\n[maintenance]\ninterval = \"100ms\"\nidle = \"500ms\"\nsmall_files = 3\n",
        data.display()
    );
    std::fs::write(&config, text).unwrap();
    let server = Server::start(&["coordinator", "--config", config.to_str().unwrap()]).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    client
        .update("CREATE TABLE lake.left_alone (x INT) TBLPROPERTIES ('skep.maintenance' = 'off')")
        .await
        .unwrap();
    client.update("CREATE TABLE lake.t (x INT)").await.unwrap();
    let mut other = Client::connect(server.flight()).await.unwrap();
    other.update("BEGIN").await.unwrap();
    for x in 0..4 {
        for table in ["left_alone", "t"] {
            client.update(&format!("INSERT INTO lake.{table} VALUES ({x})")).await.unwrap();
        }
    }
    let files = data.join("files");
    assert_eq!(parquet(&files).len(), 8);
    // While a transaction is open, nothing is done: what was done is asked for when it ends.
    assert_eq!(client.rows("SELECT count(*) FROM system.maintenance").await.unwrap(), [["0"]]);
    other.update("ROLLBACK").await.unwrap();
    let counted = "SELECT table_name, files FROM system.table_health ORDER BY table_name";
    let done = async {
        loop {
            while parquet(&files).len() < 9 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // A question that comes before the commit sends maintenance away, and it comes back.
            let counts = client.rows(counted).await.unwrap();
            assert_eq!(counts[0], ["left_alone", "4"]);
            if counts[1] == ["t", "1"] {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), done).await.expect("four files become one");
    let done = client.rows("SELECT DISTINCT statement FROM system.maintenance").await.unwrap();
    assert_eq!(done, [["OPTIMIZE lake.t"]]);
    assert_eq!(client.rows("SELECT count(*), sum(x) FROM lake.t").await.unwrap(), [["4", "6"]]);
}
