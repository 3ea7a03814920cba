//! Parameters that clients bind, as scalars.

use arrow::array::{Array, ArrayRef, RecordBatch, UnionArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use datafusion::scalar::ScalarValue;
use skep_common::{Error, Result};

use super::sessions::Parameters;

/// The rows of `batch` as parameters of a statement that expects `expected`, by position.
///
/// A value is cast to the expected type where the statement has one; dense unions and dictionaries, which some
/// drivers send, give their values.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for another number of columns, and values that do not cast;
/// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if they would take more than `bytes_max`.
pub(crate) fn rows(batch: &RecordBatch, expected: &Schema, bytes_max: usize) -> Result<Vec<Parameters>> {
    if bytes(batch) > bytes_max {
        return Err(too_many(bytes_max));
    }
    let (given, wanted) = (batch.num_columns(), expected.fields().len());
    if given != wanted {
        return Err(Error::invalid(format!("the statement has {wanted} parameters, {given} were bound")));
    }
    let rows = 0..batch.num_rows();
    rows.map(|row| {
        let columns = batch.columns().iter().zip(expected.fields()).enumerate();
        columns.map(|(i, (column, field))| value(column, row, field.data_type(), i + 1)).collect()
    })
    .collect()
}

/// Bytes that the rows of `batch` take as scalars, without what these point to.
pub(crate) fn bytes(batch: &RecordBatch) -> usize {
    let row = size_of::<Parameters>() + batch.num_columns() * size_of::<ScalarValue>();
    batch.num_rows().saturating_mul(row)
}

pub(crate) fn too_many(bytes_max: usize) -> Error {
    Error::exhausted(format!("the parameters take more than {bytes_max} bytes"))
        .hint("ingest the rows into a table, or raise flight.message_max")
}

fn value(column: &ArrayRef, row: usize, wanted: &DataType, position: usize) -> Result<ScalarValue> {
    let wrong = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::invalid(format!("parameter {position} is not a value of type {wanted}")).source(e)
    };
    let array = plain(&column.slice(row, 1)).map_err(|e| wrong(e.into()))?;
    let scalar = ScalarValue::try_from_array(&array, 0).map_err(|e| wrong(e.into()))?;
    if wanted.is_null() || &scalar.data_type() == wanted {
        return Ok(scalar);
    }
    let options = datafusion::common::format::DEFAULT_CAST_OPTIONS;
    scalar.cast_to_with_options(wanted, &options).map_err(|e| wrong(e.into()))
}

/// One value as an array of a plain type.
fn plain(one: &ArrayRef) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    if let Some(union) = one.as_any().downcast_ref::<UnionArray>() {
        return plain(&union.value(0));
    }
    match skep_engine::types::plain(one.data_type()) {
        ty if &ty == one.data_type() => Ok(ArrayRef::clone(one)),
        ty => cast(one, &ty),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::buffer::ScalarBuffer;
    use arrow::datatypes::{Field, UnionFields};

    use super::*;

    const MAX: usize = 1 << 20;

    fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
        let fields: Vec<Field> = columns
            .iter()
            .enumerate()
            .map(|(i, c)| Field::new(format!("{i}"), c.data_type().clone(), true))
            .collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    fn expected(types: &[DataType]) -> Schema {
        let field = |(i, ty): (usize, &DataType)| Field::new(format!("${}", i + 1), ty.clone(), true);
        Schema::new(types.iter().enumerate().map(field).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_cast_to_what_the_statement_expects() {
        let batch = batch(vec![
            Arc::new(Int64Array::from(vec![Some(1), None])),
            Arc::new(StringArray::from(vec!["2013-01-01", "2013-01-02"])),
        ]);
        let rows = rows(&batch, &expected(&[DataType::Int32, DataType::Date32]), MAX).unwrap();
        assert_eq!(rows[0], [ScalarValue::Int32(Some(1)), ScalarValue::Date32(Some(15706))]);
        assert_eq!(rows[1], [ScalarValue::Int32(None), ScalarValue::Date32(Some(15707))]);
    }

    #[test]
    fn wrong_counts_and_values_name_the_parameter() {
        let batch = batch(vec![Arc::new(StringArray::from(vec!["x"]))]);
        let count = rows(&batch, &expected(&[]), MAX).unwrap_err();
        assert_eq!(count.message(), "the statement has 0 parameters, 1 were bound");
        let value = rows(&batch, &expected(&[DataType::Int64]), MAX).unwrap_err();
        assert!(value.message().starts_with("parameter 1 is not a value of type Int64"), "{value}");
    }

    #[test]
    fn dense_unions_give_their_values() {
        let fields = UnionFields::try_new(
            [0, 1],
            [Field::new("i", DataType::Int64, true), Field::new("s", DataType::Utf8, true)],
        )
        .unwrap();
        let union = UnionArray::try_new(
            fields,
            ScalarBuffer::from(vec![1i8, 0]),
            Some(ScalarBuffer::from(vec![0i32, 0])),
            vec![Arc::new(Int64Array::from(vec![7])), Arc::new(StringArray::from(vec!["a"]))],
        )
        .unwrap();
        let rows = rows(&batch(vec![Arc::new(union)]), &expected(&[DataType::Null]), MAX).unwrap();
        assert_eq!(rows, [[ScalarValue::from("a")], [ScalarValue::from(7i64)]]);
    }
}
