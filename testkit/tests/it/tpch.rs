//! TPC-H at scale factor 0.01, in `cargo xtask slow` 0.1, over three worker processes: every engine finds the same rows.

use skep_testkit::tpch;

fn scale() -> f64 {
    if skep_testkit::slow() { 0.1 } else { 0.01 }
}

#[tokio::test]
async fn every_query_finds_the_same_rows_in_every_lane() {
    let folder = tempfile::tempdir().unwrap();
    let report = tpch::run(folder.path(), scale(), 1).await.unwrap();
    println!("{}", report.text());
    assert_eq!(report.timings.len(), tpch::QUERIES);
    assert!(report.differences.is_empty(), "{}", report.text());
}

#[tokio::test]
async fn every_query_agrees_with_duckdb() {
    if skep_testkit::duckdb::DuckDb::find().is_none() {
        skep_testkit::skip("tpch::every_query_agrees_with_duckdb", "DuckDB");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let report = tpch::run(folder.path(), scale(), 1).await.unwrap();
    assert!(report.timings.iter().all(|timing| timing.duckdb.is_some()));
    assert!(report.differences.is_empty(), "{}", report.text());
}
