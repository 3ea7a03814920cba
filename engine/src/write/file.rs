//! One Parquet file on its way into a store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::{Bytes, BytesMut};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::basic::ZstdLevel;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use skep_catalog::{Nans, NewFile, Sketch, footer_size, nan_columns, stats_from_parquet, without_bounds};
use skep_common::{Error, Kind, Result};
use skep_store::skep::CreateExclusively;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::partition::Keys;
use super::{Compression, Moved, WriteTarget};
use crate::error::from_datafusion;

/// Rows of a row group: small enough that a file is read by several tasks, large enough to skip little.
const ROW_GROUP_ROWS: usize = 256 * 1024;
/// Bytes of a row group in memory before it is written out early.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Bytes of one part of a multipart upload; smaller files are put whole.
const PART_BYTES: usize = 8 << 20;
/// Parts in flight for each file.
const PARTS_IN_FLIGHT: usize = 2;

/// Writes the files of one partition, one after the other.
pub(super) struct Files {
    target: Arc<WriteTarget>,
    schema: SchemaRef,
    store: Arc<dyn ObjectStore>,
    properties: WriterProperties,
    keys: Keys,
    /// Float columns that had a value that is no number: files from then on have no bounds of them.
    unbounded: BTreeSet<i64>,
    memory: MemoryReservation,
    open: Option<Open>,
    done: Vec<NewFile>,
    /// Rows that the statement changed, of those that it moved.
    changed: u64,
    /// Rows by where they come from.
    sources: BTreeMap<String, u64>,
    /// Of the columns that have one, with their places.
    sketches: Vec<(usize, Sketch)>,
    /// Rows that they saw.
    sketched: u64,
    /// Whether the report was taken; until then the files are nobody's.
    reported: bool,
}

struct Open {
    /// Below the folder of the table.
    name: String,
    partition: Vec<Option<String>>,
    writer: AsyncArrowWriter<Upload>,
    nans: Nans,
    rows: u64,
}

