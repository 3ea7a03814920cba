//! The flights of the examples make exactly the mart that other engines computed.

use std::path::Path;

use skep_testkit::client::Client;
use skep_testkit::process::{Server, run};
use skep_testkit::{root, rows, testdata};

/// Runs the project in a lane.
pub(crate) fn build(server: &Server, lane: &str) {
    let project = root().join("examples/flights");
    let project = project.to_str().unwrap();
    let ran = run(&["pipeline", "run", project, "--url", server.flight(), "--execution", lane]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// The expected rows of a mart table.
pub(crate) fn expected(table: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(testdata().join(format!("flights/expected/{table}.csv"))).unwrap();
    let fields = |line: &str| {
        let value = |v: &str| if v.is_empty() { "NULL".to_owned() } else { v.trim_matches('"').to_owned() };
        split(line).into_iter().map(|v| value(&v)).collect()
    };
    text.lines().skip(1).map(fields).collect()
}

/// The fields of a line of CSV; quotes may hold commas.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(c),
        }
    }
    fields
}

const MART: [&str; 4] = ["airline_days", "routes", "weather_delays", "airlines"];

fn up(folder: &Path) -> Server {
    let data = folder.join("data");
    Server::start(&[
        "up",
        "--data",
        data.to_str().unwrap(),
        "--flight",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ])
    .unwrap()
}

async fn mart_is_as_expected(lane: &str) {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path());
    let mut client = Client::connect(server.flight()).await.unwrap();
    build(&server, lane);
    for table in MART {
        let found = client.rows(&format!("SELECT * FROM mart.{table}")).await.unwrap();
        assert_eq!(rows::difference(&found, &expected(table), 0.0), None, "mart.{table} ({lane})");
    }
    let flights =
        client.rows("SELECT count(*), count(DISTINCT flight_date) FROM warehouse.flights").await.unwrap();
    assert_eq!(flights, [["27004", "31"]]);
}

#[tokio::test]
async fn mart_is_as_expected_on_one_node() {
    mart_is_as_expected("local").await;
}

#[tokio::test]
async fn mart_is_as_expected_on_three_workers() {
    mart_is_as_expected("pipelined").await;
}

#[test]
fn the_demo_runs_and_leaves_a_warehouse() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let data = data.to_str().unwrap();
    let demo = run(&["demo", "--data", data]);
    assert_eq!(demo.code, Some(0), "{demo:?}");
    for word in ["JetBlue", "worker", "skep sql"] {
        let shown = demo.stdout.contains(word) || demo.stderr.contains(word);
        assert!(shown, "the demo does not show '{word}': {demo:?}");
    }
    let count = "SELECT count(*) FROM mart.routes";
    let sql = run(&["sql", "--data", data, "-c", count, "--format", "csv"]);
    assert_eq!((sql.code, sql.stdout.lines().last()), (Some(0), Some("186")), "{sql:?}");
    // The demo may be run again on what it left, and what was changed in its project is made.
    let again = run(&["demo", "--data", data]);
    assert!(again.code == Some(0) && again.stdout.contains("nothing to do"), "{again:?}");
    let model = folder.path().join("demo/flights/models/mart/delays.sql");
    let text = std::fs::read_to_string(&model).unwrap() + "HAVING count(*) > 1\n";
    std::fs::write(&model, text).unwrap();
    let changed = run(&["demo", "--data", data]);
    assert!(changed.code == Some(0) && changed.stdout.contains("published 1 table"), "{changed:?}");
}
