//! The catalog against real databases and real files, and DuckDB as the judge of both.
#![allow(missing_docs, clippy::unwrap_used)]

mod commit;
// The helper alone: the rest of the testkit stands above this crate.
#[path = "../../../testkit/src/duckdb.rs"]
mod duckdb;
mod lake;
mod open;
mod oracle;
mod types;
