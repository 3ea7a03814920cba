//! DuckDB writes in every way it has, and Skep reads it back: the rows of today and those of every snapshot that is left,
//! in both lanes; then Skep changes what DuckDB left behind, and DuckDB reads that.

use skep_testkit::client::Client;
use skep_testkit::duckdb::DuckDb;
use skep_testkit::process::Server;
use skep_testkit::{rows, skip};

use crate::judge_dml::agree;

/// A table of ours, whose rows lie in files of both engines after the first of these.
const THEIRS: [&str; 23] = [
    "INSERT INTO skep.lake.t SELECT range, 'their ' || range, range * 0.5, NULL FROM range(1500, 1600)",
    "DELETE FROM skep.lake.t WHERE id % 7 = 3",
    "DELETE FROM skep.lake.t WHERE id BETWEEN 250 AND 320",
    "UPDATE skep.lake.t SET name = 'changed ' || id WHERE id % 10 = 1",
    "DELETE FROM skep.lake.t WHERE id >= 900 AND id < 1200",
    "ALTER TABLE skep.lake.t ADD COLUMN extra INTEGER DEFAULT 7",
    "INSERT INTO skep.lake.t SELECT range, 'with extra', NULL, DATE '2025-01-01', range FROM range(1600, 1650)",
    "ALTER TABLE skep.lake.t RENAME COLUMN name TO title",
    "UPDATE skep.lake.t SET title = NULL, extra = -1 WHERE id % 50 = 2",
    "ALTER TABLE skep.lake.t ALTER COLUMN extra TYPE BIGINT",
    "INSERT INTO skep.lake.t SELECT range, 'after', 1, NULL, 5000000000 FROM range(1650, 1700)",
    "INSERT INTO skep.lake.t SELECT range, 'after that', 1, NULL, NULL FROM range(1700, 1750)",
    "MERGE INTO skep.lake.t USING (SELECT range AS k FROM range(1740, 1760)) s ON t.id = s.k \
     WHEN MATCHED AND s.k > 1742 THEN UPDATE SET title = 'merged' \
     WHEN NOT MATCHED THEN INSERT VALUES (s.k, 'new', 0, NULL, 1)",
    "CALL ducklake_merge_adjacent_files('skep')",
    "DELETE FROM skep.lake.t WHERE id % 11 = 5",
    "DELETE FROM skep.lake.t WHERE id % 13 = 6 OR id = 1742",
    "ALTER TABLE skep.lake.t DROP COLUMN day",
    "UPDATE skep.lake.t SET score = score + 1 WHERE id > 1700",
    "CALL ducklake_rewrite_data_files('skep', delete_threshold => 0)",
    "CALL ducklake_merge_adjacent_files('skep')",
    "DELETE FROM skep.lake.t WHERE id % 17 = 8",
    "BEGIN; DELETE FROM skep.lake.t WHERE id = 0; INSERT INTO skep.lake.t VALUES (0, 'again', 0, 0); \
     UPDATE skep.lake.t SET title = 'twice' WHERE id IN (0, 1); COMMIT",
    "CALL ducklake_cleanup_old_files('skep', cleanup_all => true)",
];

/// The table, now or at a snapshot.
fn queries(at: Option<&str>) -> Vec<String> {
    let table = match at {
        Some(snapshot) => format!("skep.lake.t AT (VERSION => {snapshot})"),
        None => "skep.lake.t".to_owned(),
    };
    vec![
        format!("SELECT * FROM {table} ORDER BY id"),
        format!("SELECT count(*) FROM {table}"),
        format!("SELECT count(*), min(id), max(id), count(score), sum(id) FROM {table} WHERE id > 400"),
        format!("SELECT id FROM {table} WHERE score IS NULL OR id = 1742 ORDER BY id"),
        format!("SELECT min(id), max(id), min(score), max(score) FROM {table}"),
    ]
}

async fn snapshots(client: &mut Client) -> Vec<String> {
    let sql = "SELECT snapshot_id FROM system.snapshots WHERE snapshot_id > 0 ORDER BY snapshot_id DESC";
    client.rows(sql).await.unwrap().into_iter().map(|mut row| row.remove(0)).collect()
}

/// Both engines see the same, now and at the `last` snapshots.
async fn agree_at(client: &mut Client, duckdb: &DuckDb, attach: &str, last: usize) {
    let mut all = queries(None);
    for snapshot in snapshots(client).await.iter().take(last) {
        all.extend(queries(Some(snapshot)));
    }
    agree(client, duckdb, attach, &all).await;
}

