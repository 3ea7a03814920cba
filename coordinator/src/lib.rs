//! The coordinator: parses, plans, places, admits, watches and commits.
//!
//! # Not here
//! Running tasks and holding blocks (`skep-worker`), protocols for clients (`skep-server`).

pub mod admission;
mod blocks;
mod commit;
mod coordinator;
mod deadline;
pub mod extension;
mod filled;
pub mod ingest;
pub mod lanes;
pub mod maintenance;
mod metrics;
pub mod queries;
pub mod session;
mod staged;
mod statement;
mod system;
mod tables;
mod transaction;

pub use coordinator::{Config, Coordinator, StoreLocator};
pub use session::{
    Description, Done, Outcome, Progress, Rows, Session, StatementKind, TableFilter, TableInfo, TableKind,
};
pub use transaction::Beside;
pub use transaction::refused;
