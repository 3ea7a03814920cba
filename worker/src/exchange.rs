//! Rows between tasks: the producing side of [`skep_cluster::exchange`].
//!
//! Each open partition is driven by a task of its own, which stops when the consumer has no more room, when it is told
//! that nobody reads, or when the call ends. A panic of an operator ends in an error of its partition. A worker opens no more
//! partitions than it was told it may: a query too many fails, it does not wait for others to end, which might wait for it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::Schema;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion_distributed::{
    ExecuteTaskRequest, MaybeEncoded, ProducerHead, SetPlanRequest, TaskKey, Worker,
};
use futures::{FutureExt, Stream, StreamExt};
use http::HeaderMap;
use skep_cluster::failure::{from_datafusion, is_cut_off, is_stopped};
use skep_cluster::proto::exchange::exchange_server::Exchange;
use skep_cluster::proto::exchange::fetch_reply::Kind as ReplyKind;
use skep_cluster::proto::exchange::fetch_request::Kind as RequestKind;
use skep_cluster::proto::exchange::{End, FetchReply, FetchRequest, Open, open};
use skep_common::task::{Task, panic_text, spawn};
use skep_common::{Error, Kind, NodeId, Result};
use skep_engine::memory::QueryPool;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use url::Url;
use uuid::Uuid;

use crate::disk::Place;

/// Serves the partitions of one worker's tasks.
pub(crate) struct Producer {
    worker: Worker,
    node: NodeId,
    runtime: Arc<RuntimeEnv>,
    places: Arc<Places>,
    sweeping: Arc<AtomicUsize>,
}

impl Producer {
    pub(crate) fn new(worker: Worker, node: NodeId, runtime: Arc<RuntimeEnv>, places: Arc<Places>) -> Self {
        Self { worker, node, runtime, places, sweeping: Arc::default() }
    }
}

/// Which task of which worker, and what it runs with.
struct Who {
    node: NodeId,
    task: String,
    runtime: Arc<RuntimeEnv>,
}

impl Who {
    /// What the rows of the task ended with: a bug together with where it happened, a full disk with whose it is, and who cannot
    /// reach the coordinator; what else goes wrong is the query's matter.
    fn blame(&self, error: DataFusionError) -> Error {
        let spills = self.runtime.disk_manager.temp_dir_paths();
        let folder = spills.first().and_then(|folder| folder.parent());
        let folder = folder.unwrap_or_else(|| Path::new("its spill folder"));
        if is_stopped(&error) {
            return Error::unavailable(format!(
                "worker '{}' stopped in the middle of {}",
                self.node, self.task
            ));
        }
        let error = blame(from_datafusion(&Place { node: &self.node, folder }.named(error)), &self.task);
        let cut_off = is_cut_off(&error) && !error.message().contains("worker '");
        if cut_off { error.context(format!("worker '{}' is cut off", self.node)) } else { error }
    }
}

/// How many partitions of one worker are open for their consumers, and how many may be.
#[derive(Debug)]
pub(crate) struct Places {
    running: AtomicUsize,
    opened: AtomicU64,
    max: usize,
}

impl Places {
    pub(crate) fn new(max: usize) -> Self {
        Self { running: AtomicUsize::new(0), opened: AtomicU64::new(0), max }
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    /// Takes places for `count` partitions, all or none.
    ///
    /// # Errors
    /// `Exhausted` if there are not as many.
    fn enter(self: &Arc<Self>, count: usize, node: &NodeId) -> Result<Vec<Running>> {
        let fits = |running: usize| running.checked_add(count).filter(|after| *after <= self.max);
        if self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_err() {
            let (running, max) = (self.running(), self.max);
            return Err(Error::exhausted(format!(
                "worker '{node}' has {running} partitions of tasks open and cannot open {count} more of at most {max}"
            ))
            .hint("run fewer queries at once, or raise cluster.channel.partitions_max"));
        }
        self.opened.fetch_add(count as u64, Ordering::AcqRel);
        Ok((0..count).map(|_| Running(Arc::clone(self))).collect())
    }
}

#[tonic::async_trait]
impl Exchange for Producer {
    type FetchStream = Replies;

    async fn fetch(
        &self,
        request: Request<Streaming<FetchRequest>>,
    ) -> std::result::Result<Response<Replies>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|message| message.kind);
        let Some(RequestKind::Open(open)) = first else {
            return Err(Error::internal("an exchange did not start with its opening").to_status());
        };
        let (stage, task) = (open.stage, open.task);
        let who = Arc::new(Who {
            node: self.node.clone(),
            task: format!("task {task} of stage {stage} on worker '{}'", self.node),
            runtime: Arc::clone(&self.runtime),
        });
        let request = decode_open(open)?;
        let start = request.target_partition_start;
        let count = request.target_partition_end.saturating_sub(start);
        let places = self.places.enter(count, &self.node)?;
        let opening = AssertUnwindSafe(self.worker.execute_task(request)).catch_unwind().await;
        let (streams, context) = match opening {
            Ok(opened) => opened.map_err(|e| who.blame(e))?,
            Err(panic) => return Err(panicked(panic.as_ref(), &who.task).to_status()),
        };

