//! `skep_shape(value, typed null)`: the value with the names of fields that the type says, matched by position.
//! `skep_fit(value, typed null)`: the value with the fields that the type says, matched by name, NULL for those it lacks.
//!
//! A column keeps the names that its fields had first in files; queries see those of today. A cast between structs goes by
//! name, and would give NULL. One between maps goes by name only while no field is lacking, and by position else.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

static SHAPE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| new(Match::Position));
static FIT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| new(Match::Name));

pub(super) fn functions() -> [Arc<ScalarUDF>; 2] {
    [Arc::clone(&SHAPE), Arc::clone(&FIT)]
}

fn new(by: Match) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Shape { by, signature: Signature::any(2, Volatility::Immutable) }))
}

/// `value` under the names of `field`.
pub(crate) fn shape(value: Arc<dyn PhysicalExpr>, field: &FieldRef) -> Result<Arc<dyn PhysicalExpr>> {
    call(&SHAPE, value, field)
}

/// `value` with the fields that `field` has inside.
pub(crate) fn fit(value: Arc<dyn PhysicalExpr>, field: &FieldRef) -> Result<Arc<dyn PhysicalExpr>> {
    call(&FIT, value, field)
}

fn call(
    function: &Arc<ScalarUDF>,
    value: Arc<dyn PhysicalExpr>,
    field: &FieldRef,
) -> Result<Arc<dyn PhysicalExpr>> {
    let null = Arc::new(Literal::new(ScalarValue::try_from(field.data_type())?));
    let options = Arc::new(ConfigOptions::default());
    let (name, function) = (function.name().to_owned(), Arc::clone(function));
    Ok(Arc::new(ScalarFunctionExpr::new(&name, function, vec![value, null], Arc::clone(field), options)))
}

/// How fields of a value are matched with those of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Match {
    Position,
    Name,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Shape {
    by: Match,
    signature: Signature,
}

impl ScalarUDFImpl for Shape {
    fn name(&self) -> &str {
        match self.by {
            Match::Position => "skep_shape",
            Match::Name => "skep_fit",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        arguments.get(1).cloned().ok_or_else(|| internal_datafusion_err!("{} takes a type", self.name()))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [value, ty] = args.arg_fields else {
            return Err(internal_datafusion_err!("{} takes a value and a type", self.name()));
        };
        Ok(Arc::new(Field::new(self.name(), ty.data_type().clone(), value.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ty = args.return_field.data_type();
        let (array, scalar) = match &args.args[0] {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let shaped = match self.by {
            Match::Position => crate::write::conform_array(&array, ty),
            Match::Name => by_name(&array, ty),
        };
        let shaped = shaped.map_err(DataFusionError::from)?;
        if scalar {
            return ScalarValue::try_from_array(&shaped, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(shaped))
    }
}

/// `array` as `wanted` says: the fields of structs by their names, at every depth.
fn by_name(array: &ArrayRef, wanted: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    if array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), wanted) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let parts = array.as_struct();
            let columns = fields.iter().map(|field| match parts.column_by_name(field.name()) {
                Some(column) => by_name(column, field.data_type()),
                None => Ok(new_null_array(field.data_type(), parts.len())),
            });
            let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
            let nulls = parts.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, parts.len())?))
        }
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = by_name(list.values(), element.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?))
        }
        (DataType::Map(..), DataType::Map(entries, ordered)) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(ArrowError::CastError(format!("{wanted} is no map")));
            };
            let map = array.as_map();
            // The key and the value have other names in files of some engines.
            let columns =
                pair.iter().zip([map.keys(), map.values()]).map(|(f, column)| by_name(column, f.data_type()));
            let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
            let pairs = StructArray::try_new(pair.clone(), columns, None)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, pairs, nulls, *ordered)?))
        }
        _ => cast_with_options(array, wanted, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}
