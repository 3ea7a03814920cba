//! The catalog against real databases and real files, and DuckDB as the judge of both.
#![allow(missing_docs, clippy::unwrap_used)]

mod bounds;
mod commit;
mod definition;
// The helper alone: the rest of the testkit stands above this crate.
#[path = "../../../testkit/src/duckdb.rs"]
#[allow(unreachable_pub, dead_code)]
mod duckdb;
mod duckdb_catalog;
mod duckdb_judges;
mod expire;
mod lake;
mod model;
mod open;
mod transaction;
mod types;
