//! The tasks of the pipelined lane on one worker.
//!
//! A coordinator sends a plan (datafusion-distributed's own service), consumers pull its rows
//! ([`skep_cluster::exchange`]). Each task gets a session of its own: this worker's memory, stores and functions, the
//! settings that came with the plan, and which of how many tasks it is.

use std::num::NonZeroUsize;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion_distributed::{DistributedExt, DistributedTaskContext, Worker, WorkerQueryContext};
use skep_cluster::exchange::Channels;
use skep_cluster::failure::to_datafusion;
use skep_cluster::membership::Work;
use skep_cluster::proto::exchange::exchange_server::ExchangeServer;
use skep_cluster::settings::{Travel, unpack};
use skep_common::NodeId;
use skep_engine::codec::Codec;
use skep_engine::memory::Memory;
use skep_engine::runtime;
use skep_engine::write::TaskIdentity;
use tonic::service::RoutesBuilder;

use crate::exchange::{Places, Producer};
use crate::works::{Noting, Works};

/// Adds to the session of every task, such as functions that plans name.
pub type Prepare = Arc<dyn Fn(SessionStateBuilder) -> SessionStateBuilder + Send + Sync>;

/// What a worker's tasks run with.
pub struct Options {
    /// The worker, as errors name it.
    pub node: NodeId,
    /// Disk and stores, shared by all tasks of the process.
    pub runtime: Arc<RuntimeEnv>,
    /// The memory of the process.
    pub memory: Memory,
    /// Connections to other workers.
    pub channels: Channels,
    /// Our plan nodes. The same on every node of a cluster.
    pub codec: Codec,
    /// Applied to every task's session.
    pub prepare: Prepare,
    /// Partitions of tasks that may be open for their consumers at once.
    pub partitions_max: NonZeroUsize,
}

/// The tasks of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    worker: Worker,
    node: NodeId,
    runtime: Arc<RuntimeEnv>,
    open: Arc<Places>,
    works: Works,
}

impl Tasks {
    /// Ready to be served.
    pub fn new(options: Options) -> Self {
        let Options { node, runtime, memory, channels, codec, prepare, partitions_max } = options;
        let all = Arc::clone(&runtime);
        let works = Works::new(memory.clone());
        let noted = works.clone();
        let build = move |context: WorkerQueryContext| {
            let built = session(context, &all, &memory, &noted, channels.clone(), codec.clone(), &prepare);
            std::future::ready(built)
        };
        let version = concat!("skep ", env!("CARGO_PKG_VERSION"));
        let worker =
            Worker::from_session_builder(build).with_runtime_env(Arc::clone(&runtime)).with_version(version);
        Self { worker, node, runtime, open: Arc::new(Places::new(partitions_max.get())), works }
    }

    /// Adds the services to a server. The server checks the secret, before every call.
    pub fn register(&self, routes: &mut RoutesBuilder) {
        routes.add_service(self.worker.clone().into_worker_server());
        let (node, runtime) = (self.node.clone(), Arc::clone(&self.runtime));
        let producer = Producer::new(self.worker.clone(), node, runtime, Arc::clone(&self.open));
        let server = ExchangeServer::new(producer)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        routes.add_service(server);
    }

    /// What statements do here.
    pub fn work(&self) -> Vec<Work> {
        self.works.report()
    }

    /// Partitions that are open for their consumers. None when all queries have ended or were cancelled.
    pub fn running(&self) -> usize {
        self.open.running()
    }

    /// Partitions that were ever opened.
    pub fn opened(&self) -> u64 {
        self.open.opened()
    }
}

fn session(
    context: WorkerQueryContext,
    runtime: &Arc<RuntimeEnv>,
    memory: &Memory,
    works: &Works,
    channels: Channels,
    codec: Codec,
    prepare: &Prepare,
) -> Result<SessionState, DataFusionError> {
    let WorkerQueryContext { builder, headers } = context;
    let mut builder = builder.with_distributed_option_extension_from_headers::<Travel>(&headers)?;
    let config = builder.config().get_or_insert_default();
    let options = config.options_mut();
    let travel = options.extensions.get::<Travel>().cloned().unwrap_or_default();
    unpack(&travel.options, options).map_err(to_datafusion)?;
    if let Some(task) = config.get_extension::<DistributedTaskContext>() {
        config.set_extension(Arc::new(TaskIdentity { index: task.task_index, count: task.task_count }));
    }
    let (runtime, pool) = runtime::of_statement(runtime, memory, &travel.query, &travel.share());
    // Whoever sends the task's rows ends them when the statement has to end.
    config.set_extension(pool);
    let noting = Noting { works: works.clone(), statement: travel.query };
    let builder = builder
        .with_runtime_env(runtime)
        .with_distributed_worker_plan_rewrite_handler(noting)
        .with_distributed_channel_resolver(channels)
        .with_distributed_user_codec(codec);
    Ok(prepare(builder).build())
}
