//! DuckLake 1.0 in a SQL database: names, columns, snapshots, files, statistics, transactions.
//!
//! ```text
//!               Catalog::open
//!                    |
//!   snapshot() --> Snapshot --files()--> [DataFile]        read: pinned, cached, shared
//!                    |
//!                begin(base) --apply(Changes)--> Transaction --commit--> next Snapshot
//!                                 ^                  |           (one database transaction, or nothing)
//!                                 +--- snapshot() <--+           what its own statements read
//! ```
//!
//! The tables are those of the DuckLake specification, so that DuckDB can attach the same database; rows of our own are
//! in `skep_*` tables beside them and change in the same transaction.
//!
//! # Invariants
//! - A snapshot never changes. Every commit makes exactly one more, over any number of tables.
//! - A commit lands whole or not at all, and once for its key however often it is retried.
//! - Every leaf column of every file has a row of statistics, and the bounds of a table cover those of its files: other
//!   engines skip files and choose types by them.
//! - Conflicts are decided by the changes that other commits made since the base, see [`conflict`].
//!
//! # Never here
//! Delete files and inlined data are not written; tables with inlined data are refused. Files are not opened; nothing is
//! planned or executed.
//!
//! # Source
//! The DuckLake specification, version 1.0, <https://ducklake.select/docs/stable/specification/introduction>.

mod alter;
mod append;
mod calendar;
mod catalog;
pub mod changes;
mod check;
mod column;
mod commit;
pub mod conflict;
mod ddl;
mod expire;
mod files;
mod footer;
mod history;
mod layout;
mod load;
mod loads;
mod model;
mod overlay;
mod plan;
mod properties;
mod save;
mod sketch;
mod steps;
pub mod text;
mod transaction;
mod types;
mod unchanged;
mod widen;
mod write;

pub use catalog::{Catalog, Head, OpenOptions};
pub use column::{
    Column, ELEMENT, KEY, ROW_ID_COLUMN, SNAPSHOT_COLUMN, VALUE, columns_from_arrow, leaves, logical_schema,
    next_column_id, physical_schema, read_schema, row_id_field,
};
pub use expire::{Expired, Retention, ScheduledFile};
pub use footer::{Nans, footer_size, nan_columns, stats_from_parquet, without_bounds};
pub use history::{FileShape, SnapshotInfo, Tag};
pub use layout::{BUCKETS_MAX, Check, PartitionKey, Partitioning, SortKey, Transform};
pub use loads::{FileVersion, ForgetLoads, LedgerEntry, Load, RecordLoads};
pub use model::{
    ColumnStats, DIALECT, DataFile, DeleteFile, External, FILE_PREFIX, NewFile, SchemaDef, Snapshot,
    TableDef, ViewDef,
};
pub use overlay::stands_alone;
pub use save::Saved;
pub use sketch::{ColumnSketch, Distinct, RecordSketches, Sketch};
pub use steps::Step;
pub use transaction::{Change, CommitInfo, Committed, SideEffect, Transaction};
pub use types::{LakeType, UTC};
pub use unchanged::Unchanged;
