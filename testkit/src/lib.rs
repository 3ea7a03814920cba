//! What tests of the whole program share; development only.
//!
//! ```text
//! benchmark TPC-H and TPC-DS: how files are written, the comparison of engines on them
//! process   skep as processes: started, waited for, killed
//! client    a Flight SQL client that keeps errors typed
//! rows      batches as rows of text, to compare
//! links     connections between the processes of a cluster, cut and healed
//! duckdb    DuckDB as a subprocess: the judge
//! postgres  a PostgreSQL server of a test's own
//! s3, hdfs  services of S3, and a cluster of HDFS, of a test's own
//! slt       SQL test files, run against a server
//! tpch      TPC-H: data, queries
//! tpcds     TPC-DS: data, queries, and which DataFusion cannot plan
//! workers   workers on loopback in the test, and the lanes over them
//! ```
//!
//! # Not here
//! Assertions about one crate: they stand beside its code.

pub mod benchmark;
pub mod blocks;
pub mod client;
pub mod duckdb;
pub mod hdfs;
pub mod links;
pub mod postgres;
pub mod process;
pub mod rows;
pub mod s3;
mod service;
pub mod slt;
pub mod tpcds;
pub mod tpch;
pub mod workers;

use std::path::PathBuf;

/// The folder of the workspace, from cargo's variables or, for a program started by hand, from the current folder.
///
/// Asked at run time: with a target folder shared by several checkouts, the program may stem from another one.
pub fn root() -> PathBuf {
    let start = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let start = start.or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    let root = start.ancestors().find(|folder| folder.join("Cargo.lock").is_file());
    root.unwrap_or(&start).to_path_buf()
}

/// The folder `testdata`.
pub fn testdata() -> PathBuf {
    root().join("testdata")
}

/// Whether tests may take long, as `cargo xtask slow` lets them (`SKEP_SLOW`): more cases, more rows.
pub fn slow() -> bool {
    std::env::var_os("SKEP_SLOW").is_some()
}

/// Says on stderr that a test did not run, or panics where services are required.
///
/// # Panics
/// If `SKEP_REQUIRE_SERVICES` is set, as `cargo xtask services` does: there, what is missing is a failure.
pub fn skip(test: &str, missing: &str) {
    assert!(
        std::env::var_os("SKEP_REQUIRE_SERVICES").is_none(),
        "{test} needs {missing}, which 'cargo xtask services' provides"
    );
    eprintln!("skipped: {test} needs {missing}; 'cargo xtask services' provides it");
}
