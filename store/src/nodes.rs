//! What the store knows of the nodes that hold blocks.

use serde::{Deserialize, Serialize};
use skep_common::NodeId;
use url::Url;

/// A node that takes and serves blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// Its failure domain (rack, data centre), if the operator named one.
    pub zone: Option<String>,
    /// Where it listens.
    pub url: Url,
    /// Bytes free for blocks.
    pub free: u64,
}

impl NodeInfo {
    /// How others reach it.
    pub fn peer(&self) -> Peer {
        Peer { id: self.id.clone(), zone: self.zone.clone(), url: self.url.clone() }
    }
}

/// The nodes that are alive, as the coordinator sees them.
pub trait Nodes: std::fmt::Debug + Send + Sync {
    /// The live nodes, sorted by id. Cheap: a copy of state in memory.
    fn live(&self) -> Vec<NodeInfo>;
}

/// Where to reach a node for its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Where it listens.
    pub url: Url,
}
