//! The types that cross the door: plain ones, which every client knows.
//!
//! Views, dictionaries, run-end encodings and narrow decimals become the plain type of the same values. The schema
//! that a client is told, the one of a prepared statement and the one of the stream all come from [`plain_schema`],
//! so that they are identical.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use skep_common::{Error, Result};

/// The plain type of the same values.
pub(crate) fn plain_type(ty: &DataType) -> DataType {
    match ty {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::List(field) | DataType::ListView(field) => DataType::List(plain_field(field)),
        DataType::LargeList(field) | DataType::LargeListView(field) => {
            DataType::LargeList(plain_field(field))
        }
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(plain_field(field), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        other => other.clone(),
    }
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let ty = plain_type(field.data_type());
    if &ty == field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(Field::new(field.name(), ty, field.is_nullable()).with_metadata(field.metadata().clone()))
}

/// The schema that clients see for `schema`: same names and nullability, plain types, no metadata of its own.
pub(crate) fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(plain_field).collect();
    Arc::new(Schema::new(fields))
}

/// `batch` under `schema`, which is [`plain_schema`] of its own.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if a column does not fit: another count, a type that does not cast, or
/// a NULL where the schema promised none.
pub(crate) fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let wrong =
        |reason: String| Error::internal(format!("a batch does not fit the planned schema: {reason}"));
    if batch.num_columns() != schema.fields().len() {
        return Err(wrong(format!("{} columns instead of {}", batch.num_columns(), schema.fields().len())));
    }
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        if column.data_type() == field.data_type() {
            columns.push(Arc::clone(column));
        } else {
            let cast = cast(column, field.data_type());
            columns.push(cast.map_err(|e| wrong(format!("column '{}'", field.name())).source(e))?);
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| wrong("nullability".to_owned()).source(e))
}

/// A number that differs when the schema does.
pub(crate) fn fingerprint(schema: &Schema) -> u64 {
    let mut hasher = DefaultHasher::new();
    for field in schema.fields() {
        field.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int32Array, StringArray, StringViewArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn views_and_dictionaries_become_plain_at_any_depth() {
        let inner = DataType::Struct(vec![Field::new("x", DataType::Utf8View, true)].into());
        let list = DataType::ListView(Arc::new(Field::new("item", inner, true)));
        let plain = DataType::Struct(vec![Field::new("x", DataType::Utf8, true)].into());
        assert_eq!(plain_type(&list), DataType::List(Arc::new(Field::new("item", plain, true))));
        assert_eq!(plain_type(&DataType::Decimal32(5, 2)), DataType::Decimal128(5, 2));
    }

    #[test]
    fn batches_are_cast_and_retagged() {
        let dictionary: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("a")].into_iter().collect();
        let schema = Schema::new(vec![
            Field::new("v", DataType::Utf8View, true),
            Field::new("d", dictionary.data_type().clone(), true),
            Field::new("i", DataType::Int32, true),
        ]);
        let batch = RecordBatch::try_new(
            Arc::new(schema.clone()),
            vec![
                Arc::new(StringViewArray::from(vec!["x", "y", "z"])),
                Arc::new(dictionary),
                Arc::new(Int32Array::from(vec![1, 2, 3])),
            ],
        )
        .unwrap();
        let plain = plain_schema(&schema);
        let out = plain_batch(&batch, &plain).unwrap();
        assert_eq!(out.schema(), plain);
        let strings = out.column(1).as_any().downcast_ref::<StringArray>().unwrap();
        assert_eq!(strings.iter().collect::<Vec<_>>(), [Some("a"), None, Some("a")]);
    }

    #[test]
    fn a_null_that_was_promised_away_is_an_error() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("i", DataType::Int32, false)]));
        let nullable = Arc::new(Schema::new(vec![Field::new("i", DataType::Int32, true)]));
        let batch =
            RecordBatch::try_new(nullable, vec![Arc::new(Int32Array::from(vec![None, Some(1)]))]).unwrap();
        assert!(plain_batch(&batch, &schema).is_err());
        assert_ne!(fingerprint(&schema), fingerprint(&batch.schema()));
    }
}
