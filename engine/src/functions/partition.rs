//! `skep_partition(value, transform)`: the value of a partition key, so that rows of one partition meet.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use skep_catalog::Transform;

use crate::error;

const NAME: &str = "skep_partition";

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(Partition { signature: Signature::any(2, Volatility::Immutable) }))
});

pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// What `transform` makes of `value`.
pub(crate) fn partition(value: Arc<dyn PhysicalExpr>, transform: Transform) -> Arc<dyn PhysicalExpr> {
    if transform == Transform::Identity {
        return value;
    }
    let name = Arc::new(Literal::new(ScalarValue::from(transform.to_string())));
    let field = Arc::new(Field::new(NAME, DataType::Int32, true));
    let options = Arc::new(ConfigOptions::default());
    Arc::new(ScalarFunctionExpr::new(NAME, function(), vec![value, name], field, options))
}

/// As [`partition`], in a logical plan.
pub(crate) fn partition_of(value: Expr, transform: Transform) -> Expr {
    if transform == Transform::Identity {
        return value;
    }
    function().call(vec![value, lit(transform.to_string())])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Partition {
    signature: Signature,
}

impl ScalarUDFImpl for Partition {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int32)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(NAME, DataType::Int32, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let transform = match args.args.get(1) {
            Some(ColumnarValue::Scalar(value)) => value.try_as_str().flatten().and_then(|t| t.parse().ok()),
            _ => None,
        };
        let transform: Transform =
            transform.ok_or_else(|| internal_datafusion_err!("{NAME} takes a transform"))?;
        let values = args.args[0].to_array(args.number_rows)?;
        crate::write::apply(transform, &values).map(ColumnarValue::Array).map_err(error::to_datafusion)
    }
}
