//! What is left when a process dies, or a disk is full: whole statements, and a table as good as before.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use skep_common::Kind;
use skep_testkit::client::Client;
use skep_testkit::process::{Output, PATIENCE, Server, binary, run, skep};
use skep_testkit::slow;

const ROWS: usize = 5_000;
/// Each kill comes at another moment of the statements under way, up to this long after one was acknowledged.
const MOMENT_MAX: Duration = Duration::from_millis(400);

fn up(data: &Path, store: &str) -> Server {
    Server::start(&up_arguments(data, store)).unwrap()
}

fn up_arguments<'a>(data: &'a Path, store: &'a str) -> [&'a str; 8] {
    let data = data.to_str().unwrap();
    ["up", "--data", data, "--store", store, "--flight=127.0.0.1:0", "--http=127.0.0.1:0", "--workers=2"]
}

fn sql(url: &str, statements: &[&str]) -> Output {
    let mut arguments = vec!["sql", "--url", url, "--format", "csv"];
    arguments.extend(statements.iter().flat_map(|statement| ["-c", *statement]));
    run(&arguments)
}

fn numbers(output: &Output) -> Vec<usize> {
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout.lines().skip(1).flat_map(|line| line.split(',').map(|n| n.parse().unwrap())).collect()
}

/// One statement after another, alternately INSERT and CREATE TABLE AS, numbered from `first`; tells of each that was
/// acknowledged.
fn write(url: &str, first: usize) -> (std::process::Child, Receiver<()>) {
    let statements = (first..first + 400).map(|n| match n % 2 {
        0 => format!("INSERT INTO t SELECT {n}, value FROM generate_series(1, {ROWS}) AS s(value)"),
        _ => format!(
            "CREATE TABLE lake.c{n} AS SELECT {n} AS batch, value FROM generate_series(1, {ROWS}) AS s(value)"
        ),
    });
    let mut command = skep(&["sql", "--url", url]);
    for statement in statements {
        command.args(["-c", &statement]);
    }
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = client.stderr.take().unwrap();
    let (sender, receiver) = sync_channel(4096);
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let done = line.starts_with("INSERT") || line.starts_with("CREATE TABLE");
            if done && sender.send(()).is_err() {
                return;
            }
        }
    });
    (client, receiver)
}

/// Numbers that look random, from one seed.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        MOMENT_MAX.mul_f64((self.0 >> 33) as f64 / (1u64 << 31) as f64)
    }
}

/// What a kill left: the numbers of the statements that are there, each whole.
fn survivors(url: &str) -> Vec<usize> {
    let inserted =
        sql(url, &["SELECT batch, count(*) AS n, sum(value) AS s FROM t GROUP BY batch ORDER BY batch"]);
    let whole = [ROWS, ROWS * (ROWS + 1) / 2];
    let mut found = Vec::new();
    for row in numbers(&inserted).chunks(3) {
        assert_eq!(row[1..], whole, "an INSERT is there in part: {inserted:?}");
        found.push(row[0]);
    }
    let listed =
        "SELECT substr(table_name, 2) AS n FROM information_schema.tables WHERE table_schema = 'lake'";
    for number in numbers(&sql(url, &[listed])) {
        let made =
            format!("SELECT count(*) AS n, sum(value) AS s FROM lake.c{number} WHERE batch = {number}");
        assert_eq!(numbers(&sql(url, &[&made])), whole, "table lake.c{number} is there in part");
        found.push(number);
    }
    found.sort_unstable();
    found
}

fn kill_and_look(store: &str, kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id());
    let mut moments = Moments(seed);
    let server = up(folder.path(), store);
    assert_eq!(sql(server.flight(), &["CREATE TABLE t (batch BIGINT, value BIGINT)"]).code, Some(0));
    drop(server);
    let mut next = 0;
    for kill in 0..kills {
        let server = up(folder.path(), store);
        let (mut client, acknowledged) = write(server.flight(), next);
        acknowledged.recv_timeout(PATIENCE).unwrap();
        let mut done = 1;
        let (clock, moment) = (skep_common::clock::system(), moments.next());
        let end = clock.instant() + moment;
        loop {
            match acknowledged.recv_timeout(end.saturating_duration_since(clock.instant())) {
                Ok(()) => done += 1,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("the client ended before the kill"),
            }
        }
        server.kill();
        client.wait().unwrap();
        done += acknowledged.iter().count();

        let server = up(folder.path(), store);
        let found = survivors(server.flight());
        let place = format!("{store}, kill {kill} after {moment:?}, seed {seed}");
        let all: Vec<usize> = (0..found.len()).collect();
        assert_eq!(found, all, "{place}: a statement is missing between others");
        assert!(
            found.len() == next + done || found.len() == next + done + 1,
            "{place}: {} statements are there, {} were acknowledged",
            found.len(),
            next + done
        );
        next = found.len();
        drop(server);
    }
}

#[test]
fn kills_at_any_moment_keep_whole_statements_only() {
    kill_and_look("skep", if slow() { 20 } else { 3 });
}

#[test]
fn kills_at_any_moment_keep_whole_statements_only_in_files() {
    kill_and_look("file", if slow() { 20 } else { 3 });
}

