//! DuckDB judges definitions: after every ALTER of ours it reads the same rows, with filters on what changed; after its
//! own we do.

use std::path::Path;

use skep_testkit::client::Client;
use skep_testkit::duckdb::DuckDb;
use skep_testkit::process::Server;
use skep_testkit::{rows, skip};

struct Court {
    duckdb: DuckDb,
    read: String,
    write: String,
    client: Client,
    _server: Server,
}

impl Court {
    async fn open(data: &Path, name: &str) -> Option<Self> {
        let Some(duckdb) = DuckDb::find() else {
            skip(name, "DuckDB");
            return None;
        };
        let arguments =
            ["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let server = Server::start(&[arguments.as_slice(), &["--store", "file"]].concat()).unwrap();
        let client = Client::connect(server.flight()).await.unwrap();
        let (read, write) = (
            duckdb.attach(&data.join("catalog.sqlite"), true),
            duckdb.attach(&data.join("catalog.sqlite"), false),
        );
        Some(Self { duckdb, read, write, client, _server: server })
    }

    async fn ours(&mut self, sql: &str) {
        self.client.update(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    fn theirs(&self, sql: &str) {
        self.duckdb.run(&format!("{}{sql};", self.write)).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Both see the same rows, and some.
    async fn agree(&mut self, queries: &[&str]) {
        // One process for all of them: starting it is most of their cost.
        const MARK: &str = "-- next --";
        let script: Vec<String> = queries.iter().map(|sql| format!("{sql};\nSELECT '{MARK}';")).collect();
        let theirs = self.duckdb.run(&format!("{}{}", self.read, script.join("\n")));
        let theirs = theirs.unwrap_or_else(|e| panic!("{queries:?}: {e}"));
        for (sql, theirs) in queries.iter().zip(theirs.split(|row| row[0] == MARK)) {
            let ours = self.client.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            assert!(!ours.is_empty(), "{sql}");
            assert_eq!(rows::difference(&ours, theirs, 0.0), None, "{sql}");
        }
    }
}

/// Every type that a column can become, with values at its ends: both read the files of before, filter by them, and
/// write on.
#[tokio::test]
async fn duckdb_reads_columns_that_were_widened() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(mut court) = Court::open(&data, "judge_ddl::duckdb_reads_columns_that_were_widened").await
    else {
        return;
    };
    let pairs = [
        ("TINYINT", "BIGINT", "-128", "127"),
        ("TINYINT UNSIGNED", "SMALLINT", "0", "255"),
        ("INTEGER UNSIGNED", "BIGINT", "0", "4294967295"),
        ("SMALLINT", "REAL", "-32768", "32767"),
        ("INTEGER", "DOUBLE", "-2147483648", "2147483647"),
        ("TINYINT", "DECIMAL(5, 2)", "-128", "127"),
        ("BIGINT", "DECIMAL(21, 2)", "-9223372036854775808", "9223372036854775807"),
        ("REAL", "DOUBLE", "-1.5", "0.1"),
        ("DECIMAL(4, 2)", "DECIMAL(9, 2)", "-99.99", "1.5"),
        ("DECIMAL(4, 2)", "DECIMAL(38, 2)", "-99.99", "1.5"),
        ("DECIMAL(18, 2)", "DECIMAL(38, 4)", "-1234567890123456.78", "0.01"),
        ("DATE", "TIMESTAMP", "'0001-01-01'", "'9999-12-31'"),
        ("DATE", "TIMESTAMP(3)", "'0001-01-01'", "'9999-12-31'"),
        ("DATE", "TIMESTAMP(9)", "'1900-01-01'", "'2024-02-29'"),
        ("TIMESTAMP(3)", "TIMESTAMP", "'1969-12-31 23:59:59.999'", "'2024-02-29 10:00:00.5'"),
        ("TIMESTAMP(3)", "TIMESTAMP(9)", "'1969-12-31 23:59:59.999'", "'2024-02-29 10:00:00.5'"),
        ("TIMESTAMP", "TIMESTAMP(9)", "'1969-12-31 23:59:59.999999'", "'2024-02-29 10:00:00.5'"),
    ];
    for (number, (from, to, low, high)) in pairs.into_iter().enumerate() {
        let table = format!("lake.w{number}");
        court.ours(&format!("CREATE TABLE {table} (id INT, x {from}, l {from}[])")).await;
        let row =
            |id: u32, value: &str| format!("SELECT {id}, CAST({value} AS {from}), [CAST({value} AS {from})]");
        court.ours(&format!("INSERT INTO {table} {} UNION ALL {}", row(1, low), row(2, high))).await;
        court.ours(&format!("ALTER TABLE {table} ALTER COLUMN x TYPE {to}")).await;
        // The ends, by a filter that takes what is there from the table itself: literals are each engine's own.
        let queries = [
            format!("SELECT id, CAST(x AS VARCHAR) LIKE '%', x IS NULL FROM skep.{table} ORDER BY id"),
            format!("SELECT id FROM skep.{table} WHERE x = (SELECT min(x) FROM skep.{table}) ORDER BY id"),
            format!("SELECT id FROM skep.{table} WHERE x >= (SELECT max(x) FROM skep.{table}) ORDER BY id"),
            format!(
                "SELECT id FROM skep.{table} WHERE x > (SELECT x FROM skep.{table} WHERE id = 1) ORDER BY id"
            ),
            format!("SELECT count(*), count(DISTINCT x) FROM skep.{table}"),
            // Each engine shows times in its own way.
            match to.starts_with("TIMESTAMP") {
                true => format!(
                    "SELECT id, CAST(extract(epoch FROM x) * 1000 AS BIGINT) FROM skep.{table} ORDER BY id"
                ),
                false => format!("SELECT id, x FROM skep.{table} ORDER BY id"),
            },
        ];
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        court.agree(&queries).await;
        court.ours(&format!("INSERT INTO {table} SELECT id + 10, x, l FROM {table}")).await;
        court.theirs(&format!(
            "INSERT INTO skep.{table} SELECT id + 20, x, l FROM skep.{table} WHERE id < 10"
        ));
        court.agree(&queries).await;
        let found = court
            .client
            .rows(&format!(
                "SELECT id FROM {table} WHERE x = (SELECT x FROM {table} WHERE id = 1) ORDER BY id"
            ))
            .await
            .unwrap();
        assert_eq!(found, [["1"], ["11"], ["21"]], "{from} to {to}");
        court.ours(&format!("UPDATE {table} SET id = id + 100 WHERE id % 10 = 2")).await;
        court.agree(&queries[..4]).await;
    }
}

/// Fields that come and go inside a map, whoever says so, are read by their names from the files of both.
#[tokio::test]
async fn fields_inside_maps_come_and_go_for_both() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(mut court) = Court::open(&data, "judge_ddl::fields_inside_maps_come_and_go_for_both").await
    else {
        return;
    };
    court.ours("CREATE TABLE lake.maps (id INT, m MAP(VARCHAR, STRUCT<x INT, y INT>))").await;
    court
        .ours(
            "INSERT INTO lake.maps VALUES (1, MAP {'k': {'x': 7, 'y': 8}}), (2, NULL), (3, MAP {'k': NULL})",
        )
        .await;
    // What is named or typed otherwise, both read.
    court.ours("ALTER TABLE lake.maps RENAME COLUMN m.value.x TO a").await;
    court.ours("ALTER TABLE lake.maps ALTER COLUMN m.value.a TYPE BIGINT").await;
    court.agree(&["SELECT id, m['k']['a'] FROM skep.lake.maps ORDER BY id"]).await;
    court.theirs("ALTER TABLE skep.lake.maps ADD COLUMN m.value.b BIGINT");
    court.theirs("ALTER TABLE skep.lake.maps DROP COLUMN m.value.a");
    court.ours("ALTER TABLE lake.maps ADD COLUMN m.value.c VARCHAR DEFAULT 'c'").await;
    court.theirs("ALTER TABLE skep.lake.maps ADD COLUMN m.value.d INTEGER DEFAULT 5");
    let queries = [
        "SELECT id, m['k']['y'], m['k']['b'], m['k']['c'], m['k']['d'] FROM skep.lake.maps ORDER BY id",
        "SELECT id FROM skep.lake.maps WHERE m['k']['c'] = 'c' ORDER BY id",
        "SELECT id FROM skep.lake.maps WHERE m['k']['d'] IS NULL ORDER BY id",
        "SELECT count(*), count(m['k']['b']), max(m['k']['d']) FROM skep.lake.maps",
    ];
    court.agree(&queries).await;
    court.ours("INSERT INTO lake.maps VALUES (4, MAP {'k': {'y': 80, 'b': 90, 'c': 'own', 'd': 6}})").await;
    court.agree(&queries).await;
    court.ours("UPDATE lake.maps SET id = 10 WHERE m['k']['c'] = 'c'").await;
    court.agree(&queries).await;
    court.ours("ALTER TABLE lake.maps DROP COLUMN m.value.b").await;
    court.agree(&["SELECT id, m['k']['y'], m['k']['c'], m['k']['d'] FROM skep.lake.maps ORDER BY id"]).await;
}

/// A field inside a column has its default in the structs that were there, in files of both.
#[tokio::test]
async fn fields_have_defaults_for_both() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(mut court) = Court::open(&data, "judge_ddl::fields_have_defaults_for_both").await else {
        return;
    };
    court.ours("CREATE TABLE lake.n (id INT, s STRUCT<a INT>, l STRUCT<a INT>[])").await;
    court.ours("INSERT INTO lake.n VALUES (1, {'a': 1}, [{'a': 10}, NULL]), (2, NULL, NULL), (3, {'a': NULL}, [])").await;
    court.theirs("INSERT INTO skep.lake.n VALUES (4, {'a': 4}, [{'a': 40}]), (5, NULL, NULL)");
    court
        .ours(
            "ALTER TABLE lake.n ADD COLUMN s.t VARCHAR DEFAULT 'it''s', ADD COLUMN s.d DATE DEFAULT DATE '2024-02-29', \
             ADD COLUMN l.element.p DECIMAL(9, 2) DEFAULT 1.5",
        )
        .await;
    court.theirs("ALTER TABLE skep.lake.n ADD COLUMN s.n INTEGER DEFAULT 7");
    let queries = [
        "SELECT id, s.a, s.t, s.d, s.n, l[1]['p'] FROM skep.lake.n ORDER BY id",
        "SELECT id FROM skep.lake.n WHERE s.t = 'it''s' ORDER BY id",
        "SELECT id FROM skep.lake.n WHERE s.t IS NULL ORDER BY id",
        "SELECT id FROM skep.lake.n WHERE s.n > 6 AND s.d = DATE '2024-02-29' ORDER BY id",
        "SELECT count(*), count(s.n), min(s.t), max(s.d), min(l[1]['p']) FROM skep.lake.n",
    ];
    court.agree(&queries).await;
    court
        .ours(
            "INSERT INTO lake.n VALUES (6, {'a': 6, 't': 'six', 'd': NULL, 'n': 60}, [{'a': 6, 'p': 2.25}])",
        )
        .await;
    court.agree(&queries).await;
    court.theirs("INSERT INTO skep.lake.n VALUES (7, {'a': 7, 't': 'seven', 'd': NULL, 'n': NULL}, [{'a': 7, 'p': 3.5}]), (8, NULL, NULL)");
    court.agree(&queries).await;
    court.theirs("DELETE FROM skep.lake.n WHERE id = 3");
    court.agree(&queries).await;
    court.ours("UPDATE lake.n SET id = id + 10 WHERE s.t = 'it''s'").await;
    court.agree(&queries).await;
    // What they write after a field was renamed is refused, so that comes last.
    court.ours("ALTER TABLE lake.n RENAME COLUMN s.t TO u, DROP COLUMN s.a").await;
    court.ours("ALTER TABLE lake.n ADD COLUMN s.v BIGINT DEFAULT 9").await;
    court
        .agree(&[
            "SELECT id, s.u, s.v, l[1]['p'] FROM skep.lake.n ORDER BY id",
            "SELECT id FROM skep.lake.n WHERE s.u = 'it''s' AND s.v = 9 ORDER BY id",
            "SELECT id FROM skep.lake.n WHERE s.v IS NULL ORDER BY id",
        ])
        .await;
}

#[tokio::test]
async fn duckdb_follows_our_alterations() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(mut court) = Court::open(&data, "judge_ddl::duckdb_follows_our_alterations").await else {
        return;
    };
    court.ours("CREATE TABLE lake.t (id INT, name VARCHAR, f REAL, s STRUCT<a INT, b VARCHAR>)").await;
    court.ours("INSERT INTO lake.t VALUES (1, 'one', 0.1, {'a': 1, 'b': 'x'}), (2, 'two', 0.7, {'a': 2, 'b': 'y'})").await;
    court.ours("ALTER TABLE lake.t ADD COLUMN region VARCHAR DEFAULT 'EU', ADD COLUMN n INT, ADD COLUMN d DATE DEFAULT DATE '2024-02-29'").await;
    let added = [
        "SELECT id, region, n, d FROM skep.lake.t ORDER BY id",
        "SELECT id FROM skep.lake.t WHERE region = 'EU' ORDER BY id",
        "SELECT count(*) FROM skep.lake.t WHERE region = 'US'",
        "SELECT count(*) FROM skep.lake.t WHERE n IS NULL",
        "SELECT count(*), count(n), min(region), max(region), max(d) FROM skep.lake.t",
        "SELECT id FROM skep.lake.t WHERE d = DATE '2024-02-29' ORDER BY id",
        "SELECT id FROM skep.lake.t WHERE region >= 'E' AND region < 'F' ORDER BY region, id",
    ];
    court.agree(&added).await;
    court.ours("INSERT INTO lake.t (id, region, n) VALUES (3, 'US', 30), (4, NULL, 40)").await;
    court.agree(&added).await;
    court
        .agree(&[
            "SELECT id FROM skep.lake.t WHERE n > 30",
            "SELECT id FROM skep.lake.t WHERE region IS NULL",
        ])
        .await;

