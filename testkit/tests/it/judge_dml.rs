//! DuckDB reads what changed rows became: the rows, with the filters and sorts that trust our statistics, their row ids,
//! and what changed between snapshots; then it changes rows itself, and Skep goes on from there.

use skep_testkit::client::Client;
use skep_testkit::duckdb::DuckDb;
use skep_testkit::process::Server;
use skep_testkit::{rows, skip};

/// Both engines give the same rows for each query.
pub(crate) async fn agree(client: &mut Client, duckdb: &DuckDb, attach: &str, queries: &[impl AsRef<str>]) {
    // One process for all of them: starting it is most of their cost.
    const MARK: &str = "-- next --";
    let script: Vec<String> =
        queries.iter().map(|sql| format!("{};\nSELECT '{MARK}';", sql.as_ref())).collect();
    let theirs = duckdb.run(&format!("{attach}{}", script.join("\n"))).unwrap();
    let theirs: Vec<_> = theirs.split(|row| row[0] == MARK).collect();
    for (sql, theirs) in queries.iter().zip(theirs) {
        let sql = sql.as_ref();
        let ours = client.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        assert_eq!(rows::difference(&ours, theirs, 0.0), None, "{sql}");
    }
}

const QUERIES: [&str; 7] = [
    "SELECT * FROM skep.lake.t ORDER BY id",
    "SELECT id, name FROM skep.lake.t WHERE score > 2500 ORDER BY score DESC, id",
    "SELECT count(*), sum(score), min(name), max(name), min(day), max(day) FROM skep.lake.t",
    "SELECT id FROM skep.lake.t WHERE name = 'name 17' OR name LIKE 'changed%' ORDER BY name, id",
    "SELECT id FROM skep.lake.t WHERE name IS NULL ORDER BY id",
    "SELECT id FROM skep.lake.t WHERE day = DATE '2031-01-01' ORDER BY id",
    "SELECT max(id), count(DISTINCT id) FROM skep.lake.t WHERE id >= 1000",
];

