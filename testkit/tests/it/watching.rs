//! Queries that are watched, and ended from outside.

use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use skep_catalog::{Catalog, OpenOptions};
use skep_common::task::{self, Task};
use skep_common::{Error, Kind, Result, clock};
use skep_testkit::client::Client;
use skep_testkit::postgres::Postgres;
use skep_testkit::process::{Output, PATIENCE, Server, skep};
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
async fn a_commit_that_has_begun_is_not_killed() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path(), None);
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t (v INT)").await.unwrap();
    // The lock that a commit takes first is ours.
    let catalog = Catalog::open(folder.path().join("catalog.sqlite"), OpenOptions::new("/nowhere/"));
    let catalog = catalog.await.unwrap();
    let lock = catalog.db().begin().await.unwrap();
    let task = start(server.flight(), "INSERT INTO t VALUES (7)").await;
    let finishing = "SELECT query_id FROM system.queries WHERE state = 'finishing'";
    let id = until(&mut client, finishing, |rows| rows.len() == 1).await[0][0].clone();
    let error = client.update(&format!("KILL QUERY '{id}'")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.message().contains("commit"), "{error:?}");
    drop(lock);
    task.join().await.unwrap().unwrap();
    assert_eq!(client.rows("SELECT v FROM t").await.unwrap(), [["7"]]);
    catalog.db().close().await;
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
    let file = format!("sqlite://{}", data.join("queries.sqlite").display());
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

/// A coordinator with resource groups, whose tables are files, and no workers.
fn coordinator(folder: &Path, groups: &str) -> std::result::Result<Server, Output> {
    let config = folder.join("coordinator.toml");
    let text = format!(
        "[coordinator]\ndata = {:?}\nstore = \"file\"\nmemory = \"512MiB\"\nflight = \"127.0.0.1:0\"\n\
         http = \"127.0.0.1:0\"\nlisten = \"127.0.0.1:0\"\n{groups}",
        folder.join("data")
    );
    std::fs::write(&config, text).unwrap();
    Server::start(&["coordinator", "--config", config.to_str().unwrap()])
}

async fn connect(server: &Server, group: &str) -> Client {
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update(&format!("SET skep.group = '{group}'")).await.unwrap();
    client
}

fn ask(mut client: Client, sql: &str) -> Task<Result<Vec<Vec<String>>>> {
    let sql = sql.to_owned();
    task::spawn("statement", async move { client.rows(&sql).await })
}

const COUNT: &str = "SELECT count(*) AS n FROM t";

#[tokio::test]
async fn statements_wait_for_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let groups = "[coordinator.groups.one]\nconcurrency = 1\nqueue = 1\n\
                  [coordinator.groups.hasty]\nconcurrency = 1\nqueue_timeout = \"10ms\"\n";
    let server = coordinator(folder.path(), groups).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 1000)").await.unwrap();

    let first = ask(connect(&server, "one").await, ENDLESS);
    let id = running(&mut client, "generate_series").await;
    for turn in ["killed in line", "has its turn"] {
        let second = ask(connect(&server, "one").await, COUNT);
        let queued = "SELECT query_id, resource_group FROM system.queries WHERE state = 'queued'";
        let rows = until(&mut client, queued, |rows| rows.len() == 1).await;
        assert_eq!(rows[0][1], "one");
        let line = "SELECT running, queued FROM system.groups WHERE resource_group = 'one'";
        assert_eq!(client.rows(line).await.unwrap(), [["1", "1"]]);

        let mut third = connect(&server, "one").await;
        let error = third.rows(COUNT).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
        assert!(error.message().contains("no more may"), "{error:?}");
        // What only looks is never held up.
        for looks in
            ["SELECT 1", "SHOW skep.group", "SELECT count(*) FROM system.workers", "EXPLAIN SELECT v FROM t"]
        {
            third.rows(looks).await.unwrap();
        }
        third.update("BEGIN").await.unwrap();
        third.update("COMMIT").await.unwrap();
        if turn == "killed in line" {
            third.update(&format!("KILL QUERY '{}'", rows[0][0])).await.unwrap();
            assert_eq!(second.join().await.unwrap().unwrap_err().kind(), Kind::Cancelled);
        } else {
            third.update(&format!("KILL QUERY '{id}'")).await.unwrap();
            assert_eq!(second.join().await.unwrap().unwrap(), [["1000"]]);
        }
    }
    assert_eq!(first.join().await.unwrap().unwrap_err().kind(), Kind::Cancelled);

    let first = ask(connect(&server, "hasty").await, ENDLESS);
    running(&mut client, "generate_series").await;
    let error = connect(&server, "hasty").await.rows(COUNT).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
    assert!(error.message().contains("for its turn in group 'hasty'"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("queue_timeout"), "{error:?}");
    drop(first);
}