    court.ours("ALTER TABLE lake.t RENAME COLUMN name TO title").await;
    court.ours("ALTER TABLE lake.t ALTER COLUMN id TYPE BIGINT, ALTER COLUMN f TYPE DOUBLE").await;
    court.ours("INSERT INTO lake.t (id, title, f) VALUES (5000000000, 'big', 0.1)").await;
    court
        .agree(&[
            "SELECT id, title, region FROM skep.lake.t ORDER BY id",
            "SELECT id FROM skep.lake.t WHERE title = 'two'",
            "SELECT id FROM skep.lake.t WHERE id > 4000000000",
            "SELECT id FROM skep.lake.t WHERE f > 0.2e0 ORDER BY id",
            "SELECT max(f) > 0.7e0, min(f) FROM skep.lake.t",
            "SELECT id FROM skep.lake.t WHERE id <= 2 ORDER BY id DESC",
        ])
        .await;

    // Apart, because what DuckDB writes after a field inside a column was renamed is refused.
    court.ours("CREATE TABLE lake.n AS SELECT id, s FROM lake.t WHERE id < 3").await;
    court.ours("ALTER TABLE lake.n ADD COLUMN s.c BIGINT, RENAME COLUMN s.a TO aa").await;
    court.ours("INSERT INTO lake.n (id, s) VALUES (6, {'aa': 6, 'b': 'z', 'c': 60})").await;
    court.ours("ALTER TABLE lake.n DROP COLUMN s.b").await;
    court
        .agree(&[
            "SELECT id, s.aa, s.c FROM skep.lake.n WHERE s IS NOT NULL ORDER BY id",
            "SELECT id FROM skep.lake.n WHERE s.aa = 2",
            "SELECT id FROM skep.lake.n WHERE s.c = 60",
        ])
        .await;

