//! The command line as a contract: exit codes, restarts, and what happens when things are wrong.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use skep_testkit::client::Client;
use skep_testkit::process::{Cluster, Output, PATIENCE, Server, run, skep};

fn up(data: &Path) -> Result<Server, Output> {
    Server::start(&[
        "up",
        "--data",
        data.to_str().unwrap(),
        "--flight",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ])
}

fn sql(url: &str, statements: &[&str]) -> Output {
    let mut arguments = vec!["sql", "--url", url, "--format", "csv"];
    for statement in statements {
        arguments.extend(["-c", statement]);
    }
    run(&arguments)
}

fn lines(output: &Output) -> Vec<&str> {
    output.stdout.lines().collect()
}

#[test]
fn a_restart_finds_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path()).unwrap();
    let made = sql(
        server.flight(),
        &[
            "CREATE TABLE lake.t (id INT, name VARCHAR)",
            "INSERT INTO lake.t VALUES (1, 'one'), (2, 'two')",
            "CREATE VIEW mart.v AS SELECT name FROM lake.t WHERE id > 1",
            "CREATE SCHEMA extra",
        ],
    );
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stdout.is_empty(), "{made:?}");
    assert!(made.stderr.contains("INSERT 2"), "{made:?}");
    let (status, log) = server.stop();
    assert!(status.success(), "{status}: {log}");

    let server = up(folder.path()).unwrap();
    let found = sql(server.flight(), &["SELECT id, name FROM lake.t ORDER BY id", "SELECT name FROM mart.v"]);
    assert_eq!(lines(&found), ["id,name", "1,one", "2,two", "name", "two"], "{found:?}");
    let grown =
        sql(server.flight(), &["INSERT INTO lake.t VALUES (3, 'three')", "SELECT count(*) AS n FROM lake.t"]);
    assert_eq!(lines(&grown), ["n", "3"], "{grown:?}");
}

#[test]
fn a_kill_during_inserts_keeps_whole_statements_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path()).unwrap();
    let url = server.flight().to_owned();
    assert_eq!(sql(&url, &["CREATE TABLE t (batch BIGINT, n BIGINT)"]).code, Some(0));
    let rows = 20_000;
    let insert = |batch: usize| {
        format!("INSERT INTO t SELECT {batch}, value FROM generate_series(1, {rows}) AS s(value)")
    };

    // A client that inserts one batch after another, and is told of each that is complete.
    let statements: Vec<String> = (1..=1000).map(insert).collect();
    let mut arguments = vec!["sql", "--url", &url];
    for statement in &statements {
        arguments.extend(["-c", statement.as_str()]);
    }
    let mut client = skep(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = client.stderr.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::sync_channel(4096);
    let reader = std::thread::spawn(move || {
        use std::io::BufRead;
        for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains("INSERT") && sender.send(()).is_err() {
                return;
            }
        }
    });
    for _ in 0..3 {
        receiver.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    }
    server.kill();
    client.wait().unwrap();
    reader.join().unwrap();
    let acknowledged = 3 + receiver.try_iter().count();

    let server = up(folder.path()).unwrap();
    let found = sql(
        server.flight(),
        &[
            "SELECT count(*) AS batches, min(c) AS least, max(c) AS most FROM (SELECT batch, count(*) AS c FROM t GROUP BY batch) AS b",
        ],
    );
    assert_eq!(found.code, Some(0), "{found:?}");
    let row: Vec<usize> = lines(&found)[1].split(',').map(|n| n.parse().unwrap()).collect();
    assert_eq!(row[1..], [rows, rows], "a batch is there in part: {found:?}");
    assert!(
        row[0] == acknowledged || row[0] == acknowledged + 1,
        "{} batches are there, {acknowledged} were acknowledged",
        row[0]
    );
    // The table is as good as before.
    let after =
        sql(server.flight(), &["INSERT INTO t VALUES (0, 0)", "SELECT count(*) AS n FROM t WHERE batch = 0"]);
    assert_eq!(lines(&after), ["n", "1"], "{after:?}");
}

#[test]
fn a_folder_is_served_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path()).unwrap();
    let second = up(folder.path()).unwrap_err();
    assert_ne!(second.code, Some(0));
    assert!(second.stderr.contains("in use"), "{second:?}");
    // `sql --data` connects to whoever serves the folder.
    let data = folder.path().to_str().unwrap();
    let through = run(&["sql", "--data", data, "-c", "SELECT 1 AS one", "--format", "csv"]);
    assert_eq!((through.code, lines(&through)), (Some(0), vec!["one", "1"]), "{through:?}");
    drop(server);
    // And opens it itself when nobody does.
    let alone = run(&["sql", "--data", data, "-c", "SELECT 1 AS one", "--format", "csv"]);
    assert_eq!((alone.code, lines(&alone)), (Some(0), vec!["one", "1"]), "{alone:?}");
}

