//! One worker: its blocks, its tasks, its place in the cluster.
//!
//! ```text
//! Worker::start: open the folder -> serve blocks and tasks -> join the coordinator -> report blocks -> heartbeats
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_cluster::blocks::{RemoteNamespace, RemotePeers};
use skep_cluster::exchange::Channels;
use skep_cluster::membership::{Announcement, announce};
use skep_cluster::{ChannelConfig, Secret};
use skep_common::clock::Clock;
use skep_common::task::{self, Task};
use skep_common::{Error, NodeId, Result};
use skep_engine::codec::Codec;
use skep_engine::memory::Memory;
use skep_store::{BlockServer, Disk, NamespaceClient, NodeInfo, Peers, Scrubber, SkepStore, Stores};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use url::Url;

use crate::Blocks;
use crate::durable::{self, Durable, DurableConfig};
use crate::tasks::{Options, Prepare, Tasks};

/// What a worker is made of.
pub struct Config {
    /// Its folder: id, blocks, spill files. Created if missing.
    pub data: PathBuf,
    /// Its id, if the folder does not have one yet; absent: a fresh one.
    pub node: Option<NodeId>,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Where it listens for other nodes.
    pub listener: TcpListener,
    /// The same, as other nodes reach it.
    pub url: Url,
    /// The coordinator.
    pub coordinator: Url,
    /// The cluster secret.
    pub secret: Secret,
    /// How to connect.
    pub channel: ChannelConfig,
    /// How blocks are kept.
    pub store: skep_store::Config,
    /// Memory for tasks, one budget for everything in the process.
    pub memory: Memory,
    /// How long to try to reach the coordinator at the start.
    pub join_timeout: Duration,
    /// Adds to the session of every task.
    pub prepare: Prepare,
    /// Tasks of the durable lane.
    pub durable: DurableConfig,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// A worker that serves. Dropping it stops it at once; [`Worker::stop`] says goodbye first.
#[derive(Debug)]
pub struct Worker {
    node: NodeId,
    url: Url,
    blocks: Blocks,
    stop: CancellationToken,
    serving: Task<Result<()>>,
    announcing: Task<Result<()>>,
    _reporting: Task<()>,
    _scrubbing: Task<()>,
    _durable: Task<()>,
}

impl Worker {
    /// Opens the folder, serves, and joins the coordinator.
    ///
    /// # Errors
    /// Those of the folder and of joining, see [`announce`].
    pub async fn start(config: Config) -> Result<Self> {
        let chunk = u32::try_from(config.store.checksum_chunk.bytes()).unwrap_or(u32::MAX);
        let disk = Disk::open(&config.data, config.node.clone(), chunk)?;
        disk.set_capacity(config.store.capacity.map(|capacity| capacity.bytes()));
        let node = disk.node().clone();
        let (secret, channel) = (&config.secret, &config.channel);
        let peers: Arc<dyn Peers> =
            Arc::new(RemotePeers::new(secret.clone(), channel.clone(), config.store.clone()));
        let timeout = config.store.namespace_timeout;
        let namespace: Arc<dyn NamespaceClient> =
            Arc::new(RemoteNamespace::new(&config.coordinator, secret, channel, timeout)?);
        let blocks = Blocks::new(BlockServer::new(disk.clone(), Arc::clone(&peers), config.store.clone()));
        let store = SkepStore::new(skep_store::skep::Parts {
            namespace: Arc::clone(&namespace),
            peers,
            own: Some(blocks.server().clone()),
            zone: config.zone.clone(),
            config: config.store.clone(),
            clock: Arc::clone(&config.clock),
        })?;
        let cache = config.data.join("cache");
        let stores = Stores::with_config(config.store.clone(), Some(cache)).with_skep(store);
        let runtime = skep_engine::runtime::build(&config.memory, &config.data.join("spill"), &stores)?;
        let channels = Channels::new(config.secret.clone(), config.channel.clone());
        let tasks = Tasks::new(Options {
            node: node.clone(),
            runtime: Arc::clone(&runtime),
            memory: config.memory.clone(),
            channels: channels.clone(),
            codec: Codec::new(),
            prepare: Arc::clone(&config.prepare),
            partitions_max: config.channel.partitions_max,
        });
        let durable = Durable::new(durable::Options {
            node: node.clone(),
            url: config.url.clone(),
            coordinator: config.coordinator.clone(),
            scratch: config.data.join("durable"),
            runtime,
            memory: config.memory,
            channels,
            codec: Codec::new(),
            prepare: config.prepare,
            config: config.durable,
            clock: Arc::clone(&config.clock),
        })?;

        let stop = CancellationToken::new();
        let mut routes = RoutesBuilder::default();
        tasks.register(&mut routes);
        durable.register(&mut routes);
        blocks.register(&mut routes);
        let serving = task::spawn(
            "serve worker",
            skep_cluster::serve(
                config.listener,
                routes,
                config.secret.clone(),
                config.channel.clone(),
                stop.clone(),
            ),
        );

        let (free, caching) = (disk.clone(), stores);
        let announcement = Announcement {
            coordinator: config.coordinator,
            node: NodeInfo {
                id: node.clone(),
                zone: config.zone,
                url: config.url.clone(),
                free: disk.free().unwrap_or(0),
            },
            folder: std::path::absolute(&config.data).unwrap_or(config.data),
            free: Arc::new(move || free.free().unwrap_or(0)),
            work: Arc::new(move || tasks.work()),
            cache: Arc::new(move || caching.cache_stats()),
            secret: config.secret,
            channel: config.channel,
        };
        let (joined, first) = oneshot::channel();
        let announcing = {
            let (stop, blocks, namespace) = (stop.clone(), blocks.clone(), Arc::clone(&namespace));
            let joined = Arc::new(parking_lot::Mutex::new(Some(joined)));
            task::spawn("announce worker", async move {
                let report = move || {
                    let (blocks, namespace) = (blocks.clone(), Arc::clone(&namespace));
                    let joined = Arc::clone(&joined);
                    async move {
                        blocks.report(namespace.as_ref()).await?;
                        if let Some(joined) = joined.lock().take() {
                            // Nobody waits any more: the worker is being dropped.
                            let _ = joined.send(());
                        }
                        Ok(())
                    }
                };
                announce(announcement, config.join_timeout, report, stop).await
            })
        };
        if first.await.is_err() {
            let ended = announcing.join().await?;
            return Err(ended.err().unwrap_or_else(|| Error::cancelled("stopped before it joined")));
        }
        let reporting = blocks.keep_reporting(Arc::clone(&namespace));
        let scrubbing = Scrubber::new(blocks.server().clone(), namespace, Arc::clone(&config.clock)).start();
        let fetching = durable.start()?;
        Ok(Self {
            node,
            url: config.url,
            blocks,
            stop,
            serving,
            announcing,
            _reporting: reporting,
            _scrubbing: scrubbing,
            _durable: fetching,
        })
    }

    /// Its id.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Where other nodes reach it.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its blocks, for readers in the same process.
    pub fn blocks(&self) -> &BlockServer {
        self.blocks.server()
    }

    /// Leaves the cluster and stops serving.
    pub async fn stop(self) {
        self.stop.cancel();
        // Both end by themselves now; how they end is of no use to anyone.
        let _ = self.announcing.join().await;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.serving.join()).await;
    }

    /// Ends when the worker cannot go on by itself: its listener broke, or the coordinator refuses it.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<()> {
        tokio::select! {
            ended = &mut self.announcing => ended?,
            ended = &mut self.serving => ended?,
        }
    }
}
