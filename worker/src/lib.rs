//! Runs tasks of both lanes and serves blocks.
//!
//! ```text
//! blocks     the folder of blocks: serving it, reporting it
//! tasks      plans of the pipelined lane: what a task's session knows, and the services to add to a server
//! node       one worker: folder, server, membership
//! exchange   the producing side of `skep_cluster::exchange`
//! durable    tasks of the durable lane: fetched, run into files, their outputs served
//! ```
//!
//! # Not here
//! Choosing what runs where (`skep-coordinator`), the protocols themselves (`skep-cluster`).

pub mod blocks;
mod disk;
pub mod durable;
mod exchange;
pub mod node;
pub mod tasks;
mod works;

pub use blocks::Blocks;
pub use durable::{Durable, DurableConfig};
pub use node::Worker;
pub use tasks::Tasks;