        let pool = context.session_config().get_extension::<QueryPool>();
        let (replies, outbound) = mpsc::channel(streams.len() + 1);
        let mut gates = Vec::with_capacity(streams.len());
        let mut tasks = Vec::with_capacity(streams.len() + 1);
        for (i, (stream, running)) in streams.into_iter().zip(places).enumerate() {
            let gate = Arc::new(Semaphore::new(0));
            let partition = Partition {
                index: (start + i) as u64,
                stream,
                gate: Arc::clone(&gate),
                replies: replies.clone(),
                pool: pool.clone(),
                who: Arc::clone(&who),
                running,
            };
            let work = partition.drive();
            let task = spawn("produce", work);
            gates.push((gate, task));
        }
        let control = control(inbound, start, gates);
        tasks.push(spawn("grant", control));
        let sweep = Sweep { worker: self.worker.clone(), due: Arc::clone(&self.sweeping) };
        Ok(Response::new(Replies { outbound: ReceiverStream::new(outbound), tasks, sweep }))
    }
}

/// The answer of one call; dropping it stops the partitions.
pub(crate) struct Replies {
    outbound: ReceiverStream<std::result::Result<FetchReply, Status>>,
    #[expect(dead_code, reason = "held for their drop")]
    tasks: Vec<Task<()>>,
    #[expect(dead_code, reason = "held for its drop")]
    sweep: Sweep,
}

/// Makes a worker let go of the plans of queries that have ended.
///
/// datafusion-distributed keeps plans in a cache that drops what was removed only when something else happens to it. The
/// plan of a cancelled query holds streams that were opened and never read, and with them tasks of other workers. So
/// a while after a call has ended, something happens: a plan without rows comes and goes.
struct Sweep {
    worker: Worker,
    /// Calls that ended since the last time that something happened.
    due: Arc<AtomicUsize>,
}

/// Longer than the cache waits before it looks at what was removed.
const SWEEP_AFTER: Duration = Duration::from_millis(400);

impl Drop for Sweep {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_err() || self.due.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let (worker, due) = (self.worker.clone(), Arc::clone(&self.due));
        let sweep = async move {
            loop {
                let ended = due.load(Ordering::Acquire);
                tokio::time::sleep(SWEEP_AFTER).await;
                if let Err(error) = touch(&worker).await {
                    tracing::debug!(%error, "plans of ended queries are let go of later");
                }
                // The plan of a call that ended in the meantime was too young for the cache to look at.
                if due.compare_exchange(ended, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    return;
                }
            }
        };
        spawn("let go of ended queries", sweep).detach();
    }
}

async fn touch(worker: &Worker) -> datafusion::error::Result<()> {
    let plan: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
    let url = Url::parse("http://localhost:1").map_err(|e| DataFusionError::External(Box::new(e)))?;
    let request = SetPlanRequest {
        task_key: TaskKey { query_id: Uuid::now_v7(), stage_id: 0, task_number: 0 },
        task_count: 1,
        plan: MaybeEncoded::Decoded(plan),
        work_unit_feed_declarations: Vec::new(),
        target_worker_url: url,
        query_start_time_ns: 0,
    };
    let mut answers =
        worker.coordinator_channel(HeaderMap::new(), request, futures::stream::empty().boxed()).await?;
    while answers.next().await.transpose()?.is_some() {}
    Ok(())
}

impl Stream for Replies {
    type Item = std::result::Result<FetchReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outbound.poll_next_unpin(context)
    }
}

/// Opens the gates as the consumer grants, and holds the partitions' tasks as long as the call lives.
async fn control(
    mut inbound: Streaming<FetchRequest>,
    start: usize,
    mut gates: Vec<(Arc<Semaphore>, Task<()>)>,
) {
    loop {
        let Ok(Some(message)) = inbound.message().await else { break };
        let (partition, batches) = match message.kind {
            Some(RequestKind::Credit(credit)) => (credit.partition, Some(credit.batches)),
            Some(RequestKind::Stop(partition)) => (partition, None),
            Some(RequestKind::Open(_)) | None => continue,
        };
        let index = usize::try_from(partition).ok().and_then(|p| p.checked_sub(start));
        let Some((gate, task)) = index.and_then(|i| gates.get_mut(i)) else { continue };
        match batches {
            Some(batches) => gate.add_permits(batches as usize),
            None => task.abort(),
        }
    }
    // The consumer asks for nothing more: what it has credit for is still sent, and the end marks.
    for (_, task) in gates {
        let _ = task.join().await;
    }
}