impl Files {
    pub(super) fn new(
        target: Arc<WriteTarget>,
        store: Arc<dyn ObjectStore>,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        let compression = match target.compression {
            Compression::Zstd => parquet::basic::Compression::ZSTD(ZstdLevel::default()),
            Compression::Snappy => parquet::basic::Compression::SNAPPY,
            Compression::None => parquet::basic::Compression::UNCOMPRESSED,
        };
        let properties = WriterProperties::builder()
            .set_created_by(concat!("skep version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(compression)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_statistics_truncate_length(None)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let mut sketches = Vec::new();
        for (at, field) in target.schema().fields().iter().enumerate().take(target.columns.len()) {
            if target.sketches && Sketch::takes(field.data_type()) {
                sketches.push((at, Sketch::new()?));
            }
        }
        Ok(Self {
            schema: target.schema(),
            keys: Keys::new(&target.columns, &target.partitions)?,
            target,
            store,
            properties,
            unbounded: BTreeSet::new(),
            memory: MemoryConsumer::new("write").register(pool),
            open: None,
            done: Vec::new(),
            changed: 0,
            sources: BTreeMap::new(),
            sketches,
            sketched: 0,
            reported: false,
        })
    }

    /// Adds the rows of `batch`, whose columns are the target's in their order.
    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = match self.target.moved {
            None if self.target.sources => {
                let rows = without_source(batch, &mut self.sources)?;
                conform(&rows, &self.schema)?
            }
            None => conform(batch, &self.schema)?,
            Some(moved) => {
                let (rows, changed) = without_mark(batch, moved)?;
                self.changed += changed;
                conform(&rows, &self.schema)?
            }
        };
        if self.keys.is_empty() {
            return self.put(&batch, &[], "").await;
        }
        for run in self.keys.runs(&batch)? {
            if self.open.as_ref().is_some_and(|open| open.partition != run.values) {
                self.close().await?;
            }
            self.put(&run.rows, &run.values, &run.folder).await?;
        }
        Ok(())
    }

    /// Adds rows of one partition to its file.
    async fn put(&mut self, batch: &RecordBatch, partition: &[Option<String>], folder: &str) -> Result<()> {
        let nans = nan_columns(&self.target.columns, batch);
        if !nans.is_subset(&self.unbounded) {
            self.close().await?;
            self.unbounded.extend(nans);
        }
        if self.open.is_none() {
            self.open = Some(self.start(partition, folder)?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.nans.observe(batch);
        for (at, sketch) in &mut self.sketches {
            sketch.update(batch.column(*at));
        }
        self.sketched += batch.num_rows() as u64;
        open.writer.write(batch).await.map_err(failed)?;
        open.rows += batch.num_rows() as u64;
        let held = open.writer.memory_size();
        if held > ROW_GROUP_BYTES || self.memory.try_resize(held).is_err() {
            open.writer.flush().await.map_err(failed)?;
            self.memory.resize(open.writer.memory_size());
        }
        let size = open.writer.bytes_written() + open.writer.in_progress_size();
        if size as u64 >= self.target.file_size.bytes() {
            self.close().await?;
        }
        Ok(())
    }

    fn start(&self, partition: &[Option<String>], folder: &str) -> Result<Open> {
        let name = format!("{folder}skep-{}.parquet", Uuid::now_v7());
        let path = below(&self.target.directory(), &name)?;
        let shown = match self.target.store.strip_prefix("file://") {
            Some(_) => format!("/{path}"),
            None => format!("{}/{path}", self.target.store.trim_end_matches('/')),
        };
        let upload = Upload::new(Arc::clone(&self.store), path, shown);
        let properties = self.properties.clone().into_builder();
        let properties = without_bounds(properties, &self.target.columns, &self.unbounded).build();
        let writer = AsyncArrowWriter::try_new(upload, Arc::clone(&self.schema), Some(properties));
        let nans = Nans::new(&self.target.columns);
        Ok(Open { name, partition: partition.to_vec(), writer: writer.map_err(failed)?, nans, rows: 0 })
    }

    async fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let metadata = open.writer.finish().await.map_err(failed)?;
        self.memory.free();
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default();
        if rows != open.rows {
            let (name, given) = (&open.name, open.rows);
            return Err(Error::internal(format!("file '{name}' has {rows} rows of {given}")));
        }
        let mut stats = stats_from_parquet(&metadata, &self.target.columns)?;
        open.nans.finish(&mut stats);
        let upload = open.writer.into_inner();
        self.done.push(NewFile {
            path: open.name,
            rows,
            bytes: upload.bytes,
            footer: footer_size(&upload.tail)?,
            partition: open.partition,
            stats,
            moved: self.target.moved == Some(Moved::WithIds),
            sketches: Vec::new(),
        });
        Ok(())
    }

    /// Rows that came marked as changed.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    /// How many rows came from where.
    pub(super) fn sources(&self) -> &BTreeMap<String, u64> {
        &self.sources
    }

    /// Finishes the last file. The files are the caller's when it calls [`Files::reported`].
    pub(super) async fn finish(&mut self) -> Result<&[NewFile]> {
        self.close().await?;
        if let Some(last) = self.done.last_mut() {
            let columns = &self.target.columns;
            last.sketches = std::mem::take(&mut self.sketches)
                .into_iter()
                .map(|(at, sketch)| sketch.of_column(columns[at].id, self.sketched))
                .collect();
        }
        Ok(&self.done)
    }

    /// The files were handed on: they stay when this is dropped.
    pub(super) fn reported(mut self) {
        self.reported = true;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.reported || self.done.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let path = |file: &NewFile| below(&self.target.directory(), &file.path).ok();
        let paths: Vec<Path> = self.done.iter().filter_map(path).collect();
        clean_up("remove the files of a write that was cut short", async move {
            for path in paths {
                remove(&store, &path).await;
            }
        });
    }
}

/// `path` as the catalog names it: what is written in it is not encoded again.
fn below(directory: &Path, path: &str) -> Result<Path> {
    let parsed =
        Path::parse(path).map_err(|e| Error::internal(format!("'{path}' is not a path")).source(e))?;
    Ok(directory.parts().chain(parsed.parts()).collect())
}

/// Runs `work` after its owner is gone, if there still is a runtime.
fn clean_up(name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    if tokio::runtime::Handle::try_current().is_ok() {
        skep_common::task::spawn(name, work).detach();
    }
}

fn failed(error: ParquetError) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return ours.clone();
        }
        next = cause.source();
    }
    Error::internal("cannot write a Parquet file").source(error)
}

/// The bytes of one file: put whole if they are few, else in parts. Dropped before its end, it takes the parts back.
struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// The path as people know it.
    shown: String,
    buffer: BytesMut,
    parts: Option<WriteMultipart>,
    bytes: u64,
    /// The last 8 bytes.
    tail: [u8; 8],
}

impl Upload {
    fn new(store: Arc<dyn ObjectStore>, path: Path, shown: String) -> Self {
        Self { store, path, shown, buffer: BytesMut::new(), parts: None, bytes: 0, tail: [0; 8] }
    }

