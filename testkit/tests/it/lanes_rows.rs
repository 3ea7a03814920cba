//! The lanes give the rows that one node gives, and really spread.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt, WorkerResolver};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use skep_common::{Kind, Result};
use skep_coordinator::lanes::{Lane, Ran, validate};
use skep_testkit::workers::Cluster;
use skep_testkit::{rows, tpch};
use tempfile::TempDir;
use url::Url;

fn scale() -> f64 {
    if skep_testkit::slow() { 0.1 } else { 0.01 }
}

/// TPC-H data, made once for all tests of the process.
fn data() -> &'static Path {
    static DATA: OnceLock<TempDir> = OnceLock::new();
    let folder = DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        tpch::generate(folder.path(), scale()).unwrap();
        folder
    });
    folder.path()
}

async fn with_tpch(cluster: &Cluster) {
    for (table, _) in tpch::TABLES {
        cluster.table(table, &data().join(table)).await.unwrap();
    }
}

pub(crate) async fn run(cluster: &Cluster, sql: &str, lane: Lane) -> Result<(Vec<RecordBatch>, Ran)> {
    let running = cluster.lanes.run(cluster.job(sql, Some(lane)).await?).await?;
    let batches: Vec<RecordBatch> =
        running.stream.try_collect().await.map_err(|e| skep_cluster::failure::from_datafusion(&e))?;
    for batch in &batches {
        assert_eq!(batch.schema(), running.schema, "{sql}");
    }
    Ok((batches, running.ran))
}

