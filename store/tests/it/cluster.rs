//! Three nodes of one process over temporary folders, and a network between them that can be told to fail.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use skep_common::{ByteSize, Error, NodeId, Result, clock};
use skep_store::local::InProcess;
use skep_store::remote::{BlockStream, WriteHeader, WriteReport};
use skep_store::skep::Parts;
use skep_store::{
    BlockId, BlockServer, Config, Disk, Keeper, Namespace, NodeInfo, Nodes, Peer, Peers, SkepStore,
};

/// How a node misbehaves towards others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It cannot be reached.
    Down,
    /// Connections to it break after so many bytes.
    BreaksAfter(usize),
    /// It takes connections and then neither takes nor sends bytes.
    Hangs,
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    nodes: InProcess,
    faults: Mutex<BTreeMap<NodeId, Fault>>,
    infos: Mutex<BTreeMap<NodeId, NodeInfo>>,
}

impl Network {
    pub(crate) fn set(&self, node: &NodeId, fault: Option<Fault>) {
        match fault {
            Some(fault) => self.faults.lock().insert(node.clone(), fault),
            None => self.faults.lock().remove(node),
        };
    }

    fn fault(&self, node: &NodeId) -> Result<Option<Fault>> {
        match self.faults.lock().get(node) {
            Some(Fault::Down) => Err(Error::unavailable(format!("{node} is down"))),
            fault => Ok(fault.copied()),
        }
    }
}

impl Nodes for Network {
    fn live(&self) -> Vec<NodeInfo> {
        self.infos.lock().values().cloned().collect()
    }
}

/// `data` until the fault strikes.
fn disturb(data: BlockStream, fault: Option<Fault>, node: NodeId) -> BlockStream {
    match fault {
        None | Some(Fault::Down) => data,
        Some(Fault::Hangs) => futures::stream::pending().boxed(),
        Some(Fault::BreaksAfter(limit)) => {
            let mut passed = 0;
            data.map(move |item| {
                let bytes: Bytes = item?;
                passed += bytes.len();
                if passed > limit {
                    return Err(Error::unavailable(format!("{node} broke off")));
                }
                Ok(bytes)
            })
            .boxed()
        }
    }
}

#[async_trait]
impl Peers for Network {
    async fn write(&self, to: &Peer, header: WriteHeader, data: BlockStream) -> Result<WriteReport> {
        let fault = self.fault(&to.id)?;
        self.nodes.write(to, header, disturb(data, fault, to.id.clone())).await
    }

    async fn read(&self, from: &Peer, block: BlockId, range: Range<u64>) -> Result<BlockStream> {
        let fault = self.fault(&from.id)?;
        Ok(disturb(self.nodes.read(from, block, range).await?, fault, from.id.clone()))
    }

    async fn delete(&self, at: &Peer, blocks: &[BlockId]) -> Result<()> {
        self.fault(&at.id)?;
        self.nodes.delete(at, blocks).await
    }

    async fn replicate(&self, at: &Peer, block: BlockId, targets: &[Peer]) -> Result<WriteReport> {
        self.fault(&at.id)?;
        self.nodes.replicate(at, block, targets).await
    }
}

pub(crate) struct Cluster {
    pub(crate) network: Arc<Network>,
    pub(crate) namespace: Namespace,
    pub(crate) servers: Vec<BlockServer>,
    pub(crate) config: Config,
    pub(crate) folder: tempfile::TempDir,
}

/// Small blocks and short waits.
pub(crate) fn config() -> Config {
    Config {
        block_size: ByteSize(256 << 10),
        checksum_chunk: ByteSize(4 << 10),
        message: ByteSize(16 << 10),
        reserve: ByteSize(1 << 20),
        write_timeout: Duration::from_millis(400),
        write_heartbeat: Duration::from_millis(50),
        read_timeout: Duration::from_millis(400),
        node_wait: Duration::from_millis(400),
        delete_grace: Duration::ZERO,
        repair_delay: Duration::ZERO,
        ..Config::default()
    }
}