    async fn push(&mut self, bytes: Bytes) -> object_store::Result<()> {
        self.bytes += bytes.len() as u64;
        self.remember(&bytes);
        match &mut self.parts {
            Some(parts) => {
                parts.wait_for_capacity(PARTS_IN_FLIGHT).await?;
                parts.put(bytes);
            }
            None if self.buffer.len() + bytes.len() <= PART_BYTES => self.buffer.extend_from_slice(&bytes),
            None => {
                let upload = self.store.put_multipart_opts(&self.path, CreateExclusively::options()).await?;
                let parts = self.parts.insert(WriteMultipart::new_with_chunk_size(upload, PART_BYTES));
                parts.put(std::mem::take(&mut self.buffer).freeze());
                parts.put(bytes);
            }
        }
        Ok(())
    }

    fn remember(&mut self, bytes: &[u8]) {
        let keep = bytes.len().min(self.tail.len());
        self.tail.rotate_left(keep);
        let start = self.tail.len() - keep;
        self.tail[start..].copy_from_slice(&bytes[bytes.len() - keep..]);
    }

    /// Makes the file appear. What finishes after nobody waits for it any more is removed again.
    async fn end(&mut self) -> object_store::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let waiting = Waiting { done: Some(receiver), store: Arc::clone(&store), path: path.clone() };
        let parts = self.parts.take();
        let payload = PutPayload::from(std::mem::take(&mut self.buffer).freeze());
        let finish = async move {
            let ended = match parts {
                Some(parts) => parts.finish().await.map(drop),
                None => {
                    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                    store.put_opts(&path, payload, options).await.map(drop)
                }
            };
            if let Err(Ok(())) = sender.send(ended) {
                remove(&store, &path).await;
            }
        };
        skep_common::task::spawn("finish a file", finish).detach();
        waiting.wait().await
    }

    fn explain(&self, error: object_store::Error) -> ParquetError {
        let ours = from_datafusion(DataFusionError::ObjectStore(Box::new(error)));
        let full = ours.kind() == Kind::NoSpace && ours.hint_text().is_none();
        let ours = ours.context(format!("cannot write '{}'", self.shown));
        let ours = if full { ours.hint("free room on the disk that holds the tables' files") } else { ours };
        ParquetError::External(Box::new(ours))
    }
}

impl AsyncFileWriter for Upload {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move { self.push(bytes).await.map_err(|e| self.explain(e)) }.boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move { self.end().await.map_err(|e| self.explain(e)) }.boxed()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        let path = self.path.clone();
        clean_up("take back an upload that was cut short", async move {
            if let Err(error) = parts.abort().await {
                tracing::warn!(%path, %error, "an upload that was cut short stays open");
            }
        });
    }
}

/// Somebody who waits for a file to be finished, and takes it back if they stop waiting.
struct Waiting {
    done: Option<oneshot::Receiver<object_store::Result<()>>>,
    store: Arc<dyn ObjectStore>,
    path: Path,
}

