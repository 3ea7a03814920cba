//! From SQL and a catalog snapshot to plans that are valid on one node; our plan nodes and their codecs.
//!
//! ```text
//! text --sql::parse--> Statement --Planner--> LogicalPlan --state()--> ExecutionPlan
//!                                  (one snapshot)      (per lane; the same rows)
//! ```
//!
//! # Invariants
//! - Every plan that leaves this crate runs on one node, and returns there the rows it returns anywhere.
//! - A statement reads one catalog snapshot, pinned when its [`Planner`] is made.
//! - Leaves of plans are `DataSourceExec`, which is what the distributed lanes can split.
//!
//! # Not here
//! Choosing lanes and workers, running plans, committing (`skep-coordinator`).

pub mod boundary;
pub mod codec;
pub mod environment;
pub mod error;
pub mod explain;
pub mod files;
pub mod functions;
pub mod guard;
pub mod known;
pub mod memory;
pub mod names;
mod order;
pub mod placement;
pub mod planner;
pub mod progress;
mod provider;
pub mod runtime;
pub mod scan;
pub mod settings;
pub mod show;
pub mod sql;
pub mod table;
pub mod text;
pub mod types;
pub mod write;
pub mod yielding;

pub use environment::{Environment, Locate, Nowhere};
pub use placement::{OnCoordinator, Replicas};
pub use planner::{Edit, NewTable, Planner, ViewSpec, WriteInput, parameters};
pub use scan::{FactsCache, Reports, ScanReport};
pub use settings::{Execution, SettingInfo, Settings};
pub use sql::{Parsed, Statement, parse, parse_one};
