//! Roles: what a coordinator process and a worker process are made of.
//!
//! ```text
//! CoordinatorNode   catalog, namespace, members   listens for nodes: membership, namespace, tasks over files only it has
//!                                                 listens for people: Flight SQL, HTTP
//! skep_worker::Worker   blocks, tasks             listens for nodes: blocks, tasks
//! ```

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use skep_catalog::{Catalog, OpenOptions};
use skep_cluster::blocks::{NamespaceService, RemotePeers};
use skep_cluster::exchange::Channels;
use skep_cluster::membership::{Members, MembershipService};
use skep_cluster::{ChannelConfig, Secret};
use skep_common::task::{self, Task};
use skep_common::{Error, NodeId, Result, clock};
use skep_coordinator::lanes::{self, DurableService, Lanes};
use skep_coordinator::{Coordinator, StoreLocator};
use skep_engine::codec::Codec;
use skep_engine::memory::Memory;
use skep_engine::{Environment, Locate, runtime};
use skep_metadb::{Location, MetaDb};
use skep_store::keep::Keeper;
use skep_store::near::Near;
use skep_store::probe::Race;
use skep_store::{BlockServer, Disk, Namespace, NamespaceClient, Nodes, Peers, SKEP_URL, SkepStore, Stores};
use skep_worker::{Durable, DurableConfig, Tasks, Worker, durable, node as worker_node, tasks};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use url::Url;

use crate::cli::Role;
use crate::config::{Config, StoreKind};
use crate::folder::{Endpoint, Folder};
use crate::memory;
use crate::signal::Stop;
use crate::standby::{self, Held};

/// How long a worker tries to reach its coordinator when it starts.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Binds `address`, naming the setting in the error.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) if the address is taken or not this machine's.
pub(crate) async fn bind(what: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another process listens there; take another port, or 0 for a free one"
            }
            _ => "give an address of this machine, such as 127.0.0.1:0",
        };
        Error::invalid(format!("cannot listen on {address} for {what}")).hint(hint).source(e)
    })
}

/// The address of `listener` as others reach it.
pub(crate) fn url_of(scheme: &str, listener: &TcpListener, advertise: Option<&str>) -> Result<Url> {
    let address =
        listener.local_addr().map_err(|e| Error::internal("the listener has no address").source(e))?;
    let host = match advertise {
        Some(host) => host.to_owned(),
        None if address.is_ipv6() => format!("[{}]", address.ip()),
        None => address.ip().to_string(),
    };
    format!("{scheme}://{host}:{}", address.port())
        .parse()
        .map_err(|e| Error::invalid(format!("'{host}' is not a host name")).source(e))
}

/// What a coordinator is started with.
pub(crate) struct CoordinatorOptions {
    /// The coordinator's own folder: spill files, and the namespace of blocks unless a server has it.
    pub(crate) folder: PathBuf,
    /// Who this coordinator is, in all its lives.
    pub(crate) identity: String,
    /// The catalog database. On a server the namespace of blocks is in it too.
    pub(crate) catalog: Location,
    /// Where tables keep their files, as the catalog names it.
    pub(crate) data_path: String,
    /// Where other nodes reach it.
    pub(crate) listener: TcpListener,
    pub(crate) url: Url,
    pub(crate) secret: Secret,
    pub(crate) channel: ChannelConfig,
    pub(crate) membership: skep_cluster::membership::Config,
    pub(crate) shared_paths: Vec<PathBuf>,
    pub(crate) memory: Memory,
    /// How blocks are kept.
    pub(crate) store: skep_store::Config,
    /// Reads blocks of workers in the same process without a network.
    pub(crate) near: Option<skep_store::local::InProcess>,
    /// Where plans run.
    pub(crate) lanes: lanes::Config,
    /// When tables are cared for.
    pub(crate) maintenance: skep_coordinator::maintenance::Config,
    /// What is remembered of queries.
    pub(crate) queries: skep_coordinator::queries::Config,
    /// Who may run how much at a time.
    pub(crate) groups: skep_coordinator::admission::Groups,
    /// What runs of pipelines may do.
    pub(crate) pipelines: skep_pipeline::Config,
    /// Run the schedules of pipelines: for processes that stay.
    pub(crate) schedules: bool,
}

/// A coordinator that serves other nodes. Dropping it stops it.
pub(crate) struct CoordinatorNode {
    coordinator: Coordinator,
    store: SkepStore,
    held: Option<Held>,
    scheduling: Option<skep_pipeline::Scheduling>,
    stop: CancellationToken,
    serving: Task<Result<()>>,
    _keeper: Task<()>,
    _beside: Task<()>,
    _maintenance: Task<()>,
    _durable: Task<()>,
}

