//! Replicated blocks behind `object_store::ObjectStore`, and the registry of stores.

pub mod nodes;

pub use nodes::{NodeInfo, Nodes};
