//! Backfills: a range of intervals made again chunk by chunk, through the command line.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use skep_testkit::postgres::Postgres;
use skep_testkit::process::{Output, output, skep};
use skep_testkit::skip;

use crate::pipelines::{Bench, SETTINGS, idle, up};
use crate::schedules::on_server;

const DAYS: &str = "/*---\nkind = \"interval\"\ntime = \"day\"\ngrain = \"day\"\n---*/\n\
    SELECT CAST(at AS TIMESTAMP) AS day, v * $factor AS v FROM lake.raw WHERE at >= $start AND at < $end";
const MONTHS: &str = "/*---\nkind = \"interval\"\ntime = \"month\"\ngrain = \"month\"\n---*/\n\
    SELECT CAST($start AS TIMESTAMP) AS month, sum(v) AS v FROM mart.days WHERE day >= $start AND day < $end";

/// A project with twelve days of rows, all made once with factor 1.
async fn bench() -> Bench {
    filled(Bench::empty()).await
}

async fn filled(bench: Bench) -> Bench {
    bench.write("models/mart/days.sql", DAYS);
    bench.write("models/mart/total.sql", "SELECT sum(v) AS v FROM mart.days");
    settings(&bench, 1);
    let mut client = bench.client().await;
    client.update("CREATE TABLE lake.raw (at TIMESTAMP, v BIGINT)").await.unwrap();
    client
        .update("INSERT INTO lake.raw SELECT make_date(2024, 1, CAST(value AS INT) + 1), 1 FROM range(12)")
        .await
        .unwrap();
    bench.run(&[]);
    settings(&bench, 2);
    bench
}

fn settings(bench: &Bench, factor: u32) {
    let settings = SETTINGS.replace("2024-01-03", "2024-01-13");
    bench.write("pipeline.toml", &format!("{settings}\n[vars]\nfactor = {factor}\n"));
}

const RANGE: [&str; 4] = ["--start", "2024-01-01", "--end", "2024-01-13"];
const STATE: &str =
    "SELECT state, chunks, chunks_done FROM system.pipeline_backfills ORDER BY backfill_id DESC LIMIT 1";
const SUM: &str = "SELECT count(*), sum(v), count(DISTINCT day) FROM mart.days";

fn resume(bench: &Bench, more: &[&str]) -> Output {
    let first = ["pipeline", "backfill", "--url", bench.server.flight(), "--resume"];
    output(skep(&first.into_iter().chain(more.iter().copied()).collect::<Vec<_>>()))
}

