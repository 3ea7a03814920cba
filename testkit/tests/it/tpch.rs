//! TPC-H at scale factor 0.01, in `cargo xtask slow` 0.1, over three worker processes: every engine finds the same rows.

use skep_testkit::benchmark::{LANES, Options, Report};
use skep_testkit::tpch::{self, TPCH};

async fn compare() -> Report {
    let folder = tempfile::tempdir().unwrap();
    let scale = if skep_testkit::slow() { 0.1 } else { 0.01 };
    let options = Options { scale, repeat: 1, lanes: &LANES, only: None, place: None };
    let report = TPCH.run(folder.path(), options, |_| ()).await.unwrap();
    println!("{}", report.text());
    assert_eq!(report.timings.len(), tpch::QUERIES);
    assert!(report.differences.is_empty(), "{}", report.text());
    report
}

#[tokio::test]
async fn every_query_finds_the_same_rows_in_every_lane() {
    compare().await;
}

#[tokio::test]
async fn every_query_agrees_with_duckdb() {
    if skep_testkit::duckdb::DuckDb::find().is_none() {
        skep_testkit::skip("tpch::every_query_agrees_with_duckdb", "DuckDB");
        return;
    }
    let report = compare().await;
    assert!(report.timings.iter().all(|timing| timing.duckdb.is_some()));
}
