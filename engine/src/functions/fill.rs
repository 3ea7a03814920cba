//! `skep_fill(value, defaults)`: the value with what the fields have that its file lacks.
//!
//! `defaults` is a struct: each of its fields is named by a path, the places of children joined by dots, and has the
//! value for the field there. A list has its element at 0, a map its key at 0 and its value at 1.
//!
//! # Invariants
//! - A field of a struct that is NULL stays NULL.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, UInt64Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_datafusion_err, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

const NAME: &str = "skep_fill";

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(Fill { signature: Signature::any(2, Volatility::Immutable) }))
});

pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// What the fields at some paths have.
#[derive(Debug, Clone)]
pub(crate) struct Defaults(ScalarValue);

impl Defaults {
    /// By path; at least one.
    ///
    /// # Errors
    /// For a value that cannot stand in an array.
    pub(crate) fn new(values: &[(Vec<usize>, ScalarValue)]) -> Result<Self> {
        let one = |(path, value): &(Vec<usize>, ScalarValue)| -> Result<(FieldRef, ArrayRef)> {
            let places: Vec<String> = path.iter().map(ToString::to_string).collect();
            Ok((Arc::new(Field::new(places.join("."), value.data_type(), true)), value.to_array()?))
        };
        let values = values.iter().map(one).collect::<Result<Vec<_>>>()?;
        Ok(Self(ScalarValue::Struct(Arc::new(StructArray::from(values)))))
    }
}

/// `value`, which is as `field` says, with `defaults`.
pub(crate) fn fill(
    value: Arc<dyn PhysicalExpr>,
    field: &FieldRef,
    defaults: &Defaults,
) -> Arc<dyn PhysicalExpr> {
    let arguments = vec![value, Arc::new(Literal::new(defaults.0.clone())) as _];
    let options = Arc::new(ConfigOptions::default());
    Arc::new(ScalarFunctionExpr::new(NAME, function(), arguments, Arc::clone(field), options))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Fill {
    signature: Signature,
}

impl ScalarUDFImpl for Fill {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        arguments.first().cloned().ok_or_else(|| internal_datafusion_err!("{NAME} takes a value"))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        args.arg_fields.first().cloned().ok_or_else(|| internal_datafusion_err!("{NAME} takes a value"))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value, ColumnarValue::Scalar(ScalarValue::Struct(defaults))] = args.args.as_slice() else {
            return internal_err!("{NAME} takes a value and a struct");
        };
        let (mut array, scalar) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        for (field, default) in defaults.fields().iter().zip(defaults.columns()) {
            let path =
                field.name().split('.').map(str::parse).collect::<std::result::Result<Vec<usize>, _>>();
            let path = path.map_err(|_| internal_datafusion_err!("{NAME}: '{}' is no path", field.name()))?;
            array = put(&array, &path, default)?;
        }
        if scalar {
            return ScalarValue::try_from_array(&array, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(array))
    }
}

/// `array` with the one value of `default` at `path`, wherever the parent is there.
fn put(array: &ArrayRef, path: &[usize], default: &ArrayRef) -> Result<ArrayRef> {
    match (array.data_type(), path) {
        (DataType::Struct(fields), [at, rest @ ..]) if *at < fields.len() => {
            let parts = array.as_struct();
            let mut columns = parts.columns().to_vec();
            columns[*at] = match rest {
                [] => repeated(default, fields[*at].data_type(), parts.len(), parts.nulls())?,
                rest => put(&columns[*at], rest, default)?,
            };
            let nulls = parts.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, parts.len())?))
        }
        (DataType::List(element), [0, rest @ ..]) => {
            let list = array.as_list::<i32>();
            let values = put(list.values(), rest, default)?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?))
        }
        (DataType::Map(entries, ordered), path) => {
            let map = array.as_map();
            let filled = put(&(Arc::new(map.entries().clone()) as ArrayRef), path, default)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            let filled = filled.as_struct().clone();
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, filled, nulls, *ordered)?))
        }
        (ty, path) => internal_err!("{NAME}: {ty} has nothing at {path:?}"),
    }
}

/// The one value of `default`, `len` times, NULL where `nulls` says.
fn repeated(default: &ArrayRef, ty: &DataType, len: usize, nulls: Option<&NullBuffer>) -> Result<ArrayRef> {
    let default = if default.data_type() == ty { Arc::clone(default) } else { cast(default, ty)? };
    let first = UInt64Array::new(vec![0; len].into(), nulls.cloned());
    Ok(take(&default, &first, None)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Int32Array;
    use datafusion::arrow::buffer::OffsetBuffer;
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    fn number(name: &str) -> FieldRef {
        Arc::new(Field::new(name, DataType::Int32, true))
    }

    /// `{a: 1, f: NULL}`, NULL, `{a: 3, f: NULL}`.
    fn structs() -> ArrayRef {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![1, 2, 3])), Arc::new(Int32Array::from(vec![None; 3]))];
        let nulls = NullBuffer::from(vec![true, false, true]);
        Arc::new(StructArray::new(vec![number("a"), number("f")].into(), columns, Some(nulls)))
    }

    /// Those of its second field.
    fn numbers(parts: &StructArray) -> Vec<Option<i32>> {
        parts.column(1).as_primitive::<Int32Type>().iter().collect()
    }

    fn seven() -> ArrayRef {
        Arc::new(Int32Array::from(vec![7]))
    }

    #[test]
    fn structs_that_are_there_are_filled() {
        let filled = put(&structs(), &[1], &seven()).unwrap();
        assert_eq!(numbers(filled.as_struct()), [Some(7), None, Some(7)]);
        assert_eq!(filled.null_count(), 1);
        assert!(put(&structs(), &[2], &seven()).is_err());
        assert!(put(&structs(), &[0, 0], &seven()).is_err());
    }

    #[test]
    fn lists_and_maps_are_filled_inside() {
        let element = Arc::new(Field::new("element", structs().data_type().clone(), true));
        let offsets = OffsetBuffer::new(vec![0, 2, 2, 3].into());
        let list: ArrayRef = Arc::new(ListArray::new(element, offsets.clone(), structs(), None));
        let filled = put(&list, &[0, 1], &seven()).unwrap();
        let values = numbers(filled.as_list::<i32>().values().as_struct());
        assert_eq!(values, [Some(7), None, Some(7)]);

        let keys: ArrayRef = Arc::new(Int32Array::from(vec![10, 20, 30]));
        let pair = vec![
            Arc::new(Field::new("key", DataType::Int32, false)),
            Arc::new(Field::new("value", structs().data_type().clone(), true)),
        ];
        let pairs = StructArray::new(pair.clone().into(), vec![keys, structs()], None);
        let entries = Arc::new(Field::new("entries", DataType::Struct(pair.into()), false));
        let map: ArrayRef = Arc::new(MapArray::new(entries, offsets, pairs, None, false));
        let filled = put(&map, &[1, 1], &seven()).unwrap();
        let values = numbers(filled.as_map().values().as_struct());
        assert_eq!(values, [Some(7), None, Some(7)]);
    }
}
