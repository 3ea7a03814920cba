//! A whole cluster in one process: a coordinator and workers over one data folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use skep_cluster::{ChannelConfig, Secret};
use skep_common::{ByteSize, Error, NodeId, Result, clock};
use skep_coordinator::Coordinator;
use skep_metadb::Location;
use skep_worker::{Worker, node as worker_node};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::cli::Up;
use crate::config::StoreKind;
use crate::folder::Folder;
use crate::node::{CoordinatorNode, CoordinatorOptions, Doors, bind, data_path, url_of};
use crate::signal::Stop;
use crate::{memory, standby};

/// Workers of a new folder when nobody says how many.
const WORKERS: u16 = 3;
/// How long a worker of the process may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// What to start.
pub(crate) struct Options {
    pub(crate) data: PathBuf,
    pub(crate) workers: Option<u16>,
    pub(crate) store: Option<StoreKind>,
    pub(crate) memory: Option<ByteSize>,
    pub(crate) memory_limit: Option<ByteSize>,
    pub(crate) catalog: Option<Location>,
    /// Run the schedules of pipelines.
    pub(crate) schedules: bool,
}

impl Options {
    /// The folder as it is.
    pub(crate) fn embedded(data: &Path, catalog: Option<Location>) -> Self {
        let data = data.to_owned();
        Self { data, workers: None, store: None, memory: None, memory_limit: None, catalog, schedules: false }
    }
}

/// A running cluster. [`Cluster::stop`] ends it in order.
pub(crate) struct Cluster {
    folder: Folder,
    listen: Url,
    node: CoordinatorNode,
    workers: Vec<Worker>,
}

impl Cluster {
    /// Locks the folder, starts the coordinator and every worker, and waits until all have joined.
    ///
    /// # Errors
    /// Those of the folder, its databases, and of joining.
    pub(crate) async fn start(options: Options) -> Result<Self> {
        let folder = Folder::open(&options.data, options.store, options.catalog)?;
        let workers = worker_folders(folder.path(), options.workers)?;
        let (secret, channel) = (Secret::generate(), ChannelConfig::default());
        folder.keep_secret(&secret)?;
        let memory = memory::of_process(options.memory, options.memory_limit)?;
        let near = skep_store::local::InProcess::new();
        let listener = bind("the coordinator", ([127, 0, 0, 1], 0).into()).await?;
        let url = url_of("http", &listener, None)?;
        let node = CoordinatorNode::start(CoordinatorOptions {
            folder: folder.path().to_owned(),
            identity: folder.identity()?,
            catalog: folder.catalog(),
            data_path: data_path(&folder)?,
            listener,
            url: url.clone(),
            secret: secret.clone(),
            channel: channel.clone(),
            membership: skep_cluster::membership::Config::default(),
            // One process: every node of it sees the same files.
            shared_paths: vec!["/".into()],
            memory: memory.clone(),
            store: skep_store::Config::default(),
            near: Some(near.clone()),
            lanes: skep_coordinator::lanes::Config::default(),
            maintenance: skep_coordinator::maintenance::Config::default(),
            queries: skep_coordinator::queries::Config::default(),
            groups: skep_coordinator::admission::Groups::default(),
            pipelines: skep_pipeline::Config::default(),
            schedules: options.schedules,
        })
        .await?;
        let starting = workers.into_iter().map(|(name, data)| {
            let (coordinator, secret, channel) = (url.clone(), secret.clone(), channel.clone());
            let memory = memory.clone();
            async move {
                let listener = bind("a worker", ([127, 0, 0, 1], 0).into()).await?;
                let url = url_of("http", &listener, None)?;
                Worker::start(worker_node::Config {
                    data,
                    node: Some(name),
                    zone: None,
                    listener,
                    url,
                    coordinator,
                    secret,
                    channel,
                    store: skep_store::Config::default(),
                    memory,
                    join_timeout: JOIN_TIMEOUT,
                    prepare: Arc::new(skep_engine::functions::register),
                    durable: skep_worker::DurableConfig::default(),
                    clock: clock::system(),
                })
                .await
            }
        });
        let workers = futures::future::try_join_all(starting).await?;
        for worker in &workers {
            near.insert(worker.blocks().clone());
        }
        Ok(Self { folder, listen: url, node, workers })
    }

    /// The replicated store.
    pub(crate) fn store(&self) -> &skep_store::SkepStore {
        self.node.store()
    }

    /// Where nodes reach the coordinator.
    pub(crate) fn listen(&self) -> &Url {
        &self.listen
    }

    pub(crate) fn coordinator(&self) -> &Coordinator {
        self.node.coordinator()
    }

    /// Cancelled when a coordinator elsewhere took over.
    pub(crate) fn lost(&self) -> CancellationToken {
        self.node.lost()
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Workers leave, then the coordinator stops, then the folder is unlocked.
    pub(crate) async fn stop(self) {
        futures::future::join_all(self.workers.into_iter().map(Worker::stop)).await;
        self.node.stop().await;
    }
}

/// The folders of the workers: those that are there, and new ones up to `wanted`.
fn worker_folders(data: &Path, wanted: Option<u16>) -> Result<Vec<(NodeId, PathBuf)>> {
    let folder = |number: u16| data.join(format!("worker-{number}"));
    let mut existing = 0;
    while folder(existing + 1).is_dir() {
        existing += 1;
    }
    let count = match wanted {
        Some(wanted) if wanted < existing => {
            return Err(Error::invalid(format!(
                "'{}' holds blocks of {existing} workers, and --workers asks for {wanted}",
                data.display()
            ))
            .hint(format!("leave --workers out, or give at least {existing}")));
        }
        Some(wanted) => wanted,
        None if existing > 0 => existing,
        None => WORKERS,
    };
    (1..=count).map(|number| Ok((NodeId::new(format!("worker-{number}"))?, folder(number)))).collect()
}

/// `skep up`
pub(crate) async fn up(args: Up) -> Result<ExitCode> {
    let flight = bind("--flight", args.flight).await?;
    let http = bind("--http", args.http).await?;
    let options = Options {
        data: args.data,
        workers: args.workers,
        store: args.store,
        memory: args.memory,
        memory_limit: args.memory_limit,
        catalog: args.catalog,
        schedules: true,
    };
    let cluster = Cluster::start(options).await?;
    let doors = Doors::open(cluster.coordinator(), Default::default(), flight, http)?;
    cluster.folder().publish(&doors.endpoint(cluster.listen()))?;
    let mut stop = Stop::listen()?;
    println!("{}", doors.ready_line());
    let lost = cluster.lost();
    tokio::select! {
        () = stop.requested() => {}
        () = lost.cancelled() => return Err(standby::taken_over()),
    }
    doors.close().await;
    cluster.stop().await;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_those_of_the_folder() {
        let data = std::env::temp_dir().join(format!("skep-workers-{}", skep_common::QueryId::generate()));
        let names = |wanted| worker_folders(&data, wanted).map(|all| all.len());
        assert_eq!(names(None).ok(), Some(3));
        assert_eq!(names(Some(5)).ok(), Some(5));
        std::fs::create_dir_all(data.join("worker-1")).unwrap();
        std::fs::create_dir_all(data.join("worker-2")).unwrap();
        assert_eq!(names(None).ok(), Some(2));
        assert!(names(Some(1)).is_err());
        std::fs::remove_dir_all(data).unwrap();
    }
}
