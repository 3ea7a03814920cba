//! Rows between tasks: the consuming side, and what both sides agree on.
//!
//! ```text
//! consumer task                                             producer task (worker::exchange)
//!   partition streams --open, credit, stop-->  Fetch  --rows, end(rows), error--> partition streams
//! ```
//!
//! datafusion-distributed moves plans and metrics (its own service); rows move here. Its own row transport ends a
//! stream as if it were complete when a task panics, queues without bound on the consumer, and can wait for ever when
//! one partition fills the budget of all. Here a partition is complete only with an end mark that counts its rows, a
//! partition is sent only as far as its consumer granted credit, and a task is opened when its consumer is set up,
//! not when it is first polled, so that it is not forgotten while a long build side runs.
//!
//! # Invariants
//! - A partition stream ends without an error only after its end mark, and only if the rows add up.
//! - At most `window` batches of a partition are in flight, at most `window` more are waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion_distributed::grpc::{BoxCloneSyncChannel, create_worker_client};
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    ProducerHead, SetPlanRequest, WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::stream::{BoxStream, StreamExt};
use http::HeaderMap;
use parking_lot::Mutex;
use skep_common::task::Task;
use skep_common::{Error, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use url::Url;

use crate::failure::{from_call, from_datafusion, to_datafusion};
use crate::proto::exchange::exchange_client::ExchangeClient;
use crate::proto::exchange::fetch_reply::Kind as ReplyKind;
use crate::proto::exchange::fetch_request::Kind as RequestKind;
use crate::proto::exchange::{Credit, End, FetchReply, FetchRequest, Open, open};
use crate::{AuthChannel, ChannelConfig, Secret, connect};

/// Batches of one partition that may be on their way or waiting. Enough to keep a connection busy, few enough to
/// stop a producer soon after its consumer.
pub const WINDOW: u32 = 4;

/// Connections to workers for plans and rows: what datafusion-distributed calls a channel resolver. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Channels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    secret: Secret,
    config: ChannelConfig,
    open: Mutex<HashMap<Url, AuthChannel>>,
}

impl Channels {
    /// Connects as `config` says, with `secret` on every call. Nothing is opened until it is used.
    pub fn new(secret: Secret, config: ChannelConfig) -> Self {
        Self(Arc::new(Inner { secret, config, open: Mutex::default() }))
    }

    /// The channel to `url`, one for all callers; it connects again by itself when it breaks.
    ///
    /// # Errors
    /// As [`connect`].
    pub fn channel(&self, url: &Url) -> Result<AuthChannel> {
        let mut open = self.0.open.lock();
        if let Some(channel) = open.get(url) {
            return Ok(channel.clone());
        }
        let channel = connect(url, &self.0.secret, &self.0.config)?;
        open.insert(url.clone(), channel.clone());
        Ok(channel)
    }
}

#[async_trait]
impl ChannelResolver for Channels {
    async fn get_worker_client_for_url(
        &self,
        url: &Url,
    ) -> std::result::Result<Box<dyn WorkerChannel>, DataFusionError> {
        let channel = self.channel(url).map_err(to_datafusion)?;
        let exchange = ExchangeClient::new(channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let control = create_worker_client(BoxCloneSyncChannel::new(channel));
        Ok(Box::new(TaskChannel { url: url.clone(), control, exchange }))
    }
}

/// One worker, as one consumer or coordinator speaks to it.
struct TaskChannel {
    url: Url,
    control: Box<dyn WorkerChannel>,
    exchange: ExchangeClient<AuthChannel>,
}

impl TaskChannel {
    /// Names the worker in an error that came over its control channel.
    fn name(url: &Url, error: DataFusionError) -> DataFusionError {
        let found = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<tonic::Status>());
        match found {
            Some(status) => to_datafusion(from_call(url, status)),
            None => to_datafusion(from_datafusion(&error)),
        }
    }
}

#[async_trait]
impl WorkerChannel for TaskChannel {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        request: SetPlanRequest,
        outbound: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> std::result::Result<
        BoxStream<'static, std::result::Result<WorkerToCoordinatorMsg, DataFusionError>>,
        DataFusionError,
    > {
        let url = self.url.clone();
        let inbound = self.control.coordinator_channel(headers, request, outbound, metrics, context).await;
        let inbound = inbound.map_err(|e| Self::name(&url, e))?;
        Ok(inbound.map(move |message| message.map_err(|e| Self::name(&url, e))).boxed())
    }