#[tokio::test]
async fn duckdb_agrees_on_rows_that_changed() {
    let Some(duckdb) = DuckDb::find() else {
        return skip("judge_dml::duckdb_agrees_on_rows_that_changed", "DuckDB");
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut arguments = vec!["up", "--data", data.to_str().unwrap(), "--store", "file"];
    arguments.extend(["--flight", "127.0.0.1:0", "--http", "127.0.0.1:0", "--workers", "3"]);
    let server = Server::start(&arguments).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    let attach = duckdb.attach(&data.join("catalog.sqlite"), true);

    let create = "CREATE TABLE lake.t (id INT NOT NULL, name VARCHAR, score DOUBLE, day DATE)";
    client.update(create).await.unwrap();
    for part in 0..5 {
        let insert = format!(
            "INSERT INTO lake.t SELECT x, 'name ' || x, x * 2.5, DATE '2024-01-01' \
             FROM generate_series({}, {}) AS g(x)",
            part * 300,
            part * 300 + 299
        );
        assert_eq!(client.update(&insert).await.unwrap(), 300);
    }
    // The row id of every row, which it keeps.
    let ids = |rows: Vec<Vec<String>>| -> std::collections::BTreeMap<String, String> {
        rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
    };
    let row_ids = format!("{attach}SELECT id, rowid FROM skep.lake.t;");
    let before = ids(duckdb.run(&row_ids).unwrap());
    assert_eq!(before.len(), 1500);

    let statements = [
        ("UPDATE lake.t SET name = 'changed ' || id, score = NULL WHERE id IN (17, 450, 451)", 3),
        ("UPDATE lake.t SET day = DATE '2031-01-01', score = 1e6 WHERE id % 400 = 7", 4),
        ("DELETE FROM lake.t WHERE id BETWEEN 600 AND 899", 300),
        ("DELETE FROM lake.t WHERE id % 100 = 3", 12),
        (
            "UPDATE lake.t SET name = s.name FROM (VALUES (20, 'twenty'), (1001, NULL)) AS s(n, name) WHERE s.n = t.id",
            2,
        ),
        (
            "MERGE INTO lake.t USING (VALUES (21, 'one'), (1002, 'two'), (5000, 'new'), (5001, 'newer')) AS s(id, name) \
             ON t.id = s.id WHEN MATCHED AND s.id > 1000 THEN DELETE WHEN MATCHED THEN UPDATE SET name = s.name \
             WHEN NOT MATCHED THEN INSERT (id, name, score) VALUES (s.id, s.name, -1)",
            4,
        ),
    ];
    for lane in ["local", "pipelined"] {
        client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        agree(&mut client, &duckdb, &attach, &QUERIES).await;
        let statements = statements.iter().skip(if lane == "local" { 0 } else { 3 });
        for (sql, count) in statements.take(3) {
            assert_eq!(client.update(sql).await.unwrap(), *count, "{sql}");
            agree(&mut client, &duckdb, &attach, &QUERIES).await;
        }
    }

    let after = ids(duckdb.run(&row_ids).unwrap());
    assert_eq!(after.len(), 1500 - 300 - 12 - 1 + 2);
    for (id, row_id) in &after {
        match before.get(id) {
            Some(kept) => assert_eq!(kept, row_id, "row {id}"),
            None => {
                assert!(!before.values().any(|taken| taken == row_id), "row {id} has a row id of another")
            }
        }
    }
    let distinct: std::collections::BTreeSet<&String> = after.values().collect();
    assert_eq!(distinct.len(), after.len());

    // What changed in the last snapshot but one: three rows of a file that was rewritten, by their ids.
    let last = client.rows("SELECT max(snapshot_id) FROM system.snapshots").await.unwrap();
    let last: i64 = last[0][0].parse().unwrap();
    let changes = |from: i64, to: i64, what: &str| {
        let sql = format!(
            "{attach}SELECT {what} FROM ducklake_table_changes('skep', 'lake', 't', {from}, {to}) AS c"
        );
        move |rest: &str| format!("{sql} {rest};")
    };
    let merged = changes(last, last, "change_type, id, rowid, name");
    let shown = duckdb.run(&merged("WHERE id >= 5000 OR id IN (21, 1002) ORDER BY id, change_type")).unwrap();
    let shown: Vec<String> = shown.iter().map(|row| format!("{} {} {}", row[0], row[1], row[3])).collect();
    assert_eq!(
        shown,
        [
            "update_postimage 21 one",
            "update_preimage 21 name 21",
            "delete 1002 name 1002",
            "insert 5000 new",
            "insert 5001 newer"
        ]
    );
    // Rows that were only moved have equal values before and after.
    let moved = changes(last, last, "id, rowid, name, score, day");
    let moved = moved("WHERE change_type LIKE 'update%' GROUP BY ALL HAVING count(*) = 1 ORDER BY id, name");
    let moved: Vec<String> = duckdb.run(&moved).unwrap().into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(moved, ["21", "21"]);

    // DuckDB changes rows of ours, Skep rows of its.
    let write = duckdb.attach(&data.join("catalog.sqlite"), false);
    duckdb
        .run(&format!(
            "{write}INSERT INTO skep.lake.t VALUES (9000, 'theirs', 1, NULL), (9001, NULL, 2, NULL);"
        ))
        .unwrap();
    agree(&mut client, &duckdb, &attach, &QUERIES).await;
    let theirs = duckdb.run(&format!("{attach}SELECT rowid FROM skep.lake.t WHERE id = 9001;")).unwrap();
    let sql = "UPDATE lake.t SET name = 'changed' || id WHERE id IN (9001, 0)";
    assert_eq!(client.update(sql).await.unwrap(), 2);
    agree(&mut client, &duckdb, &attach, &QUERIES).await;
    assert_eq!(
        duckdb.run(&format!("{attach}SELECT rowid FROM skep.lake.t WHERE id = 9001;")).unwrap(),
        theirs
    );

    let sql = "INSERT OVERWRITE lake.t SELECT id, name, score, day FROM lake.t WHERE id < 10";
    assert_eq!(client.update(sql).await.unwrap(), 9);
    agree(&mut client, &duckdb, &attach, &QUERIES).await;
    // Partitions give way, of files of both engines and of before there were any.
    let parted = [
        "ALTER TABLE lake.t SET PARTITIONED BY (day)",
        "INSERT INTO lake.t SELECT id + 100, name, score, DATE '2024-02-29' FROM lake.t",
    ];
    for sql in parted {
        client.update(sql).await.unwrap();
    }
    duckdb
        .run(&format!(
            "{write}INSERT INTO skep.lake.t VALUES (9002, 'a', 1, '2024-02-29'), (9003, 'b', 2, '2031-01-01'), \
             (9004, 'c', 3, NULL);"
        ))
        .unwrap();
    let overwrites = [
        ("INSERT OVERWRITE lake.t PARTITION (day = DATE '2024-02-29') VALUES (7000, 'in place', 1.5)", 1),
        (
            "INSERT OVERWRITE lake.t PARTITION (day) VALUES (7001, 'x', 1, NULL), (7002, 'y', 2, DATE '2024-01-01')",
            2,
        ),
        (
            "INSERT OVERWRITE lake.t PARTITION (day = '2031-01-01') SELECT id, name, score FROM lake.t WHERE id < 0",
            0,
        ),
    ];
    for (sql, count) in overwrites {
        assert_eq!(client.update(sql).await.unwrap(), count, "{sql}");
        agree(&mut client, &duckdb, &attach, &QUERIES).await;
    }
    let left = client.rows("SELECT id FROM lake.t ORDER BY id").await.unwrap();
    assert_eq!(left, [["7000"], ["7001"], ["7002"]]);
    client.update("ALTER TABLE lake.t RESET PARTITIONED BY").await.unwrap();

    assert_eq!(client.update("TRUNCATE lake.t").await.unwrap(), 3);
    agree(&mut client, &duckdb, &attach, &QUERIES[..1]).await;
    duckdb.run(&format!("{write}INSERT INTO skep.lake.t VALUES (1, 'last', 1, NULL);")).unwrap();
    agree(&mut client, &duckdb, &attach, &QUERIES).await;
    let old = format!(
        "{attach}SELECT count(*), sum(id) FROM skep.lake.t AT (VERSION => {last}) WHERE score > 100;"
    );
    let ours = format!("SELECT count(*), sum(id) FROM lake.t VERSION AS OF {last} WHERE score > 100");
    assert_eq!(rows::difference(&client.rows(&ours).await.unwrap(), &duckdb.run(&old).unwrap(), 0.0), None);
}
