//! Queries that are watched, and ended from outside.

use std::path::Path;

use skep_common::task::{self, Task};
use skep_common::{Error, Kind, Result, clock};
use skep_testkit::client::Client;
use skep_testkit::postgres::Postgres;
use skep_testkit::process::{PATIENCE, Server, skep};
use skep_testkit::skip;
use sqlx::ConnectOptions;
use sqlx::any::AnyConnectOptions;

/// Far more rows than anybody waits for, and one row of them.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000000000) AS s(v) WHERE v % 2 = 0";

fn up(data: &Path, catalog: Option<&str>) -> Server {
    let mut command = skep(&[
        "up",
        "--data",
        data.to_str().unwrap(),
        "--store=file",
        "--flight=127.0.0.1:0",
        "--http=127.0.0.1:0",
        "--workers=2",
    ]);
    if let Some(catalog) = catalog {
        command.env("SKEP_CATALOG", catalog);
    }
    Server::start_command(command).unwrap()
}

/// Asks until `wanted` likes the rows.
async fn until(client: &mut Client, sql: &str, wanted: impl Fn(&[Vec<String>]) -> bool) -> Vec<Vec<String>> {
    let clock = clock::system();
    let end = clock.instant() + PATIENCE;
    loop {
        let rows = client.rows(sql).await.unwrap();
        if wanted(&rows) {
            return rows;
        }
        assert!(clock.instant() < end, "what was waited for does not come: {sql}\n{rows:?}");
        tokio::task::yield_now().await;
    }
}

/// The id of the statement that runs and has `mark` in it.
async fn running(client: &mut Client, mark: &str) -> String {
    let sql = format!(
        "SELECT query_id FROM system.queries WHERE state = 'running' AND statement LIKE '%{mark}%' \
         AND statement NOT LIKE '%system.queries%'"
    );
    until(client, &sql, |rows| rows.len() == 1).await[0][0].clone()
}

/// Starts a statement in a session of its own.
async fn start(url: &str, sql: &str) -> Task<Result<()>> {
    let (mut client, sql) = (Client::connect(url).await.unwrap(), sql.to_owned());
    task::spawn("statement", async move { client.run(&sql).await.map(drop) })
}

async fn killed(task: Task<Result<()>>) -> Error {
    task.join().await.unwrap().unwrap_err()
}

#[tokio::test]
async fn every_statement_is_seen_with_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path(), None);
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 1000)").await.unwrap();
    client.query("SELECT v FROM t").await.unwrap();
    client.query("SELECT nosuch FROM t").await.unwrap_err();
    client.update("INSERT INTO t VALUES ('one')").await.unwrap_err();
    client.query("SELEC 1").await.unwrap_err();
    client.update("DROP TABLE t").await.unwrap();
    let seen = client
        .rows("SELECT statement, state, rows, error_kind, user_name, lane FROM system.queries ORDER BY query_id")
        .await
        .unwrap();
    let seen: Vec<String> = seen.iter().map(|row| row.join(" | ")).collect();
    assert_eq!(
        seen,
        [
            "CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 1000) | finished | 1000 | NULL | test | local",
            "SELECT v FROM t | finished | 1000 | NULL | test | local",
            "SELECT nosuch FROM t | failed | NULL | invalid | test | NULL",
            "INSERT INTO t VALUES ('one') | failed | NULL | invalid | test | local",
            "SELEC 1 | failed | NULL | invalid | test | NULL",
            "DROP TABLE t | finished | NULL | NULL | test | NULL",
            // It sees itself as it was when it looked.
            "SELECT statement, state, rows, error_kind, user_name, lane FROM system.queries ORDER BY query_id \
             | running | 0 | NULL | test | local",
        ]
    );
}

