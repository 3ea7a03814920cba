//! What a failed run staged, read by everybody under the name of the run until it is given up.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use skep_testkit::process::{output, skep};

use crate::pipelines::{Bench, SETTINGS};

const FILES: &[(&str, &str)] = &[
    ("models/lake/a.sql", "SELECT value AS n FROM range(5)"),
    (
        "models/mart/b.sql",
        "/*---\ntests = [{ expression = \"n < 3\" }]\n---*/\nSELECT n FROM lake.a UNION ALL SELECT 1 FROM mart.seen",
    ),
    ("models/mart/seen.sql", "/*---\nkind = \"view\"\n---*/\nSELECT max(n) AS n FROM lake.a"),
];

fn bench() -> Bench {
    let bench = Bench::new(FILES);
    bench.write("pipeline.toml", &SETTINGS.replace("execution", "threads = 1\nexecution"));
    bench
}

async fn error(bench: &Bench, sql: &str) -> String {
    match bench.client().await.rows(sql).await {
        Ok(rows) => panic!("{sql}: {rows:?}"),
        Err(error) => format!("{} {}", error.report(), error.hint_text().unwrap_or_default()),
    }
}

/// The query that the message of a failed run names.
fn named(stdout: &str) -> String {
    let (_, rest) = stdout.split_once("until another run begins: ").unwrap_or_else(|| panic!("{stdout}"));
    let query = rest.lines().next().unwrap();
    query.rsplit_once(" (").map_or(query, |(query, _)| query).to_owned()
}

