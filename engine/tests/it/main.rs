//! SQL over a catalog and Parquet files in a folder of their own, run in this process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by failing")]

mod edit;
mod errors;
mod external;
mod fixture;
mod meta;
mod scan;
mod spill;
mod travel;
mod write;