    async fn execute_task(
        &mut self,
        _headers: HeaderMap,
        request: ExecuteTaskRequest,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> std::result::Result<
        Vec<BoxStream<'static, std::result::Result<RecordBatch, DataFusionError>>>,
        DataFusionError,
    > {
        let partitions = request.target_partition_start..request.target_partition_end;
        let open = encode_open(request, context)?;
        let streams = fetch(self.exchange.clone(), self.url.clone(), open, partitions, &metrics, context);
        let streams = streams.await.map_err(to_datafusion)?;
        Ok(streams.into_iter().map(PartitionStream::into_stream).collect())
    }

    async fn get_worker_info(
        &mut self,
        request: GetWorkerInfoRequest,
    ) -> std::result::Result<GetWorkerInfoResponse, DataFusionError> {
        let reply = self.control.get_worker_info(request).await;
        reply.map_err(|e| Self::name(&self.url, e))
    }
}

fn encode_open(
    request: ExecuteTaskRequest,
    context: &Arc<TaskContext>,
) -> std::result::Result<Open, DataFusionError> {
    let head = match request.producer_head {
        ProducerHead::None => None,
        ProducerHead::BroadcastExec { output_partitions } => {
            Some(open::Head::Broadcast(output_partitions as u64))
        }
        ProducerHead::RepartitionExec { partitioning } => {
            Some(open::Head::Repartition(partitioning.encode(context)?.into()))
        }
    };
    Ok(Open {
        query: request.task_key.query_id.as_bytes().to_vec().into(),
        stage: request.task_key.stage_id as u64,
        task: request.task_key.task_number as u64,
        partition_start: request.target_partition_start as u64,
        partition_end: request.target_partition_end as u64,
        head,
    })
}

/// Opens `partitions` of a task and returns their streams, which ask for rows when they are first polled.
async fn fetch(
    mut client: ExchangeClient<AuthChannel>,
    url: Url,
    open: Open,
    partitions: std::ops::Range<usize>,
    metrics: &ExecutionPlanMetricsSet,
    context: &Arc<TaskContext>,
) -> Result<Vec<PartitionStream>> {
    let arrived = context.session_config().get_extension::<Arrivals>().map(|arrivals| arrivals.of(&open));
    // Never full: at most `WINDOW` credits and one stop for each partition are not yet answered, and the opening.
    let (requests, outbound) = mpsc::channel(partitions.len() * (WINDOW as usize + 2) + 1);
    let opening = FetchRequest { kind: Some(RequestKind::Open(open)) };
    requests.try_send(opening).map_err(|_| Error::internal("the queue of a new exchange is full"))?;
    let reply = client.fetch(ReceiverStream::new(outbound)).await;
    let inbound = reply.map_err(|status| from_call(&url, &status))?.into_inner();

    let mut senders = Vec::with_capacity(partitions.len());
    let mut receivers = Vec::with_capacity(partitions.len());
    for _ in partitions.clone() {
        // Beyond the window, one place for the end mark and one for an error.
        let (sender, receiver) = mpsc::channel(WINDOW as usize + 2);
        senders.push(Some(sender));
        receivers.push(receiver);
    }
    let first = partitions.start;
    let distribute = distribute(inbound, senders, first, url.clone());
    let pump = Arc::new(skep_common::task::spawn("exchange", distribute));
    let bytes = MetricBuilder::new(metrics).global_counter("bytes_received");
    let consumer = MemoryConsumer::new("exchange");
    let stream = |(i, replies)| PartitionStream {
        replies,
        requests: requests.clone(),
        partition: (first + i) as u64,
        url: url.clone(),
        state: State::Waiting,
        rows: 0,
        bytes: bytes.clone(),
        arrived: arrived.clone(),
        memory: consumer.clone_with_new_id().register(context.memory_pool()),
        pump: Arc::clone(&pump),
    };
    Ok(receivers.into_iter().enumerate().map(stream).collect())
}

type Reply = std::result::Result<ReplyKind, Error>;

/// Hands each message to its partition. A connection that ends or breaks fails the partitions without an end mark.
async fn distribute(
    mut inbound: tonic::Streaming<FetchReply>,
    mut senders: Vec<Option<mpsc::Sender<Reply>>>,
    first: usize,
    url: Url,
) {
    let failure = loop {
        match inbound.message().await {
            Ok(Some(FetchReply { partition, kind: Some(kind) })) => {
                let index = usize::try_from(partition).ok().and_then(|p| p.checked_sub(first));
                let Some(slot) = index.and_then(|i| senders.get_mut(i)) else {
                    break Error::internal(format!("worker at {url} sent rows of partition {partition}"));
                };
                let last = !matches!(kind, ReplyKind::Rows(_));
                if let Some(sender) = slot {
                    let places = if last { 2 } else { 3 };
                    if sender.capacity() < places && !sender.is_closed() {
                        break Error::internal(format!("worker at {url} sent more than it was asked for"));
                    }
                    // A consumer that stopped reading has said so; there is a place otherwise.
                    let _ = sender.try_send(Ok(kind));
                }
                if last {
                    *slot = None;
                }
            }
            Ok(Some(FetchReply { kind: None, .. })) => {
                break Error::internal(format!("worker at {url} sent a message of another version"));
            }
            Ok(None) => {
                break Error::unavailable(format!("the worker at {url} ended a stream before its end mark"));
            }
            Err(status) => break from_call(&url, &status),
        }
    };
    for sender in senders.into_iter().flatten() {
        // The last place is free: this partition had no end mark yet.
        let _ = sender.try_send(Err(failure.clone()));
    }
}

/// What arrived here from each task of a plan: counted for sessions that have one as an extension of their config.
#[derive(Debug, Default)]
pub struct Arrivals(Mutex<Arriving>);

#[derive(Debug, Default)]
struct Arriving {
    /// The attempt that was opened last: what arrived of others does not count.
    attempt: Bytes,
    tasks: BTreeMap<(u64, u64), Arc<Arrived>>,
}

#[derive(Debug, Default)]
struct Arrived {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Arrivals {
    /// Rows and bytes by stage and task, both as the plan numbers them. Tasks whose rows go elsewhere are missing.
    pub fn counts(&self) -> BTreeMap<(u64, u64), (u64, u64)> {
        let counts =
            |arrived: &Arrived| (arrived.rows.load(Ordering::Relaxed), arrived.bytes.load(Ordering::Relaxed));
        self.0.lock().tasks.iter().map(|(task, arrived)| (*task, counts(arrived))).collect()
    }

