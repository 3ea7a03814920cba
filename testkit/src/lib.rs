//! What tests of the whole program share; development only.
//!
//! ```text
//! process   skep as processes: started, waited for, killed
//! client    a Flight SQL client that keeps errors typed
//! rows      batches as rows of text, to compare
//! duckdb    DuckDB as a subprocess: the judge
//! slt       SQL test files, run against a server
//! tpch      TPC-H: data, queries, comparison of engines
//! workers   workers on loopback in the test, and the lanes over them
//! ```
//!
//! # Not here
//! Assertions about one crate: they stand beside its code.

pub mod client;
pub mod duckdb;
pub mod process;
pub mod rows;
pub mod slt;
pub mod tpch;
pub mod workers;

use std::path::{Path, PathBuf};

/// The folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The folder `testdata`.
pub fn testdata() -> PathBuf {
    root().join("testdata")
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