/// Runs `sql` in every lane, compares, and returns what ran on the workers.
async fn same(cluster: &Cluster, sql: &str) -> Ran {
    let (local, _) = run(cluster, sql, Lane::Local).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let local = rows::text(&local).unwrap();
    let mut pipelined = None;
    for lane in [Lane::Durable, Lane::Pipelined] {
        let ran = run(cluster, sql, lane).await;
        let (there, ran) = ran.unwrap_or_else(|e| panic!("{} {sql}: {e:?}", lane.name()));
        let there = rows::text(&there).unwrap();
        if let Some(difference) = rows::difference(&local, &there, 0.0) {
            panic!("{} {sql}: {difference}", lane.name());
        }
        if sql.contains("ORDER BY") && sql.ends_with("-- ordered") {
            assert_eq!(local, there, "{} {sql}", lane.name());
        }
        if lane == Lane::Durable && std::env::var_os("SKEP_SEE").is_some() {
            eprintln!("{} {:?}: {}", ran.summary(), ran.fallback(), sql.lines().next().unwrap_or_default());
        }
        pipelined = Some(ran);
    }
    pipelined.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tpch_query_spreads_and_agrees() {
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    with_tpch(&cluster).await;
    for number in 1..=tpch::QUERIES {
        let sql = tpch::query(number, scale()).unwrap();
        let ran = same(&cluster, &sql).await;
        assert_eq!(ran.lane(), Some(Lane::Pipelined), "q{number}: {:?}", ran.fallback());
        assert!(ran.tasks().len() >= 2, "q{number}: {}", ran.summary());
        assert!(ran.stages().values().flatten().all(Option::is_some), "q{number} used the coordinator");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_of_queries_agree() {
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    with_tpch(&cluster).await;
    for sql in [
        "SELECT * FROM nation",
        "SELECT n_name FROM nation WHERE n_nationkey = 7",
        "SELECT count(*) FROM lineitem",
        "SELECT count(*), sum(l_quantity), min(l_shipdate), max(l_comment) FROM lineitem WHERE l_quantity < 10",
        "SELECT count(DISTINCT l_suppkey) FROM lineitem",
        "SELECT o_orderpriority, count(*) FROM orders GROUP BY o_orderpriority",
        "SELECT DISTINCT l_shipmode FROM lineitem",
        "SELECT o_orderkey, o_totalprice FROM orders ORDER BY o_totalprice DESC, o_orderkey -- ordered",
        "SELECT o_orderkey FROM orders ORDER BY o_orderkey LIMIT 7 OFFSET 5 -- ordered",
        "SELECT n_name FROM nation ORDER BY n_name -- ordered",
        "SELECT count(*) FROM (SELECT * FROM lineitem LIMIT 1000)",
        "SELECT count(*) FROM (SELECT * FROM nation LIMIT 3)",
        "SELECT count(*) FROM (SELECT * FROM orders WHERE o_orderkey > 5 LIMIT 3 OFFSET 2)",
        "SELECT sum(c) FROM (SELECT count(*) AS c FROM orders GROUP BY o_custkey ORDER BY c DESC LIMIT 5)",
        "SELECT o_orderkey, row_number() OVER (PARTITION BY o_custkey ORDER BY o_orderkey) FROM orders",
        "SELECT o_orderkey, sum(o_totalprice) OVER (ORDER BY o_orderkey) FROM orders WHERE o_orderkey < 500",
        "SELECT rank() OVER (ORDER BY n_name), n_name FROM nation",
        "SELECT c_name, o_orderkey FROM customer LEFT JOIN orders ON c_custkey = o_custkey AND o_totalprice > 300000",
        "SELECT c_name, o_orderkey FROM orders RIGHT JOIN customer ON c_custkey = o_custkey",
        "SELECT n_name, c FROM nation FULL JOIN (SELECT s_nationkey, count(*) AS c FROM supplier GROUP BY s_nationkey) ON n_nationkey = s_nationkey",
        "SELECT c_name FROM customer WHERE NOT EXISTS (SELECT 1 FROM orders WHERE o_custkey = c_custkey)",
        "SELECT c_name FROM customer WHERE c_custkey IN (SELECT o_custkey FROM orders WHERE o_totalprice > 200000)",
        "SELECT c_name FROM customer WHERE c_custkey NOT IN (SELECT o_custkey FROM orders)",
        "SELECT count(*) FROM nation a, nation b WHERE a.n_nationkey < b.n_nationkey",
        "SELECT count(*) FROM nation CROSS JOIN region",
        "SELECT count(*) FROM customer a JOIN nation b ON a.c_custkey > b.n_nationkey * 50",
        "SELECT r_name, (SELECT count(*) FROM nation WHERE n_regionkey = r_regionkey) FROM region",
        "SELECT o_orderkey FROM orders WHERE o_totalprice = (SELECT max(o_totalprice) FROM orders)",
        "SELECT n_name FROM nation UNION ALL SELECT r_name FROM region",
        "SELECT n_name FROM nation UNION SELECT r_name FROM region UNION ALL SELECT 'x'",
        "SELECT count(*) FROM (SELECT o_orderkey AS k FROM orders UNION ALL SELECT c_custkey FROM customer UNION ALL SELECT count(*) FROM nation)",
        "SELECT n_regionkey FROM nation INTERSECT SELECT r_regionkey FROM region WHERE r_regionkey > 1",
        "SELECT n_nationkey FROM nation EXCEPT SELECT r_regionkey FROM region",
        "SELECT count(*) FROM orders WHERE o_orderkey < 0",
        "SELECT * FROM orders WHERE o_orderkey < 0",
        "SELECT max(o_orderkey), count(*) FROM orders WHERE false",
        "SELECT o_orderstatus, grouping(o_orderstatus), count(*) FROM orders GROUP BY ROLLUP (o_orderstatus)",
        "WITH top AS (SELECT o_custkey, sum(o_totalprice) AS t FROM orders GROUP BY o_custkey) SELECT count(*) FROM top a JOIN top b ON a.t > b.t AND a.o_custkey = b.o_custkey + 1",
        "SELECT array_agg(n_name ORDER BY n_name) FROM nation",
        "SELECT NULL, count(*) FROM nation GROUP BY 1",
        "SELECT date_trunc('month', o_orderdate) AS m, count(*) FROM orders GROUP BY m ORDER BY m -- ordered",
    ] {
        same(&cluster, sql).await;
    }
}

/// A worker gets a stage without the stages below, and knows no less of their rows: here, that a key has one value, or is another key.
#[tokio::test(flavor = "multi_thread")]
async fn windows_over_keys_that_need_no_sorting_agree() {
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    with_tpch(&cluster).await;
    let sums = "SELECT l_returnflag AS f, l_linestatus AS s, l_shipmode AS m, l_linenumber AS n, sum(l_quantity) AS q \
         FROM lineitem WHERE l_linestatus = 'F' GROUP BY 1, 2, 3, 4";
    let twice = "SELECT o_orderkey AS a, l_orderkey AS b, count(*) AS c FROM orders JOIN lineitem \
         ON o_orderkey = l_orderkey GROUP BY 1, 2";
    for sql in [
        format!("SELECT f, s, m, n, avg(q) OVER (PARTITION BY f, s) FROM ({sums})"),
        format!("SELECT f, s, m, n, sum(q) OVER (PARTITION BY s, f ORDER BY m, n) FROM ({sums})"),
        format!(
            "SELECT f, s, m, n, avg(q) OVER (PARTITION BY f, s), rank() OVER (PARTITION BY f ORDER BY m, n) \
             FROM ({sums})"
        ),
        format!(
            "SELECT a, b, avg(c) OVER (PARTITION BY a, b), row_number() OVER (PARTITION BY a, b) FROM ({twice})"
        ),
    ] {
        let ran = same(&cluster, &sql).await;
        assert_eq!(ran.lane(), Some(Lane::Pipelined), "{sql}: {:?}", ran.fallback());
    }
}

/// One small file is still read by every worker, when it has row groups for them.
#[tokio::test(flavor = "multi_thread")]
async fn row_groups_of_one_file_spread() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..900));
    let words: ArrayRef = Arc::new(StringArray::from_iter_values((0..900).map(|i| format!("word {i}"))));
    let batch = RecordBatch::try_from_iter([("n", numbers), ("w", words)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
    let file = std::fs::File::create(folder.path().join("one.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();

    let cluster = Cluster::start(3, Vec::new()).unwrap();
    cluster.table("t", folder.path()).await.unwrap();
    for sql in [
        "SELECT * FROM t",
        "SELECT sum(n), count(*) FROM t",
        "SELECT n FROM t ORDER BY n DESC -- ordered",
        "SELECT n % 7, max(w) FROM t GROUP BY 1",
        "SELECT count(*) FROM (SELECT * FROM t LIMIT 10)",
    ] {
        let ran = same(&cluster, sql).await;
        if !sql.contains("LIMIT") {
            assert_eq!(ran.tasks().len(), 3, "{sql}: {} {:?}", ran.summary(), ran.fallback());
            assert!(ran.stages().values().all(|stage| stage.len() <= 3), "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_spread_says_so() {
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    with_tpch(&cluster).await;
    let recursive =
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT sum(n) FROM t";
    for sql in ["SELECT 1", "SELECT * FROM (VALUES (1), (2)) AS t(x)", recursive] {
        let ran = same(&cluster, sql).await;
        assert_eq!(ran.lane(), Some(Lane::Local), "{sql}");
        assert!(ran.fallback().is_some(), "{sql}");
    }
    let nobody = Cluster::start(0, Vec::new()).unwrap();
    with_tpch(&nobody).await;
    let error = run(&nobody, "SELECT count(*) FROM nation", Lane::Pipelined).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_stays_local_on_one_machine() {
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    with_tpch(&cluster).await;
    let running =
        cluster.lanes.run(cluster.job("SELECT count(*) FROM lineitem", None).await.unwrap()).await.unwrap();
    let _: Vec<_> = running.stream.try_collect().await.unwrap();
    assert_eq!((running.ran.lane(), running.ran.fallback()), (Some(Lane::Local), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_say_their_stages_tasks_and_workers() {
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    with_tpch(&cluster).await;
    let sql = "SELECT o_orderpriority, count(*) FROM orders GROUP BY o_orderpriority";
    let text = cluster.lanes.explain(&cluster.job(sql, Some(Lane::Pipelined)).await.unwrap()).await.unwrap();
    for expected in
        ["lane: pipelined, 3 workers", "stage 1: 3 tasks on w1, w2, w3", "<- stage 2", "tasks read 2 parts"]
    {
        assert!(text.contains(expected), "no '{expected}' in\n{text}");
    }
    let text = cluster.lanes.explain(&cluster.job(sql, Some(Lane::Local)).await.unwrap()).await.unwrap();
    assert!(text.starts_with("lane: local\n"), "{text}");
    let text = cluster.lanes.analyze(cluster.job(sql, Some(Lane::Pipelined)).await.unwrap()).await.unwrap();
    assert!(text.contains("rows: 5") && text.contains("output_rows"), "{text}");
    let limit = cluster.job("SELECT * FROM lineitem LIMIT 1", Some(Lane::Pipelined)).await.unwrap();
    assert!(cluster.lanes.analyze(limit).await.unwrap().contains("rows: 1"));
}

struct Three;

impl WorkerResolver for Three {
    fn get_urls(&self) -> datafusion::error::Result<Vec<Url>> {
        Ok((1..4).map(|port| Url::parse(&format!("http://127.0.0.1:{port}")).unwrap()).collect())
    }
}

/// With one partition datafusion-distributed itself plans TPC-H q11 and q15 so that they give wrong rows.
#[tokio::test(flavor = "multi_thread")]
async fn plans_with_wrong_rows_are_refused() {
    for (partitions, must) in [(1, vec![11, 15]), (2, vec![])] {
        let mut refused = Vec::new();
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(partitions))
            .with_distributed_planner()
            .with_distributed_worker_resolver(Three)
            .with_distributed_desired_task_count_handler(3usize)
            .with_distributed_children_isolator_unions(false)
            .unwrap()
            .build();
        let context = SessionContext::new_with_state(state);
        for (table, _) in tpch::TABLES {
            let folder = data().join(table);
            let options = ParquetReadOptions::default();
            context.register_parquet(table, folder.to_string_lossy(), options).await.unwrap();
        }
        for number in 1..=tpch::QUERIES {
            let sql = tpch::query(number, scale()).unwrap();
            let plan = context.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
            if let Err(error) = validate(&plan) {
                assert_eq!(error.kind(), Kind::Internal);
                assert!(error.message().contains("stage") && error.message().contains("Exec"), "{error:?}");
                refused.push(number);
            }
        }
        // Spread by force, some others would be wrong too.
        assert!(must.iter().all(|number| refused.contains(number)), "{partitions} partitions: {refused:?}");
        assert!(partitions == 1 || refused.is_empty(), "{partitions} partitions: {refused:?}");
    }
}

/// A join whose hash table does not fit is run again by sorting, which spills.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_larger_than_memory_ends() {
    let cluster = Cluster::start(0, Vec::new()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let memory = skep_engine::memory::Memory::new(skep_common::ByteSize::mib(40), None);
    let stores = skep_store::Stores::new();
    let runtime = skep_engine::runtime::build(&memory, &folder.path().join("spill"), &stores).unwrap();
    let mut settings = skep_engine::settings::Settings::default();
    settings.set("datafusion.execution.sort_spill_reservation_bytes", Some("1048576")).unwrap();
    let config = settings.apply(SessionConfig::new().with_target_partitions(2));
    let context = SessionContext::new_with_config_rt(config, runtime);
    for table in ["a", "b"] {
        let make = format!(
            "CREATE TABLE {table} AS SELECT v AS k, repeat('{table}', 40) || v AS s FROM generate_series(1, 2000000) AS g(v)"
        );
        context.sql(&make).await.unwrap().collect().await.unwrap();
    }
    let sql = "SELECT count(*), sum(length(a.s)), sum(length(b.s)) FROM a JOIN b ON a.k = b.k";
    let job = || async {
        let state = context.state();
        let logical = state.create_logical_plan(sql).await.unwrap();
        skep_coordinator::lanes::Job {
            state,
            logical,
            write: None,
            lane: Some(Lane::Local),
            query: skep_common::QueryId::generate(),
        }
    };
    let running = cluster.lanes.run(job().await).await.unwrap();
    let batches: Vec<RecordBatch> = running.stream.try_collect().await.unwrap();
    assert_eq!(rows::text(&batches).unwrap()[0][0], "2000000");
    assert!(running.ran.attempts() > 1, "the first attempt fitted: the test shows nothing");
}