/// While a server stops, its folder is locked and its door closed, for a moment.
#[test]
fn a_folder_whose_server_stops_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    for round in 0..3 {
        let server = up(folder.path()).unwrap();
        let told = std::process::Command::new("kill").args(["-TERM", &server.pid().to_string()]).status();
        assert!(told.unwrap().success());
        let found = run(&["sql", "--data", data, "-c", "SELECT 1 AS one", "--format", "csv"]);
        assert_eq!((found.code, lines(&found)), (Some(0), vec!["one", "1"]), "round {round}: {found:?}");
        server.stop();
    }
}

#[test]
fn a_port_in_use_is_said_plainly() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let refused =
        Server::start(&["up", "--data", data, "--flight", &address, "--http", "127.0.0.1:0"]).unwrap_err();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains(&address), "{refused:?}");
}

#[test]
fn a_corrupt_catalog_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path()).unwrap();
    assert_eq!(sql(server.flight(), &["CREATE TABLE t (x INT)"]).code, Some(0));
    server.stop();
    let catalog = folder.path().join("catalog.sqlite");
    let garbage = vec![0x5a; 64 * 1024];
    std::fs::write(&catalog, &garbage).unwrap();
    for side in ["catalog.sqlite-wal", "catalog.sqlite-shm"] {
        let _ = std::fs::remove_file(folder.path().join(side));
    }
    let refused = up(folder.path()).unwrap_err();
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("catalog.sqlite"), "{refused:?}");
    assert_eq!(std::fs::read(&catalog).unwrap(), garbage, "the file was changed");
}

#[test]
fn a_folder_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    up(folder.path()).unwrap().stop();
    let format = folder.path().join("skep.json");
    let text = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, text.replacen("\"format\":1", "\"format\":99", 1)).unwrap();
    let refused = up(folder.path()).unwrap_err();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("99") && refused.stderr.contains("newer"), "{refused:?}");
}

#[test]
fn exit_codes_say_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path()).unwrap();
    let url = server.flight();

    assert_eq!(sql(url, &["SELECT 1"]).code, Some(0));

    let unknown = sql(url, &["CREATE TABLE warehouse.flights (id INT)", "SELECT * FROM warehouse.flihgts"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("flihgts") && unknown.stderr.contains("flights"), "{unknown:?}");

    // The first failure ends the run, so that what follows does not build on it.
    let stopped = sql(url, &["SELECT nosuch", "CREATE TABLE after_failure (x INT)"]);
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert_eq!(sql(url, &["SELECT * FROM after_failure"]).code, Some(1));

    // A caret under the place in the statement.
    let syntax = sql(url, &["SELECT 1 FRM t"]);
    assert_eq!(syntax.code, Some(1), "{syntax:?}");
    assert!(syntax.stderr.contains('^') && syntax.stderr.contains("SELECT 1 FRM t"), "{syntax:?}");

    let usage = run(&["sql", "--no-such-option"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
    let both = run(&["sql", "--url", url, "--data", "x", "-c", "SELECT 1"]);
    assert_eq!(both.code, Some(2), "{both:?}");
    let file = run(&["sql", "--url", url, "-f", "/no/such/file.sql"]);
    assert_eq!(file.code, Some(2), "{file:?}");

    let nobody = sql("grpc://127.0.0.1:1", &["SELECT 1"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");

    let missing = sql(url, &["SELECT * FROM '/no/such/file.parquet'"]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("/no/such/file.parquet"), "{missing:?}");
}

#[test]
fn rows_go_to_stdout_in_the_format_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path()).unwrap();
    let rows = "SELECT * FROM (VALUES (1, 'a,b'), (2, NULL)) AS v(id, name) ORDER BY id";
    for (format, expected) in [
        ("csv", "id,name\n1,\"a,b\"\n2,\n"),
        ("tsv", "id\tname\n1\ta,b\n2\t\\N\n"),
        ("ndjson", "{\"id\":1,\"name\":\"a,b\"}\n{\"id\":2,\"name\":null}\n"),
    ] {
        let found = run(&["sql", "--url", server.flight(), "-c", rows, "--format", format]);
        assert_eq!(found.stdout, expected, "{format}: {found:?}");
    }
    for format in ["table", "box", "vertical", "json", "markdown"] {
        let found = run(&["sql", "--url", server.flight(), "-c", rows, "--format", format]);
        assert_eq!(found.code, Some(0), "{format}: {found:?}");
        assert!(found.stdout.contains("a,b") && found.stdout.contains("name"), "{format}: {found:?}");
    }
    // A file of statements, and one session for all of them.
    let script = folder.path().join("script.sql");
    std::fs::write(&script, "-- a script\nCREATE TABLE s (x INT);\nINSERT INTO s VALUES (1), (2);\nSELECT sum(x) AS total FROM s;\n").unwrap();
    let found = run(&["sql", "--url", server.flight(), "-f", script.to_str().unwrap(), "--format", "csv"]);
    assert_eq!((found.code, lines(&found)), (Some(0), vec!["total", "3"]), "{found:?}");
}

#[test]
fn settings_live_as_long_as_their_session() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path()).unwrap();
    let same = sql(server.flight(), &["SET skep.execution = 'local'", "SHOW skep.execution"]);
    assert_eq!(lines(&same).last(), Some(&"local"), "{same:?}");
    let other = sql(server.flight(), &["SHOW skep.execution"]);
    assert_eq!(lines(&other).last(), Some(&"auto"), "{other:?}");
}