#[tokio::test]
async fn groups_limit_time_bytes_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let groups = "[coordinator.groups.brief]\nrun_timeout = \"50ms\"\n\
                  [coordinator.groups.small]\nscan_bytes_max = \"1KiB\"\n\
                  [coordinator.groups.lean]\nmemory_percent = 2\n";
    let server = coordinator(folder.path(), groups).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 100000)").await.unwrap();

    let late = connect(&server, "brief").await.rows(ENDLESS).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Deadline, "{late:?}");
    assert!(late.hint_text().unwrap().contains("run_timeout of [coordinator.groups.brief]"), "{late:?}");

    let mut small = connect(&server, "small").await;
    let wide = small.rows("SELECT sum(v) FROM t").await.unwrap_err();
    assert_eq!(wide.kind(), Kind::Exhausted, "{wide:?}");
    assert!(wide.message().contains("group 'small' may read 1 KiB"), "{wide:?}");
    let write = small.update("CREATE TABLE u AS SELECT v FROM t").await.unwrap_err();
    assert_eq!(write.kind(), Kind::Exhausted, "{write:?}");
    small.rows("SELECT sum(v) FROM generate_series(1, 10) AS s(v)").await.unwrap();

    // One that is over its memory fails alone.
    let other = ask(connect(&server, "default").await, ENDLESS);
    let id = running(&mut client, "generate_series").await;
    let hungry = "SELECT array_length(array_agg(v)) FROM generate_series(1, 5000000) AS s(v)";
    let mut lean = connect(&server, "lean").await;
    let error = lean.rows(hungry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
    assert!(
        error.message().contains("operator '") && error.message().contains("of group 'lean' may take"),
        "{error:?}"
    );
    assert!(error.hint_text().unwrap().contains("memory_percent of [coordinator.groups.lean]"), "{error:?}");
    assert_eq!(running(&mut client, "generate_series").await, id);
    assert_eq!(connect(&server, "default").await.rows(hungry).await.unwrap(), [["5000000"]]);
    drop(other);

    let missing = client.update("SET skep.group = 'nosuch'").await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing:?}");
    assert!(missing.hint_text().unwrap().contains("'brief', 'default', 'lean', 'small'"), "{missing:?}");
    let shown = lean.rows("EXPLAIN SELECT v FROM t").await.unwrap();
    let group = shown.iter().find(|row| row[0] == "resource_group").unwrap();
    assert!(group[1].starts_with("lean: 100 run at a time"), "{group:?}");
}

#[test]
fn groups_with_wrong_keys_are_refused() {
    for (groups, named) in [
        ("[coordinator.groups.etl]\nconcurency = 1\n", "concurency"),
        ("[coordinator.groups.etl]\nmemory_percent = 101\n", "memory_percent"),
        ("[coordinator.groups.etl]\nconcurrency = 0\n", "nonzero"),
        ("[coordinator.groups.\"a b\"]\n", "'a b'"),
        ("[coordinator.queries]\nflush_interval = \"1ms\"\n", "flush_interval"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = coordinator(folder.path(), groups).unwrap_err();
        assert_eq!(output.code, Some(2), "{groups}: {output:?}");
        assert!(output.stderr.contains(named), "{groups}: {output:?}");
    }
}

#[tokio::test]
async fn progress_goes_from_nothing_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path(), None);
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t (v BIGINT)").await.unwrap();
    for file in 0..24 {
        let rows = format!("INSERT INTO t SELECT value FROM generate_series({file}01, {file}40)");
        client.update(&rows).await.unwrap();
    }
    client.update("SET skep.execution = 'local'").await.unwrap();
    // More than connections hold: the server waits for its reader.
    let mut reader = client.clone();
    let mut stream =
        reader.stream("SELECT repeat('0123456789', 10000 + v % 2) AS wide FROM t").await.unwrap();
    stream.next().await.unwrap().unwrap();
    let sql = "SELECT progress, remaining_ms, rows, query_id FROM system.queries WHERE statement LIKE '%AS wide%' \
               AND statement NOT LIKE '%system.queries%'";
    let seen = until(&mut client, sql, |rows| rows[0][0] != "NULL" && rows[0][0] != "0.0").await;
    let first: f64 = seen[0][0].parse().unwrap();
    assert!(first > 0.0 && first < 1.0, "{seen:?}");
    let remaining = &client.rows(sql).await.unwrap()[0][1];
    assert!(remaining.parse::<i64>().is_ok(), "the rest can be estimated: {remaining}");
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    let later: f64 = client.rows(sql).await.unwrap()[0][0].parse().unwrap();
    assert!((first..1.0).contains(&later), "{later} after {first}");
    let rest: Vec<_> = stream.try_collect().await.unwrap();
    assert!(!rest.is_empty());
    let seen = until(&mut client, sql, |rows| rows[0][0] == "1.0").await;
    assert_eq!(seen[0][1..3], ["NULL", "960"], "{seen:?}");
}

