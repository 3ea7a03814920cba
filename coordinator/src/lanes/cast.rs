//! Gives rows the schema of the logical plan: physical plans may hold strings as views.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::Result;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

/// The rows of `stream` under `schema`, column by column.
pub(super) fn cast(stream: SendableRecordBatchStream, schema: &SchemaRef) -> SendableRecordBatchStream {
    if stream.schema() == *schema {
        return stream;
    }
    let wanted = Arc::clone(schema);
    let rows = stream.map(move |batch| batch.and_then(|batch| cast_batch(&batch, &wanted)));
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows))
}

fn cast_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(array, field)| {
        if array.data_type() == field.data_type() {
            Ok(Arc::clone(array))
        } else {
            arrow::compute::cast(array, field.data_type())
        }
    });
    let columns = columns.collect::<std::result::Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
