//! Replicated blocks behind `object_store::ObjectStore`, and the registry of stores.
//!
//! ```text
//!                    SkepStore (ObjectStore)                       Stores: file://  skep://blocks  s3://  hdfs://
//!   paths, versions /                       \ bytes
//!   NamespaceClient                         Peers
//!          |                                  |
//!      Namespace                        BlockServer --chain--> BlockServer --chain--> BlockServer
//!   blocks.sqlite, placement              Disk                   Disk                   Disk
//!   (coordinator)                       (worker)               (worker)               (worker)
//! ```
//!
//! A *file* is a sequence of *blocks*; a block is an immutable run of bytes with *replicas* on several nodes. A file
//! becomes visible in one transaction of the namespace, when enough replicas of every block are durable.
//!
//! # Invariants
//! - A byte that is returned was checked against the checksum taken when it was written.
//! - A path that is visible names blocks that had `min_replicas` durable replicas when it appeared.
//! - Creating a path exclusively has one winner, whatever races.
//! - A block id is in the namespace before a byte of it is on a disk, so that nothing on a disk is ever unexplained.
//!
//! # Not here
//! Protocols between nodes (`skep_cluster::blocks` carries the two traits over gRPC), tables and snapshots
//! (`skep-catalog`).

pub mod block;
pub mod config;
pub mod disk;
pub mod durable;
pub mod keep;
pub mod local;
pub mod namespace;
pub mod near;
pub mod nodes;
pub mod other;
mod pipe;
pub mod placement;
pub mod probe;
pub mod remote;
pub mod scrub;
pub mod server;
pub mod skep;
pub mod stores;

pub use block::{BlockId, WriteId};
pub use config::Config;
pub use disk::Disk;
pub use durable::DurableFiles;
pub use keep::Keeper;
pub use namespace::Namespace;
pub use nodes::{NodeInfo, Nodes, Peer};
pub use other::CacheStats;
pub use remote::{NamespaceClient, Peers};
pub use scrub::Scrubber;
pub use server::BlockServer;
pub use skep::{Reader, SkepStore};
pub use stores::{SKEP_URL, Stores};
