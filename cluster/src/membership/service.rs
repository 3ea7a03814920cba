//! The coordinator's side: the live view, and the protocol that feeds it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use skep_common::clock::Clock;
use skep_common::{Error, NodeId, Result};
use skep_store::{CacheStats, NodeInfo, Nodes};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Config, State};
use crate::PROTOCOL_VERSION;
use crate::proto::membership::membership_server::{Membership, MembershipServer};
use crate::proto::membership::{
    CacheUse, HeartbeatReply, HeartbeatRequest, JoinReply, JoinRequest, LeaveReply, LeaveRequest, Work,
};

/// The workers that are alive. Cheap to clone; clones are one view.
#[derive(Debug, Clone)]
pub struct Members(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    config: Config,
    clock: Arc<dyn Clock>,
    /// The folders of workers on this machine.
    folders: Mutex<BTreeMap<NodeId, PathBuf>>,
    /// What the workers' caches did, as they said last.
    caches: Mutex<BTreeMap<NodeId, CacheStats>>,
    /// Counts joins and leaves, to wait on.
    changes: watch::Sender<u64>,
    /// Hears what workers do.
    workshop: OnceLock<Arc<dyn Workshop>>,
}

/// Hears what workers say of the statements that they work for.
pub trait Workshop: std::fmt::Debug + Send + Sync {
    /// `node` works for a statement.
    fn works(&self, node: &NodeId, work: &Work);
}

impl Members {
    /// Nobody yet.
    pub fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            config,
            clock,
            folders: Mutex::default(),
            caches: Mutex::default(),
            changes: watch::Sender::new(0),
            workshop: OnceLock::new(),
        }))
    }

    /// Every known worker, also silent ones, with the time since it was heard of.
    pub fn all(&self) -> Vec<(NodeInfo, std::time::Duration)> {
        self.0.state.lock().all(self.0.clock.instant())
    }

    /// From now on `workshop` hears what workers do. The first that comes stays.
    pub fn tell(&self, workshop: Arc<dyn Workshop>) {
        self.0.workshop.get_or_init(|| workshop);
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Ticks at every join and leave; a worker that dies in silence does not tick.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The block folders of workers that say they run on this machine.
    pub fn folders(&self) -> BTreeMap<NodeId, PathBuf> {
        self.0.folders.lock().clone()
    }

    /// What the caches of workers that read other stores did.
    pub fn caches(&self) -> BTreeMap<NodeId, CacheStats> {
        self.0.caches.lock().clone()
    }

    /// A worker joins, see [`State::join`]. Returns the proof for its later calls.
    ///
    /// # Errors
    /// As [`State::join`].
    pub fn join(&self, info: NodeInfo) -> Result<Uuid> {
        let incarnation = Uuid::new_v4();
        tracing::info!(node = %info.id, url = %info.url, zone = info.zone, "worker joins");
        self.0.state.lock().join(info, incarnation, self.0.clock.instant(), &self.0.config)?;
        self.0.changes.send_modify(|count| *count += 1);
        Ok(incarnation)
    }

    /// A worker is alive, see [`State::heartbeat`].
    ///
    /// # Errors
    /// As [`State::heartbeat`].
    pub fn heartbeat(&self, id: &NodeId, incarnation: Uuid, free: u64) -> Result<()> {
        self.0.state.lock().heartbeat(id, incarnation, free, self.0.clock.instant(), &self.0.config)
    }

    /// A worker stops.
    pub fn leave(&self, id: &NodeId, incarnation: Uuid) {
        if self.0.state.lock().leave(id, incarnation) {
            self.0.caches.lock().remove(id);
            tracing::info!(node = %id, "worker leaves");
            self.0.changes.send_modify(|count| *count += 1);
        }
    }

    /// Waits until at least `count` workers are alive.
    pub async fn wait_for(&self, count: usize) {
        let mut changes = self.changes();
        while self.live().len() < count {
            // The sender lives in `self`, so this ends only with a change.
            let _ = changes.changed().await;
        }
    }
}

impl Nodes for Members {
    fn live(&self) -> Vec<NodeInfo> {
        self.0.state.lock().live(self.0.clock.instant(), &self.0.config)
    }
}

/// Serves [`Members`] to workers.
#[derive(Debug, Clone)]
pub struct MembershipService(Members);

impl MembershipService {
    /// The tonic service over `members`.
    pub fn server(members: Members) -> MembershipServer<Self> {
        MembershipServer::new(Self(members))
    }
}

impl From<CacheStats> for CacheUse {
    fn from(stats: CacheStats) -> Self {
        let CacheStats { hits, misses, hit_bytes, miss_bytes, failures } = stats;
        Self { hits, misses, hit_bytes, miss_bytes, failures }
    }
}

impl From<CacheUse> for CacheStats {
    fn from(used: CacheUse) -> Self {
        let CacheUse { hits, misses, hit_bytes, miss_bytes, failures } = used;
        Self { hits, misses, hit_bytes, miss_bytes, failures }
    }
}

fn incarnation(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text).map_err(|e| Error::invalid(format!("'{text}' is not an incarnation")).source(e))
}

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn join(&self, request: Request<JoinRequest>) -> std::result::Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        if request.protocol != PROTOCOL_VERSION {
            return Err(Error::invalid(format!(
                "worker '{}' of version {} speaks protocol {}, this coordinator {PROTOCOL_VERSION}",
                request.node, request.version, request.protocol
            ))
            .hint("run the same version of skep on every node")
            .to_status());
        }
        let url = request.url.parse().map_err(|e| {
            Error::invalid(format!("worker '{}' gives the address '{}'", request.node, request.url)).source(e)
        });
        let info = NodeInfo {
            id: NodeId::new(request.node.clone())?,
            zone: request.zone,
            url: url?,
            free: request.free_bytes,
        };
        let near = request.host.is_some() && request.host == super::host() && !request.folder.is_empty();
        let id = info.id.clone();
        if near {
            self.0.0.folders.lock().insert(id, PathBuf::from(request.folder));
        } else {
            self.0.0.folders.lock().remove(&id);
        }
        let incarnation = self.0.join(info)?.to_string();
        let heartbeat_ms = u64::try_from(self.0.config().heartbeat.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(JoinReply { incarnation, heartbeat_ms }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> std::result::Result<Response<HeartbeatReply>, Status> {
        let request = request.into_inner();
        let id = NodeId::new(request.node)?;
        self.0.heartbeat(&id, incarnation(&request.incarnation)?, request.free_bytes)?;
        if let Some(used) = request.cache {
            self.0.0.caches.lock().insert(id.clone(), used.into());
        }
        if let Some(workshop) = self.0.0.workshop.get() {
            for work in &request.work {
                workshop.works(&id, work);
            }
        }
        Ok(Response::new(HeartbeatReply {}))
    }

    async fn leave(
        &self,
        request: Request<LeaveRequest>,
    ) -> std::result::Result<Response<LeaveReply>, Status> {
        let request = request.into_inner();
        self.0.leave(&NodeId::new(request.node)?, incarnation(&request.incarnation)?);
        Ok(Response::new(LeaveReply {}))
    }
}
