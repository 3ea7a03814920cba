//! COPY INTO: the answer for each file, and two sessions that load the same one.

use skep_testkit::client::Client;
use skep_testkit::process::{Server, run};

fn server(folder: &std::path::Path) -> Server {
    let data = folder.join("data");
    let data = data.to_str().unwrap();
    Server::start(&["up", "--data", data, "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"]).unwrap()
}

#[tokio::test]
async fn every_file_has_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE lake.t (id INT NOT NULL, name VARCHAR)").await.unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.csv"), "id,name\n1,one\n2,two\n").unwrap();
    std::fs::write(path("b.csv"), "id,name\n3,three\n,none\n\"x\ny\",z\n").unwrap();
    std::fs::write(path("empty.csv"), "id,name\n").unwrap();
    let copy = format!(
        "COPY INTO lake.t FROM '{}/*.csv' ON_ERROR = CONTINUE REJECTED DATA AS TABLE lake.bad",
        folder.path().display()
    );
    let short = |rows: Vec<Vec<String>>| -> Vec<String> {
        let file = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        rows.into_iter().map(|row| format!("{} {}", file(&row[0]), row[1..4].join(" "))).collect()
    };
    let first = client.rows(&copy).await.unwrap();
    assert!(first[1][4].contains("lake.bad"), "{first:?}");
    assert_eq!(short(first), ["a.csv loaded 2 0", "b.csv partially loaded 1 2", "empty.csv loaded 0 0"]);
    let bad = client.rows("SELECT line, raw, reason FROM lake.bad ORDER BY line").await.unwrap();
    assert_eq!(bad[0][..2], ["3", ",none"]);
    assert_eq!(bad[1][..2], ["4", "\"x\ny\",z"]);
    assert!(bad[1][2].contains("column 'id'"), "{bad:?}");

    // What is loaded is skipped with the reason; what changed since is loaded again.
    std::fs::write(path("a.csv"), "id,name\n4,four\n").unwrap();
    let second = client.rows(&copy).await.unwrap();
    assert!(second[1][4].contains("unchanged since"), "{second:?}");
    assert!(second[0][4].contains("loaded before"), "{second:?}");
    assert_eq!(short(second), ["a.csv loaded 1 0", "b.csv skipped 0 0", "empty.csv skipped 0 0"]);

    // The shell shows the same, and the sum.
    let output = run(&["sql", "--url", server.flight(), "--format", "csv", "-c", &copy]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.starts_with("file,status,rows_loaded,rows_rejected,reason\n"), "{output:?}");
    assert!(output.stderr.contains("COPY 0"), "{output:?}");
    assert_eq!(client.rows("SELECT count(*) FROM lake.t").await.unwrap(), [["4"]]);
}

/// However many load a file at the same time, its rows come once.
#[tokio::test]
async fn a_file_is_loaded_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE lake.t (id INT)").await.unwrap();
    let path = folder.path().join("a.csv");
    let rows: String = (0..1000).map(|id| format!("{id}\n")).collect();
    std::fs::write(&path, format!("id\n{rows}")).unwrap();
    let copy = format!("COPY INTO lake.t FROM '{}'", path.display());
    let loads = (0..4).map(|_| async {
        let mut client = Client::connect(server.flight()).await.unwrap();
        client.update(&copy).await.unwrap()
    });
    let mut counts = futures::future::join_all(loads).await;
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 1000]);
    assert_eq!(client.rows("SELECT count(*) FROM lake.t").await.unwrap(), [["1000"]]);

    // Of two transactions the later commit is refused, and nothing of it stays.
    std::fs::write(&path, "id\n-1\n").unwrap();
    let mut other = Client::connect(server.flight()).await.unwrap();
    for session in [&mut client, &mut other] {
        session.update("BEGIN").await.unwrap();
        assert_eq!(session.update(&copy).await.unwrap(), 1);
    }
    client.update("COMMIT").await.unwrap();
    let refused = other.update("COMMIT").await.unwrap_err();
    assert_eq!(refused.kind(), skep_common::Kind::Conflict);
    assert!(refused.message().contains("a.csv"), "{refused}");
    assert_eq!(other.rows("SELECT count(*) FROM lake.t WHERE id = -1").await.unwrap(), [["1"]]);
}

/// A folder that takes no files is an error that says so, and no wait without end.
#[tokio::test]
async fn files_go_where_files_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let mut client = Client::connect(server.flight()).await.unwrap();
    let refused = client.update("COPY (SELECT 1 AS x) TO '/proc/x.csv'").await.unwrap_err();
    let report = refused.report();
    assert!(
        report.contains("cannot write '/proc/x.csv'") && report.contains("cannot make a file"),
        "{report}"
    );
}
