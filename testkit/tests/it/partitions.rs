//! Partitions from outside: which files a statement replaces, which a query reads, and what two writers may do at once.

use skep_common::Kind;
use skep_testkit::client::Client;
use skep_testkit::process::Server;

fn up(folder: &tempfile::TempDir) -> Server {
    let data = folder.path().join("data");
    let mut arguments = vec!["up", "--data", data.to_str().unwrap(), "--workers", "3"];
    arguments.extend(["--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    Server::start(&arguments).unwrap()
}

/// The part of EXPLAIN that `name` names.
async fn explained(client: &mut Client, sql: &str, name: &str) -> String {
    let rows = client.rows(&format!("EXPLAIN {sql}")).await.unwrap();
    let part = rows.iter().find(|row| row[0] == name);
    part.unwrap_or_else(|| panic!("{sql} has no {name}: {rows:?}"))[1].clone()
}

#[tokio::test]
async fn explain_says_which_partitions_give_way() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(&folder);
    let mut client = Client::connect(server.flight()).await.unwrap();
    for sql in [
        "CREATE TABLE t (id INT, a INT, b VARCHAR) PARTITIONED BY (a, b)",
        "INSERT INTO t VALUES (1, 1, 'x'), (2, 1, 'y'), (3, 2, 'x')",
        "INSERT INTO t VALUES (4, 1, 'x')",
    ] {
        client.update(sql).await.unwrap();
    }
    let replaced =
        explained(&mut client, "INSERT OVERWRITE t PARTITION (a = 1, b = 'x') SELECT 5", "replaced").await;
    assert_eq!(
        replaced,
        "main.t: of 4 files 2 are replaced, and 0 are looked into for rows with a = 1, b = x"
    );
    let sql = "INSERT OVERWRITE t PARTITION (a = 1, b) SELECT 5, 'x'";
    let replaced = explained(&mut client, sql, "replaced").await;
    assert_eq!(replaced, "main.t: of 4 files those of the partitions that rows are written to are replaced");
    let replaced = explained(&mut client, "INSERT OVERWRITE t SELECT 5, 1, 'x'", "replaced").await;
    assert_eq!(replaced, "main.t: all 4 files are replaced");
    assert_eq!(client.rows("SELECT count(*) FROM t").await.unwrap(), [["4"]]);

    client.update("ALTER TABLE t SET PARTITIONED BY (b)").await.unwrap();
    let replaced =
        explained(&mut client, "INSERT OVERWRITE t PARTITION (b = 'x') SELECT 5, 1", "replaced").await;
    assert_eq!(replaced, "main.t: of 4 files 0 are replaced, and 4 are looked into for rows with b = x");
    assert_eq!(client.update("INSERT OVERWRITE t PARTITION (b = 'x') SELECT 5, 1").await.unwrap(), 1);
    let rows = client.rows("SELECT id FROM t ORDER BY id").await.unwrap();
    assert_eq!(rows, [["2"], ["5"]]);
}

/// Rows that take the place of others conflict with those that are added in the meantime, even where there were none.
#[tokio::test]
async fn an_overwrite_is_a_delete_and_an_append() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(&folder);
    let mut one = Client::connect(server.flight()).await.unwrap();
    let mut two = Client::connect(server.flight()).await.unwrap();
    one.update("CREATE TABLE t (id INT, a INT) PARTITIONED BY (a)").await.unwrap();
    one.update("INSERT INTO t VALUES (1, 1), (2, 2)").await.unwrap();
    let overwrites = [
        "INSERT OVERWRITE t PARTITION (a = 1) VALUES (10)",
        // Nothing is there to give way.
        "INSERT OVERWRITE t PARTITION (a = 7) VALUES (70)",
        "INSERT OVERWRITE t PARTITION (a) VALUES (80, 8)",
    ];
    for sql in overwrites {
        one.update("BEGIN").await.unwrap();
        one.update(sql).await.unwrap();
        two.update("INSERT INTO t VALUES (3, 3)").await.unwrap();
        let error = one.update("COMMIT").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{sql}: {error:?}");
        assert!(error.message().contains("inserted rows into table"), "{error:?}");

        // The other way around.
        one.update("BEGIN").await.unwrap();
        one.update("INSERT INTO t VALUES (4, 4)").await.unwrap();
        two.update(sql).await.unwrap();
        let error = one.update("COMMIT").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{sql}: {error:?}");
        assert!(error.message().contains("deleted rows of table"), "{error:?}");
    }
    // Outside a transaction a statement is decided again.
    let (a, b) = tokio::join!(
        one.update("INSERT OVERWRITE t PARTITION (a = 9) VALUES (90)"),
        two.update("INSERT OVERWRITE t PARTITION (a = 9) VALUES (91)"),
    );
    assert_eq!((a.unwrap(), b.unwrap()), (1, 1));
    let nine = one.rows("SELECT count(*) FROM t WHERE a = 9").await.unwrap();
    assert_eq!(nine, [["1"]], "one took the place of the other");
    assert_eq!(one.rows("SELECT count(*) FROM t WHERE a = 4").await.unwrap(), [["0"]]);
    // The whole table, which is empty.
    one.update("CREATE TABLE e (id INT)").await.unwrap();
    one.update("BEGIN").await.unwrap();
    one.update("INSERT OVERWRITE e VALUES (1)").await.unwrap();
    two.update("INSERT INTO e VALUES (2)").await.unwrap();
    assert_eq!(one.update("COMMIT").await.unwrap_err().kind(), Kind::Conflict);
    // What commutes still does.
    one.update("BEGIN").await.unwrap();
    one.update("INSERT INTO t PARTITION (a = 5) VALUES (50)").await.unwrap();
    two.update("INSERT INTO t PARTITION (a = 5) VALUES (51)").await.unwrap();
    one.update("COMMIT").await.unwrap();
    assert_eq!(one.rows("SELECT count(*) FROM t WHERE a = 5").await.unwrap(), [["2"]]);
}

