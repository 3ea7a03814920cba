//! The file source of text scans.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr, apply_expression_roots};
use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream::{self, BoxStream};
use object_store::ObjectStore;

use super::decode::Rows;
use super::locate::Suspect;
use super::{Compression, Format, Layout, input, records};
use crate::error;
use crate::files::shown;

/// Rows in a batch, unless the session says otherwise.
const BATCH_SIZE_DEFAULT: usize = 8192;

/// Reads CSV or JSON lines.
#[derive(Debug, Clone)]
pub struct TextSource {
    format: Format,
    schema: TableSchema,
    projection: SplitProjection,
    batch_size: usize,
    metrics: ExecutionPlanMetricsSet,
}

impl TextSource {
    /// For files with the file columns of `schema`, in order for CSV.
    pub fn new(schema: impl Into<TableSchema>, format: Format) -> Self {
        let schema = schema.into();
        Self {
            format,
            projection: SplitProjection::unprojected(&schema),
            schema,
            batch_size: BATCH_SIZE_DEFAULT,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// How the files are read.
    pub fn format(&self) -> &Format {
        &self.format
    }
}

impl FileSource for TextSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        _: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let opener = Arc::new(Opener {
            store,
            url: config.object_store_url.clone(),
            format: self.format.clone(),
            schema: Arc::clone(self.schema.file_schema()),
            projection: self.projection.file_indices.clone(),
            batch_size: self.batch_size,
        });
        ProjectionOpener::try_new(self.projection.clone(), opener, self.schema.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        &self.schema
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { batch_size, ..self.clone() })
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let merged = self.projection.source.try_merge(projection)?;
        let projection = SplitProjection::new(self.schema.file_schema(), &merged);
        Ok(Some(Arc::new(Self { projection, ..self.clone() })))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        match self.format.layout {
            Layout::Csv(_) => "csv",
            Layout::Json => "json",
        }
    }

    fn supports_repartitioning(&self) -> bool {
        self.format.splits()
    }

    fn fmt_extra(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.format.compression {
            Compression::None => Ok(()),
            compression => write!(f, ", compression={compression:?}"),
        }
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.projection.source.iter(), f)
    }
}

struct Opener {
    store: Arc<dyn ObjectStore>,
    url: ObjectStoreUrl,
    format: Format,
    schema: SchemaRef,
    projection: Vec<usize>,
    batch_size: usize,
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let suspect = Arc::new(Suspect {
            store: Arc::clone(&self.store),
            name: shown(&self.url, &file.object_meta.location),
            path: file.object_meta.location.clone(),
            format: self.format.clone(),
            schema: Arc::clone(&self.schema),
            projection: self.projection.clone(),
            batch_size: self.batch_size,
        });
        if self.format.records {
            let (projection, batch_size) = (self.projection.clone(), self.batch_size);
            return Ok(Box::pin(async move {
                let bytes = input::whole(&suspect.store, &suspect.path, suspect.format.compression).await?;
                let batches = records::batches(bytes, &suspect.format.layout, projection, batch_size);
                let batches = batches.then(move |item| {
                    let suspect = Arc::clone(&suspect);
                    async move {
                        item.map_err(|e| error::to_datafusion(suspect.unreadable(error::from_datafusion(e))))
                    }
                });
                Ok(batches.boxed())
            }));
        }
        let first = file.range.as_ref().is_none_or(|range| range.start == 0);
        let rows = Rows::new(&self.format.layout, &self.schema, &self.projection, self.batch_size, first)?;
        let range = file.range;
        Ok(Box::pin(async move {
            let path = &suspect.path;
            let bytes = match range {
                // Offsets are never negative.
                Some(range) => {
                    input::lines(&suspect.store, path, range.start.unsigned_abs(), range.end.unsigned_abs())
                        .await?
                }
                None => input::whole(&suspect.store, path, suspect.format.compression).await?,
            };
            let batches = batches(bytes, rows).then(move |item| {
                let suspect = Arc::clone(&suspect);
                async move {
                    match item {
                        Ok(batch) => Ok(batch),
                        Err(e) => Err(error::to_datafusion(suspect.accuse(e).await)),
                    }
                }
            });
            Ok(batches.boxed())
        }))
    }
}

struct State {
    bytes: BoxStream<'static, Result<Bytes>>,
    rows: Rows,
    chunk: Bytes,
    ended: bool,
}

/// The batches that `bytes` decode to.
fn batches(
    bytes: BoxStream<'static, Result<Bytes>>,
    rows: Rows,
) -> BoxStream<'static, Result<RecordBatch, ArrowError>> {
    let state = State { bytes, rows, chunk: Bytes::new(), ended: false };
    stream::try_unfold(state, |mut state| async move {
        loop {
            while state.chunk.is_empty() && !state.ended {
                match state.bytes.try_next().await.map_err(|e| ArrowError::ExternalError(Box::new(e)))? {
                    Some(chunk) => state.chunk = chunk,
                    None => state.ended = true,
                }
            }
            let taken = state.rows.decode(&state.chunk)?;
            state.chunk.advance(taken);
            if (taken == 0 || state.rows.full())
                && let Some(batch) = state.rows.flush()?
            {
                return Ok(Some((batch, state)));
            }
            if state.ended && taken == 0 {
                return Ok(None);
            }
        }
    })
    .boxed()
}