    fn of(&self, open: &Open) -> Arc<Arrived> {
        let mut arriving = self.0.lock();
        if arriving.attempt != open.query {
            *arriving = Arriving { attempt: open.query.clone(), tasks: BTreeMap::new() };
        }
        Arc::clone(arriving.tasks.entry((open.stage, open.task)).or_default())
    }
}

enum State {
    Waiting,
    Reading,
    Ended,
}

/// One partition of one task, as its consumer reads it.
struct PartitionStream {
    replies: mpsc::Receiver<Reply>,
    requests: mpsc::Sender<FetchRequest>,
    partition: u64,
    url: Url,
    state: State,
    rows: u64,
    bytes: Count,
    arrived: Option<Arc<Arrived>>,
    memory: MemoryReservation,
    /// Ends when the last partition is dropped, which ends the call.
    #[expect(dead_code, reason = "held for its drop")]
    pump: Arc<Task<()>>,
}

impl PartitionStream {
    fn into_stream(self) -> BoxStream<'static, std::result::Result<RecordBatch, DataFusionError>> {
        futures::stream::unfold(self, |mut stream| async move {
            let item = stream.next().await.map_err(to_datafusion).transpose()?;
            Some((item, stream))
        })
        .boxed()
    }

    fn credit(&self, batches: u32) -> Result<()> {
        let kind = RequestKind::Credit(Credit { partition: self.partition, batches });
        match self.requests.try_send(FetchRequest { kind: Some(kind) }) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::internal("an exchange grants too much")),
            // A closed call shows in the replies.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        match self.state {
            State::Ended => return Ok(None),
            State::Reading => {}
            State::Waiting => {
                self.state = State::Reading;
                self.credit(WINDOW)?;
            }
        }
        let reply = self.replies.recv().await;
        // The batch before this one is with the consumer, which accounts for it.
        self.memory.free();
        let outcome = match reply {
            Some(Ok(ReplyKind::Rows(bytes))) => self.decode(bytes),
            Some(Ok(ReplyKind::End(end))) => self.check(&end).map(|()| None),
            Some(Ok(ReplyKind::Error(text))) => Err(Error::decode(&text).unwrap_or_else(|| {
                Error::internal(format!("worker at {} failed with an unreadable error", self.url))
            })),
            Some(Err(error)) => Err(error),
            None => Err(Error::unavailable(format!(
                "rows from the worker at {} ended before their end mark",
                self.url
            ))),
        };
        if !matches!(outcome, Ok(Some(_))) {
            self.state = State::Ended;
        }
        outcome
    }

    fn decode(&mut self, bytes: bytes::Bytes) -> Result<Option<RecordBatch>> {
        let length = bytes.len();
        self.bytes.add(length);
        self.memory.grow(length);
        let unreadable =
            |e| Error::corrupt(format!("rows from the worker at {} are not readable", self.url)).source(e);
        let mut buffer = Buffer::from(bytes);
        let batch = StreamDecoder::new().decode(&mut buffer).map_err(|e| unreadable(e.to_string()))?;
        let batch = batch.ok_or_else(|| unreadable("a message without rows".to_owned()))?;
        self.rows += batch.num_rows() as u64;
        if let Some(arrived) = &self.arrived {
            arrived.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            arrived.bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
        self.credit(1)?;
        Ok(Some(batch))
    }

    fn check(&self, end: &End) -> Result<()> {
        if end.rows == self.rows {
            return Ok(());
        }
        Err(Error::internal(format!(
            "worker at {} sent {} rows of partition {}, {} arrived",
            self.url, end.rows, self.partition, self.rows
        )))
    }
}

impl Drop for PartitionStream {
    fn drop(&mut self) {
        if !matches!(self.state, State::Ended) {
            // A full or closed queue: the call ends with its last partition anyway.
            let _ = self.requests.try_send(FetchRequest { kind: Some(RequestKind::Stop(self.partition)) });
        }
    }
}