/// Both engines say the same of what every snapshot changed. Of one that only wrote rows into other files DuckDB says that
/// all of them changed.
async fn agree_on_changes(client: &mut Client, duckdb: &DuckDb, attach: &str) {
    let moved =
        "SELECT snapshot_id FROM system.snapshots WHERE changes LIKE '%rewrite%' OR changes LIKE '%merge%'";
    let moved: Vec<String> = client.rows(moved).await.unwrap().concat();
    for snapshot in snapshots(client).await {
        if moved.contains(&snapshot) {
            let sql = format!("SELECT count(*) FROM table_changes(lake.t, {snapshot}, {snapshot})");
            assert_eq!(client.rows(&sql).await.unwrap(), [["0"]], "snapshot {snapshot}");
            continue;
        }
        let what = "SELECT snapshot_id, rowid, change_type, id FROM";
        let theirs = format!(
            "{attach}{what} ducklake_table_changes('skep', 'lake', 't', {snapshot}, {snapshot}) ORDER BY ALL;"
        );
        let theirs = duckdb.run(&theirs).unwrap();
        let ours = format!("{what} table_changes(lake.t, {snapshot}, {snapshot}) ORDER BY 1, 2, 3, 4");
        let ours = client.rows(&ours).await.unwrap_or_else(|e| panic!("{ours}: {e:?}"));
        assert_eq!(rows::difference(&ours, &theirs, 0.0), None, "snapshot {snapshot}");
    }
}