    court.ours("ALTER TABLE lake.t DROP COLUMN title").await;
    court.ours("ALTER TABLE lake.t ADD COLUMN title VARCHAR").await;
    court.ours("UPDATE lake.t SET title = 'again' WHERE id = 1").await;
    court
        .agree(&[
            "SELECT id, title, region, n FROM skep.lake.t ORDER BY id",
            "SELECT id FROM skep.lake.t WHERE title = 'again'",
            "SELECT count(*) FROM skep.lake.t WHERE title IS NULL",
        ])
        .await;
    court
        .ours("ALTER TABLE lake.t SET TBLPROPERTIES ('owner' = 'me'), ADD CONSTRAINT positive CHECK (id > 0)")
        .await;
    court.ours("COMMENT ON TABLE lake.t IS 'judged'").await;
    court.ours("COMMENT ON COLUMN lake.t.id IS 'a number'").await;
    let comments = "SELECT comment FROM duckdb_tables() WHERE database_name = 'skep' AND table_name = 't' \
                    UNION ALL SELECT comment FROM duckdb_columns() \
                    WHERE database_name = 'skep' AND table_name = 't' AND column_name = 'id'";
    let found = court.duckdb.run(&format!("{}{comments};", court.read)).unwrap();
    assert_eq!(found, [["judged"], ["a number"]]);
    court.ours("ALTER TABLE lake.t RENAME TO u").await;
    court.theirs("INSERT INTO skep.lake.u (id, title) VALUES (7, 'seven')");
    court.agree(&["SELECT id, title, region, n, d FROM skep.lake.u ORDER BY id"]).await;
    let shown = court.client.rows("SHOW TBLPROPERTIES lake.u").await.unwrap();
    assert_eq!(shown, [["owner", "me"]]);
    assert!(court.client.update("INSERT INTO lake.u (id) VALUES (-1)").await.is_err());
}

