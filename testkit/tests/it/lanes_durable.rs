//! The durable lane makes again what is lost: whichever worker dies, whenever, the rows are those of one node.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use futures::{StreamExt, TryStreamExt};
use skep_catalog::columns_from_arrow;
use skep_cluster::failure::from_datafusion;
use skep_common::{ByteSize, Error, Kind};
use skep_coordinator::lanes::{Config, DurableConfig, Lane, Ran};
use skep_engine::write::{WriteTarget, collect_report};
use skep_testkit::rows;
use skep_testkit::workers::{Cluster, DEADLINE, until};
use tempfile::TempDir;

use crate::lanes_faults::numbers;
use crate::lanes_rows::run;

/// Holds tasks back until the test lets them go.
#[derive(Default)]
struct Gate {
    /// Calls that waited here.
    waiting: AtomicUsize,
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_timeout_while(open, DEADLINE, |open| !*open).unwrap());
    }

    fn reached(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }
}

/// `hold(n)` gives `n` when the gate is open.
fn hold(gate: &Arc<Gate>, volatility: Volatility) -> Arc<ScalarUDF> {
    let gate = Arc::clone(gate);
    let hold = move |arguments: &[ColumnarValue]| {
        gate.wait();
        Ok(arguments[0].clone())
    };
    Arc::new(create_udf("hold", vec![DataType::Int64], DataType::Int64, volatility, Arc::new(hold)))
}

/// `flaky(n)` fails the first time as a store that cannot be reached does.
fn flaky() -> Arc<ScalarUDF> {
    let failed = AtomicBool::new(false);
    let flaky = move |arguments: &[ColumnarValue]| {
        if !failed.swap(true, Ordering::AcqRel) {
            let error = object_store::Error::Generic { store: "S3", source: "connection reset".into() };
            return Err(datafusion::error::DataFusionError::ObjectStore(Box::new(error)));
        }
        Ok(arguments[0].clone())
    };
    Arc::new(create_udf(
        "flaky",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(flaky),
    ))
}

fn config() -> Config {
    let durable = DurableConfig { worker_timeout: Duration::from_secs(3), ..DurableConfig::default() };
    Config { durable, ..Config::default() }
}

async fn cluster(folder: &TempDir, functions: Vec<Arc<ScalarUDF>>) -> Cluster {
    let cluster = Cluster::with_config(3, functions.clone(), config()).unwrap();
    for function in functions {
        cluster.context.register_udf(function.as_ref().clone());
    }
    cluster.table("t", folder.path()).await.unwrap();
    cluster
}

fn same(expected: &[RecordBatch], got: &[RecordBatch], what: &str) {
    let (expected, got) = (rows::text(expected).unwrap(), rows::text(got).unwrap());
    assert_eq!(rows::difference(&expected, &got, 0.0), None, "{what}");
}

/// Runs `sql` with the gate closed; kills worker `victim` when a task waits there, opens the gate, and gives the rows.
async fn run_and_kill(sql: &str, victim: usize, volatility: Volatility) -> Ran {
    let folder = numbers();
    let gate = Arc::new(Gate::default());
    let mut cluster = cluster(&folder, vec![hold(&gate, volatility)]).await;
    let job = cluster.job(sql, Some(Lane::Durable)).await.unwrap();
    let running = cluster.lanes.run(job).await.unwrap();
    let ran = running.ran.clone();
    let rows = skep_common::task::spawn("query", running.stream.try_collect::<Vec<_>>());
    until("a task waits", || gate.reached()).await;
    cluster.workers[victim].kill();
    gate.open();
    let got = tokio::time::timeout(DEADLINE, rows).await.expect("it hangs").unwrap();
    let got = got.unwrap_or_else(|e| panic!("{sql}: {:?}", from_datafusion(&e)));
    let (expected, _) = run(&cluster, sql, Lane::Local).await.unwrap();
    same(&expected, &got, sql);
    assert_eq!(ran.lane(), Some(Lane::Durable), "{:?}", ran.fallback());
    ran
}

