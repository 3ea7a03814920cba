//! The replicated store over gRPC on loopback.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use parking_lot::Mutex;
use skep_cluster::blocks::{NamespaceService, RemoteNamespace, RemotePeers};
use skep_cluster::{ChannelConfig, Secret};
use skep_common::{ByteSize, Kind, NodeId, clock};
use skep_store::probe::{Race, conditional_create};
use skep_store::skep::{Parts, skep_error};
use skep_store::{BlockServer, Config, Disk, Keeper, Namespace, NamespaceClient, NodeInfo, Nodes, SkepStore};
use skep_worker::Blocks;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::{InterceptorLayer, Routes};
use url::Url;

#[derive(Debug, Default)]
struct Live(Mutex<Vec<NodeInfo>>);

impl Nodes for Live {
    fn live(&self) -> Vec<NodeInfo> {
        self.0.lock().clone()
    }
}

struct Worker {
    blocks: Blocks,
    info: NodeInfo,
    process: Process,
}

/// A runtime of its own: when it ends, so do its connections, as those of a process that died.
struct Process(Option<Runtime>);

impl Process {
    fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Self(Some(builder.worker_threads(1).enable_all().build().unwrap()))
    }

    async fn serve(&self, secret: &Secret, routes: Routes) -> Url {
        let (bound, address) = tokio::sync::oneshot::channel();
        let check = InterceptorLayer::new(secret.check());
        self.0.as_ref().unwrap().spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let server = tonic::transport::Server::builder().layer(check).add_routes(routes);
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        format!("http://{}", address.await.unwrap()).parse().unwrap()
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Cluster {
    secret: Secret,
    config: Config,
    live: Arc<Live>,
    namespace: Namespace,
    coordinator: Url,
    workers: Vec<Worker>,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start(workers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            block_size: ByteSize(256 << 10),
            message: ByteSize(16 << 10),
            reserve: ByteSize::mib(1),
            write_timeout: Duration::from_secs(2),
            write_heartbeat: Duration::from_millis(100),
            read_timeout: Duration::from_secs(2),
            delete_grace: Duration::ZERO,
            repair_delay: Duration::ZERO,
            ..Config::default()
        };
        let secret = Secret::generate();
        let live = Arc::new(Live::default());
        let path = folder.path().join("blocks.sqlite");
        let namespace =
            Namespace::open(&path, config.clone(), Arc::clone(&live) as _, clock::system()).await.unwrap();
        let service = NamespaceService::server(Arc::new(namespace.clone()));
        let process = Process::start();
        let coordinator = process.serve(&secret, Routes::new(service)).await;
        let mut cluster = Self {
            secret,
            config,
            live,
            namespace,
            coordinator,
            workers: Vec::new(),
            _process: process,
            _folder: folder,
        };
        for i in 0..workers {
            cluster.join(&format!("w{i}")).await;
        }
        cluster
    }

    async fn join(&mut self, name: &str) {
        let folder = self._folder.path().join(name);
        let id = NodeId::new(name).unwrap();
        let disk = Disk::open(&folder, Some(id.clone()), 4096).unwrap();
        let free = disk.free().unwrap();
        let blocks = Blocks::new(BlockServer::new(disk, Arc::new(self.peers()), self.config.clone()));
        let process = Process::start();
        let url = process.serve(&self.secret, Routes::new(blocks.service())).await;
        let info = NodeInfo { id, zone: None, url, free };
        self.live.0.lock().push(info.clone());
        blocks.report(&self.remote()).await.unwrap();
        self.workers.push(Worker { blocks, info, process });
    }

    fn peers(&self) -> RemotePeers {
        RemotePeers::new(self.secret.clone(), ChannelConfig::default(), self.config.clone())
    }

    fn remote(&self) -> RemoteNamespace {
        self.remote_with(&self.secret)
    }

    fn remote_with(&self, secret: &Secret) -> RemoteNamespace {
        let (channel, timeout) = (ChannelConfig::default(), self.config.namespace_timeout);
        RemoteNamespace::new(&self.coordinator, secret, &channel, timeout).unwrap()
    }

    fn store(&self, own: Option<usize>) -> SkepStore {
        SkepStore::new(Parts {
            namespace: Arc::new(self.remote()),
            peers: Arc::new(self.peers()),
            own: own.map(|i| self.workers[i].blocks.server().clone()),
            zone: None,
            config: self.config.clone(),
            clock: clock::system(),
        })
        .unwrap()
    }

    /// The process is gone; whether the coordinator knows is the caller's choice.
    fn kill(&mut self, i: usize) {
        self.workers[i].process.kill();
    }

    fn forget(&self, i: usize) {
        self.live.0.lock().retain(|info| info.id != self.workers[i].info.id);
    }

    async fn replicas(&self, path: &Path) -> Vec<usize> {
        let map = self.namespace.lookup(&[path.to_string()]).await.unwrap().remove(0).unwrap();
        map.blocks.iter().map(|block| block.replicas.len()).collect()
    }
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|i| (i / 251 + i * 7) as u8).collect::<Vec<u8>>().into()
}