#[tokio::test]
async fn a_query_is_killed_from_another_session() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path(), None);
    let mut client = Client::connect(server.flight()).await.unwrap();
    let statements = [
        ENDLESS.to_owned(),
        format!("CREATE TABLE t AS {ENDLESS}"),
        "SELECT v FROM generate_series(1, 1000000000000) AS s(v)".to_owned(),
        format!("EXPLAIN ANALYZE {ENDLESS}"),
    ];
    for statement in &statements {
        let task = start(server.flight(), statement).await;
        let id = running(&mut client, "generate_series").await;
        client.update(&format!("KILL QUERY '{id}'")).await.unwrap();
        let error = killed(task).await;
        assert_eq!(error.kind(), Kind::Cancelled, "{statement}: {error:?}");
        assert!(error.message().contains("was killed by 'test'"), "{statement}: {error:?}");
        let state = format!("SELECT state, error FROM system.queries WHERE query_id = '{id}'");
        let rows = until(&mut client, &state, |rows| rows[0][0] == "cancelled").await;
        assert!(rows[0][1].contains("was killed by 'test'"), "{rows:?}");
        let again = client.update(&format!("KILL QUERY '{id}'")).await.unwrap_err();
        assert_eq!(again.kind(), Kind::Invalid, "{again:?}");
        assert!(again.message().contains("has ended"), "{again:?}");
    }
    assert_eq!(
        client.rows("SELECT count(*) FROM information_schema.tables WHERE table_name = 't'").await.unwrap(),
        [["0"]]
    );
    let error = client.update("KILL QUERY '01234567-89ab-7cde-8f01-23456789abcd'").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path(), None);
    let mut client = Client::connect(server.flight()).await.unwrap();
    let task = start(server.flight(), ENDLESS).await;
    let id = running(&mut client, "generate_series").await;
    drop(task);
    let sql = format!("SELECT state, error FROM system.queries WHERE query_id = '{id}'");
    until(&mut client, &sql, |rows| rows[0][0] == "cancelled").await;
}

/// Waits until the history in the database has a query that runs.
async fn written(url: &str) {
    sqlx::any::install_default_drivers();
    let url: url::Url = url.parse().unwrap();
    let mut db = AnyConnectOptions::from_url(&url).unwrap().connect().await.unwrap();
    let clock = clock::system();
    let end = clock.instant() + PATIENCE;
    loop {
        let sql = "SELECT count(*) FROM skep_queries WHERE state = 'running'";
        let row: (i64,) = sqlx::query_as(sql).fetch_one(&mut db).await.unwrap();
        if row.0 > 0 {
            return;
        }
        assert!(clock.instant() < end, "a query that runs is never written down");
        tokio::task::yield_now().await;
    }
}

async fn history(catalog: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = up(&data, catalog);
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t (v INT)").await.unwrap();
    client.query("SELECT nosuch FROM t").await.unwrap_err();
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");

    // What ended before a stop in order is there.
    let server = up(&data, catalog);
    let mut client = Client::connect(server.flight()).await.unwrap();
    let all = "SELECT statement, state, error_kind FROM system.queries \
               WHERE statement NOT LIKE '%system.queries%' ORDER BY query_id";
    let before = client.rows(all).await.unwrap();
    assert_eq!(
        before,
        [["CREATE TABLE t (v INT)", "finished", "NULL"], ["SELECT nosuch FROM t", "failed", "invalid"]]
    );

    // What runs while the coordinator is killed has failed.
    let task = start(server.flight(), ENDLESS).await;
    let id = running(&mut client, "generate_series").await;
    let file = format!("sqlite://{}", data.join("catalog.sqlite").display());
    written(catalog.unwrap_or(&file)).await;
    server.kill();
    drop(task);
    let server = up(&data, catalog);
    let mut client = Client::connect(server.flight()).await.unwrap();
    let sql = format!("SELECT state, error_kind, error FROM system.queries WHERE query_id = '{id}'");
    let rows = client.rows(&sql).await.unwrap();
    assert_eq!(rows, [["failed", "unavailable", "the coordinator stopped while the query ran"]]);
    let error = client.update(&format!("KILL QUERY '{id}'")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
}

#[tokio::test]
async fn a_restart_shows_what_was() {
    history(None).await;
}

#[tokio::test]
async fn a_restart_shows_what_was_on_postgres() {
    let Some(server) = Postgres::start() else {
        return skip("watching::a_restart_shows_what_was_on_postgres", "PostgreSQL");
    };
    history(Some(&server.url())).await;
}