/// Files read of all, as EXPLAIN counts them.
async fn files(client: &mut Client, sql: &str) -> (usize, usize) {
    let scans = explained(client, sql, "scans").await;
    let counts = scans.split(": ").nth(1).unwrap_or_else(|| panic!("{scans}"));
    let mut numbers = counts.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

/// Functions of the columns that a table is partitioned by leave the files of other partitions out, and no rows.
#[tokio::test]
async fn functions_of_partition_columns_choose_files() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(&folder);
    let mut client = Client::connect(server.flight()).await.unwrap();
    // 24 months, each of them once in every year; hours 0, 6, 12 and 18.
    let source = "SELECT CAST(x AS INT) AS id, \
                  CAST(make_date(CAST(2023 + x / 12 AS INT), CAST(x % 12 + 1 AS INT), 15) AS TIMESTAMP) + CASE x % 4 \
                  WHEN 0 THEN INTERVAL '30 minutes' WHEN 1 THEN INTERVAL '390 minutes' \
                  WHEN 2 THEN INTERVAL '750 minutes' ELSE INTERVAL '1110 minutes' END AS at \
                  FROM generate_series(0, 23) AS g(x) UNION ALL SELECT 100, NULL";
    client.update(&format!("CREATE TABLE plain AS {source}")).await.unwrap();
    let layouts = [
        ("by_month", "month(at)", 13),
        ("by_year", "year(at)", 3),
        ("by_both", "year(at), month(at)", 25),
        ("by_hour", "hour(at)", 5),
        ("by_day", "year(at), day(at)", 3),
        ("by_id", "bucket(8, id)", 8),
    ];
    for (table, keys, _) in layouts {
        client.update(&format!("CREATE TABLE {table} PARTITIONED BY ({keys}) AS {source}")).await.unwrap();
    }
    client
        .update("CREATE TABLE by_date (id INT, at TIMESTAMP, day DATE) PARTITIONED BY (day)")
        .await
        .unwrap();
    client
        .update(&format!("INSERT INTO by_date SELECT id, at, CAST(at AS DATE) AS day FROM ({source})"))
        .await
        .unwrap();
    // Table, condition, files that are read.
    let cases = [
        ("by_month", "month(at) = 3", 1),
        ("by_month", "extract(MONTH FROM at) = 3", 1),
        ("by_month", "date_part('month', at) IN (3, 7)", 2),
        ("by_month", "month(at) BETWEEN 3 AND 5", 3),
        ("by_month", "month(at) > 10", 2),
        ("by_month", "month(at) <> 10", 11),
        ("by_month", "month(at) IN (1, 2, 3) AND NOT month(at) = 2", 2),
        ("by_month", "quarter(at) = 2", 12),
        ("by_year", "year(at) = 2024", 1),
        ("by_year", "extract(year FROM at) IN (2023, 2024)", 2),
        ("by_year", "year(at) BETWEEN 2025 AND 2030", 0),
        ("by_year", "date_trunc('year', at) = TIMESTAMP '2024-01-01 00:00:00'", 1),
        ("by_both", "month(at) = 3", 2),
        ("by_both", "year(at) = 2024 AND month(at) IN (3, 4)", 2),
        ("by_both", "date_trunc('month', at) = TIMESTAMP '2024-03-01 00:00:00'", 1),
        ("by_both", "date_trunc('day', at) >= TIMESTAMP '2024-11-01 00:00:00'", 2),
        ("by_both", "quarter(at) = 2", 6),
        ("by_both", "CAST(at AS DATE) = DATE '2024-03-15'", 1),
        ("by_both", "day(at) = 16", 0),
        ("by_both", "at IS NULL", 1),
        ("by_hour", "hour(at) = 6", 1),
        ("by_hour", "extract(hour FROM at) BETWEEN 7 AND 17", 1),
        ("by_day", "day(at) = 15 AND year(at) = 2024", 1),
        ("by_day", "day(at) IN (1, 2)", 0),
        ("by_id", "id = 5", 1),
        ("by_date", "month(day) = 3", 2),
        ("by_date", "extract(MONTH FROM day) IN (3, 4) AND extract(YEAR FROM day) = 2023", 2),
        ("by_date", "date_trunc('month', day) = DATE '2023-03-01'", 1),
    ];
    for lane in ["local", "pipelined"] {
        client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        for (table, condition, read) in cases {
            let sql = format!("SELECT id FROM {table} WHERE {condition} ORDER BY id");
            if lane == "local" {
                let all = layouts.iter().find(|(name, ..)| *name == table).map_or(25, |(.., all)| *all);
                assert_eq!(files(&mut client, &sql).await, (read, all), "{sql}");
            }
            let plain = sql.replace(table, "plain").replace("(day)", "(at)").replace("FROM day)", "FROM at)");
            let plain = plain.replace("month', day", "month', at");
            let expected = client.rows(&plain).await.unwrap();
            assert_eq!(client.rows(&sql).await.unwrap(), expected, "{sql}");
        }
    }
    // A change of keys leaves the old files to their bounds.
    client.update("ALTER TABLE by_month SET PARTITIONED BY (hour(at))").await.unwrap();
    assert_eq!(files(&mut client, "SELECT id FROM by_month WHERE month(at) = 3").await, (12, 13));
    let rows = client.rows("SELECT id FROM by_month WHERE month(at) = 3 ORDER BY id").await.unwrap();
    assert_eq!(rows, [["2"], ["14"]]);
}

