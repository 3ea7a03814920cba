//! The block store with workers as processes: the coordinator's part of it (namespace, members, keeper) is in the test's
//! process, where tests can look at it, and each worker is a `skep worker` that can be killed, paused, cut off and filled.
//!
//! ```text
//! test: Namespace, Members, Keeper, SkepStore  <--relays (`links`)-->  skep worker, skep worker, ...
//! ```
//!
//! # Not here
//! Whole clusters with tables (`process`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use skep_cluster::blocks::{NamespaceService, RemotePeers};
use skep_cluster::channel::serve;
use skep_cluster::membership::{Config as Membership, Members, MembershipService};
use skep_cluster::{ChannelConfig, Secret};
use skep_common::task::{self, Task};
use skep_common::{ByteSize, NodeId, Result, clock};
use skep_store::skep::Parts;
use skep_store::{Config, Keeper, Namespace, NamespaceClient, Nodes, Peers, SkepStore};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::links::{Links, Node};
use crate::process::{Output, Server, skep};

/// A coordinator of blocks, and workers.
#[derive(Debug)]
pub struct Blocks {
    /// Paths, blocks and nodes.
    pub namespace: Namespace,
    /// Who is alive.
    pub members: Members,
    /// Every pair of nodes can be cut.
    pub links: Links,
    workers: Vec<Worker>,
    config: Config,
    membership: Membership,
    peers: Arc<dyn Peers>,
    coordinator: SocketAddr,
    folder: tempfile::TempDir,
    _serving: Task<Result<()>>,
    _keeper: Task<()>,
}

#[derive(Debug)]
struct Worker {
    name: NodeId,
    zone: String,
    listen: SocketAddr,
    process: Option<Server>,
}

/// Small blocks and short waits.
pub fn hasty() -> Config {
    Config {
        block_size: ByteSize(64 << 10),
        checksum_chunk: ByteSize(4 << 10),
        message: ByteSize(16 << 10),
        reserve: ByteSize::mib(1),
        write_timeout: Duration::from_millis(1500),
        write_heartbeat: Duration::from_millis(300),
        read_timeout: Duration::from_secs(5),
        node_wait: Duration::from_secs(20),
        delete_grace: Duration::from_secs(1),
        keep_interval: Duration::from_millis(200),
        repair_delay: Duration::from_secs(1),
        repair_per_node: 4,
        ..Config::default()
    }
}

impl Blocks {
    /// Starts a coordinator, and a worker in each of `zones`.
    ///
    /// # Panics
    /// If one of them does not start.
    pub async fn start(config: Config, zones: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let membership =
            Membership { heartbeat: Duration::from_millis(200), dead_after: Duration::from_millis(1500) };
        let members = Members::new(membership.clone(), clock::system());
        let nodes: Arc<dyn Nodes> = Arc::new(members.clone());
        let database = folder.path().join("blocks.sqlite");
        let namespace = Namespace::open(database, config.clone(), nodes, clock::system())
            .await
            .expect("the namespace opens");
        let links = Links::default();
        let channel = ChannelConfig {
            source: Some(Node::Coordinator.source().into()),
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
            ..ChannelConfig::default()
        };
        let peers: Arc<dyn Peers> =
            Arc::new(RemotePeers::new(Secret::none(), channel.clone(), config.clone()));
        let listen = links.lead_to(Node::Coordinator).expect("a relay can listen");
        let listener = TcpListener::bind(listen).await.expect("the address is free");
        let client: Arc<dyn NamespaceClient> = Arc::new(namespace.clone());
        let mut routes = RoutesBuilder::default();
        routes.add_service(MembershipService::server(members.clone()));
        routes.add_service(NamespaceService::server(client));
        let stop = CancellationToken::new();
        let serving = task::spawn("serve nodes", serve(listener, routes, Secret::none(), channel, stop));
        let keeper = Keeper::new(namespace.clone(), Arc::clone(&peers), clock::system()).start();
        let mut blocks = Self {
            namespace,
            members,
            links,
            workers: Vec::new(),
            config,
            membership,
            peers,
            coordinator: SocketAddr::new(Node::Coordinator.advertise().into(), listen.port()),
            folder,
            _serving: serving,
            _keeper: keeper,
        };
        for zone in zones {
            blocks.add(zone).await;
        }
        blocks
    }