#[tokio::test]
async fn duckdb_s_alterations_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(mut court) = Court::open(&data, "judge_ddl::duckdb_s_alterations_are_followed").await else {
        return;
    };
    court.ours("CREATE TABLE lake.t (id INT, name VARCHAR, f REAL)").await;
    court.ours("INSERT INTO lake.t VALUES (1, 'one', 0.1), (2, 'two', 0.7)").await;
    court.theirs("ALTER TABLE skep.lake.t ADD COLUMN region VARCHAR DEFAULT 'EU'");
    court.theirs("INSERT INTO skep.lake.t VALUES (3, 'three', 0.3, 'US')");
    court.theirs("ALTER TABLE skep.lake.t RENAME COLUMN name TO title");
    court.theirs("INSERT INTO skep.lake.t VALUES (4, 'four', 0.4, NULL)");
    court.ours("INSERT INTO lake.t VALUES (5, 'five', 0.5, 'ASIA')").await;
    let queries = [
        "SELECT id, title, region FROM skep.lake.t ORDER BY id",
        "SELECT id FROM skep.lake.t WHERE title IN ('one', 'three', 'four', 'five') ORDER BY id",
        "SELECT id FROM skep.lake.t WHERE region = 'EU' ORDER BY id",
        "SELECT count(*) FROM skep.lake.t WHERE region IS NULL",
        "SELECT id FROM skep.lake.t WHERE f > 0.2e0 ORDER BY id",
    ];
    court.agree(&queries).await;
    court.theirs("ALTER TABLE skep.lake.t ALTER COLUMN f TYPE DOUBLE");
    court.theirs("ALTER TABLE skep.lake.t ALTER COLUMN id TYPE BIGINT");
    court.agree(&queries).await;
    // A name that another column had: in their files it is the new one, in ours and the older ones it is not.
    court.theirs("ALTER TABLE skep.lake.t ADD COLUMN name VARCHAR DEFAULT 'new'");
    court.theirs("INSERT INTO skep.lake.t VALUES (6, 'six', 0.6, 'US', 'own')");
    court.ours("INSERT INTO lake.t VALUES (7, 'seven', 0.7, 'US', 'ours')").await;
    court.agree(&queries).await;
    court
        .agree(&[
            "SELECT id, title, name FROM skep.lake.t ORDER BY id",
            "SELECT id FROM skep.lake.t WHERE name = 'new' ORDER BY id",
            "SELECT id FROM skep.lake.t WHERE name IN ('own', 'ours') ORDER BY id",
        ])
        .await;
    court.ours("UPDATE lake.t SET region = 'X' WHERE title = 'four' OR name = 'new' AND id < 3").await;
    court.agree(&queries[..1]).await;
    court.theirs("ALTER TABLE skep.lake.t DROP COLUMN title");
    court.agree(&["SELECT * FROM skep.lake.t ORDER BY id"]).await;
}