/// A backfill that goes on, after its first `chunks` chunks.
fn begun(bench: &Bench, chunks: usize, more: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let all: Vec<&str> = RANGE.iter().chain(&["--json"]).chain(more).copied().collect();
    let arguments = bench.arguments("backfill", &all);
    let mut command = skep(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = 0;
    while seen < chunks {
        let line = lines.next().unwrap().unwrap();
        seen += usize::from(line.contains("\"event\":\"chunk\""));
    }
    (child, lines)
}

#[tokio::test]
async fn a_range_is_made_again_chunk_by_chunk_the_newest_first() {
    let bench = bench().await;
    assert_eq!(bench.one(SUM).await, "12,12,12");
    let done = bench.pipeline("backfill", &[&RANGE[..], &["--chunk", "5"]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    let chunks: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with("ok     [")).collect();
    let ranges = ["2024-01-11 to 2024-01-13", "2024-01-06 to 2024-01-11", "2024-01-01 to 2024-01-06"];
    assert_eq!(chunks.len(), 3, "{done:?}");
    for (at, (line, range)) in (1..).zip(chunks.iter().zip(ranges)) {
        assert!(line.contains(&format!("[{at}/3] {range}: run ")), "{line}");
    }
    assert!(done.stdout.contains("ok     backfill 1 made 3 chunks"), "{done:?}");
    assert_eq!(bench.one(SUM).await, "12,24,12");
    // Each chunk is a run, and a commit; what has no intervals waits for the next run.
    assert_eq!(bench.one("SELECT count(*) FROM system.pipeline_runs WHERE state = 'done'").await, "4");
    assert_eq!(bench.one("SELECT v FROM mart.total").await, "12");
    assert_eq!(bench.one(STATE).await, "done,3,3");
    bench.run(&[]);
    assert_eq!(bench.one("SELECT v FROM mart.total").await, "24");
    let nothing = resume(&bench, &[]);
    assert!(nothing.code == Some(1) && nothing.stdout.contains("no backfill is unfinished"), "{nothing:?}");
    let over = resume(&bench, &["1"]);
    assert!(over.stdout.contains("backfill 1 is done"), "{over:?}");
}

#[tokio::test]
async fn chunks_are_cut_by_the_coarsest_grain_and_begin_with_the_oldest_when_asked() {
    let bench = bench().await;
    bench.write("models/mart/months.sql", MONTHS);
    bench.edit("pipeline.toml", "2024-01-13", "2024-03-05");
    bench.client().await.update("INSERT INTO lake.raw VALUES (TIMESTAMP '2024-03-02', 7)").await.unwrap();
    let done =
        bench.pipeline("backfill", &["--start", "2024-01-10", "--end", "2024-12-31", "--oldest-first"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for (at, range) in
        [(1, "2024-01-10 to 2024-02-01"), (2, "2024-02-01 to 2024-03-01"), (3, "2024-03-01 to 2024-03-05")]
    {
        assert!(done.stdout.contains(&format!("[{at}/3] {range}")), "{done:?}");
    }
    // The days of January before the tenth keep what they had.
    assert_eq!(
        bench.one("SELECT month, v FROM mart.months ORDER BY 1").await,
        "2024-01-01 00:00:00,15;2024-02-01 00:00:00,NULL"
    );
    assert_eq!(bench.one("SELECT count(*), sum(v) FROM mart.days").await, "13,29");
    // Wrong ones begin nothing.
    for (more, says) in [
        (
            vec!["--start", "2024-01-01", "--end", "2024-01-02", "--select", "mart.total"],
            "none of the models has intervals",
        ),
        (vec!["--start", "2025-01-01", "--end", "2025-01-02"], "no interval is over"),
        (vec!["--start", "2024-01-02", "--end", "2024-01-01"], "--end is not after --start"),
        (
            vec!["--start", "2024-01-01", "--end", "2024-01-02", "--select", "mart.dayz"],
            "no model 'mart.dayz'",
        ),
    ] {
        let wrong = bench.pipeline("backfill", &more);
        assert!(wrong.code == Some(1) && wrong.stdout.contains(says), "{says}: {wrong:?}");
    }
    assert_eq!(bench.pipeline("backfill", &[]).code, Some(2));
    assert_eq!(bench.one("SELECT count(*) FROM system.pipeline_backfills").await, "1");
}

/// The server is killed between and inside of chunks: each is made once, whatever happened.
#[tokio::test]
async fn a_backfill_that_was_killed_goes_on_where_it_stopped() {
    let mut bench = bench().await;
    let data = bench.folder.path().join("data");
    for round in 0..3 {
        let (mut child, lines) = match round {
            0 => begun(&bench, 2, &[]),
            _ => {
                let arguments =
                    ["pipeline", "backfill", "--url", bench.server.flight(), "--json", "--resume"];
                let mut child =
                    skep(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
                let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
                while !lines.next().unwrap().unwrap().contains("\"event\":\"chunk\"") {}
                (child, lines)
            }
        };
        let server = std::mem::replace(&mut bench.server, idle());
        server.kill();
        drop(lines);
        child.wait().unwrap();
        bench.server = up(&data);
        let seen = bench.one(STATE).await;
        assert!(seen.starts_with("interrupted,12,"), "{seen}");
        let done: u64 = seen.rsplit(',').next().unwrap().parse().unwrap();
        assert!(done >= 2 + round, "{seen}");
        // Ledger and data agree: what is made is made with all of its rows.
        let new = bench.one("SELECT count(*) FROM mart.days WHERE v = 2").await;
        assert_eq!(new, done.to_string());
    }
    let rest = resume(&bench, &[]);
    assert!(rest.code == Some(0) && rest.stdout.contains("of them made"), "{rest:?}");
    assert_eq!(bench.one(SUM).await, "12,24,12");
    assert_eq!(bench.one(STATE).await, "done,12,12");
    let runs = "SELECT count(*) FROM system.pipeline_runs WHERE state = 'done'";
    assert_eq!(bench.one(runs).await, "13", "one for each chunk, and the first");
}

#[tokio::test]
async fn a_backfill_without_its_client_stops_and_other_runs_come_between() {
    let bench = bench().await;
    let (mut child, mut lines) = begun(&bench, 1, &["--pause", "1min"]);
    // While it pauses another backfill is refused, and a run goes.
    let other = bench.pipeline("backfill", &RANGE);
    assert!(other.code == Some(1) && other.stdout.contains("backfill 1 of 't' goes on"), "{other:?}");
    settings(&bench, 1);
    bench.write("models/mart/more.sql", "SELECT 1 AS one");
    bench.run(&["--select", "mart.more"]);
    child.kill().unwrap();
    child.wait().unwrap();
    while lines.next().is_some() {}
    let clock = skep_common::clock::system();
    let start = clock.instant();
    while !bench.one(STATE).await.starts_with("interrupted,12,1") {
        assert!(
            clock.instant() - start < std::time::Duration::from_secs(30),
            "it goes on without its client"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // A slow run of the project goes on: the chunk waits for its end, and comes then.
    bench.write("models/mart/slow.sql", "SELECT count(*) AS n FROM range(40000) AS a, range(6000) AS b");
    let arguments = bench.arguments("run", &["--json", "--select", "mart.slow"]);
    let mut slow = skep(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let mut slow = slow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut slow_lines = BufReader::new(slow.stdout.take().unwrap()).lines();
    while !slow_lines.next().unwrap().unwrap().contains("\"begun\"") {}
    let rest = resume(&bench, &["--pause", "0s"]);
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert!(rest.stdout.contains("goes on, begun by") && rest.stdout.contains("waiting"), "{rest:?}");
    while slow_lines.next().is_some() {}
    assert_eq!(slow.wait().unwrap().code(), Some(0));
    assert_eq!(bench.one(SUM).await, "12,24,12", "the values that it began with");
    // With another text published in between it is over.
    let (mut child, lines) = begun(&bench, 1, &["--pause", "1min"]);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lines);
    bench.edit("models/mart/days.sql", "v * $factor", "v * $factor + 1");
    bench.run(&["--start", "2024-01-01", "--end", "2024-01-02"]);
    let start = clock.instant();
    while bench.one(STATE).await.starts_with("running") {
        assert!(
            clock.instant() - start < std::time::Duration::from_secs(30),
            "it goes on without its client"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let refused = resume(&bench, &["--pause", "0s"]);
    assert!(
        refused.code == Some(1)
            && refused.stdout.contains("'mart.days' was published with another text in the meantime"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_backfill_that_fails_goes_on_when_the_rows_are_right() {
    let bench = bench().await;
    bench.edit(
        "models/mart/days.sql",
        "grain = \"day\"",
        "grain = \"day\"\ntests = [{ expression = \"v < 10\" }]",
    );
    let mut client = bench.client().await;
    client.update("UPDATE lake.raw SET v = 100 WHERE at = TIMESTAMP '2024-01-10'").await.unwrap();
    let failed = bench.pipeline("backfill", &RANGE);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    for what in ["expression(v < 10)", "SELECT m.* FROM run_", "skep pipeline backfill --resume 1"] {
        assert!(failed.stdout.contains(what), "{what}: {failed:?}");
    }
    assert!(bench.one(STATE).await.starts_with("failed,12,"));
    client.update("UPDATE lake.raw SET v = 1 WHERE at = TIMESTAMP '2024-01-10'").await.unwrap();
    let rest = resume(&bench, &["1"]);
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert_eq!(bench.one(SUM).await, "12,24,12");
}

/// The same on PostgreSQL: a backfill whose server is killed, what a failed run staged, and a promotion.
#[tokio::test]
async fn postgres_keeps_backfills_staged_runs_and_promotions() {
    let Some(postgres) = Postgres::start() else {
        return skip("backfills::postgres_keeps_backfills_staged_runs_and_promotions", "PostgreSQL");
    };
    let (folder, url) = (tempfile::tempdir().unwrap(), postgres.url());
    let data = folder.path().join("data");
    let server = on_server(&data, &url);
    let mut bench = filled(Bench { folder, server }).await;
    let (mut child, lines) = begun(&bench, 2, &[]);
    std::mem::replace(&mut bench.server, idle()).kill();
    drop(lines);
    child.wait().unwrap();
    bench.server = on_server(&data, &url);
    assert!(bench.one(STATE).await.starts_with("interrupted,12,"));
    let rest = resume(&bench, &[]);
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert_eq!(bench.one(SUM).await, "12,24,12");
    assert_eq!(bench.one(STATE).await, "done,12,12");
    bench.edit("pipeline.toml", "[vars]", "[env.dev]\nschema_suffix = \"_dev\"\n[vars]");
    bench.edit("models/mart/total.sql", "sum(v)", "-sum(v)");
    bench.run(&["--env", "dev"]);
    let promoted = bench.pipeline("promote", &["--env", "dev"]);
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    assert_eq!(bench.one("SELECT v FROM mart.total").await, "-24");
    assert!(bench.run(&[]).contains("nothing to do"));
    bench.write("tests/no.sql", "SELECT v FROM mart.total");
    bench.edit("models/mart/total.sql", "-sum(v)", "5 * sum(v)");
    assert_eq!(bench.pipeline("run", &[]).code, Some(1));
    let last = bench.one("SELECT max(run_id) FROM system.pipeline_runs").await;
    assert_eq!(bench.one(&format!("SELECT v FROM run_{last}.mart.total")).await, "120");
    let dropped = output(skep(&["pipeline", "drop", &last, "--url", bench.server.flight()]));
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
}
