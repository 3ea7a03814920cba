//! What goes wrong on a worker fails the query with a typed error, and never shortens its rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::ipc::writer::StreamWriter;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion_distributed::{ChannelResolver, ExecuteTaskRequest, ProducerHead, TaskKey};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use skep_cluster::exchange::Channels;
use skep_cluster::failure::from_datafusion;
use skep_cluster::proto::exchange::exchange_server::{Exchange, ExchangeServer};
use skep_cluster::proto::exchange::{End, FetchReply, FetchRequest, fetch_reply};
use skep_cluster::{ChannelConfig, Secret};
use skep_common::{Error, Kind};
use skep_coordinator::lanes::Lane;
use skep_testkit::workers::{Cluster, until};
use tempfile::TempDir;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::lanes_rows::run;

/// `t(n)` with the numbers from 0 to 8,999 in three files.
pub(crate) fn numbers() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in 0..3 {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(file * 3000..(file + 1) * 3000));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(1000)).build();
        let path = folder.path().join(format!("{file}.parquet"));
        let file = std::fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    folder
}

/// `boom(n)` gives `n`, and panics at 4242.
fn boom() -> Arc<ScalarUDF> {
    let explode = |arguments: &[ColumnarValue]| {
        if let ColumnarValue::Array(array) = &arguments[0] {
            let hit = array.as_primitive::<Int64Type>().iter().any(|n| n == Some(4242));
            assert!(!hit, "boom at 4242");
        }
        Ok(arguments[0].clone())
    };
    let types = (vec![DataType::Int64], DataType::Int64);
    Arc::new(create_udf("boom", types.0, types.1, Volatility::Immutable, Arc::new(explode)))
}

/// `full(n)` gives an error that only says its kind by its type.
fn full() -> Arc<ScalarUDF> {
    let fail = |_: &[ColumnarValue]| {
        let error = Error::exhausted("no room left").hint("raise memory.limit");
        Err(skep_cluster::failure::to_datafusion(error))
    };
    let types = (vec![DataType::Int64], DataType::Int64);
    Arc::new(create_udf("full", types.0, types.1, Volatility::Volatile, Arc::new(fail)))
}

async fn cluster(folder: &TempDir) -> Cluster {
    let functions = vec![boom(), full()];
    let cluster = Cluster::start(3, functions.clone()).unwrap();
    for function in functions {
        cluster.context.register_udf(function.as_ref().clone());
    }
    cluster.table("t", folder.path()).await.unwrap();
    cluster
}

/// Wherever the panic is: on top of a stage, below a shuffle, below a broadcast, in the coordinator's own part.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_the_query() {
    let folder = numbers();
    let cluster = cluster(&folder).await;
    for sql in [
        "SELECT boom(n) FROM t",
        "SELECT boom(n) FROM t ORDER BY 1",
        "SELECT count(boom(n)) FROM t",
        "SELECT boom(n) % 10, count(*) FROM t GROUP BY 1",
        "SELECT count(*) FROM t a JOIN (SELECT boom(n) AS m FROM t WHERE n > 4000) b ON a.n = b.m",
        "SELECT count(*) FROM (SELECT boom(n) AS m FROM t) a, t b WHERE a.m < b.n",
        "SELECT n FROM t UNION ALL SELECT boom(n) FROM t",
        "SELECT boom(m) FROM (SELECT n % 5000 AS m, count(*) FROM t GROUP BY 1)",
    ] {
        let error = run(&cluster, sql, Lane::Pipelined).await.map(|(_, ran)| ran.summary()).unwrap_err();
        assert_eq!(error.kind(), Kind::Internal, "{sql}: {error:?}");
        let report = error.report();
        assert!(report.contains("boom at 4242") && report.contains("on worker 'w"), "{sql}: {report}");
        let error = run(&cluster, sql, Lane::Local).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Internal, "{sql}: {error:?}");
        until(&format!("nothing runs after {sql}"), || cluster.running() == 0).await;
    }
    let (rows, _) = run(&cluster, "SELECT count(*) FROM t", Lane::Pipelined).await.unwrap();
    assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 9000, "the workers still work");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_keeps_its_kind_over_every_hop() {
    let folder = numbers();
    let cluster = cluster(&folder).await;
    for sql in [
        "SELECT full(n) FROM t",
        "SELECT full(n), count(*) FROM t GROUP BY 1",
        "SELECT m, count(*) FROM (SELECT full(n) AS m FROM t) GROUP BY m ORDER BY m",
        "SELECT count(*) FROM t a JOIN (SELECT full(n) AS m FROM t) b ON a.n = b.m",
    ] {
        let error = run(&cluster, sql, Lane::Pipelined).await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.hint_text()), (Kind::Exhausted, Some("raise memory.limit")), "{sql}");
    }
    let error = run(&cluster, "SELECT 1 / (n - 17) FROM t", Lane::Pipelined).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
}

