//! Hazards of datafusion-distributed that our exchange and routing keep away: forgotten plans, tasks that meet in one
//! process, consumers that do not read, calls without bound. docs/decisions/0011 lists them all.

use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, MaybeEncoded, ProducerHead, SetPlanRequest,
    TaskKey,
};
use futures::{StreamExt, TryStreamExt};
use skep_cluster::ChannelConfig;
use skep_cluster::failure::from_datafusion;
use skep_common::{Kind, Result};
use skep_coordinator::lanes::{Config, Lane, Lanes, Ran};
use skep_store::NodeInfo;
use skep_testkit::rows;
use skep_testkit::workers::{Cluster, DEADLINE, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::lanes_faults::{ENDLESS, numbers};
use crate::lanes_rows::run;

/// Runs `sql` in `lanes`, and gives its rows as sorted text.
async fn answer(cluster: &Cluster, lanes: &Lanes, sql: &str) -> Result<(Vec<Vec<String>>, Ran)> {
    let running = lanes.run(cluster.job(sql, Some(Lane::Pipelined)).await?).await?;
    let batches: Vec<RecordBatch> = running.stream.try_collect().await.map_err(|e| from_datafusion(&e))?;
    Ok((sorted(&batches), running.ran))
}

fn sorted(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let mut rows = rows::text(batches).unwrap();
    rows.sort();
    rows
}

async fn local(cluster: &Cluster, sql: &str) -> Vec<Vec<String>> {
    sorted(&run(cluster, sql, Lane::Local).await.unwrap().0)
}

/// The engine forgets a plan that nobody touches for ten minutes. An exchange holds on to its plan from when it is opened,
/// so that the plan may be forgotten before its first row is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_the_engine_forgot_runs_if_its_exchange_is_open() {
    let folder = numbers();
    let cluster = Cluster::start(1, Vec::new()).unwrap();
    cluster.table("t", folder.path()).await.unwrap();
    let plan = cluster.context.sql("SELECT n FROM t").await.unwrap().create_physical_plan().await.unwrap();
    let partitions = plan.properties().partitioning.partition_count();
    let (context, url) = (cluster.context.task_ctx(), cluster.workers[0].info.url.clone());
    let key = TaskKey { query_id: uuid::Uuid::now_v7(), stage_id: 1, task_number: 0 };
    let mut client = cluster.channels.get_worker_client_for_url(&url).await.unwrap();
    let (hold, held) = mpsc::channel::<CoordinatorToWorkerMsg>(1);
    let request = SetPlanRequest {
        task_key: key,
        task_count: 1,
        plan: MaybeEncoded::Decoded(plan),
        work_unit_feed_declarations: Vec::new(),
        target_worker_url: url,
        query_start_time_ns: 0,
    };
    let outbound = ReceiverStream::new(held).boxed();
    let answers = client
        .coordinator_channel(Default::default(), request, outbound, Default::default(), &context)
        .await
        .unwrap();
    let open = || ExecuteTaskRequest {
        task_key: key,
        target_partition_start: 0,
        target_partition_end: partitions,
        producer_head: ProducerHead::None,
    };
    let streams =
        client.execute_task(Default::default(), open(), Default::default(), &context).await.unwrap();

    // What removes an idle plan removes this one: the worker knows it no more.
    drop(hold);
    let answers: Vec<_> = answers.collect().await;
    assert!(answers.iter().all(Result::is_ok));
    let forgotten = async {
        while client.execute_task(Default::default(), open(), Default::default(), &context).await.is_ok() {}
    };
    tokio::time::timeout(DEADLINE, forgotten).await.unwrap();

    let mut found: Vec<i64> = Vec::new();
    for stream in streams {
        let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
        found.extend(batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()));
    }
    found.sort_unstable();
    assert_eq!(found, (0..9000).collect::<Vec<i64>>());
}

/// Holds up whoever calls the function `gate` while it is shut.
#[derive(Debug, Default)]
struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.changed.notify_all();
    }

    fn function(self: &Arc<Self>) -> Arc<ScalarUDF> {
        let gate = Arc::clone(self);
        let pass = move |arguments: &[ColumnarValue]| {
            let shut = gate.shut.lock().unwrap();
            if *shut {
                tokio::task::block_in_place(|| drop(gate.changed.wait_while(shut, |shut| *shut).unwrap()));
            }
            Ok(arguments[0].clone())
        };
        let types = (vec![DataType::Int64], DataType::Int64);
        Arc::new(create_udf("gate", types.0, types.1, Volatility::Volatile, Arc::new(pass)))
    }
}

