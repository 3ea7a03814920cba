//! From files that a filter may match to the leaf of a plan.
//!
//! ```text
//! files of a table --keep(filters)--> files that may match --groups--> DataSourceExec <- ProjectionExec (names)
//!                        |
//!                  ScanReport, for EXPLAIN
//! ```
//!
//! A statement that changes rows reads its table by a scan of its own, see [`rows`]; so does every statement where rows of
//! files are [hidden].
//!
//! # Invariants
//! - A file is left out only if its statistics prove that no row of it matches.
//! - The statistics of a scan are those of the files it keeps; what is a bound and not a value is `Inexact`.

mod asked;
mod bounds;
mod by_name;
mod changed;
mod derive;
mod facts;
mod groups;
mod hidden;
mod keep;
mod layout;
mod report;
mod rows;
mod target;
mod whole;

pub(crate) use asked::ask;
pub(crate) use bounds::Bounds;
pub(crate) use by_name::{decode as decode_scan, encode as encode_scan, scan_by_name};
pub(crate) use changed::ChangedTable;
pub use facts::FactsCache;
pub(crate) use groups::groups;
pub(crate) use keep::{FileFacts, keep};
pub(crate) use layout::Layout;
pub(crate) use report::Fresh;
pub use report::{Reports, ScanReport};
pub(crate) use rows::{FILE, POSITION, ROW_ID, RowsCodec, STAMP};
pub(crate) use target::{TargetTable, numbered};