#[tokio::test]
async fn duckdb_reads_partitions_and_writes_some() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let name = "judge_ddl::duckdb_reads_partitions_and_writes_some";
    let Some(mut court) = Court::open(&data, name).await else { return };
    court
        .ours(
            "CREATE TABLE lake.p (id BIGINT, region VARCHAR, ts TIMESTAMP, atz TIMESTAMP WITH TIME ZONE, \
             price DECIMAL(10, 3), ok BOOLEAN, day DATE) \
             PARTITIONED BY (region, year(ts), month(day), bucket(4, id))",
        )
        .await;
    court
        .ours(
            "INSERT INTO lake.p SELECT value, CASE value % 3 WHEN 0 THEN 'EU' WHEN 1 THEN 'a/b c=1' END, \
             arrow_cast(1698796800000000 + value * 86400000000, 'Timestamp(Microsecond, None)'), \
             arrow_cast(1698796800000000 + value * 3600000000, 'Timestamp(Microsecond, Some(\"UTC\"))'), value / 4.0, value % 2 = 0, \
             DATE '2024-01-31' FROM generate_series(1, 120) AS g(value)",
        )
        .await;
    let queries = [
        "SELECT count(*), sum(id) FROM skep.lake.p",
        "SELECT count(*) FROM skep.lake.p WHERE region = 'a/b c=1'",
        "SELECT count(*) FROM skep.lake.p WHERE region IS NULL",
        "SELECT id, region FROM skep.lake.p WHERE id = 77",
        "SELECT id FROM skep.lake.p WHERE ts >= TIMESTAMP '2024-02-01 00:00:00' ORDER BY id",
        "SELECT count(*) FROM skep.lake.p WHERE day = DATE '2024-01-31'",
        "SELECT region, count(*) FROM skep.lake.p GROUP BY region ORDER BY region",
    ];
    court.agree(&queries).await;
    court.theirs("INSERT INTO skep.lake.p (id, region, ts) VALUES (500, 'EU', TIMESTAMP '2025-05-05 00:00:00'), (501, NULL, NULL)");
    court.agree(&queries).await;
    court
        .agree(&["SELECT id FROM skep.lake.p WHERE id = 500", "SELECT id FROM skep.lake.p WHERE id = 501"])
        .await;
    let partitions = court.client.rows("SHOW PARTITIONS lake.p").await.unwrap();
    assert!(partitions.iter().any(|row| row[0].starts_with("region=EU/ts_year=2025")), "{partitions:?}");
    let rows: u64 = partitions.iter().map(|row| row[2].parse::<u64>().unwrap()).sum();
    assert_eq!(rows, 122, "{partitions:?}");
    // Buckets agree: a file of theirs and one of ours with one key have one bucket.
    for ty in ["INT", "VARCHAR"] {
        let table = format!("lake.b_{}", ty.to_lowercase());
        court.ours(&format!("CREATE TABLE {table} (k {ty}) PARTITIONED BY (bucket(16, k))")).await;
        court
            .ours(&format!(
                "INSERT INTO {table} SELECT CAST(value AS {ty}) FROM generate_series(1, 40) AS g(value)"
            ))
            .await;
        let ours = court.client.rows(&format!("SHOW PARTITIONS {table}")).await.unwrap();
        court.theirs(&format!("INSERT INTO skep.{table} SELECT CAST(range AS {ty}) FROM range(1, 41)"));
        let both = court.client.rows(&format!("SHOW PARTITIONS {table}")).await.unwrap();
        let doubled =
            |row: &Vec<String>| vec![row[0].clone(), (row[2].parse::<u64>().unwrap() * 2).to_string()];
        let wanted: Vec<_> = ours.iter().map(doubled).collect();
        let found: Vec<_> = both.iter().map(|row| vec![row[0].clone(), row[2].clone()]).collect();
        assert_eq!(found, wanted, "{ty}");
    }
    court.ours("ALTER TABLE lake.p RESET PARTITIONED BY, SET SORTED BY (region, id DESC)").await;
    court.ours("INSERT INTO lake.p (id, region) VALUES (600, 'EU'), (601, 'EU')").await;
    court.theirs("INSERT INTO skep.lake.p (id, region) VALUES (602, 'EU')");
    court.agree(&queries).await;
}