/// Opens the gate however the test ends, so that no thread of a worker stays behind it.
struct Opener(Arc<Gate>);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// However long a build side takes: every exchange of the query is open before the first row has passed, those of the sides
/// that wait too.
#[tokio::test(flavor = "multi_thread")]
async fn every_exchange_is_open_before_the_first_row_passes() {
    let folder = numbers();
    let gate = Arc::new(Gate::default());
    let cluster = Cluster::start(3, vec![gate.function()]).unwrap();
    cluster.context.register_udf(gate.function().as_ref().clone());
    cluster.table("t", folder.path()).await.unwrap();
    let slow = "(SELECT gate(n) AS m FROM t WHERE n % 90 = 0)";
    for (threshold, sql) in [
        (
            0,
            format!(
                "SELECT b.n FROM {slow} a JOIN (SELECT n, count(*) AS c FROM t GROUP BY n) b ON a.m = b.n"
            ),
        ),
        (
            0,
            format!(
                "SELECT k, count(*) FROM {slow} a JOIN (SELECT n % 100 AS k, max(n) AS x FROM t GROUP BY 1) b \
                 ON a.m % 100 = b.k JOIN (SELECT n, sum(n) AS s FROM t GROUP BY n) c ON c.n = b.x GROUP BY k"
            ),
        ),
        (1 << 20, format!("SELECT b.n FROM {slow} a JOIN t b ON a.m = b.n")),
        (
            1 << 20,
            format!("SELECT count(*) FROM {slow} a, (SELECT DISTINCT n % 50 AS d FROM t) b WHERE a.m < b.d"),
        ),
        (0, format!("SELECT m FROM {slow} a WHERE m NOT IN (SELECT n + 1 FROM t GROUP BY n)")),
        (0, format!("SELECT m AS x FROM {slow} UNION ALL SELECT n % 7 FROM t GROUP BY 1 ORDER BY x")),
        (0, format!("SELECT m, row_number() OVER (PARTITION BY m % 3 ORDER BY m) FROM {slow}")),
    ] {
        let set = format!("SET datafusion.optimizer.hash_join_single_partition_threshold = {threshold}");
        cluster.context.sql(&set).await.unwrap();
        let rows_set =
            format!("SET datafusion.optimizer.hash_join_single_partition_threshold_rows = {threshold}");
        cluster.context.sql(&rows_set).await.unwrap();
        gate.set(false);
        let before = cluster.opened();
        let (expected, _) = answer(&cluster, &cluster.lanes, &sql).await.unwrap();
        let all = cluster.opened() - before;
        assert!(all > 0 && !expected.is_empty(), "{sql}");

        let opener = Opener(Arc::clone(&gate));
        gate.set(true);
        let before = cluster.opened();
        let job = cluster.job(&sql, Some(Lane::Pipelined)).await.unwrap();
        let running = cluster.lanes.run(job).await.unwrap();
        let reading = skep_common::task::spawn("query", running.stream.try_collect::<Vec<RecordBatch>>());
        until(&format!("all {all} partitions are open: {sql}"), || cluster.opened() - before == all).await;
        assert!(!reading.is_finished(), "{sql}");
        drop(opener);
        assert_eq!(sorted(&reading.join().await.unwrap().unwrap()), expected, "{sql}");
    }
}

const SHUFFLES: [&str; 4] = [
    "SELECT n % 10 AS k, count(*) AS c, sum(n) AS s FROM t GROUP BY 1",
    "SELECT a.n, b.c FROM t a JOIN (SELECT n % 1000 AS m, count(*) AS c FROM t GROUP BY 1) b ON a.n = b.m",
    "SELECT count(*), min(x), max(x) FROM (SELECT n % 3 AS x FROM t UNION ALL SELECT n FROM t)",
    "SELECT n FROM t WHERE n % 500 = 1 ORDER BY n DESC",
];

