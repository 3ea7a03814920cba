//! What leaves the engine: results in plain Arrow types, under one schema.
//!
//! Inside, lanes use view types and dictionaries as they like, and physical plans differ from the logical one in
//! nullability. Clients compare schemas, so describe, prepare and the stream take theirs from [`output_schema`].

use std::sync::Arc;

use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use skep_common::{Error, Result};

use crate::{error, types};

/// The schema of the rows of `plan` as clients see it: plain types, no metadata, every column nullable.
pub fn output_schema(plan: &LogicalPlan) -> SchemaRef {
    plain_schema(plan.schema().as_arrow())
}

/// `schema` with plain types, no metadata, every column nullable.
pub fn plain_schema(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| Field::new(field.name(), types::plain(field.data_type()), true);
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// `batch` with the types of `schema`, whose columns are the same by position.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if the columns do not correspond.
pub fn cast_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.num_columns() != schema.fields().len() {
        return Err(Error::internal(format!(
            "a batch has {} columns and its schema {}",
            batch.num_columns(),
            schema.fields().len()
        )));
    }
    let strict = CastOptions { safe: false, ..Default::default() };
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else {
            cast_with_options(column, field.data_type(), &strict)
        }
    });
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    columns
        .collect::<Result<Vec<_>, _>>()
        .and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows))
        .map_err(|e| error::from_datafusion(e.into()))
}

/// `stream` under `schema`: every batch cast, every error one of ours inside `External`.
pub fn wrap_stream(stream: SendableRecordBatchStream, schema: SchemaRef) -> SendableRecordBatchStream {
    let target = Arc::clone(&schema);
    let stream = stream.map(move |item| {
        let batch = item.map_err(|e| error::to_datafusion(error::from_datafusion(e)))?;
        cast_batch(&batch, &target).map_err(error::to_datafusion)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringViewArray};
    use datafusion::arrow::datatypes::{DataType, Int8Type};

    use super::*;

    #[test]
    fn views_and_dictionaries_become_plain() {
        let dictionary: DictionaryArray<Int8Type> = ["x", "y"].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("a", Arc::new(StringViewArray::from(vec![Some("p"), None]))),
            ("b", Arc::new(dictionary)),
            ("c", Arc::new(Int32Array::from(vec![1, 2]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let schema = plain_schema(&batch.schema());
        let types: Vec<&DataType> = schema.fields().iter().map(|f| f.data_type()).collect();
        assert_eq!(types, [&DataType::Utf8, &DataType::Utf8, &DataType::Int32]);
        let plain = cast_batch(&batch, &schema).unwrap();
        assert_eq!((plain.schema(), plain.num_rows()), (schema, 2));
    }
}