/// `skep up` that can write no file beyond `bytes`: what a full disk is to a writer, without a disk to fill.
fn up_with_little_room(data: &Path, store: &str, bytes: usize) -> Server {
    let mut command = Command::new("sh");
    // A shell counts in blocks of 512 bytes. The signal that comes with the error would end the process.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", bytes / 512);
    command.args(["-c", &script, "sh"]).arg(binary()).args(up_arguments(data, store));
    command.stdin(Stdio::null()).env("NO_COLOR", "1");
    Server::start_command(command).unwrap()
}

/// A disk without room fails the statement with a clear error, and nothing of it can be seen. With room it works again.
fn no_room(store: &str) {
    let folder = tempfile::tempdir().unwrap();
    let make = "CREATE TABLE t AS SELECT 0 AS batch, random() AS r FROM generate_series(1, 1000)";
    let server = up(folder.path(), store);
    assert_eq!(sql(server.flight(), &[make]).code, Some(0));
    server.stop();

    // Random numbers do not shrink: about 8 MB of them.
    let rows = "SELECT 1 AS batch, random() AS r FROM generate_series(1, 1000000)";
    let server = up_with_little_room(folder.path(), store, 2 << 20);
    let url = server.flight().to_owned();
    for statement in [format!("INSERT INTO t {rows}"), format!("CREATE TABLE big AS {rows}")] {
        let failed = sql(&url, &[&statement]);
        assert_eq!(failed.code, Some(1), "{statement}: {failed:?}");
        let clear =
            ["too large", "no space", "full"].iter().any(|word| failed.stderr.to_lowercase().contains(word));
        assert!(clear, "{statement}: {failed:?}");
        let named = store == "skep" || failed.stderr.contains(&format!("'{}/", folder.path().display()));
        assert!(named, "{statement}: the path is not whole: {failed:?}");
        assert_eq!(numbers(&sql(&url, &["SELECT count(*) AS n FROM t"])), [1000], "{statement}");
        assert_eq!(sql(&url, &["SELECT * FROM big"]).code, Some(1), "{statement}");
    }
    // What fits still goes.
    assert_eq!(sql(&url, &["INSERT INTO t VALUES (2, 0.5)"]).code, Some(0));
    server.stop();

    let server = up(folder.path(), store);
    let whole = sql(server.flight(), &[&format!("INSERT INTO t {rows}"), "SELECT count(*) AS n FROM t"]);
    assert_eq!(numbers(&whole), [1_001_001]);
    server.stop();
    assert_eq!(leftovers(folder.path()), Vec::<String>::new(), "{store}");
}

/// Half-written files below `folder`, but for blocks, which the coordinator collects.
fn leftovers(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.join("files")];
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_none_or(|end| end != "parquet") {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn a_full_disk_fails_the_statement_and_nothing_else() {
    no_room("skep");
}

#[test]
fn a_full_disk_fails_the_statement_and_nothing_else_in_files() {
    no_room("file");
}

/// In a transaction it fails the statement that stages the rows: those before and after it are committed, and what it was to
/// replace stays.
#[tokio::test]
async fn a_full_disk_while_staging_leaves_the_transaction() {
    for store in ["skep", "file"] {
        let folder = tempfile::tempdir().unwrap();
        let server = up_with_little_room(folder.path(), store, 2 << 20);
        let mut client = Client::connect(server.flight()).await.unwrap();
        let rows = "SELECT random() AS r FROM generate_series(1, 1000000)";
        client.update("CREATE TABLE t (r DOUBLE, part INT) PARTITIONED BY (part)").await.unwrap();
        client.update("INSERT INTO t VALUES (0.5, 0)").await.unwrap();
        client.update("BEGIN").await.unwrap();
        assert_eq!(client.update("INSERT INTO t VALUES (1.5, 1)").await.unwrap(), 1);
        for statement in ["INSERT INTO t PARTITION (part = 2)", "INSERT OVERWRITE t PARTITION (part = 0)"] {
            let error = client.update(&format!("{statement} {rows}")).await.unwrap_err();
            assert_eq!(error.kind(), Kind::NoSpace, "{store}, {statement}: {error:?}");
        }
        assert_eq!(client.rows("SELECT r FROM t ORDER BY r").await.unwrap(), [["0.5"], ["1.5"]], "{store}");
        assert_eq!(client.update("INSERT INTO t VALUES (2.5, 2)").await.unwrap(), 1);
        client.update("COMMIT").await.unwrap();
        let left = client.rows("SELECT r FROM t ORDER BY r").await.unwrap();
        assert_eq!(left, [["0.5"], ["1.5"], ["2.5"]], "{store}");
        drop(client);
        server.stop();
        assert_eq!(leftovers(folder.path()), Vec::<String>::new(), "{store}");
    }
}

/// A command that cannot write says so, with the exit code of a failed statement.
#[test]
fn an_export_without_room_fails() {
    let folder = tempfile::tempdir().unwrap();
    let server = up_with_little_room(&folder.path().join("data"), "file", 2 << 20);
    let to = folder.path().join("out.csv");
    let statement =
        format!("COPY (SELECT random() AS r FROM generate_series(1, 1000000)) TO '{}'", to.display());
    let failed = sql(server.flight(), &[&statement]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let clear = failed.stderr.contains("out.csv") && failed.stderr.contains("hint:");
    assert!(clear, "{failed:?}");
    assert!(!to.try_exists().unwrap(), "half a file is there");
}