/// The engine passes plans within a process by reference, and their state with them. Here every task has a plan of its own,
/// also when two tasks of one stage meet on one worker.
#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_of_a_stage_on_one_worker_keep_apart() {
    let folder = numbers();
    let cluster = Cluster::start(1, Vec::new()).unwrap();
    cluster.table("t", folder.path()).await.unwrap();
    let twice = ["a", "b", "c"]
        .map(|id| NodeInfo { id: skep_common::NodeId::new(id).unwrap(), ..cluster.workers[0].info.clone() });
    let lanes = cluster.lanes_over(twice.to_vec());
    for sql in SHUFFLES {
        let (rows, ran) = answer(&cluster, &lanes, sql).await.unwrap();
        assert_eq!(rows, local(&cluster, sql).await, "{sql}");
        let together = ran.stages().values().filter(|tasks| tasks.len() == 3).count();
        assert!(together > 0, "{sql}: {}", ran.summary());
    }
    // What the operators counted: each row of the table once.
    let job = cluster.job("SELECT n % 10, count(*) FROM t GROUP BY 1", Some(Lane::Pipelined)).await.unwrap();
    let text = lanes.analyze(job).await.unwrap();
    let of =
        |operator: &str| text.lines().find(|line| line.contains(operator)).unwrap_or_default().to_owned();
    assert!(of("DistributedLeafExec").contains("output_rows=9.00 K,"), "{text}");
    assert!(of("mode=FinalPartitioned").contains("output_rows=10,"), "{text}");
    assert!(!of("NetworkShuffleExec").contains("local_connections_used=0"), "within the process: {text}");
}

/// Many queries at once on the same workers: each has its own rows, and its own record of what ran where.
#[tokio::test(flavor = "multi_thread")]
async fn queries_at_once_on_the_same_workers_keep_apart() {
    let folder = numbers();
    let cluster = Arc::new(Cluster::start(2, Vec::new()).unwrap());
    cluster.table("t", folder.path()).await.unwrap();
    let mut expected = Vec::new();
    for sql in SHUFFLES {
        let (rows, ran) = answer(&cluster, &cluster.lanes, sql).await.unwrap();
        assert_eq!(rows, local(&cluster, sql).await, "{sql}");
        expected.push((rows, ran.stages(), ran.tasks()));
    }
    let started = (0..24).map(|i| {
        let cluster = Arc::clone(&cluster);
        let query = async move { answer(&cluster, &cluster.lanes, SHUFFLES[i % SHUFFLES.len()]).await };
        (i % SHUFFLES.len(), skep_common::task::spawn("query", query))
    });
    for (which, query) in started.collect::<Vec<_>>() {
        let (rows, ran) = query.join().await.unwrap().unwrap();
        assert_eq!((rows, ran.stages(), ran.tasks()), expected[which], "{}", SHUFFLES[which]);
    }
    until("nothing runs", || cluster.running() == 0).await;
}

/// The engine's queues share one budget for each connection, which rows that nobody reads can use up. Here each partition has
/// its own credit: queries whose clients do not read stop themselves and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_do_not_read_hold_up_nobody() {
    let folder = numbers();
    let cluster = Cluster::start(2, Vec::new()).unwrap();
    cluster.table("t", folder.path()).await.unwrap();
    // Far more batches than a partition may have on its way.
    cluster.context.sql("SET datafusion.execution.batch_size = 16").await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..16 {
        let job = cluster.job(ENDLESS, Some(Lane::Pipelined)).await.unwrap();
        let mut running = cluster.lanes.run(job).await.unwrap();
        running.stream.next().await.unwrap().unwrap();
        unread.push(running);
    }
    assert!(cluster.running() > 0);
    let finish = async {
        for sql in SHUFFLES {
            let (rows, _) = answer(&cluster, &cluster.lanes, sql).await.unwrap();
            assert_eq!(rows, local(&cluster, sql).await, "{sql}");
        }
        // Within one query: while the one side is built, nobody reads the other, whose rows come over the same connections.
        let sql = "SELECT count(*), sum(b.n) FROM (SELECT DISTINCT n % 4000 AS m FROM t) a \
                   JOIN t b ON a.m = b.n JOIN t c ON c.n = b.n JOIN t d ON d.n = c.n";
        let (rows, _) = answer(&cluster, &cluster.lanes, sql).await.unwrap();
        assert_eq!(rows, [["4000", "7998000"]]);
    };
    tokio::time::timeout(DEADLINE, finish).await.unwrap();
    // They were only held up: each goes on when it is read.
    for running in &mut unread {
        running.stream.next().await.unwrap().unwrap();
    }
    drop(unread);
    until("nothing runs", || cluster.running() == 0).await;
}

