//! The catalog against real databases and real files, and DuckDB as the judge of both.
#![allow(missing_docs, clippy::unwrap_used)]

mod commit;
mod lake;
mod open;
mod oracle;
mod types;