pub(crate) const ENDLESS: &str = "SELECT a.n + b.n FROM t a CROSS JOIN t b";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_the_first_row_fails_the_query() {
    let folder = numbers();
    let mut cluster = cluster(&folder).await;
    let job = cluster.job(ENDLESS, Some(Lane::Pipelined)).await.unwrap();
    let mut running = cluster.lanes.run(job).await.unwrap();
    running.stream.next().await.unwrap().unwrap();
    cluster.workers[1].kill();
    let error = loop {
        match running.stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break from_datafusion(&error),
            None => panic!("the query ended as if it were complete"),
        }
    };
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(error.message().contains("'w2'"), "{error:?}");
    assert!(running.stream.next().await.is_none(), "an error is the end");
    drop(running);
    until("nothing runs", || cluster.running() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_before_the_first_row_is_done_without() {
    let folder = numbers();
    let mut cluster = cluster(&folder).await;
    let sql = "SELECT count(*), sum(a.n) FROM t a JOIN t b ON a.n + b.n > 900";
    let (expected, _) = run(&cluster, sql, Lane::Local).await.unwrap();
    let job = cluster.job(sql, Some(Lane::Pipelined)).await.unwrap();
    let mut running = cluster.lanes.run(job).await.unwrap();
    let ran = running.ran.clone();
    let rows = skep_common::task::spawn("query", async move {
        let mut rows = Vec::new();
        while let Some(batch) = running.stream.next().await {
            rows.push(batch.map_err(|e| from_datafusion(&e))?);
        }
        Ok::<_, Error>(rows)
    });
    until("the worker works", || cluster.workers[2].tasks.running() > 0).await;
    cluster.workers[2].kill();
    let rows = rows.join().await.unwrap().unwrap();
    assert_eq!(rows, expected);
    assert_eq!(ran.attempts(), 2, "{}", ran.summary());
    assert!(!ran.tasks().keys().any(|node| node.as_str() == "w3"), "{}", ran.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_dead_from_the_start_is_done_without() {
    let folder = numbers();
    let mut cluster = cluster(&folder).await;
    cluster.workers[0].kill();
    let (rows, ran) = run(&cluster, "SELECT sum(n) FROM t", Lane::Pipelined).await.unwrap();
    assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 9000 * 8999 / 2);
    assert_eq!((ran.attempts(), ran.tasks().len()), (2, 2), "{}", ran.summary());
    cluster.workers[1].kill();
    cluster.workers[2].kill();
    let error = run(&cluster, "SELECT n FROM t", Lane::Durable).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "nobody is left: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_or_a_dropped_stream_frees_the_workers() {
    let folder = numbers();
    let cluster = cluster(&folder).await;
    let limited = format!("{ENDLESS} LIMIT 10");
    let (rows, ran) = run(&cluster, &limited, Lane::Pipelined).await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 10);
    assert!(ran.tasks().len() >= 2, "{}", ran.summary());
    until("nothing runs after the limit", || cluster.running() == 0).await;

    let job = cluster.job(ENDLESS, Some(Lane::Pipelined)).await.unwrap();
    let mut running = cluster.lanes.run(job).await.unwrap();
    running.stream.next().await.unwrap().unwrap();
    assert!(cluster.running() > 0);
    drop(running);
    until("nothing runs after the drop", || cluster.running() == 0).await;
}

/// What a session set holds on the workers too.
#[tokio::test(flavor = "multi_thread")]
async fn settings_travel() {
    let folder = numbers();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let probe = Arc::new(ScalarUDF::from(Probe { seen: Arc::clone(&seen), signature: Probe::signature() }));
    let cluster = Cluster::start(2, vec![Arc::clone(&probe)]).unwrap();
    cluster.context.register_udf(probe.as_ref().clone());
    cluster.table("t", folder.path()).await.unwrap();
    cluster.context.sql("SET datafusion.execution.time_zone = '+05:00'").await.unwrap();
    cluster.context.sql("SET datafusion.execution.batch_size = 123").await.unwrap();
    for lane in [Lane::Pipelined, Lane::Durable] {
        run(&cluster, "SELECT probe(n) FROM t", lane).await.unwrap();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert!(!seen.is_empty());
        for (zone, batch, rows) in seen {
            assert_eq!((zone.as_deref(), batch), (Some("+05:00"), 123), "{lane:?}");
            assert!(rows <= 123, "{lane:?}");
        }
    }
}

/// Time zone, batch size and rows of a call.
type Seen = Arc<std::sync::Mutex<Vec<(Option<String>, usize, usize)>>>;

/// Notes the settings it is called with.
#[derive(Debug)]
struct Probe {
    seen: Seen,
    signature: datafusion::logical_expr::Signature,
}

impl Probe {
    fn signature() -> datafusion::logical_expr::Signature {
        datafusion::logical_expr::Signature::exact(vec![DataType::Int64], Volatility::Volatile)
    }
}

impl PartialEq for Probe {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.seen, &other.seen)
    }
}

