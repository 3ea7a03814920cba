//! What an environment has and was tested there becomes production, in one commit, through the command line.

use crate::pipelines::{Bench, SETTINGS};

const DAYS: &str = "/*---\nkind = \"interval\"\ntime = \"day\"\ngrain = \"day\"\ntests = [{ not_null = [\"day\"] }]\n---*/\n\
    SELECT CAST(at AS TIMESTAMP) AS day, n FROM lake.loaded WHERE at >= $start AND at < $end";

fn bench() -> Bench {
    Bench::new(&[
        ("pipeline.toml", &format!("{SETTINGS}[env.dev]\nschema_suffix = \"_dev\"\n")),
        ("raw/a.csv", "at,n\n2024-01-01,1\n2024-01-02,2\n"),
        (
            "models/lake/loaded.sql",
            "/*---\nkind = \"load\"\ncolumns = \"at TIMESTAMP, n BIGINT\"\noptions = { format = \"csv\", header = true }\n---*/\nSELECT * FROM 'raw/*.csv'",
        ),
        ("models/warehouse/days.sql", DAYS),
        ("models/mart/total.sql", "SELECT sum(n) AS n FROM warehouse.days"),
        ("models/mart/seen.sql", "/*---\nkind = \"view\"\n---*/\nSELECT n AS seen FROM mart.total"),
        ("tests/total.sql", "SELECT 1 FROM mart.total WHERE n IS NULL"),
    ])
}

const TABLES: &str =
    "SELECT count(*) FROM information_schema.tables WHERE table_schema IN ('lake', 'warehouse', 'mart')";

#[tokio::test]
async fn what_an_environment_has_becomes_production_in_one_commit() {
    let bench = bench();
    bench.run(&["--env", "dev"]);
    assert_eq!(bench.one(TABLES).await, "0");
    let promoted = bench.pipeline("promote", &["--env", "dev"]);
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    assert!(promoted.stdout.contains("promoted 4 tables of dev in snapshot 2"), "{promoted:?}");
    assert_eq!(bench.one("SELECT * FROM mart.seen").await, "3");
    let view = "SELECT count(*) FROM information_schema.views WHERE table_schema = 'mart' AND definition LIKE '%_dev%'";
    assert_eq!(bench.one(view).await, "0", "views name production's tables");
    assert_eq!(bench.one("SELECT max(snapshot_id) FROM system.snapshots").await, "2", "one commit");
    // Production knows its intervals, texts and files: a run finds nothing to do.
    let lines = "SELECT environment, count(*) FROM system.pipeline_intervals GROUP BY environment ORDER BY 1";
    assert_eq!(bench.one(lines).await, "dev,2;prod,2");
    let run = bench.run(&[]);
    assert!(run.contains("nothing to do"), "{run}");
    assert!(run.contains("no file that was not loaded yet"), "{run}");
    assert!(bench.run(&["--env", "dev"]).contains("nothing to do"));

    // Another text is tried beside production, and promoted over what production has.
    bench.edit("models/mart/total.sql", "sum(n) AS n", "sum(n) * 10 AS n, count(*) AS days");
    bench.run(&["--env", "dev", "--select", "mart.total+"]);
    assert_eq!(bench.one("SELECT * FROM mart.total").await, "3");
    let some = bench.pipeline("promote", &["--env", "dev", "--select", "mart.total+"]);
    assert!(some.code == Some(0) && some.stdout.contains("promoted 2 tables of dev"), "{some:?}");
    assert_eq!(
        bench.one("SELECT n, days, (SELECT max(seen) FROM mart.seen) FROM mart.total").await,
        "30,2,30"
    );
    assert!(bench.run(&[]).contains("nothing to do"));

    // Files that come now are loaded once, and what was promoted goes on in production.
    bench.write("raw/b.csv", "at,n\n2024-01-01,5\n");
    let late = bench.run(&[]);
    assert!(
        late.contains("warehouse.days (interval): 2024-01-01 to 2024-01-02") && !late.contains("warn"),
        "{late}"
    );
    assert_eq!(bench.one("SELECT n, days FROM mart.total").await, "80,3");
    assert_eq!(bench.one("SELECT count(*) FROM lake.loaded").await, "3");
}

#[tokio::test]
async fn what_was_not_tested_or_would_lose_something_is_not_promoted() {
    let bench = bench();
    let none = bench.pipeline("promote", &["--env", "dev"]);
    assert!(none.code == Some(1) && none.stdout.contains("'dev' has none of these models"), "{none:?}");
    let unknown = bench.pipeline("promote", &["--env", "dve"]);
    assert!(unknown.code != Some(0) && unknown.stderr.contains("no environment 'dve'"), "{unknown:?}");
    let itself = bench.pipeline("promote", &["--env", "prod"]);
    assert!(itself.code != Some(0) && itself.stderr.contains("promoted to itself"), "{itself:?}");
    assert_eq!(bench.pipeline("promote", &[]).code, Some(2));
    bench.run(&[]);
    bench.run(&["--env", "dev"]);
    let refused = |says: &[&str], more: &[&str]| {
        let output = bench.pipeline("promote", &[&["--env", "dev"], more].concat());
        assert_eq!(output.code, Some(1), "{output:?}");
        says.iter().for_each(|says| assert!(output.stdout.contains(says), "{says}: {output:?}"));
    };
    // The text is another than the one that was run.
    bench.edit("models/mart/total.sql", "sum(n) AS n", "sum(n) + 1 AS n");
    refused(&["the text of 'mart.total'", "is not the one that was run", "skep pipeline run --env dev"], &[]);
    refused(&["the text of 'mart.total'"], &["--force"]);
    bench.run(&["--env", "dev"]);
    // Only a part, which was made of something that stays behind.
    refused(
        &["'mart.total' was made of 'warehouse_dev.days', which would not be promoted"],
        &["--select", "mart.total"],
    );
    // Production went on meanwhile: its table has rows that the environment never saw.
    bench.write("raw/b.csv", "at,n\n2024-01-02,5\n");
    bench.edit("pipeline.toml", "2024-01-03", "2024-01-04");
    bench.run(&["--select", "lake.loaded", "warehouse.days"]);
    refused(
        &[
            "production would lose something: ",
            "'warehouse.days' was changed in snapshot",
            "'warehouse.days' has 1 intervals of a day that the environment does not have, the first 2024-01-03",
            "--force",
        ],
        &[],
    );
    assert_eq!(bench.one("SELECT n FROM mart.total").await, "3", "nothing was promoted");
    let retry = bench.pipeline("retry", &[]);
    assert!(retry.code == Some(1) && retry.stdout.contains("it is dropped"), "{retry:?}");
    // A test that does not hold here keeps all of it from being published.
    let snapshots = "SELECT max(snapshot_id) FROM system.snapshots";
    let before = bench.one(snapshots).await;
    bench.edit("tests/total.sql", "n IS NULL", "n > 0");
    refused(&["test 'tests/total.sql' gives 1 rows"], &["--force"]);
    assert_eq!(bench.one(snapshots).await, before);
    bench.edit("tests/total.sql", "n > 0", "n IS NULL");
    // Whoever knows better; the next run makes what production had beyond it.
    let forced = bench.pipeline("promote", &["--env", "dev", "--force"]);
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert_eq!(bench.one("SELECT n FROM mart.total").await, "4");
    bench.run(&[]);
    assert_eq!(bench.one("SELECT n FROM mart.total").await, "9");
    assert_eq!(bench.one("SELECT count(*) FROM lake.loaded").await, "3");
}
