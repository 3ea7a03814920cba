//! One write through Ballista, with the same node as in the other lanes, while an executor is killed: what the durable lane
//! will stand on. What it taught is in `docs/decisions/0012-ballista-spike.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use ballista_core::client::BallistaClient;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use ballista_core::serde::protobuf::{ExecutorRegistration, JobStatus, PartitionLocation};
use ballista_core::serde::scheduler::{ExecutorOperatingSystemSpecification, ExecutorSpecification};
use ballista_core::serde::{BallistaCodec, BallistaPhysicalExtensionCodec};
use ballista_core::{BALLISTA_PROTOCOL_VERSION, ConfigProducer, RuntimeProducer};
use ballista_executor::executor::Executor;
use ballista_executor::flight_service::BallistaFlightService;
use ballista_executor::metrics::LoggingMetricsCollector;
use ballista_executor::{execution_loop, health::ExecutorHealth};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::metrics::default_metrics_collector;
use ballista_scheduler::scheduler_server::SchedulerServer;
use datafusion::config::ConfigOptions;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use datafusion_proto::physical_plan::{ComposedPhysicalExtensionCodec, PhysicalExtensionCodec};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use futures::TryStreamExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use skep_catalog::columns_from_arrow;
use skep_engine::codec::Codec;
use skep_engine::write::{WriteExec, WriteTarget, collect_report};
use skep_testkit::workers::DEADLINE;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;

const FILES: i64 = 6;
const ROWS: i64 = 500;
const PARTITIONS: usize = 4;

/// Lets the test kill an executor that is in the middle of a write.
#[derive(Default)]
struct Gate {
    /// Set when the victim has begun to read rows that it is to write.
    reached: AtomicBool,
    killed: Mutex<bool>,
    changed: Condvar,
    calls: AtomicUsize,
}

impl Gate {
    /// The function `pass` of one executor: gives its argument, at the victim only when the victim is dead.
    fn function(self: &Arc<Self>, victim: bool) -> ScalarUDF {
        let gate = Arc::clone(self);
        let pass = move |arguments: &[ColumnarValue]| {
            gate.calls.fetch_add(1, Ordering::AcqRel);
            if victim {
                gate.reached.store(true, Ordering::Release);
                let killed = gate.killed.lock().unwrap();
                let wait = gate.changed.wait_timeout_while(killed, DEADLINE, |killed| !*killed);
                drop(wait.unwrap());
            }
            Ok(arguments[0].clone())
        };
        create_udf("pass", vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(pass))
    }