/// In the stage that scans, in one in the middle, above outputs of stages that are finished, in the last one.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_any_stage_is_done_without() {
    let mut lost = 0;
    for (i, sql) in [
        "SELECT hold(n) FROM t",
        "SELECT hold(n) % 10 AS k, count(*), sum(n) FROM t GROUP BY 1",
        "SELECT hold(k), c FROM (SELECT n % 100 AS k, count(*) AS c FROM t GROUP BY 1)",
        "SELECT count(*), sum(hold(k)) FROM (SELECT n % 1000 AS k, count(*) AS c FROM t GROUP BY 1) GROUP BY c",
        "SELECT a.n, hold(b.n) FROM t a JOIN t b ON a.n = b.n + 1 WHERE a.n % 5 = 0",
        "SELECT hold(n) FROM t ORDER BY n",
    ]
    .into_iter()
    .enumerate()
    {
        let ran = run_and_kill(sql, i % 3, Volatility::Immutable).await;
        assert_eq!(ran.attempts(), 1, "only what was lost is made again: {sql}: {}", ran.summary());
        lost += ran.measured().iter().map(|stage| stage.failed).sum::<usize>();
    }
    assert!(lost > 0, "no task was ever lost: the test shows nothing");
}

/// What runs again may give other rows: it runs again whole, or nothing of it had been used.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_depend_on_how_they_are_made_are_made_again_whole() {
    let sql = "SELECT hold(k), c FROM (SELECT n % 100 AS k, count(*) AS c FROM t GROUP BY 1)";
    let mut attempts = 0;
    for victim in 0..3 {
        attempts += run_and_kill(sql, victim, Volatility::Volatile).await.attempts();
    }
    assert!(attempts > 3, "outputs of the first stage were lost, and it was never run whole again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_survives_the_death_of_a_worker() {
    let (folder, out) = (numbers(), tempfile::tempdir().unwrap());
    let gate = Arc::new(Gate::default());
    let mut cluster = cluster(&folder, vec![hold(&gate, Volatility::Immutable)]).await;
    let sql = "SELECT hold(k) AS k, c FROM (SELECT n % 3000 AS k, count(*) AS c FROM t GROUP BY 1)";
    let schema = cluster.context.sql(sql).await.unwrap().schema().as_arrow().clone();
    let path = object_store::path::Path::from_absolute_path(out.path()).unwrap();
    let store = datafusion::execution::object_store::ObjectStoreUrl::local_filesystem();
    let mut target = WriteTarget::new(&store, &path, columns_from_arrow(&schema).unwrap());
    target.file_size = ByteSize::mib(1);
    let job = cluster.write(sql, target, Some(Lane::Durable)).await.unwrap();
    let running = cluster.lanes.run(job).await.unwrap();
    let rows = skep_common::task::spawn("write", running.stream.try_collect::<Vec<_>>());
    until("a task waits", || gate.reached()).await;
    cluster.workers[1].kill();
    gate.open();
    let report = tokio::time::timeout(DEADLINE, rows).await.expect("it hangs").unwrap().unwrap();
    let files = collect_report(&report).unwrap();
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 3000);
    let mut written = Vec::new();
    for file in &files {
        let file = std::fs::File::open(out.path().join(&file.path)).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        written.extend(reader.build().unwrap().map(|batch| batch.unwrap()));
    }
    let (expected, _) = run(&cluster, sql, Lane::Local).await.unwrap();
    same(&expected, &written, sql);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_stops_the_tasks_and_deletes_their_outputs() {
    let folder = numbers();
    let gate = Arc::new(Gate::default());
    let cluster = cluster(&folder, vec![hold(&gate, Volatility::Immutable)]).await;
    let sql = "SELECT hold(k), c FROM (SELECT n % 100 AS k, count(*) AS c FROM t GROUP BY 1)";
    let job = cluster.job(sql, Some(Lane::Durable)).await.unwrap();
    let mut running = cluster.lanes.run(job).await.unwrap();
    let waiting = skep_common::task::spawn("query", async move { running.stream.next().await.is_some() });
    until("a task waits", || gate.reached()).await;
    let kept = |cluster: &Cluster| cluster.workers.iter().map(|worker| worker.outputs()).sum::<usize>();
    assert!(kept(&cluster) > 0);
    drop(waiting);
    gate.open();
    until("outputs of a cancelled job are deleted", || kept(&cluster) == 0).await;
    let (rows, _) = run(&cluster, "SELECT count(*) FROM t", Lane::Durable).await.unwrap();
    assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 9000, "the workers still work");
    until("outputs of a job that was read are deleted", || kept(&cluster) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_tried_again_and_a_bad_statement_is_not() {
    let folder = numbers();
    let boom = |_: &[ColumnarValue]| -> datafusion::error::Result<ColumnarValue> { panic!("boom") };
    let boom =
        create_udf("boom", vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(boom));
    let full = |_: &[ColumnarValue]| {
        let error = Error::exhausted("no room left").hint("raise memory.limit");
        Err(skep_cluster::failure::to_datafusion(error))
    };
    let full =
        create_udf("full", vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(full));
    let cluster = cluster(&folder, vec![flaky(), Arc::new(boom), Arc::new(full)]).await;
    let (rows, ran) = run(&cluster, "SELECT flaky(n) FROM t WHERE n < 100", Lane::Durable).await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
    let failed: usize = ran.measured().iter().map(|stage| stage.failed).sum();
    assert_eq!(ran.attempts(), 1, "{}", ran.summary());
    assert!(failed >= 1, "{}", ran.summary());
    for (sql, kind, says) in [
        ("SELECT boom(n) FROM t", Kind::Internal, "boom"),
        ("SELECT full(n), count(*) FROM t GROUP BY 1", Kind::Exhausted, "no room left"),
        ("SELECT 1 / (n - n) FROM t", Kind::Invalid, "zero"),
    ] {
        let running = cluster.lanes.run(cluster.job(sql, Some(Lane::Durable)).await.unwrap()).await.unwrap();
        let ran = running.ran.clone();
        let error = running.stream.try_collect::<Vec<_>>().await.unwrap_err();
        let error = from_datafusion(&error);
        assert_eq!(error.kind(), kind, "{sql}: {error:?}");
        assert!(error.report().contains(says), "{sql}: {}", error.report());
        assert_eq!(ran.attempts(), 1, "{sql}");
    }
}

/// Many rows come through, from several workers at once, in whatever pieces they were written.
#[tokio::test(flavor = "multi_thread")]
async fn results_larger_than_a_message_arrive_whole() {
    let folder = tempfile::tempdir().unwrap();
    let column: ArrayRef = Arc::new(Float64Array::from_iter_values((0..400_000).map(f64::from)));
    let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
    let file = std::fs::File::create(folder.path().join("0.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let cluster = cluster(&folder, Vec::new()).await;
    let sql = "SELECT x, x * 2 AS y, CAST(x AS VARCHAR) AS s FROM t";
    let (expected, _) = run(&cluster, sql, Lane::Local).await.unwrap();
    let (got, ran) = run(&cluster, sql, Lane::Durable).await.unwrap();
    same(&expected, &got, sql);
    assert!(ran.tasks().len() >= 2, "{}", ran.summary());
    assert!(ran.measured().iter().any(|stage| stage.bytes > 1 << 20), "{:?}", ran.measured());
}

/// Once a row has left, nothing is read from workers any more: none that dies can cut the rows short.
#[tokio::test(flavor = "multi_thread")]
async fn results_outlive_the_workers_that_have_them() {
    let folder = numbers();
    let mut cluster = cluster(&folder, Vec::new()).await;
    let sql = "SELECT n, n * 2 AS m FROM t";
    let job = cluster.job(sql, Some(Lane::Durable)).await.unwrap();
    let mut running = cluster.lanes.run(job).await.unwrap();
    let mut got = vec![running.stream.next().await.unwrap().unwrap()];
    for worker in &mut cluster.workers[..3] {
        worker.kill();
    }
    let rest = tokio::time::timeout(DEADLINE, running.stream.try_collect::<Vec<_>>()).await;
    got.extend(rest.expect("it hangs").unwrap_or_else(|e| panic!("{:?}", from_datafusion(&e))));
    let (expected, _) = run(&cluster, sql, Lane::Local).await.unwrap();
    same(&expected, &got, sql);
}