impl Waiting {
    async fn wait(mut self) -> object_store::Result<()> {
        let Some(done) = &mut self.done else { return Ok(()) };
        let ended = done.await;
        self.done = None;
        ended.unwrap_or_else(|gone| {
            Err(object_store::Error::Generic { store: "write", source: Box::new(gone) })
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut done) = self.done.take() else { return };
        done.close();
        if let Ok(Ok(())) = done.try_recv() {
            let (store, path) = (Arc::clone(&self.store), self.path.clone());
            clean_up("remove a file that nobody waited for", async move { remove(&store, &path).await });
        }
    }
}

async fn remove(store: &Arc<dyn ObjectStore>, path: &Path) {
    if let Err(error) = store.delete(path).await {
        tracing::warn!(%path, %error, "a file that no commit will name stays");
    }
}

/// Moved rows as they are written, and how many of them the statement changed.
fn without_mark(batch: &RecordBatch, moved: Moved) -> Result<(RecordBatch, u64)> {
    let wrong = || Error::internal("moved rows do not say whether they changed");
    let id = batch.num_columns().checked_sub(2).ok_or_else(wrong)?;
    let mark = batch.column(id + 1).as_boolean_opt().ok_or_else(wrong)?;
    if moved == Moved::WithIds && batch.column(id).null_count() > 0 {
        return Err(Error::corrupt("rows of a file have no ids").hint("nothing was changed"));
    }
    let kept = if moved == Moved::WithIds { id + 1 } else { id };
    let rows = batch.project(&(0..kept).collect::<Vec<_>>()).map_err(|e| wrong().source(e))?;
    Ok((rows, mark.true_count() as u64))
}

/// Rows as they are written, counted by the source that they name last.
fn without_source(batch: &RecordBatch, counts: &mut BTreeMap<String, u64>) -> Result<RecordBatch> {
    let wrong = || Error::internal("rows do not say where they come from");
    let last = batch.num_columns().checked_sub(1).ok_or_else(wrong)?;
    let sources = batch.column(last).as_string_opt::<i32>().ok_or_else(wrong)?;
    let mut at = 0;
    while at < sources.len() {
        let source = sources.value(at);
        let end = (at..sources.len()).find(|&row| sources.value(row) != source).unwrap_or(sources.len());
        match counts.get_mut(source) {
            Some(count) => *count += (end - at) as u64,
            None => {
                counts.insert(source.to_owned(), (end - at) as u64);
            }
        }
        at = end;
    }
    batch.project(&(0..last).collect::<Vec<_>>()).map_err(|e| wrong().source(e))
}

/// The columns of `batch` under the names, types and ids of `schema`, matched by position, also inside nested ones.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.num_columns() != schema.fields().len() {
        let (given, wanted) = (batch.num_columns(), schema.fields().len());
        return Err(Error::internal(format!("rows have {given} columns, the table has {wanted}")));
    }
    let columns = batch.columns().iter().zip(schema.fields()).map(|(array, field)| {
        conform_array(array, field.data_type())
            .map_err(|e| Error::invalid(format!("column '{}' cannot be written", field.name())).source(e))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| Error::invalid("rows do not fit the table").source(e))
}

/// `array` under the names and types of `wanted`, matched by position at every depth.
pub(crate) fn conform_array(
    array: &ArrayRef,
    wanted: &DataType,
) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    if array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), wanted) {
        (DataType::Struct(given), DataType::Struct(fields)) if given.len() == fields.len() => {
            let parts = array.as_struct();
            let children = parts.columns().iter().zip(fields).map(|(c, f)| conform_array(c, f.data_type()));
            let children = children.collect::<std::result::Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                children,
                parts.nulls().cloned(),
                parts.len(),
            )?))
        }
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = conform_array(list.values(), element.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?))
        }
        (DataType::Map(..), DataType::Map(entries, ordered)) => {
            let map = array.as_map();
            let given: ArrayRef = Arc::new(map.entries().clone());
            let conformed = conform_array(&given, entries.data_type())?.as_struct().clone();
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, conformed, nulls, *ordered)?))
        }
        _ => arrow::compute::cast(array, wanted),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;
    use datafusion::execution::memory_pool::UnboundedMemoryPool;
    use datafusion::execution::object_store::ObjectStoreUrl;
    use object_store::memory::InMemory;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use skep_catalog::columns_from_arrow;

    use super::*;

    fn floats(values: &[f64]) -> RecordBatch {
        let array: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        RecordBatch::try_from_iter([("x", array)]).unwrap()
    }

    /// Readers that skip row groups by bounds which leave out NaN lose rows.
    #[tokio::test]
    async fn files_with_nan_have_no_bounds_of_it() {
        let batches = [floats(&[1.0, 2.0]), floats(&[3.0]), floats(&[f64::NAN, 4.0]), floats(&[5.0])];
        let columns = columns_from_arrow(&batches[0].schema()).unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let url = ObjectStoreUrl::parse("memory://").unwrap();
        let target = Arc::new(WriteTarget::new(&url, &Path::from("t"), columns));
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let mut files = Files::new(target, Arc::clone(&store), &pool).unwrap();
        for batch in &batches {
            files.write(batch).await.unwrap();
        }
        let done = files.finish().await.unwrap().to_vec();
        files.reported();

        let told: Vec<_> =
            done.iter().map(|file| (file.rows, file.stats[0].nan, file.stats[0].max.clone())).collect();
        assert_eq!(told, [(3, Some(false), Some("3.0".to_owned())), (3, Some(true), None)]);
        assert_eq!((done[1].stats[0].values, done[1].stats[0].nulls), (3, 0));
        for (file, bounded) in done.iter().zip([true, false]) {
            let path = Path::from("t").join(file.path.as_str());
            let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
            let reader = SerializedFileReader::new(bytes).unwrap();
            let has = reader.metadata().row_group(0).column(0).statistics().is_some();
            assert_eq!(has, bounded, "{}", file.path);
        }
    }
}