impl Eq for Probe {}

impl std::hash::Hash for Probe {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.signature.hash(state);
    }
}

impl datafusion::logical_expr::ScalarUDFImpl for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn signature(&self) -> &datafusion::logical_expr::Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(
        &self,
        arguments: datafusion::logical_expr::ScalarFunctionArgs,
    ) -> datafusion::error::Result<ColumnarValue> {
        let execution = &arguments.config_options.execution;
        let seen = (execution.time_zone.clone(), execution.batch_size.get(), arguments.number_rows);
        self.seen.lock().unwrap().push(seen);
        Ok(ColumnarValue::Scalar(ScalarValue::Int64(Some(1))))
    }
}

/// A producer that says what a test tells it to say.
struct Scripted(Vec<FetchReply>);

#[tonic::async_trait]
impl Exchange for Scripted {
    type FetchStream = futures::stream::BoxStream<'static, Result<FetchReply, Status>>;

    async fn fetch(
        &self,
        _: Request<Streaming<FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        Ok(Response::new(futures::stream::iter(self.0.clone().into_iter().map(Ok)).boxed()))
    }
}

fn batch() -> FetchReply {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.into_inner().unwrap();
    FetchReply { partition: 0, kind: Some(fetch_reply::Kind::Rows(bytes.into())) }
}

fn end(rows: u64) -> FetchReply {
    FetchReply { partition: 0, kind: Some(fetch_reply::Kind::End(End { rows, batches: 1 })) }
}

/// Invariant 9: a stream that ends without its end mark is an error, also when every call ended well.
///
/// On one thread: nobody takes rows away while more of them arrive at once than were asked for.
#[tokio::test]
async fn rows_without_their_end_mark_are_an_error() {
    let whole = vec![batch(), end(3)];
    for (script, expected) in [
        (whole, Ok(3)),
        (vec![batch()], Err((Kind::Unavailable, "before its end mark"))),
        (vec![], Err((Kind::Unavailable, "before its end mark"))),
        (vec![batch(), end(4)], Err((Kind::Internal, "4 rows"))),
        (vec![end(3)], Err((Kind::Internal, "3 rows"))),
        (vec![batch(); 100], Err((Kind::Internal, "more than it was asked"))),
        (vec![FetchReply { partition: 7, ..batch() }], Err((Kind::Internal, "partition 7"))),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = tonic::transport::Server::builder().add_service(ExchangeServer::new(Scripted(script)));
        let serving = skep_common::task::spawn("scripted", async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await
        });
        let channels = Channels::new(Secret::none(), ChannelConfig::default());
        let mut client = channels.get_worker_client_for_url(&url).await.unwrap();
        let context = datafusion::prelude::SessionContext::new().task_ctx();
        let request = ExecuteTaskRequest {
            task_key: TaskKey { query_id: uuid::Uuid::nil(), stage_id: 1, task_number: 0 },
            target_partition_start: 0,
            target_partition_end: 1,
            producer_head: ProducerHead::None,
        };
        let streams = client.execute_task(Default::default(), request, Default::default(), &context).await;
        let rows: Result<Vec<RecordBatch>, _> = streams.unwrap().remove(0).try_collect().await;
        drop(serving);
        match (rows, expected) {
            (Ok(rows), Ok(count)) => assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), count),
            (Err(error), Err((kind, text))) => {
                let error = from_datafusion(&error);
                assert_eq!(error.kind(), kind, "{error:?}");
                assert!(error.message().contains(text), "{error:?}: {text}");
            }
            (given, expected) => panic!("{given:?}, expected {expected:?}"),
        }
    }
}

/// A call without the secret, or with another, runs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused() {
    let folder = numbers();
    let cluster = cluster(&folder).await;
    let stranger = Channels::new(Secret::generate(), ChannelConfig::default());
    let mut client = stranger.get_worker_client_for_url(&cluster.workers[0].info.url).await.unwrap();
    let context = datafusion::prelude::SessionContext::new().task_ctx();
    let request = ExecuteTaskRequest {
        task_key: TaskKey { query_id: uuid::Uuid::nil(), stage_id: 1, task_number: 0 },
        target_partition_start: 0,
        target_partition_end: 1,
        producer_head: ProducerHead::None,
    };
    let refused = client.execute_task(Default::default(), request, Default::default(), &context).await;
    assert_eq!(refused.map(|_| ()).map_err(|e| from_datafusion(&e).kind()), Err(Kind::Denied));
    let asked = client.get_worker_info(datafusion_distributed::GetWorkerInfoRequest {}).await;
    assert_eq!(asked.map(|_| ()).map_err(|e| from_datafusion(&e).kind()), Err(Kind::Denied));
}
