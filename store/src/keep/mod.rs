//! Keeps every block at its number of replicas, and the disks free of what nobody needs.
//!
//! ```text
//! Namespace --state--> plan (pure) --commands--> Keeper --> nodes copy and delete --> Namespace records it
//! ```
//!
//! # Guarantees
//! - A replica is discarded only while at least as many good ones as wanted are on other live nodes.
//! - Blocks with the fewest good replicas are copied first.
//!
//! # Not here
//! Moving blocks for balance, draining nodes, scrubbing.

mod service;
mod state;

pub use service::{Keeper, Round};
pub use state::{BlockState, Command, plan};
