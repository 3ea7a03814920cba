//! The durable lane: stages whose outputs lie on disk, so that what is lost is made again.
//!
//! ```text
//! plan.rs      a plan that Ballista can cut into stages, writes included
//! job.rs       submits it, waits for its end, reads its results; ends it when nobody wants it
//! service.rs   answers workers: takes what ended, hands out tasks, names jobs that are gone
//! policy.rs    which task a worker gets: fair between jobs, near to the data
//! ledger.rs    what every task wrote: the truth about outputs
//! ```
//!
//! Ballista's scheduler holds the stages of each job and decides what runs again when something is lost. Around it everything is
//! ours: workers fetch tasks over our own channel, a task whose reply was lost is found missing, no end of a task counts twice,
//! and before a task runs, the outputs that it reads are compared with the ledger: each part of its input exactly once.
//!
//! # Invariants
//! - A job succeeds only with one complete output of every part of its last stage.
//! - Outputs of a job lie on the workers until its rows were read, or nobody wants them any more.
//! - No row leaves before all were read, unless they are many.
//! - A plan whose rows depend on how it runs is run again as a whole if any of its tasks had to run again.
//! - A job of which nothing runs and nothing can be handed out ends with an error that is retried, within the timeout of workers.
//!
//! # Not here
//! Choosing the lane and running a job again (`lanes::run`), running tasks (`skep-worker`), commits of what was written.

mod job;
mod joins;
mod ledger;
mod plan;
mod policy;
mod service;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ballista_core::JobId;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::BallistaCodec;
use ballista_core::serde::protobuf::ExecutorStoppedParams;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::metrics::NoopMetricsCollector;
use ballista_scheduler::scheduler_server::SchedulerServer;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_cluster::Channels;
use skep_cluster::durable::{codec, node_of};
use skep_common::task::{self, Task};
use skep_common::{ByteSize, Error, Result};
use skep_engine::codec::Codec;
use skep_store::Nodes;
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;
use url::Url;

pub(super) use job::begin;
pub(super) use plan::{Durable, Shaped, shape, stages};
pub use service::DurableService;

use ledger::Ledger;

/// How the durable lane watches its jobs. Table `[coordinator.lanes.durable]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DurableConfig {
    /// Silence after which a worker's tasks and outputs count as lost. 500 ms to 10 min. Less: recovery begins sooner, and a
    /// worker that is only slow loses its work.
    #[serde(with = "skep_common::unit::duration")]
    pub worker_timeout: Duration,
    /// How long a task waits for a worker that holds its data before any may have it. 0 to 1 min.
    #[serde(with = "skep_common::unit::duration")]
    pub locality_wait: Duration,
    /// Time without a row or an ended task after which a job is run again from the start. 1 s to 1 d.
    #[serde(with = "skep_common::unit::duration")]
    pub stall_timeout: Duration,
    /// Results up to this size, as they lie on disk, are copied to the coordinator before their first row leaves; of larger ones
    /// a worker that is lost while they are read is an error. 0 to 1 GiB. More: the first row of large results comes later.
    pub results_bytes_max: ByteSize,
}

impl Default for DurableConfig {
    fn default() -> Self {
        Self {
            worker_timeout: Duration::from_secs(10),
            locality_wait: Duration::from_millis(300),
            stall_timeout: Duration::from_secs(600),
            results_bytes_max: ByteSize::mib(64),
        }
    }
}

/// How often lost workers are looked for.
const TEND_EVERY: Duration = Duration::from_millis(200);
/// Ballista's own timers, which ours precede.
const NEVER_SECONDS: u64 = 10 * 365 * 24 * 3600;
/// How long Ballista remembers a job that has ended.
const REMEMBER_SECONDS: u64 = 60;
/// How often one task, and one stage, may fail.
const FAILURES_MAX: usize = 6;

type Scheduler = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// The durable lane of one coordinator. Starts when it is first used.
#[derive(Debug)]
pub(super) struct Lazy {
    config: DurableConfig,
    codec: Codec,
    nodes: Arc<dyn Nodes>,
    channels: Channels,
    engine: OnceCell<Engine>,
}