async fn read(store: &SkepStore, path: &Path) -> Bytes {
    store.get(path).await.unwrap().bytes().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_travel_over_grpc() {
    let cluster = Cluster::start(3).await;
    let (path, data) = (Path::from("t/x.parquet"), bytes(700_000));
    for own in [None, Some(1)] {
        let store = cluster.store(own);
        store.put(&path, data.clone().into()).await.unwrap();
        assert_eq!(cluster.replicas(&path).await, [3, 3, 3]);
        assert_eq!(read(&store, &path).await, data);
        assert_eq!(read(&cluster.store(Some(2)), &path).await, data);
        let ranges = store.get_ranges(&path, &[0..5, 262_140..262_150, 699_999..700_000]).await.unwrap();
        assert_eq!(ranges[1], data.slice(262_140..262_150));
    }
    let store = cluster.store(None);
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let again = store.put_opts(&path, "x".into(), create).await;
    assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
    let shared: Arc<dyn ObjectStore> = Arc::new(store.clone());
    conditional_create(&shared, &Path::from("probe"), Race { writers: 8, keys: 2 }).await.unwrap();

    store.copy(&path, &Path::from("t/y")).await.unwrap();
    store.rename(&path, &Path::from("u/z")).await.unwrap();
    let listed = store.list_with_delimiter(Some(&Path::from("t"))).await.unwrap();
    assert_eq!(listed.objects.len(), 1);
    let root = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(root.common_prefixes, [Path::from("t"), Path::from("u")]);
    assert_eq!(store.locations(&[Path::from("u/z")]).await.unwrap()[0].len(), 3);
    store.delete(&Path::from("u/z")).await.unwrap();
    let error = store.get(&Path::from("u/z")).await.unwrap_err();
    assert_eq!(skep_error(&error).unwrap().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_worker_is_passed_over_by_readers_and_writers() {
    let mut cluster = Cluster::start(4).await;
    let (path, data) = (Path::from("x"), bytes(700_000));
    let store = cluster.store(None);
    store.put(&path, data.clone().into()).await.unwrap();
    let mut upload = store.put_multipart(&Path::from("y")).await.unwrap();
    upload.put_part(PutPayload::from(data.slice(..100_000))).await.unwrap();
    let mut pieces = store.get(&path).await.unwrap().into_stream();
    let mut got = futures::StreamExt::next(&mut pieces).await.unwrap().unwrap().to_vec();

    cluster.kill(0);
    while let Some(piece) = futures::StreamExt::next(&mut pieces).await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(got, data);
    assert_eq!(read(&cluster.store(Some(1)), &path).await, data);
    upload.put_part(PutPayload::from(data.slice(100_000..))).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(read(&store, &Path::from("y")).await, data);

    // The coordinator notices too, and the keeper restores the count.
    cluster.forget(0);
    let mut keeper = Keeper::new(cluster.namespace.clone(), Arc::new(cluster.peers()), clock::system());
    keeper.round().await.unwrap();
    assert_eq!(cluster.replicas(&path).await, [3, 3, 3]);
    assert_eq!(cluster.replicas(&Path::from("y")).await, [3, 3, 3]);
}

#[tokio::test]
async fn a_wrong_secret_opens_nothing() {
    let cluster = Cluster::start(1).await;
    for secret in [Secret::none(), Secret::generate()] {
        let namespace = cluster.remote_with(&secret);
        assert_eq!(namespace.list("", None, 1).await.unwrap_err().kind(), Kind::Denied);
        let peers = RemotePeers::new(secret, ChannelConfig::default(), cluster.config.clone());
        let peer = cluster.workers[0].info.peer();
        let error = skep_store::Peers::delete(&peers, &peer, &[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
    }
}
