//! The coordinator: parses, plans, places, admits, watches and commits.
//!
//! # Not here
//! Running tasks and holding blocks (`skep-worker`), protocols for clients (`skep-server`).

pub mod ingest;
pub mod lanes;
pub mod session;

pub use session::{
    Coordinator, Description, Done, Outcome, Rows, Session, StatementKind, TableFilter, TableInfo, TableKind,
};