/// Rows that all go to one partition keep every worker busy; rows of several go to a writer for each.
#[tokio::test]
async fn one_partition_has_several_writers() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(&folder);
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE source (x BIGINT)").await.unwrap();
    for part in 0..3 {
        let (first, last) = (part * 10_000 + 1, part * 10_000 + 10_000);
        let rows = format!("INSERT INTO source SELECT x FROM generate_series({first}, {last}) AS g(x)");
        client.update(&rows).await.unwrap();
    }
    client.update("SET skep.execution = pipelined").await.unwrap();
    client.update("CREATE TABLE t (id BIGINT, at DATE, k INT) PARTITIONED BY (k, year(at))").await.unwrap();
    let source = "FROM source";
    let one = format!("INSERT INTO t PARTITION (k = 1) SELECT x, DATE '2024-02-29' {source}");
    let several =
        format!("INSERT INTO t PARTITION (k) SELECT x, DATE '2024-02-29', CAST(x % 4 + 10 AS INT) {source}");
    assert_eq!(client.update(&one).await.unwrap(), 30_000);
    assert_eq!(client.update(&several).await.unwrap(), 30_000);
    let rows = client.rows("SELECT k, count(DISTINCT id) FROM t GROUP BY k ORDER BY k").await.unwrap();
    assert_eq!(rows, [["1", "30000"], ["10", "7500"], ["11", "7500"], ["12", "7500"], ["13", "7500"]]);
    let (of_one, all) = self::files(&mut client, "SELECT * FROM t WHERE k = 1").await;
    assert!(of_one >= 2, "{of_one} files of {all}");
    assert_eq!(self::files(&mut client, "SELECT * FROM t WHERE k > 1").await, (4, of_one + 4));
}
