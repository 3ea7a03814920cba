//! A catalog in a folder of its own, with tables and Parquet files made in one line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use skep_catalog::{
    Catalog, Change, Column, CommitInfo, Committed, Nans, NewFile, OpenOptions, Snapshot, TableDef,
    columns_from_arrow, footer_size, nan_columns, physical_schema, stats_from_parquet, without_bounds,
};
use skep_common::Result;
use skep_metadb::Location;
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) struct Lake {
    pub(crate) dir: TempDir,
    pub(crate) catalog: Catalog,
}

impl Lake {
    pub(crate) async fn new() -> Lake {
        let dir = TempDir::new().unwrap();
        let catalog = open(&dir, location(&dir)).await;
        Lake { dir, catalog }
    }

    /// One whose database is a file, whatever the others are in.
    pub(crate) async fn in_file() -> Lake {
        let dir = TempDir::new().unwrap();
        let catalog = open(&dir, dir.path().join("catalog.sqlite").into()).await;
        Lake { dir, catalog }
    }

    /// The same folder, as after a restart.
    pub(crate) async fn reopen(self) -> Lake {
        self.catalog.db().close().await;
        let catalog = open(&self.dir, self.catalog.db().location().clone()).await;
        Lake { dir: self.dir, catalog }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("catalog.sqlite")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) async fn snapshot(&self) -> Arc<Snapshot> {
        self.catalog.snapshot().await.unwrap()
    }

    pub(crate) async fn table(&self, schema: &str, name: &str) -> Arc<TableDef> {
        Arc::clone(self.snapshot().await.table(schema, name).unwrap())
    }

    /// Commits changes on the latest snapshot.
    pub(crate) async fn commit(&self, changes: impl IntoIterator<Item = Change>) -> Result<Committed> {
        self.commit_on(self.snapshot().await, changes).await
    }

    pub(crate) async fn commit_on(
        &self,
        base: Arc<Snapshot>,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Committed> {
        let transaction = self.catalog.begin(base, info());
        transaction.apply(changes)?;
        transaction.commit().await
    }

    /// Creates `schema.name` from a batch and appends the batch, in one commit.
    pub(crate) async fn create(&self, schema: &str, name: &str, batch: &RecordBatch) -> Committed {
        let columns = columns_from_arrow(&batch.schema()).unwrap();
        let path = self.snapshot().await.path_of_new_table(schema, name);
        let file = write(&self.data().join(path), &columns, batch);
        let table = Change::CreateTable {
            id: -1,
            schema: schema.to_owned(),
            name: name.to_owned(),
            columns,
            comment: None,
        };
        self.commit([table, Change::Append { table: -1, files: vec![file] }]).await.unwrap()
    }

    /// A file with the rows of a batch, in the folder of an existing table, not committed.
    pub(crate) fn stage(&self, table: &TableDef, batch: &RecordBatch) -> NewFile {
        write(&self.data().join(&table.path), &table.columns, batch)
    }

    pub(crate) async fn append(&self, schema: &str, name: &str, batch: &RecordBatch) -> Committed {
        let table = self.table(schema, name).await;
        let file = self.stage(&table, batch);
        self.commit([Change::Append { table: table.id, files: vec![file] }]).await.unwrap()
    }
}

async fn open(dir: &TempDir, location: Location) -> Catalog {
    let data = format!("{}/data/", dir.path().display());
    Catalog::open(location, OpenOptions::new(data)).await.unwrap()
}

/// A database of its own for each folder: in a schema of the server that `SKEP_POSTGRES` names, or else a file in it.
pub(crate) fn location(dir: &TempDir) -> Location {
    let Ok(server) = std::env::var("SKEP_POSTGRES") else { return dir.path().join("catalog.sqlite").into() };
    let name = dir.path().file_name().unwrap().to_string_lossy().replace('.', "skep_").to_lowercase();
    format!("{server}?options=-csearch_path%3D{name}").parse().unwrap()
}

pub(crate) fn info() -> CommitInfo {
    CommitInfo {
        author: Some("ada".to_owned()),
        message: Some("a test".to_owned()),
        ..CommitInfo::anonymous()
    }
}

pub(crate) fn batch<'a>(columns: impl IntoIterator<Item = (&'a str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

/// Writes a batch as the engine does: physical schema, one file with a name of its own, statistics from the footer.
pub(crate) fn write(folder: &Path, columns: &[Column], batch: &RecordBatch) -> NewFile {
    std::fs::create_dir_all(folder).unwrap();
    let name = format!("skep-{}.parquet", Uuid::now_v7());
    let path = folder.join(&name);
    let schema = Arc::new(physical_schema(columns));
    let batch = conform(batch, &schema);
    let mut nans = Nans::new(columns);
    nans.observe(&batch);
    // Small row groups, so that bounds come from several.
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(100))
        .set_statistics_truncate_length(None);
    let properties = without_bounds(properties, columns, &nan_columns(columns, &batch)).build();
    let file = std::fs::File::create_new(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    let meta = writer.close().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let mut stats = stats_from_parquet(&meta, columns).unwrap();
    nans.finish(&mut stats);
    NewFile {
        path: name,
        rows: u64::try_from(batch.num_rows()).unwrap(),
        bytes: u64::try_from(bytes.len()).unwrap(),
        footer: footer_size(&bytes).unwrap(),
        partition: Vec::new(),
        stats,
        moved: false,
        sketches: Vec::new(),
    }
}

fn conform(batch: &RecordBatch, schema: &Arc<Schema>) -> RecordBatch {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(array, field)| arrow::compute::cast(array, field.data_type()).unwrap())
        .collect();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}