    fn kill(&self) {
        *self.killed.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

fn codec() -> Arc<dyn PhysicalExtensionCodec> {
    let ours: Arc<dyn PhysicalExtensionCodec> = Arc::new(Codec::new());
    let theirs: Arc<dyn PhysicalExtensionCodec> = Arc::new(BallistaPhysicalExtensionCodec::default());
    Arc::new(ComposedPhysicalExtensionCodec::new(vec![ours, theirs]))
}

fn config() -> SessionConfig {
    SessionConfig::new_with_ballista()
        .with_target_partitions(PARTITIONS)
        .with_ballista_adaptive_query_planner(false)
        .with_ballista_shuffle_reader_force_remote_read(true)
        .with_ballista_physical_extension_codec(codec())
        .set_usize("ballista.scheduler.max_partitions_per_task", 1)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false)
}

fn state(function: ScalarUDF) -> SessionState {
    let mut builder = SessionStateBuilder::new_with_default_features().with_config(config());
    builder.scalar_functions().get_or_insert_default().push(Arc::new(function));
    builder.build()
}

fn ballista_codec() -> BallistaCodec<LogicalPlanNode, PhysicalPlanNode> {
    BallistaCodec::new(config().ballista_logical_extension_codec(), codec())
}

/// An executor with a runtime of its own.
struct Node {
    runtime: Option<Runtime>,
    _work: tempfile::TempDir,
}

impl Node {
    fn start(name: &str, scheduler: String, state: &SessionState) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let work = tempfile::tempdir().unwrap();
        let folder = work.path().to_string_lossy().into_owned();
        let (config, environment) = (state.config().clone(), Arc::clone(state.runtime_env()));
        let configs: ConfigProducer = Arc::new(move || config.clone());
        let environments: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&environment)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let registration = ExecutorRegistration {
            id: name.to_owned(),
            host: Some("127.0.0.1".to_owned()),
            port: u32::from(listener.local_addr().unwrap().port()),
            grpc_port: 1,
            specification: Some(ExecutorSpecification::default().with_vcores(1).into()),
            os_info: Some(ExecutorOperatingSystemSpecification::default().into()),
            ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
        };
        let executor = Arc::new(Executor::with_default_execution_engine(
            registration,
            &folder,
            environments,
            configs,
            Arc::new(state.into()),
            Arc::new(LoggingMetricsCollector::default()),
            1,
        ));
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let flight = arrow_flight::flight_service_server::FlightServiceServer::new(
                BallistaFlightService::new(folder),
            );
            let server = tonic::transport::Server::builder().add_service(flight);
            let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
            let client = SchedulerGrpcClient::connect(scheduler).await.unwrap();
            let polling = execution_loop::poll_loop(
                client,
                executor,
                ballista_codec(),
                None,
                None,
                ExecutorHealth::new(),
            );
            tokio::select! { _ = serving => {}, _ = polling => {} }
        };
        drop(runtime.spawn(serve));
        Self { runtime: Some(runtime), _work: work }
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn numbers(folder: &std::path::Path) {
    for file in 0..FILES {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(file * ROWS..(file + 1) * ROWS));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let file = std::fs::File::create(folder.join(format!("{file}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

async fn fetch(location: PartitionLocation) -> Vec<RecordBatch> {
    let layout = location.layout();
    let executor = location.executor_meta.unwrap();
    let port = u16::try_from(executor.port).unwrap();
    let mut client =
        BallistaClient::try_new(&executor.host, port, 64 << 20, false, None, 3, 100, 0, 0).await.unwrap();
    let partition = location.partition_id.unwrap().into();
    let stream =
        client.fetch_partition(&executor.id, &partition, location.file_id, layout, true).await.unwrap();
    stream.try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_survives_the_death_of_an_executor() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    numbers(data.path());
    let gate = Arc::new(Gate::default());
    let planning = state(gate.function(false));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (session, producer) = (planning.clone(), config());
    let cluster = BallistaCluster::new_memory(
        address.clone(),
        Arc::new(move |_| Ok(session.clone())),
        Arc::new(move || producer.clone()),
    );
    let settings = SchedulerConfig {
        executor_timeout_seconds: 2,
        expire_dead_executor_interval_seconds: 1,
        executor_termination_grace_period: 1,
        ..SchedulerConfig::default()
    }
    .with_scheduler_policy(ballista_core::config::TaskSchedulingPolicy::PullStaged);
    let mut scheduler: SchedulerServer<LogicalPlanNode, PhysicalPlanNode> = SchedulerServer::new(
        address.clone(),
        cluster,
        ballista_codec(),
        Arc::new(settings),
        default_metrics_collector().unwrap(),
    );
    scheduler.init().await.unwrap();
    let service = SchedulerGrpcServer::new(scheduler.clone());
    let serving = skep_common::task::spawn("scheduler", async move {
        let server = tonic::transport::Server::builder().add_service(service);
        server.serve_with_incoming(TcpListenerStream::new(listener)).await
    });
    let url = format!("http://{address}");
    let mut nodes: Vec<Node> =
        (0..3).map(|i| Node::start(&format!("e{i}"), url.clone(), &state(gate.function(i == 1)))).collect();

    let context = Arc::new(SessionContext::new_with_state(planning));
    let options = ParquetReadOptions::default();
    context.register_parquet("t", data.path().to_string_lossy(), options).await.unwrap();
    let frame = context.sql("SELECT n, n * 2 AS m FROM t").await.unwrap();
    let columns = columns_from_arrow(frame.schema().as_arrow()).unwrap();
    let rows = frame.create_physical_plan().await.unwrap();
    let keys = vec![Arc::new(Column::new("n", 0)) as _];
    let dealt = RepartitionExec::try_new(rows, Partitioning::Hash(keys, PARTITIONS)).unwrap();
    // The gate stands in the stage that writes.
    let gated = gated(dealt, gate.function(false));
    let folder = Path::from_absolute_path(out.path()).unwrap();
    let target = WriteTarget::new(&ObjectStoreUrl::local_filesystem(), &folder, columns);
    let write = WriteExec::new(gated, Arc::new(target), NonZeroUsize::new(PARTITIONS).unwrap());

    let (subscriber, mut statuses) = tokio::sync::mpsc::channel::<JobStatus>(256);
    let context = Arc::clone(&context);
    scheduler.submit_physical_plan("ctas", context, Arc::new(write), Some(subscriber)).await.unwrap();
    skep_testkit::workers::until("the victim writes", || gate.reached.load(Ordering::Acquire)).await;
    nodes[1].kill();
    gate.kill();
    let locations = tokio::time::timeout(DEADLINE, async {
        loop {
            match statuses.recv().await.and_then(|status| status.status) {
                Some(Status::Successful(job)) => break job.partition_location,
                Some(Status::Failed(job)) => panic!("the job failed: {}", job.error),
                Some(_) => {}
                None => panic!("the job was forgotten"),
            }
        }
    });
    let locations = locations.await.expect("the job hangs");
    // A part that was written by two attempts is listed twice. Either is whole; the later one is the job's.
    let mut chosen = BTreeMap::new();
    for location in locations {
        chosen.insert(location.partition_id.as_ref().unwrap().partition_id, location);
    }
    let mut report = Vec::new();
    for (partition, location) in chosen {
        let executor = location.executor_meta.as_ref().unwrap().id.clone();
        assert_ne!(executor, "e1", "output of the dead executor is not used");
        report.extend(fetch(location).await.iter().map(|batch| numbered(batch, u64::from(partition))));
    }
    drop(serving);

    let files = collect_report(&report).unwrap();
    assert!(collect_report(&report[1..]).is_err(), "a missing part is seen");
    let written: BTreeSet<i64> = files.iter().flat_map(|file| read(&out.path().join(&file.path))).collect();
    assert_eq!(written, (0..FILES * ROWS).collect());
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), u64::try_from(FILES * ROWS).unwrap());
    assert!(gate.calls.load(Ordering::Acquire) > 0);
    tokio::time::timeout(Duration::from_secs(5), async { drop(nodes) }).await.unwrap();
}

/// The rows of `input` with their first column passed through the gate.
fn gated(input: RepartitionExec, pass: ScalarUDF) -> Arc<dyn ExecutionPlan> {
    let arguments: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::new(Column::new("n", 0))];
    let options = Arc::new(ConfigOptions::default());
    let call = ScalarFunctionExpr::try_new(Arc::new(pass), arguments, &input.schema(), options).unwrap();
    let exprs = vec![
        ProjectionExpr { expr: Arc::new(call), alias: "n".to_owned() },
        ProjectionExpr { expr: Arc::new(Column::new("m", 1)), alias: "m".to_owned() },
    ];
    Arc::new(ProjectionExec::try_new(exprs, Arc::new(input)).unwrap())
}

/// The report of one task as that of `partition` of the whole write.
///
/// Ballista cuts a plan down to the partitions of each task and numbers them anew: every task says that it is part 0 of 1. Which
/// part it was is known where its output is found.
fn numbered(batch: &RecordBatch, partition: u64) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    let parts = |column: usize| batch.column(column).as_primitive::<UInt64Type>().values().to_vec();
    assert!(parts(2).iter().all(|part| *part == 0) && parts(3).iter().all(|parts| *parts == 1));
    let all = |value: u64| -> ArrayRef { Arc::new(UInt64Array::from(vec![value; batch.num_rows()])) };
    columns[2] = all(partition);
    columns[3] = all(PARTITIONS as u64);
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

fn read(path: &std::path::Path) -> Vec<i64> {
    let file = std::fs::File::open(path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    reader.flat_map(|batch| batch.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}
