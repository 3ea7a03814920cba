//! Writes rows to Parquet files of a table, in as many places at once as the plan has partitions.
//!
//! ```text
//! input partitions --WriteExec--> files in the store
//!                        |
//!                        +--> report rows: one for each file, one completion for each partition
//!                                  |
//!                                  +--collect_report--> [NewFile] for the commit
//! ```
//!
//! The node stands on top of a plan and inside a stage: on one node it writes everything, in a stage of several tasks
//! every task writes its part. Nothing it writes is visible before a commit names the files.
//!
//! # Invariants
//! - File names are unique for each attempt: two attempts of one task never touch one file.
//! - No empty files. A file holds rows of one partition of the plan, and of one partition of the table. A writer has one
//!   file open: rows come sorted by the partitions of the table, and those of one partition come to one writer of a task.
//! - A partition reports exactly one completion, as its last row, after all its files are durable.
//! - A write cut short leaves no open upload, and removes the files of the partition it was in.
//!
//! # Not here
//! Committing (`skep-coordinator`), collecting files that no commit named.

mod exec;
mod file;
mod partition;
mod place;
mod report;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use skep_catalog::{Column, DataFile, PartitionKey, SortKey};
use skep_common::{ByteSize, Error, Result};

pub(crate) use exec::WriteCodec;
pub use exec::WriteExec;
pub(crate) use file::conform_array;
pub(crate) use partition::apply;
pub use place::{Spread, plan_write, scanned_bytes};
pub use report::{changed_rows, collect_report, report_schema, source_rows};

/// How column chunks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Zstandard at its fastest ordinary level.
    Zstd,
    /// Snappy.
    Snappy,
    /// Plain.
    None,
}

/// Where and how files are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriteTarget {
    /// The store, as a URL without a path, such as `file:///` or `skep://blocks`.
    store: String,
    /// The folder of the table in that store.
    directory: String,
    /// The table's columns; rows have them in this order.
    pub columns: Vec<Column>,
    /// A file that has this size is finished, and another begun.
    pub file_size: ByteSize,
    /// How column chunks are compressed.
    pub compression: Compression,
    /// A file holds rows of one partition; the rows come sorted by them.
    #[serde(default)]
    pub partitions: Vec<PartitionKey>,
    /// The order of rows inside a partition.
    #[serde(default)]
    pub sorting: Vec<SortKey>,
    /// Set for rows that come from other files of the table: behind its columns they have their row id, and whether the
    /// statement changed them, which is counted.
    pub moved: Option<Moved>,
    /// Set for rows that say as their last column, a text, where they come from: they are counted by it, and it is not
    /// written. Rows that are moved do not.
    #[serde(default)]
    pub sources: bool,
    /// Whether the different values of columns are counted.
    #[serde(default)]
    pub sketches: bool,
}

/// What happens to the ids of rows that are moved from file to file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moved {
    /// They are written.
    WithIds,
    /// There are none yet: the rows were added by the transaction that moves them.
    WithoutIds,
}

impl From<&DataFile> for Moved {
    /// How the rows of a file are moved to another. Every file that is committed, whose id is not below zero, has ids.
    fn from(file: &DataFile) -> Self {
        if file.moved || file.id >= 0 { Self::WithIds } else { Self::WithoutIds }
    }
}

/// Size of a table's files unless said otherwise: one block of the replicated store.
pub const FILE_SIZE: ByteSize = ByteSize::mib(128);

impl WriteTarget {
    /// Files of a table with `columns` under `directory` of `store`: zstd, [`FILE_SIZE`].
    pub fn new(store: &ObjectStoreUrl, directory: &Path, columns: Vec<Column>) -> Self {
        Self {
            store: store.as_str().to_owned(),
            directory: directory.to_string(),
            columns,
            file_size: FILE_SIZE,
            compression: Compression::Zstd,
            partitions: Vec::new(),
            sorting: Vec::new(),
            moved: None,
            sources: false,
            sketches: true,
        }
    }

    /// The store.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) for a target that travelled from another version.
    pub fn store(&self) -> Result<ObjectStoreUrl> {
        let parsed = ObjectStoreUrl::parse(&self.store);
        parsed.map_err(|e| Error::internal(format!("'{}' is not a store", self.store)).source(e))
    }

    /// The folder.
    pub fn directory(&self) -> Path {
        Path::from(self.directory.as_str())
    }

    /// The schema of the files.
    pub fn schema(&self) -> SchemaRef {
        let schema = skep_catalog::physical_schema(&self.columns);
        if self.moved != Some(Moved::WithIds) {
            return SchemaRef::new(schema);
        }
        let id = std::iter::once(std::sync::Arc::new(skep_catalog::row_id_field()));
        SchemaRef::new(Schema::new(schema.fields().iter().cloned().chain(id).collect::<Vec<_>>()))
    }
}

/// Which of how many tasks of its stage runs here: an extension of the session of a worker's task. Absent: the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskIdentity {
    /// From 0.
    pub index: usize,
    /// At least 1.
    pub count: usize,
}