#[tokio::test]
async fn a_cluster_of_processes_works_and_says_when_a_worker_cannot_join() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 2);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    client
        .update("CREATE TABLE t AS SELECT value AS n FROM generate_series(1, 1000) AS s(value)")
        .await
        .unwrap();
    assert_eq!(client.rows("SELECT count(*), sum(n) FROM t").await.unwrap(), [["1000", "500500"]]);
    cluster.add_worker();
    assert_eq!(client.rows("SELECT count(*), sum(n) FROM t").await.unwrap(), [["1000", "500500"]]);

    // A worker that finds nobody says so.
    let config = folder.path().join("lonely.toml");
    let text = format!(
        "[worker]\ncoordinator = \"http://127.0.0.1:1\"\nlisten = \"127.0.0.1:0\"\ndata = {:?}\n",
        folder.path().join("lonely")
    );
    std::fs::write(&config, text).unwrap();
    let refused = Server::start(&["worker", "--config", config.to_str().unwrap()]).unwrap_err();
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("127.0.0.1:1"), "{refused:?}");

    // The data outlives a worker that is killed.
    let worker = cluster.workers.remove(0);
    worker.kill();
    let clock = skep_common::clock::system();
    let start = clock.instant();
    let answer = loop {
        match client.rows("SELECT count(*), sum(n) FROM t").await {
            Ok(rows) => break rows,
            Err(error) => {
                assert!(clock.instant() - start < PATIENCE, "no answer after the loss of a worker: {error:?}")
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(answer, [["1000", "500500"]]);
}

#[test]
fn a_worker_with_another_secret_is_not_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("right"), "a-token-of-this-cluster-and-long-enough-to-be-one\n").unwrap();
    std::fs::write(path("wrong"), "another-token-as-long-as-the-one-of-this-cluster\n").unwrap();
    let coordinator = format!(
        "[coordinator]\ndata = {:?}\nflight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nlisten = \"127.0.0.1:0\"\n\
         [cluster]\nsecret_file = {:?}\n",
        path("coordinator"),
        path("right")
    );
    std::fs::write(path("coordinator.toml"), coordinator).unwrap();
    let coordinator =
        Server::start(&["coordinator", "--config", path("coordinator.toml").to_str().unwrap()]).unwrap();
    let worker = |name: &str, secret: &str| {
        let text = format!(
            "[worker]\ncoordinator = {:?}\nlisten = \"127.0.0.1:0\"\ndata = {:?}\n{secret}",
            coordinator.address("listen"),
            path(name)
        );
        let config = path(&format!("{name}.toml"));
        std::fs::write(&config, text).unwrap();
        Server::start(&["worker", "--config", config.to_str().unwrap()])
    };
    for (name, secret) in [
        ("wrong-worker", format!("[cluster]\nsecret_file = {:?}\n", path("wrong"))),
        ("bare-worker", String::new()),
    ] {
        let refused = worker(name, &secret).unwrap_err();
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.contains("secret"), "{refused:?}");
    }
    worker("right-worker", &format!("[cluster]\nsecret_file = {:?}\n", path("right"))).unwrap();
}

#[test]
fn addresses_off_loopback_need_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("coordinator.toml");
    let text = format!("[coordinator]\ndata = {:?}\nlisten = \"0.0.0.0:0\"\n", folder.path().join("data"));
    std::fs::write(&config, text).unwrap();
    let refused = Server::start(&["coordinator", "--config", config.to_str().unwrap()]).unwrap_err();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("secret"), "{refused:?}");
    std::fs::write(&config, "[coordinator]\nfligth = \"127.0.0.1:0\"\n").unwrap();
    let refused = Server::start(&["coordinator", "--config", config.to_str().unwrap()]).unwrap_err();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("fligth"), "{refused:?}");
}

#[test]
fn help_of_everything_is_there() {
    for arguments in [
        vec!["--help"],
        vec!["up", "--help"],
        vec!["sql", "--help"],
        vec!["demo", "--help"],
        vec!["worker", "--help"],
    ] {
        let help = run(&arguments);
        assert_eq!(help.code, Some(0), "{help:?}");
        assert!(help.stdout.len() > 200, "{help:?}");
    }
    let version = run(&["--version"]);
    assert!(version.stdout.contains("skep"), "{version:?}");
}