#[tokio::test]
async fn what_a_failed_run_staged_is_read_by_its_name_until_it_is_given_up() {
    let bench = bench();
    let failed = bench.pipeline("run", &[]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    // What the message names shows the rows that fail.
    let query = named(&failed.stdout);
    assert_eq!(query, "SELECT m.* FROM run_1.mart.b AS m WHERE NOT coalesce((n < 3), true)");
    assert_eq!(bench.one(&format!("{query} ORDER BY n")).await, "3;4");
    assert_eq!(bench.one("SELECT count(*), max(b.n) FROM run_1.mart.b").await, "6,4");
    assert_eq!(bench.one("SELECT n FROM run_1.mart.seen").await, "4", "a view of the run sees the run");
    let joined =
        "SELECT count(*) FROM run_1.lake.a AS a JOIN skep.system.pipeline_runs AS r ON a.n = r.run_id";
    assert_eq!(bench.one(joined).await, "1");
    assert_eq!(bench.one("WITH x AS (SELECT n FROM run_1.lake.a) SELECT sum(n) FROM x").await, "10");
    // In every lane, and as part of statements that write elsewhere.
    let mut client = bench.client().await;
    for lane in ["local", "pipelined", "durable"] {
        client.update(&format!("SET skep.execution = '{lane}'")).await.unwrap();
        assert_eq!(client.rows("SELECT count(*) FROM run_1.mart.b").await.unwrap(), [["6"]], "{lane}");
    }
    client.update("CREATE TABLE mart.copy AS SELECT * FROM run_1.mart.b").await.unwrap();
    assert_eq!(bench.one("SELECT count(*) FROM mart.copy").await, "6");
    // Nobody changes it, and nothing that stays names it.
    for sql in [
        "INSERT INTO run_1.mart.b VALUES (1)",
        "DELETE FROM run_1.mart.b",
        "DROP TABLE run_1.mart.b",
        "CREATE TABLE run_1.mart.d (n INT)",
        "CREATE VIEW mart.v AS SELECT * FROM run_1.mart.b",
    ] {
        let refused = client.update(sql).await.unwrap_err();
        assert!(
            refused.report().contains("catalog 'run_1' does not exist, or can only be read in FROM"),
            "{sql}: {refused:?}"
        );
    }
    // Names that show nothing say why.
    assert!(error(&bench, "SELECT * FROM run_1.mart.bb").await.contains("table 'mart.bb' does not exist"));
    assert!(error(&bench, "SELECT * FROM run_77.mart.b").await.contains("there is no run 77"));
    assert!(error(&bench, "SELECT * FROM runs.mart.b").await.contains("catalog 'runs' does not exist"));
    // Another run takes its place.
    let again = bench.pipeline("run", &[]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(error(&bench, "SELECT * FROM run_1.mart.b").await.contains("'run_1' shows nothing"));
    assert_eq!(bench.one("SELECT count(*) FROM run_2.mart.b").await, "6");
    // Whoever goes on with it takes the name too, and publishes it.
    bench.edit("models/mart/b.sql", "n < 3", "n < 4");
    assert_eq!(bench.pipeline("retry", &[]).code, Some(1));
    assert_eq!(bench.one("SELECT count(*) FROM run_3.mart.b").await, "6");
    assert!(error(&bench, "SELECT * FROM run_2.mart.b").await.contains("was gone on with by run 3"));
    bench.edit("models/mart/b.sql", "n < 4", "n < 5");
    assert_eq!(bench.pipeline("retry", &[]).code, Some(0));
    let published = error(&bench, "SELECT * FROM run_4.mart.b").await;
    assert!(published.contains("published its tables in snapshot"), "{published}");
}

#[tokio::test]
async fn a_staged_run_is_dropped_by_hand() {
    let bench = bench();
    assert_eq!(bench.pipeline("run", &[]).code, Some(1));
    let drop = |run: &str| output(skep(&["pipeline", "drop", run, "--url", bench.server.flight()]));
    let blocks = "SELECT count(*) FROM system.blocks";
    assert_ne!(bench.one(blocks).await, "0");
    let dropped = drop("1");
    assert!(
        dropped.code == Some(0) && dropped.stdout.contains("what run 1 staged is given up"),
        "{dropped:?}"
    );
    assert!(error(&bench, "SELECT * FROM run_1.mart.b").await.contains("run 1 keeps nothing: it is dropped"));
    assert_eq!(bench.one(blocks).await, "0", "its files go");
    let retried = bench.pipeline("retry", &[]);
    assert!(
        retried.code == Some(1) && retried.stdout.contains("run 1 did not fail: it is dropped"),
        "{retried:?}"
    );
    let again = drop("1");
    assert!(again.code == Some(2) && again.stderr.contains("it is dropped"), "{again:?}");
    assert!(drop("9").stderr.contains("there is no run 9"));
}

/// Readers of what a run stages, while runs go on with it, publish it and give it up: its rows as they are, or an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_get_all_rows_or_an_error_whatever_becomes_of_the_run() {
    let bench = bench();
    assert_eq!(bench.pipeline("run", &[]).code, Some(1));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (stop, mut client) = (std::sync::Arc::clone(&stop), bench.client().await);
        readers.push(skep_common::task::spawn("reader", async move {
            let (mut read, mut refused) = (0_u32, 0_u32);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for run in 1..=9 {
                    match client.rows(&format!("SELECT count(*), sum(n) FROM run_{run}.mart.b")).await {
                        Ok(rows) => {
                            assert_eq!(rows, [["6", "11"]], "run {run}");
                            read += 1;
                        }
                        Err(_) => refused += 1,
                    }
                }
            }
            (read, refused)
        }));
    }
    for round in 0..6 {
        let arguments = bench.arguments(if round % 2 == 0 { "retry" } else { "run" }, &["--json"]);
        let mut command = skep(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines: Vec<String> =
            BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{lines:?}");
    }
    bench.edit("models/mart/b.sql", "n < 3", "n < 30");
    assert_eq!(bench.pipeline("retry", &[]).code, Some(0));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for reader in readers {
        let (read, refused) = reader.await.unwrap();
        assert!(read > 0 && refused > 0, "{read} {refused}");
    }
}
