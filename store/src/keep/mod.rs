//! Keeps every block at its number of replicas, nodes evenly full, and the disks free of what nobody needs.
//!
//! ```text
//! Namespace --nodes, blocks--> State (pure) --commands--> Keeper --> nodes copy and delete --> Namespace records it
//! ```
//!
//! # Guarantees
//! - A good replica is discarded only while at least as many as wanted are on other live nodes, each of which has said what it
//!   holds since it was last away.
//! - Blocks with the fewest replicas are copied first; they do not wait for moves.
//! - A move is a copy first: the replica it leaves behind goes when the copy is durable and recorded.
//! - No copy takes a node below `reserve`, what is on its way to it counted.
//! - What a node brings back is counted again, and not copied again.
//!
//! # Not here
//! Finding damage on disks (`scrub`), choosing nodes (`placement`).

mod nodes;
#[cfg(test)]
mod scripts;
mod service;
#[cfg(test)]
mod simulation;
mod state;

pub use nodes::{NodeState, Orders, Status, Watch};
pub use service::{Keeper, Round};
pub use state::{Activity, BlockState, Command, Copy, Limits, Reason, State, View};