impl Lazy {
    pub(super) fn new(
        config: DurableConfig,
        codec: Codec,
        nodes: Arc<dyn Nodes>,
        channels: Channels,
    ) -> Self {
        Self { config, codec, nodes, channels, engine: OnceCell::new() }
    }

    pub(super) async fn engine(&self) -> Result<&Engine> {
        let start = || {
            Engine::start(self.config.clone(), &self.codec, Arc::clone(&self.nodes), self.channels.clone())
        };
        self.engine.get_or_try_init(start).await
    }
}

/// The durable lane, started. Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine(Arc<Inner>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.0.config).finish_non_exhaustive()
    }
}

struct Inner {
    config: DurableConfig,
    scheduler: Scheduler,
    channels: Channels,
    ledger: Arc<Ledger>,
    nodes: Arc<dyn Nodes>,
    /// Told when there may be tasks to hand out.
    work: Arc<Notify>,
    /// Jobs whose outputs somebody still wants.
    wanted: Mutex<HashSet<String>>,
    /// Workers that fetch tasks, by name.
    workers: Mutex<HashMap<String, Known>>,
    _tend: Mutex<Option<Task<()>>>,
}

/// A worker that fetches tasks.
#[derive(Debug, Clone)]
struct Known {
    executor: String,
    /// Where its outputs are served.
    url: Url,
    slots: usize,
    seen: Instant,
    /// One call at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

fn session_config() -> SessionConfig {
    SessionConfig::new_with_ballista().with_ballista_adaptive_query_planner(false)
}

impl Engine {
    async fn start(
        config: DurableConfig,
        ours: &Codec,
        nodes: Arc<dyn Nodes>,
        channels: Channels,
    ) -> Result<Self> {
        let failed = |e: ballista_core::error::BallistaError| {
            Error::internal("the durable lane cannot start").source(e.to_string())
        };
        let codec = codec(ours.clone());
        let (work, ledger) = (Arc::new(Notify::new()), Arc::new(Ledger::default()));
        let build = |config: SessionConfig| -> datafusion::error::Result<SessionState> {
            Ok(SessionStateBuilder::new_with_default_features().with_config(config).build())
        };
        let cluster = BallistaCluster::new_memory("skep", Arc::new(build), Arc::new(session_config));
        let policy = policy::Policy::new(Arc::clone(&ledger), Arc::clone(&nodes), config.locality_wait);
        let available = Arc::clone(&work);
        let settings = SchedulerConfig {
            scheduling_policy: TaskSchedulingPolicy::PullStaged,
            task_distribution: TaskDistributionPolicy::Custom(Arc::new(policy)),
            executor_timeout_seconds: NEVER_SECONDS,
            expire_dead_executor_interval_seconds: 3600,
            no_executors_grace_period_seconds: NEVER_SECONDS,
            executor_termination_grace_period: 0,
            // Workers are told by the answer to their polls.
            finished_job_data_clean_up_interval_seconds: 0,
            finished_job_state_clean_up_interval_seconds: REMEMBER_SECONDS,
            task_max_failures: FAILURES_MAX,
            stage_max_failures: FAILURES_MAX,
            on_work_available: Some(Arc::new(move |_| available.notify_waiters())),
            ..SchedulerConfig::default()
        };
        let logical = session_config().ballista_logical_extension_codec();
        let mut scheduler: Scheduler = SchedulerServer::new(
            "skep".to_owned(),
            cluster,
            BallistaCodec::new(logical, codec),
            Arc::new(settings),
            Arc::new(NoopMetricsCollector::default()),
        );
        scheduler.init().await.map_err(failed)?;
        let engine = Self(Arc::new(Inner {
            config,
            scheduler,
            channels,
            ledger,
            nodes,
            work,
            wanted: Mutex::default(),
            workers: Mutex::default(),
            _tend: Mutex::default(),
        }));
        let tended = Arc::downgrade(&engine.0);
        let tend = task::spawn("tend durable workers", async move {
            loop {
                tokio::time::sleep(TEND_EVERY).await;
                let Some(inner) = tended.upgrade() else { return };
                Engine(inner).tend().await;
            }
        });
        *engine.0._tend.lock() = Some(tend);
        Ok(engine)
    }