    /// One more worker, which joins.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn add(&mut self, zone: &str) {
        let number = self.workers.len();
        let listen = self.links.lead_to(Node::Worker(number)).expect("a relay can listen");
        let (zone, name) = (zone.to_owned(), NodeId::new("unknown").expect("it is a name"));
        self.workers.push(Worker { name, zone, listen, process: None });
        self.restart(number).await;
    }

    /// Starts worker `number` on its folder.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self, number: usize) {
        let command = self.command(number);
        let started = tokio::task::spawn_blocking(move || Server::start_command(command)).await;
        let started: Result<Server, Output> = started.expect("starting does not panic");
        let server = started.unwrap_or_else(|output| panic!("worker {number} did not start: {output:?}"));
        self.workers[number].name = NodeId::new(server.address("worker")).expect("workers have names");
        self.workers[number].process = Some(server);
    }

    fn command(&self, number: usize) -> Command {
        let worker = &self.workers[number];
        let millis = |time: Duration| format!("\"{}ms\"", time.as_millis());
        let store = &self.config;
        let bytes = |size: ByteSize| format!("\"{}B\"", size.bytes());
        let mut text = format!(
            "[worker]\ncoordinator = \"http://{}\"\nlisten = \"{}\"\nadvertise = \"{}\"\ndata = {:?}\nzone = {:?}\n\
             memory = \"64MiB\"\n\
             [cluster.channel]\nsource = \"{}\"\nconnect_timeout = \"1s\"\nkeepalive_interval = \"2s\"\nkeepalive_timeout = \"2s\"\n\
             [store]\n",
            self.coordinator,
            worker.listen,
            Node::Worker(number).advertise(),
            self.folder(number),
            worker.zone,
            Node::Worker(number).source(),
        );
        for (key, value) in [
            ("block_size", bytes(store.block_size)),
            ("checksum_chunk", bytes(store.checksum_chunk)),
            ("message", bytes(store.message)),
            ("reserve", bytes(store.reserve)),
            ("write_timeout", millis(store.write_timeout)),
            ("write_heartbeat", millis(store.write_heartbeat)),
            ("read_timeout", millis(store.read_timeout)),
            ("scrub_interval", millis(store.scrub_interval)),
            ("scrub_rate", bytes(store.scrub_rate)),
        ] {
            text.push_str(&format!("{key} = {value}\n"));
        }
        if let Some(capacity) = store.capacity {
            text.push_str(&format!("capacity = {}\n", bytes(capacity)));
        }
        let config = self.folder.path().join(format!("worker-{number}.toml"));
        std::fs::write(&config, text).expect("the config can be written");
        let worker = skep(&["worker", "--config", &config.to_string_lossy()]);
        // A file that may not grow ends no process then: its disk can be filled.
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(worker.get_program());
        shell.args(worker.get_args()).stdin(Stdio::null());
        for (name, value) in worker.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }

    /// The folder of worker `number`.
    pub fn folder(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("worker-{number}"))
    }

    /// The id of worker `number`.
    pub fn name(&self, number: usize) -> NodeId {
        self.workers[number].name.clone()
    }

    /// Ends worker `number` as kill -9 does.
    pub fn kill(&mut self, number: usize) {
        if let Some(server) = self.workers[number].process.take() {
            server.kill();
        }
    }

    /// Sends a signal to worker `number`: `STOP`, `CONT`.
    ///
    /// # Panics
    /// If it is not running.
    pub fn signal(&self, number: usize, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid(number)]).status();
        assert!(sent.is_ok_and(|status| status.success()), "worker {number} gets no {signal}");
    }

    /// Lets worker `number` write no byte more to any file, or again as many as it likes.
    ///
    /// # Panics
    /// If `prlimit` of util-linux cannot do it.
    pub fn fill_disk(&self, number: usize, full: bool) {
        let limit = if full { "--fsize=0:unlimited" } else { "--fsize=unlimited" };
        let done = Command::new("prlimit").args(["--pid", &self.pid(number), limit]).status();
        assert!(done.is_ok_and(|status| status.success()), "prlimit cannot limit worker {number}");
    }

    fn pid(&self, number: usize) -> String {
        self.workers[number].process.as_ref().expect("the worker is running").pid().to_string()
    }

    /// How long a silent worker is taken for alive.
    pub fn dead_after(&self) -> Duration {
        self.membership.dead_after
    }

    /// A store without blocks of its own.
    ///
    /// # Panics
    /// If the settings are wrong.
    pub fn store(&self) -> SkepStore {
        let parts = Parts {
            namespace: Arc::new(self.namespace.clone()),
            peers: Arc::clone(&self.peers),
            own: None,
            zone: None,
            config: self.config.clone(),
            clock: clock::system(),
        };
        SkepStore::new(parts).expect("the settings are right")
    }
}
