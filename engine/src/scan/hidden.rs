//! Rows of files that are not there: another engine deleted them, or added them after the snapshot that is read.
//!
//! ```text
//! catalog: delete file, snapshots  --Hidden::of-->  Hidden, which travels with the scan  --Absent::read-->  positions
//! ```
//!
//! What is hidden is decided where the file is read: planning opens no delete file.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanBufferBuilder, Int64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message;
use skep_catalog::{DataFile, SNAPSHOT_COLUMN};
use skep_common::{Error, Result};

use crate::error;
use crate::table::SkepTable;

/// The column of a delete file with the positions of rows, from 0.
const POSITIONS: &str = "pos";

/// What is hidden of the files of one scan.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hidden {
    #[prost(string, tag = "1")]
    store: String,
    #[prost(message, repeated, tag = "2")]
    files: Vec<HiddenRows>,
    /// Whether rows of some file are to be judged by the snapshot that added them, which they then bring.
    #[prost(bool, tag = "3")]
    pub(crate) late: bool,
    /// The rows of all files of the scan that are there, if that is known.
    #[prost(uint64, optional, tag = "4")]
    pub(crate) live: Option<u64>,
}

/// What is hidden of one file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HiddenRows {
    #[prost(int64, tag = "1")]
    file: i64,
    /// The delete file.
    #[prost(string, optional, tag = "2")]
    deletes: Option<String>,
    /// Positions in it.
    #[prost(uint64, tag = "3")]
    count: u64,
    /// Deletions after this snapshot do not count.
    #[prost(int64, optional, tag = "4")]
    deletes_until: Option<i64>,
    /// Rows after this snapshot are not there.
    #[prost(int64, optional, tag = "5")]
    pub(crate) until: Option<i64>,
}

impl Hidden {
    /// What is hidden of `files` of `table`. `None`: nothing.
    ///
    /// # Errors
    /// As [`SkepTable::place`].
    pub(crate) fn of(table: &SkepTable, files: &[Arc<DataFile>]) -> Result<Option<Self>> {
        let mut hidden = Vec::new();
        for file in files.iter().filter(|file| file.hides()) {
            let deletes = file.deletes.as_ref();
            let place = deletes.map(|deletes| table.place(deletes.absolute, &deletes.path)).transpose()?;
            hidden.push(HiddenRows {
                file: file.id,
                deletes: place.map(|place| place.to_string()),
                count: deletes.map_or(0, |deletes| deletes.rows),
                deletes_until: deletes.and_then(|deletes| deletes.until),
                until: file.until,
            });
        }
        if hidden.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            store: table.store.as_str().to_owned(),
            late: hidden.iter().any(|file| file.until.is_some()),
            live: files.iter().map(|file| file.live()).sum(),
            files: hidden,
        }))
    }

    /// How many files have hidden rows.
    pub(crate) fn count(&self) -> usize {
        self.files.len()
    }

    /// What is hidden of `file`, which has `rows` rows.
    ///
    /// # Errors
    /// Those of the store; [`Kind::Corrupt`](skep_common::Kind::Corrupt) for a delete file that is not what the catalog says.
    pub(crate) async fn absent(&self, file: i64, rows: i64, context: &TaskContext) -> Result<Absent> {
        let Some(hidden) = self.files.iter().find(|hidden| hidden.file == file) else {
            return Ok(Absent::default());
        };
        let deleted = match &hidden.deletes {
            None => None,
            Some(path) => {
                let store = ObjectStoreUrl::parse(&self.store)
                    .and_then(|url| context.runtime_env().object_store(&url))
                    .map_err(error::from_datafusion)?;
                let read = hidden.read(&store, path, rows).await;
                Some(read.map_err(|e| e.context(format!("the delete file '{path}' cannot be read")))?)
            }
        };
        Ok(Absent { deleted, until: hidden.until })
    }
}

/// The rows of one file that are not there.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    /// By position.
    deleted: Option<BooleanBuffer>,
    until: Option<i64>,
}

impl Absent {
    /// Whether the row at `position`, added by `snapshot` if that is known, is there.
    pub(crate) fn shows(&self, position: i64, snapshot: Option<i64>) -> bool {
        let at = usize::try_from(position).unwrap_or(usize::MAX);
        let deleted = self.deleted.as_ref().is_some_and(|deleted| deleted.value(at));
        let late = self.until.zip(snapshot).is_some_and(|(until, snapshot)| snapshot > until);
        !deleted && !late
    }
}

impl HiddenRows {
    /// The positions in the delete file at `path`.
    async fn read(&self, store: &Arc<dyn ObjectStore>, path: &str, rows: i64) -> Result<BooleanBuffer> {
        let path = Path::parse(path).map_err(|e| Error::corrupt("it is named by no path").source(e))?;
        let fetched = async { store.get(&path).await?.bytes().await };
        let bytes = fetched.await.map_err(|e| error::from_dyn(&e))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| error::from_dyn(&e))?;
        let wanted = ProjectionMask::columns(reader.parquet_schema(), [POSITIONS, SNAPSHOT_COLUMN]);
        let reader = reader.with_projection(wanted).build().map_err(|e| error::from_dyn(&e))?;
        let mut deleted = BooleanBufferBuilder::new(0);
        deleted.append_n(usize::try_from(rows).unwrap_or(0), false);
        let (mut all, mut distinct) = (0_u64, 0_u64);
        for batch in reader {
            let batch = batch.map_err(|e| error::from_dyn(&e))?;
            let positions = numbers(&batch, POSITIONS)?;
            let positions = positions.ok_or_else(|| Error::corrupt("it has no positions"))?;
            let snapshots = numbers(&batch, SNAPSHOT_COLUMN)?;
            for (row, position) in positions.iter().enumerate() {
                all += 1;
                let snapshot = snapshots.as_ref().filter(|s| s.is_valid(row)).map(|s| s.value(row));
                if self.deletes_until.zip(snapshot).is_some_and(|(until, snapshot)| snapshot > until) {
                    continue;
                }
                let at = position.and_then(|position| usize::try_from(position).ok());
                let at = at.filter(|at| *at < deleted.len()).ok_or_else(|| {
                    Error::corrupt(format!("it deletes row {position:?} of a file with {rows} rows"))
                })?;
                distinct += u64::from(!deleted.get_bit(at));
                deleted.set_bit(at, true);
            }
        }
        if all != self.count || self.deletes_until.is_none() && distinct != self.count {
            return Err(Error::corrupt(format!(
                "it has {distinct} positions, and the catalog says {}",
                self.count
            )));
        }
        Ok(deleted.finish())
    }
}

fn numbers(batch: &RecordBatch, name: &str) -> Result<Option<Int64Array>> {
    let Some(column) = batch.column_by_name(name) else { return Ok(None) };
    let cast = cast(column, &DataType::Int64).map_err(|e| error::from_dyn(&e))?;
    Ok(Some(cast.as_primitive::<Int64Type>().clone()))
}