/// Counts a partition as running as long as it lives.
struct Running(Arc<Places>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Partition {
    index: u64,
    stream: SendableRecordBatchStream,
    gate: Arc<Semaphore>,
    replies: mpsc::Sender<std::result::Result<FetchReply, Status>>,
    /// The memory of the statement, which may end it.
    pool: Option<Arc<QueryPool>>,
    who: Arc<Who>,
    #[expect(dead_code, reason = "held for its drop")]
    running: Running,
}

impl Partition {
    async fn drive(mut self) {
        let pool = self.pool.clone();
        let starved = async {
            match &pool {
                Some(pool) => pool.ended().await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            sent = AssertUnwindSafe(self.send_all()).catch_unwind() => sent,
            error = starved => Ok(Err(error)),
        };
        let last = match sent {
            Ok(Ok(end)) => ReplyKind::End(end),
            Ok(Err(error)) => ReplyKind::Error(blame(error, &self.who.task).encode()),
            Err(panic) => ReplyKind::Error(panicked(panic.as_ref(), &self.who.task).encode()),
        };
        // A closed call has nobody to tell.
        let _ = self.reply(last).await;
    }

    async fn send_all(&mut self) -> Result<End> {
        let mut sent = End { rows: 0, batches: 0 };
        loop {
            let permit = Arc::clone(&self.gate).acquire_owned().await;
            permit.map_err(|_| Error::cancelled("nobody reads this partition"))?.forget();
            let batch = loop {
                match self.stream.next().await {
                    None => return Ok(sent),
                    Some(batch) => {
                        let batch = batch.map_err(|e| self.who.blame(e))?;
                        if batch.num_rows() > 0 {
                            break batch;
                        }
                    }
                }
            };
            sent.rows += batch.num_rows() as u64;
            sent.batches += 1;
            self.reply(ReplyKind::Rows(encode(&batch)?.into())).await?;
        }
    }

    async fn reply(&mut self, kind: ReplyKind) -> Result<()> {
        let reply = FetchReply { partition: self.index, kind: Some(kind) };
        let sent = self.replies.send(Ok(reply)).await;
        sent.map_err(|_| Error::cancelled("the consumer went away"))
    }
}

/// A bug is told together with where it happened; what else goes wrong is the query's matter.
fn blame(error: Error, who: &str) -> Error {
    if error.kind() == Kind::Internal && !error.message().contains("worker '") {
        return error.context(format!("{who} failed"));
    }
    error
}

fn panicked(panic: &(dyn Any + Send), who: &str) -> Error {
    Error::internal(format!("{who} panicked: {}", panic_text(panic)))
        .hint("this is a bug in skep; the query did not finish, no part of it was committed")
}

fn decode_open(open: Open) -> Result<ExecuteTaskRequest> {
    let query = Uuid::from_slice(&open.query).map_err(|e| Error::internal("not a query id").source(e))?;
    let producer_head = match open.head {
        None => ProducerHead::None,
        Some(open::Head::Broadcast(partitions)) => {
            ProducerHead::BroadcastExec { output_partitions: size(partitions)? }
        }
        Some(open::Head::Repartition(partitioning)) => {
            ProducerHead::RepartitionExec { partitioning: MaybeEncoded::Encoded(partitioning.to_vec()) }
        }
    };
    Ok(ExecuteTaskRequest {
        task_key: TaskKey { query_id: query, stage_id: size(open.stage)?, task_number: size(open.task)? },
        target_partition_start: size(open.partition_start)?,
        target_partition_end: size(open.partition_end)?,
        producer_head,
    })
}

fn size(number: u64) -> Result<usize> {
    usize::try_from(number).map_err(|e| Error::internal("a number of the exchange is too large").source(e))
}

/// One batch as an Arrow IPC stream of its own.
fn encode(batch: &RecordBatch) -> Result<Vec<u8>> {
    let batch = compact(batch)?;
    let failed = |e| Error::internal("rows cannot be encoded").source(e);
    let bytes = Vec::with_capacity(batch.get_array_memory_size() + 1024);
    let mut writer = StreamWriter::try_new(bytes, &batch.schema()).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

/// Copies strings out of buffers that hold mostly others: a filtered view would drag its whole input along.
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| -> ArrayRef {
        if let Some(view) = column.as_string_view_opt() {
            let held: usize = view.data_buffers().iter().map(|buffer| buffer.len()).sum();
            if held > 2 * view.total_buffer_bytes_used() {
                return Arc::new(view.gc());
            }
        } else if let Some(view) = column.as_binary_view_opt() {
            let held: usize = view.data_buffers().iter().map(|buffer| buffer.len()).sum();
            if held > 2 * view.total_buffer_bytes_used() {
                return Arc::new(view.gc());
            }
        }
        Arc::clone(column)
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &options)
        .map_err(|e| Error::internal("rows do not fit their schema").source(e))
}
