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
