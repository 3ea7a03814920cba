//! Hints about where a file may or should be read. They ride on the files of a scan (`PartitionedFile::extensions`), on
//! the coordinator only: plans that travel do not carry them.

use skep_common::NodeId;

/// The nodes that hold a file, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas(pub Vec<NodeId>);

/// A file that only the coordinator's node can read, such as one of its own disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnCoordinator;
