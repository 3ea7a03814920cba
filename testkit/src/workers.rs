//! Workers on loopback inside the test's process, and the lanes over them: no catalog, no doors, no store of ours.
//!
//! Each worker has a runtime of its own, so that it can die as a process does: with everything it was doing.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use skep_cluster::channel::serve;
use skep_cluster::exchange::Channels;
use skep_cluster::{ChannelConfig, Secret};
use skep_common::{Error, NodeId, QueryId, Result};
use skep_coordinator::lanes::{Config, DurableService, Job, Lane, Lanes};
use skep_engine::codec::Codec;
use skep_engine::memory::Memory;
use skep_engine::write::WriteTarget;
use skep_store::{NodeInfo, Nodes};
use skep_worker::durable::{self, DurableConfig};
use skep_worker::tasks::{Options, Prepare};
use skep_worker::{Durable, Tasks};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use url::Url;

/// Memory of each worker: more than tests need, less than a bug takes.
const MEMORY: usize = 1 << 30;
/// Longest wait of a test for something that must happen.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// One worker.
pub struct Worker {
    /// Its name and address.
    pub info: NodeInfo,
    /// What it runs.
    pub tasks: Tasks,
    runtime: Option<Runtime>,
    scratch: tempfile::TempDir,
}

/// What the workers of a cluster have in common.
struct Common {
    secret: Secret,
    channel: ChannelConfig,
    functions: Vec<Arc<ScalarUDF>>,
    /// Who hands out durable tasks.
    coordinator: Url,
}

fn failed(e: std::io::Error) -> Error {
    Error::unavailable("cannot start a worker").source(e)
}

/// A free port, and how to reach it.
fn listen() -> Result<(std::net::TcpListener, Url)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let url: Url = format!("http://{}", listener.local_addr().map_err(failed)?)
        .parse()
        .map_err(|e| Error::internal("an address is no url").source(e))?;
    Ok((listener, url))
}

impl Worker {
    /// `lanes`: those of the coordinator, which serves beside its own tasks.
    fn start(
        name: &str,
        common: &Common,
        (listener, url): (std::net::TcpListener, Url),
        lanes: Option<Lanes>,
    ) -> Result<Self> {
        let Common { secret, channel, functions, coordinator } = common;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let scratch = tempfile::tempdir().map_err(failed)?;
        let id = NodeId::new(name)?;
        let functions = functions.clone();
        let prepare: Prepare = Arc::new(move |builder| with_functions(builder, &functions));
        let environment = environment()?;
        let memory = Memory::over(Arc::clone(&environment.memory_pool), None);
        let tasks = Tasks::new(Options {
            node: id.clone(),
            runtime: Arc::clone(&environment),
            memory: memory.clone(),
            channels: Channels::new(secret.clone(), channel.clone()),
            codec: Codec::new(),
            prepare: Arc::clone(&prepare),
            partitions_max: channel.partitions_max,
        });
        let durable = Durable::new(durable::Options {
            node: id.clone(),
            url: url.clone(),
            coordinator: coordinator.clone(),
            scratch: scratch.path().join("durable"),
            runtime: environment,
            memory,
            channels: Channels::new(secret.clone(), channel.clone()),
            codec: Codec::new(),
            prepare,
            config: DurableConfig { slots: NonZeroUsize::new(2), ..DurableConfig::default() },
            clock: skep_common::clock::system(),
        })?;
        let mut routes = Routes::builder();
        tasks.register(&mut routes);
        durable.register(&mut routes);
        if let Some(lanes) = lanes {
            routes.add_service(DurableService::server(lanes));
        }
        let (secret, channel) = (secret.clone(), channel.clone());
        let serve = async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let _fetching = durable.start();
            // The end of a server shows in the test that uses it.
            let _ = serve(listener, routes, secret, channel, CancellationToken::new()).await;
        };
        drop(runtime.spawn(serve));
        let info = NodeInfo { id, zone: None, url, free: 0 };
        Ok(Self { info, tasks, runtime: Some(runtime), scratch })
    }

    /// How many jobs of the durable lane it keeps outputs of.
    pub fn outputs(&self) -> usize {
        std::fs::read_dir(self.scratch.path().join("durable")).map_or(0, Iterator::count)
    }

    /// Ends it as kill -9 would: no goodbye, connections cut.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn environment() -> Result<Arc<RuntimeEnv>> {
    let built = RuntimeEnvBuilder::new().with_memory_limit(MEMORY, 1.0).build_arc();
    built.map_err(|e| Error::internal("cannot set up memory").source(e))
}

fn with_functions(builder: SessionStateBuilder, functions: &[Arc<ScalarUDF>]) -> SessionStateBuilder {
    let mut builder = builder;
    builder.scalar_functions().get_or_insert_default().extend(functions.iter().map(Arc::clone));
    builder
}

