//! `skep_shape(value, typed null)`: the value with the names of fields that the type says, matched by position.
//!
//! A column keeps the names that its fields had first in files; queries see those of today. A cast between structs goes by
//! name, and would give NULL.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

const NAME: &str = "skep_shape";

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(Shape { signature: Signature::any(2, Volatility::Immutable) }))
});

pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// `value` under the names of `field`.
pub(crate) fn shape(value: Arc<dyn PhysicalExpr>, field: &FieldRef) -> Result<Arc<dyn PhysicalExpr>> {
    let null = Arc::new(Literal::new(ScalarValue::try_from(field.data_type())?));
    let options = Arc::new(ConfigOptions::default());
    Ok(Arc::new(ScalarFunctionExpr::new(NAME, function(), vec![value, null], Arc::clone(field), options)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Shape {
    signature: Signature,
}

impl ScalarUDFImpl for Shape {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        arguments.get(1).cloned().ok_or_else(|| internal_datafusion_err!("{NAME} takes a type"))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [value, ty] = args.arg_fields else {
            return Err(internal_datafusion_err!("{NAME} takes a value and a type"));
        };
        Ok(Arc::new(Field::new(NAME, ty.data_type().clone(), value.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ty = args.return_field.data_type();
        let (array, scalar) = match &args.args[0] {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let shaped = crate::write::conform_array(&array, ty).map_err(DataFusionError::from)?;
        if scalar {
            return ScalarValue::try_from_array(&shaped, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(shaped))
    }
}
