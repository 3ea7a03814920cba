//! The tasks of the durable lane on one worker.
//!
//! ```text
//! poll.rs    fetches tasks from the coordinator, reports what they came to, stops those nobody wants
//! stage.rs   runs one task: plan -> rows -> files in the scratch folder
//! read.rs    reads outputs of other tasks: from the own disk, or from the worker that has them
//! serve.rs   serves outputs to other nodes
//! ```
//!
//! # Invariants
//! - Outputs live as long as their job, and at most as long as this process: what an earlier one left is deleted.
//! - Every run of a task writes files of its own, so that nothing is read while it is written.
//! - The end of a task is reported until the coordinator has taken it.
//!
//! # Not here
//! Which task runs where, and what runs again (`skep-coordinator`); the protocol and the reading of outputs (`skep_cluster::durable`).

mod poll;
mod read;
mod serve;
mod stage;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::runtime_env::RuntimeEnv;
use skep_cluster::Channels;
use skep_cluster::proto::durable::outputs_server::OutputsServer;
use skep_common::clock::Clock;
use skep_common::task::{self, Task};
use skep_common::{Error, NodeId, Result};
use skep_engine::codec::Codec;
use skep_engine::memory::Memory;
use tonic::service::RoutesBuilder;
use url::Url;
use uuid::Uuid;

use crate::tasks::Prepare;

/// How a worker runs tasks of the durable lane. Table `[worker.durable]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DurableConfig {
    /// Tasks at once; absent: one for each core. More: more memory is shared.
    pub slots: Option<NonZeroUsize>,
    /// How long a worker with free slots lets pass until it asks for tasks again. 5 ms to 10 s. Less: stages start sooner, and
    /// the coordinator answers more calls.
    #[serde(with = "skep_common::unit::duration")]
    pub poll_interval: Duration,
    /// Longest time between two calls, which are also the signs of life of tasks. 100 ms to 10 s.
    #[serde(with = "skep_common::unit::duration")]
    pub heartbeat: Duration,
}

impl Default for DurableConfig {
    fn default() -> Self {
        Self { slots: None, poll_interval: Duration::from_millis(20), heartbeat: Duration::from_secs(1) }
    }
}

impl DurableConfig {
    fn slots(&self) -> NonZeroUsize {
        self.slots.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

/// What a worker's durable tasks run with.
pub struct Options {
    /// The worker.
    pub node: NodeId,
    /// Where other nodes read its outputs.
    pub url: Url,
    /// Who hands out tasks.
    pub coordinator: Url,
    /// The folder of outputs. It is emptied.
    pub scratch: PathBuf,
    /// Disk and stores, shared by all tasks of the process.
    pub runtime: Arc<RuntimeEnv>,
    /// The memory of the process.
    pub memory: Memory,
    /// Connections to other nodes.
    pub channels: Channels,
    /// Our plan nodes. The same on every node of a cluster.
    pub codec: Codec,
    /// Applied to every task's session.
    pub prepare: Prepare,
    /// Slots and times.
    pub config: DurableConfig,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// The durable tasks of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Durable(Arc<Inner>);

struct Inner {
    options: Options,
    /// Another one for each process, and for each worker in a process.
    life: String,
}

impl Durable {
    /// Ready to be served. Deletes what an earlier process left in the scratch folder.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if the folder cannot be used.
    pub fn new(options: Options) -> Result<Self> {
        let scratch = &options.scratch;
        let unusable = |e: std::io::Error| {
            Error::invalid(format!("cannot keep outputs of tasks in '{}'", scratch.display()))
                .hint("name a data folder that this user may write")
                .source(e)
        };
        match std::fs::remove_dir_all(scratch) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(unusable(e)),
            _ => {}
        }
        std::fs::create_dir_all(scratch).map_err(unusable)?;
        Ok(Self(Arc::new(Inner { options, life: Uuid::new_v4().simple().to_string() })))
    }

    /// Adds the service of outputs to a server. The server checks the secret, before every call.
    pub fn register(&self, routes: &mut RoutesBuilder) {
        let outputs = serve::Served { scratch: self.0.options.scratch.clone(), life: self.0.life.clone() };
        routes.add_service(OutputsServer::new(outputs).max_encoding_message_size(usize::MAX));
    }

    /// Fetches and runs tasks until it is dropped. A coordinator that cannot be reached is asked again.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if the coordinator's URL is none.
    pub fn start(&self) -> Result<Task<()>> {
        let poller = poll::Poller::new(Arc::clone(&self.0))?;
        Ok(task::spawn("fetch durable tasks", poller.run()))
    }
}
