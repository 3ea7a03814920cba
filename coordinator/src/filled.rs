//! Tables whose rows are made when a plan that reads them runs, so that planning reads nothing.
//!
//! # Not here
//! What the tables show (`queries`, `blocks`, `system`).

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use skep_common::{Error, Result};
use skep_engine::error::{from_datafusion, to_datafusion};

/// Rows of a system table.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if they do not fit its schema.
pub(crate) fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(Arc::clone(schema), columns)
        .map_err(|e| Error::internal("a system table does not fit its schema").source(e))
}

/// A table of the rows of one call.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if it does not fit its schema.
pub(crate) fn filled(
    schema: SchemaRef,
    fill: impl Fn() -> BoxFuture<'static, Result<RecordBatch>> + Send + Sync + 'static,
) -> Result<Arc<dyn TableProvider>> {
    table(schema, move || futures::stream::once(fill()).boxed())
}

/// A table of the rows of call after call: `next` gets where the last page ended, and gives a page and where that ends, or
/// nothing at the end.
///
/// # Errors
/// As [`filled`].
pub(crate) fn paged<At: Clone + Send + 'static>(
    schema: SchemaRef,
    next: impl Fn(Option<At>) -> BoxFuture<'static, Result<Option<(RecordBatch, At)>>>
    + Clone
    + Send
    + Sync
    + 'static,
) -> Result<Arc<dyn TableProvider>> {
    table(schema, move || {
        let next = next.clone();
        futures::stream::try_unfold(None, move |after: Option<At>| {
            let page = next(after);
            async move { Ok(page.await?.map(|(rows, at)| (rows, Some(at)))) }
        })
        .boxed()
    })
}

type Fill = dyn Fn() -> BoxStream<'static, Result<RecordBatch>> + Send + Sync;

fn table(
    schema: SchemaRef,
    fill: impl Fn() -> BoxStream<'static, Result<RecordBatch>> + Send + Sync + 'static,
) -> Result<Arc<dyn TableProvider>> {
    let partition = Filled { schema: Arc::clone(&schema), fill: Arc::new(fill) };
    let table = StreamingTable::try_new(schema, vec![Arc::new(partition)]).map_err(from_datafusion)?;
    Ok(Arc::new(table))
}

struct Filled {
    schema: SchemaRef,
    fill: Arc<Fill>,
}

impl fmt::Debug for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filled").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Filled {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = (self.fill)().map_err(to_datafusion);
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