impl CoordinatorNode {
    /// Opens the databases and serves the nodes. If another coordinator keeps the blocks that the catalog on a server
    /// names, stands by until it is gone.
    ///
    /// # Errors
    /// Those of the databases: corrupt, of a newer version, in use.
    pub(crate) async fn start(options: CoordinatorOptions) -> Result<Self> {
        let clock = clock::system();
        let folder = options.folder;
        let catalog = Catalog::open(options.catalog.clone(), OpenOptions::new(options.data_path)).await?;
        let shared = matches!(options.catalog, Location::Postgres(_));
        let held = if shared && catalog.data_path().starts_with(SKEP_URL) {
            Some(Held::take(&options.catalog, &options.identity, Arc::clone(&clock)).await?)
        } else {
            None
        };
        let members = Members::new(options.membership, Arc::clone(&clock));
        let nodes: Arc<dyn Nodes> = Arc::new(members.clone());
        let store_config = options.store;
        let blocks = if shared { options.catalog } else { folder.join("blocks.sqlite").into() };
        let namespace =
            Namespace::open(blocks, store_config.clone(), Arc::clone(&nodes), Arc::clone(&clock)).await?;
        if let Some(held) = &held {
            namespace.fence(held.lease().clone());
        }
        let remote = RemotePeers::new(options.secret.clone(), options.channel.clone(), store_config.clone());
        let here = options.near.unwrap_or_default();
        let remote: Arc<dyn Peers> = Arc::new(remote);
        let beside = task::spawn(
            "read beside workers",
            read_beside(members.clone(), here.clone(), Arc::clone(&remote), store_config.clone()),
        );
        let peers: Arc<dyn Peers> = Arc::new(Near::new(here, remote));
        let namespace_client: Arc<dyn NamespaceClient> = Arc::new(namespace.clone());
        let store = SkepStore::new(skep_store::skep::Parts {
            namespace: Arc::clone(&namespace_client),
            peers: Arc::clone(&peers),
            own: None,
            zone: None,
            config: store_config.clone(),
            clock: Arc::clone(&clock),
        })?;
        let skep_store = store.clone();
        let stores = Stores::with_config(store_config, Some(folder.join("cache"))).with_skep(store.clone());
        let runtime = runtime::build(&options.memory, &folder.join("spill"), &stores)?;
        let mut shared_paths = options.shared_paths;
        let data_path = catalog.data_path().to_owned();
        let managed_here = !data_path.contains("://") || data_path.starts_with("file://");
        if !data_path.starts_with(SKEP_URL) {
            // The block store creates exclusively by construction, and has no workers yet to show it on.
            let (root, folder) = skep_engine::files::data_path(&data_path)?;
            stores.check_managed(root.as_ref(), &folder, Race::default()).await?;
        }
        if managed_here {
            shared_paths.push(PathBuf::from(data_path.trim_start_matches("file://")));
        }
        let locate: Arc<dyn Locate> = Arc::new(StoreLocator(store));

        let channels = Channels::new(options.secret.clone(), options.channel.clone());
        let node = NodeId::new("coordinator")?;
        let own_tasks = Tasks::new(tasks::Options {
            node: node.clone(),
            runtime: Arc::clone(&runtime),
            memory: options.memory.clone(),
            channels: channels.clone(),
            codec: Codec::new(),
            prepare: Arc::new(skep_engine::functions::register),
            partitions_max: options.channel.partitions_max,
        });
        // The coordinator runs those durable tasks whose files only it has.
        let own_durable = Durable::new(durable::Options {
            node,
            url: options.url.clone(),
            coordinator: options.url.clone(),
            scratch: folder.join("durable"),
            runtime: Arc::clone(&runtime),
            memory: options.memory.clone(),
            channels: channels.clone(),
            codec: Codec::new(),
            prepare: Arc::new(skep_engine::functions::register),
            config: DurableConfig::default(),
            clock: Arc::clone(&clock),
        })?;
        let lanes = Lanes::new(options.lanes, nodes, Some(options.url), channels, Codec::new());
        let mut routes = RoutesBuilder::default();
        routes.add_service(MembershipService::server(members.clone()));
        routes.add_service(NamespaceService::server(namespace_client));
        routes.add_service(DurableService::server(lanes.clone()));
        own_tasks.register(&mut routes);
        own_durable.register(&mut routes);
        let stop = CancellationToken::new();
        let serving = task::spawn(
            "serve nodes",
            skep_cluster::serve(options.listener, routes, options.secret, options.channel, stop.clone()),
        );
        let own_durable = own_durable.start()?;

        let partitions = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let environment = Environment {
            catalog,
            runtime,
            stores,
            memory: options.memory,
            shared_paths,
            locate,
            facts: Arc::default(),
            partitions,
        };
        let coordinator = Coordinator::new(skep_coordinator::Config {
            environment,
            lanes,
            members,
            groups: options.groups,
            blocks: Some(namespace.clone()),
        })?;
        // In a file of its own: whoever else writes to a catalog in a file would find it locked at every statement.
        let apart = match shared {
            true => None,
            false => {
                Some(MetaDb::open(folder.join("queries.sqlite"), skep_metadb::Options::default()).await?)
            }
        };
        coordinator.keep_history(&options.identity, &options.queries, apart.as_ref()).await?;
        let (identity, of_pipelines) = (&options.identity, options.pipelines);
        let pipelines =
            skep_pipeline::Pipelines::add_to(&coordinator, identity, of_pipelines, Arc::clone(&clock))
                .await?;
        let scheduling = if options.schedules { Some(pipelines.schedule()?) } else { None };
        let keeper = Keeper::new(namespace, peers, clock).start();
        let maintenance = coordinator.maintain(options.maintenance);
        Ok(Self {
            coordinator,
            store: skep_store,
            held,
            scheduling,
            stop,
            serving,
            _keeper: keeper,
            _beside: beside,
            _maintenance: maintenance,
            _durable: own_durable,
        })
    }

