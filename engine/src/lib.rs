//! From SQL and a catalog snapshot to plans that are valid on one node; our plan nodes and their codecs.
//!
//! ```text
//! text --sql::parse--> Statement --Planner--> LogicalPlan --lane::physical--> ExecutionPlan
//!                                  (one snapshot)            (per lane; the same rows)
//! ```
//!
//! # Invariants
//! - Every plan that leaves this crate runs on one node, and returns there the rows it returns anywhere.
//! - A statement reads one catalog snapshot, pinned when its [`Planner`] is made.
//! - Leaves of plans are `DataSourceExec`, which is what the distributed lanes can split.
//!
//! # Not here
//! Choosing lanes and workers, running plans, committing (`skep-coordinator`).

pub mod codec;
pub mod guard;
pub mod names;
pub mod placement;
pub mod sql;
pub mod write;

pub use placement::{OnCoordinator, Replicas};
pub use sql::{Parsed, Statement, parse, parse_one};
