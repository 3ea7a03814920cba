//! TPC-DS at scale factor 0.01: every query that DataFusion can plan finds the same rows in every lane, and those of DuckDB.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::OnceLock;

use futures::StreamExt;
use skep_coordinator::lanes::Lane;
use skep_testkit::benchmark::{Options, Query, Report};
use skep_testkit::rows;
use skep_testkit::tpcds::{self, TPCDS, UNPLANNED};
use skep_testkit::workers::Cluster;
use tempfile::TempDir;

use crate::lanes_rows::run;

const SCALE: f64 = 0.01;
/// What Skep refuses at this scale and nobody else: a class of items without revenue, by whose revenue q12 divides. Skep divides
/// decimals, which has no answer; the others divide doubles, which gives NaN.
const REFUSED: &str = "q12: local and DataFusion: division by zero";
/// How many queries run at once: a durable one mostly waits for its next stage.
const AT_ONCE: usize = 3;

/// The data, made once for all tests of the process.
fn data() -> &'static Path {
    static DATA: OnceLock<TempDir> = OnceLock::new();
    let folder = DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        tpcds::generate(folder.path(), SCALE).unwrap();
        folder
    });
    folder.path()
}

fn is_planned(query: &Query) -> bool {
    UNPLANNED.iter().all(|(name, _)| *name != query.name)
}

/// Runs those of the queries in every lane on workers of the test's own, and compares.
async fn agree(numbers: RangeInclusive<usize>) {
    let workers = if skep_testkit::slow() { 3 } else { 2 };
    let cluster = Cluster::start(workers, Vec::new()).unwrap();
    for (table, _) in tpcds::TABLES {
        cluster.table(table, &data().join(table)).await.unwrap();
    }
    let queries = tpcds::all().unwrap();
    let queries = queries[*numbers.start() - 1..*numbers.end()].iter().filter(|query| is_planned(query));
    let compared = queries.map(|query| compare(&cluster, query));
    let wrong: Vec<String> = futures::stream::iter(compared).buffer_unordered(AT_ONCE).concat().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is wrong with one query.
async fn compare(cluster: &Cluster, query: &Query) -> Vec<String> {
    let (mut wrong, mut expected) = (Vec::new(), None);
    let sql = query.in_total_order(&cluster.context).await.unwrap();
    for lane in [Lane::Local, Lane::Pipelined, Lane::Durable] {
        let here = format!("{} {}", query.name, lane.name());
        let (batches, ran) = match run(cluster, &sql, lane).await {
            Ok(found) => found,
            Err(error) => {
                wrong.push(format!("{here}: {}", error.report()));
                continue;
            }
        };
        if ran.lane() != Some(lane) {
            wrong.push(format!("{here}: ran elsewhere, {:?}", ran.fallback()));
        }
        let found = rows::text(&batches).unwrap();
        let Some(expected) = &expected else {
            expected = Some(found);
            continue;
        };
        let difference = if query.is_limited() {
            rows::difference_in_order(expected, &found, 0.0)
        } else {
            rows::difference(expected, &found, 0.0)
        };
        wrong.extend(difference.map(|text| format!("{here} and local: {text}")));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_1_to_25_agree_in_every_lane() {
    agree(1..=25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_26_to_50_agree_in_every_lane() {
    agree(26..=50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_51_to_75_agree_in_every_lane() {
    agree(51..=75).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_76_to_99_agree_in_every_lane() {
    agree(76..=99).await;
}

/// The list says what fails and how, and nothing else fails.
#[tokio::test]
async fn what_cannot_be_planned_is_listed() {
    let plain = TPCDS.plain_datafusion(data()).await.unwrap();
    for query in tpcds::all().unwrap() {
        let listed = UNPLANNED.iter().find(|(name, _)| *name == query.name);
        let planned = match plain.sql(&query.sql).await {
            Ok(frame) => frame.create_physical_plan().await.map(drop),
            Err(error) => Err(error),
        };
        match (listed, planned) {
            (None, planned) => planned.unwrap_or_else(|e| panic!("{} is not listed: {e}", query.name)),
            (Some(_), Ok(())) => panic!("{} can be planned: take it off the list", query.name),
            (Some((_, why)), Err(e)) => assert!(e.to_string().contains(why), "{}: {e}", query.name),
        }
    }
}

/// Loaded by SQL and asked over Flight SQL. The lanes are compared above, on the workers of a test.
async fn through_the_door() -> Report {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { scale: SCALE, repeat: 1, lanes: &["local"], only: None, place: None };
    let report = TPCDS.run(folder.path(), options, |_| ()).await.unwrap();
    println!("{}", report.text());
    assert_eq!(report.timings.len() + UNPLANNED.len(), tpcds::QUERIES);
    assert_eq!(report.differences.len(), 1, "{}", report.text());
    assert!(report.differences[0].starts_with(REFUSED), "{}", report.text());
    report
}

#[tokio::test]
async fn every_query_agrees_through_the_door() {
    through_the_door().await;
}

#[tokio::test]
async fn every_query_agrees_with_duckdb() {
    if skep_testkit::duckdb::DuckDb::find().is_none() {
        skep_testkit::skip("tpcds::every_query_agrees_with_duckdb", "DuckDB");
        return;
    }
    let report = through_the_door().await;
    assert!(report.timings.iter().all(|timing| timing.duckdb.is_some()));
}