pub(crate) fn bytes(length: usize) -> Bytes {
    (0..length).map(|i| (i / 251 + i * 7) as u8).collect::<Vec<u8>>().into()
}

/// A schema of the server that `SKEP_POSTGRES` names, or else a file.
fn location(folder: &std::path::Path) -> skep_metadb::Location {
    let Ok(server) = std::env::var("SKEP_POSTGRES") else { return folder.join("blocks.sqlite").into() };
    let name = folder.file_name().unwrap().to_string_lossy().replace('.', "skep_").to_lowercase();
    format!("{server}?options=-csearch_path%3D{name}").parse().unwrap()
}

impl Cluster {
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::at(tempfile::tempdir().unwrap(), nodes, config()).await
    }

    pub(crate) async fn at(folder: tempfile::TempDir, nodes: usize, config: Config) -> Self {
        let network = Arc::new(Network::default());
        let path = location(folder.path());
        let namespace =
            Namespace::open(path, config.clone(), Arc::clone(&network) as _, clock::system()).await.unwrap();
        let mut cluster = Self { network, namespace, servers: Vec::new(), config, folder };
        for i in 0..nodes {
            cluster.join(&format!("n{i}")).await;
        }
        cluster
    }

    pub(crate) async fn join(&mut self, name: &str) {
        let id = NodeId::new(name).unwrap();
        let disk = Disk::open(&self.folder.path().join(name), Some(id.clone()), 4096).unwrap();
        let free = disk.free().unwrap();
        let server = BlockServer::new(disk, Arc::clone(&self.network) as _, self.config.clone());
        self.network.nodes.insert(server.clone());
        let info = NodeInfo { id: id.clone(), zone: None, url: "http://127.0.0.1:1".parse().unwrap(), free };
        self.network.infos.lock().insert(id, info);
        server.report(&self.namespace).await.unwrap();
        self.servers.push(server);
    }

    /// A store on node `own`, or on a node without blocks.
    pub(crate) fn store(&self, own: Option<usize>) -> SkepStore {
        SkepStore::new(Parts {
            namespace: Arc::new(self.namespace.clone()),
            peers: Arc::clone(&self.network) as _,
            own: own.map(|i| self.servers[i].clone()),
            zone: None,
            config: self.config.clone(),
            clock: clock::system(),
        })
        .unwrap()
    }

    pub(crate) fn node(&self, i: usize) -> NodeId {
        self.servers[i].node().clone()
    }

    /// The node can no longer be reached and the coordinator knows.
    pub(crate) fn kill(&self, i: usize) {
        self.network.set(&self.node(i), Some(Fault::Down));
        self.network.infos.lock().remove(&self.node(i));
    }

    /// The node is alive again and has reported.
    pub(crate) async fn revive(&mut self, i: usize) {
        let (id, server) = (self.node(i), self.servers[i].clone());
        let free = server.disk().free().unwrap();
        let info = NodeInfo { id: id.clone(), zone: None, url: "http://127.0.0.1:1".parse().unwrap(), free };
        self.network.infos.lock().insert(id, info);
        server.report(&self.namespace).await.unwrap();
    }

    pub(crate) fn keeper(&self) -> Keeper {
        Keeper::new(self.namespace.clone(), Arc::clone(&self.network) as _, clock::system())
    }

    /// Ends every node and gives the folder back.
    pub(crate) fn stop(self) -> tempfile::TempDir {
        for server in &self.servers {
            self.network.nodes.remove(server.node());
        }
        self.folder
    }

    /// The blocks of a node's disk and where their bytes are.
    pub(crate) fn blocks(&self, i: usize) -> Vec<(BlockId, std::path::PathBuf)> {
        let disk = self.servers[i].disk();
        disk.inventory().unwrap().blocks.iter().map(|block| (block.id, disk.block_path(block.id))).collect()
    }
}

pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// Waits until `done`, and fails after 10 s.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "timed out: {what}");
        tokio::task::yield_now().await;
    }
}