/// What SHOW CREATE TABLE prints makes the same table again.
#[tokio::test]
async fn shown_tables_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments =
        ["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&arguments).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    let made = r#"CREATE TABLE lake.everything (
    id BIGINT NOT NULL DEFAULT 7 COMMENT 'the key',
    "Odd Name" VARCHAR DEFAULT 'it''s',
    d DECIMAL(12, 3) DEFAULT -0.500,
    b BINARY,
    at TIMESTAMP,
    atz TIMESTAMP WITH TIME ZONE,
    day DATE DEFAULT CAST('2024-02-29' AS DATE),
    t TIME,
    l VARCHAR[],
    s STRUCT<a INTEGER, "B c" STRUCT<x DOUBLE>[]>,
    m MAP(VARCHAR, DECIMAL(5, 1)),
    u TINYINT UNSIGNED,
    ms TIMESTAMP(3),
    CONSTRAINT check_1 CHECK ("Odd Name" <> '' OR d IS NULL),
    CONSTRAINT positive CHECK (id > 0)
)
COMMENT 'all of it'
PARTITIONED BY (day, month(at), bucket(8, id))
SORTED BY (id DESC NULLS FIRST, "Odd Name")
TBLPROPERTIES ('owner' = 'me', 'skep.file_size' = '64 MiB')"#;
    client.update(made).await.unwrap();
    for _ in 0..2 {
        let shown = client.rows("SHOW CREATE TABLE lake.everything").await.unwrap();
        assert_eq!(shown, [[made]]);
        client.update("DROP TABLE lake.everything").await.unwrap();
        client.update(&shown[0][0]).await.unwrap();
    }
    client
        .update("ALTER TABLE lake.everything RENAME COLUMN id TO number, ADD COLUMN more INT DEFAULT 1")
        .await
        .unwrap();
    let altered = client.rows("SHOW CREATE TABLE lake.everything").await.unwrap();
    client.update("CREATE TABLE lake.other LIKE lake.everything").await.unwrap();
    let other = client.rows("SHOW CREATE TABLE lake.other").await.unwrap();
    assert_eq!(other[0][0].replace("lake.other", "lake.everything"), altered[0][0]);
    assert!(
        altered[0][0].contains("bucket(8, number)") && altered[0][0].contains("CHECK (number > 0)"),
        "{altered:?}"
    );
}