/// The workers that a test calls alive. Dead ones stay on the list, as they do until their heartbeats are missed.
#[derive(Debug)]
struct Listed(Vec<NodeInfo>);

impl Nodes for Listed {
    fn live(&self) -> Vec<NodeInfo> {
        self.0.clone()
    }
}

/// A cluster: workers `w1`, `w2`, ... and lanes over them.
pub struct Cluster {
    /// The workers.
    pub workers: Vec<Worker>,
    /// The lanes.
    pub lanes: Lanes,
    /// The session that statements are planned in; register tables here.
    pub context: SessionContext,
    /// Connections to the workers, as the coordinator has them.
    pub channels: Channels,
}

impl Cluster {
    /// Starts `count` workers and a service of the coordinator's own, with `functions` known on all of them.
    ///
    /// # Errors
    /// Those of starting servers.
    pub fn start(count: usize, functions: Vec<Arc<ScalarUDF>>) -> Result<Self> {
        Self::with_config(count, functions, Config::default())
    }

    /// As [`Cluster::start`], with lanes as `config` says.
    ///
    /// # Errors
    /// Those of starting servers.
    pub fn with_config(count: usize, functions: Vec<Arc<ScalarUDF>>, config: Config) -> Result<Self> {
        Self::with_channel(count, functions, config, &ChannelConfig::default())
    }

    /// As [`Cluster::with_config`], with nodes that connect as `channel` says.
    ///
    /// # Errors
    /// Those of starting servers.
    pub fn with_channel(
        count: usize,
        functions: Vec<Arc<ScalarUDF>>,
        config: Config,
        channel: &ChannelConfig,
    ) -> Result<Self> {
        let (listener, url) = listen()?;
        let secret = Secret::generate();
        let common =
            Common { secret: secret.clone(), channel: channel.clone(), functions, coordinator: url.clone() };
        let mut workers = Vec::with_capacity(count + 1);
        for number in 1..=count {
            workers.push(Worker::start(&format!("w{number}"), &common, listen()?, None)?);
        }
        let listed = Arc::new(Listed(workers.iter().map(|worker| worker.info.clone()).collect()));
        let channels = Channels::new(secret, channel.clone());
        let lanes = Lanes::new(config, listed, Some(url.clone()), channels.clone(), Codec::new());
        workers.push(Worker::start("coordinator", &common, (listener, url), Some(lanes.clone()))?);
        let settings = SessionConfig::new().with_target_partitions(2);
        let context = SessionContext::new_with_config_rt(settings, environment()?);
        Ok(Self { workers, lanes, context, channels })
    }

    /// Lanes that take `nodes` for the workers, which may name one worker twice.
    pub fn lanes_over(&self, nodes: Vec<NodeInfo>) -> Lanes {
        let own = self.workers.last().map(|worker| worker.info.url.clone());
        Lanes::new(Config::default(), Arc::new(Listed(nodes)), own, self.channels.clone(), Codec::new())
    }

    /// Makes the Parquet files under `folder` the table `name`.
    ///
    /// # Errors
    /// Those of reading them.
    pub async fn table(&self, name: &str, folder: &std::path::Path) -> Result<()> {
        let registered = self
            .context
            .register_parquet(name, folder.to_string_lossy(), ParquetReadOptions::default())
            .await;
        registered.map_err(|e| Error::invalid(format!("cannot read table '{name}'")).source(e))
    }

    /// A job for the one statement `sql`.
    ///
    /// # Errors
    /// Those of planning.
    pub async fn job(&self, sql: &str, lane: Option<Lane>) -> Result<Job> {
        let state: SessionState = self.context.state();
        let logical = state.create_logical_plan(sql).await;
        let logical = logical.map_err(|e| Error::invalid(format!("cannot plan '{sql}'")).source(e))?;
        Ok(Job { state, logical, write: None, lane, query: QueryId::generate() })
    }

    /// A job that writes the rows of `sql` to `target`.
    ///
    /// # Errors
    /// Those of planning.
    pub async fn write(&self, sql: &str, target: WriteTarget, lane: Option<Lane>) -> Result<Job> {
        Ok(Job { write: Some(target), ..self.job(sql, lane).await? })
    }

    /// Partitions that all workers together ever opened.
    pub fn opened(&self) -> u64 {
        self.workers.iter().map(|worker| worker.tasks.opened()).sum()
    }

    /// Partitions that any worker has open.
    pub fn running(&self) -> usize {
        self.workers.iter().map(|worker| worker.tasks.running()).sum()
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// After [`DEADLINE`].
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "it never came to be that {what}");
}