    /// The replicated store.
    pub(crate) fn store(&self) -> &SkepStore {
        &self.store
    }

    pub(crate) fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Cancelled when another coordinator took over.
    pub(crate) fn lost(&self) -> CancellationToken {
        self.held.as_ref().map(|held| held.lost().clone()).unwrap_or_default()
    }

    /// Stops serving other nodes.
    pub(crate) async fn stop(self) {
        if let Some(scheduling) = self.scheduling {
            scheduling.stop().await;
        }
        self.coordinator.close().await;
        self.stop.cancel();
        // It ends by itself now; how is of no use to anyone.
        let _ = self.serving.join().await;
        if let Some(held) = self.held {
            held.release().await;
        }
    }
}

/// Opens the folders of workers on this machine as they join, so that what runs in the coordinator reads their blocks
/// without a network.
async fn read_beside(
    members: Members,
    here: skep_store::local::InProcess,
    remote: Arc<dyn Peers>,
    config: skep_store::Config,
) {
    let mut changes = members.changes();
    loop {
        for (node, folder) in members.folders() {
            if here.holds(&node) {
                continue;
            }
            match Disk::open_beside(&folder, &node) {
                Ok(disk) => here.insert(BlockServer::new(disk, Arc::clone(&remote), config.clone())),
                Err(error) => {
                    tracing::debug!(%node, error = error.report(), "its blocks are read over the network")
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The doors for people. Dropping them closes them.
pub(crate) struct Doors {
    pub(crate) flight: Url,
    pub(crate) http: Url,
    serving: [Task<Result<()>>; 2],
    stop: CancellationToken,
}

impl Doors {
    /// Opens Flight SQL and HTTP on addresses that are bound already.
    pub(crate) fn open(
        coordinator: &Coordinator,
        settings: skep_server::flight::Config,
        flight: TcpListener,
        http: TcpListener,
    ) -> Result<Self> {
        settings.validate()?;
        let door = skep_server::flight::Door::new(coordinator.clone()).config(settings);
        let stop = CancellationToken::new();
        let (flight_url, http_url) = (url_of("grpc", &flight, None)?, url_of("http", &http, None)?);
        let serving = [
            task::spawn("serve flight", door.serve(flight, stop.clone().cancelled_owned())),
            task::spawn(
                "serve http",
                skep_server::http::serve(coordinator.clone(), http, stop.clone().cancelled_owned()),
            ),
        ];
        Ok(Self { flight: flight_url, http: http_url, serving, stop })
    }

    /// The line that says that statements are taken. `Url` ends addresses with a slash; the line does not.
    pub(crate) fn ready_line(&self) -> String {
        let bare = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        format!("ready flight={} http={}", bare(&self.flight), bare(&self.http))
    }

    /// What `skep sql --data` reads.
    /// `listen`: where nodes reach the coordinator.
    pub(crate) fn endpoint(&self, listen: &Url) -> Endpoint {
        let bare = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        let listen = Some(listen.clone());
        Endpoint { flight: bare(&self.flight), http: bare(&self.http), listen, pid: std::process::id() }
    }

    /// Closes the doors; statements under way get a moment to end.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        for task in self.serving {
            let _ = tokio::time::timeout(Duration::from_secs(1), task.join()).await;
        }
    }
}

/// `skep coordinator`
pub(crate) async fn coordinator(args: Role) -> Result<ExitCode> {
    let config = Config::read(&args.config)?;
    let own = &config.coordinator;
    let secret = config.secret(&[("[coordinator] listen", own.listen)])?;
    let (folder_path, url) = match Url::parse(&own.data) {
        Ok(url) if own.data.contains("://") => (None, Some(url)),
        _ => (Some(PathBuf::from(&own.data)), None),
    };
    let catalog = own.catalog.as_deref().map(str::parse::<Location>).transpose()?;
    let base = match (&folder_path, catalog.as_ref().and_then(Location::file)) {
        (Some(folder), _) => folder.clone(),
        (None, Some(catalog)) => match catalog.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        },
        (None, None) => PathBuf::from("skep-data"),
    };
    let folder = Folder::open(&base, folder_path.is_some().then_some(own.store), catalog)?;
    let data_path = match url {
        Some(url) => with_slash(url.as_str()),
        None => data_path(&folder)?,
    };
    let listener = bind("[coordinator] listen", own.listen).await?;
    let flight = bind("[coordinator] flight", own.flight).await?;
    let http = bind("[coordinator] http", own.http).await?;
    let url = reachable(&listener, own.advertise.as_deref())?;
    let node = CoordinatorNode::start(CoordinatorOptions {
        folder: folder.path().to_owned(),
        identity: folder.identity()?,
        catalog: folder.catalog(),
        data_path,
        listener,
        url: url.clone(),
        secret,
        channel: config.cluster.channel.clone(),
        membership: config.cluster.membership.clone(),
        shared_paths: own.shared_paths.clone(),
        memory: memory::of_process(own.memory, own.memory_limit)?,
        store: config.store.clone(),
        near: None,
        lanes: config.coordinator.lanes.clone(),
        maintenance: config.maintenance.clone(),
        queries: own.queries.clone(),
        groups: own.groups.clone(),
        pipelines: config.pipelines.clone(),
        schedules: true,
    })
    .await?;
    let doors = Doors::open(node.coordinator(), config.flight.clone(), flight, http)?;
    folder.publish(&doors.endpoint(&url))?;
    let mut stop = Stop::listen()?;
    println!("{} listen={}", doors.ready_line(), url.as_str().trim_end_matches('/'));
    let lost = node.lost();
    tokio::select! {
        () = stop.requested() => {}
        () = lost.cancelled() => return Err(standby::taken_over()),
    }
    doors.close().await;
    node.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// `skep worker`
pub(crate) async fn worker(args: Role) -> Result<ExitCode> {
    let config = Config::read(&args.config)?;
    let own = config.worker.clone();
    let secret = config.secret(&[("[worker] listen", own.listen)])?;
    let missing =
        |key: &str| Error::invalid(format!("[worker] {key} is missing in '{}'", args.config.display()));
    let coordinator = own.coordinator.ok_or_else(|| {
        missing("coordinator").hint("give the coordinator's listen address, such as http://127.0.0.1:8817")
    })?;
    let data = own.data.ok_or_else(|| missing("data").hint("give this worker a folder of its own"))?;
    let listener = bind("[worker] listen", own.listen).await?;
    let url = reachable(&listener, own.advertise.as_deref())?;
    let mut worker = Worker::start(worker_node::Config {
        data,
        node: None,
        zone: own.zone,
        listener,
        url: url.clone(),
        coordinator,
        secret,
        channel: config.cluster.channel,
        store: config.store,
        memory: memory::of_process(own.memory, own.memory_limit)?,
        join_timeout: JOIN_TIMEOUT,
        prepare: Arc::new(skep_engine::functions::register),
        durable: own.durable,
        clock: clock::system(),
    })
    .await?;
    let mut stop = Stop::listen()?;
    println!("ready worker={} listen={}", worker.node(), url.as_str().trim_end_matches('/'));
    tokio::select! {
        () = stop.requested() => {}
        ended = worker.ended() => return ended.map(|()| ExitCode::SUCCESS),
    }
    worker.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// The address other nodes use; one that means "any" must be named by `advertise`.
fn reachable(listener: &TcpListener, advertise: Option<&str>) -> Result<Url> {
    let address =
        listener.local_addr().map_err(|e| Error::internal("the listener has no address").source(e))?;
    if address.ip().is_unspecified() && advertise.is_none() {
        return Err(Error::invalid(format!("{address} does not say how other nodes reach this one"))
            .hint("set advertise to this machine's name or address"));
    }
    url_of("http", listener, advertise)
}

/// Where the tables of a folder keep their files, as the catalog names it.
pub(crate) fn data_path(folder: &Folder) -> Result<String> {
    match folder.store() {
        StoreKind::Skep => Ok(with_slash(skep_store::SKEP_URL)),
        StoreKind::File => {
            let files = folder.path().join("files");
            std::fs::create_dir_all(&files).map_err(|e| {
                Error::invalid(format!("cannot keep tables in '{}'", files.display())).source(e)
            })?;
            let text = files.to_str().ok_or_else(|| {
                Error::invalid(format!("'{}' is not UTF-8", files.display())).hint("take another data folder")
            })?;
            Ok(with_slash(text))
        }
    }
}

fn with_slash(text: &str) -> String {
    format!("{}/", text.trim_end_matches('/'))
}