#[tokio::test]
async fn skep_reads_whatever_duckdb_writes() {
    let Some(duckdb) = DuckDb::find() else {
        return skip("judge_back::skep_reads_whatever_duckdb_writes", "DuckDB");
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut arguments = vec!["up", "--data", data.to_str().unwrap(), "--store", "file"];
    arguments.extend(["--flight", "127.0.0.1:0", "--http", "127.0.0.1:0", "--workers", "3"]);
    let server = Server::start(&arguments).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    let attach = duckdb.attach(&data.join("catalog.sqlite"), true);
    let write = duckdb.attach(&data.join("catalog.sqlite"), false);

    let create = "CREATE TABLE lake.t (id BIGINT NOT NULL, name VARCHAR, score DOUBLE, day DATE)";
    client.update(create).await.unwrap();
    for part in 0..5 {
        let insert = format!(
            "INSERT INTO lake.t SELECT x, 'name ' || x, x * 2.5, DATE '2024-01-01' \
             FROM generate_series({}, {}) AS g(x)",
            part * 300,
            part * 300 + 299
        );
        client.update(&insert).await.unwrap();
    }
    for sql in THEIRS {
        duckdb.run(&format!("{write}{sql};")).unwrap_or_else(|e| panic!("{sql}: {e}"));
        // Files that are put together change what is read of the snapshots before.
        let last = if sql.starts_with("CALL") { 100 } else { 2 };
        agree_at(&mut client, &duckdb, &attach, last).await;
    }
    client.update("SET skep.execution = pipelined").await.unwrap();
    agree_at(&mut client, &duckdb, &attach, 100).await;
    for lane in ["local", "pipelined"] {
        client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        agree_on_changes(&mut client, &duckdb, &attach).await;
    }

    // Ours on top of theirs.
    duckdb.run(&format!("{write}DELETE FROM skep.lake.t WHERE id % 19 = 3;")).unwrap();
    let row_ids = format!("{attach}SELECT id, rowid FROM skep.lake.t ORDER BY id;");
    let before = duckdb.run(&row_ids).unwrap();
    let count = |sql: &str| {
        let sql = format!("SELECT count(*) FROM lake.t WHERE {sql}");
        let rows = duckdb.run(&format!("{attach}{};", sql.replace("lake.t", "skep.lake.t"))).unwrap();
        rows[0][0].parse::<u64>().unwrap()
    };
    for (lane, change) in [("local", "id % 23 = 4"), ("pipelined", "id % 23 = 5")] {
        client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        let expected = count(change);
        let sql = format!("UPDATE lake.t SET title = 'ours' WHERE {change}");
        assert_eq!(client.update(&sql).await.unwrap(), expected, "{sql}");
        agree_at(&mut client, &duckdb, &attach, 3).await;
    }
    assert_eq!(duckdb.run(&row_ids).unwrap(), before, "rows keep their ids");
    duckdb.run(&format!("{write}DELETE FROM skep.lake.t WHERE id % 29 = 3;")).unwrap();
    let sql = "DELETE FROM lake.t WHERE id IN (SELECT id FROM lake.t WHERE id % 31 = 9)";
    let expected = count("id % 31 = 9");
    assert_eq!(client.update(sql).await.unwrap(), expected);
    agree_at(&mut client, &duckdb, &attach, 3).await;
    let sql = "MERGE INTO lake.t USING (VALUES (1000001, 'm'), (1, 'one')) AS s(k, v) ON t.id = s.k \
               WHEN MATCHED THEN UPDATE SET title = s.v WHEN NOT MATCHED THEN INSERT (id, title) VALUES (s.k, s.v)";
    assert_eq!(client.update(sql).await.unwrap(), 2);
    agree_at(&mut client, &duckdb, &attach, 3).await;

    // Files with deleted rows are written again, one by one if need be.
    duckdb.run(&format!("{write}DELETE FROM skep.lake.t WHERE id % 37 = 3;")).unwrap();
    let before = duckdb.run(&row_ids).unwrap();
    client.update("OPTIMIZE lake.t").await.unwrap();
    duckdb.run(&format!("{write}DELETE FROM skep.lake.t WHERE id = 100;")).unwrap();
    client.update("OPTIMIZE lake.t").await.unwrap();
    let after = duckdb.run(&row_ids).unwrap();
    assert_eq!(after, before.into_iter().filter(|row| row[0] != "100").collect::<Vec<_>>());
    let live = "SELECT count(*) FROM __ducklake_metadata_skep.ducklake_delete_file d \
                JOIN __ducklake_metadata_skep.ducklake_data_file f USING (data_file_id) \
                WHERE d.end_snapshot IS NULL AND f.end_snapshot IS NULL";
    assert_eq!(duckdb.run(&format!("{attach}{live};")).unwrap(), [["0"]]);
    agree_at(&mut client, &duckdb, &attach, 100).await;

    // What both forget is forgotten, and the rest stays.
    let kept = snapshots(&mut client).await;
    let oldest = kept.iter().skip(6).cloned().collect::<Vec<_>>().join(", ");
    duckdb
        .run(&format!(
            "{write}CALL ducklake_expire_snapshots('skep', versions => [{oldest}]); \
             CALL ducklake_cleanup_old_files('skep', cleanup_all => true);"
        ))
        .unwrap();
    assert!(snapshots(&mut client).await.len() < 10);
    agree_at(&mut client, &duckdb, &attach, 6).await;
    client.update("EXPIRE SNAPSHOTS OLDER THAN now() RETAIN LAST 2").await.unwrap();
    client.update("VACUUM RETAIN 0 HOURS").await.unwrap();
    agree_at(&mut client, &duckdb, &attach, 2).await;
    let all = client.rows("SELECT count(*) FROM lake.t").await.unwrap()[0][0].clone();
    assert_eq!(client.update("TRUNCATE lake.t").await.unwrap().to_string(), all);
    agree_at(&mut client, &duckdb, &attach, 2).await;
}

/// Statements of both engines, each of which makes a snapshot that the table is restored to afterwards.
const HISTORY: [(&str, bool); 14] = [
    (
        "INSERT INTO lake.r SELECT x, 'name ' || x, x / 2.0, DATE '2024-01-01' FROM generate_series(0, 99) AS g(x)",
        true,
    ),
    (
        "INSERT INTO lake.r SELECT x, NULL, x * 1.0, DATE '2024-02-01' FROM generate_series(100, 149) AS g(x)",
        true,
    ),
    ("UPDATE lake.r SET name = 'changed' WHERE id % 10 = 3", true),
    ("DELETE FROM skep.lake.r WHERE id % 7 = 1", false),
    ("ALTER TABLE lake.r ADD COLUMN extra INT DEFAULT 7", true),
    ("INSERT INTO skep.lake.r SELECT range, 'theirs', 1, NULL, -1 FROM range(200, 220)", false),
    ("ALTER TABLE lake.r RENAME COLUMN name TO title", true),
    ("ALTER TABLE lake.r ALTER COLUMN extra TYPE BIGINT", true),
    ("INSERT INTO lake.r VALUES (300, 'wide', 0, NULL, 5000000000)", true),
    ("ALTER TABLE skep.lake.r DROP COLUMN day", false),
    ("ALTER TABLE lake.r SET PARTITIONED BY (bucket(2, id))", true),
    ("UPDATE lake.r SET title = 'late' WHERE id % 3 = 0", true),
    ("UPDATE skep.lake.r SET score = -1 WHERE id % 5 = 0", false),
    ("TRUNCATE lake.r", true),
];

#[tokio::test]
async fn duckdb_sees_tables_as_they_were_restored() {
    let Some(duckdb) = DuckDb::find() else {
        return skip("judge_back::duckdb_sees_tables_as_they_were_restored", "DuckDB");
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut arguments = vec!["up", "--data", data.to_str().unwrap(), "--store", "file"];
    arguments.extend(["--flight", "127.0.0.1:0", "--http", "127.0.0.1:0", "--workers", "3"]);
    let server = Server::start(&arguments).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    let attach = duckdb.attach(&data.join("catalog.sqlite"), true);
    let write = duckdb.attach(&data.join("catalog.sqlite"), false);
    client
        .update("CREATE TABLE lake.r (id BIGINT NOT NULL, name VARCHAR, score DOUBLE, day DATE)")
        .await
        .unwrap();
    for (sql, ours) in HISTORY {
        if ours {
            client.update(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        } else {
            duckdb.run(&format!("{write}{sql};")).unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }
    let history = snapshots(&mut client).await;
    let columns = |at: &str| {
        let shown = duckdb.run(&format!("{attach}DESCRIBE SELECT * FROM skep.lake.r {at};")).unwrap();
        shown.into_iter().map(|row| format!("{} {}", row[0], row[1])).collect::<Vec<_>>()
    };
    // From the latest to the first and back to the middle, in turns.
    let order = history.iter().take(HISTORY.len()).chain(history.iter().skip(4).take(2));
    for (turn, snapshot) in order.enumerate() {
        let lane = if turn % 2 == 0 { "local" } else { "pipelined" };
        client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        client.update(&format!("RESTORE TABLE lake.r TO VERSION AS OF {snapshot}")).await.unwrap();
        let at = format!("AT (VERSION => {snapshot})");
        // A type that was widened since stays wide.
        let then: Vec<String> =
            columns(&at).iter().map(|c| c.replace("extra INTEGER", "extra BIGINT")).collect();
        let now: Vec<String> =
            columns("").iter().map(|c| c.replace("extra INTEGER", "extra BIGINT")).collect();
        assert_eq!(now, then, "snapshot {snapshot}");
        let rows = |at: &str, which: &str| {
            let sql = format!("{attach}SELECT rowid, * FROM skep.lake.r {at} WHERE {which} ORDER BY id;");
            duckdb.run(&sql).unwrap()
        };
        for which in ["true", "score > 20", "score < 0 OR id = 300"] {
            assert_eq!(rows("", which), rows(&at, which), "snapshot {snapshot}, {which}");
        }
        let both = [
            "SELECT * FROM skep.lake.r ORDER BY id".to_owned(),
            format!("SELECT * FROM skep.lake.r {at} ORDER BY id"),
            "SELECT count(*), max(score), min(id) FROM skep.lake.r WHERE id > 20".to_owned(),
        ];
        agree(&mut client, &duckdb, &attach, &both).await;
        // Both go on from there.
        if turn % 5 == 2 {
            client.update("INSERT INTO lake.r (id, score) VALUES (1000, 1)").await.unwrap();
            duckdb
                .run(&format!("{write}DELETE FROM skep.lake.r WHERE id % 11 = 4; INSERT INTO skep.lake.r (id) VALUES (2000);"))
                .unwrap();
            agree(&mut client, &duckdb, &attach, &both).await;
        }
    }
    // What DuckDB forgets takes nothing of the restored table away.
    let old = history.join(", ");
    duckdb
        .run(&format!(
            "{write}CALL ducklake_expire_snapshots('skep', versions => [{old}]); \
             CALL ducklake_cleanup_old_files('skep', cleanup_all => true);"
        ))
        .unwrap();
    agree(&mut client, &duckdb, &attach, &["SELECT * FROM skep.lake.r ORDER BY id"]).await;
    let error =
        client.update(&format!("RESTORE TABLE lake.r TO VERSION AS OF {}", history[1])).await.unwrap_err();
    assert!(error.message().contains("does not exist"), "{error:?}");
}