/// Workers say how far they are, and what memory they used.
#[tokio::test]
async fn pipelined_queries_have_progress_too() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path(), None);
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t (v BIGINT)").await.unwrap();
    for file in 0..24 {
        let rows = format!("INSERT INTO t SELECT value FROM generate_series({file}01, {file}40)");
        client.update(&rows).await.unwrap();
    }
    client.update("SET skep.execution = 'pipelined'").await.unwrap();
    let mut reader = client.clone();
    let mut stream = reader
        .stream("SELECT repeat('0123456789', 10000 + m % 2) AS wide FROM (SELECT v % 900 AS m, max(v) FROM t GROUP BY 1)")
        .await
        .unwrap();
    stream.next().await.unwrap().unwrap();
    let sql = "SELECT progress, memory_bytes, lane FROM system.queries WHERE statement LIKE '%AS wide%' \
               AND statement NOT LIKE '%system.queries%'";
    let seen = until(&mut client, sql, |rows| rows[0][0] != "NULL" && rows[0][0] != "0.0").await;
    assert_eq!(seen[0][2], "pipelined");
    assert!((0.0..=1.0).contains(&seen[0][0].parse::<f64>().unwrap()), "{seen:?}");
    until(&mut client, sql, |rows| rows[0][1].parse::<u64>().is_ok_and(|bytes| bytes > 0)).await;
    let rest: Vec<_> = stream.try_collect().await.unwrap();
    assert!(!rest.is_empty());
}

#[tokio::test]
async fn stages_and_tasks_say_where_work_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let server =
        Server::start(&["up", "--data", data, "--flight=127.0.0.1:0", "--http=127.0.0.1:0", "--workers=2"]);
    let server = server.unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 1000)").await.unwrap();
    client.update("INSERT INTO t SELECT value FROM generate_series(1001, 2000)").await.unwrap();
    client.update("SET skep.execution = 'pipelined'").await.unwrap();
    client.update("SET skep.partitions = 2").await.unwrap();
    assert_eq!(client.rows("SELECT sum(v) AS counted FROM t").await.unwrap(), [["2001000"]]);
    let id = "(SELECT query_id FROM system.queries WHERE statement LIKE '%AS counted FROM t')";
    let tasks = format!(
        "SELECT worker, attempt, state, lane, scan_bytes > 0, locality, rows FROM system.tasks \
         WHERE query_id = {id} AND scan_bytes IS NOT NULL ORDER BY worker"
    );
    let tasks = client.rows(&tasks).await.unwrap();
    // Each task sends a sum of each of its two partitions to the coordinator.
    let expected = |worker| [worker, "1", "finished", "pipelined", "true", "1.0", "2"];
    assert_eq!(tasks, [expected("worker-1"), expected("worker-2")]);
    let stages = format!(
        "SELECT stage, tasks, rows, locality FROM system.stages WHERE query_id = {id} ORDER BY stage"
    );
    let stages = client.rows(&stages).await.unwrap();
    assert_eq!(stages, [["0", "1", "1", "NULL"], ["1", "2", "4", "1.0"]]);

    client.update("SET skep.execution = 'durable'").await.unwrap();
    assert_eq!(client.rows("SELECT sum(v) AS summed FROM t").await.unwrap(), [["2001000"]]);
    let id = "(SELECT query_id FROM system.queries WHERE statement LIKE '%AS summed FROM t')";
    let tasks = format!(
        "SELECT DISTINCT lane, state, rows > 0, worker LIKE 'worker-%' FROM system.tasks WHERE query_id = {id} AND stage > 0"
    );
    assert_eq!(client.rows(&tasks).await.unwrap(), [["durable", "finished", "true", "true"]]);
    let stages = format!(
        "SELECT DISTINCT state, rows > 0, bytes > 0 FROM system.stages WHERE query_id = {id} AND stage > 0"
    );
    assert_eq!(client.rows(&stages).await.unwrap(), [["finished", "true", "true"]]);
}

#[tokio::test]
async fn a_query_on_the_workers_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path(), None);
    let mut client = Client::connect(server.flight()).await.unwrap();
    for first in ["CREATE TABLE t AS", "INSERT INTO t"] {
        client
            .update(&format!("{first} SELECT value AS v FROM generate_series(1, 3000) AS s(value)"))
            .await
            .unwrap();
    }
    for lane in ["pipelined", "durable"] {
        let mut other = Client::connect(server.flight()).await.unwrap();
        other.update(&format!("SET skep.execution = '{lane}'")).await.unwrap();
        let long = "SELECT count(*) FROM t AS a, t AS b, t AS c WHERE a.v + b.v + c.v < a.v * b.v - c.v";
        let task = task::spawn("statement", async move { other.rows(long).await });
        let id = running(&mut client, "AS a, t AS b").await;
        let lanes = format!("SELECT lane FROM system.queries WHERE query_id = '{id}'");
        until(&mut client, &lanes, |rows| rows[0][0] == lane).await;
        client.update(&format!("KILL QUERY '{id}'")).await.unwrap();
        let error = task.join().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Cancelled, "{lane}: {error:?}");
        let state = format!("SELECT DISTINCT state FROM system.tasks WHERE query_id = '{id}'");
        let rows = until(&mut client, &state, |rows| rows.iter().any(|row| row[0] == "cancelled")).await;
        assert!(!rows.is_empty());
    }
}