/// A worker opens as many partitions as it was told it may. A query too many is refused with a typed error at once; it neither
/// waits for others nor disturbs them.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_too_many_is_refused() {
    let folder = numbers();
    let channel = ChannelConfig { partitions_max: NonZeroUsize::new(40).unwrap(), ..Default::default() };
    let cluster = Cluster::with_channel(2, Vec::new(), Config::default(), &channel).unwrap();
    cluster.table("t", folder.path()).await.unwrap();
    let mut unread = Vec::new();
    let fill = async {
        loop {
            let job = cluster.job(ENDLESS, Some(Lane::Pipelined)).await.unwrap();
            let mut running = cluster.lanes.run(job).await.unwrap();
            match running.stream.next().await.unwrap() {
                Ok(_) => unread.push(running),
                Err(error) => break from_datafusion(&error),
            }
        }
    };
    let error = tokio::time::timeout(DEADLINE, fill).await.unwrap();
    assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
    let hint = error.hint_text().unwrap();
    assert!(error.message().contains("of at most 40") && hint.contains("partitions_max"), "{error:?}");
    assert!(unread.len() > 1, "{}", unread.len());
    for running in &mut unread {
        running.stream.next().await.unwrap().unwrap();
    }
    drop(unread);
    until("nothing runs", || cluster.running() == 0).await;
    let (rows, _) = answer(&cluster, &cluster.lanes, "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows, [["9000"]]);
}

/// The engine waits without limit for what tasks measured, and tasks that nobody asked for rows say nothing. Ours are all
/// opened, and the wait has a limit.
#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_of_a_query_that_ends_early_ends() {
    let folder = numbers();
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    cluster.table("t", folder.path()).await.unwrap();
    for (sql, rows) in [
        (format!("{ENDLESS} LIMIT 1"), 1),
        ("SELECT b.n FROM (SELECT n FROM t WHERE n < -1) a JOIN t b ON a.n = b.n".to_owned(), 0),
        ("SELECT k FROM (SELECT n % 9 AS k, count(*) FROM t GROUP BY 1) ORDER BY k LIMIT 2".to_owned(), 2),
    ] {
        let job = cluster.job(&sql, Some(Lane::Pipelined)).await.unwrap();
        let text = tokio::time::timeout(DEADLINE, cluster.lanes.analyze(job)).await.unwrap().unwrap();
        assert!(text.contains(&format!("rows: {rows}\n")), "{sql}: {text}");
        assert!(text.contains("output_rows="), "{sql}: {text}");
        until(&format!("nothing runs after {sql}"), || cluster.running() == 0).await;
    }
}

/// The engine's own connections have neither timeouts nor keepalives. A worker that takes calls and never answers counts as
/// lost after the time that the configuration says.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_answers_is_done_without() {
    let folder = numbers();
    let channel = ChannelConfig {
        keepalive_interval: Duration::from_millis(200),
        keepalive_timeout: Duration::from_secs(2),
        ..Default::default()
    };
    let cluster = Cluster::with_channel(2, Vec::new(), Config::default(), &channel).unwrap();
    cluster.table("t", folder.path()).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let silent = skep_common::task::spawn("silent", async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    });
    let mut nodes: Vec<NodeInfo> = cluster.workers[..2].iter().map(|worker| worker.info.clone()).collect();
    nodes.push(NodeInfo { id: skep_common::NodeId::new("silent").unwrap(), url, ..nodes[0].clone() });
    let lanes = cluster.lanes_over(nodes);
    let query = answer(&cluster, &lanes, SHUFFLES[0]);
    let (rows, ran) = tokio::time::timeout(DEADLINE, query).await.unwrap().unwrap();
    assert_eq!(rows, local(&cluster, SHUFFLES[0]).await);
    assert_eq!(ran.attempts(), 2, "{}", ran.summary());
    drop(silent);
}