    /// Gives up workers that left or went silent.
    async fn tend(&self) {
        let live: HashSet<String> = self.0.nodes.live().into_iter().map(|node| node.id.to_string()).collect();
        let lost: Vec<(String, Known)> = {
            let workers = self.0.workers.lock();
            let gone = |node: &str, known: &Known| {
                known.seen.elapsed() > self.0.config.worker_timeout
                    || (node != policy::COORDINATOR && !live.contains(node))
            };
            let lost = workers.iter().filter(|(node, known)| gone(node, known));
            lost.map(|(node, known)| (node.clone(), known.clone())).collect()
        };
        let running = self.0.scheduler.state.task_manager.get_running_job_cache();
        let wanted = self.0.wanted.lock().clone();
        // A job that was cancelled may have got another task while it ended.
        self.0.ledger.retain(|job| wanted.contains(job) || running.keys().any(|id| id.as_str() == job));
        for (node, known) in lost {
            {
                let mut workers = self.0.workers.lock();
                if workers.get(&node).is_some_and(|now| now.executor == known.executor) {
                    workers.remove(&node);
                }
            }
            if self.give_up(&known.executor, "it left or went silent").await {
                tracing::warn!(
                    worker = node,
                    "lost; its durable tasks run elsewhere, its outputs are made again"
                );
            }
        }
    }

    /// Counts one life of a worker as dead: its tasks run elsewhere, its outputs are made again. Whether it had some.
    async fn give_up(&self, executor: &str, reason: &str) -> bool {
        let any = self.0.ledger.lose(executor);
        let stopped = ExecutorStoppedParams { executor_id: executor.to_owned(), reason: reason.to_owned() };
        if let Err(status) = self.0.scheduler.executor_stopped(tonic::Request::new(stopped)).await {
            tracing::warn!(executor, %status, "a lost worker cannot be given up");
        }
        self.0.work.notify_waiters();
        any
    }

    /// `job` goes on without `executor`, as `says` wants it, who cannot reach it or is it and has no room on its disk.
    async fn avoid(&self, job: &str, executor: &str, says: &str, unreachable: bool) {
        // What only the coordinator can run is not run elsewhere: whoever cannot reach it is the one to do without.
        let (executor, says) =
            if node_of(executor) == policy::COORDINATOR { (says, executor) } else { (executor, says) };
        if node_of(executor) == policy::COORDINATOR {
            return;
        }
        if !self.0.ledger.avoid(job, executor, says, unreachable) {
            return;
        }
        let why = if unreachable { "others cannot reach it" } else { "its disk is full" };
        let (worker, by) = (node_of(executor), node_of(says));
        tracing::warn!(job, worker, by, why, "the job goes on without this worker");
        if unreachable
            && let Some(info) =
                self.0.scheduler.state.task_manager.get_running_job_cache().get(&JobId::new(job.to_owned()))
        {
            let reset = info.execution_graph.write().await.reset_stages_on_lost_executor(executor);
            if let Err(error) = reset {
                tracing::warn!(job, worker, %error, "its tasks in the job cannot be given up");
            }
        }
        self.0.work.notify_waiters();
    }

    /// Slots of all workers that fetch tasks.
    pub(super) fn slots(&self) -> usize {
        let workers = self.0.workers.lock();
        workers.iter().filter(|(node, _)| *node != policy::COORDINATOR).map(|(_, known)| known.slots).sum()
    }

    fn has_workers(&self) -> bool {
        self.0.workers.lock().keys().any(|node| node != policy::COORDINATOR)
    }

    /// Nobody wants `job` any more: its tasks stop, its outputs are deleted.
    async fn end(&self, job: &str, running: bool) {
        self.0.wanted.lock().remove(job);
        if running && let Err(error) = self.0.scheduler.cancel_job(JobId::new(job.to_owned())).await {
            tracing::debug!(job, %error, "a job cannot be cancelled; it ends by itself");
        }
        self.0.ledger.forget(job);
    }
}
